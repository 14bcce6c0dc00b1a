"""Image files: what is read is what was written, a copy is whole or not there, no file is ever changed."""

import io
import itertools
import os
import struct
import tempfile
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

from support import image_files
from support.console import UserError
from support.image_folders import list_images

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.profiler import ProfilerActivity
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

import data

# ---------------------------------------------------------------- reading


@given(
    channels=st.sampled_from([(), (3,)]),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    n_images=st.integers(1, 3),
    content=st.data(),
)
def test_png_files_are_read_back_exactly(channels, size, n_images, content):
    pictures = content.draw(arrays(np.uint8, (n_images, *size, *channels)))
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{index}.png")) for index in range(n_images)]
        for picture, file in zip(pictures, files, strict=True):
            Image.fromarray(picture).save(file)
        read = image_files.read_images(files)
    assert read.dtype == torch.uint8
    expected = pictures.transpose(0, 3, 1, 2) if channels else pictures[:, None]
    if (expected == expected[:, :1]).all():
        expected = expected[:, :1]  # equal channels are grey
    assert np.array_equal(read.numpy(), expected)


def test_grey_and_colour_together_become_rgb(tmp_path, random_image):
    grey, colour = random_image(5, 6), random_image(5, 6, 3)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(colour).save(tmp_path / "b.png")
    read = image_files.read_images([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert np.array_equal(read[0].numpy(), np.stack([grey] * 3))
    assert np.array_equal(read[1].numpy(), colour.transpose(2, 0, 1))


def test_unusual_files_are_read_as_pillow_reads_them(tmp_path, random_image):
    colour = Image.fromarray(random_image(6, 9, 3))
    alpha = colour.copy()
    alpha.putalpha(255)
    deep = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1200
    for name, picture, expected in (
        ("palette", colour.quantize(8), None),
        ("opaque", alpha, colour),
        ("grey-alpha", colour.convert("LA"), colour.convert("L").convert("RGB")),
        ("bilevel", colour.convert("1"), colour.convert("1").convert("L")),
        ("deep", Image.fromarray(deep), Image.fromarray((deep // 257).astype(np.uint8))),
    ):
        file = str(tmp_path / f"{name}.png")
        picture.save(file)
        expected = np.asarray(expected or Image.open(file).convert("RGB"))
        expected = expected.transpose(2, 0, 1) if expected.ndim == 3 else expected[None]
        assert np.abs(image_files.read_images([file])[0].numpy().astype(int) - expected).max() <= 1, name


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_an_image_is_turned_as_its_exif_says(tmp_path, kind, mode):
    picture, exif = Image.new("L", (16, 8)), Image.Exif()
    picture.paste(255, (0, 0, 8, 8))  # white on the left
    exif[0x0112] = 6  # orientation: turn a quarter clockwise to see it upright
    picture.convert("L" if kind == "JPEG" else mode).save(tmp_path / "a.jpg", kind, exif=exif, lossless=True)
    read = image_files.read_image(tmp_path / "a.jpg")
    assert (read.shape, read[0, :8].float().mean(), read[0, 8:].float().mean()) == ((1, 16, 8), 255, 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_read_as_torchvision_reads_it(tmp_path, mode, random_image):
    Image.fromarray(random_image(9, 7, 3)).convert(mode).save(tmp_path / "a.jpg")
    expected = decode_image(tmp_path / "a.jpg", ImageReadMode.RGB)
    assert torch.equal(image_files.read_image(tmp_path / "a.jpg").expand(3, -1, -1), expected)


def test_mixed_sizes_are_made_one_size(tmp_path, random_image, capsys):
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    Image.fromarray(random_image(30, 20)).save(files[0])
    Image.fromarray(random_image(5, 6)).save(files[1])
    assert image_files.read_images(files, image_size=10).shape == (2, 1, 10, 10)
    assert capsys.readouterr().out == ""
    assert torch.equal(image_files.read_images(files), image_files.read_images(files, image_size=64))
    line = "large images or mixed sizes: all are made 64×64 pixels; --image-size N makes them N×N\n"
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(("side", "made"), [(128, 128), (129, 64)])
def test_large_images_are_made_smaller_though_all_have_one_size(tmp_path, random_image, capsys, side, made):
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for file in files:
        Image.fromarray(random_image(20, side)).save(file)
    assert image_files.read_images(files).shape == ((2, 1, 20, 128) if made == 128 else (2, 1, 64, 64))
    assert ("large images or mixed sizes" in capsys.readouterr().out) == (made == 64)
    assert image_files.read_images(files, image_size=200).shape == (2, 1, 20, side)  # as they are


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_an_image_that_cannot_be_read_is_named(folder, content, kind, random_image):
    file = folder / "train" / "row2" / f"broken.{kind}"
    Image.fromarray(random_image(8, 8)).save(file)
    file.write_bytes(file.read_bytes()[:60] if content == "cut" else content)
    with pytest.raises(UserError, match=rf"{file}: cannot be read as an image"):
        data.load(str(folder))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", kind, save_all=True, append_images=frames[1:], lossless=True)
    assert image_files.read_image(tmp_path / "a.png")[:, 0, 0].tolist() == [255, 0, 0]


def test_every_kind_of_file_is_read_as_a_viewer_shows_it(tmp_path, random_image):
    colour = Image.fromarray(random_image(6, 9, 3))
    deep = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1200
    palette = colour.quantize(8)
    for name, picture, expected in (
        ("palette.gif", palette, palette),
        ("colour.BMP", colour, colour),
        ("colour.tif", colour, colour),
        ("palette.tiff", palette, palette),
        ("bilevel.Tif", colour.convert("1"), colour.convert("1")),
        ("deep.tif", Image.fromarray(deep), Image.fromarray((deep // 256).astype(np.uint8))),
        ("colour.ppm", colour, colour),
    ):
        for split in ("train", "test"):
            for label in ("cat", "dog"):
                (tmp_path / name / split / label).mkdir(parents=True)
                picture.save(tmp_path / name / split / label / name)
        read = image_files.read_images(list_images(tmp_path / name / "train")[0])
        expected = np.asarray(expected.convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(read.expand(-1, 3, -1, -1).numpy(), np.stack([expected, expected])), name


def test_a_picture_of_32_bits_is_named(tmp_path):
    Image.fromarray(np.full((3, 3), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: cannot be read as an image \(it has 32 bits a channel\)"):
        image_files.read_image(tmp_path / "a.tif")


def test_files_of_other_kinds_are_not_opened(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png", "PCX")  # Pillow could read it
    with pytest.raises(UserError, match="it is no whole file of BMP, GIF"):
        image_files.read_image(tmp_path / "a.png")


# ---------------------------------------------------------------- transparent images


@given(arrays(np.uint8, (3, 4, 4)), st.sampled_from(["RGBA.png", "RGBA.webp", "LA.png", "P.png"]))
def test_what_is_transparent_becomes_white(pixels, kind):
    pixels[0, 0], pixels[2, 3] = (9, 9, 9, 255), (200, 0, 0, 255)  # two colours, so that white it is
    if kind == "LA.png":
        pixels[..., 1] = pixels[..., 2] = pixels[..., 0]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, kind))
        if kind == "P.png":  # twelve pixels, each of a colour of its own with an alpha of its own
            picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
            picture.putpalette(pixels[..., :3].tobytes())
            picture.save(file, transparency=pixels[..., 3].tobytes())
        else:
            Image.fromarray(pixels).convert(Path(kind).stem).save(file, lossless=True, exact=True)
        read = image_files.read_image(file).expand(3, -1, -1).permute(1, 2, 0).numpy()
    colour, alpha = np.split(pixels.astype(float), [3], axis=2)
    assert np.abs(read - (colour * alpha + 255 * (255 - alpha)) / 255).max() <= 0.5


@given(arrays(np.uint8, (3, 4, 3)), st.sampled_from(["RGB", "L"]), st.booleans())
def test_an_opaque_image_is_the_same_with_alpha_and_without(pixels, mode, one_colour):
    picture = Image.fromarray(pixels[:1, :1] if one_colour else pixels).convert(mode)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("without.png", "with.png")]
        picture.save(files[0])
        picture.convert(f"{mode}A").save(files[1])
        assert torch.equal(*(image_files.read_image(file) for file in files))


@pytest.mark.parametrize(("shade", "seen"), [(0, [255, 0]), (90, [255, 90]), (255, [0, 255])])
@pytest.mark.parametrize("kind", ["png", "gif", "webp", "tif"])
def test_a_glyph_in_the_alpha_channel_can_be_seen(tmp_path, shade, seen, kind):
    glyph = np.full((8, 8, 4), shade, dtype=np.uint8)
    glyph[..., 3] = 0
    glyph[2:5, 2:5, 3] = 255
    Image.fromarray(glyph).save(tmp_path / f"a.{kind}", lossless=True)
    read = image_files.read_image(tmp_path / f"a.{kind}")
    assert (read.shape, [read[0, 0, 0], read[0, 3, 3]]) == ((1, 8, 8), seen)


# ---------------------------------------------------------------- more than memory holds


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_an_image_that_is_too_large_is_named_before_it_is_decoded(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(image_files, "SMALL", 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png", kind)  # twice as many: the most that Pillow takes
    assert image_files.read_image(tmp_path / "a.png").shape == (1, 20, 20)
    Image.new("RGB", (20, 21)).save(tmp_path / "a.png", kind)
    with pytest.raises(UserError, match=r"a\.png: cannot .* \(Image size \(420 pixels\) exceeds limit"):
        image_files.read_image(tmp_path / "a.png")


def test_images_that_do_not_fit_in_memory_are_not_read(tmp_path, monkeypatch, random_image):
    files = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png", "d.png")]
    for file, shape in zip(files, ((10, 20), (10, 20), (10, 20, 3), (10, 20)), strict=True):
        Image.fromarray(random_image(*shape)).save(file)
    monkeypatch.setattr(image_files, "free_memory", lambda: 799)
    with pytest.raises(UserError, match=r"4 images of 10×20 pixels take .* --image-size or --limit"):
        image_files.read_images(files)
    assert len(image_files.read_images(files[:2])) == 2
    with pytest.raises(UserError, match="3 images of 10×20 pixels"):
        image_files.read_images(files[:3])  # the last is in colour: three times as many bytes
    assert len(image_files.read_images(files[:3], image_size=8)) == 3


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells")
def test_free_memory_is_some_of_the_machines():
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine / 1000 < image_files.free_memory() < machine


@pytest.mark.parametrize(("last", "most"), [("grey", 1.15), ("colour", 1.4)])
def test_every_image_is_in_memory_once_while_all_are_read(tmp_path, monkeypatch, random_image, last, most):
    monkeypatch.setattr(
        image_files, "in_threads", map
    )  # the profiler sees one thread; for others the next test
    Image.fromarray(random_image(64, 64)).save(tmp_path / "grey.png")
    Image.fromarray(random_image(64, 64, 3)).save(tmp_path / "colour.png")
    files = [str(tmp_path / "grey.png")] * 200 + [str(tmp_path / f"{last}.png")]  # at worst it comes last
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        n_bytes = image_files.read_images(files).nbytes
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert n_bytes < max(itertools.accumulate(changes)) < most * n_bytes


@given(st.lists(st.integers(), max_size=99), st.integers(1, 3))
def test_threads_give_what_one_by_one_gives_and_run_ahead_by_little(items, n_threads):
    begun = []

    def doubled(item):
        begun.append(item)
        return 2 * item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: n_threads)
        patch.setattr(image_files, "n_bytes_of", lambda item: 100 * image_files.LARGE)
        results = image_files.in_threads(doubled, items)
        for n_done, (item, result) in enumerate(zip(items, results, strict=True), 1):
            assert result == 2 * item
            assert len(begun) - n_done < image_files.CHUNK * (n_threads + 2)
    assert sorted(begun) == sorted(items)


@pytest.mark.parametrize(("size", "several"), [(10**6, True), (1000, False)])
def test_threads_read_large_files_alone(monkeypatch, size, several):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(image_files, "n_bytes_of", lambda item: size)
    names = {name for name in image_files.in_threads(lambda _: threading.current_thread().name, range(200))}
    assert ("MainThread" not in names) == several


def test_photos_of_mixed_sizes_need_no_memory_for_all_at_their_full_size(tmp_path, monkeypatch, random_image):
    files = [str(tmp_path / f"{index}.jpg") for index in range(4)]
    for index, file in enumerate(files):
        Image.fromarray(random_image(300, 200 + index, 3)).save(file)
    monkeypatch.setattr(image_files, "free_memory", lambda: 4 * 3 * 64 * 64)
    assert image_files.read_images(files).shape == (4, 3, 64, 64)


def test_reading_leaves_the_warnings_of_others_alone(tmp_path, random_image):
    Image.fromarray(random_image(200, 200, 3)).save(tmp_path / "a.jpg")
    before = list(warnings.filters)
    image_files.read_images(150 * [str(tmp_path / "a.jpg")])
    assert warnings.filters == before


def test_what_fails_in_a_thread_is_raised_and_ends_the_reading(tmp_path, random_image):
    Image.fromarray(random_image(200, 200)).save(tmp_path / "a.png")
    files = 199 * [str(tmp_path / "a.png")]
    files[50] = str(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:20000])
    with pytest.raises(UserError, match=r"b\.png: cannot be read as an image"):
        image_files.read_images(files)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_to_be_small_is_about_the_same_decoded_small(tmp_path, mode):
    y, x = np.mgrid[:600, :900] / 100
    waves = (127 + 60 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2)).astype(np.uint8)
    Image.fromarray(waves).convert(mode).save(tmp_path / "a.jpg", quality=95)
    small = image_files.read_image(tmp_path / "a.jpg", image_size=64).float()
    whole = image_files.resize(image_files.read_image(tmp_path / "a.jpg"), (64, 64)).float()
    assert small.shape == whole.shape
    assert (small - whole).abs().mean() < 1
    assert (small - whole).abs().max() < 12


def test_without_torchvisions_decoder_the_pictures_are_the_same(tmp_path, monkeypatch, random_image):
    files = [str(tmp_path / f"{name}.png") for name in ("grey", "colour", "palette")]
    colour = Image.fromarray(random_image(9, 7, 3))
    for file, picture in zip(
        files, (Image.fromarray(random_image(9, 7)), colour, colour.quantize(8)), strict=True
    ):
        picture.save(file)
    before = image_files.read_images(files)
    monkeypatch.setattr(image_files, "decode_image", None)
    assert torch.equal(image_files.read_images(files), before)


small_images = st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from([(), (3,)]))


@given(st.lists(small_images | st.just((2, 3, ())), min_size=1, max_size=5), st.none() | st.integers(2, 4))
def test_read_images_are_those_of_the_files_in_one_tensor(kinds, image_size):
    """Against a list of all images that is stacked."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{index}.png")) for index in range(len(kinds))]
        for file, (height, width, channels) in zip(files, kinds, strict=True):
            Image.fromarray(rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)).save(file)
        each = [image_files.read_image(file, image_size) for file in files]
        sizes = {image.shape[1:] for image in each}
        if len(sizes) > 1:
            square = [image_size or 64] * 2
            each = [v2.functional.resize(image, square, antialias=True) for image in each]
        channels = max(len(image) for image in each)
        expected = torch.stack([image.expand(channels, -1, -1) for image in each])
        assert torch.equal(image_files.read_images(files, image_size), expected)


# ---------------------------------------------------------------- damage


def broken_png(picture, how):
    """Return the bytes of a PNG of `picture`, damaged; torchvision's decoder died of these."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    data = content.index(b"IDAT") + 4
    length = int.from_bytes(content[data - 8 : data - 4], "big")
    if how == "checksum":
        content[data + length] ^= 1
    elif how == "pixels":
        content[data + length // 2] ^= 1
    elif how == "pixels, checksum right":
        content[data + length - 1] ^= 1  # of the stream's own sum
    else:
        content[20:24] = (picture.height * 9).to_bytes(4, "big")  # more rows than there are
    for place, size in (
        ((12, 17), (data - 4, length + 4)) if how in ("rows", "pixels, checksum right") else ()
    ):
        content[place + size : place + size + 4] = zlib.crc32(content[place : place + size]).to_bytes(
            4, "big"
        )
    return bytes(content)


@pytest.mark.parametrize(
    ("how", "shape"),
    [
        *itertools.product(
            ["checksum", "pixels", "pixels, checksum right", "rows"], [(8, 8), (28, 28), (20, 20, 3)]
        ),
        ("pixels", (300, 300, 3)),  # Pillow, which reads the large ones, reads those of the other kinds
        ("pixels, checksum right", (300, 300, 3)),
    ],
)
def test_a_damaged_png_is_named_and_ends_no_process(tmp_path, random_image, shape, how):
    content, file = broken_png(Image.fromarray(random_image(*shape)), how), tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: cannot be read as an image"):
        image_files.read_images([str(file)])


def test_a_png_that_unpacks_to_more_than_it_says_takes_no_more_memory(tmp_path):
    header, data = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0), zlib.compress(bytes(100 << 20))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    (tmp_path / "a.png").write_bytes(content)
    tracemalloc.start()
    assert torch.equal(image_files.read_image(tmp_path / "a.png"), torch.zeros(1, 8, 8, dtype=torch.uint8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20
