"""The search: what it enumerates, who is promoted, what a trial trains, and that the budget holds.

test_cli.py runs it as a user does, support/test_trials.py tests the table and the turns alone.
"""

import functools
import itertools
from pathlib import Path

from support import trials
from support.console import UserError
from support.settings import Settings
from support.trials import THE_SHEETS, Architecture, Trial, Trials

import pytest
import torch
from conftest import small_settings, stripes
from hypothesis import given
from hypothesis import strategies as st

import models
import search
import train
from search import SearchOptions

# ---------------------------------------------------------------- the space

few = st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)
spaces = st.fixed_dictionaries(
    {"model": st.lists(st.sampled_from(["encoder", "resnet"]), min_size=1, unique=True)}
    | {name: few for name in Architecture._fields[1:]}
)


@given(spaces, st.integers(1, 20), st.integers(1, 20))
def test_the_loops_give_just_the_combinations_that_the_models_take(space, height, width):
    taken = []
    for combination in itertools.product(*(space[name] for name in Architecture._fields)):
        architecture = Architecture(*combination)
        make = {"encoder": models.encoder, "resnet": models.ResNet}[architecture.model]
        try:
            make(3, 1, (height, width), *architecture[1:])
        except UserError:
            continue
        taken.append(architecture)
    assert search.architectures(space, (height, width)) == taken


def test_the_default_space_holds_the_sheets_own_networks():
    architectures = search.architectures(search.SPACE, (28, 28))
    assert len(architectures) == 24
    assert {THE_SHEETS, THE_SHEETS._replace(model="encoder")} <= set(architectures)


# ---------------------------------------------------------------- the strategy


@given(st.integers(1, 200), st.sampled_from(search.LENGTHS))
def test_rungs_have_ever_fewer_architectures_and_never_shorter_trainings(n, passes):
    rungs = search.halving_rungs(n, passes)
    lengths, sizes, seeds = zip(*rungs, strict=True)
    assert (sizes[0], lengths[-1], seeds) == (n, passes, (1, 1, 2))
    assert list(sizes) == sorted(sizes, reverse=True)
    assert list(lengths) == sorted(lengths)
    assert min(sizes) == min(n, 3)  # the last comparison is one
    assert sizes[1] <= max(3, n / 5 + 1)
    assert lengths[0] == pytest.approx(passes / 9) or lengths[0] in (1 / 3, passes)


def test_combinations_that_leave_nothing_are_counted_where_there_are_any(capsys):
    assert len(search.candidates_for(search.SPACE, (28, 28), 10)) == 24
    assert capsys.readouterr().out == ""
    assert len(search.candidates_for(search.SPACE, (8, 8), 10)) == 16
    assert capsys.readouterr().out.startswith("8 combinations are left out")


# Accuracies that are often equal, and trials that failed.
accuracies = st.one_of(st.none(), st.integers(0, 3).map(lambda tenth: tenth / 10))


@given(st.integers(1, 12), st.data())
def test_just_the_best_of_a_rung_go_on(n, content):
    rungs, best_before, all_failed = search.halving_rungs(n, 3), [], []

    def run(number, asked):
        passes, size, n_seeds = rungs[number]
        assert [(each[1], each[2]) for each in asked] == [(passes, seed) for seed in range(n_seeds)] * size
        candidates = [each[0] for each in asked[::n_seeds]]
        if best_before:
            assert candidates == best_before[-1][: len(candidates)]
        values = content.draw(st.lists(accuracies, min_size=len(asked), max_size=len(asked)))
        mean = {}
        for candidate, *of_seeds in zip(
            candidates, *(values[i::n_seeds] for i in range(n_seeds)), strict=True
        ):
            mean[candidate] = -1 if None in of_seeds else sum(of_seeds) / n_seeds
        all_failed.append(max(mean.values()) == -1)
        # The oracle: take away the best again and again, of equal ones the one that was ahead.
        best_before.append([])
        while mean:
            best = max(mean, key=lambda name: (mean[name], -candidates.index(name)))
            best_before[-1].append(best)
            del mean[best]
        return values

    ranked = search.successive_halving(list(range(n)), rungs, run)
    assert sorted(ranked) == list(range(n))
    assert ranked[: len(best_before[-1])] == best_before[-1]
    # It ends with the last rung, or with one in which all failed, and not before.
    assert not any(all_failed[:-1])
    assert all_failed[-1] or len(all_failed) == len(rungs)


