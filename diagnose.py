"""Find wrong labels: train on imperfect data, rank its labels by their losses, remove the worst, train again.

Example: python diagnose.py --remove 100
"""

import os
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from support import pictures
from support.chance import print_effect, print_summary, spread_over_classes
from support.console import UserError, duration, printable, run_command
from support.decisions import check_none_emptied, read_decisions, write_clean, write_ranking
from support.files import check_new, write_csv
from support.image_files import check_copy
from support.run_folder import (
    describe,
    is_finished,
    read_config,
    read_resumable,
    resumable_by,
    start_or_resume,
)
from support.settings import Options, complete, flag, parse

import torch

import models
import train
from data import find_imperfect, known_truth, load

# By default: what found most wrong labels in the time that nine networks may take (results/wrong_labels.csv).
RECIPE = {"init": "xavier", "epochs": 2, "augment": True}
SURE = 4  # another class is e⁴ ≈ 55 times as probable as the label


@dataclass(frozen=True)
class DiagnosisOptions(Options):
    """What diagnose.py is told besides the settings of its networks."""

    remove: int = flag(None, "images to remove, the most suspicious first (default: 100)")
    mislabelled: int = flag(
        None,
        "wrong labels in the imperfect data that are made where there are none (default: 100)",
    )
    seeds: int = flag(3, "networks for each set of labels")
    decisions: str = flag(
        None,
        "instead of --remove: do what the column action of this edited top_losses.csv says; "
        "with --write-clean only that, without training",
        metavar="FILE",
    )
    write_clean: str = flag(None, "write the cleaned data set to this new folder", metavar="DIR")


# ---------------------------------------------------------------- counting and ranking


def confusion_matrix(labels, predicted, n_classes):
    """Count the (true, predicted) pairs: int64 (n_classes, n_classes), rows true, columns predicted classes.

    `labels` and `predicted` are int64 (N,) class indices. A row's sum is how many samples its class has; the
    diagonal holds the right answers.
    """
    pairs = labels * n_classes + predicted  # the cells' numbers, row by row
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)


def losses_of(labels, log_probabilities):
    """Return each sample's cross-entropy, float (N,).

    `labels` is int64 (N,), `log_probabilities` float (N, classes), a mean over networks.
    """
    return -log_probabilities.gather(1, labels[:, None]).squeeze(1)


def scores_of(labels, log_probabilities):
    """Return how wrong each label looks, float (N,): its loss plus the log of how common such a mistake is.

    Among the samples whose label is surely wrong, that is the share of those with the same label and the same
    best other class, in the spirit of the confident joint (Northcutt et al. 2021). So where 4s and 9s were
    mixed up, a doubtful 4 comes before an equally doubtful 7. Arguments as for `losses_of`.
    """
    n_classes = log_probabilities.shape[1]
    losses = losses_of(labels, log_probabilities)
    other_log_p, other = log_probabilities.scatter(1, labels[:, None], -torch.inf).max(dim=1)
    pair = labels * n_classes + other
    sure = other_log_p + losses > SURE  # a loss is minus the label's log-probability
    counts = torch.bincount(pair[sure], minlength=n_classes**2) + 1  # a pair never seen is not impossible
    return losses + (counts / counts.sum()).log()[pair]


def greatest_first(values):
    """Return the indices of `values`, float (N,), from the greatest down; equal ones in their own order."""
    return values.argsort(descending=True, stable=True)


def top_losses(labels, log_probabilities):
    """Rank samples by how wrong their labels look (exercise sheet 1.4 c): return (order, scores, losses).

    `labels` is int64 (N,), `log_probabilities` float (networks, N, classes). `order` is int64 (N,), the
    samples' indices, the greatest of the `scores` first. Of the networks' log-probabilities the mean counts.
    """
    mean = log_probabilities.mean(dim=0)
    scores = scores_of(labels, mean)
    return greatest_first(scores), scores, losses_of(labels, mean)


def without_first(order, n):
    """Return which samples stay, bool (N,), where the first `n` of `order`, int64 (N,), are removed."""
    kept = torch.ones(len(order), dtype=torch.bool)
    kept[order[:n]] = False
    return kept


# ---------------------------------------------------------------- the experiment


