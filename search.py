"""Search the architecture that works best, within a budget of minutes (exercise sheet 1.3).

Example: python search.py --minutes 10

All architectures of the nested loops are trained briefly, the best fifth in full, the best three again. They
are compared on training images held out for that; the test set judges only the winner, beside the sheet's own
architecture. The same command again goes on where it was interrupted.
"""

import argparse
import math
import sys
from contextlib import nullcontext
from dataclasses import replace

from runs import Parser, UserError, positive, run_command

import torch

import standings
from checkpoint import describe, resumable_by, same_run_folder
from data import find, load, random_order
from files import locked, read_json, write_json
from models import halve
from ranks import alone, everyones, from_first, join_ranks, ranks
from settings import Settings, add_flags, command_line, complete, flag_name, typed
from trials import THE_SHEETS, Architecture, Trial, Trials, mega_flops, network, seconds_an_image

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
# One in FEWER goes on from the brief trainings to the full ones, of which the best few have a second seed. A
# rung of middling length between them made the search end no better than at random (results/search_grid.csv).
BRIEF, FEWER, N_BEST = 1 / 3, 5, 3
LENGTHS = (5, 4, 3, 2, 1.5, 1, 0.75, 0.5)  # passes of the longest trainings, that the budget chooses from
GRID_PASSES = 3  # of the longest trainings of a grid
N_FINAL_SEEDS = 5  # of the winner and of the sheet's architecture, on the test set


# ---------------------------------------------------------------- the space and the strategy


def architectures(space, image_size):
    """Return (the architectures of the nested loops, how many combinations leave nothing of the image)."""
    legal, n_illegal = [], 0
    for model in space["model"]:
        for n_blocks in space["n_blocks"]:
            for n_features_1 in space["n_features_1"]:
                for n_features_2 in space["n_features_2"]:
                    for n_fully_1 in space["n_fully_1"]:
                        for n_fully_2 in space["n_fully_2"]:
                            try:
                                halve(image_size, n_blocks)
                            except UserError:
                                n_illegal += 1
                                continue
                            legal.append(
                                Architecture(
                                    model, n_blocks, n_features_1, n_features_2, n_fully_1, n_fully_2
                                )
                            )
    return legal, n_illegal


def halving_rungs(n, passes):
    """Return the rungs of successive halving, (passes, how many architectures, how many seeds) each.

    `n` architectures start, for a ninth of the `passes` over the training images that the last ones get, or
    for BRIEF where that is more.
    """
    n_best = min(n, N_BEST)
    brief, full = min(max(passes / 9, BRIEF), passes), float(passes)
    return [(brief, n, 1), (full, max(n_best, math.ceil(n / FEWER)), 1), (full, n_best, 2)]


def successive_halving(candidates, rungs, run):
    """Return `candidates`, the best first, by successive halving (Jamieson & Talwalkar 2016).

    `rungs` are those of `halving_rungs`; `run` maps a rung's number (from 0) and a list of (architecture,
    passes, seed) to their accuracies, None for one that failed, or to None where the time was up. A rung for
    which there was no time, or in which all failed, does not count. Of equally good ones the first goes on.
    """
    ranked = list(candidates)
    for number, (passes, n, n_seeds) in enumerate(rungs):
        asked = [(candidate, passes, seed) for candidate in ranked[:n] for seed in range(n_seeds)]
        accuracies = run(number, asked)
        if accuracies is None:
            break
        scores = {}
        for index, candidate in enumerate(ranked[:n]):
            own = accuracies[index * n_seeds : (index + 1) * n_seeds]
            scores[candidate] = -1 if None in own else sum(own) / n_seeds
        if max(scores.values()) == -1:
            break
        ranked[:n] = sorted(ranked[:n], key=lambda candidate: -scores[candidate])
    return ranked


# ---------------------------------------------------------------- the budget


def seconds_needed(trials, candidates, rungs, passes):
    """Return the seconds that (the rungs, the final after them) will take if the costliest always go on.

    `passes` are those of the final. What has been trained already takes none.
    """
    costly, planned, seconds = sorted(candidates, key=lambda each: -trials.cost[each]), set(), 0
    for length, n, n_seeds in rungs:
        asked = [(candidate, length, seed) for candidate in costly[:n] for seed in range(n_seeds)]
        new = set(trials_of(trials, asked)) - planned
        planned |= new
        seconds += trials.predict(trials.turns(new))
    return seconds, trials.predict(trials.turns(final_trials(trials, costly[0], passes)))


