"""Replays: the table is what the search left, and every strategy is judged by it alone."""

import itertools
import random

import pytest

import files
import replay
from trials import Architecture

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
    file = tmp_path / "grid.csv"
    for architecture, passes, seed in itertools.product(ALL, (1 / 3, 1.0, 3.0), range(3)):
        accuracy = quality(architecture) - 0.01 / passes + 0.0001 * seed
        row = {"judged_on": "validation", **architecture._asdict(), "passes": passes, "seed": seed}
        row |= {"accuracy": accuracy, "loss": 0.1, "error": "", "n_parameters": 1, "seconds": 1, "elapsed": 1}
        files.append_csv(file, row | {"mflop": 0.5 * (architecture.n_features_1 + architecture.n_features_2)})
    files.append_csv(file, row | {"judged_on": "test", "accuracy": 1.0, "mflop": 1})
    return file


def test_the_table_holds_the_validation_accuracies(grid):
    table = replay.read_table(grid)
    assert set(table.mflop) == set(ALL)
    assert table.lengths == (1 / 3, 1, 3)
    best = Architecture("resnet", 3, 32, 64, 144, 72)
    assert max(ALL, key=table.mean) == best
    assert table.mean(best) == pytest.approx(100 * (quality(best) - 0.01 / 3 + 0.0001))
    assert table.whole_cost() == pytest.approx(9 * sum(table.mflop.values()) * (1 + 1 / 15))  # with the tests


@pytest.mark.parametrize("seed", range(5))
def test_our_strategy_finds_the_best_at_a_part_of_the_cost(grid, seed):
    table = replay.read_table(grid)
    picked, cost = replay.ours(table, random.Random(seed))
    assert picked == Architecture("resnet", 3, 32, 64, 144, 72)
    assert 0.1 < cost / table.whole_cost() < 0.25


def test_random_search_keeps_its_budget_and_takes_the_best_that_it_saw(grid):
    table = replay.read_table(grid)
    for seed in range(5):
        picked, cost = replay.random_search(table, random.Random(seed), 2000)
        assert 1700 < cost <= 2000
        assert picked in ALL
    everything = sum(table.cost(each, 3) for each in ALL)
    picked, cost = replay.random_search(table, random.Random(0), everything)
    assert (picked.model, picked.n_blocks, cost) == ("resnet", 3, pytest.approx(everything))


def test_the_command_prints_a_line_for_each(grid, capsys):
    replay.main([str(grid), "--replays", "3"])
    out = capsys.readouterr().out
    assert "24 architectures, 3 epochs, 3 seeds: the best 98.97%" in out
    assert out.splitlines()[-2].split()[:4] == ["search.py", "0.000", "±", "0.000"]
    assert out.splitlines()[-1].startswith("random search")


def test_a_table_that_is_no_grid_is_refused(grid, tmp_path):
    with pytest.raises(replay.UserError, match="no such file"):
        replay.main([str(tmp_path / "none.csv")])
    lines = grid.read_text().splitlines(keepends=True)
    for missing in ("encoder,2,16,32,144,72,1.0", "encoder,2,16,32,144,72,3.0,2", ",0.33"):
        grid.write_text("".join(line for line in lines if missing not in line))
        with pytest.raises(replay.UserError, match="every architecture at three lengths"):
            replay.main([str(grid)])


def test_optuna_is_asked_for_only_where_it_is_there(grid, monkeypatch):
    monkeypatch.setattr(replay.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(replay.UserError, match="pip install optuna"):
        replay.main([str(grid), "--replays", "1", "--optuna"])
