"""The trials of an architecture search: the table that remembers them, their cost, and whose turn it is."""

import time
from typing import NamedTuple

from support.console import Progress, UserError, duration, is_out_of_memory, one_line
from support.files import append_csv, drop_torn_line, read_csv
from support.processes import alone, from_all, from_main, is_main, n_processes, process_number
from support.randomness import random_order
from support.settings import ARCHITECTURE, Settings


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

    @property
    def epochs(self):
        """How many epochs it has: 5/3 passes are two epochs over five sixths of the images."""
        return max(1, round(self.passes))


# ---------------------------------------------------------------- the table


def number_or_none(text):
    """Return `text` as a float; None where it is empty."""
    return float(text) if text else None


COLUMNS = {"judged_on": str, **Architecture.__annotations__, "passes": float, "seed": int}
COLUMNS |= {"accuracy": number_or_none, "loss": number_or_none, "error": str}
COLUMNS |= {"mflop": float, "n_parameters": int, "seconds": float, "elapsed": float}  # since the search began


def parsed(texts, file):
    """Return (trial, row) of a line of results.csv, a dict of texts; the row has its numbers as numbers."""
    try:
        row = {name: kind(texts[name]) for name, kind in COLUMNS.items()}
    except (KeyError, ValueError):
        raise UserError(f"{file}: has a line that is no trial; mend it, or move the file away") from None
    architecture = Architecture(*(row[name] for name in Architecture._fields))
    return Trial(row["judged_on"], architecture, row["passes"], row["seed"]), row


# ---------------------------------------------------------------- what things cost

FAILURES = (UserError, MemoryError, RuntimeError)  # of a training; see check_failure


def check_failure(error):
    """Raise again one of FAILURES that is no failed training: a UserError, or memory that ran out, is."""
    if not isinstance(error, UserError) and not is_out_of_memory(error):
        raise error


def costs(sizes, measure):
    """Return {architecture: seconds of training an image}, a straight line over the MFLOP.

    It goes through the seconds that `measure(architecture)` returns of the cheapest architecture and of the
    costliest for which the memory suffices. `sizes` are {architecture: (MFLOP, parameters)}.
    """
    cheapest, *others = sorted(sizes, key=lambda architecture: sizes[architecture][0])
    least_mflop, least_seconds = sizes[cheapest][0], measure(cheapest)
    slope = 0
    for costly in reversed(others):
        try:
            slope = (measure(costly) - least_seconds) / max(sizes[costly][0] - least_mflop, 1e-9)
            break
        except FAILURES as error:
            check_failure(error)
    return {each: least_seconds + max(0, slope) * (size[0] - least_mflop) for each, size in sizes.items()}