@pytest.mark.parametrize("later", [lambda n: None, lambda n: [None] * n])
def test_a_rung_for_which_there_was_no_time_or_in_which_all_failed_does_not_count(later):
    def run(number, asked):
        return [candidate / 10 for candidate, _, _ in asked] if number == 0 else later(len(asked))

    assert search.successive_halving([1, 3, 2], search.halving_rungs(3, 1), run) == [3, 2, 1]


def test_on_a_known_table_the_best_is_found():
    quality = {name: 1 - 1 / (1 + 3 * name) for name in range(27)}
    noise = torch.Generator().manual_seed(0)

    def run(number, asked):
        return [
            quality[name] * (1 - 0.1 / passes) + 1e-5 * torch.rand(1, generator=noise).item()
            for name, passes, _ in asked
        ]

    order = torch.randperm(27, generator=noise).tolist()
    assert search.successive_halving(order, search.halving_rungs(27, 9), run)[0] == 26


# ---------------------------------------------------------------- the budget


class Machine:
    """Stands for the machine: training costs time by a clock of our own, and accuracy is by design.

    Wider networks cost more, but not in proportion to their MFLOP.
    """

    def __init__(self, monkeypatch, seconds_an_image=0.01):
        self.seconds, self.seconds_an_image, self.trained = 0.0, seconds_an_image, []
        monkeypatch.setattr(trials, "clock", lambda: self.seconds)
        monkeypatch.setattr(train, "fit", self.fit)

    def fit(self, model, data, test, settings, folder=None, task=None):
        cost = self.seconds_an_image * (0.4 + 0.1 * settings.n_features_1 + 0.05 * settings.n_features_2)
        cost = min(cost, 2 * self.seconds_an_image)  # the sheet's is wide
        seconds = cost * (len(data) * settings.epochs + len(test) / 3)
        self.seconds += seconds
        self.trained.append((task, len(data), settings))
        accuracy = 0.5 + settings.n_features_1 / 100 + len(data) / 1e6
        row = {"test_accuracy": accuracy, "test_loss": 1 - accuracy, "seconds": seconds / settings.epochs}
        return settings.epochs * [row]


SMALL_SPACE = {
    "model": ["encoder", "resnet"],
    "n_blocks": [1, 2],
    "n_features_1": [2, 3, 4],
    "n_features_2": [2, 3],
    "n_fully_1": [4],
    "n_fully_2": [4],
}


@functools.cache
def small_sizes():
    """Return the sizes of SMALL_SPACE's architectures, and of the sheet's."""
    candidates = search.architectures(SMALL_SPACE, (8, 8))
    return {each: search.size_of(each, 3, (1, 8, 8)) for each in [*candidates, THE_SHEETS]}


def make_trials(folder=Path("no folder"), n_train=120):
    """Return (Trials on small data, the candidates of SMALL_SPACE)."""
    sizes = dict(small_sizes())
    candidates = [each for each in sizes if each != THE_SHEETS]
    data = trials.split_off(stripes(n_train), stripes(30, seed=1))
    arguments = (data, small_settings(), sizes, search.train_trial, THE_SHEETS, search.N_FINAL_SEEDS)
    return Trials(folder / "results.csv", *arguments), candidates


@functools.cache
def small_trials():
    """Return make_trials() without files, made once."""
    return make_trials()


def trials_on_the_test_set(bench):
    """Return the trials on the test set."""
    return [trial for trial in bench.rows if trial.judged_on == "test"]


def plan(bench, candidates, seconds):
    """Return the (entrants, rungs) that so many seconds suffice for."""
    plans = search.possible_plans(candidates, SearchOptions(), bench.settings.seed)
    return bench.affordable(plans, seconds)


