"""Are all classes affected by wrong labels, or only some (exercise sheet 1.4 b)?"""

from collections import Counter

import torch


def spread_over_classes(labels, predicted, suspects, classes):
    """Say whether the samples at `suspects` keep to some classes, by label, prediction and pair; a text.

    `labels` and `predicted` are int64 (N,), `suspects` int64 indices into them.
    """
    by_label = stand_out("labels", labels, suspects, classes)
    by_prediction = stand_out("predictions", predicted, suspects, classes)
    verdicts, lines = zip(by_label, by_prediction, strict=True)
    pairs = Counter(zip(labels[suspects].tolist(), predicted[suspects].tolist(), strict=True))
    pairs = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    even = pairs.total() / (len(classes) * (len(classes) - 1))
    most = ", ".join(f"{classes[i]} → {classes[j]}: {count}" for (i, j), count in pairs.most_common(6))
    lines = [*lines, f"Label → prediction: {most}; {even:.1f} each if spread evenly."]
    if None not in verdicts:
        whom = "some classes far more than others" if any(verdicts) else "all classes about alike"
        lines.append(f"The wrong labels affect {whom}, as far as {len(suspects):,} suspects can tell.")
    return "\n".join(lines)


def stand_out(name, values, suspects, classes):
    """Return (whether some classes have more than their share of the suspects, a sentence about it).

    `values` is int64 (N,), a class of each sample. Pearson's χ² test compares the suspects with an even
    spread over all samples. Those with a quarter more than their share stand out, where p < 0.005, so that
    two such tests err once in a hundred. With fewer than five suspects expected in a class the test does not
    hold, and the answer is None.
    """
    counts = torch.bincount(values[suspects], minlength=len(classes)).double()
    expected = torch.bincount(values, minlength=len(classes)).double() * len(suspects) / len(values)
    seen = expected > 0
    if expected[seen].min() < 5:
        return None, f"Too few suspects to tell whether some {name} have more than their share."
    excess = counts - expected
    chi2 = (excess[seen] ** 2 / expected[seen]).sum()
    p = torch.special.gammaincc((seen.sum() - 1).double() / 2, chi2 / 2).item()  # χ² exceeded by chance
    test = f"(χ² test: p = {p:.2g})" if p > 1e-99 else "(χ² test: p < 1e-99)"
    most = [i for i in excess.argsort(descending=True).tolist() if excess[i] > expected[i] / 4][:6]
    if p >= 0.005 or not most:
        each = f"{counts[seen].min():.0f} to {counts.max():.0f} each"
        return False, f"Among their {name} no class stands out: {each} {test}."
    each = (f"{classes[i]} has {counts[i]:.0f} ({expected[i]:.1f} if spread evenly)" for i in most)
    return True, f"Among their {name} some classes stand out: {', '.join(each)} {test}."
