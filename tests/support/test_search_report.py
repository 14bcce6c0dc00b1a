"""What a search tells: the leaderboard, what a parameter does, the final, against counts by hand."""

import statistics

from support import search_report
from support.settings import Settings
from support.trials import THE_SHEETS, Architecture, Trial

import pytest

WIDE = THE_SHEETS._replace(n_features_2=64)
ENCODER = THE_SHEETS._replace(model="encoder")


def row(architecture, passes, seed, accuracy, judged_on="validation", error=""):
    """Return a row as Trials has it."""
    row = {"judged_on": judged_on, **architecture._asdict(), "passes": passes, "seed": seed}
    row |= {"accuracy": accuracy, "loss": 0.1, "error": error, "mflop": 38.5, "n_parameters": 1000}
    return row | {"seconds": 10.0 * passes, "elapsed": 1.0}


def table(*rows):
    """Return {Trial: row} as Trials has it."""
    named = {}
    for row in rows:
        architecture = Architecture(*(row[name] for name in Architecture._fields))
        named[Trial(row["judged_on"], architecture, row["passes"], row["seed"])] = row
    return named


ROWS = table(
    row(THE_SHEETS, 1 / 3, 0, 0.97),
    row(WIDE, 1 / 3, 0, 0.98),
    row(ENCODER, 1 / 3, 0, 0.95),
    row(ENCODER._replace(n_features_2=64), 1 / 3, 0, 0.958),
    row(THE_SHEETS, 1.0, 0, 0.999),
    row(WIDE, 1.0, 0, 0.992),
    row(WIDE, 1.0, 1, 0.994),
    row(WIDE, 1.0, 2, None, error="training diverged"),
    row(WIDE, 1.0, 0, 0.5, judged_on="test"),
)


RANKED = [WIDE, THE_SHEETS, ENCODER._replace(n_features_2=64), ENCODER, THE_SHEETS._replace(n_blocks=4)]


def test_the_leaderboard_has_each_architectures_longest_trials():
    board = search_report.leaderboard(ROWS, RANKED)
    # As they are ranked: one lucky seed is not ahead of two.
    assert [(entry["passes"], entry["n"]) for entry in board] == [(1, 2), (1, 1), (1 / 3, 1), (1 / 3, 1)]
    assert [entry["architecture"] for entry in board][:2] == [WIDE, THE_SHEETS]
    assert board[3]["architecture"] == ENCODER
    assert board[0]["mean"] == pytest.approx(0.993)
    assert board[0]["sd"] == pytest.approx(statistics.stdev([0.992, 0.994]))
    assert board[0]["seconds"] == pytest.approx(10)  # a pass


def test_a_report_compares_values_only_where_all_were_trained_alike(tmp_path, capsys):
    search_report.report(ROWS, RANKED, tmp_path, "stripes")
    out = capsys.readouterr().out
    assert "1 99.30% ± 0.14 (2) 1 epoch 1,000 38.5 10.0 resnet 3 blocks 32/64" in " ".join(out.split())
    effects = out.split("what matters, after 1/3 epoch: ")[1].splitlines()[1:-1]
    assert effects == [
        "model         encoder → resnet: +2.10 ± 0.10 (standard error) in 2 pairs",
        "n_features_2  32 → 64: +0.90 ± 0.10 (standard error) in 2 pairs",
    ]  # and none of what did not vary
    assert (tmp_path / "costs.png").exists()


def test_three_seeds_of_one_pair_are_one_pair(capsys):
    rows = [row(ENCODER._replace(n_blocks=2), 1.0, 0, 0.9)]  # no other network, and below no common seed
    rows += [row(ENCODER, 1.0, 0, 0.9), row(ENCODER._replace(n_features_2=64), 1.0, 1, 0.99)]
    for n_blocks, change in ((2, 0.010), (3, 0.015), (4, 0.020)):
        narrow, wide = (each._replace(n_blocks=n_blocks) for each in (THE_SHEETS, WIDE))
        for seed, luck in enumerate((0.003, -0.001, -0.002)):
            rows += [row(narrow, 1.0, seed, 0.9), row(wide, 1.0, seed, 0.9 + change + luck)]
    rows.append(row(narrow, 1.0, 3, 0.99))  # the other network has not this seed
    search_report.print_importance(table(*rows))
    # 1.0, 1.5 and 2.0 points, whose standard deviation is 0.5: the standard error is 0.5 / √3
    line = "n_features_2  32 → 64: +1.50 ± 0.29 (standard error) in 3 pairs"
    assert line in capsys.readouterr().out.splitlines()


def test_the_final_compares_the_seeds_that_both_had(capsys):
    rows = [row(WIDE, 1.0, seed, 0.990 + 0.001 * seed, "test") for seed in range(3)]
    rows += [row(THE_SHEETS, 1.0, seed, 0.980 + 0.001 * seed, "test") for seed in range(2)]
    rows += [row(THE_SHEETS, 3.0, 2, 0.5, "test"), row(THE_SHEETS, 1.0, 2, 0.5)]
    search_report.print_final(table(*rows), WIDE, THE_SHEETS, 1.0)
    out = capsys.readouterr().out
    assert "after 1 epoch, trained on the held-out images too, mean ± sd of 2 seeds" in out
    assert f"the winner    99.05 ± 0.07 %  {WIDE}" in out
    assert f"the sheet's   98.05 ± 0.07 %  {THE_SHEETS}" in out
    assert "difference    +1.00 ± 0.00 points" in out


def test_a_final_without_time_or_without_a_rival_says_so(capsys):
    search_report.print_final({}, WIDE, THE_SHEETS, 1.0)
    assert "not judged on the test set" in capsys.readouterr().out
    rows = [row(THE_SHEETS, 1.0, seed, 0.99, "test") for seed in range(5)]
    search_report.print_final(table(*rows), THE_SHEETS, THE_SHEETS, 1.0)
    out = capsys.readouterr().out
    assert "the winner is the sheet's own architecture" in out
    assert "mean ± sd of 5 seeds" in out


def test_a_rung_tells_its_best_and_its_failures(capsys):
    rows = [
        row(WIDE, 1.0, 0, 0.99),
        row(ENCODER, 1.0, 0, 0.98),
        row(THE_SHEETS, 1.0, 0, None, error="diverged"),
    ]
    search_report.print_rung("rung 2 of 4", (1.0, 3, 1), rows)
    search_report.print_rung("rung 3 of 4", (5 / 3, 2, 3), None)
    assert capsys.readouterr().out.splitlines() == [
        f"rung 2 of 4: 3 architectures for 1 epoch: 98.00% to 99.00%, the best {WIDE}, "
        "1 failed (see error in results.csv)",
        "rung 3 of 4: 2 architectures for 5/3 epochs, 3 seeds: the time is up, so it does not count",
    ]


@pytest.mark.parametrize(("passes", "words"), [(4.0, " --epochs 4"), (0.5, ""), (1.5, "")])
def test_the_winner_is_trained_as_long_as_in_the_search_or_as_train_py_does(capsys, passes, words):
    search_report.print_next(Settings(init="xavier"), WIDE, passes)
    command = f"python train.py --model resnet --init xavier --n-features-2 64{words}"
    assert capsys.readouterr().out == f"\nnext, to train the winner: {command}\n"


def test_an_architecture_is_said_in_a_few_words():
    assert str(Architecture("encoder", 2, 16, 64, 144, 72)) == "encoder 2 blocks 16/64 144/72"
