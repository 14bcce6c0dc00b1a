"""Standings: the leaderboard, what a parameter does, the final, against counts by hand."""

import statistics

import pytest

import standings
from trials import THE_SHEETS, Architecture

WIDE = THE_SHEETS._replace(n_features_2=64)
ENCODER = THE_SHEETS._replace(model="encoder")


def row(architecture, passes, seed, accuracy, judged_on="validation", error=""):
    """Return a row as Trials has it."""
    row = {"judged_on": judged_on, **architecture._asdict(), "passes": passes, "seed": seed}
    row |= {"accuracy": accuracy, "loss": 0.1, "error": error, "mflop": 38.5, "n_parameters": 1000}
    return row | {"seconds": 10.0 * passes, "elapsed": 1.0}


ROWS = [
    row(THE_SHEETS, 1 / 3, 0, 0.97),
    row(WIDE, 1 / 3, 0, 0.98),
    row(ENCODER, 1 / 3, 0, 0.95),
    row(THE_SHEETS, 1.0, 0, 0.985),
    row(WIDE, 1.0, 0, 0.992),
    row(WIDE, 1.0, 1, 0.994),
    row(WIDE, 1.0, 2, None, error="training diverged"),
    row(WIDE, 1.0, 0, 0.5, judged_on="test"),
]


def test_the_leaderboard_has_each_architectures_longest_trials():
    board = standings.leaderboard(ROWS)
    assert [(entry["passes"], entry["n"]) for entry in board] == [(1, 2), (1, 1), (1 / 3, 1)]
    assert [standings.name(entry) for entry in board] == [str(each) for each in (WIDE, THE_SHEETS, ENCODER)]
    assert board[0]["mean"] == pytest.approx(0.993)
    assert board[0]["sd"] == pytest.approx(statistics.stdev([0.992, 0.994]))
    assert board[0]["seconds"] == pytest.approx(10)  # a pass


def test_a_report_compares_values_only_where_all_were_trained_alike(tmp_path, capsys):
    standings.report(ROWS, tmp_path, "stripes")
    out = capsys.readouterr().out
    assert "1 99.30% ± 0.14 (2) 1 epoch 1,000 38.5 10.0 resnet 3 blocks 32/64" in " ".join(out.split())
    assert "mean validation accuracy after 1/3 epoch, by value" in out
    assert "model         encoder: 95.00%, resnet: 97.50%  (2.50 points apart)" in out
    assert "n_features_2  32: 96.00%, 64: 98.00%  (2.00 points apart)" in out
    assert "n_blocks" not in out.split("by value")[1]  # which did not vary
    assert (tmp_path / "costs.png").exists()


def test_a_report_of_nothing_is_nothing(tmp_path, capsys):
    standings.report([row(WIDE, 1.0, 0, None, error="out of memory")], tmp_path, "stripes")
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_final_compares_the_seeds_that_both_had(capsys):
    rows = [row(WIDE, 1.0, seed, 0.990 + 0.001 * seed, "test") for seed in range(3)]
    rows += [row(THE_SHEETS, 1.0, seed, 0.980 + 0.001 * seed, "test") for seed in range(2)]
    rows += [row(THE_SHEETS, 3.0, 2, 0.5, "test"), row(THE_SHEETS, 1.0, 2, 0.5)]
    standings.print_final(rows, WIDE, THE_SHEETS, 1.0)
    out = capsys.readouterr().out
    assert "after 1 epoch on all training images, mean ± sd of 2 seeds" in out
    assert f"the winner    99.05 ± 0.07 %  {WIDE}" in out
    assert f"the sheet's   98.05 ± 0.07 %  {THE_SHEETS}" in out
    assert "difference    +1.00 ± 0.00 points" in out


def test_a_final_without_time_or_without_a_rival_says_so(capsys):
    standings.print_final([], WIDE, THE_SHEETS, 1.0)
    assert "not measured: the time was up" in capsys.readouterr().out
    rows = [row(THE_SHEETS, 1.0, seed, 0.99, "test") for seed in range(5)]
    standings.print_final(rows, THE_SHEETS, THE_SHEETS, 1.0)
    out = capsys.readouterr().out
    assert "the winner is the sheet's own architecture" in out
    assert "mean ± sd of 5 seeds" in out


def test_a_rung_tells_its_best_and_its_failures(capsys):
    rows = [
        row(WIDE, 1.0, 0, 0.99),
        row(ENCODER, 1.0, 0, 0.98),
        row(THE_SHEETS, 1.0, 0, None, error="diverged"),
    ]
    standings.print_rung("rung 2 of 4", (1.0, 3, 1), rows)
    standings.print_rung("rung 3 of 4", (5 / 3, 2, 3), None)
    assert capsys.readouterr().out.splitlines() == [
        f"rung 2 of 4: 3 architectures for 1 epoch: 98.00% to 99.00%, the best {WIDE}, "
        "1 failed (see error in results.csv)",
        "rung 3 of 4: 2 architectures for 5/3 epochs, 3 seeds: the time is up, so it does not count",
    ]


def test_a_rows_name_is_its_architectures():
    architecture = Architecture("encoder", 2, 16, 64, 144, 72)
    assert (
        standings.name(row(architecture, 1.0, 0, 0.9)) == str(architecture) == "encoder 2 blocks 16/64 144/72"
    )