def train_seeds(labelling, data, truth, test, settings, folder, n_seeds, n_networks=0):
    """Train a network from each seed on `data`; return (models, rows), each row the last epoch's metrics.

    `labelling` names the labels: clean, imperfect or cleaned. `truth` holds the true ones, int64 (N,), or is
    None; from it a row says how many labels are wrong. Every network has a folder in `folder`, from which an
    interrupted diagnosis takes it up again. With `n_networks`, prints an estimate for so many.
    """
    networks, rows = [], []
    n_wrong = None if truth is None else (data.labels != truth).sum().item()
    for seed in range(settings.seed, settings.seed + n_seeds):
        print(f"\n{labelling} labels, seed {seed}")
        seeded = replace(settings, seed=seed)
        model = models.build(seeded, len(data.classes), data.images.shape[1:])
        network_folder = folder / f"{labelling}-{data.fingerprint()}-{seed}"  # other labels, other networks
        network_folder.mkdir(parents=True, exist_ok=True)
        history = train.fit(model, data, test, seeded, network_folder)
        seconds = n_networks * sum(row["seconds"] for row in history) * 1.15  # with the tests
        if seconds > 60 and not rows:
            print(f"the {n_networks} networks take about {duration(seconds)}; Ctrl-C stops, --resume goes on")
        row = {"labelling": labelling, "seed": seed, "n_images": len(data), "n_wrong": n_wrong}
        rows.append(row | history[-1])
        networks.append(model)
    return networks, rows


def diagnose(data, test, truth, settings, options, folder):
    """Run the experiment in `folder`; `truth` holds the true labels, int64 (N,), or is None."""
    clean_rows = []
    n_networks = (2 if truth is None else 3) * options.seeds
    if truth is not None:
        clean = replace(data, labels=truth)
        clean_rows = train_seeds("clean", clean, truth, test, settings, folder, options.seeds, n_networks)[1]
        n_networks = 0  # the estimate is printed already
    networks, rows = train_seeds("imperfect", data, truth, test, settings, folder, options.seeds, n_networks)
    if clean_rows:
        print_effect(clean_rows, rows)
    log_probabilities = predict_all(networks, data, settings)
    probabilities = log_probabilities.exp().mean(dim=0)
    test_probabilities = predict_all(networks, test, settings).exp().mean(dim=0)
    show_confusion("training set, imperfect labels", data, probabilities, folder / "confusion_train.png")
    show_confusion("test set", test, test_probabilities, folder / "confusion_test.png")

    order, scores, losses = top_losses(data.labels, log_probabilities)
    ranking = folder / "top_losses.csv"
    if not ranking.exists():  # else this diagnosis is resumed, and a person may have edited it meanwhile
        if options.decisions:
            kept, labels = read_decisions(options.decisions, data)
        else:
            kept, labels = without_first(order, options.remove), data.labels
            check_none_emptied(data, kept, labels, f"--remove {options.remove}")  # before it is in a file
        write_ranking(ranking, data, order, scores, losses, probabilities, kept, labels)
    kept, labels = read_decisions(ranking, data)
    write_review(data, settings, order, losses, probabilities, kept, labels, folder)
    changed = ~kept | (labels != data.labels)
    suspects = order[changed[order]]
    show_suspects(data, suspects, scores, losses, probabilities, folder)
    if truth is not None:
        show_found(data, truth, order, changed, folder)

    cleaned = replace(data, labels=labels).subset(kept.nonzero().flatten())
    cleaned_truth = None if truth is None else truth[kept]
    _, cleaned_rows = train_seeds("cleaned", cleaned, cleaned_truth, test, settings, folder, options.seeds)
    print_effect(rows, cleaned_rows)
    print_summary(rows, cleaned_rows, len(suspects), len(data))
    if options.write_clean:
        write_clean(settings.data, options.write_clean, data, kept, labels)
    write_csv(folder / "effect.csv", [*clean_rows, *rows, *cleaned_rows])  # the last file: all is done


def predict_all(networks, data, settings):
    """Return the log-probabilities that `networks` give to `data`, float (networks, N, classes)."""
    return torch.stack([train.predict(network, data, settings) for network in networks]).log_softmax(2).cpu()


