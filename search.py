"""Search for the architecture that works best, within a budget of minutes (exercise sheet 1.3).

    python search.py --minutes 10

Stage 1 trains all architectures of the nested loops briefly, stage 2 the best fifth in full, stage 3 the best
three with a second seed, judged by held-out training images. Stage 4 compares the winner with the sheet's
network on the test set, five seeds each. results.csv has all trainings; to continue, repeat the command.
"""

import csv
import math
import os
import time
from argparse import Namespace
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # OpenMP reads this when torch is imported; see train.py

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
import train
from data import describe_data, find, introduce, load, random_order, random_part
from support import charts, console, machine, run_folder
from support.console import UserError, positive
from support.statistics import rank_test, verdict

SPACE = {  # values that the loops try; the dense layers' sizes matter little (results/search_fully.csv)
    "model": ("encoder", "resnet"),
    "n_blocks": (2, 3, 4),
    "n_features_1": (16, 32),
    "n_features_2": (32, 64),
    "n_fully_1": (144,),
    "n_fully_2": (72,),
}
DESCRIPTION = "{}, {} blocks, {}/{} channels, {}/{} dense units"  # an Architecture as text
MIN_IMAGES = 2000  # smallest number of images in a training; all if there are fewer

Architecture = namedtuple("Architecture", SPACE)
SHEET = Architecture("resnet", **models.ARCHITECTURE)
Trial = namedtuple("Trial", ["judged_on", *SPACE, "n_images", "epochs", "seed"])  # [1:7] is its Architecture
COLUMNS = (*Trial._fields, "accuracy", "loss", "mflop", "n_parameters", "seconds", "error")  # of results.csv


def architectures(space, image_size):
    """Yield the Architectures of the nested loops; skip them if the image is too small for their blocks."""
    depths = [n for n in space["n_blocks"] if min(image_size) >> n]  # each block halves the image
    for model in space["model"]:
        for n_blocks in depths:
            for n_features_1 in space["n_features_1"]:
                for n_features_2 in space["n_features_2"]:
                    for n_fully_1 in space["n_fully_1"]:
                        for n_fully_2 in space["n_fully_2"]:
                            sizes = n_blocks, n_features_1, n_features_2, n_fully_1, n_fully_2
                            yield Architecture(model, *sizes)


