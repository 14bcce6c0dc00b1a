"""Write the review page, on which a person checks labels; write and read the tables of decisions.

The template of the page is review.html; names in it are data, never markup. The page saves decisions.csv with
some columns of top_losses.csv. Both tables can be read, even after a spreadsheet has rewritten them.
"""

import base64
import csv
import io
import json
import re
import secrets
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from support.console import UserError, progress
from support.image_files import decode, to_bytes
from support.image_folders import in_class
from support.run_folder import quoted, unquoted, written

NUMBER = re.compile(r"\d+([.,]\d+)?([eE][+-]?\d+)?")
MOST, SIDE, TINY = (
    1900,
    160,
    64,
)  # maximum undecided images in a tab; pixels of a thumbnail, of a lossless one
nfc = partial(normalize, "NFC")  # makes Ä one character; macOS may write it as A and two dots


class Decisions(NamedTuple):
    """The decision about each of N images."""

    kept: torch.Tensor  # bool (N,), False: removed
    new_labels: torch.Tensor  # int64 (N,)
    decided: torch.Tensor  # bool (N,), True: by a person


def action_of(label, kept, new_label, decided):
    """Return "remove", "relabel", "keep" or "": the decision about an image with the index `label`."""
    return "remove" if not kept else "relabel" if new_label != label else "keep" if decided else ""


