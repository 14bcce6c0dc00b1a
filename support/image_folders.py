"""Folders of image files: which images are for training and for testing; folders written and copied.

Nothing here changes a file that is there already.
"""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.console import UserError, counted, printable
from support.files import LEFT_OVER, check_new, is_free, locked, unfinished
from support.image_files import EXTENSIONS, in_threads

from PIL import Image

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
VALIDATION_NAMES = ("val", "valid", "validation")  # the test images where there are no others
HELD_OUT = 5  # one image in so many is held out for testing where there are no test images

# ---------------------------------------------------------------- which images there are


class Splits(NamedTuple):
    """The folders of a data set's splits. Where class folders stand there alone, both are that folder."""

    train: Path
    test: Path
    unused: list  # folders of validation images beside test images


def find_splits(root):
    """Return the Splits of the folder `root`; raise UserError where they are not clear."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    kinds = (TRAIN_NAMES, TEST_NAMES, VALIDATION_NAMES)
    train, test, validation = ([each for each in folders if each.name.lower() in names] for names in kinds)
    found = [folder.name for folder in train + test + validation]
    if not found:
        return Splits(root, root, [])
    unused = validation if test else []
    test = test or validation
    if len(train) != 1 or len(test) != 1:
        needed, tested = " or ".join(TRAIN_NAMES), " or ".join(TEST_NAMES + VALIDATION_NAMES)
        raise UserError(
            f"{root}: needs one folder named {needed} and one named {tested}, or class folders alone; "
            f"has {' and '.join(found)}; class folders need other names"
        )
    return Splits(train[0], test[0], unused)


class Listing(NamedTuple):
    """What is in a folder that has a folder of images per class."""

    files: list  # of the images: by class, folder and name, as torchvision's ImageFolder has them
    labels: list  # of the images: indices into `classes`
    classes: tuple  # names
    others: list  # files that are no images, by their extension


def list_images(folder):
    """Return the Listing of `folder`. Files and folders whose names begin with a dot are hidden.

    Raises UserError where a class has no image, and where there are fewer than two classes.
    """
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    others = [entry.path for entry in entries if not entry.is_dir()]
    files, labels = [], []
    for label, name in enumerate(classes):
        images, no_images = files_under(os.path.join(folder, name))
        files += images
        labels += len(images) * [label]
        others += no_images
    empty = [classes[label] for label in sorted(set(range(len(classes))) - set(labels))]
    if empty:
        raise UserError(
            f"{folder}: no images ({', '.join(EXTENSIONS)}) in the class folders {', '.join(empty)}; "
            "put images there, or remove the folders"
        )
    if len(classes) < 2:
        has = f"one class only, {classes[0]}" if classes else "no class folders"
        raise UserError(f"{folder}: has {has}; two or more are needed")
    return Listing(files, labels, tuple(classes), others)


def files_under(root):
    """Return (images, others): the files in `root`, at any depth, by folder and name, but for hidden ones."""
    images, others = [], []
    # So that links lead to no folder twice, and up to none around this one.
    seen = set(map(str, Path(root).resolve().parents))
    for parent, folders, names in os.walk(root, onerror=fail, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        for file in names:
            path = os.path.join(parent, file)
            if not file.startswith("."):
                is_image = file.lower().endswith(EXTENSIONS) and os.path.isfile(path)  # and no pipe
                (images if is_image else others).append(path)
    return sorted(images, key=os.path.split), sorted(others, key=os.path.split)


def fail(error):
    """Raise `error`: os.walk passes over a folder that cannot be read."""
    raise error


def list_folder(root):
    """Return the Listings of the training and of the test images of `root`.

    Where class folders stand there alone, one image in HELD_OUT is for testing.
    """
    splits = find_splits(root)
    if splits.train != splits.test:
        return [list_images(splits.train), list_images(splits.test)]
    listing = list_images(root)
    held_out = hold_out(listing)
    halves = []
    for testing in (False, True):
        kept = [index for index, held in enumerate(held_out) if held == testing]
        files, labels = ([column[index] for index in kept] for column in listing[:2])
        halves.append(Listing(files, labels, listing.classes, [] if testing else listing.others))
    return halves


def hold_out(listing):
    """Return for each image of a Listing whether it is held out for testing, bool.

    The bytes of its file decide, so that a new image moves no other one, and copies are in the same half.
    Where that gives none or all of a class, only the image with the smallest hash is held out. Raises
    UserError where a class has one image only.
    """
    hashes = list(counted(in_threads(content_hash, listing.files), "holding out images", len(listing.files)))
    held_out = [number % HELD_OUT == 0 for number in hashes]
    for label, name in enumerate(listing.classes):
        members = [index for index, other in enumerate(listing.labels) if other == label]
        if len(members) < 2:
            raise UserError(
                f"{listing.files[members[0]]}: is the only image of the class {name}; two are needed"
            )
        if sum(held_out[index] for index in members) in (0, len(members)):
            lent = min(members, key=hashes.__getitem__)
            for index in members:
                held_out[index] = index == lent
    return held_out


def content_hash(file):
    """Return a number of 64 bits that the content of `file` makes."""
    try:
        return int.from_bytes(hashlib.sha256(Path(file).read_bytes()).digest()[:8], "big")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}): replace or remove it") from None


def note_listings(root, train, test):
    """Say what of the folder `root` is held out or left out, given the Listings of its two halves."""
    splits = find_splits(root)
    if splits.train == splits.test:
        n_test = len(test.files)
        print(
            f"{root} has no test images: {n_test:,} of {n_test + len(train.files):,} are held out for that, "
            "always the same ones"
        )
    for folder in splits.unused:
        print(f"{folder} is left alone: the images in {splits.test} are those to test on")
    note_others(root, train.others + test.others)


def note_others(root, others):
    """Say how many files of the folder `root`, the `others`, are no images, and the first three names."""
    if others:
        names = ", ".join(Path(file).relative_to(root).as_posix() for file in others[:3])
        names += ", …" if len(others) > 3 else ""
        note = f"files in {root} that are no images are left out, {len(others):,} in all: {names}"
        print(printable(f"Note: {note}"))


# ---------------------------------------------------------------- writing


@contextmanager
def whole_folder(out):
    """Yield a new folder that becomes `out` when the block ends well: `out` is whole, or it is not there.

    Raises UserError where `out` already holds something.
    """
    check_new(out)
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.iterdir():  # by a process that was killed
        ours = LEFT_OVER.fullmatch(left.name) and left.name.startswith(f".{out.name}.")
        if ours and left.is_dir() and not left.is_symlink() and is_free(left):
            shutil.rmtree(left)
    part = unfinished(out)
    part.mkdir()
    with locked(part):
        try:
            yield part
            check_new(out)  # another process may have been faster
            if out.exists():
                out.rmdir()  # empty; Windows renames to no name that is taken
            part.rename(out)  # in one step
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def write_images(train, test, out):
    """Write two ImageData as PNG files into the new folder `out`.

    Their names are training/CLASS/00042.png, where 42 is the image's index, and testing/CLASS/00042.png.
    """
    with whole_folder(out) as folder:
        for split, data in (("training", train), ("testing", test)):
            for name in data.classes:
                (folder / split / name).mkdir(parents=True)
            for index, label in enumerate(counted(data.labels, f"writing {out}/{split}")):
                image = data.images[index].permute(1, 2, 0).squeeze(2).numpy()  # grey without channels
                Image.fromarray(image).save(folder / split / data.classes[label] / f"{index:05}.png")
    print(f"{out}: {len(train):,} training and {len(test):,} test images of {train.source}")


def check_outside(out, *folders):
    """Raise UserError where the path `out` is in one of `folders`."""
    for folder in folders:
        if Path(out).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out}: is inside {folder}, which is not to be changed; choose another folder")


def folders_of_images(root):
    """Return the folders of the splits of `root` and of their classes; each may be a link."""
    splits = find_splits(root)
    folders = [*dict.fromkeys((splits.train, splits.test))]
    return [*folders, *(entry for folder in folders for entry in folder.iterdir() if entry.is_dir())]


def check_copy(root, out):
    """Raise UserError where the folder `root` cannot be copied to `out`."""
    check_outside(out, Path(root), *folders_of_images(Path(root)))
    check_new(out)


def copy_images(root, out, new_classes):
    """Copy the image folder `root` to `out`, some images under another class or not at all.

    `new_classes` maps such an image's id, its path relative to `root`, to its new class name, or to None
    where it is left out. Every file is the same, byte by byte. So is its name, but for a file whose name is
    taken in its new class: that gets a number. Validation images are copied too.
    """
    check_copy(root, out)
    splits = find_splits(root)
    folders = dict.fromkeys((splits.train, splits.test))  # which may be the same
    files = [file for folder in folders for file in list_images(folder).files]
    files += [file for folder in splits.unused for file in files_under(folder)[0]]
    files = [Path(file).relative_to(root) for file in files]
    taken = {file.as_posix() for file in files}
    with whole_folder(out) as folder:
        for file in counted(files, f"writing {out}"):
            target = file
            if file.as_posix() in new_classes:
                new_class = new_classes[file.as_posix()]
                if new_class is None:
                    continue
                split = file.parts[:1] if len(folders) > 1 else ()
                target = free_name(Path(*split, new_class, file.name), taken)
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, folder / target)


def free_name(path, taken):
    """Return `path`, or where it is in the set `taken`, with the first number that is free; add it there."""
    number, target = 1, path
    while target.as_posix() in taken:
        number += 1
        target = path.with_name(f"{number}-{path.name}")
    taken.add(target.as_posix())
    return target
