"""A run's folder: its settings in config.json, where it stands in state.pt, and how it goes on from there."""

import hashlib
import itertools
import json
import platform
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from support.console import UserError, is_out_of_memory, one_line, shell_words
from support.files import (
    check_new,
    finite_number,
    is_free,
    locked,
    read_csv,
    read_tensors,
    write_json,
    write_tensors,
)
from support.image_folders import check_outside, folders_of_images
from support.processes import from_main, is_main, lost_connection, n_processes, process_number
from support.settings import Settings, hardware_name

import torch
import torchvision

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


def checksum(description):
    """Return 16 hexadecimal digits that differ where a `description`, a dict, does."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(file):
    """Return 16 hexadecimal digits that differ where the contents of `file` do."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def describe(settings, model, train, test, options=None):
    """Return what config.json holds: the settings, and the data, the software and the hardware they met.

    `options`, a dict, are those of a command that trains many networks, beyond the settings of each.
    """
    return {
        "settings": asdict(settings),
        "options": options,
        "data": {
            "source": train.source,
            "n_train": len(train),
            "n_test": len(test),
            "image_shape": list(train.images.shape[1:]),
            "classes": list(train.classes),
            "fingerprint": [train.fingerprint(), test.fingerprint()],
        },
        "content_fingerprint": [train.content_fingerprint(), test.content_fingerprint()],  # for compare.py
        "brightness": round(train.images.numpy().mean().item() / 255, 4),  # 0 to 1; for predict.py
        "weights": fingerprint(settings.weights) if settings.weights else None,
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "platform": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "hardware": hardware_name(settings.device),
            "n_processes": n_processes(),
        },
    }


def write_config(folder, description):
    """Write config.json: the `description` of a run, by `describe`, and a checksum of it."""
    write_json(folder / "config.json", description | {"checksum": checksum(description)})


def read_config(folder):
    """Return (settings, description) of the run in `folder`; raise UserError where none can be read."""
    try:
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = Settings(**description["settings"])
        if description.pop("checksum") != checksum(description):  # so it is all that `describe` returned
            raise ValueError("edited")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: no run is there (no config.json)") from None
    except OSError as error:
        raise UserError(f"{folder}/config.json: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{folder}/config.json is damaged, edited, or of another version of this program"
        ) from None
    return settings, description


def read_resumable(folder, option_names=None):
    """Return (settings, config) of the run in `folder`, one of the command that has `option_names`.

    They are None for train.py. Raises UserError where it is another command's.
    """
    settings, config = read_config(folder)
    options = config["options"]
    if (options and options.keys()) != (option_names and set(option_names)):
        raise UserError(f"{folder}: is a run of another command or version of this program")
    return settings, config


def is_finished(folder, last_file):
    """Return whether the run in `folder` has written its `last_file`, and say so."""
    finished = Path(folder, last_file).exists()
    if finished:
        print(f"{folder} is finished already; {last_file} and its other results are there")
    return finished


def read_run(folder):
    """Return a run of train.py: a dict of folder, settings, config, history, and whether it is finished.

    The history has a dict of floats for each epoch that is over. Raises UserError where there is no such run.
    """
    settings, config = read_resumable(folder)
    finished = (folder / "model.pt").exists()
    table = folder / "metrics.csv"
    try:
        rows = read_csv(table) if table.exists() else []
        history = [{key: finite_number(row[key]) for key in ("test_accuracy", "seconds")} for row in rows]
    except (ValueError, KeyError):
        raise UserError(f"{table}: is no table of epochs any more; move it away") from None
    if finished and len(history) != settings.epochs:
        raise UserError(f"{table}: is not that of all {settings.epochs} epochs; move {folder} away")
    return {
        "folder": folder,
        "settings": settings,
        "config": config,
        "history": history,
        "finished": finished,
    }


def start_or_resume(name, description, options, config):
    """Return the folder of a run that `describe` described: a new one, or that of --resume with its `config`.

    `options` are the command's. Under torchrun the main process makes a new one, for all.
    """
    if options.resume:
        check_inputs(f"--resume {options.resume}", config, description)
        note_other_platform(config, description)
        return Path(options.resume)
    return from_main(lambda: begin(name, description, options.out))