@pytest.mark.parametrize("minutes", [1, 2, 4, 8])
def test_the_search_and_the_final_end_within_the_budget(tmp_path, monkeypatch, capsys, minutes):
    machine = Machine(monkeypatch)
    bench, candidates = make_trials(tmp_path)
    winner = search.search(bench, candidates, SearchOptions(minutes=minutes), tmp_path)
    assert machine.seconds <= SearchOptions(minutes=minutes).budget == 60 * minutes
    assert len(trials_on_the_test_set(bench)) == 10
    assert {trial.architecture for trial in trials_on_the_test_set(bench)} == {winner, THE_SHEETS}
    assert winner.n_features_1 == 4
    # The longest training is the longest that there was time for.
    longest = max(trial.passes for trial in bench.rows)
    for longer in [each for each in search.LENGTHS if each > longest]:
        fresh, _ = small_trials()
        fresh.cost, rungs = bench.cost, search.halving_rungs(24, longer)
        measuring = 7  # seconds, of the speed
        assert measuring + sum(fresh.seconds_needed(candidates, rungs, longer)) > 60 * minutes
    out = capsys.readouterr().out
    assert "no spread to judge by" in out  # as all seeds are alike here
    first = out.split("architecture\n")[1].splitlines()[0]  # of the leaderboard
    assert str(winner) in first
    assert "chosen at random" not in out


def test_where_there_is_not_the_time_for_all_some_are_chosen_and_that_is_said(tmp_path, monkeypatch, capsys):
    machine = Machine(monkeypatch)
    bench, candidates = make_trials(tmp_path)
    search.search(bench, candidates, SearchOptions(minutes=1 / 3), tmp_path)
    assert machine.seconds <= 1.05 * 20
    n = len({trial.architecture for trial in bench.rows if trial.judged_on == "validation"})
    assert 2 <= n < 24
    assert f"only {n} of 24, chosen at random" in capsys.readouterr().out


@pytest.mark.parametrize("slower", [1.3, 4])
def test_a_machine_that_becomes_slow_cuts_the_search_short_and_not_the_final(
    tmp_path, monkeypatch, capsys, slower
):
    machine = Machine(monkeypatch)
    bench, candidates = make_trials(tmp_path)
    fit = machine.fit

    def slow(*arguments, **options):
        if len(machine.trained) == 20:
            machine.seconds_an_image *= slower
        return fit(*arguments, **options)

    monkeypatch.setattr(train, "fit", slow)
    search.search(bench, candidates, SearchOptions(minutes=2), tmp_path)
    assert machine.seconds <= 1.1 * 120
    assert "the time is up, so it does not count" in capsys.readouterr().out
    assert len(trials_on_the_test_set(bench)) >= {1.3: 10, 4: 2}[slower]


def test_a_machine_that_is_slow_from_the_start_has_nothing_to_compare(tmp_path, monkeypatch):
    machine = Machine(monkeypatch)
    bench, candidates = make_trials(tmp_path)
    fit = machine.fit

    def slow(*arguments, **options):
        machine.seconds_an_image *= 10 if len(machine.trained) == 3 else 1
        return fit(*arguments, **options)

    monkeypatch.setattr(train, "fit", slow)
    with pytest.raises(UserError, match="no architecture could be compared: the time is up"):
        search.search(bench, candidates, SearchOptions(minutes=2), tmp_path)


def spread_costs(bench, least, seconds_a_mflop):
    """Set the seconds an image of all architectures."""
    bench.cost = {each: least + seconds_a_mflop * mflop for each, (mflop, _) in bench.sizes.items()}


@given(st.floats(1e-4, 10), st.integers(1, 24), st.floats(0, 5000))
def test_the_minutes_that_a_refusal_suggests_will_do(cost, n, spent):
    bench, candidates = small_trials()
    spread_costs(bench, cost, cost)
    bench.started = trials.clock() - spent
    try:
        plan(bench, candidates[:n], 30)
        return
    except UserError as error:
        minutes = int(str(error).split("try --minutes ")[1].split(",")[0])
    entrants, rungs = plan(bench, candidates[:n], 60 * minutes)
    assert len(entrants) >= min(n, 2)
    assert bench.seconds() + sum(bench.seconds_needed(entrants, rungs, rungs[-1][0])) < 60 * minutes


