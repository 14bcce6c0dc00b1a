"""What ever more wrong labels do, and what cleaning them away does: diagnoses side by side.

    python -m studies.wrong_label_shares runs/diagnosis/effect.csv runs/diagnosis-2/effect.csv

draws what diagnoses of data with ever more wrong labels found, over the share of wrong labels.
"""

from pathlib import Path

from support import pictures
from support.chance import MEASURES, difference, mean_sd
from support.console import Parser, UserError, run_command
from support.files import finite_number, read_csv

# As they are shown.
LABELLINGS = {"clean": "no wrong labels", "imperfect": "before cleaning", "cleaned": "after cleaning"}


def read_effects(files):
    """Return the diagnoses, from the least share of wrong labels: {labelling: rows of floats}, and share.

    `files` are effect.csv of diagnose.py, or tables of several in which a column `command` tells them apart.
    The share, in percent, is that before the cleaning. Raises UserError for other files, and where the true
    labels were not known.
    """
    diagnoses = {}
    for file in dict.fromkeys(Path(file).resolve() for file in files):
        rows = read_csv(file) if file.is_file() else []
        if not rows:
            raise UserError(f"{file}: is no file with rows")
        try:
            for row in rows:
                numbers = {
                    name: finite_number(row[name]) for name in (*MEASURES, "seed", "n_images", "n_wrong")
                }
                diagnosis = diagnoses.setdefault((file, row.get("command")), {})
                diagnosis.setdefault(row["labelling"], []).append(numbers)
        except (KeyError, ValueError):
            raise UserError(
                f"{file}: is no effect.csv of this version, of a diagnosis whose true labels are known"
            ) from None
    for (file, _), diagnosis in diagnoses.items():
        for rows in diagnosis.values():
            rows.sort(key=lambda row: row["seed"])
        seeds = [[row["seed"] for row in rows] for rows in diagnosis.values()]
        same = seeds.count(seeds[0]) == 3 and len(set(seeds[0])) == len(seeds[0])
        if set(diagnosis) != set(LABELLINGS) or not same:
            raise UserError(f"{file}: needs the same seeds, each once, for {', '.join(LABELLINGS)} labels")
        imperfect = diagnosis["imperfect"][0]
        diagnosis["share"] = 100 * imperfect["n_wrong"] / imperfect["n_images"]
        if diagnosis["share"] == 0:
            raise UserError(f"{file}: has no wrong labels whose share could be drawn")
    sizes = {diagnosis["clean"][0]["n_images"] for diagnosis in diagnoses.values()}
    if len(sizes) > 1:
        texts = " and ".join(f"{size:,.0f}" for size in sorted(sizes))
        raise UserError(f"these are diagnoses of different data, of {texts} training images")
    return sorted(diagnoses.values(), key=lambda diagnosis: diagnosis["share"])


def summary(diagnosis):
    """Return a row of the table, a dict: means and standard deviations over the seeds of a diagnosis."""
    before, after = diagnosis["imperfect"][0], diagnosis["cleaned"][0]
    row = {"wrong_percent": round(diagnosis["share"], 2)}
    row["n_removed"] = int(before["n_images"] - after["n_images"])
    row["n_found"] = int(before["n_wrong"] - after["n_wrong"])
    row["n_seeds"] = len(diagnosis["clean"])
    for measure, factor in MEASURES.items():
        numbers = {name: [factor * seed[measure] for seed in diagnosis[name]] for name in LABELLINGS}
        for labelling in LABELLINGS:
            mean, sd = mean_sd(numbers[labelling])
            row |= {f"{measure}_{labelling}": round(mean, 5), f"{measure}_{labelling}_sd": round(sd, 5)}
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
                f"{row[f'{measure}_{labelling}']:.{digits}f} ± {row[f'{measure}_{labelling}_sd']:.{digits}f}"
                for labelling in LABELLINGS
            ]
            name = measure.replace("_", " ") + " (%)" * (measure == "test_accuracy")
            print(f"{counts:36}  {name:18}" + "".join(f"{text:>18}" for text in texts), end="")
            print(f"  {row[f'{measure}_verdict']}")
            counts = ""


def main(arguments=None):
    """Print and draw the diagnoses that the command line names."""
    parser = Parser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="effect.csv files")
    pictures.add_output_flags(parser, "runs/effect.png")
    given = parser.parse_args(arguments)
    diagnoses = read_effects(given.files)
    table = [summary(diagnosis) for diagnosis in diagnoses]
    print_diagnoses(table)
    lines = []
    for labelling, text in LABELLINGS.items():
        curves = []
        for value in (lambda row: 100 - 100 * row["test_accuracy"], lambda row: row["test_loss"]):
            points = [(run["share"], [max(value(row), 1e-4) for row in run[labelling]]) for run in diagnoses]
            curves.append([(x, mean_sd(ys)[0], min(ys), max(ys)) for x, ys in points])
        lines.append((text, curves))
    panel = {"x_title": "wrong labels in the training set (%, log scale)", "log_x": True, "log_y": True}
    panels = [panel | {"title": f"test {name}, log scale"} for name in ("error (%)", "loss")]
    n_images = diagnoses[0]["clean"][0]["n_images"]
    title = f"What wrong labels among {n_images:,.0f} do; bands: lowest to highest seed"
    pictures.write_outputs(given, table, title, [("", panels, lines)])


if __name__ == "__main__":
    run_command(main)