def trials_of(trials, asked):
    """Return the Trials that a list of (architecture, passes, seed), seeds from 0, stands for."""
    first_seed = trials.settings.seed
    return [Trial("validation", each, passes, first_seed + seed) for each, passes, seed in asked]


def final_trials(trials, winner, passes):
    """Return the trials that judge the winner, and the sheet's architecture, on the test set."""
    pair = dict.fromkeys([winner, THE_SHEETS])  # which may be the same
    seeds = range(trials.settings.seed, trials.settings.seed + N_FINAL_SEEDS)
    return [Trial("test", each, float(passes), seed) for seed in seeds for each in pair]


def plan(trials, candidates, budget, passes=None):
    """Return (candidates, rungs) for which the `budget`, in seconds, will do, with the longest trainings.

    Where even the shortest is too long for all `candidates`, some are chosen at random. `passes` settles the
    training's length. Raises UserError where there is not the time for two.
    """
    for longest in [passes] if passes else LENGTHS:
        rungs = halving_rungs(len(candidates), longest)
        if trials.seconds() + sum(seconds_needed(trials, candidates, rungs, longest)) < budget:
            return candidates, rungs
    order = random_order(len(candidates), trials.settings.seed, 2**32 - 1).tolist()
    for n in range(len(candidates), 0, -1):
        some = [candidates[index] for index in sorted(order[: max(n, 2)])]
        rungs = halving_rungs(len(some), longest)
        needed = trials.seconds() + sum(seconds_needed(trials, some, rungs, longest))
        if needed < budget:
            return some, rungs
    raise UserError(
        f"--minutes {budget / 60:.2g} are too short to compare two architectures; "
        f"try --minutes {math.ceil(needed / 60 + 0.5)}, or fewer images with --limit"
    )


def kept_plan(trials, candidates, budget, options, folder):
    """Return (candidates, rungs), and keep them in plan.json: a search that goes on has those of its start.

    They depend on the speed that was measured then. With --grid, all candidates go through all rungs.
    """
    if folder and not (folder / "plan.json").exists():
        if options["grid"]:
            lengths = [(options["epochs"] or GRID_PASSES) / part for part in (9, 3, 1)]
            chosen = candidates, [(passes, len(candidates), 3) for passes in lengths]
        else:
            try:
                chosen = plan(trials, candidates, budget, options["epochs"])
            except UserError:  # then there is no search, and its folder is free for another
                (folder / "config.json").unlink()
                raise
        write_json(folder / "plan.json", chosen)
    kept = everyones(read_json(folder / "plan.json") if folder else None)[0]
    try:
        chosen = [Architecture(*each) for each in kept[0]]
        rungs = [(float(passes), int(n), int(n_seeds)) for passes, n, n_seeds in kept[1]]
        if not (chosen and rungs and set(chosen) <= set(candidates)):
            raise ValueError("of another search")
        if not all(0 < passes < math.inf and n > 0 and n_seeds > 0 for passes, n, n_seeds in rungs):
            raise ValueError("no plan")
    except (TypeError, KeyError, IndexError, ValueError):
        raise UserError(f"{folder}/plan.json: is damaged; move it away") from None
    return chosen, rungs


# ---------------------------------------------------------------- the search


def search(trials, candidates, budget, options, folder):
    """Search among `candidates` for `budget` seconds; return the winner.

    `folder` is None for all processes but the first.
    """
    with alone():
        cost = seconds_an_image(trials.sizes, trials.data["validation"][0], trials.settings)
    trials.cost = everyones(cost)[0]
    standings.introduce(trials, candidates, THE_SHEETS)
    chosen, rungs = kept_plan(trials, candidates, budget, options, folder)
    passes = rungs[-1][0]
    needed = sum(seconds_needed(trials, chosen, rungs, passes))
    standings.print_plan(rungs, len(candidates), needed, N_FINAL_SEEDS)

    def run_rung(number, asked):
        later, final = seconds_needed(trials, chosen, rungs[number + 1 :], passes)
        name = f"rung {number + 1} of {len(rungs)}"
        rows = trials.run(trials_of(trials, asked), name, budget - final, later + final)
        standings.print_rung(name, rungs[number], rows)
        if number == 0 and (rows is None or all(row["error"] for row in rows)):
            why = rows[0]["error"] if rows else "the time is up; try more --minutes"
            raise UserError(f"no architecture could be compared: {why}")
        return rows and [row["accuracy"] for row in rows]

    ranked = successive_halving(chosen, rungs, run_rung)
    winner = ranked[0]
    standings.report(trials.rows, ranked, folder, trials.data["test"][1].source)
    trials.run(final_trials(trials, winner, passes), "final", 1.05 * budget, 0)
    standings.print_final(trials.rows, winner, THE_SHEETS, passes)
    epochs = int(passes) if passes == int(passes) else Settings.epochs
    best = replace(trials.settings, **winner._asdict(), epochs=epochs)
    print(f"\nnext, to train the winner: {command_line(best)}")
    return winner


