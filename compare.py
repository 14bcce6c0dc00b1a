"""Compare training runs in a table and a chart; runs that differ only in their seed share one line.

    python compare.py                                    all runs in runs/
    python compare.py runs/resnet-xavier runs/encoder-xavier --csv table.csv

Accuracies are measured after the last epoch. Each set of test images has its own table.
"""

import math
import textwrap
from itertools import accumulate, count
from pathlib import Path
from statistics import mean, stdev

from support import charts, run_folder
from support.console import Parser, UserError, add_output_flags, command, path, run_command
from support.statistics import holm, rank_test, verdict

# Settings that do not distinguish runs, or that `traits` and `name_of` show in other words.
HIDDEN = "model", "init", "data", "limit", "seed", "device", "precision", "threads"


def read_runs(folders):
    """Return the runs in `folders`, by default all in runs/, that have finished at least one epoch."""
    runs = []
    for folder in folders or [file.parent for file in sorted(Path("runs").glob("*/metrics.csv"))]:
        try:
            runs.append(run_folder.read_run(folder))
        except UserError as error:
            if folders:
                raise
            print(f"Note: {error}; left out")
    for run in [run for run in runs if not run.finished]:
        n_processes = run.config["platform"]["n_processes"]
        resume = command("train.py", "--resume", run.folder, n_processes=n_processes)
        n_epochs = f"{len(run.history)} of {run.settings.epochs} epochs"
        print(f"Note: {run.folder} has {n_epochs}; to continue: {resume}")
    sources = {}
    for data in [run.config["data"] for run in runs]:  # the same images may have several names
        data["source"] = sources.setdefault(str(data["fingerprints"]), data["source"])
    if not any(run.history for run in runs):
        raise UserError(f"no run has a finished epoch; {command('train.py')} makes one")
    return [run for run in runs if run.history]


def traits(run):
    """Return {name: text}: the properties that can distinguish runs of the same model and initialisation."""
    settings, data, platform = vars(run.settings), run.config["data"], run.config["platform"]
    shown = {name: value for name, value in settings.items() if value and name not in HIDDEN}
    words = {name: name if value is True else f"{name} {value}" for name, value in shown.items()}
    if weights := settings["weights"]:
        file = Path(weights).resolve()
        words["weights"] = f"weights of {file.parent.name if file.name == 'model.pt' else file.name}"
    words["image_size"] = "at " + "×".join(map(str, settings["image_size"]))
    words["images"] = f"{data['n_train']:,} images of {data['source']}"
    hardware = f"{platform['hardware']}, {settings['precision']}, {settings['threads']} threads"
    n_processes = platform["n_processes"]
    words["hardware"] = hardware + (f" in {n_processes} processes" if n_processes > 1 else "")
    if not run.finished:
        words["epochs"] = f"{len(run.history)} of {run.settings.epochs} epochs"
    return words


def name_of(run, others):
    """Return a name that distinguishes `run` from the `others`, such as "resnet xavier, n_blocks 4"."""
    model, own, differing = run.settings.model, traits(run), set()
    for other in others:
        theirs = traits(other)  # another model has other defaults: only these three are compared
        compared = own if other.settings.model == model else ("image_size", "images", "hardware")
        differing |= {trait for trait in compared if theirs.get(trait) != own[trait]}
    return ", ".join([f"{model} {run.settings.init}", *(own[trait] for trait in own if trait in differing)])


def group_seeds(runs):
    """Return, for each set of test images, a list of groups: lists of runs that differ only in their seed."""
    sections = {}
    for run in runs:
        settings, (train_images, test_images) = run.settings, run.config["data"]["fingerprints"]
        same = traits(run) | {"images": train_images, "weights": run.config["weights"]}
        key = settings.model, settings.init, repr(same)
        group = sections.setdefault(test_images, {}).setdefault(key, {})
        other = group.setdefault(settings.seed, run)
        if other is not run:
            print(f"Note: {run.folder} is left out: it repeats seed {settings.seed} of {other.folder}")
    return [[list(group.values()) for group in groups.values()] for groups in sections.values()]


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
        "hardware": traits(run)["hardware"],
    }


