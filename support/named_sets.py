"""Data sets with a name: MNIST and Fashion-MNIST, which torchvision downloads, and the built-in digits."""

import os
import tempfile
from pathlib import Path

from torchvision.datasets import MNIST, FashionMNIST

from support.console import UserError, one_line
from support.digits import digits

DATA = Path("data")  # `auto` looks here, and downloads go here
KINDS = {"mnist": MNIST, "fashion": FashionMNIST}
MEGABYTES = {"mnist": 11, "fashion": 31}
NAMES = ("auto", *KINDS, "digits")


def find(source="auto"):
    """Return `source` with "auto" resolved; download the data set if needed.

    "auto" is the first available of data/mnist_png (the sheet's folder), MNIST and the built-in digits.
    "set:digits" is the data set even if there is a folder named digits. Raises UserError if a name is also
    the name of a folder, or if a download fails.
    """
    name = source.removeprefix("set:")
    if name not in NAMES:
        return source
    if source == name and Path(name).is_dir():
        raise UserError(f"--data {name}: a folder has this name too; type ./{name} or set:{name}")
    if name in KINDS:
        download(name)
    elif name == "auto":
        if (DATA / "mnist_png").is_dir():
            return str(DATA / "mnist_png")
        try:
            return find("set:mnist")
        except UserError as error:
            print(f"Note: {error}.\nUsing the built-in digits instead; do not compare accuracies with MNIST.")
            name = "digits"
    return f"set:{name}" if Path(name).is_dir() else name


def download(name):
    """Download the data set `name` into data/, unless it is there. Raises UserError if this fails."""
    place = DATA / KINDS[name].__name__
    if place.exists():
        return
    print(f"Downloading {place.name} ({MEGABYTES[name]} MB) …", flush=True)
    try:
        DATA.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DATA, prefix=".download-") as folder:
            KINDS[name](folder, download=True)
            os.rename(Path(folder, place.name), place)
    except Exception as error:  # network, server and disk raise many kinds of errors
        if place.exists():
            return  # another process downloaded it at the same time
        reason = one_line(error).split("got: ")[-1]  # torchvision lists each server's error
        problem = f"{place.name} could not be downloaded ({reason})"
        raise UserError(f"{problem}; put its files into {place}/raw by hand") from None


def read(source):
    """Return (name, classes, [training (images, labels), test (images, labels)]) of the data set `source`.

    `source` is a result of `find` or a folder that torchvision made; other folders give None.
    `images` are uint8 (N, 1, 28, 28), `labels` int64 (N,). Raises UserError if files are damaged.
    """
    source = source.removeprefix("set:")
    if source == "digits":
        return "the built-in digits", tuple("0123456789"), [digits(20000, seed=1), digits(4000, seed=2)]
    folder = DATA / KINDS[source].__name__ if source in KINDS else made_by_torchvision(Path(source))
    if not folder:
        return None
    kind = next(kind for kind in KINDS.values() if kind.__name__ == folder.name)
    try:
        splits = [kind(folder.parent, train=train) for train in (True, False)]
        for split in splits:
            if split.data.shape != (len(split.targets), 28, 28) or split.targets.max() > 9:
                raise ValueError("images and labels do not match")
    except Exception as error:  # torchvision raises many kinds of errors for damaged files
        problem = f"{folder}/raw: files are missing or damaged ({one_line(error)})"
        advice = "move the folder away, and --data mnist or fashion downloads it again"
        raise UserError(f"{problem}; {advice}") from None
    # A class of MNIST is called "0 - zero". "T-shirt/top" of Fashion-MNIST cannot be a folder name.
    classes = tuple(name.split(" - ")[0].replace("/", "-") for name in splits[0].classes)
    return folder.name, classes, [(split.data.unsqueeze(1), split.targets) for split in splits]


def made_by_torchvision(root):
    """Return the folder MNIST or FashionMNIST: `root` or the only folder in it; None if there is none."""
    names = [kind.__name__ for kind in KINDS.values()]
    if root.name in names:
        return root if any(root.glob("raw/*-ubyte*")) else None
    inner = [each for each in root.glob("[!.]*") if each.is_dir()]
    return made_by_torchvision(inner[0]) if len(inner) == 1 and inner[0].name in names else None
