"""Search the architecture that works best, within a budget of minutes (exercise sheet 1.3).

Example: python search.py --minutes 10

All architectures of the nested loops are trained briefly, the better third longer, the few best in full. They
are compared on training images held out for that; the test set judges only the winner, beside the sheet's own
architecture. The same command again goes on where it was interrupted.
"""

import argparse
import math
import sys
from contextlib import nullcontext
from dataclasses import replace

import torch

import standings
from checkpoint import describe, resumable_by, same_run_folder
from data import find, load, random_order
from files import locked, read_json, write_json
from models import halve
from ranks import alone, everyones, first_rank_first, join_ranks, ranks
from runs import Parser, UserError, positive, run_command
from settings import Settings, add_flags, command_line, complete, flag_name, typed
from trials import THE_SHEETS, Architecture, Trial, Trials, mega_flops, network, seconds_an_image

# The values that the loops go over, the sheet's among them. 72 units in place of 144 had cost 0.15 ± 0.07
# points after a third of an epoch (results/search_fully.csv), so the hidden layers stay as they are.
SPACE = {
    "model": ("encoder", "resnet"),
    "n_blocks": (2, 3, 4),
    "n_features_1": (16, 32),
    "n_features_2": (32, 64),
    "n_fully_1": (144,),
    "n_fully_2": (72,),
}
ETA = 3  # of the architectures in a rung one in so many goes on, and is trained so many times as long
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

    `n` architectures start; the last ones are trained for `passes` over the training images.
    """
    sizes = [max(min(n, 2), math.ceil(n / ETA**rung)) for rung in range(3)]
    rungs = [(passes / ETA ** (2 - rung), size, 1) for rung, size in enumerate(sizes)]
    return [*rungs, (float(passes), min(n, 2), 3)]


def successive_halving(candidates, rungs, run):
    """Return `candidates`, the best first, by successive halving (Jamieson & Talwalkar 2016).

    `rungs` are those of `halving_rungs`; `run` maps a rung's number (from 0) and a list of (architecture,
    passes, seed) to their accuracies, None for one that failed, or to None where the time was up: that rung
    does not count. Of equally good ones the first goes on.
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
        ranked[:n] = sorted(ranked[:n], key=lambda candidate: -scores[candidate])
    return ranked


# ---------------------------------------------------------------- the budget


def seconds_needed(trials, candidates, rungs, passes):
    """Return the seconds that (the rungs, the final after them) take at most: the costliest always go on.

    `passes` are those of the final.
    """
    costly = sorted(candidates, key=lambda candidate: -trials.cost[candidate])
    search = {
        Trial("validation", candidate, passes, seed)
        for passes, n, n_seeds in rungs
        for candidate in costly[:n]
        for seed in range(n_seeds)
    }
    final = final_trials(costly[0], passes)
    return [sum(map(trials.predict, each)) / ranks()[1] for each in (search, final)]


def final_trials(winner, passes):
    """Return the trials that judge the winner, and the sheet's architecture, on the test set."""
    pair = dict.fromkeys([winner, THE_SHEETS])  # which may be the same
    return [Trial("test", each, passes, seed) for seed in range(N_FINAL_SEEDS) for each in pair]


def plan(trials, candidates, seconds, passes, seed):
    """Return (candidates, rungs) that fit into `seconds`: as long a training as the default, or shorter.

    Where even one pass is too long for all `candidates`, some are chosen at random. `passes` settles the
    training's length. Raises UserError where there is not the time for two.
    """
    for longest in [passes] if passes else range(Settings.epochs, 0, -1):
        rungs = halving_rungs(len(candidates), longest)
        if sum(seconds_needed(trials, candidates, rungs, longest)) < seconds:
            return candidates, rungs
    order = random_order(len(candidates), seed, 1).tolist()
    for n in range(len(candidates) - 1, 0, -1):
        some = [candidates[index] for index in sorted(order[:n])]
        needed = sum(seconds_needed(trials, some, halving_rungs(n, longest), longest))
        if n > 1 and needed < seconds:
            return some, halving_rungs(n, longest)
    raise UserError(
        f"{max(seconds, 0) / 60:.2g} minutes are too short to compare two architectures; "
        f"try --minutes {math.ceil(needed / 60) + 1}, or fewer images with --limit"
    )


# ---------------------------------------------------------------- the search


