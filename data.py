"""A data set, by name or folder → tensors in memory → batches on the device.

python data.py export data/mnist_png                        # MNIST as PNG files
python data.py mislabel data/mnist_png data/mnist_png_mislabelled_4_9 --classes 4 9     # 100 wrong labels
"""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from support.console import Parser, UserError, path, positive, run_command, seed
from support.image_files import read_images
from support.image_folders import copy_folder, list_folder, new_folder, write_images
from support.named_sets import NAMES, find, read


@dataclass(frozen=True)
class ImageData:
    """One split of a data set, in memory.

    `images` are uint8 (N, channels, height, width), `labels` int64 (N,), indices into `classes`, the names.
    `ids` are file paths relative to the data set's folder, or texts such as train/00042. `source` is the name
    of the data set in tables and pictures, `white` the value of white in its 16-bit files.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple
    ids: tuple
    source: str
    white: int = 65535

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        """Return the same data with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices):
        """Return only the samples at `indices`, int64 (M,), in that order."""
        ids = tuple(self.ids[index] for index in indices.tolist())
        return replace(self, images=self.images[indices], labels=self.labels[indices], ids=ids)

    def fingerprint(self):
        """Return 16 hexadecimal digits that depend on pixels, labels and class names, not on the order."""
        samples = zip(digests(self.images), self.labels.tolist(), strict=True)
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode(errors="surrogateescape"))
        digest.update(b"".join(sorted(image + label.to_bytes(8, "big") for image, label in samples)))
        return digest.hexdigest()[:16]


def digests(images):
    """Return the SHA-256 hash of each image in `images`, uint8 (N, …). Equal pixels have equal hashes."""
    return [hashlib.sha256(image).digest() for image in images.contiguous().numpy()]


# ---------------------------------------------------------------- loading


def load(source, limit=None, image_size=None, white=None):
    """Return (train, test), two ImageData with the same classes and image shape.

    `source` is "auto", "mnist", "fashion" or "digits" (see `named_sets.find`), or a folder. The folder has
    MNIST's files as torchvision keeps them, or class folders of images, either directly or in each of
    `train|training` and `test|testing|val|valid|validation`. Each split has at most `limit` images, chosen at
    random, the same in every run. `image_size`, an int or (height, width), and `white` are as for
    `image_files.read_images`. Raises UserError, which names the file or folder to correct.
    """
    source = find(source)
    if named := read(source):
        name, classes, splits = named
        loaded = []
        for split, (images, labels) in zip(("train", "test"), splits, strict=True):
            ids = tuple(f"{split}/{index:05}" for index in range(len(labels)))
            kept = random_part(len(labels), limit)
            loaded.append(ImageData(images, labels, classes, ids, name).subset(kept))
        return loaded
    if not Path(source).is_dir():
        raise UserError(f"--data {source}: is not a folder, nor one of {', '.join(NAMES)}")
    files, labels = [], []
    for listing in list_folder(source):
        kept = random_part(len(listing.files), limit)
        files += [listing.files[index] for index in kept]
        labels.append(torch.tensor(listing.labels)[kept])
    images, white = read_images(files, image_size, white)
    ids = tuple(Path(file).relative_to(source).as_posix() for file in files)
    n, name = len(labels[0]), Path(source).resolve().name
    return [
        ImageData(images[:n], labels[0], listing.classes, ids[:n], name, white),
        ImageData(images[n:], labels[1], listing.classes, ids[n:], name, white),
    ]


def describe_data(train, test):
    """Return the part of config.json that describes the data, a dict."""
    return {
        "source": train.source,
        "n_train": len(train),
        "n_test": len(test),
        "image_shape": list(train.images.shape[1:]),
        "classes": list(train.classes),
        "white": train.white,
        "brightness": round(train.images.numpy().mean().item() / 255, 4),  # 0 to 1
        "fingerprints": [train.fingerprint(), test.fingerprint()],
    }