# ---------------------------------------------------------------- the command line


def parse(arguments=None):
    """Return (settings, space, options, out) from the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=positive(float), help="time for everything (default: 10)")
    parser.add_argument(
        "--grid",
        action="store_true",
        help="no budget: train every architecture briefly, longer and in full, from three seeds",
    )
    epochs = "passes over the training images in full (default: up to 5, as the minutes allow; --grid 3)"
    parser.add_argument("--epochs", type=positive(int), metavar="N", help=epochs)
    parser.add_argument("--out", metavar="DIR", help="folder to make or to go on in (default: runs/search)")
    for name, values in SPACE.items():
        kind = {"choices": values} if name == "model" else {"type": positive(int), "metavar": "N"}
        text = f"values to try (default: {' '.join(map(str, values))})"
        parser.add_argument(flag_name(name), nargs="+", default=values, help=text, **kind)
    names = "data batch_size lr augment image_size limit seed device precision threads"
    add_flags(parser, names.split())
    given = typed(parser, arguments)
    out, options = given.pop("out"), {name: given.pop(name) for name in ("minutes", "grid", "epochs")}
    if options["grid"] and options["minutes"]:
        raise UserError("--grid has no budget: leave out --minutes")
    space = {name: list(dict.fromkeys(given.pop(name))) for name in SPACE}
    return Settings(init="xavier", **given), space, options, out


def main(arguments=None):
    """Search as the command line says; return the winner."""
    given, space, options, out = parse(arguments)
    join_ranks(given.device)
    settings = complete(given)
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True
    given = replace(given, data=from_first(lambda: find(given.data)))
    train_data, test_data = load(given.data, given.limit, given.image_size)
    n_channels, *image_size = train_data.images.shape[1:]
    image_shape = (n_channels, *(2 * [given.image_size] if given.image_size else image_size))
    candidates, n_illegal = architectures(space, image_shape[1:])
    if n_illegal:
        print(f"{n_illegal} combinations are left out: they would leave nothing of images of this size")
    if len(train_data) < 2:
        raise UserError("one training image is too few: some are held out")
    if not candidates:
        raise UserError(f"none of the {n_illegal} combinations leaves anything of images of this size")
    try:
        halve(image_shape[1:], THE_SHEETS.n_blocks)
    except UserError as error:
        raise UserError(f"the sheet's architecture, to compare with, does not fit: {error}") from None
    sizes = {
        each: mega_flops(each, train_data.classes, image_shape)
        for each in dict.fromkeys([*candidates, THE_SHEETS])
    }
    candidates.sort(key=lambda candidate: sizes[candidate][0])  # of equally good ones the cheaper goes on
    model = network(THE_SHEETS, settings, train_data.classes, image_shape)
    now = describe(replace(settings, threads=None), model, train_data, test_data, {"space": space, **options})
    folder = from_first(lambda: same_run_folder("search", now, out))
    words = ["search.py", *(sys.argv[1:] if arguments is None else arguments)]
    with resumable_by(words, folder), nullcontext() if ranks()[0] else locked(folder):
        file = None if ranks()[0] else folder / "results.csv"
        trials = Trials(file, train_data, test_data, given, sizes)
        done = f"goes on, {len(trials.rows)} trials are done" if trials.rows else "begins"
        print(f"in {folder} the search {done}")
        budget = math.inf if options["grid"] else 60 * (options["minutes"] or 10)
        return search(trials, candidates, budget, options, None if ranks()[0] else folder)


if __name__ == "__main__":
    run_command(main)
