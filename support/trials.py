"""The trials of an architecture search: the table that remembers them, their cost, and whose turn it is."""

import math
import time
from typing import NamedTuple

from support.console import Progress, UserError, duration, is_out_of_memory, one_line
from support.files import append_csv, drop_torn_line, finite_number, read_csv
from support.processes import from_all, from_main, is_main, n_processes, process_number
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


# Of results.csv; "elapsed" are the seconds since the search began.
COLUMNS = {"judged_on": str, **Architecture.__annotations__, "passes": finite_number, "seed": int}
COLUMNS |= {"accuracy": lambda text: finite_number(text) if text else None}  # a failed trial has none
COLUMNS |= {"loss": COLUMNS["accuracy"], "error": str}
COLUMNS |= {"mflop": finite_number, "n_parameters": int, "seconds": finite_number, "elapsed": finite_number}


def parsed(texts, file):
    """Return (trial, row) of a line of results.csv, a dict of texts; the row has its numbers as numbers."""
    try:
        row = {name: kind(texts[name]) for name, kind in COLUMNS.items()}
        if (row["accuracy"] is None) != bool(row["error"]):
            raise ValueError
    except (KeyError, ValueError):
        raise UserError(f"{file}: has a line that is no trial; mend it, or move the file away") from None
    return Trial(row["judged_on"], architecture_of(row), row["passes"], row["seed"]), row


def architecture_of(row):
    """Return the Architecture that a row of results.csv is about."""
    return Architecture(*(row[name] for name in Architecture._fields))


FAILURES = (UserError, MemoryError, RuntimeError)  # of a training; see check_failure


def check_failure(error):
    """Raise again one of FAILURES that is no failed training: a UserError, or memory that ran out, is."""
    if not isinstance(error, UserError) and not is_out_of_memory(error):
        raise error


# ---------------------------------------------------------------- whose turn it is


clock = time.perf_counter  # in seconds; the tests have another
RECENT = 0.7  # the weight of the trial before the last, for a machine's speed changes


def split_off(train_data, test_data):
    """Return {judged_on: (images to learn from, images to judge by)}, of two ImageData."""
    n_held_out = max(1, len(train_data) // 6)
    order = random_order(len(train_data), 0)  # the same images for every search and seed
    learned, held_out = train_data.subset(order[n_held_out:]), train_data.subset(order[:n_held_out])
    return {"validation": (learned, held_out), "test": (train_data, test_data)}


class Trials:
    """Has what the strategy asks for trained, each trial once: results.csv, a line per trial, is the memory.

    `file` is results.csv, None for all processes but the first. `data` are the images, of `split_off`;
    `settings` what all trials share; `sizes` {architecture: (MFLOP, parameters)}. `train(trial, learned,
    judged, settings, task)` trains a network, whose progress line is named `task`, and returns its (accuracy,
    loss). In the end the winner and the `reference` are judged, from `n_final_seeds`.
    """

    def __init__(self, file, data, settings, sizes, train, reference, n_final_seeds):
        self.file = file
        self.data = data
        self.settings, self.sizes, self.train = settings, sizes, train
        self.reference, self.n_final_seeds = reference, n_final_seeds
        self.rows = from_main(self.read)  # of results.csv, by Trial
        self.started = clock() - max((row["elapsed"] for row in self.rows.values()), default=0)
        self.cost = {}  # seconds an image, by architecture; see `measure_speed`
        self.expected, self.measured = 0.0, 0.0  # seconds of the last trials

    def read(self):
        """Return {Trial: row} of results.csv, but for a last line that a kill tore."""
        if not self.file.exists():
            return {}
        drop_torn_line(self.file, COLUMNS)
        return dict(parsed(texts, self.file) for texts in read_csv(self.file))

    def turns(self, trials):
        """Return those of `trials` that are to be trained, in lists of one for each process.

        Costly ones go first, so that those that are trained at the same time take about as long.
        """
        todo = [trial for trial in trials if trial not in self.rows]
        todo.sort(key=lambda trial: (trial.seed, -self.sizes[trial.architecture][0]))
        return [todo[start : start + n_processes()] for start in range(0, len(todo), n_processes())]

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

    # ------------------------------------------------------------ the budget

    def measure_speed(self, seconds_an_image):
        """Set `cost`, {architecture: seconds of training an image}: a straight line over the MFLOP.

        It goes through what `seconds_an_image(architecture, data, settings)` returns for the cheapest
        architecture and for the costliest for which the memory suffices.
        """
        learned, _ = self.data["validation"]
        cheapest, *others = sorted(self.sizes, key=lambda architecture: self.sizes[architecture][0])
        least = self.sizes[cheapest][0]
        seconds = seconds_an_image(cheapest, learned, self.settings)
        slope = 0
        for costly in reversed(others):
            try:
                more_seconds = seconds_an_image(costly, learned, self.settings) - seconds
                slope = max(0, more_seconds / max(self.sizes[costly][0] - least, 1e-9))
                break
            except FAILURES as error:
                check_failure(error)
        cost = {each: seconds + slope * (mflop - least) for each, (mflop, _) in self.sizes.items()}
        self.cost = from_main(lambda: cost)

    def seconds(self):
        """Return the seconds that the search has taken, those before interruptions included."""
        return clock() - self.started

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
        first = self.settings.seed
        return [Trial("validation", each, passes, first + seed) for each, passes, seed in asked]

    def final_trials(self, winner, passes):
        """Return the trials that judge the winner, and the reference beside it, on the test set."""
        pair = dict.fromkeys([winner, self.reference])  # which may be the same
        seeds = range(self.settings.seed, self.settings.seed + self.n_final_seeds)
        return [Trial("test", each, float(passes), seed) for seed in seeds for each in pair]

    def seconds_needed(self, candidates, rungs, passes):
        """Return the seconds that (the rungs, the final after them) will take if the costliest always go on.

        A rung is (passes, architectures, seeds); `passes` are those of the final. What has been trained
        already takes none.
        """
        costly = sorted(candidates, key=lambda candidate: -self.cost[candidate])
        planned, seconds = set(), 0
        for length, n, n_seeds in rungs:
            asked = [(candidate, length, seed) for candidate in costly[:n] for seed in range(n_seeds)]
            new = [trial for trial in self.validation_trials(asked) if trial not in planned]
            seconds += self.seconds_for(new)
            planned.update(new)
        return seconds, self.seconds_for(self.final_trials(costly[0], passes))

    def affordable(self, plans, budget):
        """Return the first of the `plans`, (candidates, rungs), for which the `budget`, in seconds, will do.

        Raises UserError where there is not the time to compare two architectures.
        """
        for candidates, rungs in plans:
            needed = self.seconds() + sum(self.seconds_needed(candidates, rungs, rungs[-1][0]))
            if needed < budget:
                return candidates, rungs
        raise UserError(
            f"--minutes {budget / 60:g} are too short to compare two architectures; "
            f"try --minutes {math.ceil(needed / 60 + 0.5)}, or fewer images with --limit"
        )
