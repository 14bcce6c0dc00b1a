"""Find wrong labels: train on imperfect data, rank its images by loss, remove the worst, train again.

Example: python diagnose.py --remove 100
"""

import re
import shlex
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch

import figures
import train
from checkpoint import describe, resumable, resumable_by, start_or_resume
from data import export, find, load, mislabel
from decisions import read_decisions, write_ranking
from effect import difference, print_effect
from images import copy_images
from runs import UserError, check_new, duration, locked, positive, run_command, write_csv
from settings import complete, parse

# ---------------------------------------------------------------- counting and ranking


def confusion_matrix(labels, predicted, n_classes):
    """Count the (true, predicted) pairs: int64 (n_classes, n_classes), rows true, columns predicted classes.

    `labels` and `predicted` are int64 (N,) class indices. A row's sum is how many samples its class has; the
    diagonal holds the right answers.
    """
    pairs = labels * n_classes + predicted  # the cells' numbers, row by row
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)


def top_losses(labels, log_probabilities):
    """Rank samples by how wrong their labels look (exercise sheet 1.4 c): return (order, losses).

    `labels` is int64 (N,), `log_probabilities` float (networks, N, classes). `losses` is float (N,), each
    sample's cross-entropy, its mean over the networks; `order` int64 (N,) holds the samples' indices from the
    greatest loss down, equal ones in their own order.
    """
    given = labels.expand(len(log_probabilities), -1).unsqueeze(2)
    losses = -log_probabilities.gather(2, given).squeeze(2).mean(dim=0)
    return losses.argsort(descending=True, stable=True), losses


def true_labels(data, clean):
    """Return the labels, int64 (N,), that `data`'s images have in `clean`, -1 where it has no such image.

    Both are ImageData; images are the same where all their pixels are, whatever their files' names.
    """
    index = {name: number for number, name in enumerate(data.classes)}
    known = {}
    for image, label in zip(clean.images, clean.labels.tolist(), strict=True):
        label = index.get(clean.classes[label], -1)
        key = sha256(image.numpy()).digest()
        known[key] = label if known.get(key, label) == label else -1  # the same picture in two classes
    return torch.tensor([known.get(sha256(image.numpy()).digest(), -1) for image in data.images])


def spread_over_classes(labels, predicted, suspects, classes):
    """Say in two sentences which classes the samples at `suspects` are labelled, and what they look like.

    "Limited" is said where Pearson's χ² test of their labels, against an even spread over all samples, has
    p < 0.01, and some label has more than twice its even share.
    """
    n, n_suspects = len(classes), len(suspects)
    counts = torch.bincount(labels[suspects], minlength=n)
    expected = n_suspects * torch.bincount(labels, minlength=n) / len(labels)
    seen = expected > 0
    chi2 = ((counts - expected)[seen] ** 2 / expected[seen]).sum()
    p = torch.special.gammaincc((seen.sum() - 1) / 2, chi2 / 2).item()  # the χ² distribution's upper tail
    many = [index for index in range(n) if counts[index] > 2 * expected[index]]
    if p < 0.01 and many:
        names = ", ".join(f"{classes[index]} ({counts[index]})" for index in many)
        text = f"Limited to some classes: {counts[many].sum()} of {n_suspects} suspects are labelled {names}"
    else:
        text = f"All classes are affected: {counts[seen].min()} to {counts.max()} suspects have each label"
    text += f"; spread evenly it would be about {n_suspects / n:.1f} each (χ² test: p = {p:.2g}).\n"
    pairs = confusion_matrix(labels[suspects], predicted[suspects], n).flatten()
    cells = [cell for cell in pairs.argsort(descending=True, stable=True)[:6].tolist() if pairs[cell]]
    named = ", ".join(f"{classes[cell // n]} → {classes[cell % n]}: {pairs[cell]}" for cell in cells)
    return text + f"Label → prediction: {named}; spread evenly {n_suspects / (n * (n - 1)):.1f} each."


# ---------------------------------------------------------------- the experiment


