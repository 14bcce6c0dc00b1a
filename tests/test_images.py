"""Image files: what is read is what was written, a copy is whole or not there, no file is ever changed."""

import tempfile
from pathlib import Path

from runs import UserError

import numpy as np
import pytest
import torch
from conftest import stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import data
import images
from files import locked

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
        read = images.read_images(files)
    assert read.dtype == torch.uint8
    expected = pictures.transpose(0, 3, 1, 2) if channels else pictures[:, None]
    if (expected == expected[:, :1]).all():
        expected = expected[:, :1]  # equal channels are grey
    assert np.array_equal(read.numpy(), expected)


def test_grey_and_colour_together_become_rgb(tmp_path, random_image):
    grey, colour = random_image(5, 6), random_image(5, 6, 3)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(colour).save(tmp_path / "b.png")
    read = images.read_images([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert np.array_equal(read[0].numpy(), np.stack([grey] * 3))
    assert np.array_equal(read[1].numpy(), colour.transpose(2, 0, 1))


def test_unusual_files_are_read_as_pillow_reads_them(tmp_path, random_image):
    colour = Image.fromarray(random_image(6, 9, 3))
    alpha = colour.copy()
    alpha.putalpha(200)
    deep = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1200
    for name, picture, expected in (
        ("palette", colour.quantize(8), None),
        ("alpha", alpha, colour),
        ("grey-alpha", colour.convert("LA"), colour.convert("L").convert("RGB")),
        ("bilevel", colour.convert("1"), colour.convert("1").convert("L")),
        ("deep", Image.fromarray(deep), Image.fromarray((deep // 257).astype(np.uint8))),
    ):
        file = str(tmp_path / f"{name}.png")
        picture.save(file)
        expected = np.asarray(expected or Image.open(file).convert("RGB"))
        expected = expected.transpose(2, 0, 1) if expected.ndim == 3 else expected[None]
        assert np.abs(images.read_images([file])[0].numpy().astype(int) - expected).max() <= 1, name


def test_a_jpeg_is_turned_as_its_exif_says(tmp_path):
    picture, exif = Image.new("L", (16, 8)), Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise to see it upright
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert images.read_images([str(tmp_path / "a.jpg")]).shape == (1, 1, 16, 8)


def test_mixed_sizes_are_refused_or_made_one_size(tmp_path, random_image):
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    Image.fromarray(random_image(30, 20)).save(files[0])
    Image.fromarray(random_image(5, 6)).save(files[1])
    with pytest.raises(UserError, match=r"a\.png has 30×20 pixels, .*b\.png 5×6; --image-size N"):
        images.read_images(files)
    assert images.read_images(files, image_size=10).shape == (2, 1, 10, 10)


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_an_image_that_cannot_be_read_is_named(folder, content, kind, random_image):
    file = folder / "train" / "row2" / f"broken.{kind}"
    Image.fromarray(random_image(8, 8)).save(file)
    file.write_bytes(file.read_bytes()[:60] if content == "cut" else content)
    with pytest.raises(UserError, match=rf"{file}: cannot be read as an image"):
        data.load(str(folder))


def test_an_animation_is_refused(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="it is an animation"):
        images.read_images([str(tmp_path / "a.png")])


# ---------------------------------------------------------------- writing


def contents(root):
    """Return {relative path: bytes} of all files under `root`."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("colour", [False, True])
def test_what_is_written_is_read_back(tmp_path, colour):
    train, test = stripes(13), stripes(7, seed=1)
    if colour:
        train, test = (
            data.replace(half, images=torch.cat([half.images, half.images // 2, half.images // 3], dim=1))
            for half in (train, test)
        )
    images.write_images(train, test, tmp_path / "out")
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
        images.copy_images(root, out, {name: None if c == "leave out" else c for name, c in told.items()})
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
    images.copy_images(
        tmp_path / "in", tmp_path / "out", {"train/cat/1.png": "dog", "train/ant/1.png": "dog"}
    )
    names = {path.name: Image.open(path).getpixel((0, 0)) for path in (tmp_path / "out/train/dog").iterdir()}
    assert names == {"1.png": 2, "2-1.png": 3, "3-1.png": 4, "4-1.png": 1}
    assert not (tmp_path / "out/train/cat").exists()


def test_folders_in_class_folders_are_copied(folder, tmp_path):
    inner = folder / "train" / "row0" / "inner"
    inner.mkdir()
    (folder / "train" / "row0" / "000.png").rename(inner / "000.png")
    images.copy_images(folder, tmp_path / "out", {"train/row0/inner/000.png": "row2"})
    moved = contents(folder)
    moved["train/row2/000.png"] = moved.pop("train/row0/inner/000.png")
    assert contents(tmp_path / "out") == moved


def test_an_empty_current_folder_can_be_the_new_one(folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    images.copy_images(folder, ".", {})
    assert contents(tmp_path / "here") == contents(folder)


def test_a_copy_is_whole_or_not_there(folder, tmp_path, monkeypatch):
    (tmp_path / "full" / "of").mkdir(parents=True)
    with pytest.raises(UserError, match="full: something is there; choose another folder"):
        images.copy_images(folder, tmp_path / "full", {})
    with pytest.raises(UserError, match=r"is inside .*, which is not to be changed"):
        images.copy_images(folder, folder / "train" / "copy", {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="something is there"):
        images.copy_images(folder, tmp_path / "file", {})

    def full_disk(source, target):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(images.shutil, "copyfile", full_disk)
        with pytest.raises(OSError, match="No space left"):
            images.copy_images(folder, tmp_path / "out", {})
    assert {path.name for path in tmp_path.iterdir()} == {"stripes", "full", "file"}


def test_a_full_disk_ends_an_export(tmp_path, monkeypatch):
    def full_disk(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        images.write_images(stripes(3), stripes(3), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_linked_folder_is_not_written_into(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(folder / "train")
    (tmp_path / "linked" / "test").symlink_to(folder / "test")
    before = contents(folder)
    with pytest.raises(UserError, match="which is not to be changed"):
        images.copy_images(tmp_path / "linked", folder / "train" / "copy", {})
    images.copy_images(tmp_path / "linked", tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(folder) == before


def test_what_a_killed_copy_left_is_no_part_of_the_next(folder, tmp_path):
    left = tmp_path / ".out.part" / "train" / "row0" / "left.png"
    left.parent.mkdir(parents=True)
    left.touch()
    with locked(tmp_path / ".out.part"), pytest.raises(UserError, match="another process"):
        images.copy_images(folder, tmp_path / "out", {})
    (tmp_path / "out").mkdir()  # empty, so nothing is lost
    images.copy_images(folder, tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"stripes", "out"}