def write_table(path, ids, classes, labels, order, scores, losses, probabilities, decisions):
    """Write top_losses.csv in `order`, int64 (N,): suspects have action remove, other undecided images none.

    `labels` is int64 (N,), `scores` and `losses` float (N,), `probabilities` float (N, classes).
    """
    columns = ["rank", "id", "action", "new_label", "given", "predicted", "score", "loss"]
    numbers = torch.cat([scores[:, None], losses[:, None], probabilities], dim=1)
    # utf-8-sig writes a byte order mark; without it spreadsheets do not show umlauts.
    with written(path, "w", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.writer(file)
        table.writerow([*columns, *(f"p({name})" for name in classes)])
        for rank, index in enumerate(order.tolist(), 1):
            kept, new_label, decided = (part[index].item() for part in decisions)
            action = action_of(labels[index], kept, new_label, decided)
            row = [rank, ids[index], action, classes[new_label] if action == "relabel" else ""]
            row += [classes[labels[index]], classes[probabilities[index].argmax()]]
            row += [round(number, 4) for number in numbers[index].tolist()]
            table.writerow(quoted(dict(enumerate(row))).values())


def read_decisions(path, ids, classes, labels):
    """Read the Decisions about the images `ids` from the table `path`; `labels` is int64 (N,).

    The table has the columns id and action (remove, keep, relabel or empty). The new class is in the column
    new_label, or in predicted if new_label is empty. keep confirms the label if the column given is empty or
    has the same label. Images that are not in the table are kept; without a `path` all are. Raises UserError
    for faults, for unknown ids (but of removed images), and if a class has no image left.
    """
    images = (ids, tuple(classes), labels)
    if not path:
        return decide(path, "id,action", *images)
    content = Path(path).read_bytes()
    unicode = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with suppress(UnicodeDecodeError):
        return decide(path, content.decode(unicode), *images)
    for encoding in ("utf-8-sig", "cp1252", "mac_roman"):  # UTF-8 again, for file names that are not UTF-8
        with suppress(UserError):
            return decide(path, content.decode(encoding, "surrogateescape"), *images, all_known=True)
    raise UserError(f'{path}: is not UTF-8, or has unknown ids or classes; save it as "CSV UTF-8"')


def decide(path, text, ids, classes, labels, all_known=False):
    """Read Decisions from the `text` of a table; see `read_decisions`. If `all_known`, each id must exist."""
    files = {form(name): index for form in (nfc, str) for index, name in enumerate(ids)}
    kept, new_labels = torch.ones(len(ids), dtype=torch.bool), labels.clone()
    decided, faults = ~kept, []
    for line, row in read_table(path, text):
        name, action = row["id"], row["action"].strip().lower()
        index, given = files.get(name, files.get(nfc(name))), find_class(row.get("given", ""), classes)
        new_label = find_class(row.get("new_label") or row.get("predicted", ""), classes)
        is_moved = index is None and action == "relabel" and new_label is not None and Path(name).parts
        if is_moved:  # a cleaned copy has it in the folder of the new class
            place = in_class(Path(name), classes[new_label])
            index = files.get(f"{place.parent.as_posix()}/2-{place.name}", files.get(place.as_posix()))
            action, given = "keep", new_label
        if action not in ("remove", "keep", "relabel", ""):
            faults.append(f"line {line}: the action is {action!r}, not remove, keep or relabel")
        elif index is None and (action != "remove" or all_known):  # else an earlier round removed it
            faults.append(f"line {line}: {name} is not among the images")
        elif action == "relabel" and new_label in (None, labels[index]):
            faults.append(f"line {line}: new_label must be another class of the data")
        elif index is not None:
            kept[index] = action != "remove"
            new_labels[index] = new_label if action == "relabel" else labels[index]
            decided[index] = action != "" and (action != "keep" or given in (None, labels[index]))
    if faults:
        count = f"{len(faults):,} line{'s' * (len(faults) > 1)} to correct or delete"
        raise UserError(f"{path}: {count}: {'; '.join(faults[:10])}{'; …' if len(faults) > 10 else ''}")
    if emptied := set(labels.tolist()) - set(new_labels[kept].tolist()):
        raise UserError(f"{path}: leaves no image of the class {classes[min(emptied)]}; keep one")
    return Decisions(kept, new_labels, decided)


def read_table(path, text):
    """Return [(line number, row)]; rows are dicts of texts. Commas, semicolons or tabs separate columns."""
    delimiter = (re.match(r'"?\w+"?([,;\t])', text) or ",,")[1]
    table = csv.DictReader(io.StringIO(text, ""), delimiter=delimiter, restval="", strict=True)
    try:
        if not {"id", "action"} <= set(table.fieldnames or ()):
            raise csv.Error("the columns id and action are missing")
        return [(table.line_num, unquoted(row)) for row in table if any(row.values())]
    except csv.Error as error:
        problem = f'{error}; in a spreadsheet, save the table as "CSV UTF-8"'
        raise UserError(f"{path}, line {table.line_num}: {problem}") from None


@cache
def find_class(text, classes):
    """Return the index of the class `text`, or of the only class with the same number (7, 007), or None."""
    names = [nfc(name) for name in (*classes, text)]
    if names.index(names[-1]) < len(classes):
        return names.index(names[-1])
    *numbers, number = (float(n.replace(",", ".")) if NUMBER.fullmatch(n) else None for n in names)
    return numbers.index(number) if number is not None and numbers.count(number) == 1 else None


def is_changed(labels, decisions):
    """Return which images are removed or get another label than `labels`, int64 (N,): bool (N,)."""
    return ~decisions.kept | (decisions.new_labels != labels)


def new_classes(ids, classes, labels, decisions):
    """Return {id: new class, or None if removed} of the images that `decisions` change."""
    changed = is_changed(labels, decisions).nonzero().flatten().tolist()
    return {ids[i]: classes[decisions.new_labels[i]] if decisions.kept[i] else None for i in changed}


def page_tab(title, root, ids, images, labels, order, losses, probabilities, decisions):
    """Return a tab for `write_page`: the suspects, a hundred other images, then images decided earlier.

    `root` is the folder of the files `ids`, if any; `images` is uint8 (N, C, H, W). See also `write_table`.
    """
    kept, new_labels, decided = decisions
    predicted, ranks = probabilities.argmax(dim=1), order.argsort() + 1
    suspects, others, last = (order[part[order]] for part in (~kept & ~decided, kept & ~decided, decided))
    undecided, items = torch.cat([suspects, others[:100]]), []
    for index in progress(torch.cat([undecided[:MOST], last]).tolist(), "writing the page"):
        label, new_label, loss = (each[index].item() for each in (labels, new_labels, losses))
        likely = dict.fromkeys([*probabilities[index].argsort(descending=True)[:3].tolist(), label])
        file, picture = picture_of(Path(root, ids[index]), images[index])
        action = action_of(label, kept[index], new_label, decided[index])
        earlier = (["relabel", new_label] if action == "relabel" else [action]) if decided[index] else None
        facts = {"id": ids[index], "rank": ranks[index].item(), "loss": round(loss, 4), "label": label}
        facts |= {"predicted": predicted[index].item(), "image": picture, "file": file}
        facts["likely"] = [(k, round(probabilities[index, k].item(), 4)) for k in likely]
        items.append(facts | {"suspect": not (kept[index] or decided[index]), "earlier": earlier})
    examples = {}
    for k in {item[name] for item in items for name in ("label", "predicted")}:
        sure = ((labels == k) & (predicted == k)).nonzero().flatten()
        best = sure[probabilities[sure, k].argsort(descending=True, stable=True)[:3]].tolist()
        examples[k] = [picture_of(Path(root, ids[index]), images[index])[1] for index in best]
    return {"title": title, "items": items, "left_out": len(undecided[MOST:]), "examples": examples}


def picture_of(file, image):
    """Return (file URL, thumbnail as data: URL), or (None, thumbnail of `image`) if missing or 16-bit."""
    content = file.read_bytes() if file.is_file() else b""
    pixels = to_bytes(decode(content, (SIDE, SIDE)), content, None) if content else 0
    is_shown = not isinstance(pixels, int)  # an int means 16 bits, which browsers show too dark
    picture = Image.fromarray(pixels) if is_shown else to_pil_image(image)
    kind = "png" if max(picture.size) <= TINY else "jpeg"
    picture.thumbnail((SIDE, SIDE))  # never enlarges
    picture.save(buffer := io.BytesIO(), kind, quality=70)
    thumbnail = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return file.resolve().as_uri() if is_shown else None, thumbnail


def write_page(path, title, tabs, classes, key, command):
    """Write the page. The browser stores decisions under `key`; the page shows `command` to apply them."""
    content = {"title": title, "tabs": tabs, "classes": classes, "key": key, "command": command}
    content["place"] = str(Path(path).with_name("decisions.csv"))
    page = Path(__file__).with_name("review.html").read_text(encoding="utf-8")
    page = page.replace("NONCE", secrets.token_hex(16))  # the browser refuses scripts and styles without it
    # JSON escapes non-ASCII characters. Without < no name can end the script element that has the data.
    page = page.replace("CONTENT", json.dumps(content).replace("<", r"\u003c"))
    with written(path) as file:
        file.write(page.encode())
