"""Before and after, over several seeds: how large a change is, and whether it is larger than chance."""

import math
import statistics

MEASURES = {"train_loss": 1, "train_accuracy": 100, "test_loss": 1, "test_accuracy": 100}  # as shown: factors
# Student's t, two-sided 95 %, by the number of seeds; for more than ten the last, a little too strict.
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def mean_sd(numbers):
    """Return the mean and the standard deviation (n - 1; 0 for one number) of a list."""
    return statistics.mean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def difference(before, after):
    """Return (mean, sd, verdict) of `after` - `before`, lists with a number for each seed, the same seeds.

    The verdict, a text, says whether the mean is further from zero than chance explains, by a paired t test
    at 5 %. Without a spread, from one seed or where all differ alike, there is nothing to tell it by.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, sd = mean_sd(differences)
    n = len(differences)
    if n == 1 or 0 < abs(mean) > 1e9 * sd:
        return mean, sd, "no spread to judge by"
    larger = abs(mean) > T_95[min(n, 10)] * sd / math.sqrt(n)
    return mean, sd, "larger than chance" if larger else "within chance"


def effect_texts(measure, before, after):
    """Return (before, after, change, verdict) as texts for one of MEASURES, from two lists of rows."""
    factor = MEASURES[measure]
    digits = 2 if factor == 100 else 4
    numbers = [[factor * row[measure] for row in rows] for rows in (before, after)]
    texts = [f"{mean:.{digits}f} ± {sd:.{digits}f}" for mean, sd in map(mean_sd, numbers)]
    mean, sd, verdict = difference(*numbers)
    return *texts, f"{mean:+.{digits}f} ± {sd:.{digits}f}", verdict


def print_effect(before, after):
    """Print what changed between two lists of rows, dicts of MEASURES with a name in the column labels."""
    print(f"\n{'mean ± sd, ' + str(len(before)) + ' seeds':20}", end="")
    print(f"{before[0]['labels']:>18}{after[0]['labels']:>18}{'change':>20}")
    for measure, factor in MEASURES.items():
        name = measure.replace("_", " ") + (" (%)" if factor == 100 else "")
        old, new, change, verdict = effect_texts(measure, before, after)
        print(f"{name:20}{old:>18}{new:>18}{change:>20}  {verdict}")


def sum_up(before, after, n_suspects, n):
    """Say what the cleaning changed, given the rows before it and after it."""
    print(f"\nCleaning {n_suspects:,} of {n:,} images ({n_suspects / n:.2%}) changed")
    for measure, unit, remark in (
        ("test_accuracy", " points", ""),
        ("test_loss", "", ""),
        ("train_loss", "", " (without images of great loss it falls in any case)"),
    ):
        *_, change, verdict = effect_texts(measure, before, after)
        print(f"  the {measure.replace('_', ' ')} by {change}{unit}: {verdict}{remark}")
