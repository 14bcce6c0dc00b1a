"""Measure how many wrong labels rankings find, and the effect of cleaning.

    python -m studies.rankings fashion-random-600 mnist-4_9-100 mnist-3_to_8-100 --cleanlab
    python -m studies.rankings data/cifar:data/cifar_mislabelled_aggre --cleaning

DATA-KIND-COUNT makes COUNT training labels wrong. KIND is random, A_B (classes A and B are mixed up) or
A_to_B (images of A are labelled B). CLEAN:NOISY are two folders of the same images. Labels are ranked by the
score of diagnose.py and by the loss alone; --cleanlab (pip install cleanlab) adds cleanlab's scores, its
filter and our score, all from held-out predictions. --cleaning instead compares trainings on noisy labels,
without the suspects, with relabelled suspects, and on true labels. Networks are kept in runs/rankings; to
continue, repeat the command.
"""

import os
import re
from argparse import Namespace
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # OpenMP reads this when torch is imported; see train.py

import torch

import data
import diagnose
import train
from support import console, label_errors, run_folder
from support.console import UserError

SEEDS, FOLDS = 1000, 2**32 - 2  # for networks and folds: random numbers that wrong labels do not use
load = cache(data.load)


def with_noise(clean, kind, count, seed):
    """Return the labels of the ImageData `clean`, int64 (N,), with `count` made wrong as `kind` says."""
    labels, names = clean.labels, kind.replace("_to_", "_").split("_")
    if kind != "random" and not (len(names) == 2 and set(names) <= set(clean.classes)):
        raise UserError(f"{kind}: needs two of the classes {', '.join(clean.classes)} of {clean.source}")
    classes = None if kind == "random" else list(map(clean.classes.index, names))
    candidates = labels.where(labels == classes[0], -1) if "_to_" in kind else labels
    wrong, changed = data.make_wrong(candidates, len(clean.classes), count, seed, classes)
    return labels.index_copy(0, changed, wrong[changed])


def noisy_set(noise, seed, n_images=None):
    """Return (noisy ImageData, test ImageData, true labels) of DATA-KIND-COUNT or CLEAN:NOISY.

    With `n_images`, only this number of training images is used, chosen at random.
    """
    (clean, _, folder), match = noise.partition(":"), re.fullmatch("([^-]+)-(.+)-([0-9]+)", noise)
    if not folder and not match:
        raise UserError(f"{noise}: is neither DATA-KIND-COUNT, such as mnist-random-100, nor CLEAN:NOISY")
    noisy, test = load(folder or match[1])
    truth = diagnose.find_truth(noisy, clean) if folder else noisy.labels
    if truth is None:
        raise UserError(f"{noise}: the first folder lacks images of the second")
    if n_images:
        part = data.random_order(len(noisy), seed)[:n_images]
        noisy, truth = noisy.subset(part), truth[part]
    if not folder:
        noisy = replace(noisy, labels=with_noise(noisy, match[2], int(match[3]), seed))
    return noisy, test, truth


def held_out(noisy, truth, settings, seed, folder):
    """Return held-out log-probabilities, float (1, N, classes), by three-fold cross-validation."""
    logits = torch.empty(1, len(noisy), len(noisy.classes))
    folds = data.random_order(len(noisy), SEEDS + seed, FOLDS).chunk(3)
    for index, fold in enumerate(folds):
        own = Namespace(**vars(settings))
        own.seed, own.epochs = settings.seed + index, settings.epochs * 3 // 2  # because 1/3 is held out
        others = torch.cat([other for other in folds if other is not fold])
        splits, rest = (noisy.subset(others), noisy.subset(fold)), ("noisy", noisy.labels[others])
        _, (_, (of_fold,)) = diagnose.train_networks(splits, truth[others], own, 1, folder, None, *rest)
        logits[0, fold] = of_fold
    return logits.log_softmax(2)


def cleanlabs(noisy, log_probabilities):
    """Return {method: (order, estimate)} of cleanlab and of our score; the input is float (1, N, classes)."""
    from cleanlab.count import num_label_issues
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    given = {"labels": noisy.labels.numpy(), "pred_probs": log_probabilities[0].double().softmax(1).numpy()}
    rankings, estimate = {}, int(num_label_issues(**given))
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        quality = torch.from_numpy(get_label_quality_scores(**given, method=method))
        rankings[f"cleanlab, {method.replace('_', ' ')}"] = diagnose.top_losses(-quality), estimate
    flagged = torch.from_numpy(find_label_issues(**given, n_jobs=1))  # bool (N,)
    order = rankings["cleanlab, self confidence"][0]
    order = order[diagnose.top_losses(flagged[order].double())]  # flagged labels come first
    rankings["cleanlab, its filter"] = order, int(flagged.sum())
    view = diagnose.rank_labels(noisy, log_probabilities)
    return rankings | {"diagnose.py's score, held out": (view.order, (view.n_wrong or [""])[-1])}


