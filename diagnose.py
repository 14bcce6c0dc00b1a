"""Find wrong labels: train on the noisy labels, rank the labels, remove the suspects, train again.

python diagnose.py --remove 100
"""

import os
import re
import textwrap
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # OpenMP reads this when torch is imported; see train.py

import torch
import torch.nn.functional as F
from torchvision.transforms.functional import to_pil_image

import data
import models
import train
from support import charts, console, image_folders, label_errors, machine, review, run_folder, statistics
from support.console import UserError, command
from support.image_files import read_image
from support.named_sets import DATA, find, made_by_torchvision

# ---------------------------------------------------------------- the exercise sheet's tools (1.4)


def confusion_matrix(labels, predicted, n_classes):
    """Count the pairs (label, predicted class): int64 (n_classes, n_classes), a row for each label.

    `labels` and `predicted` are int64 (N,). The diagonal counts images whose predicted class is their label.
    """
    pairs = labels * n_classes + predicted  # index of the pair's cell in the flattened matrix
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)


def losses_of(labels, log_probabilities):
    """Return the cross-entropy of each image, float (N,): -log p for the probability p of its label.

    `labels` is int64 (N,), `log_probabilities` float (N, classes).
    """
    return F.nll_loss(log_probabilities, labels, reduction="none") + 0.0  # -0.0 becomes 0.0


def top_losses(losses):
    """Return the indices that sort `losses`, float (N,), from the greatest to the smallest: int64 (N,)."""
    return losses.argsort(descending=True, stable=True)


def rank_labels(split, log_probabilities):
    """Rank the labels of the ImageData `split`, the most likely errors first; return a Namespace.

    `log_probabilities` of an ensemble is float (networks, N, classes). The result's `order` has the indices,
    sorted by the score of label_errors.py. Unlike the loss, this score depends on how often classes are mixed
    up. If copies of an image have different labels, at most one label is right: the labels with the larger
    losses come first in `order`. `n_wrong` estimates how many labels are wrong: (low, high) or None.
    """
    labels, together = split.labels, label_errors.ensemble(log_probabilities)
    losses, scores = losses_of(labels, together), label_errors.error_scores(labels, together)
    copies = label_errors.contradicted_copies(data.digests(split.images), labels, losses)
    order = top_losses(scores)
    order = order[top_losses(copies[order].float())]
    view = {"split": split, "predicted": together.argmax(dim=1), "probabilities": together.exp()}
    view["n_wrong"] = label_errors.count_errors(labels, together)
    return Namespace(order=order, ranks=order.argsort() + 1, scores=scores, losses=losses, **view)


# ---------------------------------------------------------------- the experiment


def diagnose(model, splits, truth, parts, settings, options, folder):
    """Train on the noisy labels, write the page, train on the cleaned labels, then on the true ones.

    If `model` is frozen, only its last layer is trained, on features that are computed once; otherwise each
    seed has its own network. `splits` are the training and the test ImageData, `parts` the review.Decisions
    of a person about each. `truth` has the true training labels, int64 (N,), or is None.
    """
    noisy, inputs, layer = splits[0], splits, None
    if settings.freeze:
        layer, *inputs = train.extract_features(model, *splits, settings)
    place = lengthened(inputs, truth, settings, folder, layer) if options.lengthen else folder
    fit = partial(train_networks, inputs, truth, settings, options.seeds, place, layer)
    before, logits = fit("noisy", noisy.labels)
    pairs = zip(splits, logits, strict=True)
    views = [rank_labels(split, torch.stack(each).log_softmax(2)) for split, each in pairs]
    parts = [with_suspects(views[0], parts[0], options.remove), parts[1]]
    if not (folder / "review.html").exists():  # a resumed run keeps tables that you may have edited
        report(views, parts, truth, settings, folder)
    print(f"\nto decide which labels are wrong, open {(folder / 'review.html').resolve().as_uri()}")
    if options.write_clean and not os.path.exists(options.write_clean):
        carry_out(settings.data, folder / "top_losses.csv", options.write_clean)
    after, true, is_cleaned = [], [], review.is_changed(noisy.labels, parts[0]).any()
    has_truth = truth is not None and (truth != noisy.labels).any()
    if is_cleaned or has_truth:
        print("the networks that follow only measure the effect: Ctrl-C loses nothing", flush=True)
    if is_cleaned:
        after, _ = fit("cleaned", parts[0].new_labels, parts[0].kept)
        print_effect("effect of the cleaning", before, after)
    if has_truth:
        true, _ = fit("true", truth)
        print_effect("effect of the wrong labels", true, before)
    run_folder.write_csv(folder / "effect.csv", [*before, *after, *true])  # the last file of a finished run