def find_imperfect(source, n_wrong):
    """Return (imperfect, clean): the folder with wrong labels and the one it was made from, or None.

    For "auto" the folder is data/mnist_png_mislabelled, and if need be it is made, and data/mnist_png before
    it, or for want of MNIST the same of the built-in digits. The clean folder of X_mislabelled… is X.
    """
    if source == "auto":
        clean = Path("data/mnist_png")
        tail = "_mislabelled" if n_wrong == 100 else f"_mislabelled_{n_wrong}"
        if Path(f"{clean}{tail}").is_dir():
            source = f"{clean}{tail}"
        else:
            found = find("auto")
            if found == "digits":
                clean = Path("data/digits_png")
            if not clean.is_dir():
                export(clean, found)
            source = f"{clean}{tail}"
            if not Path(source).is_dir():
                mislabel(clean, source, n_wrong)
    clean = Path(re.sub("_mislabelled[^/]*$", "", source.rstrip("/")))
    return source, str(clean) if clean.is_dir() and str(clean) != source.rstrip("/") else None


def train_seeds(name, data, test, settings, folder, n_seeds):
    """Train a network from each seed on `data`; return (models, rows), each row an epoch's metrics.

    Every network has a folder in `folder`, from which an interrupted diagnosis takes it up again.
    """
    trained, rows = [], []
    for seed in range(settings.seed, settings.seed + n_seeds):
        print(f"\n{name} labels, seed {seed}")
        one = replace(settings, seed=seed)
        model = train.build(one, len(data.classes), data.images.shape[1:])
        place = folder / f"{name}-{data.fingerprint()}-{seed}"  # other labels, other networks
        place.mkdir(parents=True, exist_ok=True)
        rows.append({"labels": name, "seed": seed, **train.fit(model, data, test, one, place)[-1]})
        trained.append(model)
    return trained, rows


def diagnose(data, test, truth, settings, options, folder):
    """Run the experiment in `folder`; `truth` holds the true labels, int64 (N,), or is None."""
    n_seeds, all_rows, started = options["seeds"] or 3, [], time.perf_counter()
    if truth is not None:
        _, clean_rows = train_seeds("clean", replace(data, labels=truth), test, settings, folder, n_seeds)
        all_rows += clean_rows
        print(f"\nthe whole takes about {duration(3 * (time.perf_counter() - started))}", flush=True)
    networks, rows = train_seeds("imperfect", data, test, settings, folder, n_seeds)
    all_rows += rows
    if truth is not None:
        print_effect(clean_rows, rows)
    log_probabilities = predict_all(networks, data, settings)
    order, losses = top_losses(data.labels, log_probabilities)
    probabilities = log_probabilities.exp().mean(dim=0)
    test_probabilities = predict_all(networks, test, settings).exp().mean(dim=0)
    show_confusion("training set, imperfect labels", data, probabilities, folder / "confusion_train.png")
    show_confusion("test set", test, test_probabilities, folder / "confusion_test.png")

    file = folder / "top_losses.csv"
    if not file.exists():  # else this diagnosis is resumed, and a person may have edited it meanwhile
        kept, labels = order[(options["remove"] or 100) :].sort().values, data.labels
        if options["decisions"]:
            kept, labels = read_decisions(options["decisions"], data)
        write_ranking(file, data, order, losses, probabilities, kept, labels)
    kept, labels = read_decisions(file, data)
    changed = labels != data.labels
    changed |= ~torch.isin(torch.arange(len(data)), kept)
    suspects = order[changed[order]]
    show_suspects(data, suspects, losses, probabilities, folder)
    if truth is not None:
        show_found(data, truth, order, changed, folder)
    if options["write_clean"]:
        new_classes = dict.fromkeys((data.ids[index] for index in suspects), None)
        new_classes |= {data.ids[index]: data.classes[labels[index]] for index in kept if changed[index]}
        copy_images(Path(settings.data), options["write_clean"], new_classes)
        print(f"\n{options['write_clean']}: a copy of {settings.data}, cleaned")

    cleaned = replace(data, labels=labels).subset(kept)
    _, cleaned_rows = train_seeds("cleaned", cleaned, test, settings, folder, n_seeds)
    print_effect(rows, cleaned_rows)
    sum_up(rows, cleaned_rows, len(suspects), len(data))
    write_csv(folder / "effect.csv", all_rows + cleaned_rows)  # the last file: the diagnosis is over


