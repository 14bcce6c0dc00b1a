"""Replays: the table is what the search left, and every strategy is judged by it alone."""

import itertools
import math
import random
import statistics

from support import files
from support.trials import Architecture

import pytest

from studies import search_replay

ALL = [
    Architecture(*each, 144, 72)
    for each in itertools.product(("encoder", "resnet"), (2, 3, 4), (16, 32), (32, 64))
]


def quality(architecture):
    """Return what an architecture is worth: the widest ResNet with three blocks the most."""
    model, n_blocks, n_features_1, n_features_2, *_ = architecture
    return (
        0.99 + 0.002 * (model == "resnet") - 0.001 * abs(n_blocks - 3) + (n_features_1 + n_features_2) / 1e5
    )


@pytest.fixture
def grid(tmp_path):
    """A results.csv of a grid of ALL, three lengths, three seeds; the test set's rows are in it too."""
    file, rows = tmp_path / "grid.csv", []
    for architecture, passes, seed in itertools.product(ALL, (1 / 3, 1.0, 3.0), range(3)):
        accuracy = quality(architecture) - 0.01 / passes + 0.0001 * seed
        row = {"judged_on": "validation", **architecture._asdict(), "passes": passes, "seed": seed}
        row |= {"accuracy": accuracy, "loss": 0.1, "error": "", "n_parameters": 1, "seconds": 1, "elapsed": 1}
        rows.append(row | {"mflop": 0.5 * (architecture.n_features_1 + architecture.n_features_2)})
    files.write_csv(file, [*rows, row | {"judged_on": "test", "accuracy": 1.0, "mflop": 1}])
    return file


def test_the_table_holds_the_validation_accuracies(grid):
    table = search_replay.read_table(grid)
    assert set(table.mflop) == set(ALL)
    assert table.lengths == (1 / 3, 1, 3)
    best = Architecture("resnet", 3, 32, 64, 144, 72)
    assert max(ALL, key=table.mean) == best
    assert table.mean(best) == pytest.approx(100 * (quality(best) - 0.01 / 3 + 0.0001))
    assert table.whole_cost() == pytest.approx(9 * sum(table.mflop.values()) * (1 + 1 / 15))  # with the tests
    head, *lines = grid.read_text().splitlines(keepends=True)
    grid.write_text("".join([head, *reversed(lines)]))
    assert search_replay.read_table(grid).accuracies == table.accuracies  # seeds in their own order


def test_a_pick_is_judged_by_the_seed_that_the_strategy_did_not_see(grid):
    table, seen, each = search_replay.read_table(grid), [], ALL[7]

    def strategy(table, rng, budget):
        seen.append({passes: table.accuracies[each, passes] for passes in table.lengths})
        return each, budget + len(seen)

    accuracies, cost = search_replay.judged(table, strategy, 2, 10)
    assert cost == pytest.approx(13.5)  # of 11 to 16
    for held_out, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        for of_one in seen[2 * held_out : 2 * held_out + 2]:
            for passes, own in of_one.items():
                assert own == [table.accuracies[each, passes][seed] for seed in others]
        assert accuracies[held_out] == [100 * table.accuracies[each, 3][held_out]] * 2


def test_luck_gains_nothing(grid, capsys):
    """Three equally good networks, each of which had luck with another seed, in all lengths."""
    rows = files.read_csv(grid)
    for row in rows[:-1]:
        lucky = row["model"] == "encoder" and row["n_features_2"] == row["n_features_1"] == "32"
        row["accuracy"] = 1.0 if lucky and int(row["n_blocks"]) == 2 + int(row["seed"]) else 0.9
    files.write_csv(grid, rows)
    search_replay.main([str(grid), "--replays", "100"])
    ours, at_random, in_full = capsys.readouterr().out.splitlines()[-3:]
    assert float(ours.split()[1]) < 90.5  # now and then the one that is lucky with the held-out seed
    assert float(at_random.split()[2]) < 90.5
    assert in_full.split()[:6] == ["all", "in", "full", "90.000", "±", "0.000"]