@given(st.floats(20, 1000))
def test_more_time_never_buys_less(seconds):
    bench, candidates = small_trials()
    spread_costs(bench, 0.001, 0.01)
    bench.started = trials.clock()
    entrants, rungs = plan(bench, candidates, seconds)
    more, longer = plan(bench, candidates, 1.5 * seconds)
    assert (len(entrants), rungs[-1][0]) <= (len(more), longer[-1][0])


def test_fewer_entrants_are_chosen_by_the_seed_and_keep_their_order():
    _, candidates = small_trials()
    options = SearchOptions(epochs=1)
    plans, same, others = (list(search.possible_plans(candidates, options, seed)) for seed in (0, 0, 1))
    assert plans == same != others
    assert [len(entrants) for entrants, _ in plans] == list(range(24, 1, -1))
    for entrants, rungs in plans:
        assert entrants == [candidate for candidate in candidates if candidate in entrants]
        assert rungs == search.halving_rungs(len(entrants), 1)


def test_a_search_that_goes_on_keeps_its_plan_whatever_the_speed_is_now(tmp_path, monkeypatch):
    machine = Machine(monkeypatch)
    bench, candidates = make_trials(tmp_path)
    winner = search.search(bench, candidates, SearchOptions(minutes=2), tmp_path)
    machine.seconds_an_image *= 5
    machine.trained.clear()
    again, _ = make_trials(tmp_path)
    assert search.search(again, candidates, SearchOptions(minutes=2), tmp_path) == winner
    assert [task for task, *_ in machine.trained] == 2 * ["measuring the speed"]
    assert again.rows == bench.rows


def test_a_grid_trains_every_architecture_at_every_length(tmp_path, monkeypatch, capsys):
    Machine(monkeypatch)
    bench, candidates = make_trials(tmp_path)
    search.search(bench, candidates, SearchOptions(grid=True), tmp_path)
    judged = {trial for trial in bench.rows if trial.judged_on == "validation"}
    lengths = (1 / 3, 1.0, 3.0)
    expected = itertools.product(["validation"], candidates, lengths, range(3))
    assert judged == set(itertools.starmap(Trial, expected))
    assert "24 for 1/3 epoch from 3 seeds, then 24 for 1 epoch from 3 seeds" in capsys.readouterr().out


# ---------------------------------------------------------------- trainings that fail

ERRORS = [UserError("training diverged"), RuntimeError("CUDA out of memory"), MemoryError()]


@pytest.mark.parametrize("error", ERRORS)
def test_a_trial_that_fails_is_a_line_and_not_the_end(tmp_path, monkeypatch, capsys, error):
    machine = Machine(monkeypatch)
    fit = machine.fit

    def fail_where_wide(model, data, test, settings, task=None):
        if settings.n_features_1 > 3:  # the costliest, whose speed is measured first, among them
            raise error
        return fit(model, data, test, settings, task=task)

    monkeypatch.setattr(train, "fit", fail_where_wide)
    bench, candidates = make_trials(tmp_path)
    winner = search.search(bench, candidates, SearchOptions(minutes=10), tmp_path)
    assert winner.n_features_1 == 3
    failed = [trial for trial, row in bench.rows.items() if row["error"] and trial.judged_on == "validation"]
    assert {trial.architecture.n_features_1 for trial in failed} == {4}
    assert len(failed) == 8  # once, in the first rung
    out = capsys.readouterr().out
    assert "8 failed (see error in results.csv)" in out
    assert "not judged on the test set: there was not the time, or the training failed" in out
    again, _ = make_trials(tmp_path)  # from the file
    assert again.rows == bench.rows


def test_where_all_fail_the_reason_is_said(tmp_path, monkeypatch):
    machine = Machine(monkeypatch)
    fit = machine.fit

    def fail(model, data, test, settings, task=None):
        if task != "measuring the speed":
            raise UserError("training diverged")
        return fit(model, data, test, settings, task=task)

    monkeypatch.setattr(train, "fit", fail)
    bench, candidates = make_trials(tmp_path)
    with pytest.raises(UserError, match="no architecture could be compared: training diverged"):
        search.search(bench, candidates, SearchOptions(minutes=10), tmp_path)


