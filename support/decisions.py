"""Which images to remove, keep or relabel: by flags, by top_losses.csv, which a person edits; carried out."""

import csv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support.console import UserError, positive, printable
from support.files import unquoted, write_csv
from support.image_folders import check_copy, copy_images
from support.settings import Options, flag

import torch

ACTIONS = ("remove", "keep", "relabel")
# The decisions that a diagnosis began with: their own file may change before it is resumed.
DECIDED = "decided.csv"

# ---------------------------------------------------------------- flags


def number_or_auto(text):
    """Parse what --remove is given."""
    return text if text == "auto" else positive(int)(text)


number_or_auto.__name__ = "positive int or auto"


@dataclass(frozen=True)
class DiagnosisOptions(Options):
    """diagnose.py's own flags."""

    remove: int | str = flag(
        None,
        "images to remove, the most suspicious first; auto: as many as labels look wrong (default: auto)",
        type=number_or_auto,
        metavar="N",
    )
    mislabelled: int = flag(
        None,
        "wrong labels in the imperfect data that are made where there are none (default: 100)",
    )
    seeds: int = flag(3, "networks for each set of labels")
    decisions: str = flag(
        None,
        "instead of --remove: do what the column action of this edited top_losses.csv says; "
        "with --write-clean only that, without training",
        metavar="FILE",
    )
    write_clean: str = flag(None, "write the cleaned data set to this new folder", metavar="DIR")


def check_flags(settings, options):
    """Raise UserError where flags do not go together."""
    if options.decisions and options.remove:
        raise UserError("--decisions says what to remove: leave out --remove")
    if options.decisions:
        next(read_table(options.decisions), None)  # it is there and has the columns, before the data are read
    if options.mislabelled and settings.data != "auto":
        raise UserError("--mislabelled makes the imperfect data itself: leave out --data")
    if options.write_clean and not options.decisions:
        out, clean = Path(options.out or "runs").resolve(), Path(options.write_clean).resolve()
        if out.is_relative_to(clean) or clean.is_relative_to(out):
            raise UserError(f"--write-clean: choose a folder that has nothing to do with {out}, the run's")


def check_remove(options, n_images, limit=None):
    """Raise UserError where --remove is too much for `n_images` training images, at most `limit`."""
    n_images = min(n_images, limit or n_images)
    if options.remove != "auto" and options.remove > n_images / 2 and not options.decisions:
        raise UserError(
            f"--remove {options.remove}: that is more than half of the {n_images:,} training images"
        )


def check_data(source, data, test, options):
    """Raise UserError where `options` cannot be met with `data`, before anything is trained.

    Return the decisions of the command line, as `read_decisions` does, or None where there are none.
    """
    check_remove(options, len(data))
    if options.write_clean and not Path(source, data.ids[0]).is_file():
        raise UserError(f"--write-clean copies image files, and {source} has none; python data.py export")
    if options.write_clean and not options.resume:
        check_copy(source, options.write_clean)
    if options.decisions and not options.resume:
        decided = read_decisions(options.decisions, data, test)  # its faults before the training
        check_left((data, test), decided, options.decisions)
        return decided
    return None


# ---------------------------------------------------------------- decisions


def decide(halves, rankings, n_remove, decisions, folder):
    """Return (kept, labels) of the training and of the test images, as top_losses.csv and its like say.

    These are written here, unless this diagnosis is resumed: then a person may have edited them meanwhile.
    They say what DECIDED says where `decisions` were given; else that the `suspects_of` the training images
    are removed, `n_remove` or "auto".
    """
    data, test = halves
    files = (folder / "top_losses.csv", folder / "top_losses_test.csv")
    if not all(file.exists() for file in files):
        if decisions:
            decided = read_decisions(folder / DECIDED, *halves)
        else:
            kept = all_but(suspects_of(data, rankings[0], n_remove), len(data))
            decided = [(kept, data.labels), (all_but([], len(test)), test.labels)]
        for file, half, ranking, (kept, labels) in zip(files, halves, rankings, decided, strict=True):
            if not file.exists():
                write_ranking(file, half, ranking, kept, labels)
    decided = [read_decisions(file, half)[0] for file, half in zip(files, halves, strict=True)]
    check_left(halves, decided, folder)
    return decided


def suspects_of(data, ranking, n):
    """Return the indices, int64, of the `n` most suspicious samples of those whose labels are contradicted.

    With "auto" they are as many as look wrong, the high number. A sample of each class stays.
    """
    contradicted = ranking.predicted != data.labels
    suspects = ranking.order[contradicted[ranking.order]]
    if n == "auto":
        n = ranking.n_wrong[1] if ranking.n_wrong else 0
    elif len(suspects) < n:
        print(f"the networks contradict {len(suspects):,} labels: no other image is a suspect")
    suspects = suspects[:n]
    for label in sorted(emptied_classes(data, all_but(suspects, len(data)), data.labels)):
        last = suspects[data.labels[suspects] == label][-1]
        suspects = suspects[suspects != last]
        print(printable(f"all images of {data.classes[label]} are suspects: the least suspicious one stays"))
    return suspects


def all_but(indices, n_samples):
    """Return which of `n_samples` stay where those at `indices` go, bool (n_samples,)."""
    kept = torch.ones(n_samples, dtype=torch.bool)
    kept[indices] = False
    return kept


