"""Folders of image files: read them into memory, write them, copy them with other labels.

The layout is FOLDER/train/CLASS/… and FOLDER/test/CLASS/…; nothing here changes a file that is there already.
"""

import shutil
from contextlib import contextmanager
from pathlib import Path

from runs import Progress, UserError, one_line

import torch
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image, encode_png
from torchvision.transforms import v2

from files import check_new, locked

TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "testing", "val")

# ---------------------------------------------------------------- reading


def split_folder(root, *names):
    """Return the one folder of `root` that has one of `names`."""
    folders = [root / name for name in names if (root / name).is_dir()]
    if len(folders) != 1:
        raise UserError(
            f"{root}: needs one folder named {' or '.join(names)}, with a folder of images per class in it; "
            f"has {' and '.join(folder.name for folder in folders) or 'none'}"
        )
    return folders[0]


def list_images(folder):
    """Return (files, labels, classes) of a folder that has a folder of images per class."""
    try:
        listing = ImageFolder(folder)
    except FileNotFoundError as error:  # no class folders, or empty ones; torchvision's text names them
        raise UserError(
            f"{folder}: {one_line(error)}; put images there, or remove the class folder"
        ) from None
    if len(listing.classes) < 2:
        raise UserError(f"{folder}: has one class only, {listing.classes[0]}; two or more are needed")
    files, labels = zip(*listing.samples, strict=True)
    return files, labels, tuple(listing.classes)


def read_images(files, image_size=None):
    """Return the images of `files`, uint8 (N, channels, height, width): grey if all of them are, else RGB.

    With `image_size`, images of mixed sizes are resized to its square, and larger ones at once to save
    memory. Raises UserError where a file is no whole image, or sizes are mixed without `image_size`.
    """
    progress, images = Progress(), []
    for file in files:  # one after the other: for small files threads cost more than they gain
        images.append(read_image(file, image_size))
        if progress.due():
            progress.show(f"reading images: {len(images):,} of {len(files):,}")
    progress.clear()
    if any(image.shape[0] != 1 for image in images):
        images = [image.expand(3, -1, -1) for image in images]
    sizes = {image.shape[1:]: file for image, file in zip(images, files, strict=True)}
    if len(sizes) > 1 and image_size is None:
        (size, file), (other_size, other_file) = list(sizes.items())[:2]
        raise UserError(
            f"images of mixed sizes: {file} has {size[0]}×{size[1]} pixels, {other_file} "
            f"{other_size[0]}×{other_size[1]}; --image-size N makes them all N×N"
        )
    if len(sizes) > 1:
        images = [v2.functional.resize(image, [image_size, image_size], antialias=True) for image in images]
    return torch.stack(images)


def read_image(file, image_size=None):
    """Return one image file as uint8 (1 or 3, height, width), turned as its EXIF data says."""
    try:
        # Always as RGB: what torchvision makes of a palette's PNG in its other modes is not the picture.
        image = decode_image(file, ImageReadMode.RGB, apply_exif_orientation=True)
        if image.ndim != 3:
            raise ValueError("it is an animation")
        image = v2.functional.to_dtype(image, torch.uint8, scale=True)  # PNGs may have 16 bits
    except Exception as error:
        raise UserError(
            f"{file}: cannot be read as an image ({one_line(error)}): replace or remove it"
        ) from None
    if torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]):
        image = image[:1]  # grey
    if image_size and min(image.shape[1:]) > image_size:
        image = v2.functional.resize(image, [image_size, image_size], antialias=True)
    return image


# ---------------------------------------------------------------- writing


@contextmanager
def whole_folder(out):
    """Yield a new folder that becomes `out` when the block ends well: `out` is whole, or it is not there.

    Raises UserError where `out` already holds something.
    """
    check_new(out)
    out = Path(out).resolve()
    part = out.with_name(f".{out.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    with locked(part):
        try:
            for left in part.iterdir():  # of a process that was killed
                shutil.rmtree(left)
            yield part
            part.rename(out)  # in one step; an empty folder may be there
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def write_images(train, test, out):
    """Write two ImageData as PNG files into the new folder `out`.

    Their names are training/CLASS/00042.png, where 42 is the image's index, and testing/CLASS/00042.png.
    """
    progress, n_done = Progress(), 0
    with whole_folder(out) as folder:
        for split, data in (("training", train), ("testing", test)):
            for name in data.classes:
                (folder / split / name).mkdir(parents=True)
            for index, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
                # Not write_png, which does not tell of a full disk.
                path = folder / split / data.classes[label] / f"{index:05}.png"
                path.write_bytes(encode_png(image).numpy().tobytes())
                n_done += 1
                if progress.due():
                    progress.show(f"writing {out}: {n_done:,} of {len(train) + len(test):,} images")
    progress.clear()
    print(f"{out}: {len(train):,} training and {len(test):,} test images of {train.source}")


def check_copy(root, out):
    """Raise UserError where the folder `root` cannot be copied to `out`."""
    folders = [Path(root), *(split_folder(Path(root), *names) for names in (TRAIN_NAMES, TEST_NAMES))]
    if any(Path(out).resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise UserError(f"{out}: is inside {root}, which is not to be changed; choose another folder")
    check_new(out)


def copy_images(root, out, new_classes):
    """Copy the image folder `root` to `out`, some training images under another class or not at all.

    `new_classes` maps such an image's id, its path relative to `root`, to its new class name, or to None
    where it is left out. Every file is the same, byte by byte. So is its name, but for a file whose name is
    taken in its new class: that gets a number.
    """
    check_copy(root, out)
    train, test = (split_folder(root, *names) for names in (TRAIN_NAMES, TEST_NAMES))
    files = [Path(file).relative_to(root) for folder in (train, test) for file in list_images(folder)[0]]
    taken = {file.as_posix() for file in files}
    progress = Progress()
    with whole_folder(out) as folder:
        for n_done, file in enumerate(files, 1):
            target = file
            if file.as_posix() in new_classes:
                new_class = new_classes[file.as_posix()]
                if new_class is None:
                    continue
                target = free_name(train.relative_to(root) / new_class / file.name, taken)
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, folder / target)
            if progress.due():
                progress.show(f"writing {out}: {n_done:,} of {len(files):,} images")
    progress.clear()


def free_name(path, taken):
    """Return `path`, or where it is in the set `taken`, with the first number that is free; add it there."""
    number, target = 1, path
    while target.as_posix() in taken:
        number += 1
        target = path.with_name(f"{number}-{path.name}")
    taken.add(target.as_posix())
    return target
