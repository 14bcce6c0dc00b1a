"""The trials of an architecture search: what is trained, what that costs, and the table that remembers it."""

import math
import time
from dataclasses import replace
from typing import NamedTuple

from runs import Progress, UserError, duration, is_out_of_memory, one_line

import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from data import chosen, random_order
from files import append_csv, drop_torn_line, read_csv
from ranks import alone, everyones, ranks
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
    `seed` is the run's, as train.py has it.
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
    """Return {architecture: seconds of training an image}, a straight line over the MFLOP.

    It goes through the measured times of the cheapest architecture and of the costliest for which the memory
    suffices. `sizes` are {architecture: (MFLOP, parameters)}.
    """
    n_images = max(128, min(2048, 2**21 // data.images[0].numel()))  # a second or two, not minutes
    few = data.subset(torch.arange(min(n_images, len(data))))
    cheapest, *others = sorted(sizes, key=lambda architecture: sizes[architecture][0])
    low, time_low, slope = sizes[cheapest][0], seconds_for(cheapest, few, settings), 0
    for costly in reversed(others):
        try:
            slope = (seconds_for(costly, few, settings) - time_low) / max(sizes[costly][0] - low, 1e-9)
            break
        except FAILURES as error:
            check_failure(error)
    return {each: time_low + max(0, slope) * (size[0] - low) for each, size in sizes.items()}


def seconds_for(architecture, data, settings):
    """Return the measured seconds of training one image of `data`."""
    settings = complete(replace(settings, epochs=2, **architecture._asdict()))
    model = network(architecture, settings, data.classes, data.images.shape[1:])
    history = train.fit(model, data, data.subset(torch.arange(1)), settings, label="measuring the speed")
    return history[1]["seconds"] / len(data)  # the first epoch warms up


FAILURES = (UserError, MemoryError, RuntimeError)


def check_failure(error):
    """Raise again one of FAILURES that is no failed training: a UserError, or memory that ran out, is."""
    if not isinstance(error, UserError) and not is_out_of_memory(error):
        raise error


# ---------------------------------------------------------------- trials


clock = time.perf_counter  # in seconds; the tests have another
RECENT = 0.7  # the weight of the trial before the last, for a machine's speed changes


def parsed(row, file):
    """Return (trial, row) of a line of results.csv, a dict of texts, with its numbers as numbers."""
    try:
        for name in (*ARCHITECTURE, "seed", "n_parameters"):
            row[name] = int(row[name])
        for name in ("passes", "seconds", "elapsed", "mflop"):
            row[name] = float(row[name])
        for name in ("accuracy", "loss"):
            row[name] = float(row[name]) if row[name] else None
        architecture = Architecture(*(row[name] for name in Architecture._fields))
        trial = Trial(row["judged_on"], architecture, row["passes"], row["seed"])
        good = row["error"] if row["accuracy"] is None else 0 <= row["accuracy"] <= 1
        positive = all(0 < row[name] < math.inf for name in ("passes", "mflop"))
        finite = all(math.isfinite(row[name]) for name in ("seconds", "elapsed"))
        if not (good and positive and finite and trial.judged_on in ("validation", "test")):
            raise ValueError("no trial")
    except (KeyError, ValueError):
        raise UserError(f"{file}: has a line that is no trial; mend it, or move the file away") from None
    return trial, row


class Trials:
    """Trains what the strategy asks for, each trial once: results.csv, a line per trial, is the memory."""

    def __init__(self, file, train_data, test_data, settings, sizes):
        self.file, self.settings, self.sizes = file, settings, sizes
        self.rows = {}  # of results.csv, by Trial
        if file and file.exists():
            drop_torn_line(file)
            self.rows = dict(parsed(row, file) for row in read_csv(file))
        self.rows = everyones(self.rows)[0]
        n_held_out = max(1, len(train_data) // 6)
        order = random_order(len(train_data), 0)  # the same images for every search and seed
        self.data = {
            "validation": [train_data.subset(order[n_held_out:]), train_data.subset(order[:n_held_out])],
            "test": [train_data, test_data],
        }
        self.started = clock() - max((row["elapsed"] for row in self.rows.values()), default=0)
        self.cost = {}  # seconds an image, by architecture
        self.predicted, self.measured = 0.0, 0.0  # seconds of the last trials

    def seconds(self):
        """Return the seconds that the search has taken, those before interruptions included."""
        return clock() - self.started

    def turns(self, trials):
        """Return those of `trials` that are to be trained, in lists of one for each process.

        Costly ones go first, so that those that are trained at the same time take about as long.
        """
        todo = [trial for trial in trials if trial not in self.rows]
        todo.sort(key=lambda trial: (trial.seed, -self.sizes[trial.architecture][0]))
        n_ranks = ranks()[1]
        return [todo[start : start + n_ranks] for start in range(0, len(todo), n_ranks)]

    def predict(self, turns):
        """Return the seconds that `turns` will take, by the measured speed and the last trials' pace."""
        pace = self.measured / self.predicted if self.predicted else 1
        return pace * sum(max(map(self.seconds_of, turn)) for turn in turns)

    def seconds_of(self, trial):
        """Return the seconds that a trial takes by the measured speed."""
        learned, judged = self.data[trial.judged_on]
        n_tests = max(1, round(trial.passes))
        n_images = trial.passes * len(learned) + n_tests * len(judged) / 3  # see Watch.show
        return n_images * self.cost[trial.architecture]

    def run(self, trials, what, deadline, seconds_after):
        """Return the rows of `trials`, or None where the time is up, at `deadline`, before all are done.

        `what` they are, and that `seconds_after` are needed after them, is for the progress line. Under
        torchrun each process takes one trial of a turn.
        """
        turns, (rank, n_ranks), progress = self.turns(trials), ranks(), Progress()
        for number, turn in enumerate(turns):
            if everyones(self.seconds() + self.predict([turn]) > deadline)[0]:
                return None
            left = duration(self.predict(turns[number:]) + seconds_after)
            label = (
                f"{what}, {1 + number * n_ranks} of {sum(map(len, turns))}, about {left} left{self.best()}"
            )
            if progress.due():  # for in a pipe the trials' own lines come only after ten seconds each
                progress.show(label)
            own = self.train(turn[rank], label) if rank < len(turn) else None
            rows = everyones(own)[: len(turn)]
            for trial, row in zip(turn, rows, strict=True):
                self.rows[trial] = row
                if rank == 0:
                    append_csv(self.file, row)
            if not any(row["error"] for row in rows):  # a failure is soon over, and tells nothing of the pace
                self.predicted = RECENT * self.predicted + max(map(self.seconds_of, turn))
                self.measured = RECENT * self.measured + max(row["seconds"] for row in rows)
        return [self.rows[trial] for trial in trials]

    def best(self):
        """Return the best accuracy so far as a text for the progress line."""
        rows = (row for trial, row in self.rows.items() if trial.judged_on == "validation")
        best = max((row["accuracy"] or 0 for row in rows), default=0)
        return f", best {best:.2%}" if best else ""

    def train(self, trial, label):
        """Train one network; return its row, in which error says what went wrong."""
        learned, judged = self.data[trial.judged_on]
        epochs = max(1, round(trial.passes))
        n_images = max(1, round(len(learned) * min(1, trial.passes / epochs)))
        few = learned.subset(chosen(len(learned), n_images))  # at random, as a folder is sorted by class
        settings = replace(self.settings, **trial.architecture._asdict(), epochs=epochs, seed=trial.seed)
        settings = complete(settings)
        row = {"judged_on": trial.judged_on, **trial.architecture._asdict()}
        row |= {"passes": trial.passes, "seed": trial.seed, "accuracy": None, "loss": None, "error": ""}
        started = clock()
        try:
            with alone():
                model = network(trial.architecture, settings, few.classes, few.images.shape[1:])
                last = train.fit(model, few, judged, settings, label=f"{trial.architecture}, {label}")[-1]
            row |= {"accuracy": last["test_accuracy"], "loss": last["test_loss"]}
        except FAILURES as error:
            check_failure(error)
            row["error"] = one_line(error)
        mflop, n_parameters = self.sizes[trial.architecture]
        row |= {"mflop": round(mflop, 4), "n_parameters": n_parameters}
        return row | {"seconds": round(clock() - started, 2), "elapsed": round(self.seconds(), 1)}
