"""Image files: what is read is what was written, a copy is whole or not there, no file is ever changed."""

import io
import itertools
import os
import struct
import tempfile
import tracemalloc
import warnings
import zlib
from pathlib import Path

from support import image_files
from support.console import UserError
from support.files import locked

import numpy as np
import pytest
import torch
import torchvision.datasets
from conftest import contents, stripes, write_folder
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


def test_mixed_sizes_are_refused_or_made_one_size(tmp_path, random_image):
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    Image.fromarray(random_image(30, 20)).save(files[0])
    Image.fromarray(random_image(5, 6)).save(files[1])
    with pytest.raises(UserError, match=r"a\.png has 30×20 pixels, .*b\.png 5×6; --image-size N"):
        image_files.read_images(files)
    assert image_files.read_images(files, image_size=10).shape == (2, 1, 10, 10)


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
        read = image_files.read_images(data.list_images(tmp_path / name / "train")[0])
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
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # which is no concern of a user's
        assert image_files.read_image(tmp_path / "a.png").shape == (1, 20, 20)
    Image.new("RGB", (20, 21)).save(tmp_path / "a.png", kind)
    with pytest.raises(UserError, match=r"a\.png: cannot .* \(Image size \(420 pixels\) exceeds limit"):
        image_files.read_image(tmp_path / "a.png")


def test_images_that_do_not_fit_in_memory_are_not_read(tmp_path, monkeypatch, random_image):
    files = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png", "not there.png")]
    for file, shape in zip(files, ((10, 20), (10, 20), (10, 20, 3)), strict=False):
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
def test_every_image_is_in_memory_once_while_all_are_read(tmp_path, random_image, last, most):
    Image.fromarray(random_image(64, 64)).save(tmp_path / "grey.png")
    Image.fromarray(random_image(64, 64, 3)).save(tmp_path / "colour.png")
    files = [str(tmp_path / "grey.png")] * 200 + [str(tmp_path / f"{last}.png")]  # at worst it comes last
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        n_bytes = image_files.read_images(files).nbytes
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert n_bytes < max(itertools.accumulate(changes)) < most * n_bytes


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
        if len(sizes) > 1 and image_size is None:
            with pytest.raises(UserError, match="images of mixed sizes"):
                image_files.read_images(files)
            return
        if len(sizes) > 1:
            each = [v2.functional.resize(image, [image_size, image_size], antialias=True) for image in each]
        channels = max(len(image) for image in each)
        expected = torch.stack([image.expand(channels, -1, -1) for image in each])
        assert torch.equal(image_files.read_images(files, image_size), expected)


# ---------------------------------------------------------------- listing


paths = st.tuples(
    st.sampled_from(["a", "a b", "B", "ä"]),
    st.sampled_from([".", "x", "x y", "x/y", "X", "folder.png"]),
    st.sampled_from(["1.png", "10.PNG", "2.jpg", "b.tiff", "notes"]),
)


@given(st.lists(paths))
def test_files_are_listed_as_torchvision_lists_them(more):
    with tempfile.TemporaryDirectory() as folder:
        for parts in [*((name, ".", "z.webp") for name in ("a", "a b", "B", "ä")), *more]:
            Path(folder, *parts).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, *parts).touch()
        files, labels, classes = image_files.list_images(folder)[:3]
        listing = torchvision.datasets.ImageFolder(folder)
    assert list(zip(files, labels, strict=True)) == listing.samples
    assert list(classes) == listing.classes


