"""Files that are never half written, tables that grow line by line, folders that one process has."""

import csv
import io
import json
import math
import os
import re
import warnings
import zipfile
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from uuid import uuid4

from support.console import UserError, is_out_of_memory, one_line

import torch

try:
    import fcntl
except ImportError:
    import msvcrt  # Windows

    fcntl = None


# What a kill -9 leaves of `written`: in a run's folder until that is locked again, elsewhere for good.
LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{8}\.part")


def unfinished(path):
    """Return a new name beside the Path `path` for what is to become it, as LEFT_OVER."""
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")


@contextmanager
def written(path, mode="wb", **options):
    """Open a new file for writing; when the block ends well, it becomes `path`, in one step.

    However the program ends, `path` holds its old content or its new, never half of it. Of several writers
    at once the last wins. Arguments as for `open`.
    """
    path = Path(path)
    temporary = unfinished(path)
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path, content):
    """Write `content` as indented JSON."""
    # What is no text in a file's name, a lone surrogate, is escaped as \udcff: so does JSON.
    with written(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """Return what `write_json` wrote; raise UserError where the file is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is damaged; move it away") from None


FORMULA = tuple("=+-@\t\r'")  # a spreadsheet computes a text that begins so; ' is our own mark
NEGATIVE = re.compile(r"-\d+(\.\d+)?(e[+-]\d+)?")


def quoted(row):
    """Return the dict `row` as it is written: ' before a text that a spreadsheet would compute."""

    def computed(cell):  # a negative number in a row that was read is a text too
        return isinstance(cell, str) and cell.startswith(FORMULA) and not NEGATIVE.fullmatch(cell)

    return {name: f"'{cell}" if computed(cell) else cell for name, cell in row.items()}


def unquoted(row):
    """Return the dict `row`, read from a table, with the texts that `quoted` was given."""
    return {
        name: cell[1:] if isinstance(cell, str) and cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell
        for name, cell in row.items()
    }


def write_csv(path, rows):
    """Write `rows`, an iterable of one or more dicts with the same keys, under a header line."""
    rows = iter(rows)
    first = next(rows)
    with written(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.DictWriter(file, fieldnames=first)
        table.writeheader()
        table.writerows(map(quoted, chain([first], rows)))


def replace_rows(path, rows, names):
    """Add `rows`, dicts, to the table `path`, in place of those that have the same in the columns `names`."""
    new = [[str(row[name]) for name in names] for row in rows]
    others = read_csv(path) if Path(path).exists() else []
    write_csv(path, [*(row for row in others if [row[name] for name in names] not in new), *rows])


def append_csv(path, row):
    """Add the dict `row` to a table, under a header line where there is none yet; it is on the disk then."""
    with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.DictWriter(file, fieldnames=row)
        if file.tell() == 0:
            table.writeheader()
        table.writerow(quoted(row))
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path, names):
    """Drop from a table of `append_csv` with the columns `names` what a kill left of its last line.

    Raises UserError where it is another table, or none.
    """
    content = Path(path).read_bytes()
    if not content.endswith(b"\n"):
        header = ",".join(names).encode()
        if content[: len(header)] != header[: len(content)]:
            raise UserError(f"{path}: is no table of this program any more; move it away")
        with written(path) as file:
            file.write(content[: content.rfind(b"\n") + 1])


def read_csv(path):
    """Return the rows of a table, dicts of texts. Raises UserError where it is no table."""
    try:
        # -sig where a spreadsheet saved it
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            table = csv.DictReader(file, strict=True)
            "".join(table.fieldnames or ()).encode()  # a file's name may be no text, a column's is
            rows = [unquoted(row) for row in table]
    except (csv.Error, UnicodeEncodeError) as error:
        raise UserError(f"{path}: is no table any more ({one_line(error)}); move it away") from None
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path}: has lines of different lengths; mend it, or move it away")
    return rows


def finite_number(text):
    """Return the number that a table has as `text`; raise ValueError where it is none, or not finite."""
    if not math.isfinite(float(text)):
        raise ValueError
    return float(text)


def write_tensors(path, tensors):
    """Write `tensors`, nested dicts and lists of tensors and numbers, as `torch.save` does."""
    buffer = io.BytesIO()  # torch.save into a file would turn a full disk's OSError into its own RuntimeError
    torch.save(tensors, buffer)
    with written(path) as file:
        file.write(buffer.getbuffer())


def read_tensors(path, device="cpu"):
    """Return what `write_tensors` wrote, on `device`; raise UserError where the file holds anything else.

    Raises OSError where it cannot be opened.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about a pickle that is not its own
        try:
            # torch.load takes damaged numbers as they are; the archive has a checksum of each of its members.
            if zipfile.is_zipfile(file) and zipfile.ZipFile(file).testzip():
                raise ValueError("damaged")
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # torch.load has many kinds, OSError among them
            if is_out_of_memory(error):
                raise
            # Not torch's own text, which advises to load such a file all the same.
            raise UserError(
                f"{path}: cannot be read as PyTorch weights: damaged, or not tensors alone"
            ) from None


PNG_MARK = ("Software", "Image classification, from the exercise sheet to the numbers")  # in its first text


def check_replaceable(path, names=None):
    """Raise UserError where `path` is a file that this program did not write.

    A picture of ours has PNG_MARK, a table of ours the columns `names`, in this order, and whole lines.
    """
    if not os.path.lexists(path):
        return
    with open(path, "rb") as file:
        head = file.read(10000)
    if names is None:
        ours = "\0".join(PNG_MARK).encode() in head
    else:
        ours = head.splitlines()[:1] == [",".join(names).encode()]
    if not ours:
        raise UserError(f"{path}: is there without this program's mark; choose another name, or move it away")
    if names is not None:
        read_csv(path)  # raises where a line is damaged


def check_new(out):
    """Raise UserError where the path `out` is taken, unless by an empty folder, a kill's left-overs aside."""
    if Path(out).exists() and (
        not Path(out).is_dir() or not all(LEFT_OVER.fullmatch(path.name) for path in Path(out).iterdir())
    ):
        raise UserError(f"{out}: something is there; choose another folder")


@contextmanager
def locked(folder):
    """Keep `folder` to this process for the block; raise UserError where another has it. A kill frees it.

    What a kill left half written there, at any depth, is removed.
    """
    with held(folder):
        for part in Path(folder).rglob(".*.part"):
            if LEFT_OVER.fullmatch(part.name):
                with suppress(OSError):  # where nothing may be written
                    part.unlink()
        yield


@contextmanager
def held(folder):
    """Do as `locked` does, but leave what is in `folder` alone."""
    target = Path(folder).resolve()
    if not fcntl:  # Windows opens no folders: it locks a byte of a file beside it
        target = target.with_name(f".{target.name}.lock")
    descriptor = os.open(target, os.O_RDONLY if fcntl else os.O_RDWR | os.O_CREAT)
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # of flock, of msvcrt
        os.close(descriptor)
        raise UserError(f"{folder}: another process is at work there") from None
    try:
        yield
    finally:
        os.close(descriptor)
        if not fcntl:
            with suppress(OSError):  # the next process has it open already
                target.unlink()


def is_free(folder):
    """Return whether no process has `folder` locked."""
    try:
        with held(folder):
            return True
    except UserError:
        return False