def split_off(train_data, test_data):
    """Return {judged_on: (images to learn from, images to judge by)}, of two ImageData."""
    n_held_out = max(1, len(train_data) // 6)
    order = random_order(len(train_data), 0)  # the same images for every search and seed
    learned, held_out = train_data.subset(order[n_held_out:]), train_data.subset(order[:n_held_out])
    return {"validation": (learned, held_out), "test": (train_data, test_data)}


# ---------------------------------------------------------------- whose turn it is


clock = time.perf_counter  # in seconds; the tests have another
RECENT = 0.7  # the weight of the trial before the last, for a machine's speed changes


class Trials:
    """Has what the strategy asks for trained, each trial once: results.csv, a line per trial, is the memory.

    `file` is results.csv, None for all processes but the first. `data` are, for each `judged_on`, the images
    to learn from and those to judge by; `settings` what all trials share. `sizes` are {architecture: (MFLOP,
    parameters)}. `train(trial, learned, judged, settings, task)` trains a network and returns its (accuracy,
    loss); its progress line is named `task`.
    """

    def __init__(self, file, data, settings, sizes, train):
        self.file, self.data, self.settings, self.sizes, self.train = file, data, settings, sizes, train
        self.rows = from_main(self.read)  # of results.csv, by Trial
        self.started = clock() - max((row["elapsed"] for row in self.rows.values()), default=0)
        self.cost = {}  # seconds an image, by architecture, as `costs` returns them
        self.expected, self.measured = 0.0, 0.0  # seconds of the last trials

    def read(self):
        """Return {Trial: row} of results.csv, but for a last line that a kill tore."""
        if not self.file.exists():
            return {}
        drop_torn_line(self.file)
        return dict(parsed(texts, self.file) for texts in read_csv(self.file))

    def seconds(self):
        """Return the seconds that the search has taken, those before interruptions included."""
        return clock() - self.started

    def turns(self, trials):
        """Return those of `trials` that are to be trained, in lists of one for each process.

        Costly ones go first, so that those that are trained at the same time take about as long.
        """
        todo = [trial for trial in trials if trial not in self.rows]
        todo.sort(key=lambda trial: (trial.seed, -self.sizes[trial.architecture][0]))
        return [todo[start : start + n_processes()] for start in range(0, len(todo), n_processes())]

    def seconds_of(self, trial):
        """Return the seconds that one trial takes by the measured speed."""
        learned, judged = self.data[trial.judged_on]
        n_images = trial.passes * len(learned) + trial.epochs * len(judged) / 3  # see Watch.show
        return n_images * self.cost[trial.architecture]

    def seconds_for(self, trials):
        """Return the seconds that what is to be trained of `trials` will take, by the last trials' pace."""
        pace = self.measured / self.expected if self.expected else 1
        return pace * sum(max(map(self.seconds_of, turn)) for turn in self.turns(trials))

    def validation_trials(self, asked):
        """Return the Trials that a list of (architecture, passes, seed), seeds from 0, stands for."""
        first_seed = self.settings.seed
        return [Trial("validation", each, passes, first_seed + seed) for each, passes, seed in asked]

    def seconds_for_rungs(self, rungs, candidates):
        """Return the seconds that `rungs`, (passes, architectures, seeds) each, take of all `candidates`.

        That is if the costliest always go on.
        """
        costly = sorted(candidates, key=lambda candidate: -self.cost[candidate])
        planned, seconds = set(), 0
        for passes, n, n_seeds in rungs:
            rung = self.validation_trials(
                (each, passes, seed) for each in costly[:n] for seed in range(n_seeds)
            )
            seconds += self.seconds_for([trial for trial in rung if trial not in planned])
            planned.update(rung)
        return seconds

    def run(self, trials, name, deadline, seconds_after):
        """Return the rows of `trials`, or None where the time is up, at `deadline`, before all are done.

        Their `name`, and that `seconds_after` are needed after them, is for the progress line. Under torchrun
        each process takes one trial of a turn.
        """
        turns, progress = self.turns(trials), Progress()
        n_trials = sum(map(len, turns))
        for number, turn in enumerate(turns):
            if from_main(lambda: self.seconds() + self.seconds_for(turn) > deadline):  # noqa: B023 (called at once)
                return None
            time_left = duration(self.seconds_for(trials) + seconds_after)
            task = f"{name}, {1 + number * n_processes()} of {n_trials}, about {time_left} left{self.best()}"
            if progress.due():  # for in a pipe the trials' own lines come only after ten seconds each
                progress.show(task)
            self.take(turn, task)
        return [self.rows[trial] for trial in trials]

    def take(self, turn, task):
        """Have the trials of a turn trained, one in each process, and remember their rows."""
        row = self.trained(turn[process_number()], task) if process_number() < len(turn) else None
        rows = from_all(row)[: len(turn)]
        self.rows.update(zip(turn, rows, strict=True))
        if is_main():
            for row in rows:
                append_csv(self.file, row)
        if not any(row["error"] for row in rows):  # a failure is soon over, and tells nothing of the pace
            self.expected = RECENT * self.expected + max(map(self.seconds_of, turn))
            self.measured = RECENT * self.measured + max(row["seconds"] for row in rows)

    def trained(self, trial, task):
        """Train one network; return its row, in which error says what went wrong."""
        row = {"judged_on": trial.judged_on, **trial.architecture._asdict()}
        row |= {"passes": trial.passes, "seed": trial.seed, "accuracy": None, "loss": None, "error": ""}
        started = clock()
        try:
            with alone():
                task = f"{trial.architecture}, {task}"
                accuracy, loss = self.train(trial, *self.data[trial.judged_on], self.settings, task)
            row |= {"accuracy": accuracy, "loss": loss}
        except FAILURES as error:
            check_failure(error)
            row["error"] = one_line(error)
        mflop, n_parameters = self.sizes[trial.architecture]
        row |= {"mflop": round(mflop, 4), "n_parameters": n_parameters}
        return row | {"seconds": round(clock() - started, 2), "elapsed": round(self.seconds(), 1)}

    def best(self):
        """Return the best accuracy so far as a text for the progress line."""
        rows = (row for trial, row in self.rows.items() if trial.judged_on == "validation")
        best = max((row["accuracy"] or 0 for row in rows), default=0)
        return f", best {best:.2%}" if best else ""