def show_confusion(name, data, probabilities, path):
    """Print and draw how the labels of `data` agree with the `probabilities`, float (N, classes)."""
    matrix = confusion_matrix(data.labels, probabilities.argmax(dim=1), len(data.classes))
    n_wrong = (matrix.sum() - matrix.trace()).item()
    wrong = f"{n_wrong:,} of {len(data):,} labels differ from the prediction"
    legend = "rows: label, columns: prediction"
    pictures.draw_confusion(path, matrix, data.classes, f"{data.source}, {name}", f"{wrong}; {legend}")
    print(f"\n{name}: {wrong}")
    if len(data.classes) <= 20:
        names = [printable(name) for name in data.classes]  # one line each
        width = max(map(len, [*names, str(matrix.max().item())])) + 1
        print("".join(f"{name:>{width}}" for name in ("", *names)), " ← predicted")
        for name, row in zip(names, matrix.tolist(), strict=True):
            print("".join(f"{cell:>{width}}" for cell in (name, *row)))


def write_review(data, settings, order, losses, probabilities, kept, labels, folder):
    """Write review.html, the page on which a person decides; arguments as for `review_tab`."""
    from support.review import review_tab, write_page  # not above, as train.py only counts with this file

    tab = review_tab(data, settings.data, order, losses, probabilities, kept, labels)
    config = read_config(folder)[1]
    key = " ".join([config["checksum"], *config["data"]["fingerprint"]])
    command = to_carry_out(folder / "decisions.csv", data, settings)
    write_page(folder / "review.html", data.source, {"training images": tab}, data.classes, key, command)


def show_suspects(data, suspects, scores, losses, probabilities, folder):
    """Print and draw the samples at `suspects`, the highest scores first."""
    if len(suspects) == 0:
        print("\nno image is to be removed or relabelled")
        return
    predicted = probabilities.argmax(dim=1)
    shown = suspects[:100]
    names = [(data.classes[data.labels[index]], data.classes[predicted[index]]) for index in shown]
    captions = [(*pair, f"loss {losses[index]:.2f}") for pair, index in zip(names, shown, strict=True)]
    title = f"{data.source}: {len(shown)} suspects by score, from label to prediction"
    pictures.draw_sheet(folder / "top_losses.png", data.images[shown], captions, title)
    print(
        f"\n{len(suspects):,} suspects; {folder}/top_losses.png has the first 100, top_losses.csv all images"
    )
    print("the score is the loss plus the log of the mistake's share of the surely wrong labels:")
    print("rank  score   loss  label → prediction  image")
    for rank, (index, pair) in enumerate(zip(shown[:10].tolist(), names, strict=False), 1):
        numbers = f"{rank:4}  {scores[index]:5.2f}  {losses[index]:5.2f}"
        print(printable(f"{numbers}  {' → '.join(pair):18}  {data.ids[index]}"))
    n_agreed = (predicted == data.labels)[suspects].sum().item()
    if n_agreed:
        print(f"{n_agreed:,} of the suspects have the label that is predicted: fewer are likely to be wrong")
    disagreeing = suspects[predicted[suspects] != data.labels[suspects]]
    if len(disagreeing):
        print("\n" + spread_over_classes(data.labels, predicted, disagreeing, data.classes))


def show_found(data, truth, order, changed, folder):
    """Print how many wrong labels the `changed` samples, bool (N,), hold, and draw those that they miss."""
    wrong = truth != data.labels
    n_found, n_changed, n_wrong = (wrong & changed).sum().item(), changed.sum().item(), wrong.sum().item()
    precision, recall = n_found / max(n_changed, 1), n_found / max(n_wrong, 1)
    print(
        f"\nof the {n_changed:,} suspects {n_found:,} labels are wrong (precision {precision:.1%}), "
        f"of {n_wrong:,} wrong labels in all" + (f" (recall {recall:.1%})" if n_wrong else "")
    )
    missed = (wrong & ~changed)[order].nonzero().flatten()  # as places in the order
    if len(missed) > 0:
        indices = order[missed[:100]]
        captions = [
            (data.classes[data.labels[index]], data.classes[truth[index]], f"rank {rank + 1:,}")
            for rank, index in zip(missed.tolist(), indices, strict=False)
        ]
        title = f"{data.source}: {len(captions)} of {len(missed):,} missed wrong labels, from label to truth"
        pictures.draw_sheet(folder / "missed.png", data.images[indices], captions, title)
        print(f"the first of them to be missed has rank {missed[0] + 1:,}; see {folder}/missed.png")


