"""Statistics: p-values against published tables, integrals and brute force."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support import statistics

# Published tables (NIST/SEMATECH e-Handbook, 1.3.6.7): two-sided 5 % of Student's t, and 5 % of χ².
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 9: 2.262, 10: 2.228, 20: 2.086, 100: 1.984}
CHI_SQUARE = {1: 3.841, 2: 5.991, 3: 7.815, 4: 9.488, 9: 16.919}

numbers = st.lists(st.integers(-50, 50), min_size=1, max_size=6)


@pytest.mark.parametrize("degrees", T)
def test_critical_t_equals_the_published_table(degrees):
    assert statistics.critical_t(degrees) == pytest.approx(T[degrees], abs=0.0005)


@given(st.floats(-6, 6), st.integers(1, 12))
def test_the_p_value_of_t_is_the_integral_of_its_density_outside(t, degrees):
    norm = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    x = (np.arange(20_000) + 0.5) / 20_000 * t  # the middles of short pieces from 0 to t
    inside = 2 * norm * ((1 + x**2 / degrees) ** (-(degrees + 1) / 2)).mean() * abs(t)
    assert statistics.t_p_value(t, degrees) == pytest.approx(1 - inside, abs=1e-6)


def test_a_paired_t_test_by_hand():
    mean, low, high, p = statistics.paired_t_test([0, 0, 0], [1, 2, 3])  # sd 1, t = 2 √3 with two degrees
    half = 4.303 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-3)
    assert p == pytest.approx(0.0742, abs=1e-4)
    assert statistics.paired_t_test([1, 2, 3], [0, 0, 0]) == pytest.approx((-mean, -high, -low, p))
    assert statistics.paired_t_test([5, 9], [5, 9]) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("before", "after"), [([0], [5]), ([5], [5]), ([99.44, 99.35, 99.41], [99.45, 99.36, 99.42])]
)
def test_without_spread_there_is_a_mean_and_no_verdict(before, after):
    mean, *rest = statistics.paired_t_test(before, after)
    assert mean == pytest.approx(after[0] - before[0])
    assert all(map(math.isnan, rest))
    assert statistics.verdict(rest[-1]) == ""


@given(numbers, numbers)
def test_the_rank_test_is_the_share_of_all_choices_that_are_as_extreme(first, second):
    values = [*first, *second]
    ranks = [sum(other < value for other in values) + values.count(value) / 2 + 0.5 for value in values]
    expected = len(first) * sum(ranks) / len(ranks)
    sums = [abs(sum(choice) - expected) for choice in itertools.combinations(ranks, len(first))]
    share = sum(distance >= abs(sum(ranks[: len(first)]) - expected) for distance in sums) / len(sums)
    assert statistics.rank_test(first, second).p == pytest.approx(share)


@pytest.mark.parametrize(("n", "m", "left_out"), [(3, 3, None), (4, 4, 0), (5, 5, 2), (4, 6, 2), (8, 5, 6)])
def test_the_interval_of_the_rank_test_follows_the_published_table(n, m, left_out):
    rng = random.Random(n * m)  # the table of U, two-sided 5 %, has how many are left out at each end
    first, second = [rng.gauss(0, 1) for _ in range(n)], [rng.gauss(3, 1) for _ in range(m)]
    estimate, low, high, _ = statistics.rank_test(first, second)
    if left_out is None:
        assert math.isnan(low)
        assert math.isnan(high)
    else:
        differences = sorted(b - a for a in first for b in second)
        assert (low, high) == (differences[left_out], differences[-left_out - 1])
        assert estimate == pytest.approx((differences[n * m // 2] + differences[(n * m - 1) // 2]) / 2)


@pytest.mark.parametrize("degrees", CHI_SQUARE)
def test_chi_square_equals_the_published_table(degrees):
    expected = torch.full((degrees + 1,), 100.0)
    excess = math.sqrt(CHI_SQUARE[degrees] * 100 / 2)  # one class has more, another as many fewer
    counts = expected + torch.tensor([excess, -excess, *[0] * (degrees - 1)])
    assert statistics.chi_square_test(counts, expected) == pytest.approx(0.05, abs=2e-5)
    half = expected + (counts - expected) / math.sqrt(2)
    assert statistics.chi_square_test(half, expected, 0.5) == pytest.approx(0.05, abs=2e-5)
    absent = torch.zeros(1)
    both = torch.cat([counts, absent]), torch.cat([expected, absent])
    assert statistics.chi_square_test(*both) == pytest.approx(0.05, abs=2e-5)


def test_chi_square_is_nan_if_under_five_are_expected_and_1_without_randomness():
    assert math.isnan(statistics.chi_square_test(torch.tensor([5.0, 5.0]), torch.tensor([4.99, 5.01])))
    assert statistics.chi_square_test(torch.tensor([5.0, 5.0]), torch.tensor([5.0, 5.0])) == 1
    assert statistics.chi_square_test(torch.tensor([50, 0]), torch.tensor([50.0, 0.0])) == 1
    assert statistics.chi_square_test(torch.tensor([50, 50]), torch.tensor([50.0, 50.0]), 0.0) == 1


def test_holms_correction_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [statistics.verdict(p) for p in (0.049, 0.05)] == ["significant", "no significant difference"]
    corrected = statistics.holm([0.5, math.nan, 0.01, 0.9])
    assert corrected[::2] == pytest.approx([1, 0.03])
    assert corrected[3] == 1
    assert math.isnan(corrected[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_his_procedure_rejects(p_values):
    ordered, n = sorted(p_values), len(p_values)
    n_rejected = next((k for k, p in enumerate(ordered) if p * (n - k) >= 0.05), n)
    rejected = [statistics.verdict(p) == "significant" for p in statistics.holm(p_values)]
    assert sum(rejected) == n_rejected
    assert all(p < 0.05 for p, yes in zip(p_values, rejected, strict=True) if yes)
