"""Image files → uint8 tensors. Pillow decodes the files; images with damaged metadata can still be read."""

import hashlib
import io
import math
import os
import re
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, TiffImagePlugin
from torchvision.transforms.v2.functional import resize

from support.console import UserError, is_out_of_memory, one_line, progress

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # Pillow has more; some run other programs
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
# The first bytes of image files, but not of TIFF: raw files that cameras save beside JPEGs begin like TIFF.
IMAGE = rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0{4}|P[1-6]\s+[\d#]|RIFF.{4}WEBP|.{4}ftyp(he[iv]|m[is]f1|avi[fs])"
TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))  # for each EXIF orientation
NOISE = hashlib.sha256().digest()  # arbitrary bytes, for a test in `decode`
FULL = 2**16 - 1  # the value of white in a 16-bit file that uses all 16 bits
USUAL_SIZE, LARGEST = 64, 128  # pixels: images above LARGEST or of mixed sizes become USUAL_SIZE square
warnings.filterwarnings("ignore", module=r"PIL\.")  # we read the file or raise an error anyway


def first_bytes(file):
    """Return the first 200 bytes of a file, or b"" if it cannot be read."""
    with suppress(OSError), open(file, "rb") as opened:
        return opened.read(200)
    return b""


def starts_as_image(content):
    """Return whether `content`, the first bytes of a file, begins like an image."""
    return bool(re.match(IMAGE, content, re.DOTALL))


def in_threads(function, items):
    """Yield `function(item)` for `items`, file paths, in order; use threads if the files are large.

    Decoding and hashing release Python's global lock; with small files, threads mostly wait for the lock.
    """
    if sum(os.path.getsize(item) for item in items[:100] if os.path.exists(item)) < 100 * 2**14:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(items), 64):  # keeps few results in memory
            yield from pool.map(function, items[start : start + 64])


def read_images(files, image_size=None, white=None):
    """Return (images, white). Images are uint8 (N, channels, height, width), grey if all are grey, else RGB.

    `image_size` is an int or (height, width). Larger images are resized to it, and all if sizes differ.
    By default images above 128 pixels or of mixed sizes become 64×64, and a line reports it. `white` is the
    value of white in files with 16 bits a channel: by default the smallest of 2⁸ - 1, …, 2¹⁶ - 1 that no
    value exceeds. Raises UserError if memory is too small, or with the first ten files that cannot be read.
    """
    size = [image_size, image_size] if isinstance(image_size, int) else image_size
    results = in_threads(lambda file: attempt(file, size, white), files)
    images, errors = None, []
    for index, image in enumerate(progress(results, "reading images", len(files))):
        if isinstance(image, UserError):
            errors.append(str(image))
            continue
        if isinstance(image, int):  # the first 16-bit image: find the greatest value, then read all again
            bits = [other.bit_length() for other in [image, *results] if isinstance(other, int)]
            white = 2 ** max(8, *bits) - 1
            if white < FULL:
                print(f"Note: 16-bit files use {white.bit_length()} bits a channel: {white} is white")
            return read_images(files, image_size, white)
        images = allocate(len(files), image.shape) if images is None else images
        (channels, *own_size), (_, most_channels, *common_size) = image.shape, images.shape
        is_mixed = own_size != common_size
        if size is None and (is_mixed or max(own_size) > LARGEST):
            print(f"large or mixed sizes: resizing all images to {USUAL_SIZE}×{USUAL_SIZE}; see --image-size")
            return read_images(files, USUAL_SIZE, white)
        image = resize(image, size) if is_mixed else image
        if channels > most_channels or image.shape[1:] != images.shape[2:]:
            # This is the first colour image, or the first of another size.
            shape = (max(channels, most_channels), *image.shape[1:])
            images = allocate(len(files), shape, images[:index])
        images[index] = image
    if errors:
        n, more = len(errors), f"; and {len(errors) - 10:,} more" if len(errors) > 10 else ""
        first = f"{n:,} image files cannot be read, replace or remove them: " if n > 1 else ""
        raise UserError(f"{first}{'; '.join(errors[:10])}{more}")
    return images, white or FULL


def attempt(file, size, white):
    """Call `read_image`; return its result, or the UserError that it raises."""
    try:
        return read_image(file, size, white)
    except UserError as error:
        return error


def allocate(n_images, shape, images=()):
    """Return uint8 (n_images, *shape) that begins with `images`. Raises UserError if memory is too small."""
    needed, free = n_images * math.prod(shape), math.inf
    with suppress(OSError):
        free = 1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    if needed > free:
        problem = f"{n_images:,} images of {shape[1]}×{shape[2]} pixels take {needed / 1e9:,.1f} GB of memory"
        advice = "use fewer or smaller images (train with --limit or --image-size)"
        raise UserError(f"{problem}, but only {free / 1e9:,.1f} GB are free; {advice}")
    result = torch.empty(n_images, *shape, dtype=torch.uint8)
    for index, image in enumerate(images):
        result[index] = resize(image, shape[1:])  # grey becomes three equal channels
    return result


