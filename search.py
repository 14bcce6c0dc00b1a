"""Search for the architecture that works best, within a budget of minutes (exercise sheet 1.3).

Example: python search.py --minutes 10

All architectures of the nested loops are trained briefly, the best fifth in full, the best three again. They
are compared on training images held out for that; the test set judges only the winner, beside the sheet's own
architecture. The same command again goes on where it was interrupted.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass, replace

from support import search_report
from support.console import Parser, UserError, positive, run_command
from support.files import read_json, write_json
from support.mislabelled import note_contents
from support.processes import alone, from_main, is_main, meet_others
from support.randomness import CANDIDATES, random_order, random_part
from support.run_folder import describe, resumable_by, same_run_folder
from support.settings import Settings, add_flags, complete, flag, flag_name, taken, typed
from support.trials import THE_SHEETS, Architecture, Trials, split_off

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
import train
from data import find, load

# The values that the loops go over, the sheet's among them. 72 units in place of 144 had cost 0.15 ± 0.05
# points after a third of an epoch (results/search_fully.csv), so the hidden layers stay as they are.
SPACE = {
    "model": ("encoder", "resnet"),
    "n_blocks": (2, 3, 4),
    "n_features_1": (16, 32),
    "n_features_2": (32, 64),
    "n_fully_1": (144,),
    "n_fully_2": (72,),
}
# One in KEEP_ONE_IN goes on from the brief trainings to the full ones, and the N_BEST of these get a second
# seed. With a rung of middling length between, the search ended as at random (results/search_grid.csv).
BRIEF, KEEP_ONE_IN, N_BEST = 1 / 3, 5, 3
LENGTHS = (5, 4, 3, 2, 1.5, 1, 0.75, 0.5)  # passes of the longest trainings, that the budget chooses from
GRID_PASSES, N_GRID_SEEDS = 3, 3  # of the longest trainings of a grid
N_FINAL_SEEDS = 5  # of the winner and of the sheet's architecture, on the test set


@dataclass(frozen=True)
class SearchOptions:
    """What the search is told besides its space and the settings that all its networks share."""

    minutes: float = flag(None, "time for everything (default: 10)", type=positive(float))
    grid: bool = flag(
        False,
        "no budget: train every architecture briefly, longer and in full, from three seeds",
        action="store_true",
    )
    epochs: int = flag(
        None, "passes over the training images in full (default: up to 5, as the minutes allow; --grid 3)"
    )
    out: str = flag(None, "folder to make or to go on in (default: runs/search)", metavar="DIR")

    @property
    def budget(self):
        """The time for everything, in seconds."""
        return math.inf if self.grid else 60 * (self.minutes or 10)


# ---------------------------------------------------------------- the space and the strategy


def architectures(space, image_size):
    """Return the architectures of the nested loops, but for those that leave nothing of the image."""
    legal = []
    for model in space["model"]:
        for n_blocks in space["n_blocks"]:
            try:
                models.halve(image_size, n_blocks)
            except UserError:
                continue
            for n_features_1 in space["n_features_1"]:
                for n_features_2 in space["n_features_2"]:
                    for n_fully_1 in space["n_fully_1"]:
                        for n_fully_2 in space["n_fully_2"]:
                            numbers = (n_blocks, n_features_1, n_features_2, n_fully_1, n_fully_2)
                            legal.append(Architecture(model, *numbers))
    return legal


def halving_rungs(n, passes):
    """Return the rungs of successive halving, (passes, how many architectures, how many seeds) each.

    `n` architectures start with a ninth of the `passes` over the training images, but at least BRIEF; the
    last ones get all of them.
    """
    n_best = min(n, N_BEST)
    brief, full = min(max(passes / 9, BRIEF), passes), float(passes)
    return [(brief, n, 1), (full, max(n_best, math.ceil(n / KEEP_ONE_IN)), 1), (full, n_best, 2)]


def successive_halving(candidates, rungs, run):
    """Return `candidates`, the best first, by successive halving (Jamieson & Talwalkar 2016).

    `rungs` are those of `halving_rungs`; `run` maps a rung's number (from 0) and a list of (architecture,
    passes, seed) to their accuracies. A failed training's accuracy is None. Where the time is up, the whole
    result is None. A rung for which there was no time, or in which all failed, does not count. Of equally
    good ones the first goes on.
    """
    ranked = list(candidates)
    for number, (passes, n, n_seeds) in enumerate(rungs):
        asked = [(candidate, passes, seed) for candidate in ranked[:n] for seed in range(n_seeds)]
        accuracies = run(number, asked)
        if accuracies is None:
            break
        scores = {}
        for index, candidate in enumerate(ranked[:n]):
            of_seeds = accuracies[index * n_seeds : (index + 1) * n_seeds]
            scores[candidate] = -1 if None in of_seeds else sum(of_seeds) / n_seeds
        if max(scores.values()) == -1:
            break
        ranked[:n] = sorted(ranked[:n], key=lambda candidate: -scores[candidate])
    return ranked


# ---------------------------------------------------------------- the plan


def possible_plans(candidates, options, seed):
    """Yield (entrants, rungs) for less and less time: shorter trainings, then fewer entrants.

    Fewer entrants are chosen at random. With --grid there is one plan: all candidates go through all rungs.
    """
    n = len(candidates)
    if options.grid:
        longest = options.epochs or GRID_PASSES
        yield candidates, [(longest / part, n, N_GRID_SEEDS) for part in (9, 3, 1)]
        return
    lengths = [options.epochs] if options.epochs else LENGTHS
    for longest in lengths:
        yield candidates, halving_rungs(n, longest)
    order = random_order(n, seed, CANDIDATES).tolist()
    for n_entrants in range(n - 1, 1, -1):
        entrants = [candidates[index] for index in sorted(order[:n_entrants])]
        yield entrants, halving_rungs(n_entrants, lengths[-1])


def kept_plan(trials, candidates, options, folder):
    """Return the (entrants, rungs) that plan.json keeps; a resumed search has its first plan.

    They depend on the speed that was measured then.
    """
    file = folder / "plan.json"
    if not file.exists():
        try:
            plans = possible_plans(candidates, options, trials.settings.seed)
            write_json(file, trials.affordable(plans, options.budget))
        except UserError:  # then there is no search, and no folder of it
            (folder / "config.json").unlink()
            folder.rmdir()
            raise
    kept = read_json(file)
    for plan in possible_plans(candidates, options, trials.settings.seed):
        if json.loads(json.dumps(plan)) == kept:  # which has lists in place of tuples
            return plan
    raise UserError(f"{file}: is no plan of this search; move it away")


# ---------------------------------------------------------------- what is trained


@alone()
def train_trial(trial, learned, judged, settings, task):
    """Train one network on the images `learned`; return its (accuracy, loss) on the images `judged`."""
    n_images = max(1, round(len(learned) * min(1, trial.passes / trial.epochs)))
    part = learned.subset(random_part(len(learned), n_images))  # at random, as a folder is sorted by class
    changes = {**trial.architecture._asdict(), "epochs": trial.epochs, "seed": trial.seed}
    settings = complete(replace(settings, **changes))  # now, as the learning rate depends on the epochs
    model = models.build(settings, len(part.classes), part.images.shape[1:])
    last = train.fit(model, part, judged, settings, task=task)[-1]  # whose "test" is on `judged`
    return last["test_accuracy"], last["test_loss"]


@alone()
def seconds_an_image(architecture, data, settings):
    """Return the measured seconds of training `architecture` on an image of `data`."""
    n_images = max(128, min(2048, 2**21 // data.images[0].numel()))  # a second or two, not minutes
    few = data.subset(torch.arange(min(n_images, len(data))))
    settings = complete(replace(settings, **architecture._asdict(), epochs=2))
    model = models.build(settings, len(few.classes), few.images.shape[1:])
    history = train.fit(model, few, few.subset(torch.arange(1)), settings, task="measuring the speed")
    return history[1]["seconds"] / len(few)  # the first epoch warms up


def size_of(architecture, n_classes, image_shape):
    """Return (MFLOP of one image's forward pass, number of parameters)."""
    model = models.build(Settings(**architecture._asdict(), device="cpu"), n_classes, image_shape)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *image_shape))
    return counter.get_total_flops() / 1e6, sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------- the search


