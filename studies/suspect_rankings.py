"""How many of 100 wrong labels do the first 100 suspects hold? Ways to rank, compared on MNIST.

    python -m studies.suspect_rankings --classes random --seeds 0 1 2 3 4
    python -m studies.suspect_rankings --classes 4_9 --seeds 0 1 2 3 4

Each seed is another set of wrong labels. Each way to rank is a line of results/wrong_labels.csv. Labels that
were not changed and are suspects all the same are drawn in results/wrong_labels_DATA_CLASSES.png.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from support import pictures
from support.chance import mean_sd
from support.console import Parser, UserError, run_command, seed_number
from support.files import check_replaceable, read_csv, write_csv
from support.mislabelled import make_wrong
from support.randomness import HALVES, random_order
from support.settings import Settings, complete

import torch

import diagnose
import models
import train
from data import load

N_WRONG = 100
# Recipes: (epochs, augmented, held out, how many networks). A held-out network is two, each trained on one
# half of the data, that rank the other half.
NETWORKS = {
    "plain": (1, False, False, 3),
    "augmented": (2, True, False, 3),
    "longer": (3, True, False, 2),
    "held out": (2, True, True, 2),
}
DEFAULT = "3 networks, 2 epochs each, augmented"  # as diagnose.py
WAYS = {  # whose log-probabilities are averaged: the first so many of each recipe
    "1 network, 1 epoch": {"plain": 1},
    "3 networks, 1 epoch each": {"plain": 3},
    "1 network, 2 epochs, augmented": {"augmented": 1},
    "2 networks, 2 epochs each, augmented": {"augmented": 2},
    DEFAULT: {"augmented": 3},
    "3 of 1 epoch, 2 of 2 augmented": {"plain": 3, "augmented": 2},
    "2 networks, 3 epochs each, augmented": {"longer": 2},
    "2 held out, 2 epochs each, augmented": {"held out": 2},
    "3 and 2 held out, 2 epochs each, augmented": {"augmented": 3, "held out": 2},
}


def log_probabilities(data, settings):
    """Return what each of NETWORKS, trained on `data`, gives to its images.

    It is {recipe: float (how many networks, N, classes)}.
    """
    everything = torch.arange(len(data))
    outputs = {}
    for recipe, (epochs, augment, held_out, n_networks) in NETWORKS.items():
        outputs[recipe] = torch.empty(n_networks, len(data), len(data.classes))
        for seed in range(n_networks):
            seeded = complete(replace(settings, epochs=epochs, augment=augment, seed=seed))
            halves = random_order(len(data), seed, HALVES).chunk(2)  # not the wrong labels' order
            for learnt, ranked in [halves, halves[::-1]] if held_out else [(everything, everything)]:
                model = models.build(seeded, len(data.classes), data.images.shape[1:])
                task = f"{recipe}, seed {seed}"
                train.fit(model, data.subset(learnt), data.subset(ranked[:1]), seeded, task=task)
                outputs[recipe][seed, ranked] = diagnose.predict_all([model], data.subset(ranked), seeded)[0]
    return outputs


def selected(outputs, way):
    """Return those of `log_probabilities`' outputs that WAYS has for `way`: float (networks, N, classes)."""
    return torch.cat([outputs[recipe][:n] for recipe, n in WAYS[way].items()])


def rankings(labels, log_probabilities):
    """Return {name: order}, int64 (N,): by loss alone, and by loss and pair, as diagnose.py."""
    order, _, losses = diagnose.top_losses(labels, log_probabilities)
    return {"loss": diagnose.greatest_first(losses), "loss and pair": order}


TABLE = Path("results", "wrong_labels.csv")
KEY = ("data", "wrong labels", "networks", "ranked by", "label seeds")
COLUMNS = (*KEY, "found of 100", "mean", "sd")


def write_rows(rows):
    """Add `rows` to TABLE, in place of those of the same data, way, ranking and sets."""
    same = [[row[name] for name in KEY] for row in rows]
    others = read_csv(TABLE) if TABLE.exists() else []
    write_csv(TABLE, [row for row in others if [row[name] for name in KEY] not in same] + rows)


