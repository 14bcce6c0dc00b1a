"""top_losses.csv: which images to remove, keep or relabel; written by diagnose.py, edited by a person."""

import csv
from pathlib import Path

import torch

from runs import UserError, write_csv

ACTIONS = ("remove", "keep", "relabel")


def write_ranking(path, data, order, losses, probabilities, kept, labels):
    """Write top_losses.csv: a row for each sample of the ImageData `data`, the greatest loss first.

    `order` int64 and `losses` float (N,) as `diagnose.top_losses` gives them, `probabilities` float (N,
    classes), `kept` and `labels` as `read_decisions` does. A relabelled sample's new label is in the column
    predicted.
    """
    predicted = probabilities.argmax(dim=1)
    relabelled = labels != data.labels
    predicted[relabelled] = labels[relabelled]
    actions = ["relabel" if new else "remove" for new in relabelled.tolist()]
    for index in kept[~relabelled[kept]].tolist():
        actions[index] = "keep"
    rows = []
    for rank, index in enumerate(order.tolist(), 1):
        row = {"rank": rank, "id": data.ids[index], "action": actions[index]}
        row["given"] = data.classes[data.labels[index]]
        row["predicted"] = data.classes[predicted[index]]
        row["loss"] = f"{losses[index]:.4f}"
        row |= {f"p({name})": f"{p:.4f}" for name, p in zip(data.classes, probabilities[index], strict=True)}
        rows.append(row)
    write_csv(path, rows)


def read_decisions(path, data):
    """Return (kept, labels) as the file `path` says: indices, int64, and labels of all of `data`, int64 (N,).

    The file is a top_losses.csv that a person may have edited and a spreadsheet rewritten. Its columns id and
    action count, and predicted where the action is relabel. Samples that it does not name are kept. Raises
    UserError, naming the line, for an unknown or repeated id and for an action or class that does not exist.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', 'not UTF-8 text')})") from None
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)  # spreadsheets choose by country
    table = csv.DictReader(lines, delimiter=delimiter)
    if not {"id", "action", "predicted"} <= set(table.fieldnames or ()):
        raise UserError(f"{path}: needs the columns id, action and predicted, as in top_losses.csv")
    index_of = {name: index for index, name in enumerate(data.ids)}
    labels, kept, done = data.labels.clone(), torch.ones(len(data), dtype=torch.bool), set()
    for row in table:
        where, action = f"{path}, line {table.line_num}", (row["action"] or "").strip().lower()
        index = index_of.get(row["id"])
        if index is None or index in done:
            problem = "twice in this file" if index in done else "not among the training images"
            raise UserError(f"{where}: {row['id']} is {problem}")
        if action not in ACTIONS:
            raise UserError(f"{where}: the action is {action!r}; it must be one of {', '.join(ACTIONS)}")
        if action == "relabel" and row["predicted"] not in data.classes:
            raise UserError(f"{where}: there is no class {row['predicted']!r} to relabel to")
        done.add(index)
        kept[index] = action != "remove"
        if action == "relabel":
            labels[index] = data.classes.index(row["predicted"])
    return kept.nonzero().flatten(), labels