def predict_all(networks, data, settings):
    """Return the log-probabilities that `networks` give to `data`, float (networks, N, classes)."""
    return torch.stack([train.predict(network, data, settings) for network in networks]).log_softmax(2).cpu()


def show_confusion(name, data, probabilities, path):
    """Print and draw how the labels of `data` agree with the `probabilities`, float (N, classes)."""
    matrix = confusion_matrix(data.labels, probabilities.argmax(dim=1), len(data.classes))
    n_wrong = (matrix.sum() - matrix.trace()).item()
    wrong = f"{n_wrong:,} of {len(data):,} labels differ from the prediction"
    figures.draw_confusion(path, matrix, data.classes, f"{data.source}, {name}", wrong)
    print(f"\n{name}: {wrong}")
    if len(data.classes) <= 20:
        width = max(map(len, [*data.classes, str(matrix.max().item())])) + 1
        print("".join(f"{name:>{width}}" for name in ("", *data.classes)), " ← predicted")
        for name, row in zip(data.classes, matrix.tolist(), strict=True):
            print("".join(f"{cell:>{width}}" for cell in (name, *row)))


def show_suspects(data, suspects, losses, probabilities, folder):
    """Print and draw the samples at `suspects`, the greatest losses first."""
    if len(suspects) == 0:
        print("\nno image is to be removed or relabelled")
        return
    predicted, some = probabilities.argmax(dim=1), suspects[:100]
    names = [(data.classes[data.labels[index]], data.classes[predicted[index]]) for index in some]
    captions = [(*pair, f"loss {losses[index]:.2f}") for pair, index in zip(names, some, strict=True)]
    title = f"{data.source}: the {len(some)} greatest losses, from label to prediction"
    figures.draw_sheet(folder / "top_losses.png", data.images[some], captions, title)
    print(f"\nthe greatest losses of {len(suspects):,} suspects; all are in {folder}/top_losses.csv")
    print("rank   loss  label → prediction  image")
    for rank, (index, pair) in enumerate(zip(some[:10].tolist(), names, strict=False), 1):
        print(f"{rank:4}  {losses[index]:5.2f}  {' → '.join(pair):18}  {data.ids[index]}")
    print("\n" + spread_over_classes(data.labels, predicted, suspects, data.classes))


def show_found(data, truth, order, changed, folder):
    """Print how many wrong labels the `changed` samples, bool (N,), hold, and draw those that they miss."""
    wrong = truth != data.labels
    n_found, n_changed, n_wrong = (wrong & changed).sum().item(), changed.sum().item(), wrong.sum().item()
    precision, recall = n_found / max(n_changed, 1), n_found / max(n_wrong, 1)
    print(
        f"\nof the {n_changed:,} suspects {n_found:,} labels are wrong (precision {precision:.1%}), "
        f"of {n_wrong:,} wrong labels in all (recall {recall:.1%})"
    )
    missed = (wrong & ~changed)[order].nonzero().flatten()  # as places in the order
    if len(missed) > 0:
        indices = order[missed[:100]]
        captions = [
            (data.classes[data.labels[index]], data.classes[truth[index]], f"rank {rank + 1:,}")
            for rank, index in zip(missed.tolist(), indices, strict=False)
        ]
        title = f"{data.source}: {len(captions)} of {len(missed):,} missed wrong labels, from label to truth"
        figures.draw_sheet(folder / "missed.png", data.images[indices], captions, title)


