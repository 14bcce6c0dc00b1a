"""The trials of an architecture search: what is trained, what that costs, and the table that remembers it."""

import time
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from data import random_order
from files import append_csv, read_csv
from ranks import alone, everyones, ranks
from runs import UserError, duration, is_out_of_memory, one_line
from settings import ARCHITECTURE, Settings, complete


class Architecture(NamedTuple):
    """What the search varies: the block kind ("encoder" or "resnet") and the sheet's five parameters."""

    model: str
    n_blocks: int
    n_features_1: int
    n_features_2: int
    n_fully_1: int
    n_fully_2: int

    def __str__(self):
        return (
            f"{self.model} {self.n_blocks} blocks {self.n_features_1}/{self.n_features_2} "
            f"{self.n_fully_1}/{self.n_fully_2}"
        )


THE_SHEETS = Architecture("resnet", *(getattr(Settings, name) for name in ARCHITECTURE))


class Trial(NamedTuple):
    """One network to train: for `passes` over the training images (1/3: over a third of them, once).

    `judged_on` is "validation", the images held out, or "test": then all training images are trained on.
    """

    judged_on: str
    architecture: Architecture
    passes: float
    seed: int


# ---------------------------------------------------------------- what things cost


def mega_flops(architecture, classes, image_shape):
    """Return (MFLOP of one image's forward pass, number of parameters)."""
    model = network(architecture, Settings(device="cpu"), classes, image_shape)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *image_shape))
    return counter.get_total_flops() / 1e6, sum(parameter.numel() for parameter in model.parameters())


def network(architecture, settings, classes, image_shape):
    """Return a new network of `architecture`."""
    return train.build(replace(settings, **architecture._asdict()), len(classes), image_shape)


def seconds_an_image(sizes, data, settings):
    """Return {architecture: seconds of training an image}, from the times of the cheapest and the costliest.

    `sizes` are {architecture: (MFLOP, parameters)}; the time is taken to be a straight line over the MFLOP.
    """
    cheapest, *_, costliest = sorted([*sizes, *sizes], key=lambda architecture: sizes[architecture][0])
    few, times = data.subset(torch.arange(min(len(data), 2048))), {}
    for architecture in (cheapest, costliest):
        one = complete(replace(settings, epochs=2, **architecture._asdict()))
        model = network(architecture, one, data.classes, data.images.shape[1:])
        history = train.fit(model, few, few.subset(torch.arange(1)), one, label="measuring the speed")
        times[architecture] = history[1]["seconds"] / len(few)  # the first epoch warms up
    low, high = sizes[cheapest][0], sizes[costliest][0]
    slope = (times[costliest] - times[cheapest]) / max(high - low, 1e-9)
    return {
        architecture: max(times[cheapest] + slope * (size[0] - low), 1e-9)
        for architecture, size in sizes.items()
    }


# ---------------------------------------------------------------- trials


clock = time.perf_counter  # in seconds; the tests have another


def parsed(row, file):
    """Return (trial, row) of a line of results.csv, a dict of texts, with its numbers as numbers."""
    try:
        for name in (
            "n_blocks",
            "n_features_1",
            "n_features_2",
            "n_fully_1",
            "n_fully_2",
            "seed",
            "n_parameters",
        ):
            row[name] = int(row[name])
        for name in ("passes", "seconds", "elapsed", "mflop"):
            row[name] = float(row[name])
        for name in ("accuracy", "loss"):
            row[name] = float(row[name]) if row[name] else None
        architecture = Architecture(*(row[name] for name in Architecture._fields))
    except (KeyError, ValueError):
        raise UserError(f"{file}: has a line that is no trial; mend it, or move the file away") from None
    return Trial(row["judged_on"], architecture, row["passes"], row["seed"]), row