# ---------------------------------------------------------------- what is trained


@pytest.mark.parametrize(
    ("passes", "judged_on", "n_images", "epochs"),
    [
        (1 / 3, "validation", 33, 1),
        (1, "validation", 100, 1),
        (5 / 3, "validation", 83, 2),
        (5, "validation", 100, 5),
        (2, "test", 120, 2),
    ],
)
def test_a_brief_trial_sees_few_images_and_the_final_all_of_them(
    monkeypatch, passes, judged_on, n_images, epochs
):
    machine = Machine(monkeypatch)
    bench, _ = small_trials()
    trial = Trial(judged_on, THE_SHEETS, passes, 4)
    accuracy, loss = search.train_trial(trial, *bench.data[judged_on], small_settings(n_blocks=1), "rung 1")
    ((task, n, settings),) = machine.trained
    assert (task, n, settings.epochs, settings.seed) == ("rung 1", n_images, epochs, 4)
    assert Architecture(*(getattr(settings, name) for name in Architecture._fields)) == THE_SHEETS
    assert (accuracy, loss) == pytest.approx((0.82 + n / 1e6, 0.18 - n / 1e6))


@pytest.mark.parametrize(("epochs", "lr"), [(1, 0.005), (2, 0.003)])
def test_the_learning_rate_is_that_of_the_trials_own_length(monkeypatch, epochs, lr):
    machine = Machine(monkeypatch)
    search.train_trial(Trial("test", THE_SHEETS, epochs, 0), stripes(12), stripes(3), Settings(), "final")
    assert machine.trained[0][2].lr == lr


@pytest.mark.parametrize("passes", [0.5, 0.75, 1.5])
def test_a_broken_pass_over_sorted_images_has_all_classes_and_a_whole_one_their_order(monkeypatch, passes):
    images, learnt = stripes(120), []
    images = images.subset(images.labels.argsort(stable=True))  # as a folder is
    row = {"test_accuracy": 0.5, "test_loss": 0.5}
    monkeypatch.setattr(train, "fit", lambda model, data, *rest, **task: learnt.append(data) or [row])
    for length in (passes, 3.0):
        trial = Trial("test", THE_SHEETS, length, 0)
        search.train_trial(trial, images, stripes(30, seed=1), small_settings(), "final")
    part, whole = learnt
    assert whole.ids == images.ids
    assert len(set(part.ids)) == len(part) == len(whole) * passes / round(passes + 0.01)
    counts = torch.bincount(part.labels, minlength=3)
    assert counts.min() > len(part) / 5  # the first half of them had 40, 20 and none


def test_the_speed_is_that_of_the_second_epoch_on_a_few_images(monkeypatch):
    history = [{"seconds": 9.0}, {"seconds": 2.0}]
    n_images = []
    monkeypatch.setattr(
        train, "fit", lambda model, data, *rest, **task: n_images.append(len(data)) or history
    )
    architecture = THE_SHEETS._replace(n_blocks=1)
    assert search.seconds_an_image(architecture, stripes(100), small_settings()) == 2 / 100
    assert search.seconds_an_image(architecture, stripes(3000), small_settings()) == 2 / 2048
    assert n_images == [100, 2048]


def test_the_flops_are_those_of_a_hand_count():
    # Stem 1→2, one block 2→2→3 with its 1×1 bypass, all at 8×8; then 3·4·4 = 48 → 4 → 4 → 3.
    convolutions = 64 * 9 * (1 * 2 + 2 * 2 + 2 * 3) + 64 * 2 * 3
    linear = 48 * 4 + 4 * 4 + 4 * 3
    mflop, n_parameters = search.size_of(Architecture("resnet", 1, 2, 3, 4, 4), 3, (1, 8, 8))
    assert mflop == pytest.approx(2 * (convolutions + linear) / 1e6)
    biases = 2 + 2 + 3 + 3 + 4 + 4 + 3
    assert n_parameters == 9 * (1 * 2 + 2 * 2 + 2 * 3) + 2 * 3 + linear + biases