def test_what_is_hidden_is_skipped_and_what_is_no_image_is_named(folder, tmp_path, capsys):
    expected = contents(folder)
    before = data.load(str(folder))
    assert capsys.readouterr().out == ""
    for name in ("train/.ipynb_checkpoints", "train/row0/.ipynb_checkpoints", "train/row2/.cache/inner"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / name / "000-checkpoint.png")
    for name in ("train/.DS_Store", "train/row0/.DS_Store", "train/row0/._000.png"):
        (folder / name).touch()
    for half, again in zip(before, data.load(str(folder)), strict=True):
        assert (half.ids, half.classes, half.fingerprint()) == (again.ids, again.classes, again.fingerprint())
    assert capsys.readouterr().out == ""  # nothing of it is a person's
    others = (
        "train/loose.png",
        "train/row0/a.txt",
        "train/row2/a.heic",
        "train/row2/b",
        "test/row4/c.svg",
    )
    for name in others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert data.load(str(folder))[0].ids == before[0].ids
    names = "train/loose.png, train/row0/a.txt, train/row2/a.heic, …"
    note = f"Note: files in {folder} that are no images are left out, 5 in all: {names}\n"
    assert capsys.readouterr().out == note
    image_files.copy_images(folder, tmp_path / "out", {})
    assert contents(tmp_path / "out") == expected


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("colour", [False, True])
def test_what_is_written_is_read_back(tmp_path, colour):
    train, test = stripes(13), stripes(7, seed=1)
    if colour:
        train, test = (
            data.replace(half, images=torch.cat([half.images, half.images // 2, half.images // 3], dim=1))
            for half in (train, test)
        )
    image_files.write_images(train, test, tmp_path / "out")
    for half, read in zip((train, test), data.load(str(tmp_path / "out")), strict=True):
        order = torch.tensor([int(Path(name).stem) for name in read.ids])
        assert sorted(order.tolist()) == list(range(len(half)))
        assert torch.equal(read.images, half.images[order])
        assert torch.equal(read.labels, half.labels[order])
        assert read.classes == half.classes


choices = st.lists(st.sampled_from(["stay", "leave out", "row0", "row2", "row4"]), min_size=24, max_size=24)


@given(choices)
def test_a_copy_has_every_file_once_where_it_was_told(new_classes):
    with tempfile.TemporaryDirectory() as place:
        root, out = write_folder(Path(place, "stripes")), Path(place, "copy")
        before = contents(root)
        train = sorted(name for name in before if name.startswith("train"))
        told = {name: choice for name, choice in zip(train, new_classes, strict=True) if choice != "stay"}
        image_files.copy_images(
            root, out, {name: None if c == "leave out" else c for name, c in told.items()}
        )
        assert contents(root) == before
        expected = [
            (f"train/{told[name]}" if name in told else str(Path(name).parent), content)
            for name, content in before.items()
            if told.get(name) != "leave out"
        ]
        found = [(str(Path(name).parent), content) for name, content in contents(out).items()]
        assert sorted(found) == sorted(expected)


def test_a_name_that_is_taken_in_the_new_class_gets_a_number(tmp_path):
    for name, shade in (("cat/1", 1), ("dog/1", 2), ("dog/2-1", 3), ("ant/1", 4)):
        for split in ("train", "test"):
            (tmp_path / "in" / split / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (3, 3), shade).save(tmp_path / "in" / split / f"{name}.png")
    image_files.copy_images(
        tmp_path / "in", tmp_path / "out", {"train/cat/1.png": "dog", "train/ant/1.png": "dog"}
    )
    names = {path.name: Image.open(path).getpixel((0, 0)) for path in (tmp_path / "out/train/dog").iterdir()}
    assert names == {"1.png": 2, "2-1.png": 3, "3-1.png": 4, "4-1.png": 1}
    assert not (tmp_path / "out/train/cat").exists()


def test_folders_in_class_folders_are_copied(folder, tmp_path):
    inner = folder / "train" / "row0" / "inner"
    inner.mkdir()
    (folder / "train" / "row0" / "000.png").rename(inner / "000.png")
    image_files.copy_images(folder, tmp_path / "out", {"train/row0/inner/000.png": "row2"})
    moved = contents(folder)
    moved["train/row2/000.png"] = moved.pop("train/row0/inner/000.png")
    assert contents(tmp_path / "out") == moved


def test_an_empty_current_folder_can_be_the_new_one(folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    image_files.copy_images(folder, ".", {})
    assert contents(tmp_path / "here") == contents(folder)


def test_a_copy_is_whole_or_not_there(folder, tmp_path, monkeypatch):
    (tmp_path / "full" / "of").mkdir(parents=True)
    with pytest.raises(UserError, match="full: something is there; choose another folder"):
        image_files.copy_images(folder, tmp_path / "full", {})
    with pytest.raises(UserError, match=r"is inside .*, which is not to be changed"):
        image_files.copy_images(folder, folder / "train" / "copy", {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="something is there"):
        image_files.copy_images(folder, tmp_path / "file", {})

    def full_disk(source, target):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(image_files.shutil, "copyfile", full_disk)
        with pytest.raises(OSError, match="No space left"):
            image_files.copy_images(folder, tmp_path / "out", {})
    assert {path.name for path in tmp_path.iterdir()} == {"stripes", "full", "file"}


def test_a_full_disk_ends_an_export(tmp_path, monkeypatch):
    def full_disk(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        image_files.write_images(stripes(3), stripes(3), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_linked_folder_is_not_written_into(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(folder / "train")
    (tmp_path / "linked" / "test").symlink_to(folder / "test")
    before = contents(folder)
    with pytest.raises(UserError, match="which is not to be changed"):
        image_files.copy_images(tmp_path / "linked", folder / "train" / "copy", {})
    image_files.copy_images(tmp_path / "linked", tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(folder) == before


def test_what_a_killed_copy_left_is_no_part_of_the_next(folder, tmp_path):
    left = tmp_path / ".out.part" / "train" / "row0" / "left.png"
    left.parent.mkdir(parents=True)
    left.touch()
    with locked(tmp_path / ".out.part"), pytest.raises(UserError, match="another process"):
        image_files.copy_images(folder, tmp_path / "out", {})
    (tmp_path / "out").mkdir()  # empty, so nothing is lost
    image_files.copy_images(folder, tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"stripes", "out"}


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


@pytest.mark.parametrize("how", ["checksum", "pixels", "pixels, checksum right", "rows"])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (20, 20, 3), (300, 300, 3)])
def test_a_damaged_png_is_named_and_ends_no_process(tmp_path, random_image, shape, how):
    content, file = broken_png(Image.fromarray(random_image(*shape)), how), tmp_path / "a.png"
    file.write_bytes(content)
    if shape[0] == 300 and how in ("checksum", "rows"):
        return  # Pillow, which reads the large ones, reads these
    with pytest.raises(UserError, match=r"a\.png: cannot be read as an image"):
        image_files.read_images([str(file)])


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_that_it_is_in_adds_no_image(folder, target):
    before = image_files.list_images(folder / "train")
    (folder / "train" / "row0" / "loop").symlink_to(target)
    assert image_files.list_images(folder / "train") == before


def test_links_from_class_to_class_end_and_add_each_image_once(folder):
    train = folder / "train"
    (train / "row0" / "other").symlink_to("../row2")
    (train / "row2" / "other").symlink_to("../row0")
    listing = image_files.list_images(train)
    found = [Path(file).relative_to(train).as_posix() for file in listing.files]
    own = {name: {path.name for path in (train / name).glob("*.png")} for name in ("row0", "row2")}
    for name, other in (("row0", "row2"), ("row2", "row0")):
        expected = [f"{name}/{file}" for file in own[name]] + [f"{name}/other/{file}" for file in own[other]]
        assert sorted(file for file in found if file.startswith(f"{name}/")) == sorted(expected)


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch):
    scandir = os.scandir  # root may read every folder, so that the mode does not do

    def refusing(path):
        if str(path).endswith("row2"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="row2"):
        image_files.list_images(folder / "train")


def test_a_png_that_unpacks_to_more_than_it_says_takes_no_more_memory(tmp_path):
    header, data = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0), zlib.compress(bytes(300 << 20))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    (tmp_path / "a.png").write_bytes(content)
    tracemalloc.start()
    assert torch.equal(image_files.read_image(tmp_path / "a.png"), torch.zeros(1, 8, 8, dtype=torch.uint8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20
