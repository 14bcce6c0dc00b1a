"""Which numbers of a table that was measured anew are far from those of the kept one?

    python -m studies.moved results/vgg16.csv runs/reproduced/vgg16.csv

Rows belong together where their names are the same. Of rows that are each of one seed the mean is taken. A
number has moved where the two means are more than four standard errors of their difference apart.
"""

import math
from pathlib import Path

from support.chance import mean_sd
from support.console import Parser, UserError, run_command
from support.files import finite_number, read_csv

# What a row is about, where the table has such columns.
NAMES = ("model", "init", "named", "judged_on", "n_blocks", "n_features_1", "n_features_2", "n_fully_1")
NAMES += ("n_fully_2", "passes", "labelling", "wrong_percent", "noise", "method")
OF_A_SEED = ("accuracy", "loss", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
MOST = 4  # standard errors


def measured(file):
    """Return {name of a row, a tuple of texts: {measure: (mean, standard deviation, number of seeds)}}."""
    groups = {}
    for row in read_csv(file):
        groups.setdefault(tuple(row[name] for name in NAMES if name in row), []).append(row)
    try:
        return {name: {key: value for key, value in values_of(rows)} for name, rows in groups.items()}
    except (KeyError, ValueError):
        raise UserError(f"{file}: is no table of means over seeds, or of seeds") from None


def values_of(rows):
    """Yield (measure, (mean, standard deviation, number of seeds)) of rows with the same name."""
    first = rows[0]
    if "seed" in first:
        for measure in (measure for measure in OF_A_SEED if measure in first):
            values = [finite_number(row[measure]) for row in rows]
            yield measure, (*mean_sd(values), len(rows))
    else:
        n = int(first["n_seeds"]) if "n_seeds" in first else len(first["sets"].split())
        for spread in (column for column in first if column.endswith(("_sd", " sd")) and first[column]):
            yield spread[:-3], (finite_number(first[spread[:-3]]), finite_number(first[spread]), n)


def apart(old, new):
    """Return how many standard errors of their difference two (mean, standard deviation, seeds) are apart."""
    distance, error = abs(new[0] - old[0]), math.sqrt(old[1] ** 2 / old[2] + new[1] ** 2 / new[2])
    if error == 0:  # no spread: equal, or not
        return math.inf if distance else 0.0
    return distance / error


def compare(kept, new):
    """Print which numbers of two tables have moved, and which rows only one of them has."""
    for name in (name for name in [*kept, *new] if (name in kept) != (name in new)):
        print(f"only in the {'kept' if name in kept else 'new'} table: {' '.join(name)}")
    n_compared = n_moved = 0
    for name in (name for name in new if name in kept):
        for measure in (measure for measure in new[name] if measure in kept[name]):
            old, now = kept[name][measure], new[name][measure]
            n_compared += 1
            if apart(old, now) > MOST:
                n_moved += 1
                texts = [f"{mean:.5g} ± {sd:.3g} ({n} seeds)" for mean, sd, n in (old, now)]
                print(f"moved: {' '.join(name)}, {measure.replace('_', ' ')}: {' → '.join(texts)}")
    print(f"{n_moved} of {n_compared} numbers are more than {MOST} standard errors from the kept ones")


def main(arguments=None):
    """Compare the two tables that the command line names."""
    parser = Parser(description=__doc__)
    parser.add_argument("kept", type=Path, help="CSV file")
    parser.add_argument("new", type=Path, help="CSV file of the same columns")
    given = parser.parse_args(arguments)
    compare(measured(given.kept), measured(given.new))


if __name__ == "__main__":
    run_command(main)