def stages_of(n, n_images, epochs, grid=False):
    """Return [(n_architectures, n_images, epochs, n_seeds)], a tuple for each stage, for `n` candidates.

    A full training has `epochs` epochs of `n_images` images; a brief one has a third of both, but at least
    MIN_IMAGES. With `grid`, each stage trains all with three seeds: briefly, for 1/3 of the epochs, in full.
    """
    brief = max(round(n_images / 3), min(n_images, MIN_IMAGES)), max(1, epochs // 3)
    if grid:
        return [(n, *brief, 3), (n, n_images, brief[1], 3), (n, n_images, epochs, 3)]
    return [(n, *brief, 1), (max(3, math.ceil(n / 5)), n_images, epochs, 1), (3, n_images, epochs, 2)]


def successive_halving(candidates, stages, run, sizes):
    """Rank `candidates`, the best first, by successive halving (Jamieson & Talwalkar 2016).

    Each stage trains the best so far for longer, or with more seeds. `run(number, chosen, n_images, epochs,
    n_seeds)` returns {architecture: accuracy}, nan if a training failed; it omits architectures if time is
    short. If accuracies are equal, the smaller of `sizes`, {architecture: (MFLOP, parameters)}, wins.
    """
    ranked = list(candidates)
    for number, (n, *length_and_seeds) in enumerate(stages, 1):
        accuracies = run(number, ranked[:n], *length_and_seeds)
        trained = [each for each in accuracies if not math.isnan(accuracies[each])]
        trained.sort(key=lambda each: (-accuracies[each], sizes[each], each))
        ranked = trained + [each for each in ranked if each not in accuracies]
    return ranked


def train_trial(trial, shared, task):
    """Train the network of a Trial; return its row of results.csv.

    `shared` has what all trainings share, such as data: {judged_on: (ImageData to train, ImageData to test)}.
    """
    learned, judged = shared.data[trial.judged_on]
    if trial.n_images < len(learned):  # at random, because a folder is sorted by class
        learned = learned.subset(random_part(len(learned), trial.n_images))
    if trial.n_images < len(judged) and trial.judged_on != "test":  # otherwise testing takes longer
        judged = judged.subset(random_part(len(judged), trial.n_images))
    size = dict(zip(("mflop", "n_parameters"), shared.sizes[trial[1:7]], strict=True))
    row = dict.fromkeys(COLUMNS, "") | trial._asdict() | size
    settings, started = Namespace(**vars(shared.settings) | trial._asdict()), time.perf_counter()
    machine.is_alone = True  # other processes train other networks
    try:
        train.complete(settings, learned)  # now, because the learning rate depends on the epochs
        model = models.build(settings, len(learned.classes), learned.images.shape[1])
        last = train.train(model, learned, judged, settings, task=task)[0][-1]
        row |= {"accuracy": last["test_accuracy"], "loss": last["test_loss"]}
    except (UserError, RuntimeError, MemoryError) as error:  # the training diverged or needs too much memory
        row["error"] = console.one_line(error)
    finally:
        machine.is_alone = False
    return row | {"seconds": round(time.perf_counter() - started, 2)}


def read_results(file):
    """Return {Trial: row} of results.csv. Create the file if needed; remove an incomplete last line."""
    content = file.read_bytes() if file.exists() else b""
    whole = content[: content.rfind(b"\n") + 1] or f"{','.join(COLUMNS)}\n".encode()
    if whole != content:
        with run_folder.written(file) as opened:
            opened.write(whole)
    try:
        rows = run_folder.read_csv(file)
        for row in rows:
            row |= {name: int(row[name]) for name in Trial._fields[2:]}
            row |= {name: float(row[name] or "nan") for name in ("accuracy", "mflop", "seconds")}
        return {Trial(*(row[name] for name in Trial._fields)): row for row in rows}
    except (KeyError, ValueError):
        raise UserError(f"{file}: a line is not a training; repair the file, or move it away") from None


def train_all(chosen, judged_on, n_images, epochs, n_seeds, shared, stage, deadline=math.inf):
    """Train the architectures `chosen`, unless results.csv has them; return {architecture: its rows}.

    Each process trains its share. After `deadline` (time.monotonic()), at most two of stage 1 start.
    """
    length, seeds = (n_images, epochs), range(shared.settings.seed, shared.settings.seed + n_seeds)
    trials = [Trial(judged_on, *each, *length, seed) for seed in seeds for each in chosen]
    rows = machine.from_first(lambda: read_results(shared.file))
    todo = [trial for trial in trials if trial not in rows][machine.rank() :: machine.n_processes()]
    for number, trial in enumerate(console.progress(todo, stage), 1):
        if time.monotonic() > deadline and len(rows) + number > 3:  # one or two of `rows` measured the speed
            break
        row = train_trial(trial, shared, f"{stage}, training {number} of {len(todo)}")
        with open(shared.file, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(run_folder.quoted(row))
    machine.sum_over_processes([0])  # waits for the other processes
    rows = machine.from_first(lambda: read_results(shared.file))
    trained = [[rows[t] for t in trials if t[1:7] == each and t in rows] for each in chosen]
    return {each: own for each, own in zip(chosen, trained, strict=True) if own}


def network_size(architecture, settings, data):
    """Return (MFLOP of a forward pass of one image, number of parameters)."""
    settings = Namespace(**vars(settings) | architecture._asdict() | {"device": "cpu"})
    model = models.build(settings, len(data.classes), data.images.shape[1])
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, data.images.shape[1], *settings.image_size))
    return counter.get_total_flops() / 1e6, sum(map(torch.numel, model.parameters()))


