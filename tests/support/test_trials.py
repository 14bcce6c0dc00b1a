"""The table of a search's trials: what it remembers, whose turn it is, and what is left to pay."""

import math
from pathlib import Path

from support import trials
from support.console import UserError
from support.files import read_csv, write_csv
from support.trials import THE_SHEETS, Architecture, Trial, Trials

import pytest
from conftest import small_settings, stripes
from hypothesis import given
from hypothesis import strategies as st

CANDIDATES = [Architecture("resnet", 1, n, 2, 4, 4) for n in range(2, 26)]
SIZES = {each: (float(each.n_features_1), 100) for each in [*CANDIDATES, THE_SHEETS]}
BRIEF = [Trial("validation", each, 1 / 3, 0) for each in CANDIDATES]
RUNGS = [(1 / 3, 24, 1), (3.0, 5, 1), (3.0, 3, 2)]


class Trainer:
    """Stands for what trains: each training takes a second by a clock of our own."""

    def __init__(self, monkeypatch, error=None):
        self.seconds, self.trained, self.error = 0.0, [], error
        monkeypatch.setattr(trials, "clock", lambda: self.seconds)

    def train(self, trial, learned, judged, settings, task):
        self.seconds += 1
        self.trained.append((trial, len(learned), len(judged), task))
        if self.error:
            raise self.error
        return 0.5, 0.25


def make_trials(folder=Path("no folder"), train=None):
    """Return Trials on small data, of which an image costs a hundredth of a second."""
    data = trials.split_off(stripes(120), stripes(30, seed=1))
    made = Trials(folder / "results.csv", data, small_settings(seed=0), SIZES, train, THE_SHEETS, 5)
    made.cost = dict.fromkeys(SIZES, 0.01)
    return made


# ---------------------------------------------------------------- the memory


def test_the_images_held_out_are_a_sixth_and_no_others():
    learned, held_out = trials.split_off(stripes(120), stripes(30))["validation"]
    assert (len(learned), len(held_out)) == (100, 20)
    assert {*learned.ids, *held_out.ids} == set(stripes(120).ids)


