"""Which numbers have moved: the bound, rows of seeds and rows of means, rows that only one table has."""

import math
import statistics

from support.console import UserError
from support.files import write_csv

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from studies import moved

numbers = st.lists(st.integers(0, 100), min_size=2, max_size=6)


@given(numbers, numbers)
@example([1, 1], [1, 1, 1])
@example([1, 1], [2, 2])
def test_the_distance_is_in_standard_errors_of_the_difference(old, new):
    errors = [statistics.stdev(values) / math.sqrt(len(values)) for values in (old, new)]
    distance = abs(statistics.mean(old) - statistics.mean(new))
    found = moved.apart(*((statistics.mean(v), statistics.stdev(v), len(v)) for v in (old, new)))
    assert found * math.hypot(*errors) == pytest.approx(distance) or (distance > 0 and found == math.inf)


def means(model, accuracy, sd, n_seeds=4):
    return {"model": model, "n_seeds": n_seeds, "test_accuracy": accuracy, "test_accuracy_sd": sd}


def test_what_moved_and_what_has_no_partner_is_named(tmp_path, capsys):
    kept, new = tmp_path / "kept.csv", tmp_path / "new.csv"
    write_csv(kept, [means("encoder", 99, 0.1), means("resnet", 99, 0.1), means("vgg16", 9, 1)])
    rows = [means("resnet", 99.3, 0.1), means("encoder", 99.27, 0.1), means("other", 1, 1)]
    write_csv(new, rows)  # 0.1 √2 / √4 is 0.0707: 4.24 standard errors, and 3.8
    moved.main([str(kept), str(new)])
    assert capsys.readouterr().out.splitlines() == [
        "only in the kept table: vgg16",
        "only in the new table: other",
        "moved: resnet, test accuracy: 99 ± 0.1 (4 seeds) → 99.3 ± 0.1 (4 seeds)",
        "1 of 2 numbers have moved by more than 4 standard errors",
    ]


def test_rows_of_seeds_are_taken_together(tmp_path):
    runs = [
        ("a", 0, 1),
        ("b", 0, 7),
        ("a", 1, 3),
        ("a", 2, ""),
    ]  # one seed has no spread, a failed run nothing
    rows = [{"model": model, "seed": seed, "accuracy": value} for model, seed, value in runs]
    write_csv(tmp_path / "kept.csv", rows)
    kept = moved.measured(tmp_path / "kept.csv")
    assert kept == {("a",): {"accuracy": (2, math.sqrt(2), 2)}, ("b",): {}}
    write_csv(tmp_path / "twice.csv", [*rows, rows[0]])
    with pytest.raises(UserError, match="with a row for each"):
        moved.measured(tmp_path / "twice.csv")


def test_the_number_of_sets_counts_and_an_empty_cell_is_none(tmp_path):
    row = {"noise": "n", "method": "m", "sets": "5 6 7", "found": 3, "found sd": 1, "look": "", "look sd": ""}
    write_csv(tmp_path / "kept.csv", [row])
    assert moved.measured(tmp_path / "kept.csv") == {("n", "m", "5 6 7"): {"found": (3, 1, 3)}}


def test_tables_without_a_number_in_common_are_no_agreement(tmp_path):
    write_csv(tmp_path / "kept.csv", [means("a", 1, 1)])
    write_csv(tmp_path / "new.csv", [means("b", 1, 1)])
    with pytest.raises(UserError, match="no number is in both tables"):
        moved.main([str(tmp_path / "kept.csv"), str(tmp_path / "new.csv")])


@pytest.mark.parametrize("row", [{"a": 1}, means("a", "x", 1), {"model": "a", "n_seeds": 3, "b_sd": 1}])
def test_another_table_is_named(tmp_path, row):
    write_csv(tmp_path / "other.csv", [row])
    with pytest.raises(UserError, match="is no table of means over seeds"):
        moved.measured(tmp_path / "other.csv")
    write_csv(tmp_path / "twice.csv", [means("a", 1, 1), means("a", 1, 1)])
    with pytest.raises(UserError, match="with a row for each"):
        moved.measured(tmp_path / "twice.csv")
