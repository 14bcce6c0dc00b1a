"""A run's folder: its settings in config.json, where it stands in state.pt, and how it goes on from there."""

import hashlib
import io
import itertools
import json
import platform
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
import torchvision

from ranks import ranks
from runs import UserError, is_out_of_memory, write_tensors
from settings import Settings, hardware_name

# ---------------------------------------------------------------- the folder


def new_run_folder(name, out=None):
    """Make and return a new folder: `out`, or runs/`name`, or where that is taken runs/`name`-2, -3, …

    Raises UserError where `out` already holds something: no run is ever overwritten.
    """
    if out:
        if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
            raise UserError(f"--out {out}: something is there; choose another folder")
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    Path("runs").mkdir(exist_ok=True)
    for number in itertools.count(1):
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()  # in one step, so that two runs at once get a folder each
            return folder


def checksum(settings):
    """Return 16 hexadecimal digits that differ where `settings`, a dict, does."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def describe(settings, model, train, test):
    """Return what config.json holds: the settings, and the data, the software and the hardware they met."""
    return {
        "settings": asdict(settings),
        "checksum": checksum(asdict(settings)),  # a run cannot go on with other settings than it began with
        "data": {
            "source": train.source,
            "n_train": len(train),
            "n_test": len(test),
            "image_shape": list(train.images.shape[1:]),
            "classes": list(train.classes),
            "fingerprint": [train.fingerprint(), test.fingerprint()],
        },
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "platform": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "hardware": hardware_name(settings.device),
            "n_processes": ranks()[1],
        },
    }


def resumable(folder):
    """Return (settings, config) of the unfinished run in `folder`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings, _ = Settings(**config["settings"]), (config["data"], config["platform"])
        if config["checksum"] != checksum(config["settings"]):
            raise ValueError("the settings were edited")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--resume {folder}: no run is there (no config.json)") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{folder}/config.json is damaged, edited, or of another version of this program"
        ) from None
    if (folder / "model.pt").exists():
        raise UserError(f"--resume {folder}: that run is finished already")
    return settings, config


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
    content = (folder / "state.pt").read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("not a run's state")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        at = {key: state["at"][key] for key in start_of_epoch([], device)}
    except Exception as error:  # torch.load has many kinds for a file that is not whole
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{folder}/state.pt is damaged ({type(error).__name__}): move it away, and --resume starts anew"
        ) from None
    return at