def measure(clean, classes, seeds, settings):
    """Rank the images of `clean` by each way, with a set of wrong labels for each of `seeds`.

    `classes` are for `make_wrong`. Returns (found, unchanged, predicted): {(way, ranking): for each set the
    number of wrong labels found}, a Counter of how often a label that was not changed is a suspect by
    DEFAULT, and the classes that were then predicted, int64 (N,).
    """
    found = {}
    unchanged = Counter()
    predicted = torch.zeros_like(clean.labels)
    for seed in seeds:
        labels, wrong = make_wrong(clean.labels, len(clean.classes), N_WRONG, seed, classes)
        outputs = log_probabilities(replace(clean, labels=labels), settings)
        for way in WAYS:
            for ranking, order in rankings(labels, selected(outputs, way)).items():
                n_found = torch.isin(order[:N_WRONG], wrong).sum().item()
                found.setdefault((way, ranking), []).append(n_found)
        default = selected(outputs, DEFAULT)
        suspects = diagnose.top_losses(labels, default)[0][:N_WRONG]
        suspects = suspects[~torch.isin(suspects, wrong)]
        unchanged.update(suspects.tolist())
        predicted[suspects] = default.mean(dim=0)[suspects].argmax(dim=1)
        print(f"seed {seed}:", *(found[way, "loss and pair"][-1] for way in WAYS), flush=True)
    return found, unchanged, predicted


def show_unchanged(unchanged, predicted, clean, n_sets, picture):
    """Print and draw labels that were not changed, but are suspects: the nine most often so.

    Arguments as `measure` returns them.
    """
    most = unchanged.most_common(9)
    captions = []
    for index, n in most:
        names = clean.classes[clean.labels[index]], clean.classes[predicted[index]]
        captions.append((*names, f"{n} of {n_sets} sets"))
        print(f"not changed, but a suspect in {n} of {n_sets} sets: {' → '.join(names)}  {clean.ids[index]}")
    title = f"{clean.source}'s own labels among the first {N_WRONG} suspects, and the predictions"
    images = clean.images[[index for index, _ in most]]
    pictures.draw_sheet(picture, images, captions, title)


def main(arguments=None):
    """Measure each way to rank on each set of wrong labels."""
    parser = Parser(description=__doc__)
    text = "which labels are wrong"
    parser.add_argument("--classes", choices=("random", "4_9"), default="random", help=text)
    parser.add_argument("--seeds", nargs="+", type=seed_number, default=[0], help="of the sets (default: 0)")
    parser.add_argument("--data", default="mnist", help="mnist, digits or a folder (default: mnist)")
    given = parser.parse_args(arguments)
    picture = f"results/wrong_labels_{given.data.replace('/', '_')}_{given.classes}.png"
    check_replaceable(TABLE, COLUMNS)  # before the training
    check_replaceable(picture)
    clean, _ = load(given.data)
    classes = None
    if given.classes == "4_9":
        if not {"4", "9"} <= set(clean.classes):
            raise UserError(f"--classes 4_9: {given.data} has no classes 4 and 9")
        classes = [clean.classes.index(name) for name in "49"]
    settings = Settings(init="xavier")
    torch.set_num_threads(complete(settings).threads)
    found, unchanged, predicted = measure(clean, classes, given.seeds, settings)
    rows = []
    for (way, ranking), numbers in found.items():
        mean, sd = mean_sd(numbers)
        seeds, counts = (" ".join(map(str, values)) for values in (given.seeds, numbers))
        cells = (given.data, given.classes, way, ranking, seeds, counts, round(mean, 1), round(sd, 1))
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
        print(f"{way:42} {ranking:14} {mean:5.1f} ± {sd:.1f}")
    TABLE.parent.mkdir(exist_ok=True)
    write_rows(rows)
    show_unchanged(unchanged, predicted, clean, len(given.seeds), picture)


if __name__ == "__main__":
    run_command(main)