def train_networks(splits, truth, settings, n_seeds, folder, layer, labelling, labels, kept=None):
    """Train a network for each seed on `labels`, int64 (N,); return (rows of effect.csv, logits).

    `logits` has a tuple for the training images, only if `labelling` is "noisy", and a tuple for the test
    images, each with a tensor for each network. `kept`, bool (N,), selects the training images. If `layer` is
    given, it is trained instead of a network. Results in FOLDER/LABELLING-SEED are not computed again.
    """
    rows, logits = [], []
    part = replace(splits[0], labels=labels)
    part = part if kept is None else part.subset(kept.nonzero().flatten())
    n_wrong = "" if truth is None else (part.labels != (truth if kept is None else truth[kept])).sum().item()
    for seed in range(settings.seed, settings.seed + n_seeds):
        name, place = f"{labelling} labels, seed {seed}", folder / f"{labelling}-{seed}"
        if not (place / "result.pt").exists():
            place.mkdir(parents=True, exist_ok=True)
            own = Namespace(**vars(settings) | {"seed": seed})
            if layer:
                torch.manual_seed(seed)
                layer.reset_parameters()
            network = layer or models.build(own, len(part.classes), part.images.shape[1])
            history, *outputs = train.train(network, part, splits[1], own, place, name)
            row = {"labelling": labelling, "seed": seed, "n_images": len(part), "n_wrong": n_wrong}
            row |= history[-1] | {"seconds": sum(epoch["seconds"] for epoch in history)}
            if labelling == "noisy":
                outputs = [train.predict(network, part.images, own, name).cpu(), *outputs]
            run_folder.write_tensors(place / "result.pt", {"row": row, "logits": outputs})
            (place / "state.pt").unlink(missing_ok=True)
            accuracy, seconds = f"test accuracy {row['test_accuracy']:.2%}", console.duration(row["seconds"])
            print(f"{name}: {accuracy}, test loss {row['test_loss']:.4f}, {seconds}", flush=True)
        row, outputs = run_folder.read_tensors(place / "result.pt").values()
        rows.append(row)
        logits.append(outputs)
    return rows, list(zip(*logits, strict=True))


def lengthened(splits, truth, settings, folder, layer):
    """Train a first network, raise settings.epochs if it fits badly, and return the folder for all networks.

    Arguments are as for `train_networks`. Networks that fit the labels badly also rank them badly: on
    CIFAR-10N the training accuracy is 58 % after two epochs; after eight they find a fifth more errors.
    """
    (brief,), _ = train_networks(splits, truth, settings, 1, folder, layer, "noisy", splits[0].labels)
    if brief["train_accuracy"] >= 0.7:
        return folder
    settings.epochs, seconds = round(3.5 * settings.epochs), 3.5 * brief["seconds"]
    print(f"the first network's training accuracy is only {brief['train_accuracy']:.0%}:", end=" ")
    print(
        f"all train for {settings.epochs} epochs, about {console.duration(seconds)} per network", flush=True
    )
    return folder / "longer"


def with_suspects(view, decisions, n):
    """Return a person's `decisions`, in which at most the `n` likeliest errors in `view` are removed too.

    If `n` is None, it is the high estimate, or 0 if there is no estimate or the person changed something.
    """
    changed = review.is_changed(view.split.labels, decisions)
    n = n or (0 if changed.any() or not view.n_wrong else view.n_wrong[1])
    order = view.order[~decisions.decided[view.order]]
    kept = decisions.kept.clone()
    labels = view.split.labels.where(~changed, -1)  # -1 if the person changed the image
    kept[label_errors.most_likely_errors(labels, view.predicted, order, n)] = False
    return decisions._replace(kept=kept)


