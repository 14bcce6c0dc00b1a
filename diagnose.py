"""Find wrong labels: train on imperfect data, rank its labels by their losses, remove the worst, train again.

Example: python diagnose.py --remove 100
"""

import itertools
import os
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from support import diagnosis_report
from support.chance import print_effect, print_summary
from support.console import UserError, duration, keep_freed_memory, run_command
from support.decisions import changed, check_none_emptied, read_decisions, write_clean, write_ranking
from support.files import check_new, write_csv, written
from support.image_folders import check_copy
from support.mislabelled import contradicted_copies, note_contents
from support.review import review_tab, write_page
from support.run_folder import (
    describe,
    is_finished,
    read_config,
    read_resumable,
    resumable_by,
    start_or_resume,
)
from support.settings import Options, complete, flag, parse, with_epochs

import torch

import models
import train
from data import find_imperfect, known_truth, load

# By default: what found most wrong labels in the time that nine networks may take (results/wrong_labels.csv).
RECIPE = {"init": "xavier", "augment": True}
# The usual and the most. A network that sees few images too often learns wrong labels by heart: of 15 wrong
# ones among 300 of MNIST's, three networks found 12 after 10 epochs, 11 after 17, 6 after 34 and 2 after 67.
N_EPOCHS, N_FROZEN_EPOCHS = (2, 10), (10, 10)
# The decisions that a diagnosis began with: their own file may change before it is resumed.
DECIDED = "decided.csv"
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


class Ranking(NamedTuple):
    """The samples of one half of the data, ranked by how wrong their labels look."""

    order: torch.Tensor  # int64 (N,), indices, the most suspicious label first
    scores: torch.Tensor  # float (N,), by which they are ranked
    losses: torch.Tensor  # float (N,)
    probabilities: torch.Tensor  # float (N, classes), the mean over the networks


def rank_training(data, log_probabilities):
    """Return the Ranking of the training images `data`, to which networks gave float (networks, N, classes).

    Of copies with different labels one is wrong for sure: that which the networks contradict comes first.
    """
    order, scores, losses = top_losses(data.labels, log_probabilities)
    contradicted = contradicted_copies(data.images, data.labels, losses)
    order = order[greatest_first(contradicted[order].float())]
    return Ranking(order, scores, losses, log_probabilities.exp().mean(dim=0))


def rank_test(test, log_probabilities):
    """Return the Ranking of the test images: by loss alone, as the networks never saw them."""
    losses = losses_of(test.labels, log_probabilities.mean(dim=0))
    return Ranking(greatest_first(losses), losses, losses, log_probabilities.exp().mean(dim=0))


def without_first(order, n, n_samples):
    """Return which samples stay, bool (n_samples,), where the first `n` of `order`, indices, are removed."""
    kept = torch.ones(n_samples, dtype=torch.bool)
    kept[order[:n]] = False
    return kept


# ---------------------------------------------------------------- the experiment


def train_seeds(labelling, data, truth, fit, settings, folder, n_seeds, n_networks=0):
    """Train a network from each seed on `data`; return (networks, rows), a row the last epoch's metrics.

    `labelling` names the labels: clean, imperfect or cleaned. `truth` holds the true ones, int64 (N,), or is
    None; from it a row says how many labels are wrong. `fit(data, settings, folder)` returns (network,
    history). Every network has a folder in `folder`, from which an interrupted diagnosis takes it up again.
    With `n_networks`, prints an estimate for so many.
    """
    networks, rows = [], []
    n_wrong = None if truth is None else (data.labels != truth).sum().item()
    for seed in range(settings.seed, settings.seed + n_seeds):
        print(f"\n{labelling} labels, seed {seed}")
        network_folder = folder / f"{labelling}-{data.fingerprint()}-{seed}"  # other labels, other networks
        network_folder.mkdir(parents=True, exist_ok=True)
        network, history = fit(data, replace(settings, seed=seed), network_folder)
        seconds = n_networks * sum(row["seconds"] for row in history) * 1.15  # with the tests
        if seconds > 60 and not rows:
            print(f"the {n_networks} networks take about {duration(seconds)}; Ctrl-C stops, --resume goes on")
        row = {"labelling": labelling, "seed": seed, "n_images": len(data), "n_wrong": n_wrong}
        rows.append(row | history[-1])
        networks.append(network)
    return networks, rows


