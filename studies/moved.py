"""Which numbers of a table that was measured anew are far from those of the kept one?

    python -m studies.moved results/vgg16.csv runs/reproduced/vgg16.csv

Rows belong together where their names are the same. Of rows that are each of one seed the mean is taken. A
number has moved where the two means are more than four standard errors of their difference apart. By chance
that is one number in two hundred, where each mean is of five seeds; of three seeds, one in sixty.
"""

import math
from pathlib import Path

from support.chance import mean_sd
from support.console import Parser, UserError, run_command
from support.files import finite_number, read_csv

# What a row is about, where the table has such columns.
NAMES = ("model", "init", "named", "judged_on", "n_blocks", "n_features_1", "n_features_2", "n_fully_1")
NAMES += ("n_fully_2", "passes", "labelling", "wrong_percent", "noise", "method", "sets")
OF_A_SEED = ("accuracy", "loss", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
MOST = 4  # standard errors


def measured(file):
    """Return {name of a row, a tuple of texts: {measure: (mean, standard deviation, number of seeds)}}."""
    groups = {}
    for row in read_csv(file):
        groups.setdefault(tuple(row[name] for name in NAMES if name in row), []).append(row)
    try:
        return {name: dict(values_of(rows)) for name, rows in groups.items()}
    except (KeyError, ValueError, OverflowError):
        raise UserError(
            f"{file}: is no table of means over seeds, or of seeds, with a row for each"
        ) from None


def values_of(rows):
    """Yield (measure, (mean, standard deviation, number of seeds)) of rows with the same name."""
    first = rows[0]
    if "seed" not in first:
        (first,) = rows  # else ValueError
        n = int(finite_number(first["n_seeds"])) if "n_seeds" in first else len(first["sets"].split())
        for spread in first:
            if spread.endswith(("_sd", " sd")) and first[spread] and n > 1:
                yield spread[:-3], (finite_number(first[spread[:-3]]), finite_number(first[spread]), n)
        return
    if len({row["seed"] for row in rows}) < len(rows):
        raise ValueError
    for measure in OF_A_SEED:  # of which a failed training has none
        values = [finite_number(row[measure]) for row in rows if row.get(measure)]
        if len(values) > 1:
            yield measure, (*mean_sd(values), len(values))


def apart(old, new):
    """Return how many standard errors of their difference two (mean, standard deviation, seeds) are apart."""
    distance = abs(new[0] - old[0])
    error = math.hypot(old[1] / math.sqrt(old[2]), new[1] / math.sqrt(new[2]))
    if error == 0:  # no spread: equal, or not
        return math.inf if distance else 0.0
    return distance / error


def compare(kept, new):
    """Print which numbers of two tables have moved, and which rows only one of them has."""
    for table, other, which in ((kept, new, "kept"), (new, kept, "new")):
        for name in table:
            if name not in other:
                print(f"only in the {which} table: {' '.join(name)}")
    both = [(name, measure) for name in kept if name in new for measure in kept[name]]
    both = [(name, measure) for name, measure in both if measure in new[name]]
    if not both:
        raise UserError("no number is in both tables")
    n_moved = 0
    for name, measure in both:
        old, now = kept[name][measure], new[name][measure]
        if apart(old, now) > MOST:
            n_moved += 1
            texts = [f"{mean:.5g} ± {sd:.3g} ({n} seeds)" for mean, sd, n in (old, now)]
            print(f"moved: {' '.join(name)}, {measure.replace('_', ' ')}: {' → '.join(texts)}")
    print(f"{n_moved} of {len(both)} numbers have moved by more than {MOST} standard errors")


def main(arguments=None):
    """Compare the two tables that the command line names."""
    parser = Parser(description=__doc__)
    parser.add_argument("kept", type=Path, help="CSV file")
    parser.add_argument("new", type=Path, help="CSV file of the same columns")
    given = parser.parse_args(arguments)
    compare(measured(given.kept), measured(given.new))


if __name__ == "__main__":
    run_command(main)
