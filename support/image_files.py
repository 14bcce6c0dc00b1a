"""Folders of image files: read them into memory, write them, copy them with other labels.

The layout is FOLDER/train/CLASS/… and FOLDER/test/CLASS/…; nothing here changes a file that is there already.
"""

import io
import math
import os
import shutil
import struct
import warnings
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from support.console import UserError, counted, is_out_of_memory, one_line, printable
from support.files import check_new, locked

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.io import ImageReadMode, decode_image, encode_png
from torchvision.transforms import v2

TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "testing", "val")
EXTENSIONS = (*IMG_EXTENSIONS, ".gif")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow reads more, some by other programs
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"  # how these files begin
SMALL = 2**16  # pixels of a PNG, up to which torchvision is the faster decoder
CHANNELS = {0: 1, 2: 3, 3: 1}  # of a PNG, by its kind: grey, colour, palette

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
            if not file.startswith("."):
                group = images if file.lower().endswith(EXTENSIONS) else others
                group.append(os.path.join(parent, file))
    return sorted(images, key=os.path.split), sorted(others, key=os.path.split)


def fail(error):
    """Raise `error`: os.walk passes over a folder that cannot be read."""
    raise error


def list_folder(root):
    """Return the Listings of the training and of the test images of `root`."""
    return [list_images(split_folder(root, *names)) for names in (TRAIN_NAMES, TEST_NAMES)]


def note_others(root, listings):
    """Say how many files of the `listings` in `root` are no images, if any, and the first three names."""
    others = [file for listing in listings for file in listing.others]
    if others:
        names = printable(", ".join(Path(file).relative_to(root).as_posix() for file in others[:3]))
        more = ", …" if len(others) > 3 else ""
        print(f"Note: files in {root} that are no images are left out, {len(others):,} in all: {names}{more}")


def read_images(files, image_size=None):
    """Return the images of `files`, uint8 (N, channels, height, width): grey if all of them are, else RGB.

    With `image_size`, images of mixed sizes are resized to its square, and larger ones at once to save
    memory. Raises UserError where a file is no whole image, sizes are mixed without `image_size`, or memory
    is too small for all of them.
    """
    # One by one: for small files threads cost more than they gain.
    for index, file in enumerate(counted(files, "reading images")):
        image = read_image(file, image_size)
        if index == 0:
            images = new_images(len(files), *image.shape)
        size = image.shape[1:]
        if size != images.shape[2:]:
            if image_size is None:
                height, width = images.shape[2:]
                raise UserError(
                    f"images of mixed sizes: {files[0]} has {height}×{width} pixels, {file} "
                    f"{size[0]}×{size[1]}; --image-size N makes them all N×N"
                )
            size = (image_size, image_size)
            image = resize(image, size)
        shape = (max(len(image), images.shape[1]), *size)
        if shape != images.shape[1:]:  # the first in colour, or of another size
            images = converted(images, index, shape)
        images[index] = image
    return images


def new_images(n, channels, height, width):
    """Return room for `n` images, uint8; raise UserError where memory is too small for them."""
    needed, free = n * channels * height * width, free_memory()
    if needed > free:
        raise UserError(
            f"{n:,} images of {height}×{width} pixels take {needed / 1e9:,.1f} GB of memory, and "
            f"{free / 1e9:,.1f} GB are free; try a smaller --image-size or --limit"
        )
    return torch.empty(n, channels, height, width, dtype=torch.uint8)


def converted(images, n_read, shape):
    """Return room for as many images of another `shape`, with the first `n_read` of `images` in it."""
    room = new_images(len(images), *shape)
    for index in range(n_read):
        room[index] = resize(images[index], shape[1:])  # grey becomes three equal channels
    return room


def free_memory():
    """Return how many bytes the machine has left for this process, or inf where that is not known."""
    with suppress(OSError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return math.inf


def resize(image, size):
    """Return images, uint8 (…, height, width), in another `size`, (height, width)."""
    return v2.functional.resize(image, list(size), antialias=True)


def read_image(file, image_size=None):
    """Return one image file as uint8 (1 or 3, height, width), turned as its EXIF data says.

    Of an animation it is the first frame. What is transparent becomes white, or black where on white nothing
    can be seen.
    """
    try:
        image = decode(file)
        image = v2.functional.to_dtype(image, torch.uint8, scale=True)  # PNGs may have 16 bits
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{file}: cannot be read as an image ({one_line(error)}): replace or remove it"
        ) from None
    if torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]):
        image = image[:1]  # grey
    if image_size and min(image.shape[1:]) > image_size:
        image = resize(image, (image_size, image_size))
    return image


