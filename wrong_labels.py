"""How many of 100 wrong labels do the first 100 suspects hold? Ways to rank, compared on MNIST.

    python wrong_labels.py --classes random --seeds 0 1 2 3 4
    python wrong_labels.py --classes 4_9 --seeds 0 1 2 3 4

Each seed is another set of wrong labels. Each way to rank adds a line to results/wrong_labels.csv.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

import diagnose
import train
from data import load, random_order, wrong_labels
from effect import mean_sd
from files import append_csv
from runs import Parser, run_command, seed_number
from settings import Settings, complete

N_WRONG = 100
# Networks: (epochs, augmented, held out, how many), and ways to rank, by the log-probabilities of some of
# them. A held-out one is two networks, each trained on one half of the data, that rank the other half.
NETWORKS = ((1, False, False, 3), (2, True, False, 3), (3, True, False, 2), (2, True, True, 2))
DEFAULT = "3 networks, 2 epochs each, augmented"  # as diagnose.py
WAYS = {
    "1 network, 1 epoch": slice(0, 1),
    "3 networks, 1 epoch each": slice(0, 3),
    "1 network, 2 epochs, augmented": slice(3, 4),
    "2 networks, 2 epochs each, augmented": slice(3, 5),
    DEFAULT: slice(3, 6),
    "all five": slice(0, 5),
    "2 networks, 3 epochs each, augmented": slice(6, 8),
    "2 held out, 2 epochs each, augmented": slice(8, 10),
    "3 and the 2 held out, 2 epochs each, augmented": [3, 4, 5, 8, 9],
}


def log_probabilities(data, settings):
    """Return what each of NETWORKS, trained on `data`, gives to its images: float (networks, N, classes)."""
    outputs, n = [], len(data)
    for epochs, augment, held_out, n_networks in NETWORKS:
        for seed in range(n_networks):
            one = complete(replace(settings, epochs=epochs, augment=augment, seed=seed))
            everything = torch.arange(n)
            first, second = random_order(n, seed, 2**32 - 2).chunk(2)  # not the wrong labels' order
            splits = [(first, second), (second, first)] if held_out else [(everything, everything)]
            output = torch.empty(n, len(data.classes))
            for learnt, ranked in splits:
                model = train.build(one, len(data.classes), data.images.shape[1:])
                label = f"{epochs} epochs, seed {seed}"
                train.fit(model, data.subset(learnt), data.subset(ranked[:1]), one, label=label)
                output[ranked] = diagnose.predict_all([model], data.subset(ranked), one)[0]
            outputs.append(output)
    return torch.stack(outputs)


def rankings(labels, log_probabilities):
    """Return {name: order}: by loss, by margin (best other class against the label), and as diagnose.py."""
    order, _, losses = diagnose.top_losses(labels, log_probabilities)
    mean = log_probabilities.mean(dim=0)
    margins = mean.scatter(1, labels[:, None], -torch.inf).max(dim=1).values + losses
    return {
        "loss": losses.argsort(descending=True, stable=True),
        "margin": margins.argsort(descending=True, stable=True),
        "loss and pair": order,
    }


def main(arguments=None):
    """Measure each way to rank on each set of wrong labels."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--classes", choices=("random", "4_9"), default="random", help="which labels are wrong"
    )
    parser.add_argument("--seeds", nargs="+", type=seed_number, default=[0], help="of the sets (default: 0)")
    parser.add_argument("--data", default="mnist", help="mnist, digits or a folder (default: mnist)")
    given = parser.parse_args(arguments)
    settings, (clean, _) = Settings(init="xavier"), load(given.data)
    torch.set_num_threads(complete(settings).threads)
    found, others = {}, Counter()
    for seed in given.seeds:
        classes = None if given.classes == "random" else [4, 9]
        labels, wrong = wrong_labels(clean.labels, len(clean.classes), N_WRONG, seed, classes)
        outputs = log_probabilities(replace(clean, labels=labels), settings)
        for way, part in WAYS.items():
            for name, order in rankings(labels, outputs[part]).items():
                suspects, right = order[:N_WRONG], torch.isin(order[:N_WRONG], wrong)
                found.setdefault((way, name), []).append(right.sum().item())
                if (way, name) == (DEFAULT, "loss"):
                    others.update(clean.ids[index] for index in suspects[~right])
        print(
            f"{given.classes}, seed {seed}:",
            *(f"{found[way, 'loss and pair'][-1]}" for way in WAYS),
            flush=True,
        )
    Path("results").mkdir(exist_ok=True)
    for (way, name), numbers in found.items():
        mean, sd = mean_sd(numbers)
        row = {"wrong labels": given.classes, "networks": way, "ranked by": name}
        row |= {
            "label seeds": " ".join(map(str, given.seeds)),
            "found of 100": " ".join(map(str, numbers)),
        }
        append_csv("results/wrong_labels.csv", row | {"mean": round(mean, 1), "sd": round(sd, 1)})
        print(f"{way:46} {name:14} {mean:5.1f} ± {sd:.1f}")
    always = sorted(image for image, n_sets in others.items() if n_sets == len(given.seeds))
    print(f"labels that were not changed, among the first {N_WRONG} by loss in every set:", *always)


if __name__ == "__main__":
    run_command(main)