def read_image(file, size=None, white=FULL):
    """Return the first image in a file, rotated upright: uint8 (1 or 3, height, width).

    An image larger than `size`, (height, width), is resized. In a file with 16 bits a channel `white` becomes
    255; if `white` is None, the greatest value in the file, an int, is returned instead. Raises UserError if
    the file cannot be read or a value exceeds `white`.
    """
    content = None
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise OSError("it is not a file")  # reading a pipe might never end
        with open(file, "rb") as opened:
            content = opened.read()
        image = to_bytes(decode(content, size), content, white)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = getattr(error, "strerror", None) if content is None else what_is(content)
        raise UserError(f"{file}: cannot be read as an image ({reason or one_line(error)})") from None
    if isinstance(image, int):
        return image
    is_larger = size and (image.shape[0] > size[0] or image.shape[1] > size[1])
    if image.ndim == 3 and (image == image[:, :, :1]).all():
        image = image[:, :, 0].copy()
    image = torch.from_numpy(image[None] if image.ndim == 2 else image.transpose(2, 0, 1).copy())
    return resize(image, size) if is_larger else image


def decode(content, size, tail=b""):
    """Decode the bytes `content` to a Pillow image; a JPEG at 1/2, 1/4 or 1/8 of its size if `size` permits.

    Ignores damaged metadata. Pillow raises DecompressionBombError above 179 million pixels.
    """
    try:
        picture = Image.open(io.BytesIO(content + tail), formats=FORMATS)
        if size:
            picture.draft(None, (max(size), max(size)))
        picture.load()
        return picture
    except Exception:
        if content.startswith(b"\x89PNG") and content != (needed := without_metadata(content)):
            return decode(needed, size)
        if content.startswith(b"\xff\xd8") and not tail:
            # Is only the end marker missing? If pixels are missing, the appended bytes change the picture.
            pictures = [decode(content.rstrip(b"\xff"), size, tail + b"\xff\xd9") for tail in (b"", NOISE)]
            if pictures[0].tobytes() == pictures[1].tobytes():
                return pictures[0]
        raise


def without_metadata(content):
    """Return the bytes of a PNG without metadata chunks: Pillow refuses a file if such a chunk is damaged."""
    kept, start = content[:8], 8
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        is_needed = content[start + 4 : start + 5].isupper() or content[start + 4 : start + 8] == b"tRNS"
        kept += content[start:end] if is_needed else b""
        start = end
    return kept


def to_bytes(picture, content, white):
    """Return a loaded picture as uint8 (height, width[, 3]), or an int; `white` is as in `read_image`."""
    tags = getattr(picture, "tag_v2", {})  # of a TIFF: 258 is bits per channel, 262 is 0 if 0 means white
    is_deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
    if picture.mode in ("I", "F") and not is_deep:
        raise ValueError("it has 32 bits a channel, or negative values: convert it to 8 bits")
    if picture.info:
        with suppress(Exception):  # no EXIF orientation, or damaged EXIF
            picture = picture.transpose(TURNS[picture.getexif()[0x112]])
    if is_deep:
        values = np.array(picture, dtype=np.int64)
        if tags.get(262) == 0:
            values = 2 ** tags[258][0] - 1 - values
        if white is None:
            return int(values.max())
        if values.max() > white:
            raise ValueError(f"it has values above {white}, which is white in the other files")
        return ((values * 255 + white // 2) // white).astype(np.uint8)
    is_16 = 16 in tags.get(258, ()) or (content.startswith(b"\x89PNG") and content[24] == 16)
    if picture.has_transparency_data:
        picture = opaque(picture.convert("RGBA"))
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    array = np.array(picture)
    if is_16 and white is None:
        return int(array.max()) * 257
    if is_16 and white < FULL:
        raise ValueError("it has 16-bit colour, but Pillow reads only 8 bits: convert it to 8 bits")
    return array


def opaque(picture):
    """Convert RGBA to RGB on white, or on black if white gives one colour; ignore alpha if all of it is 0."""
    flat = picture.convert("RGB")
    for background in ("white", "black") if picture.getextrema()[3][1] else ():
        flat = Image.alpha_composite(Image.new("RGBA", picture.size, background), picture).convert("RGB")
        if any(low < high for low, high in flat.getextrema()):
            break
    return flat


def what_is(content):
    """Return a hint at the format of an unreadable file, from its bytes `content`, or None."""
    if not starts_as_image(content):
        with suppress(Exception):
            tags, stream = TiffImagePlugin.ImageFileDirectory_v2(content[:8]), io.BytesIO(content)
            stream.seek(tags.next)
            tags.load(stream)
            return f"it is a TIFF of {tags[277]} channels: convert it" if tags.get(277, 1) > 4 else None
        return f"it is none of {', '.join(FORMATS)}" if content else "it is empty"
    kind = "AVIF" if content[8:11] == b"avi" else "HEIC"
    return f"it is {kind}: convert it to JPEG" if content[4:8] == b"ftyp" else None