def check_inputs(blamed, config, description):
    """Raise UserError, about `blamed`, where a run's data or weights are no longer as its `config` says."""
    if config["data"] != description["data"]:
        source = config["settings"]["data"]
        raise UserError(f"{blamed}: the data at {source} is not what that run began with")
    if config["weights"] != description["weights"]:
        raise UserError(f"{blamed}: {config['settings']['weights']} is not what it began with")


def note_other_platform(config, description):
    """Say so where a run goes on with other software or hardware than it began with."""
    if config["platform"] != description["platform"]:
        print("Note: that run began with other software or hardware; its last digits may differ")


def begin(name, description, out):
    """Make and return the folder of a new run that `describe` described."""
    source = Path(description["settings"]["data"])
    if source.resolve().name == description["data"]["source"]:  # which a folder of images is called by
        check_outside(out or "runs", *folders_of_images(source))
    folder = new_run_folder(name, out)
    with locked(folder):  # so that of two runs at once with the same --out one is refused
        if (folder / "config.json").exists():
            raise UserError(f"--out {out}: another process was faster; choose another folder")
        write_config(folder, description)
    return folder


def same_run_folder(name, description, out=None):
    """Return the folder of the run that `describe` described: `out`, or one of runs/`name`….

    Where there is none it is a new one.
    """

    def what(config):  # whatever the machine
        return checksum({part: config[part] for part in ("settings", "options", "data")})

    for folder in [Path(out)] if out else sorted(Path("runs").glob(f"{name}*"), reverse=True):
        with suppress(UserError):
            config = read_config(folder)[1]
            if what(config) == what(description):
                note_other_platform(config, description)
                return folder
    return begin(name, description, out)


def to_type(words, n_processes):
    """Return the command line of `words`, a script and its arguments, for so many processes."""
    launcher = f"torchrun --nproc-per-node {n_processes}" if n_processes > 1 else "python"
    return f"{launcher} {shell_words(*words)}"


@contextmanager
def resumable_by(words, folder):
    """Keep `folder` to this run for the block; what interrupts it becomes a UserError that says how to go on.

    That is to type `words`, a script and its arguments, after python or torchrun. Raises UserError where
    another run has `folder`.
    """
    command = to_type(words, n_processes())
    try:
        with locked(folder) if is_main() else nullcontext():
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        problem = error.strerror or one_line(error)
        raise UserError(f"{error.filename or folder}: {problem}; when that is mended: {command}") from None
    except (KeyboardInterrupt, RuntimeError) as error:
        lost = n_processes() > 1 and lost_connection(error)
        if isinstance(error, RuntimeError) and not lost:
            raise
        reason = "another process of this run has ended" if lost else "interrupted"
        interrupted = UserError(f"{reason}; to go on: {command}")
        # The main process speaks for all; where it has ended, and so holds the folder no more, the next does.
        interrupted.speaks = process_number() == 1 and is_free(folder)
        raise interrupted from None


# ---------------------------------------------------------------- where the run stands


@dataclass
class Position:
    """Where a run is: the rows of the epochs that are over, and how far it is in the next one."""

    history: list
    n_seen: int  # images in this epoch
    seconds: float  # of training in it, before it was interrupted
    sums: torch.Tensor  # of the losses and of the right answers in it, on the device


def start_of_epoch(history, device, seconds=0.0):
    """Return the Position at the start of an epoch, for which `seconds` have gone by already."""
    return Position(history, 0, seconds, torch.zeros(2, device=device))


def save_position(folder, trained, position):
    """Write `folder`/state.pt: the Position, and the states of `trained` (model, optimizer, scheduler)."""
    states = {name: part.state_dict() for name, part in trained.items()}
    write_tensors(folder / "state.pt", {"at": vars(position), **states})


def load_position(folder, trained, device):
    """Put `trained` into the state of `folder`/state.pt and return the Position there; None without it."""
    if not folder or not (folder / "state.pt").exists():
        return None
    try:
        state = read_tensors(folder / "state.pt", device)
        for name, part in trained.items():
            part.load_state_dict(state[name])
        return Position(**state["at"])
    except Exception as error:  # load_state_dict has many kinds for another content
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise
        raise UserError(f"{folder}/state.pt is damaged: move it away, and --resume starts anew") from None