def sum_up(before, after, n_suspects, n):
    """Say in a sentence what the cleaning changed, given `train_seeds`' rows before it and after it."""
    parts = []
    for measure, factor, unit in (("train_loss", 1, ""), ("test_accuracy", 100, " points")):
        mean, sd, larger = difference(*([factor * row[measure] for row in rows] for rows in (before, after)))
        verdict = {None: "which one seed cannot tell from chance", True: "more than chance explains"}
        size = f"{mean:+.4f} ± {sd:.4f}" if factor == 1 else f"{mean:+.2f} ± {sd:.2f}"
        parts.append(f"{measure.replace('_', ' ')} by {size}{unit}, {verdict.get(larger, 'within chance')}")
    share = f"{n_suspects:,} of {n:,} images ({n_suspects / n:.2%})"
    print(f"\nCleaning {share} changed {parts[0]}, and {parts[1]}.")


# ---------------------------------------------------------------- the command line

FLAGS = {
    "remove": {
        "type": positive(int),
        "metavar": "N",
        "help": "images to remove, the greatest losses first (default: 100)",
    },
    "mislabelled": {
        "type": positive(int),
        "metavar": "N",
        "help": "wrong labels in the imperfect data that are made where there are none (default: 100)",
    },
    "seeds": {"type": positive(int), "metavar": "N", "help": "networks for each set of labels (default: 3)"},
    "decisions": {
        "metavar": "FILE",
        "help": "instead of --remove: do what the column action of this edited top_losses.csv says",
    },
    "write_clean": {"metavar": "DIR", "help": "write the cleaned data set to this new folder"},
}


def main(arguments=None):
    """Diagnose as the command line says."""
    settings, options = parse(__doc__, arguments, FLAGS, init="xavier", epochs=1)
    config, resume = None, options["resume"]
    if resume:
        settings, config = resumable(Path(resume), "effect.csv", options)
        options = config["options"]
    settings = complete(settings)
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True
    source, clean = find_imperfect(settings.data, options["mislabelled"] or 100)
    settings = replace(settings, data=source)

    data, test = load(source, settings.limit, settings.image_size)
    truth = true_labels(data, load(clean, None, settings.image_size)[0]) if clean else None
    print(f"{source}: {len(data):,} training and {len(test):,} test images in {len(data.classes)} classes")
    if truth is None:
        print("no clean copy of it is known, so neither are the true labels")
    elif (truth < 0).any():
        print(f"{(truth < 0).sum():,} of its images are not in {clean}: the true labels are not known")
        truth = None
    else:
        print(f"{(truth != data.labels).sum():,} of its labels are not those of {clean}")
    check(options, data, source)
    model = train.build(settings, len(data.classes), data.images.shape[1:])
    now = describe(settings, model, data, test, options)
    folder = start_or_resume("diagnosis", now, options["out"], resume, config)
    with resumable_by("diagnose.py", folder), locked(folder):
        diagnose(data, test, truth, settings, options, folder)
    print(f"look at {folder}/top_losses.png, confusion_train.png and confusion_test.png")
    print(f"next: edit the column action in {folder}/top_losses.csv (remove, keep, relabel), then")
    done = ["python", "diagnose.py", "--data", source, "--decisions", f"{folder}/top_losses.csv"]
    print(shlex.join([*done, "--write-clean", f"{clean or source.rstrip('/')}_cleaned"]))


def check(options, data, source):
    """Raise UserError where `options` cannot be met, before anything is trained."""
    if options["decisions"] and options["remove"]:
        raise UserError("--decisions says what to remove: leave out --remove")
    n_remove = options["remove"] or 100
    if n_remove > len(data) / 2 and not options["decisions"]:
        raise UserError(f"--remove {n_remove}: that is more than half of the {len(data):,} training images")
    if options["decisions"]:
        kept, _ = read_decisions(options["decisions"], data)
        if len(kept) == 0:
            raise UserError(f"--decisions {options['decisions']}: it removes every image")
    if options["write_clean"] and not Path(source, data.ids[0]).is_file():
        raise UserError(f"--write-clean copies image files, and {source} has none; python data.py export")
    if options["write_clean"]:
        check_new(options["write_clean"])


if __name__ == "__main__":
    run_command(main)
