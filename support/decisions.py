"""top_losses.csv: which images to remove, keep or relabel; written by diagnose.py, edited, carried out."""

import csv
from contextlib import suppress
from pathlib import Path

from support.console import UserError
from support.files import unquoted, write_csv
from support.image_folders import copy_images

import torch

ACTIONS = ("remove", "keep", "relabel")


def write_ranking(path, data, order, scores, losses, probabilities, kept, labels):
    """Write top_losses.csv: a row for each sample of the ImageData `data`, the most suspicious label first.

    `order` int64, `scores` and `losses` float (N,) are those of `diagnose.top_losses`, `probabilities` is
    float (N, classes), `kept` and `labels` are as `read_decisions` returns them. The column predicted has the
    new label of a relabelled sample.
    """
    relabelled = labels != data.labels
    predicted = torch.where(relabelled, labels, probabilities.argmax(dim=1))

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
                    yield from ((unquoted(row), f"{path}, line {table.line_num}") for row in table)
                    return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: is no line of a table ({error})") from None
    raise UserError(f"{path}: needs the columns id, action and predicted, as in top_losses.csv")


def read_decisions(path, data):
    """Return (kept, labels) as the file `path` says: bool (N,) and int64 (N,), for all of `data`.

    The file is a top_losses.csv that a person may have edited and a spreadsheet rewritten. Its columns id and
    action count, and predicted where the action is relabel. Samples that it does not name are kept. Raises
    UserError, naming the line, for an unknown or repeated id, for an action or class that does not exist, and
    where a class would have no sample left.
    """
    index_of = {name: index for index, name in enumerate(data.ids)}
    labels = data.labels.clone()
    kept = torch.ones(len(data), dtype=torch.bool)
    done = set()
    for row, where in read_table(path):
        action = (row["action"] or "").strip().lower()
        index = index_of.get(row["id"])
        if index is None or index in done:
            problem = "twice in this file" if index in done else "not among the training images"
            raise UserError(f"{where}: {row['id'] or 'a row without id'} is {problem}")
        if action not in ACTIONS:
            raise UserError(f"{where}: the action is {action!r}; it must be one of {', '.join(ACTIONS)}")
        if action == "relabel" and row["predicted"] not in data.classes:
            raise UserError(f"{where}: there is no class {row['predicted']!r} to relabel to")
        done.add(index)
        kept[index] = action != "remove"
        if action == "relabel":
            labels[index] = data.classes.index(row["predicted"])
            if labels[index] == data.labels[index]:
                old = f"{row['id']} is labelled {row['predicted']} already"
                raise UserError(f"{where}: {old}; put the right class into the column predicted")
    check_none_emptied(data, kept, labels, path)
    return kept, labels


def check_none_emptied(data, kept, labels, blamed):
    """Raise UserError where a class of the ImageData `data` has no image left; `blamed` is what to name."""
    emptied = set(data.labels.tolist()) - set(labels[kept].tolist())
    if emptied:
        raise UserError(
            f"{blamed}: leaves no training image of the class {data.classes[min(emptied)]}; keep one"
        )


def write_clean(source, out, data, kept, labels):
    """Copy the image folder `source` to `out`, as `kept` and `labels` of read_decisions say.

    Where `out` holds something, as when this is resumed after it, it says so and leaves it alone.
    """
    new_classes = {
        data.ids[index]: data.classes[labels[index]] if kept[index] else None
        for index in (~kept | (labels != data.labels)).nonzero().flatten().tolist()
    }
    if Path(out).is_dir() and any(Path(out).iterdir()):
        print(f"\n{out}: is there already, and was not written again")
        return
    copy_images(Path(source), out, new_classes)
    n_removed = (~kept).sum().item()
    n_relabelled = len(new_classes) - n_removed
    print(f"\n{out}: a copy of {source}, {n_removed:,} images removed and {n_relabelled:,} relabelled")
