"""Images on disk or from the network → uint8 tensors in memory → float batches on the device.

    python data.py export data/mnist_png                                          MNIST as PNG files
    python data.py mislabel data/mnist_png data/wrong --count 100 --classes 4 9   a copy with wrong labels

`find` says which data set there is, `load` reads it, `batch_to_float` converts images to the networks' input.
"""

import hashlib
import math
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from support.console import Parser, UserError, network_timeout, one_line, positive, run_command, seed_number
from support.files import check_new
from support.image_files import read_images
from support.image_folders import check_outside, list_folder, note_listings, write_images
from support.mislabelled import digests, make_wrong, mislabel, true_labels
from support.randomness import random_part

import torch
import torch.nn.functional as F
from torchvision.datasets import MNIST, FashionMNIST
from torchvision.transforms import v2

DATA = Path("data")  # where `--data auto` looks, and where downloads go
TEN_DIGITS = tuple("0123456789")
DATA_SETS = {  # those that torchvision downloads: its class, the megabytes and the names of the classes
    "mnist": (MNIST, 11, TEN_DIGITS),
    # A class is a folder too, whose name has no "/": T-shirt/top is T-shirt-top.
    "fashion": (FashionMNIST, 31, tuple(name.replace("/", "-") for name in FashionMNIST.classes)),
}


@dataclass(frozen=True)
class ImageData:
    """One split of a data set, in memory.

    `images` uint8 (N, channels, height, width); `labels` int64 (N,), indices into `classes`; `classes` the
    class names; `ids` where each image came from, a path relative to the data set's folder or such as
    `train/00042`; `source` the data set's name for tables and pictures.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple
    ids: tuple
    source: str

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        """Return the same data with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices):
        """Return only the samples at `indices`, a 1-D int64 tensor, in that order."""
        ids = tuple(self.ids[index] for index in indices.tolist())
        return replace(self, images=self.images[indices], labels=self.labels[indices], ids=ids)

    def fingerprint(self):
        """Return 16 hexadecimal digits that differ where pixels, labels, class names or the order do."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(self.images.contiguous().numpy())
        digest.update(self.labels.numpy())
        return digest.hexdigest()[:16]

    def content_fingerprint(self):
        """Return 16 hexadecimal digits like `fingerprint`'s, but the same for the samples in any order."""
        samples = zip(digests(self.images), self.labels.tolist(), strict=True)
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(b"".join(sorted(image + label.to_bytes(8, "big") for image, label in samples)))
        return digest.hexdigest()[:16]


def find(source="auto"):
    """Choose the data set for `load`, downloaded if need be: `source`, or for "auto" the first that exists.

    data/mnist_png, the sheet's folder; data/MNIST or a download of it; the built-in digits.
    """
    if source in DATA_SETS:
        download(source)
    if source != "auto":
        return source
    if (DATA / "mnist_png").is_dir():
        return str(DATA / "mnist_png")
    try:
        download("mnist")
        return "mnist"
    except DownloadError as error:
        print(f"Note: {error}.")
        print("Using the built-in digits instead: accuracies on them are not MNIST's.", flush=True)
        return "digits"


def load(source, limit=None, image_size=None, with_images=True):
    """Return (train, test), two ImageData of the same classes and image shape.

    `source` is "mnist" or "fashion" (downloaded into data/ if need be), "digits" (the built-in ones) or a
    folder. That holds one of DATA_SETS in torchvision's layout, or a folder of images per class, alone or in
    each of `train|training` and `test|testing|val|valid|validation`. `limit` keeps at most that many images
    of each, chosen at random, the same ones for every run. `image_size` (pixels) unifies images of mixed
    sizes. Without `with_images` files in a folder are not decoded: then images are uint8 (N, 0). Raises
    UserError, naming the file or folder to mend.
    """
    if source == "digits":
        halves = load_digits()
    elif source in DATA_SETS:
        download(source)
        halves = load_downloaded(source, DATA)
    elif downloaded := find_downloaded(source):
        halves = load_downloaded(*downloaded)
    elif Path(source).is_dir():
        return load_folder(Path(source), limit, image_size, with_images)
    else:
        names = ", ".join(["auto", *DATA_SETS, "digits"])
        raise UserError(f"--data {source}: no such folder; give a folder, or one of {names}")
    return [half.subset(random_part(len(half), limit)) if limit else half for half in halves]


def load_digits():
    """Return (train, test) of the built-in digits: 20,000 and 4,000 images."""
    from support.digits import digits  # not above, as most runs have no use for it

    halves = []
    for split, n_images, seed in (("train", 20000, 1), ("test", 4000, 2)):
        images, labels = digits(n_images, seed)
        halves.append(ImageData(images, labels, TEN_DIGITS, numbered(split, n_images), "the built-in digits"))
    return halves