@pytest.mark.parametrize("seed", range(5))
def test_our_strategy_finds_the_best_at_a_part_of_the_cost(grid, seed):
    table = search_replay.read_table(grid)
    picked, cost = search_replay.ours(table, random.Random(seed))
    assert picked == Architecture("resnet", 3, 32, 64, 144, 72)
    assert 0.1 < cost / table.whole_cost() < 0.25


def test_random_search_keeps_its_budget_and_takes_the_best_that_it_saw(grid):
    table = search_replay.read_table(grid)
    for seed in range(5):
        picked, cost = search_replay.random_search(table, random.Random(seed), 2000)
        assert 1700 < cost <= 2000
        assert picked in ALL
    everything = sum(table.cost(each, 3) for each in ALL)
    picked, cost = search_replay.random_search(table, random.Random(0), everything)
    assert (picked.model, picked.n_blocks, cost) == ("resnet", 3, pytest.approx(everything))


def test_all_in_full_takes_the_best_mean_at_the_whole_cost(grid):
    table = search_replay.read_table(grid)
    best = Architecture("resnet", 3, 32, 64, 144, 72)
    assert search_replay.all_in_full(table, None, None) == (best, table.whole_cost())
    lucky = {(ALL[0], 3.0): [1.0, 0.9, 0.9]}
    assert (
        search_replay.all_in_full(table._replace(accuracies=table.accuracies | lucky), None, None)[0] == best
    )


def test_the_command_prints_a_line_for_each(grid, capsys, monkeypatch):
    picks = itertools.cycle(ALL[-2:])  # ResNets of four blocks, 32/32 and 32/64

    def two_in_turn(table, rng, budget):
        return next(picks), budget / 2

    monkeypatch.setattr(search_replay, "random_search", two_in_turn)
    search_replay.main([str(grid), "--replays", "4"])
    *above, ours, other, in_full = capsys.readouterr().out.splitlines()
    assert above[0] == "24 architectures, 3 epochs, 4 replays for each"
    best = 100 * (quality(ALL[-5]) - 0.01 / 3 + 0.0001)
    assert ours.split()[:4] == ["search.py", f"{best:.3f}", "±", "0.000"]
    mean, sd = statistics.mean(map(quality, ALL[-2:])), statistics.stdev(2 * [*map(quality, ALL[-2:])])
    mean, error = 100 * (mean - 0.01 / 3 + 0.0001), 100 * sd / math.sqrt(12)
    assert other.split()[:5] == ["random", "search", f"{mean:.3f}", "±", f"{error:.3f}"]
    less = f"{mean - best:+.3f}"
    assert other.split()[5:9] == [less, f"({less}", less, f"{less})"]
    assert float(other.split()[-1][:-1]) == pytest.approx(float(ours.split()[-1][:-1]) / 2, abs=0.1)
    assert in_full.split()[-1] == "66.7%"  # from two seeds of three


def test_a_table_that_is_no_grid_is_refused(grid, tmp_path):
    with pytest.raises(search_replay.UserError, match="no such file"):
        search_replay.main([str(tmp_path / "none.csv")])
    lines = grid.read_text().splitlines(keepends=True)
    for missing in ("encoder,2,16,32,144,72,1.0", "encoder,2,16,32,144,72,3.0,2", ",0.33", ",2,0.9"):
        grid.write_text("".join(line for line in lines if missing not in line))
        with pytest.raises(search_replay.UserError, match="every architecture at three lengths"):
            search_replay.main([str(grid)])


def test_optuna_is_asked_for_only_where_it_is_there(grid, monkeypatch):
    monkeypatch.setattr(search_replay.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(search_replay.UserError, match="pip install optuna"):
        search_replay.main([str(grid), "--replays", "1", "--optuna"])
