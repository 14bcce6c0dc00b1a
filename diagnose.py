"""Find wrong labels: train on imperfect data, rank its labels, remove the most suspicious, train again.

Example: python diagnose.py --remove 100
"""

import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from support import diagnosis_report
from support.chance import print_effect, print_summary
from support.console import UserError, duration, keep_freed_memory, run_command, shell_words
from support.decisions import (
    DECIDED,
    DiagnosisOptions,
    changed,
    check_data,
    check_flags,
    check_remove,
    decide,
    write_clean,
)
from support.files import check_new, write_csv, written
from support.mislabelled import contradicted_copies, note_contents
from support.review import to_carry_out, write_review
from support.run_folder import describe, is_finished, read_resumable, resumable_by, start_or_resume
from support.settings import Settings, complete, network_flags, parse, with_epochs

import torch

import models
import train
from data import find_imperfect, known_truth, load

# By default, chosen on MNIST: what found most wrong labels in the time that nine networks may take.
RECIPE = {"init": "xavier", "augment": True}
# The usual and the most. A network that sees few images too often learns wrong labels by heart: of 15 wrong
# ones among 300 of MNIST's, three networks found 12 after 10 epochs, 11 after 17, 6 after 34 and 2 after 67.
N_EPOCHS, N_FROZEN_EPOCHS = (2, 10), (10, 10)
N_STEPS = 20  # of expectation maximisation
UNSEEN = 0.5  # added to each label's counts, so that a mistake that was never seen is not impossible

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

    `labels` is int64 (N,), `log_probabilities` float (N, classes), of a network or of several as one.
    """
    return 0 - log_probabilities.gather(1, labels[:, None]).squeeze(1)  # -0.0 would be printed as -0.00


def label_counts(labels, log_probabilities):
    """Estimate how many samples with label i are of class k: float (classes, classes), i the row.

    By expectation maximisation, as Saerens et al. (2002) find the shares of classes, here for the samples of
    each label: one of them is of class k with a probability in proportion to counts[i, k] p_k / π_k, where
    p are the networks' probabilities and π the means of p; the sums over the samples are the next counts.
    Arguments as for `losses_of`.
    """
    log_ratios = ratios_of(log_probabilities)
    n_classes = log_probabilities.shape[1]
    counts = torch.bincount(labels, minlength=n_classes).diag().float()
    for _ in range(N_STEPS):
        probabilities = (log_ratios + (counts + UNSEEN / n_classes).log()[labels]).softmax(dim=1)
        counts = torch.zeros(n_classes, n_classes).index_add_(0, labels, probabilities)
    return counts


def ratios_of(log_probabilities):
    """Return log p_k / π_k: how much likelier each class k is than on average, float (N, classes)."""
    return log_probabilities - (log_probabilities.logsumexp(dim=0) - math.log(len(log_probabilities)))


def scores_of(labels, log_probabilities, counts):
    """Return how wrong each label looks, float (N,): the log of the odds that it is wrong, by Bayes' rule.

        log Σ_{k ≠ i} c_ik p_k / π_k  -  log c_ii p_i / π_i      for the label i

    where c_ik is how often a sample of class k gets that label: where 4s and 9s were mixed up, a doubtful 4
    comes before an equally doubtful 7. That is n_ik of the `label_counts`, but networks are too sure where
    classes are alike; so, with u the usual count (the median of all kinds of mistakes),
    c_ik = u + max(0, n_ik - 3u - 3√n_ik) for k ≠ i. Other arguments as for `losses_of`.
    """
    counts = counts + UNSEEN / len(counts)
    others = ~torch.eye(len(counts), dtype=torch.bool)
    usual = counts[others].median()
    excess = (counts - 3 * usual - 3 * counts.sqrt()).clamp(min=0)
    log_odds = ratios_of(log_probabilities) + torch.where(others, usual + excess, counts).log()[labels]
    of_label = log_odds.gather(1, labels[:, None]).squeeze(1)
    return log_odds.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1) - of_label


def count_wrong(labels, log_probabilities, counts):
    """Estimate how many labels are wrong: (a low number, a high one), ints; None where there is no telling.

    One is the sum of the `label_counts` off the diagonal. But from many wrong labels networks learn to expect
    them (Patrini et al. 2017): then each class has some probability, whatever the sample. Among the samples
    with one prediction, that part of a class's probability is taken to be its 0.3-quantile: those that really
    are like the class have more. The other number is the same sum after that part is taken off the classes
    that are not predicted, at most nine tenths of each probability. It is mostly the higher one. Networks
    that contradict half of the labels cannot tell. Arguments as for `scores_of`.
    """
    probabilities = log_probabilities.exp()
    predicted = probabilities.argmax(dim=1)
    if (predicted != labels).sum() >= len(labels) / 2:
        return None
    expected = torch.zeros_like(counts)
    for k in predicted.unique():
        expected[k] = probabilities[predicted == k].quantile(0.3, dim=0)
    expected.fill_diagonal_(0)
    share = (expected[predicted].log() - log_probabilities).exp()  # of a probability, that is expected
    remaining = log_probabilities + (1 - share).clamp(min=0.1).log()
    both = (counts, label_counts(labels, remaining))
    return tuple(sorted(round((each.sum() - each.trace()).item()) for each in both))


def greatest_first(values):
    """Return the indices of `values`, float (N,), from the greatest down; equal ones in their own order."""
    return values.argsort(descending=True, stable=True)


class Ranking(NamedTuple):
    """Samples, ranked by how wrong their labels look."""

    order: torch.Tensor  # int64 (N,), indices, the most suspicious label first
    scores: torch.Tensor  # float (N,), by which they are ranked
    losses: torch.Tensor  # float (N,)
    probabilities: torch.Tensor  # float (N, classes), of all networks together
    n_wrong: tuple | None  # how many labels are wrong, by `count_wrong`

    @property
    def predicted(self):
        """The likeliest classes, int64 (N,)."""
        return self.probabilities.argmax(dim=1)


def top_losses(data, log_probabilities):
    """Return the Ranking of the ImageData `data` by how wrong their labels look (exercise sheet 1.4 c).

    `log_probabilities` is float (networks, N, classes). The networks count as one, whose probabilities are
    their geometric mean, made to sum to 1. Of copies with different labels one is wrong for sure: the one
    that the networks contradict comes first.
    """
    together = log_probabilities.mean(dim=0).log_softmax(dim=1)
    losses = losses_of(data.labels, together)
    counts = label_counts(data.labels, together)
    scores = scores_of(data.labels, together, counts)
    order = greatest_first(scores)
    contradicted = contradicted_copies(data.images, data.labels, losses)
    order = order[greatest_first(contradicted[order].float())]
    return Ranking(order, scores, losses, together.exp(), count_wrong(data.labels, together, counts))


# ---------------------------------------------------------------- the experiment


def train_seeds(labelling, data, truth, fit, settings, folder, n_seeds, n_networks=0):
    """Train a network from each seed on `data`; return (networks, rows), a row the last epoch's metrics.

    `labelling` names the labels: clean, imperfect or cleaned. `truth` holds the true ones, int64 (N,), or is
    None; from it a row says how many labels are wrong. `fit(data, settings, folder)` returns (network,
    history). Every network is saved in a folder of its own in `folder`, so that an interrupted diagnosis goes
    on. With `n_networks`, prints how long so many take.
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
        init = "default" if settings.freeze else settings.init  # the last layer is new in any case
        network = models.build(replace(settings, init=init), len(part.classes), part.images.shape[1:])
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
    rankings = [
        top_losses(half, predict_all(networks, images, settings))
        for half, images in ((data, inputs), (test, test_inputs))
    ]
    decided = show_labels((data, test), rankings, truth, settings, options, folder)

    kept, labels = decided[0]
    n_changed = changed(data, kept, labels).sum().item()
    cleaned_rows = []
    if n_changed:
        cleaned = replace(data, labels=labels).subset(kept.nonzero().flatten())
        cleaned_truth = None if truth is None else truth[kept]
        _, cleaned_rows = train_seeds("cleaned", cleaned, cleaned_truth, *common)
        print_effect(rows, cleaned_rows)
        print_summary(rows, cleaned_rows, n_changed, len(data))
    if options.write_clean:
        write_clean(settings.data, options.write_clean, (data, test), decided)
    write_csv(folder / "effect.csv", [*clean_rows, *rows, *cleaned_rows])  # the last file: all is done
    for state in folder.glob("*/state.pt"):
        state.unlink()  # of no more use, and of vgg16 14 GB


