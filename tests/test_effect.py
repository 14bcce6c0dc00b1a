"""Before and after: the paired t test, against known cases and against chance itself."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effect import MEASURES, T_95, difference, mean_sd, print_effect, sum_up

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@given(numbers, st.floats(-5, 5))
def test_a_shift_is_found_with_its_size(before, shift):
    mean, sd, verdict = difference(before, [number + shift for number in before])
    assert mean == pytest.approx(shift, abs=1e-9)
    assert sd == pytest.approx(0, abs=1e-9)
    assert verdict != "larger than chance" or sd > 0


@given(numbers)
def test_no_change_is_never_larger_than_chance(before):
    assert difference(before, before) == (0, 0, "within chance")


def test_a_case_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, t = 2 / (1 / √3) = 3.46, less than 4.30
    assert difference([0, 0, 0], [1, 2, 3]) == (2, 1, "within chance")
    # differences of one hundredth each, as an accuracy's may be: no spread but rounding's
    assert difference([99.44, 99.35, 99.41], [99.45, 99.36, 99.42])[2] == "no spread to judge by"
    # differences 2, 3, 4: t = 3 √3 = 5.2
    assert difference([0, 0, 0], [2, 3, 4]) == (3, 1, "larger than chance")
    assert difference([0], [5]) == (5, 0, "no spread to judge by")
    assert mean_sd([3]) == (3, 0)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_chance_alone_is_taken_for_an_effect_once_in_twenty(n):
    rng = random.Random(n)
    verdicts = [difference([0] * n, [rng.gauss(0, 1) for _ in range(n)])[2] for _ in range(4000)]
    assert 0.035 < verdicts.count("larger than chance") / 4000 < 0.065  # 5 % ± 4 standard deviations


def test_the_limits_fall_towards_the_normal_distributions():
    limits = [T_95[n] for n in sorted(T_95)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] > 1.96


def test_the_table_names_both_and_says_which_changes_count(capsys):
    rows = [
        {
            "labels": "imperfect",
            "train_loss": 0.5,
            "train_accuracy": 0.9,
            "test_loss": 0.2,
            "test_accuracy": 0.95,
        },
        {
            "labels": "imperfect",
            "train_loss": 0.6,
            "train_accuracy": 0.8,
            "test_loss": 0.3,
            "test_accuracy": 0.97,
        },
    ]
    after = [row | {"labels": "cleaned", "train_loss": 0.75 * row["train_loss"]} for row in rows]
    print_effect(rows, after)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[0].split()[-3:] == ["imperfect", "cleaned", "change"]
    assert "0.5500 ± 0.0707" in lines[1]
    assert lines[1].endswith("-0.1375 ± 0.0177  within chance")  # t = 11.0, and 12.71 is needed
    assert "85.00 ± 7.07" in lines[2]
    assert lines[2].endswith("+0.00 ± 0.00  within chance")


def test_the_summary_has_each_change_with_its_verdict(capsys):
    before = [dict.fromkeys(MEASURES, value) for value in (0.5, 0.6, 0.7)]
    after = [
        row | {"test_accuracy": row["test_accuracy"] + extra}
        for row, extra in zip(before, (0.1, 0.11, 0.12), strict=True)
    ]
    sum_up(before, after, 3, 60)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Cleaning 3 of 60 images (5.00%) changed"
    assert lines[2] == "  the test accuracy by +11.00 ± 1.00 points: larger than chance"
    assert lines[3] == "  the test loss by +0.0000 ± 0.0000: within chance"
