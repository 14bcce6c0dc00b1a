"""Where does cleaning pay? Small sets with many wrong labels, before it and after: removed, or relabelled.

    python -m studies.cleaning --data fashion --sizes 2000 10000 --percents 5 10 20

Of each set as many labels as look wrong are removed, or get the class that is predicted, as diagnose.py finds
them. Then a network learns what is left, from the same first weights as the one before it: as diagnose.py
trains, or with --epochs N for so long and without moved images. A set's numbers are in --table once it is
done, so an interrupted study goes on.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

from support.chance import difference, mean_sd
from support.console import Parser, UserError, positive, run_command, seed_number
from support.decisions import all_but, suspects_of
from support.files import check_replaceable, finite_number, read_csv, replace_rows
from support.mislabelled import make_wrong
from support.randomness import random_order
from support.settings import Settings, complete

import torch

import diagnose
from data import load
from studies.suspect_rankings import fitted, fitted_by_default
from train import evaluate

KEY = ("data", "images", "wrong (%)", "epochs", "set")
SHORT = "as diagnose.py"  # of "epochs", where --epochs was not given
COLUMNS = (*KEY, "labels", "changed", "wrong before", "wrong after", "test loss", "test accuracy (%)")
CLEANED = ("removed", "relabelled")
WAYS = ("none wrong", "wrong", *CLEANED)
MEASURES = {"wrong after": 0, "test accuracy (%)": 2, "test loss": 4}  # as shown: digits


def measure(clean, test, percent, number, settings, epochs=None):
    """Return a row for each way to clean the ImageData `clean`, of which `percent` get wrong labels.

    `epochs` are those of the networks that learn what is left; see --epochs.
    """
    n_classes = len(clean.classes)
    labels, _ = make_wrong(clean.labels, n_classes, len(clean) * percent // 100, number)
    data = replace(clean, labels=labels)
    task = f"{len(data):,} images, {percent}% wrong, set {number}"
    networks, settings = fitted_by_default(data, settings, number, task)
    ranking = diagnose.top_losses(data, diagnose.predict_all(networks, data, settings))
    suspects = suspects_of(data, ranking, "auto")
    everything, others = all_but([], len(data)), all_but(suspects, len(data))
    relabelled = torch.where(others, labels, ranking.predicted)
    if epochs:
        settings = replace(settings, epochs=epochs, augment=False)
    rows = []
    learned = (clean.labels, everything), (labels, everything), (labels, others), (relabelled, everything)
    for name, (labels, kept) in zip(WAYS, learned, strict=True):
        part = replace(data, labels=labels).subset(kept.nonzero().flatten())
        there = name == "wrong" and not epochs
        network = networks[0] if there else fitted(part, settings, f"{name}, set {number}")
        loss, accuracy = evaluate(network, test, settings)
        counts = ((len(suspects) if name in CLEANED else 0), (data.labels != clean.labels).sum().item())
        n_left = (labels != clean.labels)[kept].sum().item()
        rows.append((name, *counts, n_left, round(loss, 5), round(100 * accuracy, 3)))
    return rows


def rows_of(table, key):
    """Return those rows of the file `table` that have the values of `key`, a dict of texts."""
    rows = read_csv(table) if table.exists() else []
    rows = [row for row in rows if all(row[name] == key[name] for name in key)]
    try:
        return [row | {name: finite_number(row[name]) for name in MEASURES} for row in rows]
    except ValueError:
        raise UserError(
            f"{table}: a line has no number where one is needed; mend it, or move it away"
        ) from None


def summarise(rows):
    """Print each way's mean and standard deviation over the sets, and how it compares."""
    kinds = dict.fromkeys(tuple(row[name] for name in KEY[:4]) for row in rows)
    for kind in kinds:
        ways = {}
        for row in rows:
            if tuple(row[name] for name in KEY[:4]) == kind:
                ways.setdefault(row["labels"], []).append(row)
        print(f"\n{kind[0]}, {kind[1]} images, {kind[2]} % of the labels wrong, {len(ways['wrong'])} sets")
        print(f"epochs: {kind[3]}")
        for measure, digits in MEASURES.items():
            values = {way: [row[measure] for row in ways[way]] for way in ways}
            texts = [f"{mean:.{digits}f} ± {sd:.{digits}f}" for mean, sd in map(mean_sd, values.values())]
            print(
                f"{measure:18}"
                + "".join(f"{way:>12}{text:>17}" for way, text in zip(ways, texts, strict=True))
            )
            for before, after in (("wrong", "removed"), ("wrong", "relabelled"), CLEANED):
                mean, sd, verdict = difference(values[before], values[after])
                print(f"    {before} → {after}: {mean:+.{digits}f} ± {sd:.{digits}f}, {verdict}")


def main(arguments=None):
    """Clean sets of each size with each share of wrong labels."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--data", default="fashion", help="mnist, fashion, digits or a folder (default: fashion)"
    )
    parser.add_argument(
        "--sizes", nargs="+", type=positive(int), default=[2000, 10000], help="training images"
    )
    parser.add_argument("--percents", nargs="+", type=positive(int), default=[5, 10, 20], help="wrong labels")
    parser.add_argument(
        "--epochs", type=positive(int), help="of networks that learn what is left (default: as diagnose.py)"
    )
    parser.add_argument("--sets", nargs="+", type=seed_number, default=[5, 6, 7, 8, 9], help="which sets")
    parser.add_argument(
        "--table", type=Path, default=Path("results", "cleaning.csv"), help="where lines are kept"
    )
    given = parser.parse_args(arguments)
    check_replaceable(given.table, COLUMNS)
    given.table.parent.mkdir(exist_ok=True)
    settings = complete(Settings(**diagnose.RECIPE))
    torch.set_num_threads(settings.threads)
    everything, test = load(given.data)
    if max(given.percents) >= 100:
        raise UserError(f"--percents {max(given.percents)}: less than 100 can be wrong")
    if max(given.sizes) > len(everything):
        raise UserError(f"--sizes {max(given.sizes)}: {given.data} has only {len(everything):,} images")
    epochs = [given.epochs or SHORT]
    sets = list(dict.fromkeys(product([given.data], given.sizes, given.percents, epochs, given.sets)))
    keys = [dict(zip(KEY, map(str, one), strict=True)) for one in sets]
    for key, (_, size, percent, _, number) in zip(keys, sets, strict=True):
        if [row["labels"] for row in rows_of(given.table, key)] != list(WAYS):  # else it is done
            clean = everything.subset(random_order(len(everything), number)[:size])
            rows = measure(clean, test, percent, number, settings, given.epochs)
            rows = [key | dict(zip(COLUMNS[len(KEY) :], row, strict=True)) for row in rows]
            replace_rows(given.table, rows, KEY)
    summarise([row for key in keys for row in rows_of(given.table, key)])


if __name__ == "__main__":
    run_command(main)