class Trials:
    """Trains what the strategy asks for, each trial once: results.csv, a line per trial, is the memory."""

    def __init__(self, file, train_data, test_data, settings, sizes):
        self.file, self.settings, self.sizes = file, settings, sizes
        self.rows = {}  # of results.csv, by Trial
        for row in read_csv(file) if file and file.exists() else []:
            trial, self.rows[trial] = parsed(row, file)
        self.rows = everyones(self.rows)[0]
        order = random_order(len(train_data), 0)  # the same images for every search and seed
        n_held_out = max(1, len(train_data) // 6)
        self.data = {
            "validation": [train_data.subset(order[n_held_out:]), train_data.subset(order[:n_held_out])],
            "test": [train_data, test_data],
        }
        self.started = clock() - max((row["elapsed"] for row in self.rows.values()), default=0)
        self.pace, self.predicted, self.measured = 1.0, 0.0, 0.0
        self.cost = {}  # seconds an image, by architecture

    def seconds(self):
        """Return the seconds that the search has taken, those before interruptions included."""
        return clock() - self.started

    def predict(self, trial):
        """Return the seconds that a trial will take."""
        learned, judged = self.data[trial.judged_on]
        n_tests = max(1, round(trial.passes))
        n_images = trial.passes * len(learned) + n_tests * len(judged) / 3  # see Watch.show
        return n_images * self.cost[trial.architecture] * self.pace

    def run(self, trials, what, deadline, seconds_after):
        """Return the rows of `trials`, or None where the time is up, at `deadline`, before all are done.

        `what` they are, and that `seconds_after` are needed after them, is for the progress line. Under
        torchrun each process takes one trial at a time; the costly ones go first, so that those that are
        trained at the same time take about as long.
        """
        todo = [trial for trial in trials if trial not in self.rows]
        todo.sort(key=lambda trial: (trial.seed, -self.cost[trial.architecture]))
        rank, n_ranks = ranks()
        for start in range(0, len(todo), n_ranks):
            turn = todo[start : start + n_ranks]
            if everyones(self.seconds() + self.predict(turn[0]) > deadline)[0]:
                return None
            left = sum(map(self.predict, todo[start:])) / n_ranks + seconds_after
            label = f"{what}, {start + 1} of {len(todo)}, {self.best()}at most {duration(left)} left"
            own = self.train(turn[rank], label) if rank < len(turn) else None
            for trial, row in zip(turn, everyones(own), strict=False):
                self.rows[trial] = row
                if rank == 0:
                    append_csv(self.file, row)
            self.predicted += self.predict(turn[0]) / self.pace
            self.measured += self.rows[turn[0]]["seconds"]
            self.pace = self.measured / self.predicted
        return [self.rows[trial] for trial in trials]

    def best(self):
        """Return the best accuracy so far as a text for the progress line."""
        on = (row["accuracy"] or 0 for row in self.rows.values() if row["judged_on"] == "validation")
        best = max(on, default=0)
        return f"best {best:.2%}, " if best else ""

    def train(self, trial, label):
        """Train one network; return its row, in which error says what went wrong."""
        learned, judged = self.data[trial.judged_on]
        epochs = max(1, round(trial.passes))
        few = learned.subset(torch.arange(max(1, round(len(learned) * min(1, trial.passes / epochs)))))
        settings = replace(self.settings, **trial.architecture._asdict(), epochs=epochs)
        settings = complete(replace(settings, seed=self.settings.seed + trial.seed))
        row = {"judged_on": trial.judged_on, **trial.architecture._asdict()}
        row |= {"passes": trial.passes, "seed": trial.seed, "accuracy": None, "loss": None, "error": ""}
        started = clock()
        try:
            with alone():
                model = network(trial.architecture, settings, few.classes, few.images.shape[1:])
                last = train.fit(model, few, judged, settings, label=f"{label}: {trial.architecture}")[-1]
            row |= {"accuracy": last["test_accuracy"], "loss": last["test_loss"]}
        except (UserError, MemoryError, RuntimeError) as error:
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            row["error"] = one_line(error)
        mflop, n_parameters = self.sizes[trial.architecture]
        row |= {"mflop": round(mflop, 2), "n_parameters": n_parameters}
        return row | {"seconds": round(clock() - started, 2), "elapsed": round(self.seconds(), 1)}
