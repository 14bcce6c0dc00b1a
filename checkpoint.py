"""A run's folder: its settings in config.json, where it stands in state.pt, and how it goes on from there."""

import hashlib
import itertools
import json
import platform
import shlex
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from runs import UserError, is_out_of_memory, one_line

import torch
import torchvision

from files import check_new, is_free, locked, read_csv, read_tensors, write_json, write_tensors
from images import TEST_NAMES, TRAIN_NAMES
from ranks import from_first, lost_connection, ranks
from settings import Settings, hardware_name

# ---------------------------------------------------------------- the folder


def new_run_folder(name, out=None):
    """Make and return a new folder: `out`, or runs/`name`, or where that is taken runs/`name`-2, -3, …

    Raises UserError where `out` already holds something: no run is ever overwritten.
    """
    if out:
        check_new(out)
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    Path("runs").mkdir(exist_ok=True)
    for number in itertools.count(1):
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()  # in one step, so that two runs at once get a folder each
            return folder


def checksum(*contents):
    """Return 16 hexadecimal digits that differ where `contents`, dicts, do."""
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def fingerprint(file):
    """Return 16 hexadecimal digits that differ where the contents of `file` do."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def describe(settings, model, train, test, options=None):
    """Return what config.json holds: the settings, and the data, the software and the hardware they met.

    `options` are those of a command that trains many networks, beyond the settings of each.
    """
    return {
        "settings": asdict(settings),
        "options": options,
        "checksum": checksum(asdict(settings), options),  # a run goes on with what it began with
        "data": {
            "source": train.source,
            "n_train": len(train),
            "n_test": len(test),
            "image_shape": list(train.images.shape[1:]),
            "classes": list(train.classes),
            "fingerprint": [train.fingerprint(), test.fingerprint()],
        },
        # Not in data, which --resume compares: the runs before this key go on too.
        "content_fingerprint": [train.content_fingerprint(), test.content_fingerprint()],
        "weights": fingerprint(settings.weights) if settings.weights else None,
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "platform": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "hardware": hardware_name(settings.device),
            "n_processes": ranks()[1],
        },
    }


def read_config(folder):
    """Return (settings, config) of the run in `folder`; raise UserError where there is none to be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings, data, where = Settings(**config["settings"]), config["data"], config["platform"]
        numbers = (config["n_parameters"], data["n_train"], data["n_test"], where["n_processes"])
        train_print, test_print = data["fingerprint"]
        train_content, test_content = config.get("content_fingerprint", data["fingerprint"])
        texts = (data["source"], where["hardware"], train_print, test_print, train_content, test_content)
        whole = all(isinstance(n, int) and 0 < n < 2**40 for n in numbers)
        whole = whole and all(isinstance(text, str) for text in texts)
        if not whole or config["checksum"] != checksum(config["settings"], config["options"]):
            raise ValueError("the settings were edited")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: no run is there (no config.json)") from None
    except OSError as error:
        raise UserError(f"{folder}/config.json: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged(folder) from None
    return settings, config


def damaged(folder):
    """Return the UserError for a config.json that is not what this program wrote for this command."""
    return UserError(
        f"{folder}/config.json is damaged, edited, or of another command or version of this program"
    )


def resumable(folder, last_file, option_names=None):
    """Return (settings, config) of the run in `folder`; of a finished one say so, and return None.

    A finished one has the `last_file`. `option_names` are those of the command that resumes it, None for
    train.py.
    """
    settings, config = read_config(folder)
    options = config["options"]
    if (options and options.keys()) != (option_names and set(option_names)):
        raise damaged(folder)
    if (folder / last_file).exists():
        print(f"{folder} is finished already; {last_file} and its other results are there")
        return None
    return settings, config


def read_run(folder):
    """Return a run of train.py: a dict of folder, settings, config, history, and whether it is finished.

    The history has a dict of floats for each epoch that is over. Raises UserError where there is no such run.
    """
    settings, config = read_config(folder)
    if config["options"] is not None:
        raise UserError(f"{folder}: is a run of another command; this takes those of train.py")
    table, finished = folder / "metrics.csv", (folder / "model.pt").exists()
    try:
        rows = read_csv(table) if table.exists() else []
        history = [{key: float(row[key]) for key in ("epoch", "test_accuracy", "seconds")} for row in rows]
        whole = [row["epoch"] for row in history] == list(range(1, len(history) + 1))
        whole = whole and (settings.epochs == len(history) if finished else settings.epochs >= len(history))
        if not whole or not all(0 <= r["test_accuracy"] <= 1 and 0 <= r["seconds"] < 1e9 for r in history):
            raise ValueError("not what was written")
    except (ValueError, KeyError):
        raise UserError(f"{table}: is no table of epochs any more; move it away") from None
    return {
        "folder": folder,
        "settings": settings,
        "config": config,
        "history": history,
        "finished": finished,
    }


def start_or_resume(name, now, out=None, resume=None, config=None):
    """Return the folder of a run that `describe` described as `now`: a new one, or `resume` with `config`.

    Under torchrun the first process makes a new one, for all.
    """
    if resume:
        check_inputs(f"--resume {resume}", config, now)
        note_other_platform(config, now)
        return Path(resume)
    return from_first(lambda: begin(name, now, out))


def check_inputs(what, config, now):
    """Raise UserError, about `what`, where a run's data or weights are no longer as its `config` says."""
    if config["data"] != now["data"]:
        source = config["settings"]["data"]
        raise UserError(f"{what}: the data at {source} is not what that run began with")
    if config.get("weights") != now["weights"]:
        raise UserError(f"{what}: {config['settings']['weights']} is not what it began with")


def note_other_platform(config, now):
    """Say so where a run goes on with other software or hardware than it began with."""
    if config["platform"] != now["platform"]:
        print("Note: that run began with other software or hardware; its last digits may differ")


def begin(name, now, out):
    """Make and return the folder of a new run that `describe` described as `now`."""
    source = Path(now["settings"]["data"]).resolve()
    if out and any(source / split in Path(out).resolve().parents for split in TRAIN_NAMES + TEST_NAMES):
        raise UserError(f"--out {out}: is among the images of {source}; choose another folder")
    folder = new_run_folder(name, out)
    with locked(folder):  # so that of two runs at once with the same --out one is refused
        if (folder / "config.json").exists():
            raise UserError(f"--out {out}: another process was faster; choose another folder")
        write_json(folder / "config.json", now)
    return folder


def same_run_folder(name, now, out=None):
    """Return the folder of the run that `describe` described as `now`: `out`, or one of runs/`name`….

    Where there is none it is a new one.
    """
    for folder in [Path(out)] if out else sorted(Path("runs").glob(f"{name}*"), reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if (config["checksum"], config["data"]) == (now["checksum"], now["data"]):
                note_other_platform(config, now)
                return folder
    return begin(name, now, out)


def to_type(words, n_processes):
    """Return the command line of `words`, a script and its arguments, for so many processes."""
    launcher = f"torchrun --nproc-per-node {n_processes}" if n_processes > 1 else "python"
    return f"{launcher} {shlex.join(map(str, words))}"


@contextmanager
def resumable_by(words, folder):
    """Turn what interrupts the block, which works on `folder`, into a UserError that says how to go on.

    That is to type `words`, a script and its arguments, after python or torchrun.
    """
    n_ranks = ranks()[1]
    go_on = to_type(words, n_ranks)
    try:
        yield
    except KeyboardInterrupt:
        raise from_a_survivor(f"interrupted; to go on: {go_on}", folder) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        problem = error.strerror or one_line(error)
        raise UserError(f"{error.filename or folder}: {problem}; when that is mended: {go_on}") from None
    except RuntimeError as error:
        if n_ranks == 1 or not lost_connection(error):
            raise
        lost = f"another process of this run has ended; to go on: {go_on}"
        raise from_a_survivor(lost, folder) from None


def from_a_survivor(message, folder):
    """Return a UserError; the second process says it where the first, which speaks for all, has ended."""
    error = UserError(message)
    error.speaks = ranks()[0] == 1 and is_free(folder)
    return error


# ---------------------------------------------------------------- where the run stands


def start_of_epoch(history, device):
    """Return where a run is at the start of an epoch: the rows of those before it, no image seen yet."""
    sums = torch.zeros(2, device=device)  # of the losses and of the right answers
    return {"history": history, "n_seen": 0, "seconds": 0.0, "sums": sums}


def save_state(folder, parts, at):
    """Write `folder`/state.pt: where the run is, and the state of `parts` (model, optimizer, scheduler)."""
    states = {name: part.state_dict() for name, part in parts.items()}
    write_tensors(folder / "state.pt", {"at": at, **states})


def load_state(folder, parts, device):
    """Put `parts` into the state of `folder`/state.pt and return where the run was; without it, the start."""
    if not folder or not (folder / "state.pt").exists():
        return start_of_epoch([], device)
    try:
        state = dict(read_tensors(folder / "state.pt", device))
        for name, part in parts.items():
            part.load_state_dict(state[name])
        at = {key: state["at"][key] for key in start_of_epoch([], device)}
    except Exception as error:  # load_state_dict has many kinds for another content
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise
        raise UserError(f"{folder}/state.pt is damaged: move it away, and --resume starts anew") from None
    return at