def numbered(split, n_images):
    """Return ids for images that have no file of their own: train/00000, train/00001, …"""
    return tuple(f"{split}/{index:05d}" for index in range(n_images))


class DownloadError(UserError):
    """The download failed, and nothing else did."""


def find_downloaded(source):
    """Return which of DATA_SETS the folder `source` holds or is, (name, root), or None."""
    for name, (kind, *_) in DATA_SETS.items():
        for folder in (Path(source, kind.__name__), Path(source)):
            if folder.name == kind.__name__ and any(folder.glob("raw/*-ubyte*")):
                return name, folder.parent
    return None


def load_downloaded(name, root):
    """Return (train, test) of one of DATA_SETS, whose files are in `root`, as torchvision keeps them."""
    kind, _, classes = DATA_SETS[name]
    halves = []
    for split in ("train", "test"):
        try:
            read = kind(root, train=split == "train")
            images, labels = read.data.unsqueeze(1), read.targets
            if images.shape != (len(labels), 1, 28, 28) or labels.max() > 9:
                raise ValueError("the images and labels do not match")
        except Exception as error:  # torchvision has many kinds for a file that is cut short or not IDX
            raise UserError(
                f"{root}/{kind.__name__}/raw: {kind.__name__}'s {split} files are missing or damaged "
                f"({one_line(error)}); move that folder away, and --data {name} downloads them into data/"
            ) from None
        halves.append(ImageData(images, labels, classes, numbered(split, len(images)), kind.__name__))
    return halves


def download(name):
    """Download one of DATA_SETS into data/, whole or not at all, unless it is there. Raises DownloadError."""
    kind, megabytes, _ = DATA_SETS[name]
    place = DATA / kind.__name__
    if place.exists():
        return
    print(f"Downloading {kind.__name__} ({megabytes} MB) …", flush=True)
    try:
        DATA.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DATA, prefix=".download-") as folder, network_timeout():
            kind(folder, download=True)
            os.rename(Path(folder, kind.__name__), place)
    except Exception as error:  # of the network, the server or the disk; each has its own kinds
        if not place.exists():  # else another process was faster
            reason = one_line(error).split("got: ")[-1]  # torchvision tells of each server; the last will do
            raise DownloadError(
                f"{kind.__name__} could not be downloaded ({reason}); put its files into {place}/raw by hand"
            ) from None


def load_folder(root, limit, image_size, with_images):
    """Return (train, test) of a folder of image files; see `load`."""
    listings = list_folder(root)
    classes, test_classes = (listing.classes for listing in listings)
    if classes != test_classes:
        lone = min(set(classes) ^ set(test_classes))
        split = "training" if lone in classes else "test"
        raise UserError(
            f"{root}: only the {split} set has the class {lone}; both need the same class folders"
        )
    note_listings(root, *listings)
    files, labels = [], []
    for listing in listings:
        kept = random_part(len(listing.files), limit)
        files += [listing.files[index] for index in kept]
        labels.append(torch.tensor(listing.labels)[kept])
    images = read_images(files, image_size) if with_images else torch.empty(len(files), 0, dtype=torch.uint8)
    ids = tuple(Path(file).relative_to(root).as_posix() for file in files)
    n, source = len(labels[0]), root.resolve().name
    return [
        ImageData(images[:n], labels[0], classes, ids[:n], source),
        ImageData(images[n:], labels[1], classes, ids[n:], source),
    ]


# ---------------------------------------------------------------- from bytes to floats