def search(trials, candidates, options, folder):
    """Search among `candidates` as the SearchOptions say; return the winner.

    `folder` is None for all processes but the first.
    """
    trials.measure_speed(seconds_an_image)
    search_report.introduce(trials, candidates, THE_SHEETS)
    entrants, rungs = from_main(lambda: kept_plan(trials, candidates, options, folder))
    passes = rungs[-1][0]
    needed = sum(trials.seconds_needed(entrants, rungs, passes))
    search_report.print_plan(rungs, len(candidates), needed, N_FINAL_SEEDS)

    def run_rung(number, asked):
        later, final = trials.seconds_needed(entrants, rungs[number + 1 :], passes)
        name = f"rung {number + 1} of {len(rungs)}"
        rows = trials.run(trials.validation_trials(asked), name, options.budget - final, later + final)
        search_report.print_rung(name, rungs[number], rows)
        if number == 0 and (rows is None or all(row["error"] for row in rows)):
            why = rows[0]["error"] if rows else "the time is up; try more --minutes"
            raise UserError(f"no architecture could be compared: {why}")
        return rows and [row["accuracy"] for row in rows]

    ranked = successive_halving(entrants, rungs, run_rung)
    winner = ranked[0]
    search_report.report(trials.rows, ranked, folder, trials.data["test"][1].source)
    trials.run(trials.final_trials(winner, passes), "final", 1.05 * options.budget, 0)
    search_report.print_final(trials.rows, winner, THE_SHEETS, passes)
    search_report.print_next(trials.settings, winner, passes)
    return winner


