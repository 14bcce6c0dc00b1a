"""Image files: written pixels are read back, damaged files are named, 16 bits and transparency."""

import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from test_image_folders import noise, rng, write

from support import image_files
from support.console import UserError


def as_array(image):
    """Return a tensor (channels, height, width) as an array of int (height, width, 3)."""
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy().astype(int)


@given(
    st.sampled_from(["png", "bmp", "tif", "webp", "ppm", "gif"]), st.sampled_from([(), (3,)]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 3), st.data(),
)  # fmt: skip
def test_written_pixels_are_read_back(kind, channels, size, n, content):
    pixels = content.draw(arrays(np.uint8, (n, *size, *(() if kind == "gif" else channels))))
    with tempfile.TemporaryDirectory() as root:
        files = [write(Path(root, f"{i}.{kind}"), pixels[i], lossless=True) for i in range(n)]
        images, white = image_files.read_images(files)
        alone = [image_files.read_image(file) for file in files]
    expected = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
    expected = expected[:, :1] if (expected == expected[:, :1]).all() else expected  # equal channels are grey
    assert (images.dtype, white) == (torch.uint8, 65535)
    assert np.array_equal(images.numpy(), expected)
    assert all(torch.equal(image.expand_as(images[0]), images[i]) for i, image in enumerate(alone))


sides = st.sampled_from([3, 20, 64, 65, 128, 129, 200])


@given(
    st.lists(st.tuples(sides, sides, st.booleans(), st.sampled_from(["png", "jpg"])), min_size=1, max_size=4),
    st.sampled_from([None, 20, 64, 150]),
)
def test_reading_again_at_the_size_of_the_result_gives_the_same_pixels(kinds, image_size):
    with tempfile.TemporaryDirectory() as root:
        files = []
        for index, (height, width, colour, suffix) in enumerate(kinds):
            pixels = noise(height, width, 3) if colour else noise(height, width)
            files.append(write(Path(root, f"{index}.{suffix}"), pixels))
        images, _ = image_files.read_images(files, image_size)
        again, _ = image_files.read_images(files, tuple(images.shape[2:]))
    assert torch.equal(images, again)
    sizes = {kind[:2] for kind in kinds}
    largest = max(side for size in sizes for side in size)
    if len(sizes) == 1 and largest <= (image_size or 128):
        assert images.shape[2:] == next(iter(sizes))  # as they are
    else:
        assert images.shape[2:] == (image_size or 64,) * 2


def test_a_size_is_printed_only_if_it_is_chosen_here(tmp_path, capsys):
    files = [write(tmp_path / f"{side}.png", noise(side, side)) for side in (20, 30)]
    image_files.read_images(files, 10)
    image_files.read_images(files[:1])
    assert capsys.readouterr().out == ""
    image_files.read_images(files)
    assert "64×64" in capsys.readouterr().out


def test_large_jpegs_are_decoded_smaller_by_threads_in_order(tmp_path):
    smooth = [np.full((600, 800, 3), shade, np.uint8) for shade in (10, 90, 200)] * 30
    files = [write(tmp_path / f"{i:02}.jpg", pixels) for i, pixels in enumerate(smooth)]
    for file in files:  # as large as photos are
        with open(file, "ab") as opened:
            opened.write(bytes(2**14))
    images, _ = image_files.read_images(files, 32)
    assert images.shape == (90, 1, 32, 32)
    assert images[:, 0].float().mean((1, 2)).round().tolist() == [10, 90, 200] * 30
    assert image_files.decode(Path(files[0]).read_bytes(), (70, 70)).size == (100, 75)