# ---------------------------------------------------------------- the command line


def main(arguments=None):
    """Diagnose as the command line says."""
    settings, options = parse(__doc__, arguments, DiagnosisOptions, **RECIPE)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("this is one process; train.py and search.py make use of torchrun")
    config = None
    resume = options.resume
    if resume:
        settings, config = read_resumable(Path(resume), asdict(options))
        if is_finished(resume, "effect.csv"):
            return
        options = replace(DiagnosisOptions(**config["options"]), resume=resume)
    else:
        check_flags(settings, options)
    options = replace(options, remove=options.remove or 100)
    settings = complete(settings)
    only_copies = options.decisions and options.write_clean
    if not only_copies:
        models.check_image_size(settings)  # before the data are looked for
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True
    if options.write_clean and not resume:
        check_new(options.write_clean)  # before the data are read
    n_wrong = options.mislabelled or 100
    source, clean = find_imperfect(settings.data, n_wrong, lambda n: check_remove(options, n, settings.limit))
    settings = replace(settings, data=source)

    data, test = load(source, settings.limit, settings.image_size)
    print(f"{source}: {len(data):,} training and {len(test):,} test images in {len(data.classes)} classes")
    check_data(source, data, settings, options)
    sized = ["--image-size", str(settings.image_size)] if settings.image_size else []
    if only_copies:
        write_clean(source, options.write_clean, data, *read_decisions(options.decisions, data))
        words = ["python", "train.py", "--init", "xavier", "--data", options.write_clean, *sized]
        print(f"next: {shlex.join(words)}")
        return
    truth = known_truth(data, clean, settings.image_size)
    model = models.build(settings, len(data.classes), data.images.shape[1:])
    description = describe(settings, model, data, test, asdict(replace(options, resume=None)))
    folder = start_or_resume("diagnosis", description, options, config)
    with resumable_by(["diagnose.py", "--resume", folder], folder):
        diagnose(data, test, truth, settings, options, folder)
    print(f"\nlook at the pictures in {folder}; next, open {folder}/review.html in a browser, or edit the")
    print(f"column action (remove, keep, relabel) of {folder}/top_losses.csv, and carry it out:")
    print(to_carry_out(folder / "top_losses.csv", data, settings))


def to_carry_out(file, data, settings):
    """Return the command line that carries out the decisions in `file`."""
    words = ["python", "diagnose.py", "--data", settings.data, "--decisions", str(file)]
    words += ["--image-size", str(settings.image_size)] if settings.image_size else []
    if Path(settings.data, data.ids[0]).is_file():
        words += ["--write-clean", f"{settings.data.rstrip('/')}_cleaned"]
    return shlex.join(words)


def check_flags(settings, options):
    """Raise UserError where flags do not go together."""
    if options.decisions and options.remove:
        raise UserError("--decisions says what to remove: leave out --remove")
    if options.mislabelled and settings.data != "auto":
        raise UserError("--mislabelled makes the imperfect data itself: leave out --data")
    if options.write_clean and options.out:
        out, clean = Path(options.out).resolve(), Path(options.write_clean).resolve()
        if out.is_relative_to(clean) or clean.is_relative_to(out):
            raise UserError("--out and --write-clean need a folder each")


def check_remove(options, n_images, limit=None):
    """Raise UserError where --remove is too much for `n_images` training images, at most `limit`."""
    n_images = min(n_images, limit or n_images)
    if options.remove > n_images / 2 and not options.decisions:
        raise UserError(
            f"--remove {options.remove}: that is more than half of the {n_images:,} training images"
        )


def check_data(source, data, settings, options):
    """Raise UserError where `options` cannot be met with `data`, before anything is trained."""
    check_remove(options, len(data))
    if options.write_clean and not Path(source, data.ids[0]).is_file():
        raise UserError(f"--write-clean copies image files, and {source} has none; python data.py export")
    if options.write_clean and not options.resume:
        check_copy(source, options.write_clean)
    if options.decisions and not options.resume:
        read_decisions(options.decisions, data)  # its faults before the training


if __name__ == "__main__":
    run_command(main)
