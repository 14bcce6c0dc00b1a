"""Compare training runs: one table and one picture, seeds of the same settings as one line with a band.

    python compare.py                                    all of runs/
    python compare.py runs/resnet-xavier runs/encoder-xavier --csv table.csv

Runs that were tested on different images stand apart, in tables and diagrams of their own.
"""

from dataclasses import fields, replace
from itertools import accumulate
from pathlib import Path

from support import pictures
from support.chance import mean_sd
from support.console import Parser, UserError, run_command
from support.files import is_free
from support.run_folder import read_config, read_run, to_type
from support.settings import Settings, command_line

GOAL = 0.99  # of the test accuracy, to which epochs and seconds are counted
# Left out of the column `settings`, as they are shown elsewhere.
NOT_NAMED = ("model", "init", "seed", "data", "limit", "device", "precision", "threads")

# ---------------------------------------------------------------- reading runs


def training_runs(root=Path("runs")):
    """Return train.py's runs in `root`; say which cannot be read."""
    runs = []
    for file in sorted(root.glob("*/config.json")):
        try:
            if read_config(file.parent)[1]["options"] is None:
                runs.append(read_run(file.parent))
        except UserError as error:
            print(f"Note: {error}; left out")
    return runs


def go_on(run):
    """Return what to type to go on with an unfinished run, or that it is going on."""
    if not is_free(run["folder"]):
        return f"{run['folder']} is going on"
    return to_type(["train.py", "--resume", run["folder"]], run["config"]["platform"]["n_processes"])


def same_but_seed(runs):
    """Return lists of `runs` that differ in nothing but their seed, in the order in which they begin.

    Runs of which no epoch is over are left out, and so are repeated seeds.
    """
    groups = {}
    for run in runs:
        settings = run["settings"]
        config = run["config"]
        n_epochs = len(run["history"])
        if not n_epochs:
            print(f"Note: {run['folder']} is left out: none of its epochs is over; {go_on(run)}")
            continue
        machine = config["platform"]["hardware"], config["platform"]["n_processes"]
        # Where the data and the weights lie counts for less than what they are.
        same = replace(settings, seed=0, data="", limit=None, weights=None)
        key = (same, config["weights"], *config["content_fingerprint"], *machine, n_epochs, run["finished"])
        group = groups.setdefault(key, [])
        twins = [other["folder"] for other in group if other["settings"].seed == settings.seed]
        if twins:
            print(f"Note: {run['folder']} is left out: it repeats seed {settings.seed} of {twins[0]}")
        else:
            group.append(run)
    return list(groups.values())


# ---------------------------------------------------------------- what is told of a group


def row_of(group):
    """Return a row of the table, a dict, for runs that differ in their seed only; `named` is still empty."""
    settings, config = group[0]["settings"], group[0]["config"]
    data, machine = config["data"], config["platform"]
    histories = [run["history"] for run in group]
    row = {"model": settings.model, "init": settings.init, "named": "", "n_seeds": len(group)}
    row |= {"seeds": " ".join(str(run["settings"].seed) for run in group), "data": data["source"]}
    row |= {"n_train": data["n_train"], "n_test": data["n_test"], "n_parameters": config["n_parameters"]}
    row |= {"epochs": len(histories[0]), "finished": group[0]["finished"]}
    mean, sd = mean_sd([100 * history[-1]["test_accuracy"] for history in histories])
    row |= {"final_accuracy": round(mean, 4), "final_accuracy_sd": round(sd, 4) if len(group) > 1 else None}
    reached = [reach for reach in map(first_over, histories) if reach]
    row |= {"n_reached": len(reached), "epochs_to_99": None, "seconds_to_99": None}
    if reached:
        row["epochs_to_99"] = round(mean_sd([epoch for epoch, _ in reached])[0], 1)
        row["seconds_to_99"] = round(mean_sd([seconds for _, seconds in reached])[0], 1)
    seconds = mean_sd([sum(epoch["seconds"] for epoch in history) for history in histories])[0]
    row["seconds"] = round(seconds, 1)
    row["images_per_second"] = round(row["epochs"] * row["n_train"] / max(seconds, 1e-9))
    row["hardware"] = f"{machine['hardware']}, {settings.precision}, {settings.threads} threads"
    if machine["n_processes"] > 1:
        row["hardware"] += f" in each of {machine['n_processes']} processes"
    return row | {"command": command_line(settings)}


def first_over(history):
    """Return (epochs, seconds) of training until the test accuracy is GOAL, or None."""
    seconds = accumulate(row["seconds"] for row in history)
    for epoch, (row, elapsed) in enumerate(zip(history, seconds, strict=True), 1):
        if row["test_accuracy"] >= GOAL:
            return epoch, elapsed
    return None