def predict_all(networks, data, settings):
    """Return the log-probabilities that `networks` give to `data`, float (networks, N, classes)."""
    return torch.stack([train.predict(network, data, settings) for network in networks]).log_softmax(2).cpu()


def diagnose(model, data, test, truth, settings, options, folder):
    """Run the experiment in `folder`; `truth` holds the true labels, int64 (N,), or is None.

    Of a frozen `model` the features are computed once, for all networks: these are then last layers.
    """
    keep_freed_memory()
    inputs, test_inputs = data, test
    if settings.freeze:
        _, inputs, test_inputs = train.frozen(model, data, test, settings)
    place = {name: index for index, name in enumerate(data.ids)}

    def fit(part, settings, folder):  # part of `data`, with its labels or others
        network = models.build(settings, len(part.classes), part.images.shape[1:])
        if settings.freeze:
            network = models.last_layer(network)[1]
            part = replace(part, images=inputs.images[[place[name] for name in part.ids]])
        return network, train.fit(network, part, test_inputs, settings, folder)

    clean_rows = []
    common = (fit, settings, folder, options.seeds)
    n_networks = (2 if truth is None else 3) * options.seeds
    if truth is not None:
        _, clean_rows = train_seeds("clean", replace(data, labels=truth), truth, *common, n_networks)
        n_networks = 0  # the estimate is printed already
    networks, rows = train_seeds("imperfect", data, truth, *common, n_networks)
    if clean_rows:
        print_effect(clean_rows, rows)
    rankings = (
        rank_training(data, predict_all(networks, inputs, settings)),
        rank_test(test, predict_all(networks, test_inputs, settings)),
    )
    decided = show_labels((data, test), rankings, truth, settings, options, folder)

    kept, labels = decided[0]
    cleaned = replace(data, labels=labels).subset(kept.nonzero().flatten())
    cleaned_truth = None if truth is None else truth[kept]
    _, cleaned_rows = train_seeds("cleaned", cleaned, cleaned_truth, *common)
    print_effect(rows, cleaned_rows)
    print_summary(rows, cleaned_rows, changed(data, kept, labels).sum().item(), len(data))
    if options.write_clean:
        write_clean(settings.data, options.write_clean, (data, test), decided)
    write_csv(folder / "effect.csv", [*clean_rows, *rows, *cleaned_rows])  # the last file: all is done


def show_labels(halves, rankings, truth, settings, options, folder):
    """Print, draw and write what the Rankings say of the labels; return the decisions, as `decide` does."""
    for name, half, ranking in zip(("train", "test"), halves, rankings, strict=True):
        predicted = ranking.probabilities.argmax(dim=1)
        matrix = confusion_matrix(half.labels, predicted, len(half.classes))
        title = {"train": "training set, imperfect labels", "test": "test set"}[name]
        diagnosis_report.show_confusion(title, half, matrix, folder / f"confusion_{name}.png")
    decided = decide(halves, rankings, options, folder)
    write_review(halves, rankings, decided, settings, folder)
    data, test = halves
    suspects, of_test = (changed(half, *each) for half, each in zip(halves, decided, strict=True))
    diagnosis_report.show_suspects(data, suspects, rankings[0], folder)
    if truth is not None:
        diagnosis_report.show_found(data, truth, rankings[0].order, suspects, folder)
    diagnosis_report.show_test(test, of_test.sum().item(), rankings[1], folder)
    return decided