def search(trials, candidates, seconds, options, folder):
    """Search among `candidates` in `folder`, None for all processes but the first; return the winner."""
    data = trials.data["validation"][0]
    with alone():
        cost = seconds_an_image(trials.sizes, data, trials.settings)
    trials.cost = everyones(cost)[0]
    introduce(trials, candidates)
    candidates, rungs = kept_plan(trials, candidates, seconds, options, folder)
    passes = rungs[-1][0]
    standings.print_plan(rungs, sum(seconds_needed(trials, candidates, rungs, passes)), N_FINAL_SEEDS)
    _, final_seconds = seconds_needed(trials, candidates, [], passes)

    def run_rung(number, asked):
        after = sum(seconds_needed(trials, candidates, rungs[number + 1 :], passes))
        name = f"rung {number + 1} of {len(rungs)}"
        asked = [Trial("validation", *each) for each in asked]
        rows = trials.run(asked, name, seconds - final_seconds, after)
        standings.print_rung(name, rungs[number], rows)
        if number == 0 and rows is None:
            raise UserError("the time was up before all architectures were tried; again with more --minutes")
        return rows and [row["accuracy"] for row in rows]

    winner = successive_halving(candidates, rungs, run_rung)[0]
    standings.report(trials.rows.values(), folder, data.source)
    trials.run(final_trials(winner, passes), "final", 1.05 * seconds, 0)
    standings.print_final(trials.rows.values(), winner, THE_SHEETS, passes)
    best = replace(trials.settings, **winner._asdict(), epochs=max(1, round(passes)))
    print(f"\nnext, to train the winner: {command_line(best)}")
    return winner


def introduce(trials, candidates):
    """Say what there is to search, and what it would cost to train all of it in full."""
    learned, held_out = trials.data["validation"]
    mflop, n_parameters = trials.sizes[THE_SHEETS]
    print(f"{learned.source}: {len(learned):,} training images, and {len(held_out):,} held out to compare by")
    print(
        f"{len(candidates)} architectures; the sheet's, {THE_SHEETS}, has {n_parameters:,} parameters, "
        f"{mflop:.1f} MFLOP forward, and takes {len(learned) * trials.cost[THE_SHEETS]:.1f} s an epoch"
    )
    everything = [(Settings.epochs, len(candidates), 3)]
    hours = seconds_needed(trials, candidates, everything, 1)[0] / 3600
    print(f"all of them in full ({Settings.epochs} epochs, 3 seeds) would take {hours:.1f} hours")


def kept_plan(trials, candidates, seconds, options, folder):
    """Return (candidates, rungs) of the plan for these `options`, kept in plan.json.

    A search that goes on has that of its beginning, whatever time is left: it trains the same networks.
    """
    file, kept = folder and folder / "plan.json", None
    if file and file.exists():
        kept = read_json(file)
        if not isinstance(kept, dict) or kept.keys() != {"options", "candidates", "rungs"}:
            raise UserError(f"{file}: is damaged; move it away")
    if folder and (not kept or kept["options"] != options):
        if options["grid"]:
            lengths = [rung[0] for rung in halving_rungs(9, options["epochs"] or 3)[:3]]
            rungs = [(passes, len(candidates), 3) for passes in lengths]
        else:
            left, seed = seconds - trials.seconds(), trials.settings.seed
            candidates, rungs = plan(trials, candidates, left, options["epochs"], seed)
        kept = {"options": options, "candidates": candidates, "rungs": rungs}
        write_json(file, kept)
    kept = everyones(kept)[0]
    return [Architecture(*each) for each in kept["candidates"]], list(map(tuple, kept["rungs"]))


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
    names = ("data", "batch_size", "lr", "augment", "image_size", "limit", "seed", "device", "precision")
    add_flags(parser, (*names, "threads"))
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
    with first_rank_first():
        given = replace(given, data=find(given.data))
        train_data, test_data = load(given.data, given.limit, given.image_size)
    n_channels, *image_size = train_data.images.shape[1:]
    image_shape = (n_channels, *(2 * [given.image_size] if given.image_size else image_size))
    candidates, n_illegal = architectures(space, image_shape[1:])
    if n_illegal:
        print(f"{n_illegal} combinations are left out: they would leave nothing of images of this size")
    if not candidates:
        raise UserError(f"none of the {n_illegal} combinations leaves anything of images of this size")
    sizes = {
        each: mega_flops(each, train_data.classes, image_shape)
        for each in dict.fromkeys([*candidates, THE_SHEETS])
    }
    candidates.sort(key=lambda candidate: sizes[candidate][0])  # of equally good ones the cheaper goes on
    model = network(THE_SHEETS, settings, train_data.classes, image_shape)
    now = describe(replace(settings, threads=None), model, train_data, test_data, space)
    folder = same_run_folder("search", now, out)
    words = ["search.py", *(sys.argv[1:] if arguments is None else arguments)]
    with resumable_by(words, folder), nullcontext() if ranks()[0] else locked(folder):
        file = folder and folder / "results.csv"
        trials = Trials(file, train_data, test_data, given, sizes)
        seconds = math.inf if options["grid"] else 60 * (options["minutes"] or 10)
        return search(trials, candidates, seconds, options, folder)


if __name__ == "__main__":
    run_command(main)