def print_table(rows):
    """Print the rows of groups that were tested on the same images, at most 100 columns wide."""
    print(" parameters  epochs  accuracy (%)    seeds  images/s  network")
    for row in rows:
        n_seeds = len(row["seeds"].split())
        accuracy = f"{row['accuracy']:.2f}" + (f" ± {row['accuracy_sd']:.2f}" if n_seeds > 1 else "")
        numbers = f"{row['n_parameters']:11,}  {row['epochs']:6}  {accuracy:14}  {n_seeds:5}"
        line = f"{numbers}  {row['images_per_second']:8,}  "
        names = textwrap.wrap(row["name"], 100 - len(line), break_on_hyphens=False)
        print(line + f"\n{' ' * len(line)}".join(names))


def print_tests(rows):
    """Print how the accuracies of each other group differ from the first group, if there are enough seeds.

    Groups may differ in any setting, so equal seeds are not pairs: this is a rank test, not a paired test.
    """
    first, *others = [(row["name"], list(map(float, row["accuracies"].split()))) for row in rows]
    tests = [(name, rank_test(first[1], accuracies)) for name, accuracies in others]
    tests = [(name, test) for name, test in tests if not math.isnan(test.low)]  # it has enough seeds
    if tests:
        words = "median difference in points, 95 % interval, exact rank test"
        words += " (its p with Holm's correction)" * (len(tests) > 1)
        print("\n" + textwrap.fill(f"compared with {first[0]}: {words}", 100))
    for (name, test), p in zip(tests, holm([test.p for _, test in tests]), strict=True):
        print(f"{name}: {test.estimate:+.2f} ({test.low:+.2f} to {test.high:+.2f}), {verdict(p)}")


def curves_of(group):
    """Return the test error (%) by epoch and by seconds: points (x, mean, lowest, highest) over seeds."""
    histories = list(zip(*(run.history for run in group), strict=True))  # a tuple of rows for each epoch
    seconds = accumulate(mean(row["seconds"] for row in rows) for rows in histories)
    errors = [[100 - 100 * row["test_accuracy"] for row in rows] for rows in histories]
    bands = [(mean(each), min(each), max(each)) for each in errors]
    return [[(x, *band) for x, band in zip(xs, bands, strict=False)] for xs in (count(1), seconds)]


def main():
    """Compare as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=path, metavar="RUN", help="run folders (default: runs/*)")
    add_output_flags(parser, "runs/compare.png")
    given = parser.parse_args()
    table, diagrams = [], []
    for groups in group_seeds(read_runs(given.runs)):
        runs = [group[0] for group in groups]
        data, sizes = runs[0].config["data"], {tuple(run.settings.image_size) for run in runs}
        heading = f"tested on {data['source']}, {data['n_test']:,} images"
        if len(sizes) == 1:
            heading += " at {}×{} pixels".format(*sizes.pop())
        names = [name_of(run, runs) for run in runs]
        names = [
            f"{n} ({run.folder})" if names.count(n) > 1 else n for n, run in zip(names, runs, strict=True)
        ]
        rows = list(map(row_of, groups, names))
        print(f"\n{heading}")
        print_table(rows)
        print_tests(rows)
        lines = [(row["name"], curves_of(group)) for row, group in zip(rows, groups, strict=True)]
        diagrams.append((heading, lines))
        table += rows
    run_folder.check_replaceable(given.picture)
    if given.csv:
        run_folder.check_replaceable(given.csv, table[0])
        run_folder.write_csv(given.csv, table)
    error, seconds = "test error (%, log scale)", "seconds of training (log scale)"
    panels = (error, "epoch"), (error, seconds)
    title = "Training runs" + "; bands: lowest to highest seed" * any(row["accuracy_sd"] for row in table)
    charts.draw_lines(given.picture, title, panels, diagrams)
    print(f"\nsee {given.picture}" + (f"; the table is in {given.csv}" if given.csv else ""))


if __name__ == "__main__":
    run_command(main)