def introduce(train, test):
    """Print a description of the data, and a note on each property that makes accuracies misleading."""
    channels, height, width = train.images.shape[1:]
    counts = f"{len(train):,} training and {len(test):,} test images"
    colour = "grey" if channels == 1 else "colour"
    print(f"{train.source}: {counts}, {height}×{width} pixels, {colour}, {len(train.classes)} classes")
    labels, first, contradictions = train.labels.tolist(), {}, []
    sizes = Counter(train.classes[label] for label in labels).most_common()
    (most, n_most), (fewest, n_fewest) = sizes[0], sizes[-1]
    if n_most > 2 * n_fewest:
        print(f"Note: the classes differ in size: {n_most:,} images of {most}, {n_fewest:,} of {fewest}")
    for index, digest in enumerate(digests(train.images)):
        if labels[first.setdefault(digest, index)] != labels[index]:
            contradictions.append((train.ids[first[digest]], train.ids[index]))
    tested = zip(test.ids, digests(test.images), strict=True)
    copies = [(name, train.ids[first[digest]]) for name, digest in tested if digest in first]
    for pairs, text in (
        (copies, "test images that are also training images, which makes the accuracy too high"),
        (contradictions, "training images that have a copy in another class; at most one label is right"),
    ):
        if pairs:
            print(f"Note: {text}: {len(pairs):,}, such as {' = '.join(pairs[0])}")


# ---------------------------------------------------------------- random numbers and batches


def mix(*numbers):
    """Return a 32-bit seed that depends on all `numbers`, ints from 0 to 2³² - 1.

    Random numbers are therefore a function of (seed, epoch, step): a resumed run draws the same ones without
    a saved generator state. Trailing zeros do not change the result, so steps are counted from 1.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def random_order(n, *numbers):
    """Return a random permutation of 0 … n - 1, int64 (n,), which depends only on `n` and `numbers`."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(*numbers)))


def random_part(n, limit):
    """Return sorted indices, int64, of at most `limit` of `n` samples: a random choice, always the same."""
    return random_order(n, 0)[:limit].sort().values if limit else torch.arange(n)


def batches(data, settings, epoch, rank=0, n_processes=1):
    """Yield (images, labels) for each step of `epoch`, on the device.

    `images` are as `batch_to_float` returns them. With several processes, each yields a share of each batch.
    """
    order = random_order(len(data), settings.seed, epoch).to(data.images.device)
    for step, batch in enumerate(order.split(settings.batch_size), 1):
        share = slice(rank, None, n_processes) if len(batch) >= n_processes else slice(None)  # never empty
        torch.manual_seed(mix(settings.seed, epoch, step))  # for augmentation and dropout
        maps = affine_maps(len(batch), data.images.shape[2:])[share] if settings.augment else None
        if rank:
            torch.manual_seed(mix(settings.seed, epoch, step, rank))  # different dropout in each process
        images = data.images[batch[share]].to(settings.device)
        yield batch_to_float(images, settings.image_size, maps), data.labels[batch[share]].to(settings.device)