# The numpy function that turns the pixels upright, for each EXIF orientation.
TURNS = {1: np.asarray, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose}
TURNS |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "16 bits"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_rotated_by_its_exif_orientation(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.kron(np.array([[0, 80, 160], [40, 120, 250]], np.uint8), np.ones((8, 8), np.uint8))
    values, kind = (pixels.astype(np.uint16) * 257, "PNG") if kind == "16 bits" else (pixels, kind)
    file = write(tmp_path / "a.jpg", values, kind, exif=exif, lossless=True, quality=100)
    assert np.abs(as_array(image_files.read_image(file))[..., 0] - TURNS[orientation](pixels)).max() <= 3


# ---------------------------------------------------------------- damaged files


def chunk(name, data, crc=0):
    """Return a chunk of a PNG, with a wrong checksum if `crc` is not 0."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ crc)


large = zlib.compress(bytes(2_000_000))
extras = [chunk(b"iCCP", b"p\0\0" + large), chunk(b"zTXt", b"k\0\0" + large), chunk(b"gAMA", b"")]
extras += [chunk(b"iTXt", b"k\0\1\0\0\0" + large), chunk(b"eXIf", b"garbage"), chunk(b"tEXt", b"a\0b", crc=1)]


@pytest.mark.parametrize("extra", extras)
def test_damaged_metadata_of_a_png_are_ignored(tmp_path, extra):
    pixels = noise(30, 20, 3)
    content = Path(write(tmp_path / "a.png", pixels)).read_bytes()
    (tmp_path / "a.png").write_bytes(content[:33] + extra + content[33:])
    assert (as_array(image_files.read_image(tmp_path / "a.png")) == pixels).all()


@pytest.mark.parametrize(
    "entry", [(0x103, 8, b"\xfb\xff\0\0"), (0x100, 7, b"\1\2\3\4"), (0x102, 2, b"abc\0")]
)
def test_damaged_exif_is_ignored_except_for_the_orientation(tmp_path, entry):
    tag, kind, value = entry
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    exif += struct.pack("<HHI", tag, kind, 4 if kind == 7 else 1) + value + bytes(4)
    for suffix, garbage in (("jpg", exif), ("webp", b"Exif\0\0garbage"), ("jpg", b"Exif\0\0garbage")):
        file = write(tmp_path / f"a.{suffix}", noise(20, 30, 3), exif=garbage)
        assert image_files.read_image(file).shape == ((3, 30, 20) if garbage == exif else (3, 20, 30))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_may_lack_its_end_marker_but_no_pixel(tmp_path, progressive):
    file = tmp_path / "a.jpg"
    content = Path(write(file, noise(100, 80, 3), progressive=progressive)).read_bytes()
    expected = image_files.read_image(file)
    for n_missing in (1, 2):
        file.write_bytes(content[:-n_missing])
        assert torch.equal(image_files.read_image(file), expected)
    for n_missing in (20, 200, len(content) // 2, len(content) - 10):
        file.write_bytes(content[:-n_missing])
        with pytest.raises(UserError, match=r"a\.jpg"):
            image_files.read_image(file)


def tiff(data, width, height, **tags):
    """Return an uncompressed TIFF of the bytes `data`; `tags` such as t258=16 are its other tags."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 110, 277: 1, 279: len(data)}
    values |= {int(name[1:]): value for name, value in tags.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return (b"II*\0\x08\0\0\0\x08\0" + entries).ljust(110, b"\0") + data


def test_one_error_names_all_unreadable_files_with_the_reasons(tmp_path):
    cut = Path(write(tmp_path / "cut.png", noise(40, 40))).read_bytes()[:900]
    write(tmp_path / "float.tif", np.full((3, 3), 0.5, np.float32))
    bad = [
        ("empty", b""),
        ("HEIC", b"\0\0\0\x18ftypheic" + bytes(99)),
        ("AVIF", b"\0\0\0\x18ftypavif"),
        ("5 channels", tiff(bytes(100), 5, 4, t277=5)),
        ("truncated", cut),
        ("none of PNG", b"text"),
        ("32 bits", (tmp_path / "float.tif").read_bytes()),
        ("none of PNG", Path(write(tmp_path / "x", noise(3, 3), "PCX")).read_bytes()),
    ]
    files = [str(tmp_path / f"{index}.jpg") for index in range(12)]  # the last four do not exist
    for file, (_, content) in zip(files, bad, strict=False):
        Path(file).write_bytes(content)
    with pytest.raises(UserError) as error:
        image_files.read_images([write(tmp_path / "good.png"), *files])
    parts = str(error.value).split("; ")
    for part, file, (reason, _) in zip(parts[:10], files, bad + 2 * [("No such file", b"")], strict=False):
        assert f"{file}: " in part
        assert reason in part
        with pytest.raises(UserError, match=f"{file}.*{reason}"):
            image_files.read_image(file)
    assert parts[10].startswith("and 2 more")


def test_images_that_do_not_fit_in_memory_are_refused(tmp_path):
    file = write(tmp_path / "a.png", noise(128, 128, 3))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with pytest.raises(UserError, match="--image-size"):
        image_files.read_images([file] * (machine // (3 * 128 * 128) + 1))


# ---------------------------------------------------------------- 16 bits, transparency


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 16])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bit_files_are_scaled_by_the_bits_that_the_data_set_uses(tmp_path, capsys, bits, kind):
    values = rng.integers(0, 2**bits, (2, 40, 40)).astype(np.uint16)
    values[1, 0, 0] = 2**bits - 1  # the brightest is not in the first file
    values[0] //= 4
    files = [write(tmp_path / "8.png", noise(40, 40))] + [
        write(tmp_path / f"{i}.{kind}", v) for i, v in enumerate(values)
    ]
    images, white = image_files.read_images(files)
    assert white == 2**bits - 1
    assert (str(white) in capsys.readouterr().out) == (bits < 16)
    assert np.abs(images[1:, 0].numpy() - values * (255 / white)).max() <= 0.5
    assert torch.equal(images[:1], image_files.read_images(files[:1])[0])
    assert torch.equal(images, image_files.read_images(files, (40, 40), white)[0])
    if bits > 8:  # such as a brighter image that predict.py gets: its values cannot be kept
        with pytest.raises(UserError, match="above 255"):
            image_files.read_image(files[2], white=255)


@pytest.mark.parametrize("dtype", [np.uint8, "<u2"])
def test_a_tiff_whose_0_is_white_is_inverted(tmp_path, dtype):
    pixels = noise(4, 5)
    array = pixels.astype(dtype) * (1 if dtype is np.uint8 else 257)
    content = tiff(array.tobytes(), 5, 4, t258=8 * array.dtype.itemsize, t262=0)
    (tmp_path / "a.tif").write_bytes(content)
    assert (image_files.read_image(tmp_path / "a.tif")[0].numpy() == 255 - pixels).all()


def test_16_bit_colour_is_read_only_if_it_uses_the_full_range(tmp_path):
    for name, most in (("full", 65535), ("dark", 4095)):
        values = rng.integers(0, most + 1, (4, 5, 3)).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0))
        (tmp_path / f"{name}.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        )
        if name == "full":
            assert (as_array(image_files.read_image(tmp_path / "full.png")) == values >> 8).all()
            assert image_files.read_images([str(tmp_path / "full.png")])[0].shape == (1, 3, 4, 5)
    with pytest.raises(UserError, match="convert it to 8 bits"):
        image_files.read_images([str(tmp_path / "dark.png")])


@given(arrays(np.uint8, (3, 4, 4)), st.sampled_from(["png", "webp", "tif"]))
def test_transparent_pixels_become_white(pixels, kind):
    pixels[0, 0], pixels[2, 3] = (9, 9, 9, 255), (200, 0, 0, 255)  # two colours, so the background is white
    with tempfile.TemporaryDirectory() as root:
        file = write(Path(root, f"a.{kind}"), pixels, lossless=True, exact=True)
        read = as_array(image_files.read_image(file))
    colour, alpha = np.split(pixels.astype(float), [3], axis=2)
    assert np.abs(read - (colour * alpha + 255 * (255 - alpha)) / 255).max() <= 0.5


@pytest.mark.parametrize(("shade", "seen"), [(0, [255, 0]), (90, [255, 90]), (255, [0, 255])])
@pytest.mark.parametrize("kind", ["png", "gif", "webp", "tif"])
def test_a_shape_in_alpha_alone_is_visible_and_alpha_0_everywhere_is_ignored(tmp_path, shade, seen, kind):
    glyph = np.full((8, 8, 4), shade, dtype=np.uint8)
    glyph[..., 3] = 0
    glyph[2:5, 2:5, 3] = 255
    read = image_files.read_image(write(tmp_path / f"a.{kind}", glyph, lossless=True))
    assert (read.shape, [read[0, 0, 0], read[0, 3, 3]]) == ((1, 8, 8), seen)
    if kind != "gif":
        hidden = np.concatenate([noise(6, 7, 3), np.zeros((6, 7, 1), np.uint8)], axis=2)
        read = image_files.read_image(write(tmp_path / f"b.{kind}", hidden, lossless=True, exact=True))
        assert (as_array(read) == hidden[..., :3]).all()


@pytest.mark.parametrize("kind", ["P", "1", "LA", "CMYK"])
def test_other_pixel_modes_are_read_as_pillow_converts_them(tmp_path, kind):
    picture = Image.fromarray(noise(6, 9, 3)).convert("L" if kind == "LA" else "RGB").convert(kind)
    picture.save(tmp_path / "a.tif")
    assert (as_array(image_files.read_image(tmp_path / "a.tif")) == np.asarray(picture.convert("RGB"))).all()