def judge(hits):
    """Return (wrong labels among the first n, average precision) of a ranking; n labels are wrong in all.

    `hits`, bool (N,), has the labels in the order of the ranking: True if the label is wrong.
    """
    n, precisions = int(hits.sum()), hits.cumsum(0).double() / torch.arange(1, len(hits) + 1)
    return int(hits[:n].sum()), precisions[hits].sum().item() / max(n, 1)


def measure(noise, number, given):
    """Return the rows of the table, dicts, for one set of wrong labels."""
    noisy, test, truth = noisy_set(noise, number, given.images)
    wrong, row = noisy.labels != truth, {"noise": Path(noise).name, "set": number}
    print(f"\n{row['noise']}, set {number}: {wrong.sum():,} of {len(noisy):,} labels are wrong")
    folder = Path("runs", "rankings", f"{row['noise']}-{number}-{noisy.fingerprint()}")
    settings = diagnose.read_flags([])[1]
    settings.augment, settings.seed = True, SEEDS + 3 * number
    train.complete(settings, noisy, 2, 10)
    fit = (noisy, test), truth, settings
    folder = diagnose.lengthened(*fit, folder, None)
    cleaned = folder / f"{given.epochs or 'usual'}-epochs{'-augmented' * (not given.no_augment)}"
    _, (logits, _) = diagnose.train_networks(*fit, 3, folder, None, "noisy", noisy.labels)
    view = diagnose.rank_labels(noisy, torch.stack(logits).log_softmax(2))
    estimate = (view.n_wrong or [""])[-1]  # "" if the networks fit too badly to tell
    if given.cleaning:
        kept = torch.ones_like(wrong)
        suspects = noisy.labels, view.predicted, view.order, estimate or 0
        kept[label_errors.most_likely_errors(*suspects)] = False
        relabelled = noisy.labels.where(kept, view.predicted)
        settings.epochs, settings.augment = given.epochs or settings.epochs, not given.no_augment
        row["augment"] = settings.augment
        ways = {"noisy": [noisy.labels], "removed": [noisy.labels, kept], "relabelled": [relabelled]}
        ways = (ways | {"true": [truth]}).items()
        return [row | diagnose.train_networks(*fit, 1, cleaned, None, way, *of)[0][0] for way, of in ways]
    rankings = {"diagnose.py": (view.order, estimate), "loss alone": (diagnose.top_losses(view.losses), "")}
    if given.cleanlab:
        rankings |= cleanlabs(noisy, held_out(noisy, truth, settings, number, folder / "held-out"))
    row, rows = row | {"n_wrong": wrong.sum().item()}, []
    for method, (order, estimate) in rankings.items():
        found, precision = judge(wrong[order])
        numbers = {"found": found, "average_precision": precision, "estimate": estimate}
        rows.append(row | {"method": method} | numbers)
        print(f"{method:40} found {found:6,}, average precision {precision:.3f}, estimate {estimate}")
    return rows


def main():
    """Measure each set of wrong labels that the command line names."""
    parser, number = console.Parser(description=__doc__), {"type": console.positive(int), "metavar": "N"}
    add, text = parser.add_argument, "seeds of wrong labels and networks (default: 5 to 9)"
    add("noises", nargs="+", metavar="NOISE", help="DATA-KIND-COUNT or CLEAN:NOISY")
    add("--sets", nargs="+", type=console.seed, default=range(5, 10), metavar="N", help=text)
    add("--images", help="number of training images of a set, chosen at random (default: all)", **number)
    add("--cleanlab", action="store_true", help="measure cleanlab's rankings too")
    add("--cleaning", action="store_true", help="measure the effect of cleaning instead")
    add("--epochs", help="epochs of the trainings of --cleaning (default: as diagnose.py)", **number)
    add("--no-augment", action="store_true", help="no augmentation in these trainings")
    add("--csv", type=console.path, default="runs/rankings.csv", help="table (default: runs/rankings.csv)")
    given = parser.parse_args()
    if given.cleanlab and not find_spec("cleanlab"):
        raise UserError("--cleanlab: pip install cleanlab first")
    table = []
    for noise, seed in product(given.noises, given.sets):
        table += measure(noise, seed, given)
        run_folder.check_replaceable(given.csv, table[0])
        run_folder.write_csv(given.csv, table)


if __name__ == "__main__":
    console.run_command(main)
