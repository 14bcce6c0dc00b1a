"""The folder of a run: config.json, metrics.csv, checkpoints. Files are written whole or not at all."""

import csv
import hashlib
import io
import itertools
import json
import os
import platform
import re
import tempfile
import warnings
import zipfile
from argparse import Namespace
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torchvision

from support import machine
from support.console import UserError, command, has_lost_process, is_out_of_memory, one_line

# ---------------------------------------------------------------- files


@contextmanager
def written(path, mode="wb", **options):
    """Open a temporary file for writing, and rename it to `path` if the block succeeds.

    After a kill or on a full disk `path` has its old content or its new content, never a part of it.
    Arguments as for `open`.
    """
    temporary = Path(path).with_name(f".{Path(path).name}.part")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the user knows
        raise


# Spreadsheets compute cells that begin like this, except numbers. A ' in front marks a cell as text.
FORMULA = re.compile(r"[=@\t\r']|[+-](?!\d+(\.\d+)?(e[+-]\d+)?$)")


def write_csv(path, rows):
    """Write `rows`, a list of dicts with the same keys, under a header line."""
    with written(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.DictWriter(file, fieldnames=rows[0])
        table.writeheader()
        table.writerows(map(quoted, rows))


def quoted(row):
    """Return the dict `row` with ' before each text that a spreadsheet would compute."""
    return {name: f"'{cell}" if FORMULA.match(str(cell)) else cell for name, cell in row.items()}


def unquoted(row):
    """Return the dict `row` as it was before `quoted`."""
    return {
        name: cell[1:] if cell[:1] == "'" and FORMULA.match(cell[1:]) else cell for name, cell in row.items()
    }


def read_csv(path):
    """Read a table of `write_csv`; return its rows, dicts of texts. Raises UserError if it is damaged."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise csv.Error("lines of different lengths")
    except csv.Error as error:
        raise UserError(f"{path}: is damaged ({one_line(error)}); repair it, or move it away") from None
    return list(map(unquoted, rows))


def write_tensors(path, tensors):
    """Write nested dicts and lists of tensors, numbers and texts as `torch.save` does."""
    buffer = io.BytesIO()  # torch.save into a file raises RuntimeError if the disk is full, not OSError
    torch.save(tensors, buffer)
    with written(path) as file:
        file.write(buffer.getbuffer())


def read_tensors(path, device="cpu"):
    """Load a file of `write_tensors` to `device`. Raises UserError if it is damaged or has anything else."""
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # torch.load does not detect damaged weights, but each file in the archive has a checksum.
            if zipfile.is_zipfile(file) and zipfile.ZipFile(file).testzip():
                raise ValueError("damaged")
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises many kinds of errors
            if is_out_of_memory(error):
                raise
            raise UserError(f"{path}: is damaged, or holds no PyTorch weights") from None


PNG_MARK = ("Software", "Image classification, from the exercise sheet to the numbers")  # in our pictures


def check_replaceable(path, columns=None):
    """Raise UserError if `path` cannot be written, or if it may not be replaced.

    Only pictures of this program and tables with these `columns` may be replaced. Nothing may be written
    into the folder of a run. Creates the folder of `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    if path.is_dir() or (path.parent / "config.json").exists():
        raise UserError(f"{path}: is a folder, or in a folder with a config.json; choose another name")
    if path.exists():
        with open(path, "rb") as file:
            start = file.read(10000)
        is_ours = "\0".join(PNG_MARK).encode() in start
        if columns:
            is_ours = start.splitlines()[:1] == [",".join(columns).encode()]
        if not is_ours:
            raise UserError(f"{path}: this program did not write it; choose another name, or move it away")


# ---------------------------------------------------------------- the folder


def new_folder(name, out=None):
    """Make and return the folder `out`, by default runs/`name`, or runs/`name`-2, … if that exists.

    Raises UserError if `out` is not empty: no run is ever overwritten.
    """
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        if any(Path(out).iterdir()):
            raise UserError(f"--out {out}: is not empty; choose another folder")
        return Path(out)
    Path("runs").mkdir(exist_ok=True)
    for number in itertools.count(1):
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()  # fails if it exists: two runs at once get different folders
            return folder


def describe_run(script, settings, data, n_parameters):
    """Return the content of config.json, a dict. `data` describes the images and has their fingerprints."""
    return {
        "script": script,
        "settings": vars(settings),
        "data": data,
        "weights": settings.weights and file_fingerprint(settings.weights),
        "n_parameters": n_parameters,
        "platform": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "hardware": machine.hardware(settings.device),
            "n_processes": machine.n_processes(),
        },
    }


def write_config(folder, config):
    """Write the dict `config` (see `describe_run`) to config.json."""
    with written(Path(folder, "config.json"), "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def read_config(folder, script="train.py"):
    """Return config.json. Raises UserError if `folder` has no run of `script` (None: of any script)."""
    file = Path(folder, "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not {"settings", "data", "weights", "n_parameters", "platform"} <= config.keys():
            raise ValueError
        if script and config["script"] != script:
            raise UserError(f"{folder}: is a run of {config['script']}, not of {script}")
        return config
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: is not a run (it has no config.json)") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file}: is damaged, or of another version of this program") from None


def read_run(folder):
    """Return a run of train.py: a Namespace of folder, settings, config, history and finished (bool).

    `history` has a dict of floats for each finished epoch. Raises UserError if there is no such run.
    """
    config, table = read_config(folder), Path(folder, "metrics.csv")
    finished = Path(folder, "model.pt").exists()
    try:
        rows = read_csv(table) if table.exists() else []
        history = [{name: float(cell) for name, cell in row.items()} for row in rows]
        if not all({"test_accuracy", "seconds"} <= row.keys() for row in history):
            raise ValueError
    except ValueError:
        raise UserError(f"{table}: is not a table of epochs; repair it, or move {folder} away") from None
    settings = Namespace(**config["settings"])
    return Namespace(folder=folder, settings=settings, config=config, history=history, finished=finished)


def file_fingerprint(file):
    """Return 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with open(file, "rb") as opened:
        return hashlib.sha256(opened.read()).hexdigest()[:16]


# ---------------------------------------------------------------- interruption


def resumed(folder, parser, script="train.py"):
    """Return (settings, config) of the interrupted run in `folder`, given the parser of the command line.

    Only --data, --weights and --device may differ from the run's own settings: files may have moved, and a
    GPU may be missing.
    """
    config, typed = read_config(folder, script), parser.typed()
    if others := set(typed) - {"resume", "data", "weights", "device"}:
        raise UserError(f"--resume keeps the run's settings: leave out --{min(others).replace('_', '-')}")
    del typed["resume"]
    settings = Namespace(**config["settings"] | typed)
    is_name = settings.data.removeprefix("set:") in ("mnist", "fashion", "digits")
    for flag, file in (("data", "" if is_name else settings.data), ("weights", settings.weights)):
        if file and not os.path.exists(file):
            raise UserError(f"--resume {folder}: {file} is missing; add --{flag} and its new path")
    return settings, config


def check_same(folder, config, described):
    """Raise UserError if data or weights differ from `config`; print a note if the platform differs."""
    settings = described["settings"]
    if config["data"]["fingerprints"] != described["data"]["fingerprints"]:
        problem = f"{settings['data']} does not have the images of this run; add --data and their folder"
        raise UserError(f"--resume {folder}: {problem}")
    if config["weights"] != described["weights"]:
        raise UserError(f"--resume {folder}: {settings['weights']} has changed; add --weights ORIGINAL")
    if config["platform"] != described["platform"]:
        print("Note: the run began with other software or hardware; results may differ in the last digits")


def save_state(folder, history, **parts):
    """Write state.pt: the rows of the finished epochs and the state_dict of each of `parts`."""
    states = {name: part.state_dict() for name, part in parts.items()}
    write_tensors(Path(folder, "state.pt"), {"history": history, **states})


def load_state(folder, device, **parts):
    """Load state.pt into `parts` and return the rows of the finished epochs; [] if there is no state.pt."""
    file = Path(folder or "", "state.pt")
    if not folder or not file.exists():
        return []
    state = read_tensors(file, device)
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["history"]
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{file}: is damaged; move it away, and --resume starts at the first epoch") from None


@contextmanager
def resumable(script, folder, n_processes=1):
    """Turn an interruption of the block into a UserError that says how to resume the run in `folder`."""
    resume = command(script, "--resume", folder, n_processes=n_processes)
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(f"interrupted; to continue: {resume}") from None
    except RuntimeError as error:
        if not has_lost_process(error):
            raise
        raise UserError(f"another process of the run has ended; to continue: {resume}") from None
    except BrokenPipeError:
        raise
    except OSError as error:  # such as a full disk
        problem = f"{error.filename or folder}: {error.strerror or one_line(error)}"
        raise UserError(f"{problem}; solve this, then continue: {resume}") from None
