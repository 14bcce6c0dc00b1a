"""Compare training runs: one table and one picture, seeds of the same settings as one line with a band.

    python compare.py                                    all of runs/
    python compare.py runs/resnet-xavier runs/encoder-xavier --csv table.csv

Runs that were tested on different images stand apart, in tables and diagrams of their own.
"""

import argparse
from dataclasses import fields, replace
from itertools import accumulate
from pathlib import Path

import figures
from canvas import whole_ticks
from checkpoint import read_config, read_run
from effect import mean_sd
from files import write_csv
from runs import Parser, UserError, run_command
from settings import command_line

GOAL = 0.99  # of the test accuracy, to which epochs and seconds are counted
# What the table has columns for, or what is not the experiment's.
NOT_CHANGES = ("model", "init", "seed", "data", "limit", "device", "precision", "threads")

# ---------------------------------------------------------------- reading runs


def training_runs(root=Path("runs")):
    """Return the folders of train.py's runs in `root`; say which cannot be read."""
    folders = []
    for file in sorted(root.glob("*/config.json")):
        try:
            if read_config(file.parent)[1]["options"] is None:
                folders.append(file.parent)
        except UserError as error:
            print(f"Note: {error}; it is left out")
    return folders


def same_but_seed(runs):
    """Return lists of `runs` that differ in nothing but their seed, in the order in which they begin."""
    groups = {}
    for run in runs:
        settings, config = run["settings"], run["config"]
        data, machine = config["data"]["fingerprint"], config["platform"]
        # Where the data lie counts for less than what they are.
        key = (replace(settings, seed=0, data=""), *data, machine["hardware"], machine["n_processes"])
        groups.setdefault((*key, len(run["history"]), run["finished"]), []).append(run)
    return list(groups.values())


# ---------------------------------------------------------------- what is told of a group


def sum_up(group):
    """Return a row of the table, a dict, for runs that differ in their seed only."""
    run, histories = group[0], [run["history"] for run in group]
    settings, config = run["settings"], run["config"]
    row = {"model": settings.model, "init": settings.init, "changed": "", "n_seeds": len(group)}
    row |= {"data": config["data"]["source"], "n_train": config["data"]["n_train"]}
    row |= {"n_test": config["data"]["n_test"], "n_parameters": config["n_parameters"]}
    row |= {"epochs": len(histories[0]), "finished": run["finished"]}
    final = [100 * history[-1]["test_accuracy"] for history in histories]
    best = [100 * max(row["test_accuracy"] for row in history) for history in histories]
    for name, numbers in (("final", final), ("best", best)):
        mean, sd = mean_sd(numbers)
        row |= {f"{name}_accuracy": round(mean, 3), f"{name}_sd": round(sd, 3)}
    reached = [reach for reach in map(first_over, histories) if reach]
    row["n_reached"] = len(reached)
    for name, numbers in zip(("epochs_to_99", "seconds_to_99"), zip(*reached, strict=True), strict=False):
        row[name] = round(mean_sd(numbers)[0], 1)
    row = {"epochs_to_99": None, "seconds_to_99": None} | row
    seconds = mean_sd([sum(row["seconds"] for row in history) for history in histories])[0]
    row |= {"seconds": round(seconds, 1)}
    row |= {"images_per_second": round(row["epochs"] * row["n_train"] / max(seconds, 1e-9))}
    where = f"{config['platform']['hardware']}, {settings.precision}, {settings.threads} threads"
    n_processes = config["platform"]["n_processes"]
    row["hardware"] = where + (f" in each of {n_processes} processes" if n_processes > 1 else "")
    row["seeds"] = " ".join(str(run["settings"].seed) for run in group)
    row["command"] = command_line(settings)
    return row


def first_over(history):
    """Return (epochs, seconds) of training until the test accuracy is GOAL, or None."""
    seconds = accumulate(row["seconds"] for row in history)
    for epoch, (row, elapsed) in enumerate(zip(history, seconds, strict=True), 1):
        if row["test_accuracy"] >= GOAL:
            return epoch, elapsed
    return None


def changes(groups):
    """Return for each group what sets it apart from others of its model: texts such as "n_blocks 4"."""
    texts = []
    for group in groups:
        settings = group[0]["settings"]
        others = [other[0]["settings"] for other in groups if other[0]["settings"].model == settings.model]
        names = [field.name for field in fields(settings) if field.name not in NOT_CHANGES]
        varied = [name for name in names if len({getattr(other, name) for other in others}) > 1]
        values = [(name, getattr(settings, name)) for name in varied]
        words = [name if value is True else f"{name} {value}" for name, value in values if value]
        texts.append(", ".join(words))
    return texts


# ---------------------------------------------------------------- the table and the picture

HEADER = (
    "      model    init        seeds  trained on  parameters  epochs  final accuracy  best epoch's"
    "    99 % after  images/s"
)