def test_a_trial_is_trained_on_its_images_and_becomes_a_row(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    table = make_trials(tmp_path, trainer.train)
    asked = [Trial("validation", CANDIDATES[0], 1.0, 0), Trial("test", CANDIDATES[1], 2.0, 3)]
    rows = table.run(asked, "rung 1", math.inf, 0)
    (_, *validated), (_, *tested) = trainer.trained
    assert validated[:2] == [100, 20]
    assert tested[:2] == [120, 30]
    assert validated[2].startswith(f"{CANDIDATES[0]}, rung 1, 1 of 2, about ")
    results = {"accuracy": 0.5, "loss": 0.25, "error": "", "mflop": 3.0, "n_parameters": 100}
    expected = {"judged_on": "test", **CANDIDATES[1]._asdict(), "passes": 2.0, "seed": 3, **results}
    assert rows[1] == {**expected, "seconds": 1, "elapsed": 2}
    assert list(rows[1]) == list(trials.COLUMNS)


def test_what_is_in_the_table_is_not_trained_again(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    rows = make_trials(tmp_path, trainer.train).run(BRIEF[:5], "five", math.inf, 0)
    with open(tmp_path / "results.csv", "a") as file:
        file.write("validation,resnet,1,")  # as if a kill had come while a line was written
    trainer.seconds = 1000  # another day
    table = make_trials(tmp_path, trainer.train)
    assert table.seconds() == pytest.approx(5, abs=0.1)
    assert table.run(BRIEF, "all", math.inf, 0)[:5] == rows
    assert sorted(trial for trial, *_ in trainer.trained) == sorted(BRIEF)
    assert make_trials(tmp_path).rows == table.rows


@pytest.mark.parametrize("column", trials.COLUMNS)
def test_a_table_without_one_of_its_columns_is_no_table_of_trials(tmp_path, monkeypatch, column):
    make_trials(tmp_path, Trainer(monkeypatch).train).run(BRIEF[:1], "one", math.inf, 0)
    table = tmp_path / "results.csv"
    table.write_text(table.read_text().replace(column, "another", 1))
    with pytest.raises(UserError, match="has a line that is no trial"):
        make_trials(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "", "high"])
@pytest.mark.parametrize("column", ["accuracy", "passes", "elapsed"])
def test_a_table_in_which_a_number_is_none_is_no_table_of_trials(tmp_path, monkeypatch, column, value):
    make_trials(tmp_path, Trainer(monkeypatch).train).run(BRIEF[:1], "one", math.inf, 0)
    table = tmp_path / "results.csv"
    (row,) = read_csv(table)
    write_csv(table, [row | {column: value}])
    with pytest.raises(UserError, match="has a line that is no trial"):
        make_trials(tmp_path)


@pytest.mark.parametrize("error", [UserError("diverged"), RuntimeError("CUDA out of memory"), MemoryError()])
def test_a_training_that_fails_is_a_row_that_says_why(tmp_path, monkeypatch, error):
    table = make_trials(tmp_path, Trainer(monkeypatch, error).train)
    before = table.seconds_for(BRIEF[1:])
    (row,) = table.run(BRIEF[:1], "one", math.inf, 0)
    assert (row["accuracy"], row["loss"]) == (None, None)
    assert row["error"] == (str(error) or "MemoryError")
    assert table.seconds_for(BRIEF[1:]) == before  # how soon it failed tells nothing of the pace
    assert make_trials(tmp_path).rows == {BRIEF[0]: row}


def test_a_mistake_of_ours_is_not_taken_for_a_training_that_failed(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        make_trials(tmp_path, trainer.train).run(BRIEF, "all", math.inf, 0)


# ---------------------------------------------------------------- the turns


@given(st.lists(st.sampled_from(BRIEF), unique=True), st.integers(1, 5))
def test_every_trial_has_one_turn_and_the_costly_ones_are_first(asked, n_processes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "n_processes", lambda: n_processes)
        turns = make_trials().turns(asked)
    in_turn = [trial for turn in turns for trial in turn]
    assert in_turn == sorted(asked, key=lambda trial: -trial.architecture.n_features_1)
    assert all(len(turn) == n_processes for turn in turns[:-1])
    assert all(0 < len(turn) <= n_processes for turn in turns)


def test_no_trial_begins_that_would_end_after_the_deadline(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    table = make_trials(tmp_path, trainer.train)
    asked = [Trial("validation", each, 1.0, 0) for each in CANDIDATES]  # 1.07 s each by the measured speed
    assert table.run(asked, "all", 4.5, 0) is None
    assert len(trainer.trained) == len(table.rows) == 4  # as a second each is what they took
    assert table.run(asked, "all", 24.01, 0) is not None


def test_between_short_trials_there_is_progress_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials.Progress, "due", lambda self: True)
    table = make_trials(tmp_path, Trainer(monkeypatch).train)
    table.run([Trial("validation", each, 1.0, 0) for each in CANDIDATES[:2]], "rung 1", math.inf, 60)
    assert capsys.readouterr().out.splitlines() == [
        "rung 1, 1 of 2, about 1 min 02 s left",
        "rung 1, 2 of 2, about 1 min 01 s left, best 50.00%",
    ]


# ---------------------------------------------------------------- the budget


def test_processes_that_share_the_trials_need_as_long_as_their_turns(monkeypatch):
    table = make_trials()  # of RUNGS: 24 brief and 5 full trainings, and 3 more
    alone, _ = table.seconds_needed(CANDIDATES, RUNGS, 3)
    monkeypatch.setattr(trials, "n_processes", lambda: 4)
    search_seconds, final_seconds = table.seconds_needed(CANDIDATES, RUNGS, 3)
    # Turns of four: six brief ones, then two, one and, in the final, three full ones.
    assert search_seconds == pytest.approx(0.01 * (100 * (6 / 3 + 3 * 3) + 20 / 3 * (6 + 3 * 3)))
    assert final_seconds == pytest.approx(0.01 * 3 * (120 * 3 + 30 / 3 * 3))
    assert search_seconds < alone / 2


def test_the_costliest_are_supposed_to_go_on_and_the_final_is_as_long_as_the_last_rung():
    table = make_trials()
    table.cost = {each: 0.001 * each.n_features_1 for each in SIZES}
    search_seconds, final_seconds = table.seconds_needed(CANDIDATES, RUNGS, 3)
    brief, full, last = ([*range(2, 26)], [*range(21, 26)], [*range(23, 26)])  # by their first features
    thirds = 100 / 3 + 20 / 3, 300 + 60 / 3  # images of a brief and of a full training
    expected = 0.001 * (thirds[0] * sum(brief) + thirds[1] * (sum(full) + sum(last)))
    assert search_seconds == pytest.approx(expected)
    of_final = 0.001 * 5 * (25 + THE_SHEETS.n_features_1) * (360 + 90 / 3)
    assert final_seconds == pytest.approx(of_final)
    table.seconds = lambda: 1.0
    for spare, enough in ((0.01, True), (-0.01, False)):
        budget = 1 + search_seconds + final_seconds + spare
        plans = [(CANDIDATES, RUNGS), (CANDIDATES[:2], [(1 / 3, 2, 1)])]
        assert (table.affordable(plans, budget) == plans[0]) == enough


def test_what_is_trained_already_needs_no_time(tmp_path, monkeypatch):
    table = make_trials(tmp_path, Trainer(monkeypatch).train)
    before, final = table.seconds_needed(CANDIDATES, RUNGS[:1], 1)
    assert before > 0
    table.run(BRIEF, "all", math.inf, 0)
    table.expected = 0  # the machine's pace is another matter
    assert table.seconds_needed(CANDIDATES, RUNGS[:1], 1) == (0, pytest.approx(final))


def test_what_is_left_takes_longer_where_the_last_trials_did(tmp_path, monkeypatch):
    table = make_trials(tmp_path, Trainer(monkeypatch).train)
    before = table.seconds_for(BRIEF[5:])
    expected = table.seconds_of(BRIEF[0])  # of all the same; they will have taken a second each
    table.run(BRIEF[:5], "five", math.inf, 0)
    assert table.seconds_for(BRIEF[5:]) == pytest.approx(before / expected)


def test_the_cost_of_an_image_is_a_line_through_two_measurements():
    table, measured = make_trials(), []

    def seconds_an_image(architecture, data, settings):
        measured.append(architecture)
        if len(measured) == 2:  # the costliest
            raise MemoryError
        assert (len(data), settings) == (100, table.settings)
        return 0.1 * architecture.n_features_1**2

    table.measure_speed(seconds_an_image)
    cheapest, *_, costlier, costliest = sorted([*CANDIDATES, THE_SHEETS], key=lambda each: SIZES[each][0])
    assert measured == [cheapest, costliest, costlier]
    assert table.cost[cheapest] == pytest.approx(0.1 * 2**2)
    assert table.cost[costlier] == pytest.approx(0.1 * 25**2)
    slope = 0.1 * (25**2 - 2**2) / (25 - 2)
    assert table.cost[CANDIDATES[9]] == pytest.approx(0.4 + slope * (CANDIDATES[9].n_features_1 - 2))
    assert table.cost[costliest] == pytest.approx(0.4 + slope * 30)


def test_a_cheap_network_that_is_slow_makes_no_costly_one_free():
    table = make_trials()
    table.measure_speed(lambda architecture, data, settings: 1 / architecture.n_features_1)
    assert set(table.cost.values()) == {1 / 2}
    table.sizes = {THE_SHEETS: (38.5, 71_000)}
    table.measure_speed(lambda architecture, data, settings: 3)
    assert table.cost == {THE_SHEETS: 3}