def decode(file):
    """Return the picture in a file, (3, height, width): uint8, or uint16 of a PNG.

    The size is looked up in the header first, as a small file can hold a picture that no memory can: Pillow
    raises DecompressionBombError above 179 million pixels.
    """
    with open(file, "rb") as opened:
        content = bytearray(opened.read())
    if content.startswith(PNG) and is_small_and_plain(content):
        return decode_by_torchvision(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, as of more than half the pixels that it takes
        try:  # not by its name: some TIFFs that are to be turned Pillow then maps into memory, and scrambles
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"it is no whole file of {', '.join(FORMATS)}") from None
        return decode_by_torchvision(content) if content.startswith(JPEG) else decode_by_pillow(picture)


def is_small_and_plain(content):
    """Return whether a PNG, given as its bytes, is one that torchvision decodes faster than Pillow.

    Raises ValueError where such a one is damaged, as of that torchvision's decoder dies (SIGSEGV).
    """
    # The header: width, height, bits a channel, kind (4 and 6 have alpha, others a chunk tRNS), interlaced.
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29].ljust(13))
    if kind not in CHANNELS or interlaced or width * height > SMALL:
        return False
    start = len(PNG)
    names = set()
    packed = b""
    while (name := content[start + 4 : start + 8]) != b"IEND":
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if zlib.crc32(content[start + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            raise ValueError("it is cut short or damaged")
        packed += content[start + 8 : end] if name == b"IDAT" else b""
        names.add(bytes(name))
        start = end + 4
    n_bytes = height * (1 + math.ceil(width * depth * CHANNELS[kind] / 8))  # a row: a byte and its pixels
    stream = zlib.decompressobj()
    if len(stream.decompress(packed, n_bytes + 1)) < n_bytes:  # never all that it may hold
        raise ValueError("it has fewer pixels than it says")
    return stream.eof and b"tRNS" not in names


def decode_by_torchvision(content):
    """Return the picture in a JPEG or a PNG without alpha, given as a bytearray."""
    # Always as RGB: what torchvision makes of a palette's PNG in its other modes is not the picture.
    content = torch.frombuffer(content, dtype=torch.uint8)
    return decode_image(content, ImageReadMode.RGB, apply_exif_orientation=True)


def decode_by_pillow(picture):
    """Return the first frame of a picture that Pillow has opened."""
    if picture.mode in ("I", "F") and picture.format != "PPM":
        raise ValueError("it has 32 bits a channel")  # and no brightness that all programs take for white
    deep = picture.mode.startswith("I")  # 16 bits, which Pillow would clip to 255
    picture = ImageOps.exif_transpose(picture)
    if deep:
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture = opaque(picture.convert("RGBA")) if picture.has_transparency_data else picture.convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def opaque(picture):
    """Return Pillow's RGBA picture as RGB: on white, or on black where on white it is of one colour."""
    for background in ("white", "black"):
        flat = Image.alpha_composite(Image.new("RGBA", picture.size, background), picture).convert("RGB")
        if any(low < high for low, high in flat.getextrema()):
            break
    return flat


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
            for remains in part.iterdir():  # of a process that was killed
                shutil.rmtree(remains)
            yield part
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
                # Not write_png, which does not tell of a full disk.
                path = folder / split / data.classes[label] / f"{index:05}.png"
                path.write_bytes(encode_png(data.images[index]).numpy().tobytes())
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
    train = split_folder(root, *TRAIN_NAMES).relative_to(root)
    files = [Path(file).relative_to(root) for listing in list_folder(root) for file in listing.files]
    taken = {file.as_posix() for file in files}
    with whole_folder(out) as folder:
        for file in counted(files, f"writing {out}"):
            target = file
            if file.as_posix() in new_classes:
                new_class = new_classes[file.as_posix()]
                if new_class is None:
                    continue
                target = free_name(train / new_class / file.name, taken)
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
