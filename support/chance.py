"""Is it larger than chance: a change over seeds, and how wrong labels spread over the classes?"""

import math
import statistics
from collections import Counter

from support.console import printable

import torch

# ---------------------------------------------------------------- over seeds

MEASURES = {"train_loss": 1, "train_accuracy": 100, "test_loss": 1, "test_accuracy": 100}  # as shown: factors
# Student's t, two-sided 95 %, by the number of seeds; for more than ten the last, a little too strict.
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def mean_sd(numbers):
    """Return the mean and the standard deviation (n - 1; 0 for one number) of a list."""
    return statistics.mean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def difference(before, after):
    """Return (mean, sd, verdict) of `after` - `before`, lists with a number for each seed, the same seeds.

    The verdict, a text, says whether the mean is further from zero than chance explains, by a paired t test
    at 5 %. One seed, or seeds that all differ alike, have no spread to tell it by; no difference at all is
    within chance.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, sd = mean_sd(differences)
    n = len(differences)
    if n == 1 or (mean != 0 and abs(mean) > 1e9 * sd):
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
    mean = round(mean, digits) or 0  # never -0.00
    return *texts, f"{mean:+.{digits}f} ± {sd:.{digits}f}", verdict


def print_effect(before, after):
    """Print what changed between two lists of rows, dicts of MEASURES with a name in the column labelling."""
    print(f"\n{'mean ± sd, ' + str(len(before)) + ' seeds':20}", end="")
    print(f"{before[0]['labelling']:>18}{after[0]['labelling']:>18}{'change':>20}")
    for measure, factor in MEASURES.items():
        name = measure.replace("_", " ") + (" (%)" if factor == 100 else "")
        old, new, change, verdict = effect_texts(measure, before, after)
        print(f"{name:20}{old:>18}{new:>18}{change:>20}  {verdict}")


def print_summary(before, after, n_suspects, n_images):
    """Say what the cleaning changed, given the rows before it and after it."""
    print(f"\nCleaning {n_suspects:,} of {n_images:,} images ({n_suspects / n_images:.2%}) changed")
    for measure, unit, sign, remark in (
        ("test_accuracy", " points", "", ""),
        ("test_loss", "", "+", " (test images with wrong labels cost a surer network more)"),
        ("train_loss", "", "-", " (it mostly falls once images of great loss are gone)"),
    ):
        *_, change, verdict = effect_texts(measure, before, after)
        explained = change.startswith(sign) and verdict.startswith("larger")
        print(f"  the {measure.replace('_', ' ')} by {change}{unit}: {verdict}{remark if explained else ''}")


# ---------------------------------------------------------------- over classes


def spread_over_classes(labels, predicted, suspects, classes):
    """Say whether the samples at `suspects` keep to some classes, by label, prediction and pair; a text.

    `labels` and `predicted` are int64 (N,), `suspects` int64 (M,), indices into them.

    Spread evenly means: M samples, drawn at random, each got one of the K - 1 other classes at random. A
    sample's true class is taken to be the one predicted; n_c samples of N have class c. So the suspects'
    predictions are spread like n_c / N, and their labels like (N - n_c) / (N (K - 1)): only the N - n_c
    samples of the other classes can get the label c, and one in K - 1 of them does.
    """
    classes = [printable(name) for name in classes]
    n_others = len(classes) - 1
    shares = torch.bincount(predicted, minlength=len(classes)).double() / len(predicted)
    drawn = (len(suspects) - 1) / (len(labels) - 1)
    in_labels, in_predictions = labels[suspects], predicted[suspects]
    by_label = stand_out("labels", in_labels, (1 - shares) / n_others, 1 - drawn / n_others**2, classes)
    by_prediction = stand_out("predictions", in_predictions, shares, 1 - drawn, classes)
    verdicts, lines = zip(by_label, by_prediction, strict=True)
    pairs = Counter(zip(in_labels.tolist(), in_predictions.tolist(), strict=True))
    pairs = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    even = shares * pairs.total() / n_others  # of the pairs with each prediction
    most = [f"{classes[i]} → {classes[j]}: {count} ({even[j]:.1f})" for (i, j), count in pairs.most_common(6)]
    lines = [*lines, f"Label → prediction (if spread evenly): {', '.join(most)}."]
    if None not in verdicts:
        some = "So the suspects concern some classes far more than others."
        none = "So nothing shows that the suspects concern some classes more than others."
        lines.append(some if any(verdicts) else none)
    return "\n".join(lines)


def stand_out(name, values, shares, variance, classes):
    """Return (whether some classes have more than their share of the suspects, a sentence about it).

    `values` is int64 (M,), a class of each suspect, `shares` float (K,), what each class has of them if they
    are spread evenly. Pearson's χ² test says whether chance explains the difference. The suspects are drawn
    without replacement, so their counts vary less than the test supposes: by the factor `variance`, for the
    predictions (N - M) / (N - 1), the finite population correction. Of the labels only the part that the
    true classes cause varies less, on average a (K - 1)²-th. Classes with a quarter more
    than their share stand out, where p < 0.005, so that two such tests err once in a hundred. With fewer than
    five suspects expected in a class the test does not hold, and the answer is None.
    """
    counts = torch.bincount(values, minlength=len(classes)).double()
    expected = shares * len(values)
    seen = expected > 0
    if expected[seen].min() < 5:
        return None, f"Too few suspects to tell whether some {name} have more than their share."
    excess = counts - expected
    chi2 = (excess[seen] ** 2 / expected[seen]).sum() / variance
    p = torch.special.gammaincc((seen.sum() - 1).double() / 2, chi2 / 2)  # χ² exceeded by chance
    p = p.nan_to_num(1).item()  # where nothing is left to chance: one class, or all samples are suspects
    test = f"(χ² test: p = {p:.2g})" if p > 1e-99 else "(χ² test: p < 1e-99)"
    most = [i for i in excess.argsort(descending=True).tolist() if excess[i] > expected[i] / 4][:6]
    if p >= 0.005 or not most:
        each = f"{counts[seen].min():.0f} to {counts.max():.0f} each"
        return False, f"Among their {name} no class stands out: {each} {test}."
    each = (f"{classes[i]} has {counts[i]:.0f} ({expected[i]:.1f} if spread evenly)" for i in most)
    return True, f"Among their {name} some classes stand out: {', '.join(each)} {test}."