def plan(candidates, shared):
    """Return (n_images, epochs, seconds in all, seconds of stage 4) for the longest full training that fits.

    With less time it has fewer epochs, then one epoch with 1/2, 1/3, … of the images. Times are interpolated
    by FLOPs from trainings of the cheapest and costliest network; the costliest are assumed to be the best.
    """
    images, n_held_out = shared.data["validation"][0].images, len(shared.data["validation"][1])
    n = min(len(images), max(128, 2**20 // images[0].numel()))  # takes a few seconds
    extremes = (choose([*candidates, SHEET], key=shared.sizes.get) for choose in (min, max))
    measured = train_all(dict.fromkeys(extremes), "validation", n, 2, 1, shared, "measuring the speed")
    n_seen = 2 * n * 4 / 3 * machine.n_processes()  # testing costs a third of training
    points = [shared.sizes[each][0] for each in measured], [row["seconds"] for (row,) in measured.values()]
    costs = np.sort(np.interp([shared.sizes[each][0] for each in candidates], *points))[::-1] / n_seen
    lengths = [(len(images), epochs) for epochs in range(shared.settings.epochs, 0, -1)]
    lengths += [(round(len(images) / part), 1) for part in range(2, len(images) // MIN_IMAGES + 1)]
    for n_images, epochs in lengths:
        final = 1, 1.2 * n_images + n_held_out / 3, epochs, 10  # about as many test images as held out
        stages = [*stages_of(len(candidates), n_images, epochs, shared.grid), final]
        seconds = [sum(costs[:n]) * seeds * e * (i + min(i, n_held_out) / 3) for n, i, e, seeds in stages]
        if sum(seconds) < shared.seconds:
            break
    return n_images, epochs, sum(seconds), seconds[-1]


def search(candidates, shared, started):
    """Search among the Architectures `candidates` and print the results; return the winner."""
    n_images, epochs, needed, final = plan(candidates, shared)
    n_all, deadline = len(shared.data["validation"][0]), started + shared.seconds
    stages, board = stages_of(len(candidates), n_images, epochs, shared.grid), {}
    part = f"{n_images:,} of {n_all:,} images{', chosen at random' * (n_images < n_all)}, epochs: {epochs}"
    about = console.duration(min(needed, shared.seconds))
    print(f"{len(candidates)} architectures; a full training has {part}; time: about {about}", flush=True)

    def run(number, chosen, *length_and_seeds):
        title, end = f"stage {number} of 4", deadline - min(final, shared.seconds / 2)
        board.update(found := train_all(chosen, "validation", *length_and_seeds, shared, title, end))
        n_trained, n_wanted = sum(map(len, found.values())), len(chosen) * length_and_seeds[-1]
        print(f"{title}: there was time for {n_trained} of {n_wanted} trainings", flush=True)
        return {each: mean(row["accuracy"] for row in rows) for each, rows in found.items()}

    ranked = [each for each in successive_halving(candidates, stages, run, shared.sizes) if each in board]
    if not ranked:
        raise UserError(f"no network could be trained; {shared.file} has the errors")
    show_board({each: board[each] for each in ranked}, (n_images, epochs), shared)
    pair, n_images = dict.fromkeys([ranked[0], SHEET]), round(n_images * len(shared.data["test"][0]) / n_all)
    show_final(ranked[0], train_all(pair, "test", n_images, epochs, 5, shared, "stage 4 of 4", deadline))
    return ranked[0]


def show_board(board, full, shared):
    """Print the best ten of `board`, {architecture: rows of its longest training}, and draw all."""
    print("\nrank  accuracy (%)  seeds  parameters   MFLOP  architecture")
    entries = []
    for rank, (each, rows) in enumerate(board.items(), 1):
        name, (mflop, n) = DESCRIPTION.format(*each), shared.sizes[each]
        errors = [100 - 100 * row["accuracy"] for row in rows]
        entry = {"model": each.model, "architecture": name, "mflop": mflop, "error": mean(errors)}
        entry |= {"error_sd": stdev(errors) if len(errors) > 1 else None, "is_sheets": each == SHEET}
        entries.append(entry | {"longest": (rows[0]["n_images"], rows[0]["epochs"]) == full})
        if rank <= 10:
            print(f"{rank:4}  {100 - mean(errors):12.2f}  {len(rows):5}  {n:10,}  {mflop:6.1f}  {name}")
    picture, title = shared.file.with_name("costs.png"), f"Architectures on {shared.data['test'][0].source}"
    machine.from_first(lambda: charts.draw_costs(picture, entries, title))
    print(f"see {picture}; all trainings are in {shared.file}")


def show_final(winner, found):
    """Print how the winner compares with the sheet's network; `found` is {architecture: rows}."""
    both = [found.get(each, []) for each in (winner, SHEET)]
    best, sheets = ([100 * row["accuracy"] for row in rows if not row["error"]] for rows in both)
    if min(len(best), len(sheets)) < 2:
        return print("\nnot compared on the test set: fewer than two seeds are done; repeat the command")
    print(f"\ntest accuracy (%), mean ± standard deviation of {len(best)} and {len(sheets)} seeds")
    print(f"the winner   {mean(best):6.2f} ± {stdev(best):.2f}  {DESCRIPTION.format(*winner)}")
    print(f"the sheet's  {mean(sheets):6.2f} ± {stdev(sheets):.2f}  {DESCRIPTION.format(*SHEET)}")
    if winner != SHEET:
        points, low, high, p = rank_test(sheets, best)
        told = f"(median of pairs, 95 % interval {low:+.2f} to {high:+.2f}): {verdict(p)}, exact rank test"
        print(f"difference   {points:+6.2f} points", "(too few seeds to test)" if math.isnan(low) else told)


def folder_of(settings, data, n_parameters, out):
    """Return the folder of an earlier search with the same data and settings, or a new one."""
    config = run_folder.describe_run("search.py", settings, describe_data(*data["test"]), n_parameters)
    names = ("init", "batch_size", "lr", "augment", "image_size", "device", "precision")
    config["shared"] = config["data"]["fingerprints"] + [getattr(settings, name) for name in names]
    for folder in [Path(out)] if out else sorted(Path("runs").glob("search*")):
        with suppress(UserError):
            if run_folder.read_config(folder, "search.py").get("shared") == config["shared"]:
                return folder
    folder = run_folder.new_folder("search", out)
    run_folder.write_config(folder, config)
    return folder


def main():
    """Search as the command line says."""
    started = time.monotonic()
    machine.join_torchrun()
    parser = console.Parser(description=__doc__)
    console.add_training_flags(parser, epochs="5, with --grid 3; fewer if time is short")
    parser.add_argument("--init", choices=("default", "xavier"), default="xavier", help="default: xavier")
    for name, values in SPACE.items():
        kind = {"choices": values} if name == "model" else {"type": positive(int), "metavar": "N"}
        text = f"values to try (default: {' '.join(map(str, values))})"
        parser.add_argument(f"--{name.replace('_', '-')}", nargs="+", default=values, help=text, **kind)
    add = parser.add_mutually_exclusive_group().add_argument
    add("--minutes", type=positive(float), default=10, metavar="N", help="minutes in all (default: 10)")
    add("--grid", action="store_true", help="train all architectures in full, however long it takes")
    parser.add_argument("--out", type=console.path, metavar="DIR", help="folder (default: runs/search)")
    given, typed = parser.parse_args(), parser.typed()
    given.data = machine.from_first(lambda: find(given.data))
    train_data, test_data = load(given.data, given.limit, given.image_size)
    introduce(train_data, test_data)
    if len(train_data) < 2:
        raise UserError("one training image is too few, because a sixth is held out")
    order, n = random_order(len(train_data), 0), max(1, len(train_data) // 6)
    validation = train_data.subset(order[n:]), train_data.subset(order[:n])
    data = {"validation": validation, "test": (train_data, test_data)}
    settings = Namespace(**vars(given), weights=None, freeze=False)
    train.complete(settings, validation[0], usual_epochs=3 if given.grid else 5)
    settings.lr = given.lr  # if None, `complete` sets it for each training
    candidates = list(dict.fromkeys(architectures(vars(given), settings.image_size)))
    if not candidates:
        raise UserError("the images are too small for these blocks; try --n-blocks 1")
    sizes = {each: network_size(each, settings, train_data) for each in [*candidates, SHEET]}
    folder = machine.from_first(lambda: folder_of(settings, data, sizes[SHEET][1], given.out))
    shared = Namespace(data=data, settings=settings, sizes=sizes, grid=given.grid)
    shared.file, shared.seconds = folder / "results.csv", math.inf if given.grid else 60 * given.minutes
    shuffled = [candidates[index] for index in random_order(len(candidates), given.seed)]
    flags = {"init": given.init} | typed | search(shuffled, shared, started)._asdict()
    names = [name for name in flags if name not in ("minutes", "grid", "out") and flags[name] is not False]
    words = [f"--{name.replace('_', '-')}" + f"={flags[name]}" * (flags[name] is not True) for name in names]
    print(f"\nnext, to train the winner: {console.command('train.py', *words)}")


if __name__ == "__main__":
    console.run_command(main)