def batch_to_float(images, image_size=None, maps=None):
    """Turn a batch of uint8 images (N, channels, height, width) into what networks take, on the same device.

    Returns float32 from 0 to 1 in channels-last memory order. `maps`, of `affine_maps`, move the images;
    `image_size` resizes them to that many pixels square. Floats, the features of `train.frozen`, stay as they
    are.
    """
    if images.is_floating_point():
        return images
    x = images.float() / 255
    if maps is not None and len(x) > 0:  # a process of several may get no image of a small batch
        maps = maps.to(x.device, non_blocking=x.is_cuda)  # without a wait; on mps that is not safe
        grid = F.affine_grid(maps, x.shape, align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
    if image_size and x.shape[2:] != (image_size, image_size):
        x = v2.functional.resize(x, [image_size, image_size], antialias=True)
    return x.contiguous(memory_format=torch.channels_last)


def affine_maps(n, image_size, degrees=10, translate=0.05, scale=0.1, shear=0.1):
    """Return `n` small random affine maps for images of `image_size`, (height, width): float32 (n, 2, 3).

    They turn, shift, stretch and slant: turns are within ±`degrees`, shifts within ±`translate` of the
    image's side, the others within ±10 % by default. Uses torch's global random numbers, drawn on the CPU so
    that every device gets the same.
    """
    turn, shift_x, shift_y, stretch_x, stretch_y, slant = 2 * torch.rand(6, n) - 1
    turn, slant = math.radians(degrees) * turn, shear * slant
    stretch_x, stretch_y = torch.exp(scale * stretch_x), torch.exp(scale * stretch_y)
    cos, sin = turn.cos(), turn.sin()
    height, width = image_size
    # The maps go from places in the output to places in the input, both from -1 to 1 (Jaderberg et al. 2015).
    to_x = torch.stack(
        [stretch_x * cos, stretch_y * (slant * cos - sin) * height / width, 2 * translate * shift_x]
    )
    to_y = torch.stack(
        [stretch_x * sin * width / height, stretch_y * (slant * sin + cos), 2 * translate * shift_y]
    )
    return torch.stack([to_x, to_y]).permute(2, 0, 1)


# ---------------------------------------------------------------- data with wrong labels


def find_imperfect(source, n_wrong, check):
    """Return (imperfect, clean): the folder with wrong labels and the one it was made from, or None.

    For "auto" the folder is data/mnist_png_mislabelled. If it is missing it is made from data/mnist_png,
    which is made first if need be. Without MNIST both are of the built-in digits. The clean folder of
    X_mislabelled… is X. Before anything is made, `check` is called with the number of training images, to
    raise UserError where they are too few.
    """
    if source == "auto":
        tail = "_mislabelled" if n_wrong == 100 else f"_mislabelled_{n_wrong}"
        source = f"data/mnist_png{tail}"
        found = "" if Path(source).is_dir() else find("auto")
        if found == "digits":
            source = f"data/digits_png{tail}"
        if not Path(source).is_dir():
            make_imperfect(Path(source.removesuffix(tail)), found, source, n_wrong, check)
    clean = re.sub("_mislabelled[^/]*/*$", "", source)
    if clean == source or not Path(clean).is_dir():
        return source, None
    return source, os.path.join(".", clean)  # ./digits is a folder, digits the built-in ones


def make_imperfect(clean, source, out, n_wrong, check):
    """Copy the folder `clean` to `out`, `n_wrong` labels wrong; a missing `clean` is made of `source`."""
    if clean.is_dir():
        check(len(list_folder(clean)[0].files))
    else:
        train, test = load(source)
        check(len(train))
        make_wrong(train.labels, len(train.classes), n_wrong, seed=0)  # raises where there are too few
        write_images(train, test, clean)
    mislabel(clean, out, n_wrong)


def known_truth(data, clean, image_size):
    """Return the true labels of `data`, int64 (N,), from the folder `clean`, or None; print why."""
    if clean is None:
        print("its true labels are not known, so how many suspects are right cannot be said")
        return None
    try:
        truth = true_labels(data, load(clean, None, image_size)[0])
    except UserError as error:
        print(f"the true labels are not known, as {error}")
        return None
    n_unknown = (truth < 0).sum().item()
    if n_unknown:
        print(f"{n_unknown:,} of its images are not in {clean}, so its true labels are not known")
        return None
    print(f"{(truth != data.labels).sum():,} of its labels are not those of {clean}")
    return truth


# ---------------------------------------------------------------- the command line


def export(out, source="auto", image_size=None):
    """Write the data set `source`, as `load` takes it, to the new folder `out` as PNG files."""
    check_new(out)
    source = find(source)
    if Path(source).is_dir() and not find_downloaded(source):
        check_outside(out, Path(source))
    write_images(*load(source, image_size=image_size), out)


def main():
    """Export or mislabel, as the command line says."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="export | mislabel")
    command = commands.add_parser("export", help="write a data set as PNG files")
    command.add_argument("out", help="folder to make")
    command.add_argument(
        "--source", default="auto", help="auto, mnist, fashion, digits or a folder (default: auto)"
    )
    command.add_argument("--image-size", type=positive(int), help="make larger or mixed images N×N pixels")
    command = commands.add_parser("mislabel", help="copy an image folder, some training labels wrong")
    command.add_argument("source", help="image folder to copy")
    command.add_argument("out", help="folder to make")
    command.add_argument("--count", type=positive(int), default=100, help="wrong labels (default: 100)")
    command.add_argument("--seed", type=seed_number, default=0, help="of the random choice (default: 0)")
    command.add_argument("--classes", nargs="+", metavar="CLASS", help="only among these (default: all)")
    given = vars(parser.parse_args())
    {"export": export, "mislabel": mislabel}[given.pop("command")](**given)


if __name__ == "__main__":
    run_command(main)
