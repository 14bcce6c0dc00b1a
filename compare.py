"""Compare training runs in a table and a chart; runs that differ only in their seed are one line.

    python compare.py                                    all of runs/
    python compare.py runs/resnet-xavier runs/encoder-xavier --csv table.csv

Accuracies are those after the last epoch. Runs tested on different images are in tables of their own.
"""

import textwrap
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev

from support import charts, run_folder
from support.console import Parser, UserError, add_output_flags, command, path, run_command

# Settings that do not tell runs apart, or that `name_of` shows in another way.
IGNORED = (
    "model",
    "init",
    "seed",
    "data",
    "limit",
    "weights",
    "device",
    "threads",
    "precision",
    "image_size",
)


def read_runs(folders):
    """Return the runs in `folders`, by default all of runs/, without those that have no finished epoch."""
    runs = []
    for folder in folders or [file.parent for file in sorted(Path("runs").glob("*/config.json"))]:
        try:
            if folders or run_folder.read_config(folder, None)["script"] == "train.py":
                runs.append(run_folder.read_run(folder))
        except UserError as error:
            if folders:
                raise
            print(f"Note: {error}; left out")
    for run in [run for run in runs if not run.history]:
        print(f"Note: {run.folder} has no finished epoch; {to_continue(run)}")
        runs.remove(run)
    if not runs:
        where = "these folders" if folders else "runs/"
        raise UserError(f"no run in {where} has a finished epoch; {command('train.py')} makes one")
    return runs


def to_continue(run):
    """Return what to type to continue an unfinished run."""
    n_processes = run.config["platform"]["n_processes"]
    return f"to continue: {command('train.py', '--resume', run.folder, n_processes=n_processes)}"


def same_but_seed(runs):
    """Return lists of `runs` that differ only in their seed, in the order in which they are given."""
    groups = {}
    for run in runs:
        same = {
            name: v
            for name, v in vars(run.settings).items()
            if name not in ("seed", "data", "limit", "weights")
        }
        fingerprints = run.config["data"]["fingerprints"], run.config["weights"]
        group = groups.setdefault(
            repr((same, fingerprints, hardware(run), len(run.history), run.finished)), {}
        )
        other = group.setdefault(run.settings.seed, run)
        if other is not run:
            print(f"Note: {run.folder} is left out: it repeats seed {run.settings.seed} of {other.folder}")
    return [list(group.values()) for group in groups.values()]


def hardware(run):
    """Return what a run was trained on, a text."""
    platform, settings = run.config["platform"], run.settings
    processes = f" in {platform['n_processes']} processes" if platform["n_processes"] > 1 else ""
    return f"{platform['hardware']}, {settings.precision}, {settings.threads} threads{processes}"


def name_of(run, others):
    """Return what tells `run` apart from the `others` in words, such as "resnet xavier, n_blocks 4"."""
    names = [f"{run.settings.model} {run.settings.init}"]
    same_model = [other for other in others if other.settings.model == run.settings.model]
    for name, value in vars(run.settings).items():
        if value and name not in IGNORED and any(vars(other.settings)[name] != value for other in same_model):
            names.append(name if value is True else f"{name} {value}")
    if any(other.settings.image_size != run.settings.image_size for other in others):
        names.append("at " + "×".join(map(str, run.settings.image_size)))
    data = run.config["data"]
    if any(other.config["data"]["fingerprints"] != data["fingerprints"] for other in others):
        names.append(f"{data['n_train']:,} images of {data['source']}")
    if any(hardware(other) != hardware(run) for other in others):
        names.append(hardware(run))
    return ", ".join(names)