def write_ranking(path, data, ranking, kept, labels):
    """Write top_losses.csv: a row for each sample of the ImageData `data`, the most suspicious label first.

    `ranking` is that of `diagnose.top_losses`, `kept` and `labels` are as `read_decisions` returns them. The
    column predicted has the new label of a relabelled sample.
    """
    order, scores, losses, probabilities, _ = ranking
    relabelled = labels != data.labels
    predicted = torch.where(relabelled, labels, ranking.predicted)

    def rows():  # one at a time: a million with a hundred classes have no room in memory
        for rank, index in enumerate(order.tolist(), 1):
            row = {"rank": rank, "id": data.ids[index]}
            row["action"] = "remove" if not kept[index] else "relabel" if relabelled[index] else "keep"
            row["given"] = data.classes[data.labels[index]]
            row["predicted"] = data.classes[predicted[index]]
            row |= {"score": round(scores[index].item(), 4), "loss": round(losses[index].item(), 4)}
            for name, probability in zip(data.classes, probabilities[index].tolist(), strict=True):
                row[f"p({name})"] = round(probability, 4)
            yield row

    write_csv(path, rows())


def read_table(path):
    """Yield each row of a top_losses.csv, a dict, and where it is: the file and the line.

    Takes whatever delimiter a spreadsheet chose for its country. Raises UserError where it is no such table.
    """
    try:
        for delimiter in ",;\t":
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                table = csv.DictReader(file, delimiter=delimiter, strict=True)
                names = set()
                with suppress(csv.Error):
                    names.update(table.fieldnames or ())
                if {"id", "action", "predicted"} <= names:
                    for row in table:
                        if any(row.values()):  # a spreadsheet may leave empty lines
                            yield unquoted(row), f"{path}, line {table.line_num}"
                    return
    except FileNotFoundError:
        raise UserError(f"{path}: is not there; is it still where your browser saved it?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: is no line of a table ({error})") from None
    raise UserError(f"{path}: needs the columns id, action and predicted, as in top_losses.csv")


def read_decisions(path, *halves):
    """Return for each of `halves`, ImageData, its (kept, labels) as the file `path` says.

    These are bool (N,) and int64 (N,), for all samples. The file is a top_losses.csv that a person may have
    edited and a spreadsheet rewritten, or what review.html saved. Its columns id and action count, and
    predicted where the action is relabel. Samples that it does not name are kept. Raises UserError, naming
    the line, for an unknown or repeated id, and for an action or class that does not exist.
    """
    decided = [(torch.ones(len(half), dtype=torch.bool), half.labels.clone()) for half in halves]
    place_of = {name: (n, index) for n, half in enumerate(halves) for index, name in enumerate(half.ids)}
    classes = halves[0].classes
    done = set()
    for row, where in read_table(path):
        action, name = (row["action"] or "").strip().lower(), row["id"]
        if name not in place_of or name in done:
            problem = "twice in this file" if name in done else "not among the images"
            raise UserError(f"{where}: {name or 'a row without id'} is {problem}")
        if action not in ACTIONS:
            raise UserError(f"{where}: the action is {action!r}; it must be one of {', '.join(ACTIONS)}")
        if action == "relabel" and row["predicted"] not in classes:
            raise UserError(f"{where}: there is no class {row['predicted']!r} to relabel to")
        done.add(name)
        number, index = place_of[name]
        kept, labels = decided[number]
        kept[index] = action != "remove"
        if action == "relabel":
            labels[index] = classes.index(row["predicted"])
            if labels[index] == halves[number].labels[index]:
                old = f"{name} is labelled {row['predicted']} already"
                raise UserError(f"{where}: {old}; put the right class into the column predicted")
    return decided


def check_left(halves, decided, blamed):
    """Raise UserError where a class has no image left in one of `halves`; `blamed` is what to name.

    Where class folders stand alone, a class without test images lends one of its training images, if there
    are two.
    """
    lends = all(Path(half.ids[0]).parts[0] in half.classes for half in halves)
    left = torch.cat([labels[kept] for kept, labels in decided])
    for half, (kept, labels) in zip(halves, decided, strict=True):
        emptied = emptied_classes(half, kept, labels)
        if lends and half is halves[1]:
            emptied = {label for label in emptied if (left == label).sum() < 2}
        if emptied:
            name = half.classes[min(emptied)]
            raise UserError(
                f"{blamed}: leaves no image of the class {name} in its half of the data; keep one"
            )


def emptied_classes(data, kept, labels):
    """Return the set of the classes, ints, that have samples in the ImageData `data` and then no more."""
    return set(data.labels.tolist()) - set(labels[kept].tolist())


def changed(data, kept, labels):
    """Return which samples of the ImageData `data` are removed or relabelled, bool (N,)."""
    return ~kept | (labels != data.labels)


def write_clean(source, out, halves, decided):
    """Copy the image folder `source` to `out`, with `halves` as `decided`: see `read_decisions`.

    Where `out` holds something, as when this is resumed after it, it says so and leaves it alone.
    """
    new_classes = {}
    for half, (kept, labels) in zip(halves, decided, strict=True):
        for index in changed(half, kept, labels).nonzero().flatten().tolist():
            new_classes[half.ids[index]] = half.classes[labels[index]] if kept[index] else None
    if Path(out).is_dir() and any(Path(out).iterdir()):
        print(f"\n{out}: is there already, and was not written again")
        return
    copy_images(Path(source), out, new_classes)
    n_removed = list(new_classes.values()).count(None)
    n_relabelled = len(new_classes) - n_removed
    print(f"\n{out}: a copy of {source}; images removed: {n_removed:,}, relabelled: {n_relabelled:,}")
