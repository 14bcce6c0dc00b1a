"""Is a difference significant? Three tests at the 5 % level, and the 95 % interval of a difference."""

import math
from collections import Counter
from statistics import mean, median, stdev
from typing import NamedTuple

import torch

LEVEL = 0.05  # how often a test says "significant" if there is no difference


class Difference(NamedTuple):
    """The estimate of a difference, its 95 % interval from `low` to `high`, and the p-value of its test."""

    estimate: float
    low: float
    high: float
    p: float


def paired_t_test(before, after):
    """Return the Difference `after` - `before`: two lists with a number for each seed, in the same order.

    Student (1908): if n normal differences have mean 0, their average divided by sd / √n has a t distribution
    with n - 1 degrees of freedom. For one pair, or equal differences except 0, interval and p are nan.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    average, n = mean(differences), len(differences)
    if not any(differences) and n > 1:
        return Difference(0.0, 0.0, 0.0, 1.0)
    error = stdev(differences) / math.sqrt(n) if n > 1 else 0.0
    if error <= 1e-9 * abs(average):  # the differences are equal, except for rounding
        return Difference(average, math.nan, math.nan, math.nan)
    half = critical_t(n - 1) * error
    return Difference(average, average - half, average + half, t_p_value(average / error, n - 1))


def t_p_value(t, degrees):
    """Return the two-sided p-value of `t` for a t distribution with `degrees` of freedom.

    A finite series; Abramowitz & Stegun (1964), 26.7.3 and 26.7.4.
    """
    angle, odd = math.atan2(abs(t), math.sqrt(degrees)), degrees % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    within = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + within) if odd else within))


def critical_t(degrees):
    """Return the two-sided 5 % critical value of the t distribution: 12.706 for one degree of freedom."""
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if t_p_value(middle, degrees) > LEVEL else (low, middle)
    return low


def rank_test(first, second):
    """Return the Difference `second` - `first` by the rank sum test for two lists of unpaired numbers.

    p is exact (Wilcoxon 1945): it is the share of all choices of len(first) numbers whose rank sum is as far
    from its expectation as the rank sum of `first`, or farther. Equal numbers have their mean rank. The
    estimate is the median of the differences of all pairs. The interval (Hodges & Lehmann 1963) has the
    shifts of `second` that the test does not reject; with equal numbers it may be too wide. Two lists of
    three are too short: p is at least 0.1, and the interval is nan.
    """
    values, n = sorted([*first, *second]), len(first)
    expected = n * len(values)  # of the rank sum; ranks are doubled, so mean ranks are integers
    ranks = {value: 2 * values.index(value) + values.count(value) for value in values}
    p = share_as_far(rank_sums(map(ranks.get, values), n), sum(map(ranks.get, first)), expected)
    n_rejected, sums = 0, rank_sums(range(1, 2 * len(values), 2), n)  # as if no numbers were equal
    while share_as_far(sums, n * n + 2 * n_rejected, expected) < LEVEL:
        n_rejected += 1
    differences = sorted(b - a for a in first for b in second)
    ends = (differences[n_rejected - 1], differences[-n_rejected]) if n_rejected else (math.nan, math.nan)
    return Difference(median(differences), *ends, p)


def rank_sums(ranks, n):
    """Return {sum: number of ways to choose `n` of the `ranks` with that sum}."""
    ways = Counter({(0, 0): 1})  # key: (number of chosen ranks, their sum)
    for rank in ranks:
        for (k, total), count in list(ways.items()):
            ways[k + 1, total + rank] += count
    return {total: count for (k, total), count in ways.items() if k == n}


def share_as_far(sums, total, expected):
    """Return the share of ways in `sums` (see `rank_sums`) at least as far from `expected` as `total`."""
    far = [count for each, count in sums.items() if abs(each - expected) >= abs(total - expected)]
    return sum(far) / sum(sums.values())


def chi_square_test(counts, expected, variance=1.0):
    """Return the p-value of Pearson's χ² test (1900): do `counts` differ from `expected` by more than chance?

    Both are (classes,) and have the same sum. `variance` is relative to independent counts: about
    1 - M / N if M of N samples are drawn without replacement. Classes with an expected count of 0 are left
    out; if another expected count is below 5, the test is not valid, and the result is nan.
    """
    counts, expected = counts[expected > 0].double(), expected[expected > 0].double()
    if expected.min() < 5:
        return math.nan
    chi_square = ((counts - expected) ** 2 / expected).sum() / variance
    p = torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2, dtype=torch.float64), chi_square / 2)
    return p.nan_to_num(1.0).item()  # nan: there is one class, or all samples are drawn


def holm(p_values):
    """Return the p-values of several tests, corrected for their number (Holm 1979); nan stays nan.

    The smallest of n is multiplied by n, the next by n - 1, …; the results do not decrease.
    """
    corrected, greatest = list(p_values), 0.0
    made = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    for n_smaller, (p, index) in enumerate(made):
        greatest = max(greatest, min(1.0, (len(made) - n_smaller) * p))
        corrected[index] = greatest
    return corrected


def verdict(p):
    """Return "significant" or "no significant difference" for a p-value, or "" for nan."""
    return "" if math.isnan(p) else "significant" if p < LEVEL else "no significant difference"