def print_section(groups, rows):
    """Print the table of groups that were tested on the same images, given their rows."""
    print(f"\ntested on {rows[0]['data']}, {rows[0]['n_test']:,} images\n{HEADER}")
    for number, row in enumerate(rows, 1):
        final = f"{row['final_accuracy']:.2f} ± {row['final_sd']:.2f}"
        best = f"{row['best_accuracy']:.2f} ± {row['best_sd']:.2f}"
        reached = (
            f"{row['epochs_to_99']:g} ep., {row['seconds_to_99']:.0f} s" if row["n_reached"] else "never"
        )
        if 0 < row["n_reached"] < row["n_seeds"]:
            reached += f" ({row['n_reached']})"
        print(
            f"{number:4}  {row['model']:8} {row['init']:11} {row['n_seeds']:5}  {row['n_train']:10,}  "
            f"{row['n_parameters']:10,}  {row['epochs']:6}  {final:>14}  {best:>12}  {reached:>12}  "
            f"{row['images_per_second']:8,}  {row['changed']}".rstrip()
        )
    for hardware in dict.fromkeys(row["hardware"] for row in rows):
        numbers = [str(number) for number, row in enumerate(rows, 1) if row["hardware"] == hardware]
        print(f"{', '.join(numbers)}: trained on {hardware}")
    for number, (group, row) in enumerate(zip(groups, rows, strict=True), 1):
        if not row["finished"]:
            folders = " and ".join(str(run["folder"]) for run in group)
            n_epochs = group[0]["settings"].epochs
            print(f"{number}: not finished, {row['epochs']} of {n_epochs} epochs are over; ", end="")
            print(f"python train.py --resume {folders}")


def picture_row(groups, rows):
    """Return what `figures.draw_lines` takes for groups that were tested on the same images."""
    lines = []
    for group, row in zip(groups, rows, strict=True):
        curves = [[], []]  # over epochs, and over seconds
        elapsed = [list(accumulate(row["seconds"] for row in run["history"])) for run in group]
        for epoch in range(row["epochs"]):
            errors = [max(100 - 100 * run["history"][epoch]["test_accuracy"], 0.01) for run in group]
            point = (mean_sd(errors)[0], min(errors), max(errors))
            curves[0].append((epoch + 1, *point))
            curves[1].append((max(mean_sd([seconds[epoch] for seconds in elapsed])[0], 0.01), *point))
        name = f"{row['model']}, {row['init']}{', ' * bool(row['changed'])}{row['changed']}"
        seeds = f"{row['n_seeds']} seeds" if row["n_seeds"] > 1 else f"seed {row['seeds']}"
        lines.append((f"{name} ({seeds}{'' if row['finished'] else ', not finished'})", curves))
    longest = max(row["epochs"] for row in rows)
    error = {"title": "test error (%, log scale)", "log_y": True}
    epochs = error | {"x_title": "epoch", "x_ticks": whole_ticks(1, longest) if longest > 1 else [(1, "1")]}
    seconds = error | {"x_title": "seconds of training (log scale)", "log_x": True}
    heading = f"tested on {rows[0]['data']}, {rows[0]['n_test']:,} images"
    return heading, [epochs, seconds], lines


def main(arguments=None):
    """Compare as the command line says."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders (default: all of runs/)"
    )
    parser.add_argument(
        "--picture", default="runs/compare.png", help="the picture (default: runs/compare.png)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the table to this file too")
    given = parser.parse_args(arguments)
    folders = dict.fromkeys(Path(folder) for folder in given.runs or training_runs())
    if not folders:
        raise UserError("no training run is in runs/; python train.py makes one")
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if not run["history"]:
            print(f"Note: {run['folder']} is left out: none of its epochs is over")
    groups = same_but_seed(run for run in runs if run["history"])
    if not groups:
        raise UserError("none of these runs has an epoch that is over")

    sections = {}  # by the images that were tested
    for member in groups:
        sections.setdefault(member[0]["config"]["data"]["fingerprint"][1], []).append(member)
    table, pictures = [], []
    for members in sections.values():
        rows = [
            sum_up(member) | {"changed": text} for member, text in zip(members, changes(members), strict=True)
        ]
        print_section(members, rows)
        pictures.append(picture_row(members, rows))
        table += rows
    print("\nAccuracies in percent, mean ± sd over seeds. The final one is the result; the best epoch's is")
    print("chosen by the test set, and so flatters.", end=" ")
    if len(sections) > 1:
        print(f"Compare within each of the {len(sections)} tables: their test images differ.", end="")
    figures.draw_lines(given.picture, f"{len(runs)} runs; bands: lowest to highest seed", pictures)
    if given.csv:
        write_csv(given.csv, table)
    print(f"\nlook at {given.picture}" + (f"; the table is in {given.csv}" if given.csv else ""))


if __name__ == "__main__":
    run_command(main)