def rows_of(groups):
    """Return the rows of groups that were tested on the same images; `named` is what tells a group apart.

    It lists the settings that differ between groups of one model, such as "n_blocks 4", and the switches that
    are on; also data and hardware, if they differ.
    """
    rows = [row_of(group) for group in groups]
    names = [field.name for field in fields(Settings) if field.name not in NOT_NAMED]
    for group, row in zip(groups, rows, strict=True):
        settings = group[0]["settings"]
        others = [other[0]["settings"] for other in groups if other[0]["settings"].model == settings.model]
        words = []
        for name in names:
            value = getattr(settings, name)
            if value is True:
                words.append(name)
            elif value and any(getattr(other, name) != value for other in others):
                words.append(f"{name} {value}")
        if len({other[0]["config"]["content_fingerprint"][0] for other in groups}) > 1:
            words.append(f"trained on {row['n_train']:,} of {row['data']}")
        if len({other["hardware"] for other in rows}) > 1:
            words.append(row["hardware"])
        row["named"] = ", ".join(words)
    return rows


# ---------------------------------------------------------------- the table and the picture

HEADER = (
    "      model    init        seeds  trained on  parameters  epochs  final accuracy    99 % after  images/s"
)


def print_section(groups, rows):
    """Print the table of groups that were tested on the same images, given their rows."""
    print(HEADER + "  settings" * any(row["named"] for row in rows))
    for number, row in enumerate(rows, 1):
        final = f"{row['final_accuracy']:.2f}"
        if row["n_seeds"] > 1:
            final += f" ± {row['final_accuracy_sd']:.2f}"
        reached = "never"
        if row["n_reached"]:
            reached = f"{row['epochs_to_99']:g} ep., {row['seconds_to_99']:.0f} s"
        if 0 < row["n_reached"] < row["n_seeds"]:
            reached += f" ({row['n_reached']})"
        print(
            f"{number:4}  {row['model']:8} {row['init']:11} {row['n_seeds']:5}  {row['n_train']:10,}  "
            f"{row['n_parameters']:10,}  {row['epochs']:6}  {final:>14}  {reached:>12}  "
            f"{row['images_per_second']:8,}  {row['named']}".rstrip()
        )
    for hardware in dict.fromkeys(row["hardware"] for row in rows):
        numbers = [str(number) for number, row in enumerate(rows, 1) if row["hardware"] == hardware]
        print(f"{', '.join(numbers)}: trained on {hardware}")
    for number, (group, row) in enumerate(zip(groups, rows, strict=True), 1):
        if not row["finished"]:
            print(f"{number}: not finished, {row['epochs']} of {group[0]['settings'].epochs} epochs are over")
            for run in group:
                print(f"   {go_on(run)}")


def panels_and_lines(groups, rows):
    """Return (panels, lines) as `pictures.draw_lines` takes them, for groups and their rows."""
    lines = []
    for group, row in zip(groups, rows, strict=True):
        by_epoch, by_seconds = [], []
        elapsed = [list(accumulate(epoch["seconds"] for epoch in run["history"])) for run in group]
        for index in range(row["epochs"]):
            errors = [max(100 - 100 * run["history"][index]["test_accuracy"], 0.01) for run in group]
            point = (mean_sd(errors)[0], min(errors), max(errors))
            by_epoch.append((index + 1, *point))
            by_seconds.append((max(mean_sd([seconds[index] for seconds in elapsed])[0], 0.01), *point))
        name = ", ".join(filter(None, (row["model"], row["init"], row["named"])))
        seeds = f"{row['n_seeds']} seeds" if row["n_seeds"] > 1 else f"seed {row['seeds']}"
        unfinished = "" if row["finished"] else ", not finished"
        lines.append((f"{name} ({seeds}{unfinished})", [by_epoch, by_seconds]))
    error = {"title": "test error (%, log scale)", "log_y": True}
    epochs = {"x_title": "epoch", "x_ticks": pictures.whole_ticks(1, max(row["epochs"] for row in rows))}
    seconds = {"x_title": "seconds of training (log scale)", "log_x": True}
    return [error | epochs, error | seconds], lines


def main(arguments=None):
    """Compare as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders (default: all of runs/)"
    )
    pictures.add_output_flags(parser, "runs/compare.png")
    given = parser.parse_args(arguments)
    runs = [read_run(folder) for folder in given.runs] or training_runs()
    if not runs:
        raise UserError("no training run is in runs/; python train.py makes one")
    groups = same_but_seed(runs)
    if not groups:
        raise UserError("none of these runs has an epoch that is over")
    sections = {}  # by the images that were tested
    for group in groups:
        sections.setdefault(group[0]["config"]["content_fingerprint"][1], []).append(group)
    table, diagrams = [], []
    for members in sections.values():
        rows = rows_of(members)
        height, width = members[0][0]["config"]["data"]["image_shape"][-2:]
        heading = f"tested on {rows[0]['data']}, {rows[0]['n_test']:,} images of {width}×{height} pixels"
        print(f"\n{heading}")
        print_section(members, rows)
        diagrams.append((heading, *panels_and_lines(members, rows)))
        table += rows
    print("\nAccuracies in percent, after the last epoch, mean ± sd over seeds.")
    print("A (1) after the time to 99 %: so many seeds got there.")
    if len(sections) > 1:
        print(f"Compare within each of the {len(sections)} tables only: each has test images of its own.")
    pictures.write_outputs(given, table, "Runs side by side; bands: lowest to highest seed", diagrams)


if __name__ == "__main__":
    run_command(main)
