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
    """Return (mean, sd, larger) of `after` - `before`, lists with a number for each seed, the same seeds.

    `larger` says whether the mean is further from zero than chance explains, by a paired t test at 5 %; None
    where there is one seed, which tells no spread.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, sd = mean_sd(differences)
    n = len(differences)
    return mean, sd, None if n == 1 else abs(mean) > T_95[min(n, 10)] * sd / math.sqrt(n)


def print_effect(before, after):
    """Print what changed between two lists of rows, dicts of MEASURES with a name in the column labels."""
    print(f"\n{'mean ± sd, ' + str(len(before)) + ' seeds':20}", end="")
    print(f"{before[0]['labels']:>18}{after[0]['labels']:>18}{'change':>20}")
    for measure, factor in MEASURES.items():
        digits = 2 if factor == 100 else 4
        numbers = [[factor * row[measure] for row in rows] for rows in (before, after)]
        texts = [f"{mean:.{digits}f} ± {sd:.{digits}f}" for mean, sd in map(mean_sd, numbers)]
        mean, sd, larger = difference(*numbers)
        change = f"{mean:+.{digits}f} ± {sd:.{digits}f}"
        verdict = {None: "one seed, no spread", True: "larger than chance", False: "within chance"}[larger]
        unit = " (%)" if factor == 100 else ""
        print(f"{measure.replace('_', ' ') + unit:20}{texts[0]:>18}{texts[1]:>18}{change:>20}  {verdict}")
