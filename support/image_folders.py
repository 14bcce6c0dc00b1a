"""Folders of image files: which images are for training and for testing; folders written and copied."""

import os
import shutil
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torchvision.transforms.functional import to_pil_image

from support.console import UserError, progress
from support.image_files import SUFFIXES, first_bytes, in_threads, starts_as_image
from support.run_folder import PNG_MARK, file_fingerprint

TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
SYSTEM_FOLDERS = ("@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "__macosx")
SYSTEM_FOLDERS += ("system volume information",)
RUN_FILES = {"metrics.csv", "state.pt", "model.pt", "top_losses.csv"}


class Listing(NamedTuple):
    """The images of one split: paths by class, folder and name; indices into `classes`; all class names."""

    files: list
    labels: list
    classes: tuple


def list_folder(root):
    """Return the training and the test Listing of the folder `root`; print what is left out.

    `root` has class folders in `train` and `test`, or class folders alone, from which one image in five is
    held out for testing. A class may lack test images. Raises UserError if the layout is unclear.
    """
    root, left_out = str(Path(root)), []
    train, test = find_splits(root, left_out)
    if len(train) < 2:
        raise UserError(f"{root}: {len(train)} class folders with training images; two or more are needed")
    for name in [name for name in test if name not in train]:
        alike = [f"; {other!a} only looks like it" for other in train if looks(other) == looks(name)]
        problem = f"no training images of the test class {name!a}{''.join(alike)}"
        raise UserError(f"{root}: {problem}; add or rename it")
    if not any(test.values()):
        raise UserError(f"{root}: no image can be held out for testing; classes need more than one image")
    untested = [name for name in train if not test.get(name)]
    note("classes without test images are trained, but not tested", untested)
    note_left_out(root, left_out)
    return as_listing(train, tuple(train)), as_listing(test, tuple(train))


def as_listing(images, classes):
    """Return the Listing of {class name: files}."""
    labels = [label for label, name in enumerate(classes) for _ in images.get(name, ())]
    return Listing([file for name in classes for file in images.get(name, ())], labels, classes)


def find_splits(root, left_out):
    """Return (train, test) of the folder `root`, each {class name: image files}."""
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder")
    folders = by_folder(find_images(root, left_out), root, left_out)
    kinds = (TRAIN, TEST, VALIDATION)
    train, test, validation = ([name for name in folders if name.lower() in kind] for kind in kinds)
    if found := train + test + validation:
        tops = {name: by_folder(folders[name], os.path.join(root, name), left_out) for name in found}
        test = [name for name in test if tops[name]] or validation
        if len(train) != 1 or len(test) != 1:
            needed = f"one of the folders {', '.join(TRAIN)} and one of {', '.join(TEST + VALIDATION)}"
            needed += ", with class folders, or class folders of other names alone"
            raise UserError(f"{root}: needs {needed}; has {', '.join(found)}")
        beside = [name for name in folders if name not in train + test]
        note(f"folders with images in {root} beside {train[0]} and {test[0]} are not used", beside)
        return tops[train[0]], tops[test[0]]
    for name, files in folders.items():
        inner = set(map(str.lower, by_folder(files, os.path.join(root, name), [])))
        if inner & {*TRAIN} and inner & {*TEST, *VALIDATION}:
            raise UserError(f"{root}: the class {name} has splits; expected are train/{name} and test/{name}")
    return hold_out(root, folders)


def by_folder(files, root, left_out):
    """Return {name: files} by the folders in `root` that the files are in; `left_out` gets those in none."""
    folders = {}
    for file in files:
        name, inner, _ = file.removeprefix(os.path.join(root, "")).partition(os.sep)
        (folders.setdefault(name, []) if inner else left_out).append(file)
    return dict(sorted(folders.items()))


def find_images(folder, left_out):
    """Return the image files in `folder`, at any depth, by folder and name; append other files to `left_out`.

    If the name does not tell, the first bytes do.
    """
    images = []
    for entry in files_in(folder, left_out):
        is_file = entry.is_file() or entry.is_symlink()  # not a pipe, which might never end
        is_image = entry.name.lower().endswith(SUFFIXES) and is_file
        if not is_image and not os.path.exists(entry.path):
            raise UserError(f"{entry.path}: links to {os.readlink(entry.path)}, which is missing; remove it")
        is_image = is_image or (entry.is_file() and starts_as_image(first_bytes(entry.path)))
        (images if is_image else left_out).append(entry.path)
    return sorted(images, key=os.path.split)


def files_in(folder, left_out=None, around=()):
    """Yield an os.DirEntry for each file in `folder`, at any depth; with `left_out` unless it `is_skipped`.

    Links are followed, except to a folder that they are in.
    """
    real = os.path.realpath(folder)
    around = around or set(map(str, Path(real).parents))
    for entry in () if real in around else os.scandir(folder):
        if left_out is None or not is_skipped(entry, left_out):
            yield from files_in(entry.path, left_out, around | {real}) if entry.is_dir() else [entry]


def is_skipped(entry, left_out):
    """Return whether an os.DirEntry is hidden, or of the system or this program: then `left_out` gets it."""
    is_hidden, is_foreign = entry.name.startswith("."), entry.name.lower() in SYSTEM_FOLDERS
    if entry.is_dir() and not is_hidden and not is_foreign:
        names = os.listdir(entry.path)
        pictures = [os.path.join(entry.path, name) for name in names if name.lower().endswith(SUFFIXES)]
        is_foreign = "config.json" in names and not RUN_FILES.isdisjoint(names)
        mark = "\0".join(PNG_MARK).encode()
        is_foreign |= bool(pictures) and all(mark in first_bytes(picture) for picture in pictures)
    left_out += [entry.path] if is_foreign else []
    return is_hidden or is_foreign


def looks(name):
    """Return the same text for names that look alike, or that are one name for some file systems."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def note(text, names):
    """Print a note about `names`, if there are any: the first three, and how many there are."""
    if names:
        more = f", … ({len(names):,} in all)" if len(names) > 3 else ""
        print(f"Note: {text}: {', '.join(names[:3])}{more}")


def note_left_out(root, left_out):
    """Print which files and folders in `root` are left out."""
    names = [os.path.relpath(path, root) for path in left_out]
    note(f"left out of {root} (no image, in no class folder, or a folder of the system or of results)", names)


def image_files(path):
    """Return [path] if `path` is a file, or the image files in a folder at any depth; print the rest."""
    if not os.path.isdir(path):
        return [str(path)]
    left_out = []
    images = find_images(path, left_out)
    note_left_out(path, left_out)
    return images


def hold_out(root, folders):
    """Return (train, test) of {class name: files}: one image in five, by the hash of its bytes, is tested.

    So new images do not change the split of others, and copies stay together. A class without test images
    lends one, with its copies, if each class keeps a training image.
    """
    files = [file for files in folders.values() for file in files]
    hashed = in_threads(file_fingerprint, files)
    hashes = dict(zip(files, progress(hashed, "holding out images", len(files)), strict=True))
    classes = [{hashes[file] for file in files} for files in folders.values()]
    tested = {digest for digest in hashes.values() if int(digest, 16) % 5 == 0}
    for members in classes:
        if members <= tested:  # test only one of them, or none if the class has no other
            tested -= members - {min(members)} or members
    for members in classes:
        for lent in sorted(members):
            if members & tested:
                break
            if not any(lent in other and other <= tested | {lent} for other in classes):
                tested.add(lent)
    n_tested = sum(hashes[file] in tested for file in files)
    print(f"{root} has no test images: {n_tested:,} of {len(files):,} are held out, always the same ones")
    splits = {}, {}  # for training, for testing
    for name, files in folders.items():
        for is_test, split in enumerate(splits):
            split[name] = [file for file in files if (hashes[file] in tested) == is_test]
    return splits


# ---------------------------------------------------------------- write and copy


def check_new(out, root=None):
    """Raise UserError if the path `out` exists, or is in the folder `root` or in one that is linked there."""
    if os.path.lexists(out):
        raise UserError(f"{out}: already exists; choose another folder")
    folders = {Path(root), *(Path(entry.path).parent for entry in files_in(root))} if root else set()
    folders |= {above for folder in folders for above in folder.parents if above.is_relative_to(root)}
    for folder in folders:
        if Path(out).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out}: is inside {folder}, which must not be changed; choose another folder")


@contextmanager
def new_folder(out, root=None):
    """Yield a folder that is renamed to `out` if the block succeeds, else removed; see also `check_new`."""
    check_new(out, root)
    out = Path(out).resolve()
    part = out.with_name(f".{out.name}.being-written")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_images(folder, images, labels, classes):
    """Write uint8 images (N, channels, height, width) as PNG: folder/CLASS/00042.png, 42 is the index."""
    for name in classes:
        Path(folder, name).mkdir(parents=True)
    for index, label in enumerate(progress(labels, f"writing {Path(folder).name}")):
        to_pil_image(images[index]).save(Path(folder, classes[label], f"{index:05}.png"))


def copy_folder(root, out, new_classes):
    """Copy all files of the folder `root` to the new folder `out`, byte by byte; return (n_in, n_out) files.

    `new_classes` maps the id of an image, its path relative to `root`, to another class, or to None if it is
    removed. A name that is taken in the new class gets a number.
    """
    files = sorted(Path(entry.path).relative_to(root) for entry in files_in(root) if entry.is_file())
    taken, n_out = {looks(file.as_posix()) for file in files}, 0
    with new_folder(out, root) as folder:
        for file in progress(files, f"copying {root}"):
            new_class, target = new_classes.get(file.as_posix(), ""), file
            if new_class is None:
                continue
            if new_class:
                target = free_name(in_class(file, new_class), taken)
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            with open(Path(root, file), "rb") as source, open(folder / target, "xb") as copy:
                shutil.copyfileobj(source, copy)
            n_out += 1
    return len(files), n_out


def in_class(file, name):
    """Return the Path of the image `file`, relative to its data set, if it moves to the class `name`."""
    depth = int(file.parts[0].lower() in TRAIN + TEST + VALIDATION)  # of the class folders
    return Path(*file.parts[:depth], name, file.name)


def free_name(path, taken):
    """Return `path`, numbered if `taken` has a name that looks the same; add the result to `taken`."""
    number, target = 1, path
    while looks(target.as_posix()) in taken:
        number, name = number + 1, path.name
        while len(os.fsencode(f"{number}-{name}")) > 255:  # bytes: file systems take no more
            name = name[1:]
        target = path.with_name(f"{number}-{name}")
    taken.add(looks(target.as_posix()))
    return target