def carry_out(source, table, out):
    """Copy the image folder `source` to `out`, byte by byte, and apply the decisions in `table`."""
    listings = image_folders.list_folder(source)
    ids = [Path(each).relative_to(source).as_posix() for listing in listings for each in listing.files]
    classes, labels = listings[0].classes, torch.tensor(listings[0].labels + listings[1].labels)
    new = review.new_classes(ids, classes, labels, review.read_decisions(table, ids, classes, labels))
    n_in, n_out = image_folders.copy_folder(Path(source), out, new)
    n_removed = list(new.values()).count(None)
    print(f"{out}: a copy of {source}, {n_in:,} files in, {n_out:,} out", end="; ")
    print(f"images removed: {n_removed:,}, relabelled: {len(new) - n_removed:,}")
    print(f"to train on it: {command('train.py', '--init', 'xavier', '--data', Path(out))}")
    again = command("diagnose.py", "--data", Path(out), "--decisions", Path(table))
    print(f"to check its labels again (images that you decided come last): {again}")


# ---------------------------------------------------------------- printed results and pictures


def report(views, parts, truth, settings, folder):
    """Print the results of training on noisy labels; write the pictures, the tables and the review page."""
    tabs, classes, suspects = [], views[0].split.classes, review.is_changed(views[0].split.labels, parts[0])
    for name, view, part in zip(("train", "test"), views, parts, strict=True):
        split, of_test = view.split, name == "test"
        matrix = confusion_matrix(split.labels, view.predicted, len(classes))
        n = (matrix.sum() - matrix.trace()).item()
        title = f"{split.source}, {name}: the networks contradict {n:,} of {len(split):,} labels"
        estimate = " to ".join(f"{n:,}" for n in sorted(set(view.n_wrong or ()))) or "unknown"
        print(f"\n{title} (estimated to be wrong: {estimate})")
        print_confusion(matrix, classes)
        file = folder / f"confusion_{name}.png"
        charts.draw_confusion(file, matrix, classes, title, "networks trained on noisy labels")
        file = folder / f"top_losses{'_test' * of_test}.csv"
        beliefs = view.losses, view.probabilities, part
        review.write_table(file, split.ids, classes, split.labels, view.order, view.scores, *beliefs)
        images = settings.data, split.ids, split.images, split.labels, view.order
        tabs.append(review.page_tab("test images" if of_test else "training images", *images, *beliefs))
        chosen = view.predicted != split.labels if of_test else suspects
        chosen = chosen if chosen.any() else torch.ones_like(chosen)
        draw_images(file.with_suffix(".png"), view, chosen, view.predicted, settings)
    view, split = views[0], views[0].split
    if not view.n_wrong:
        print("\nthe networks contradict too many labels for an estimate: try more --epochs, or see the page")
    elif len(split) < 10_000:
        print("\nwith few images, networks memorise labels: the estimates are too low, so check more labels")
    print_suspects(view, suspects)
    if truth is not None:
        wrong = truth != split.labels
        n_found = (wrong & suspects).sum()
        if suspects.any():
            print(f"{n_found:,} of them are really wrong, of {wrong.sum():,} wrong labels in all")
        draw_images(folder / "missed.png", view, wrong & ~suspects, truth, settings)
    words = ["--data", Path(settings.data), "--decisions", folder / "decisions.csv"]
    if Path(settings.data, split.ids[0]).is_file():
        words += ["--write-clean", f"{Path(settings.data).resolve()}_cleaned"]
    key, to_clean = run_folder.file_fingerprint(folder / "config.json"), command("diagnose.py", *words)
    review.write_page(folder / "review.html", split.source, tabs, classes, key, to_clean)