def show_labels(halves, rankings, truth, settings, options, folder):
    """Print, draw and write what the Rankings say of the labels; return the decisions, as `decide` does."""
    for name, half, ranking in zip(("train", "test"), halves, rankings, strict=True):
        matrix = confusion_matrix(half.labels, ranking.predicted, len(half.classes))
        title = {"train": "training set, imperfect labels", "test": "test set"}[name]
        diagnosis_report.show_confusion(title, half, matrix, folder / f"confusion_{name}.png")
    diagnosis_report.show_estimates(halves, rankings)
    decided = decide(halves, rankings, options.remove, options.decisions, folder)
    write_review(halves, rankings, decided, settings, options.write_clean, folder)
    data, test = halves
    suspects, of_test = (changed(half, *each) for half, each in zip(halves, decided, strict=True))
    diagnosis_report.show_suspects(data, suspects, rankings[0], folder)
    if truth is not None:
        diagnosis_report.show_found(data, truth, rankings[0].order, suspects, folder)
    diagnosis_report.show_test(test, of_test.sum().item(), rankings[1], folder)
    return decided


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
    options = replace(options, remove=options.remove or "auto")
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

    if only_copies:
        carry_out(settings, options)
        return
    data, test = load(source, settings.limit, settings.image_size)
    print(f"{source}: {len(data):,} training and {len(test):,} test images in {len(data.classes)} classes")
    note_contents(data, test)
    settings = with_epochs(settings, len(data), *(N_FROZEN_EPOCHS if settings.freeze else N_EPOCHS))
    check_data(source, data, test, options)
    truth = known_truth(data, clean, settings.image_size)
    model = models.build(settings, len(data.classes), data.images.shape[1:])
    description = describe(settings, model, data, test, asdict(replace(options, resume=None)))
    folder = start_or_resume("diagnosis", description, options, config)
    with resumable_by(["diagnose.py", "--resume", folder], folder):
        if resume and is_finished(folder, "effect.csv"):
            return  # another process has finished it meanwhile
        if options.decisions and not (folder / DECIDED).exists():
            with written(folder / DECIDED) as file:
                file.write(Path(options.decisions).read_bytes())
        diagnose(model, data, test, truth, settings, options, folder)
    print(f"\nlook at the pictures in {folder}; next, open {folder}/review.html in a browser and decide.")
    print(f"Move what it saves to {folder}/decisions.csv. (Or edit the column action of top_losses.csv,")
    print("and name that file below.) This carries the decisions out:")
    print(to_carry_out(folder / "decisions.csv", data, settings, options.write_clean))


def carry_out(settings, options):
    """Write the copy that the decisions of the command line ask for, and say what to type next."""
    halves = load(settings.data, with_images=False)  # all, as all are copied
    write_clean(settings.data, options.write_clean, halves, check_data(settings.data, *halves, options))
    flags = network_flags(settings, Settings())
    print(f"next: {shell_words('python', 'train.py', *flags, '--data', Path(options.write_clean))}")


if __name__ == "__main__":
    run_command(main)