def decide(halves, rankings, options, folder):
    """Return (kept, labels) of the training and of the test images, as top_losses.csv and its like say.

    These are written here, unless this diagnosis is resumed: then a person may have edited them meanwhile.
    """
    data, test = halves
    files = (folder / "top_losses.csv", folder / "top_losses_test.csv")
    if not all(file.exists() for file in files):
        if options.decisions:
            decided = read_decisions(folder / DECIDED, *halves)
        else:
            order, *_, probabilities = rankings[0]
            contradicted = (probabilities.argmax(dim=1) != data.labels)[order]
            kept = without_first(order[contradicted], options.remove, len(data))
            n = contradicted.sum().item()
            if n < options.remove:
                print(f"the networks contradict {n:,} labels: no other image is to be removed")
            check_none_emptied(data, kept, data.labels, f"--remove {options.remove}")  # before it is written
            decided = [(kept, data.labels), (torch.ones(len(test), dtype=torch.bool), test.labels)]
        for file, half, ranking, (kept, labels) in zip(files, halves, rankings, decided, strict=True):
            if not file.exists():
                write_ranking(file, half, *ranking, kept, labels)
    return [read_decisions(file, half)[0] for file, half in zip(files, halves, strict=True)]


def write_review(halves, rankings, decided, settings, folder):
    """Write review.html, the page on which a person decides; arguments as `decide` takes and returns them."""
    tabs = [
        review_tab(half, settings.data, ranking, *decisions)
        for half, ranking, decisions in zip(halves, rankings, decided, strict=True)
    ]
    tabs = dict(zip(("training images", "test images"), tabs, strict=True))
    data, config = halves[0], read_config(folder)[1]
    key = " ".join([config["checksum"], *config["data"]["fingerprint"]])
    command = to_carry_out(folder / "decisions.csv", data, settings)
    write_page(folder / "review.html", data.source, tabs, data.classes, key, command)


def to_carry_out(file, data, settings):
    """Return the command line that carries out the decisions in `file`."""
    words = ["python", "diagnose.py", "--data", settings.data, "--decisions", str(file)]
    if settings.image_size and settings.model != "vgg16":  # which has a size of its own
        words += ["--image-size", str(settings.image_size)]
    if Path(settings.data, data.ids[0]).is_file():
        clean = f"{settings.data.rstrip('/')}_cleaned"
        taken = (f"{clean}-{number}" if number > 1 else clean for number in itertools.count(1))
        words += ["--write-clean", next(name for name in taken if not Path(name).exists())]
    return shlex.join(words)


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
    note_contents(data, test)
    settings = with_epochs(settings, len(data), *(N_FROZEN_EPOCHS if settings.freeze else N_EPOCHS))
    check_data(source, data, test, options)
    sized = ["--image-size", str(settings.image_size)] if settings.image_size else []
    if only_copies:
        decided = read_decisions(options.decisions, data, test)
        write_clean(source, options.write_clean, (data, test), decided)
        words = ["python", "train.py", "--init", "xavier", "--data", options.write_clean, *sized]
        print(f"next: {shlex.join(words)}")
        return
    truth = known_truth(data, clean, settings.image_size)
    model = models.build(settings, len(data.classes), data.images.shape[1:])
    description = describe(settings, model, data, test, asdict(replace(options, resume=None)))
    folder = start_or_resume("diagnosis", description, options, config)
    with resumable_by(["diagnose.py", "--resume", folder], folder):
        if options.decisions and not (folder / DECIDED).exists():
            with written(folder / DECIDED) as file:
                file.write(Path(options.decisions).read_bytes())
        diagnose(model, data, test, truth, settings, options, folder)
    print(f"\nlook at the pictures in {folder}; next, open {folder}/review.html in a browser and decide.")
    print(f"Move what it saves to {folder}/decisions.csv. (Or edit the column action of top_losses.csv,")
    print("and name that file below.) This carries the decisions out:")
    print(to_carry_out(folder / "decisions.csv", data, settings))


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


def check_data(source, data, test, options):
    """Raise UserError where `options` cannot be met with `data`, before anything is trained."""
    check_remove(options, len(data))
    if options.write_clean and not Path(source, data.ids[0]).is_file():
        raise UserError(f"--write-clean copies image files, and {source} has none; python data.py export")
    if options.write_clean and not options.resume:
        check_copy(source, options.write_clean)
    if options.decisions and not options.resume:
        read_decisions(options.decisions, data, test)  # its faults before the training


if __name__ == "__main__":
    run_command(main)