def batch_to_float(images, image_size, maps=None):
    """Return a network's input: float32 from 0 to 1, (N, channels, height, width), channels last in memory.

    `images` are uint8, on any device. `maps`, from `affine_maps`, augment them; then they are resized to
    `image_size`, (height, width). Float images (features, see train.py) are returned unchanged.
    """
    if images.is_floating_point():
        return images
    x = images.float() / 255
    if maps is not None:
        grid = F.affine_grid(maps.to(x.device, non_blocking=x.is_cuda), x.shape, align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
    if x.shape[2:] != tuple(image_size):
        x = v2.functional.resize(x, list(image_size), antialias=True)
    return x.contiguous(memory_format=torch.channels_last)


def affine_maps(n, image_size, degrees=10, translate=0.05, scale=0.1, shear=0.1):
    """Return `n` small random affine transforms for images of `image_size`, (height, width): float (n, 2, 3).

    They rotate by at most `degrees`, shift by at most `translate` of the image's side, and scale and shear by
    about 10 %. They map positions in the output to positions in the input, both from -1 to 1 (Jaderberg et
    al. 2015). Torch's global generator draws them on the CPU, so they are the same on all devices.
    """
    angle, shift_x, shift_y, scale_x, scale_y, slant = 2 * torch.rand(6, n) - 1
    angle, slant = math.radians(degrees) * angle, shear * slant
    scale_x, scale_y = torch.exp(scale * scale_x), torch.exp(scale * scale_y)
    cos, sin = angle.cos(), angle.sin()
    height, width = image_size
    to_x = (scale_x * cos, scale_y * (slant * cos - sin) * height / width, 2 * translate * shift_x)
    to_y = (scale_x * sin * width / height, scale_y * (slant * sin + cos), 2 * translate * shift_y)
    return torch.stack([torch.stack(to_x), torch.stack(to_y)]).permute(2, 0, 1)


# ---------------------------------------------------------------- commands


def export(out, source="auto"):
    """Write a data set to the new folder `out` as PNG files; `source` is as for `load`."""
    with new_folder(out, source if Path(source).is_dir() else None) as folder:
        for name, split in zip(("training", "testing"), load(source), strict=True):
            write_images(folder / name, split.images, split.labels, split.classes)
            print(f"{out}/{name}: {len(split):,} images of {split.source}")


def make_wrong(labels, n_classes, count, seed, classes=None):
    """Return a copy of `labels`, int64 (N,), with `count` wrong labels, and their indices, int64 (count,).

    Each wrong label is another class, chosen at random. With `classes`, a list of class indices, only these
    labels change, each to another of these classes. Raises UserError if labels or classes are too few.
    """
    classes = torch.tensor(sorted(set(classes or range(n_classes))))
    candidates = torch.isin(labels, classes).nonzero().flatten()
    if len(classes) < 2:
        raise UserError("wrong labels need at least two classes")
    if len(candidates) < count:
        raise UserError(f"{count:,} wrong labels are too many for {len(candidates):,} images")
    # Not mix(seed, 0): it orders the first epoch, so all wrong labels would be in its first batch.
    generator = torch.Generator().manual_seed(mix(seed, 2**32 - 1))
    changed = candidates[torch.randperm(len(candidates), generator=generator)[:count]].sort().values
    steps = torch.randint(1, len(classes), (count,), generator=generator)  # 0 would be the same class
    wrong = labels.clone()
    wrong[changed] = classes[(torch.searchsorted(classes, labels[changed]) + steps) % len(classes)]
    return wrong, changed


def mislabel(source, out, count=100, seed=0, classes=None):
    """Copy the image folder `source` to `out`, with `count` training images in the folder of a wrong class.

    With `classes`, a list of class names, only images of these classes move, each to another of them.
    """
    listing = list_folder(Path(source))[0]
    names = listing.classes
    if unknown := set(classes or ()) - set(names):
        raise UserError(f"{source}: has no class {min(unknown)}; it has {', '.join(names)}")
    numbers = [names.index(name) for name in classes] if classes else None
    wrong, changed = make_wrong(torch.tensor(listing.labels), len(names), count, seed, numbers)
    if emptied := set(listing.labels) - set(wrong.tolist()):
        raise UserError(f"no image of the class {names[min(emptied)]} would be left; try a smaller --count")
    moved = {Path(listing.files[i]).relative_to(source).as_posix(): names[wrong[i]] for i in changed}
    copy_folder(Path(source), out, moved)
    print(f"{out}: a copy of {source} with {count:,} wrong labels among {len(wrong):,} training images")


def main():
    """Export or mislabel, as the command line says."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="export | mislabel")
    sub = commands.add_parser("export", help="write a data set as PNG files")
    sub.add_argument("out", help="new folder")
    sub.add_argument("--source", type=path, default="auto", help="as for train.py's --data")
    sub = commands.add_parser("mislabel", help="copy an image folder and make some training labels wrong")
    sub.add_argument("source", help="image folder")
    sub.add_argument("out", help="new folder")
    sub.add_argument("--count", type=positive(int), default=100, help="number of wrong labels (default: 100)")
    sub.add_argument("--seed", type=seed, default=0, help="seed of the random choice (default: 0)")
    sub.add_argument("--classes", nargs="+", metavar="CLASS", help="classes to mix up (default: all)")
    given = vars(parser.parse_args())
    {"export": export, "mislabel": mislabel}[given.pop("command")](**given)


if __name__ == "__main__":
    run_command(main)
