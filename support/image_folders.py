"""Folders of image files: list the training and test images, write and copy folders."""

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
    """One split: paths, sorted by class, folder and name; labels, which are indices into `classes`."""

    files: list
    labels: list
    classes: tuple


def list_folder(root):
    """Return the training and the test Listing of the folder `root`; print which files are left out.

    `root` has `train` and `test` with class folders, or only class folders; then one image in five is held
    out for testing. A class may have no test images. Raises UserError if the layout is unclear.
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
            needed += ", with class folders, or only class folders with other names"
            raise UserError(f"{root}: needs {needed}; has {', '.join(found)}")
        beside = [name for name in folders if name not in train + test]
        note(f"folders with images in {root} beside {train[0]} and {test[0]} are not used", beside)
        return tops[train[0]], tops[test[0]]
    for name, files in folders.items():
        inner = set(map(str.lower, by_folder(files, os.path.join(root, name), [])))
        if inner & {*TRAIN} and inner & {*TEST, *VALIDATION}:
            raise UserError(f"{root}: the class {name} has its own splits; use train/{name} and test/{name}")
    return hold_out(root, folders)


def by_folder(files, root, left_out):
    """Return {folder name: files} for the folders in `root`; append files outside them to `left_out`."""
    folders, start = {}, os.path.join(root, "")
    for file in files:
        name, inner, _ = file.removeprefix(start).partition(os.sep)
        (folders.setdefault(name, []) if inner else left_out).append(file)
    return dict(sorted(folders.items()))


def find_images(folder, left_out):
    """Return the image files in `folder`, at any depth, by folder and name; append other files to `left_out`.

    If the suffix is unknown, the first bytes decide.
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
    """Yield an os.DirEntry for each file in `folder`, at any depth; with `left_out`, omit `is_skipped` ones.

    Follows links, except a link to a folder that contains it.
    """
    real = os.path.realpath(folder)
    around = around or set(map(str, Path(real).parents))
    for entry in () if real in around else os.scandir(folder):
        if left_out is None or not is_skipped(entry, left_out):
            yield from files_in(entry.path, left_out, around | {real}) if entry.is_dir() else [entry]


def is_skipped(entry, left_out):
    """Return whether an os.DirEntry is hidden, or (and added to `left_out`) of the system or this program."""
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
    """Return a text that is equal for names that look alike or that some file systems treat as equal."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def note(text, names):
    """Print a note about `names`, if there are any: the first three, and how many there are."""
    if names:
        more = f", … ({len(names):,} in all)" if len(names) > 3 else ""
        print(f"Note: {text}: {', '.join(names[:3])}{more}")


def note_left_out(root, left_out):
    """Print which files and folders in `root` are left out."""
    names = [os.path.relpath(path, root) for path in left_out]
    note(f"left out of {root} (not images, not in a class folder, or system or result folders)", names)


def image_files(path):
    """Return the image files in the folder `path`, or [path] if it is a file; print which are left out."""
    if not os.path.isdir(path):
        return [str(path)]
    left_out = []
    images = find_images(path, left_out)
    note_left_out(path, left_out)
    return images


def hold_out(root, folders):
    """Split {class name: files} into (train, test); a hash of the bytes selects one image in five to test.

    New images therefore do not move others, and copies stay together. A class without test images
    gives one of its images, with its copies, if each class keeps a training image.
    """
    files = [file for files in folders.values() for file in files]
    hashed = in_threads(file_fingerprint, files)
    hashes = dict(zip(files, progress(hashed, "choosing test images", len(files)), strict=True))
    classes = [{hashes[file] for file in files} for files in folders.values()]
    tested = {digest for digest in hashes.values() if int(digest, 16) % 5 == 0}
    for members in classes:
        if members <= tested:  # test only one of its images, or none if it has only one
            tested -= members - {min(members)} or members
    for members in classes:
        for lent in sorted(members):
            if members & tested:
                break
            if not any(lent in other and other <= tested | {lent} for other in classes):
                tested.add(lent)
    n_tested = sum(hashes[file] in tested for file in files)
    print(f"{root} has no test images: {n_tested:,} of {len(files):,} are held out, the same in each run")
    splits = {}, {}  # for training, for testing
    for name, files in folders.items():
        for is_test, split in enumerate(splits):
            split[name] = [file for file in files if (hashes[file] in tested) == is_test]
    return splits


# ---------------------------------------------------------------- write and copy


def check_new(out, root=None):
    """Raise UserError if the path `out` exists, or is inside `root` or a folder that `root` links to."""
    if os.path.lexists(out):
        raise UserError(f"{out}: already exists; choose another folder")
    folders = {Path(root), *(Path(entry.path).parent for entry in files_in(root))} if root else set()
    folders |= {above for folder in folders for above in folder.parents if above.is_relative_to(root)}
    for folder in folders:
        if Path(out).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out}: is inside {folder}, which must not be changed; choose another folder")


@contextmanager
def new_folder(out, root=None):
    """Yield a new folder; rename it to `out` if the block succeeds, else remove it. Calls `check_new`."""
    check_new(out, root)
    out = Path(out).resolve()
    part = out.with_name(f".{out.name}.being-written")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_images(folder, images, labels, classes):
    """Write uint8 images (N, channels, height, width) as PNG files: folder/CLASS/00042.png for index 42."""
    for name in classes:
        Path(folder, name).mkdir(parents=True)
    for index, label in enumerate(progress(labels, f"writing {Path(folder).name}")):
        to_pil_image(images[index]).save(Path(folder, classes[label], f"{index:05}.png"))


def copy_folder(root, out, new_classes):
    """Copy all files of the folder `root` to the new folder `out`, byte by byte; return counts (n_in, n_out).

    `new_classes` maps the id of an image, its path relative to `root`, to another class, or to None to remove
    it. A name that exists in the new class gets a number.
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
    """Return the new Path of the image `file` in the class `name`; both are relative to the data set."""
    depth = int(file.parts[0].lower() in TRAIN + TEST + VALIDATION)  # depth of the class folders
    return Path(*file.parts[:depth], name, file.name)


def free_name(path, taken):
    """Return `path`, or a numbered name if `taken` has one that looks the same; add the result to `taken`."""
    number, target = 1, path
    while looks(target.as_posix()) in taken:
        number, name = number + 1, path.name
        while len(os.fsencode(f"{number}-{name}")) > 255:  # bytes, the limit of file systems
            name = name[1:]
        target = path.with_name(f"{number}-{name}")
    taken.add(looks(target.as_posix()))
    return target
