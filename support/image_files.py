"""Image files ↔ uint8 tensors: one file, or all of a data set, read by several threads."""

import io
import math
import os
import struct
import warnings
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from support.console import UserError, counted, is_out_of_memory, one_line

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

try:
    from torchvision.io import ImageReadMode, decode_image
except ImportError:  # they are deprecated since torchvision 0.29
    decode_image = None

EXTENSIONS = (*IMG_EXTENSIONS, ".gif")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow reads more, some by other programs
PNG = b"\x89PNG\r\n\x1a\n"  # how its files begin
SMALL = 2**16  # pixels of a PNG, up to which torchvision is the faster decoder
CHANNELS = {0: 1, 2: 3, 3: 1}  # of a PNG, by its kind: grey, colour, palette
warnings.filterwarnings("ignore", module=r"PIL\.")  # about images that are all the same read or refused
# Pixels of a side, to which images of mixed sizes are made, and of one size if they are larger than LARGEST:
# with 256×256 pixels a network has 84 times the work that MNIST's give it, and photos would fill the memory.
USUAL_SIZE, LARGEST = 64, 128
LARGE = 2**14  # bytes of a file, from which on threads pay
CHUNK = 8  # files that a thread takes at a time

# ---------------------------------------------------------------- all images of a data set


def in_threads(function, files):
    """Yield `function(file)` for each of `files`, in their order; of large files by a thread for each core.

    Decoders and hashes release Python's lock. Small files would wait for it longer than they take. Only a few
    results are in memory before they are asked for.
    """
    if sum(map(n_bytes_of, files[:100])) < 100 * LARGE:
        yield from map(function, files)
        return
    n_threads = torch.get_num_threads()
    chunks = (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))
    pool = ThreadPoolExecutor(n_threads)

    def begin(chunk):
        return pool.submit(lambda: [function(file) for file in chunk])

    try:
        waiting = deque(map(begin, islice(chunks, n_threads + 1)))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(map(begin, islice(chunks, 1)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # where something is wrong, it is said at once


def n_bytes_of(file):
    """Return how many bytes `file` has; 0 where it is gone, which who opens it will say."""
    with suppress(OSError):
        return os.path.getsize(file)
    return 0


def read_images(files, image_size=None):
    """Return the images of `files`, uint8 (N, channels, height, width): grey if all of them are, else RGB.

    With `image_size`, images of mixed sizes are resized to its square, and larger ones at once to save time
    and memory. Without it, mixed sizes and images larger than LARGEST are read as with USUAL_SIZE, and that
    is printed. Raises UserError where a file is no whole image, or memory is too small for all of them.
    """
    sizes = () if image_size else header_sizes(files[:: math.ceil(len(files) / 100)])
    if len(sizes) > 1 or any(max(size) > LARGEST for size in sizes):
        return read_at_usual_size(files)
    read = in_threads(lambda file: read_image(file, image_size), files)
    for index, image in enumerate(counted(read, "reading images", len(files))):
        if index == 0:
            images = new_images(len(files), *image.shape)
        if image.shape[1:] != images.shape[2:]:
            if not image_size:
                read.close()
                return read_at_usual_size(files)  # anew, so that all are read in the same way
            image = resize(image, (image_size, image_size))
        shape = (max(len(image), images.shape[1]), *image.shape[1:])
        if shape != images.shape[1:]:  # the first in colour, or of another size
            images = converted(images, index, shape)
        images[index] = image
    return images


def read_at_usual_size(files):
    """Return the images of `files`, as `read_images` does with USUAL_SIZE; print that before the work."""
    size = f"{USUAL_SIZE}×{USUAL_SIZE}"
    print(f"large images or mixed sizes: all are made {size} pixels; --image-size N makes them N×N")
    images = read_images(files, USUAL_SIZE)
    return resize(images, (USUAL_SIZE, USUAL_SIZE))  # which they are not yet where all are long and narrow


def header_sizes(files):
    """Return the set of the sizes in the headers of `files`, (width, height), where these can be read."""
    sizes = set()
    for file in files:
        with suppress(Exception), Image.open(file, formats=FORMATS) as picture:  # who reads it will complain
            sizes.add(picture.size)
    return sizes


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


# ---------------------------------------------------------------- one image


def read_image(file, image_size=None):
    """Return one image file as uint8 (1 or 3, height, width): see `read_rgb`.

    With `image_size` a larger image is resized to its square.
    """
    image = read_rgb(file, image_size)
    if torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]):
        image = image[:1]  # grey
    if image_size and min(image.shape[1:]) > image_size:
        image = resize(image, (image_size, image_size))
    return image


def read_rgb(file, image_size=None):
    """Return one image file as uint8 (3, height, width), turned as its EXIF data says.

    Of an animation it is the first frame. What is transparent becomes white, or black where on white nothing
    can be seen. `image_size` is for `decode`. Raises UserError where the file is no whole image.
    """
    try:
        image = decode(file, image_size)
        return v2.functional.to_dtype(image, torch.uint8, scale=True)  # PNGs may have 16 bits
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{file}: cannot be read as an image ({one_line(error)}): replace or remove it"
        ) from None


def decode(file, image_size=None):
    """Return the picture in a file, (3, height, width): uint8, or uint16 of a PNG.

    With `image_size` a JPEG is decoded at a half, a quarter or an eighth of its size, but never below
    `image_size`. That is several times faster.

    The size is looked up in the header first, as a small file can hold a picture that no memory can: Pillow
    raises DecompressionBombError above 179 million pixels.
    """
    with open(file, "rb") as opened:
        content = bytearray(opened.read())
    if content.startswith(PNG) and is_small_and_plain(content) and decode_image:
        # Always as RGB: what torchvision makes of a palette's PNG in its other modes is not the picture.
        tensor = torch.frombuffer(content, dtype=torch.uint8)
        return decode_image(tensor, ImageReadMode.RGB, apply_exif_orientation=True)
    try:  # not by its name: some TIFFs that are to be turned Pillow then maps into memory, and scrambles
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is no whole file of {', '.join(FORMATS)}") from None
    if image_size:
        picture.draft(None, (image_size, image_size))
    return decode_by_pillow(picture)


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