def row_of(group, name):
    """Return a row of the table, a dict, for runs that differ only in their seed."""
    run, data = group[0], group[0].config["data"]
    accuracies = [round(100 * run.history[-1]["test_accuracy"], 4) for run in group]
    seconds = mean(sum(row["seconds"] for row in run.history) for run in group)
    return {
        "name": name,
        "data": data["source"],
        "n_train": data["n_train"],
        "n_test": data["n_test"],
        "n_parameters": run.config["n_parameters"],
        "epochs": len(run.history),
        "finished": run.finished,
        "accuracy": round(mean(accuracies), 4),
        "accuracy_sd": round(stdev(accuracies), 4) if len(group) > 1 else "",
        "seeds": " ".join(str(run.settings.seed) for run in group),
        "accuracies": " ".join(map(str, accuracies)),
        "seconds": round(seconds, 1),
        "images_per_second": round(len(run.history) * data["n_train"] / max(seconds, 1e-9)),
        "hardware": hardware(run),
    }


def print_table(rows):
    """Print the rows of groups that were tested on the same images, at most 100 columns wide."""
    print(" parameters  epochs  accuracy (%)    seeds  images/s  network")
    for row in rows:
        n_seeds = len(row["seeds"].split())
        accuracy = f"{row['accuracy']:.2f}" + (f" ± {row['accuracy_sd']:.2f}" if n_seeds > 1 else "")
        numbers = f"{row['n_parameters']:11,}  {row['epochs']:6}  {accuracy:14}  {n_seeds:5}"
        line = f"{numbers}  {row['images_per_second']:8,}  "
        names = textwrap.wrap(row["name"], 100 - len(line))
        print(line + f"\n{' ' * len(line)}".join(names))


def curves_of(group):
    """Return the test error (%) by epoch and by seconds: points (x, mean, lowest, highest) over seeds."""
    by_epoch, by_seconds = [], []
    elapsed = [list(accumulate(row["seconds"] for row in run.history)) for run in group]
    for epoch in range(len(group[0].history)):
        errors = [100 - 100 * run.history[epoch]["test_accuracy"] for run in group]
        band = (mean(errors), min(errors), max(errors))
        by_epoch.append((epoch + 1, *band))
        by_seconds.append((mean(seconds[epoch] for seconds in elapsed), *band))
    return [by_epoch, by_seconds]


def heading_of(runs):
    """Return what is common to `runs` that were tested on the same images, a text."""
    data, size = runs[0].config["data"], runs[0].settings.image_size
    height, width = data["image_shape"][1:]
    heading = f"tested on {data['source']}, {data['n_test']:,} images of {height}×{width} pixels"
    if size != [height, width] and all(run.settings.image_size == size for run in runs):
        heading += f", resized to {size[0]}×{size[1]}"
    return heading


def main():
    """Compare as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "runs", nargs="*", type=path, metavar="RUN", help="run folders (default: all of runs/)"
    )
    add_output_flags(parser, "runs/compare.png")
    given = parser.parse_args()
    sections = {}  # by the test images
    for group in same_but_seed(read_runs(given.runs)):
        sections.setdefault(group[0].config["data"]["fingerprints"][1], []).append(group)
    table, diagrams = [], []
    error = {"title": "test error (%, log scale)", "log_y": True}
    seconds = {"x_title": "seconds of training (log scale)", "log_x": True}
    for groups in sections.values():
        runs = [group[0] for group in groups]
        rows = [row_of(group, name_of(group[0], runs)) for group in groups]
        print(f"\n{heading_of(runs)}")
        print_table(rows)
        for run in [run for group in groups for run in group if not run.finished]:
            print(f"{run.folder}: {len(run.history)} of {run.settings.epochs} epochs; {to_continue(run)}")
        lines = [(row["name"], curves_of(group)) for row, group in zip(rows, groups, strict=True)]
        diagrams.append((heading_of(runs), [error | {"x_title": "epoch"}, error | seconds], lines))
        table += rows
    run_folder.check_replaceable(given.picture)
    if given.csv:
        run_folder.check_replaceable(given.csv, table[0])
        run_folder.write_csv(given.csv, table)
    charts.draw_lines(given.picture, "Training runs; bands: lowest to highest seed", diagrams)
    print(f"\nsee {given.picture}" + (f"; the table is in {given.csv}" if given.csv else ""))


if __name__ == "__main__":
    run_command(main)