def print_confusion(matrix, classes):
    """Print a confusion matrix, or its ten most frequent errors if it takes more than 80 columns."""
    names = [console.printable(name)[:20] for name in classes]
    left, digits = max(5, *map(len, names)), len(str(matrix.max().item()))
    width = min(max(left, digits) + 1, (80 - left) // len(names))
    if len(names) > 20 or width <= max(digits, 2):
        return print_errors(matrix, classes, 10)
    for name, counts in zip(["label", *names], [names, *matrix.tolist()], strict=True):
        print(f"{name:{left}}" + "".join(f"{str(cell)[: width - 1]:>{width}}" for cell in counts))


def print_errors(matrix, classes, n):
    """Print the `n` greatest counts off the diagonal of a confusion matrix, such as 4 → 9: 31."""
    errors = (matrix - matrix.diagonal().diag()).flatten()
    cells = [(divmod(cell, len(classes)), errors[cell]) for cell in top_losses(errors)[:n].tolist()]
    pairs = [f"{classes[i]} → {classes[j]}: {count:,}" for (i, j), count in cells if count]
    print(textwrap.fill("label → prediction: " + ", ".join(pairs), 80))


def print_suspects(view, suspects):
    """Print the number of `suspects`, bool (N,), and whether they are spread evenly over the classes."""
    n, classes = suspects.sum().item(), view.split.classes
    print(f"\nsuspects (likely label errors, removed or relabelled in the cleaned labels): {n:,}")
    if not n:
        return
    matrix = confusion_matrix(view.split.labels[suspects], view.predicted[suspects], len(classes))
    print_errors(matrix, classes, 6)
    both = ("labels", matrix.sum(1)), ("predictions", matrix.sum(0))
    even = label_errors.even_spread(view.predicted, n, len(classes))
    p_values = [statistics.chi_square_test(both[i][1], *even[i]) for i in (0, 1)]
    for (name, counts), (expected, _), p in zip(both, even, statistics.holm(p_values), strict=True):
        most, verdict = (counts - expected).argmax(), statistics.verdict(p)
        if verdict:
            print(f"their {name} compared with an even spread over the classes: {verdict}", end="; ")
            excess = f"{classes[most]} has {counts[most]} instead of {expected[most]:.1f}"
            print(f"{excess} (χ² test, p = {p:.2g})")


def draw_images(path, view, chosen, classes, settings):
    """Draw the first hundred `chosen` images, bool (N,), captioned with label → `classes`, int64 (N,)."""
    split, pictures, captions = view.split, [], []
    for index in view.order[chosen[view.order]][:100].tolist():
        file = Path(settings.data, split.ids[index])
        is_file, pair = file.is_file(), (split.labels[index], classes[index])
        picture = to_pil_image(read_image(file, white=split.white) if is_file else split.images[index])
        picture.thumbnail((charts.PHOTO, charts.PHOTO))  # or a hundred photos would fill the memory
        pictures.append(picture)
        names = " → ".join(split.classes[label] for label in pair)
        captions.append((f"{view.ranks[index]}. {names}", f"loss {view.losses[index]:.2f}", file.name))
    if pictures:
        charts.draw_sheet(path, pictures, captions, f"{split.source}: {path.stem.replace('_', ' ')}")


def print_effect(title, before, after):
    """Print the mean metrics in two lists of rows of effect.csv, and paired t tests of the differences."""
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    pairs = [[[row[name] for row in rows] for rows in (before, after)] for name in names]
    tests = [statistics.paired_t_test(*pair) for pair in pairs]
    first, second, end = before[0]["labelling"], after[0]["labelling"], "  95 % interval" * (len(before) > 1)
    print(f"\n{title:27}{first:>10}{second:>10}{'change':>10}{end}")
    p_values = statistics.holm([test.p for test in tests])
    for name, pair, (change, low, high, _), p in zip(names, pairs, tests, p_values, strict=True):
        form, verdict = ".2%" if "accuracy" in name else ".4f", statistics.verdict(p)
        numbers = "".join(f"{number:10{form}}" for number in map(mean, pair)) + f"{change:+10{form}}"
        interval = f"  {low:+{form}} to {high:+{form}}  {verdict}" if verdict else ""
        print(f"{name.replace('_', ' '):27}{numbers}{interval}")


# ---------------------------------------------------------------- the data and the command line


def find_noisy(source, n_wrong):
    """Return (noisy, clean): the data set with wrong labels, and the folder with true labels or None.

    "auto" is data/mnist_png_mislabelled. If this folder is missing, it is made from data/mnist_png, which is
    made from MNIST or the built-in digits. The folder X has the true labels of X_mislabelled….
    """
    if source == "auto":
        source = f"{DATA}/mnist_png_mislabelled" + f"_{n_wrong}" * (n_wrong != 100)
        original = source if Path(source).is_dir() else find()
        source = source.replace("mnist", "digits") if original.endswith("digits") else source
        clean = source.split("_mislabelled")[0]
        if not Path(source).is_dir():
            if not Path(clean).is_dir():
                data.export(clean, original)
            data.mislabel(clean, source, n_wrong)
    clean = re.sub(r"_mislabelled[^/\\]*[/\\]*$", "", source)
    if clean == source or not Path(clean).is_dir():
        return find(source), None
    return source, os.path.join(".", clean)  # ./digits is a folder, digits the built-in data set


def find_truth(noisy, clean):
    """Return the true labels of `noisy`, int64 (N,), from the folder `clean`, or None; print a note."""
    if clean is None:
        return print("the true labels are unknown")
    true, _ = data.load(clean, image_size=noisy.images.shape[2:], white=noisy.white)
    numbers = {name: number for number, name in enumerate(noisy.classes)}
    known = [numbers.get(true.classes[label], -1) for label in true.labels]
    ours, theirs = data.digests(noisy.images), data.digests(true.images)
    truth = label_errors.true_labels(ours, noisy.labels, theirs, known)
    if (truth < 0).any():
        return print(f"the true labels are unknown: {clean} lacks {(truth < 0).sum():,} of the images")
    print(f"{(truth != noisy.labels).sum():,} of the {len(noisy):,} training labels are not those in {clean}")
    return truth


def positive_int_or_auto(text):
    """Parse the value of --remove."""
    return None if text == "auto" else console.positive(int)(text)


def read_flags(arguments):
    """Return (parser, settings, options): `settings` has the flags of train.py, `options` the others."""
    parser, number = console.Parser(description=__doc__), {"type": console.positive(int), "metavar": "N"}
    epochs = "2, or up to 10 for few images; frozen 10; 3.5 times as many if the first network fits badly"
    console.add_network_flags(parser, models.ARCHITECTURE, "xavier")
    console.add_training_flags(parser, None, epochs)
    shared, add = vars(parser.parse_args([])), parser.add_argument
    text = "number of likely errors to remove (default: auto, the high estimate)"
    add("--remove", type=positive_int_or_auto, metavar="N", help=text)
    add("--mislabelled", help="wrong labels that --data auto makes (default: 100)", **number)
    add("--seeds", default=3, help="networks for each set of labels (default: 3)", **number)
    add("--decisions", type=console.path, metavar="FILE", help="apply the decisions in this table")
    text = "write the cleaned images to this new folder (with --decisions: no training)"
    add("--write-clean", type=console.path, metavar="DIR", help=text)
    add("--out", type=console.path, metavar="DIR", help="new run folder (default: in runs/)")
    add("--resume", type=console.path, metavar="RUN", help="continue the run in this folder")
    options = vars(parser.parse_args(arguments))
    settings = Namespace(**{name: options.pop(name) for name in shared})
    return parser, settings, Namespace(**options, lengthen=not settings.epochs)


def main(arguments=None):
    """Diagnose as the command line says."""
    machine.join_torchrun()
    if machine.n_processes() > 1:
        raise UserError("runs in one process; start it without torchrun")
    parser, settings, options = read_flags(arguments)
    resume, config = options.resume, None
    if resume:
        settings, config = run_folder.resumed(resume, parser, "diagnose.py")
        options = Namespace(**{"lengthen": False} | config["options"])
        if Path(resume, "effect.csv").exists():
            return print(f"{resume} is finished; its results are in this folder")
    elif options.mislabelled and settings.data != "auto":
        raise UserError("--mislabelled is for --data auto; for your own folder use data.py mislabel")
    settings.augment = not settings.freeze if settings.augment is None else settings.augment
    console.check_flags(settings, models.ARCHITECTURE)
    settings.data, clean = find_noisy(settings.data, options.mislabelled or 100)
    if options.write_clean and not resume:
        if not Path(settings.data).is_dir() or made_by_torchvision(Path(settings.data)):
            raise UserError(f"--write-clean copies files, but {settings.data} has none: see data.py export")
        image_folders.check_new(options.write_clean, settings.data)
        if options.decisions:
            return carry_out(settings.data, options.decisions, options.write_clean)
    usual_epochs = 10 if settings.freeze else 2
    noisy, test, model, described = train.prepare("diagnose.py", settings, usual_epochs, 10)
    truth = find_truth(noisy, clean)
    if resume:
        folder = Path(resume)
        run_folder.check_same(folder, config, described)
        decisions = review.Decisions(*run_folder.read_tensors(folder / "decisions.pt").values())
    else:
        images = noisy.ids + test.ids, noisy.classes, torch.cat([noisy.labels, test.labels])
        decisions = review.read_decisions(options.decisions, *images)
        folder = run_folder.new_folder("diagnosis", options.out)
        run_folder.write_tensors(folder / "decisions.pt", decisions._asdict())  # you may change the table
    run_folder.write_config(folder, described | {"options": vars(options)})
    splits = zip(*(each.split([len(noisy), len(test)]) for each in decisions), strict=True)
    parts = [review.Decisions(*split) for split in splits]
    with run_folder.resumable("diagnose.py", folder):
        diagnose(model, (noisy, test), truth, parts, settings, options, folder)
    print(f"\nthe tables and pictures are in {folder}")


if __name__ == "__main__":
    console.run_command(main)
