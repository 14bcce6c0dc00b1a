"""Before and after, over several seeds: how large a change is, and whether it is larger than chance.

    python effect.py runs/diagnosis/effect.csv runs/diagnosis-2/effect.csv

draws what diagnoses of data with ever more wrong labels found, over the share of wrong labels.
"""

import argparse
import math
import statistics
from pathlib import Path

from runs import Parser, UserError, run_command

import figures
from files import read_csv

MEASURES = {"train_loss": 1, "train_accuracy": 100, "test_loss": 1, "test_accuracy": 100}  # as shown: factors
# Student's t, two-sided 95 %, by the number of seeds; for more than ten the last, a little too strict.
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def mean_sd(numbers):
    """Return the mean and the standard deviation (n - 1; 0 for one number) of a list."""
    return statistics.mean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def difference(before, after):
    """Return (mean, sd, verdict) of `after` - `before`, lists with a number for each seed, the same seeds.

    The verdict, a text, says whether the mean is further from zero than chance explains, by a paired t test
    at 5 %. Without a spread, from one seed or where all differ alike, there is nothing to tell it by.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, sd = mean_sd(differences)
    n = len(differences)
    if n == 1 or 0 < abs(mean) > 1e9 * sd:
        return mean, sd, "no spread to judge by"
    larger = abs(mean) > T_95[min(n, 10)] * sd / math.sqrt(n)
    return mean, sd, "larger than chance" if larger else "within chance"


def effect_texts(measure, before, after):
    """Return (before, after, change, verdict) as texts for one of MEASURES, from two lists of rows."""
    factor = MEASURES[measure]
    digits = 2 if factor == 100 else 4
    numbers = [[factor * row[measure] for row in rows] for rows in (before, after)]
    texts = [f"{mean:.{digits}f} ± {sd:.{digits}f}" for mean, sd in map(mean_sd, numbers)]
    mean, sd, verdict = difference(*numbers)
    return *texts, f"{mean:+.{digits}f} ± {sd:.{digits}f}", verdict


def print_effect(before, after):
    """Print what changed between two lists of rows, dicts of MEASURES with a name in the column labels."""
    print(f"\n{'mean ± sd, ' + str(len(before)) + ' seeds':20}", end="")
    print(f"{before[0]['labels']:>18}{after[0]['labels']:>18}{'change':>20}")
    for measure, factor in MEASURES.items():
        name = measure.replace("_", " ") + (" (%)" if factor == 100 else "")
        old, new, change, verdict = effect_texts(measure, before, after)
        print(f"{name:20}{old:>18}{new:>18}{change:>20}  {verdict}")


def sum_up(before, after, n_suspects, n):
    """Say what the cleaning changed, given the rows before it and after it."""
    print(f"\nCleaning {n_suspects:,} of {n:,} images ({n_suspects / n:.2%}) changed")
    for measure, unit, remark in (
        ("test_accuracy", " points", ""),
        ("test_loss", "", ""),
        ("train_loss", "", " (without images of great loss it falls in any case)"),
    ):
        *_, change, verdict = effect_texts(measure, before, after)
        print(f"  the {measure.replace('_', ' ')} by {change}{unit}: {verdict}{remark}")


# ---------------------------------------------------------------- several diagnoses

LABELS = {"clean": "no wrong labels", "imperfect": "before cleaning", "cleaned": "after cleaning"}  # as shown
MOST = {"seed": 2**32, "n_images": 2**31, "n_wrong": 2**31, "train_loss": 1e6, "test_loss": 1e6}
MOST |= {"train_accuracy": 1.001, "test_accuracy": 1.001}  # beyond which a number in a table is no such thing


def read_effects(files):
    """Return a list of diagnoses, from the least share of wrong labels: {labels: rows of floats}, and share.

    `files` are effect.csv of diagnose.py, or tables of several in which a column `command` tells them apart.
    The share, in percent, is that before the cleaning. Raises UserError for other files, and where the true
    labels were not known.
    """
    runs = {}
    for file in dict.fromkeys(Path(file).resolve() for file in files):
        rows = read_csv(file) if file.is_file() else []
        if not rows:
            raise UserError(f"{file}: is no file with rows")
        for row in rows:
            try:
                numbers = {name: float(row[name]) for name in (*MEASURES, "seed", "n_images", "n_wrong")}
                if not all(0 <= number < MOST[name] for name, number in numbers.items()):
                    raise ValueError("out of range")
                if numbers["n_images"] < max(numbers["n_wrong"], 1):
                    raise ValueError("more wrong labels than images")
                labels = runs.setdefault((file, row.get("command")), {}).setdefault(row["labels"], [])
            except (KeyError, ValueError):
                raise UserError(
                    f"{file}: is no effect.csv of a diagnosis whose true labels are known"
                ) from None
            labels.append(numbers)
    sizes = set()
    for (file, _), run in runs.items():
        if set(run) != set(LABELS):
            raise UserError(f"{file}: needs rows for clean, imperfect and cleaned labels")
        for rows in run.values():
            rows.sort(key=lambda row: row["seed"])
        seeds = [[row["seed"] for row in rows] for rows in run.values()]
        if seeds.count(seeds[0]) < 3 or len(set(seeds[0])) < len(seeds[0]):
            raise UserError(f"{file}: needs the same seeds, each once, for all three labels")
        sizes.add(run["clean"][0]["n_images"])
        run["share"] = 100 * run["imperfect"][0]["n_wrong"] / run["imperfect"][0]["n_images"]
        if run["share"] == 0:
            raise UserError(f"{file}: has no wrong labels whose share could be drawn")
    if len(sizes) > 1:
        texts = " and ".join(f"{size:,.0f}" for size in sorted(sizes))
        raise UserError(f"these are diagnoses of different data, of {texts} training images")
    return sorted(runs.values(), key=lambda run: run["share"])


def summary(run):
    """Return a row of the table, a dict: means and standard deviations over the seeds of a diagnosis."""
    before, after = run["imperfect"][0], run["cleaned"][0]
    row = {"wrong_percent": round(run["share"], 2), "n_removed": int(before["n_images"] - after["n_images"])}
    row["n_found"] = int(before["n_wrong"] - after["n_wrong"])
    for measure, factor in MEASURES.items():
        numbers = {name: [factor * seed[measure] for seed in run[name]] for name in LABELS}
        for labels in LABELS:
            mean, sd = mean_sd(numbers[labels])
            row |= {f"{measure}_{labels}": round(mean, 5), f"{measure}_{labels}_sd": round(sd, 5)}
        mean, sd, verdict = difference(numbers["imperfect"], numbers["cleaned"])
        row |= {f"{measure}_change": round(mean, 5), f"{measure}_change_sd": round(sd, 5)}
        row[f"{measure}_verdict"] = verdict
    return row


def print_diagnoses(rows):
    """Print the rows of `summary`: what wrong labels did to the test set's accuracy and loss."""
    names = "".join(f"{name:>18}" for name in ("clean labels", "before cleaning", "after cleaning"))
    print(f"wrong labels  removed  of them wrong{'':20}{names}  the change")
    for row in rows:
        counts = f"{row['wrong_percent']:11.2f}%{row['n_removed']:9,}{row['n_found']:15,}"
        for measure, digits in (("test_accuracy", 2), ("test_loss", 4)):
            texts = [
                f"{row[f'{measure}_{labels}']:.{digits}f} ± {row[f'{measure}_{labels}_sd']:.{digits}f}"
                for labels in LABELS
            ]
            name = measure.replace("_", " ") + " (%)" * (measure == "test_accuracy")
            print(f"{counts:36}  {name:18}" + "".join(f"{text:>18}" for text in texts), end="")
            print(f"  {row[f'{measure}_verdict']}")
            counts = ""


def main(arguments=None):
    """Print and draw the diagnoses that the command line names."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="effect.csv files")
    figures.add_output_flags(parser, "runs/effect.png")
    given = parser.parse_args(arguments)
    runs = read_effects(given.files)
    table = [summary(run) for run in runs]
    print_diagnoses(table)
    lines = []
    for name, text in LABELS.items():
        curves = []
        for value in (lambda row: 100 - 100 * row["test_accuracy"], lambda row: row["test_loss"]):
            points = [(run["share"], [max(value(row), 1e-4) for row in run[name]]) for run in runs]
            curves.append([(x, mean_sd(ys)[0], min(ys), max(ys)) for x, ys in points])
        lines.append((text, curves))
    panel = {"x_title": "wrong labels in the training set (%, log scale)", "log_x": True, "log_y": True}
    panels = [panel | {"title": f"test {name}, log scale"} for name in ("error (%)", "loss")]
    title = (
        f"What wrong labels among {runs[0]['clean'][0]['n_images']:,.0f} do; bands: lowest to highest seed"
    )
    figures.write_outputs(given, table, title, [("", panels, lines)])


if __name__ == "__main__":
    run_command(main)
