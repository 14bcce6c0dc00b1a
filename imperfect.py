"""Data with wrong labels: the folder that has them, and which they are where its clean folder is there."""

import os
import re
from hashlib import sha256
from pathlib import Path

from runs import UserError

import torch

from data import find, load, mislabel, wrong_labels
from images import TRAIN_NAMES, list_images, split_folder, write_images


def find_imperfect(source, n_wrong, check):
    """Return (imperfect, clean): the folder with wrong labels and the one it was made from, or None.

    For "auto" the folder is data/mnist_png_mislabelled, and if need be it is made, and data/mnist_png before
    it, or for want of MNIST the same of the built-in digits. The clean folder of X_mislabelled… is X. Before
    anything is made, `check` is called with the number of training images, to raise UserError where they are
    too few.
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
    """Copy the folder `clean` to `out`, `n_wrong` labels wrong; without it, it is made of `source` first."""
    if clean.is_dir():
        check(len(list_images(split_folder(clean, *TRAIN_NAMES))[0]))
    else:
        train, test = load(source)
        check(len(train))
        wrong_labels(train.labels, len(train.classes), n_wrong, seed=0)  # raises where there are too few
        write_images(train, test, clean)
    mislabel(clean, out, n_wrong)


def true_labels(data, clean):
    """Return the labels, int64 (N,), that `data`'s images have in `clean`, -1 where it has no such image.

    Both are ImageData; images are the same where all their pixels are, whatever their files' names. Of a
    picture that `clean` has in several classes, the label in `data` counts if it is one of them.
    """
    number = {name: index for index, name in enumerate(data.classes)}
    known = {}
    for image, label in zip(clean.images, clean.labels.tolist(), strict=True):
        known.setdefault(digest(image), []).append(number.get(clean.classes[label], -1))
    truth = []
    for image, label in zip(data.images, data.labels.tolist(), strict=True):
        labels = known.get(digest(image), [-1])
        truth.append(label if label in labels else labels[0])
    return torch.tensor(truth)


def digest(image):
    """Return bytes that differ where the pixels of an image, uint8 (1 or 3, height, width), do as RGB."""
    return sha256(image.expand(3, -1, -1).contiguous().numpy()).digest()


def known_truth(data, clean, image_size):
    """Return the true labels of `data`, int64 (N,), from the folder `clean`, or None; say which."""
    if clean is None:
        print("no clean copy of it is known, so its true labels are not")
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