# ---------------------------------------------------------------- the command line


def parse(arguments=None):
    """Return (settings, space, options) from the command line."""
    parser = Parser(description=__doc__)
    add_flags(parser, SearchOptions)
    for name, values in SPACE.items():
        kind = {"choices": values} if name == "model" else {"type": positive(int), "metavar": "N"}
        text = f"values to try (default: {' '.join(map(str, values))})"
        parser.add_argument(flag_name(name), nargs="+", default=values, help=text, **kind)
    names = "data batch_size lr augment image_size limit seed device precision threads"
    add_flags(parser, Settings, names.split())
    given = typed(parser, arguments)
    space = {name: list(dict.fromkeys(given.pop(name))) for name in SPACE}
    options = taken(SearchOptions, given)
    if options.grid and options.minutes:
        raise UserError("--grid has no budget: leave out --minutes")
    return Settings(init="xavier", **given), space, options


def candidates_for(space, image_size, n_images):
    """Return the architectures to compare; raise UserError where the images are too small or too few."""
    candidates = architectures(space, image_size)
    n_illegal = math.prod(map(len, space.values())) - len(candidates)
    if n_illegal:
        print(f"{n_illegal} combinations are left out: they would leave nothing of images of this size")
    if n_images < 2:
        raise UserError("one training image is too few: some are held out")
    if not candidates:
        raise UserError(f"none of the {n_illegal} combinations leaves anything of images of this size")
    try:
        models.halve(image_size, THE_SHEETS.n_blocks)
    except UserError as error:
        raise UserError(f"the sheet's architecture, to compare with, does not fit: {error}") from None
    return candidates


def main(arguments=None):
    """Search as the command line says; return the winner."""
    given, space, options = parse(arguments)
    meet_others(given.device)
    settings = complete(given)
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True
    given = replace(given, data=from_main(lambda: find(given.data)))
    train_data, test_data = load(given.data, given.limit, given.image_size)
    note_contents(train_data, test_data)
    n_classes = len(train_data.classes)
    n_channels, *image_size = train_data.images.shape[1:]
    image_shape = (n_channels, *(2 * [given.image_size] if given.image_size else image_size))
    candidates = candidates_for(space, image_shape[1:], len(train_data))
    sizes = {each: size_of(each, n_classes, image_shape) for each in [*candidates, THE_SHEETS]}
    candidates.sort(key=lambda candidate: sizes[candidate][0])  # of equally good ones the cheaper goes on

    model = models.build(replace(settings, **THE_SHEETS._asdict()), n_classes, image_shape)
    options_kept = {"space": space} | asdict(options)
    del options_kept["out"]
    description = describe(replace(settings, threads=None), model, train_data, test_data, options_kept)
    folder = from_main(lambda: same_run_folder("search", description, options.out))
    words = ["search.py", *(sys.argv[1:] if arguments is None else arguments)]
    with resumable_by(words, folder):
        file = folder / "results.csv" if is_main() else None
        data = split_off(train_data, test_data)
        trials = Trials(file, data, given, sizes, train_trial, THE_SHEETS, N_FINAL_SEEDS)
        done = f"goes on, {len(trials.rows)} trials are done" if trials.rows else "begins"
        print(f"in {folder} the search {done}")
        return search(trials, candidates, options, folder if is_main() else None)


if __name__ == "__main__":
    run_command(main)
