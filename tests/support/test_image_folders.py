"""Folders of image files: which images are there, a copy is whole or not there, no file is ever changed."""

import hashlib
import os
import tempfile
from pathlib import Path

from support import image_folders
from support.console import UserError

import pytest
import torch
import torchvision.datasets
from conftest import contents, stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data

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
        files, labels, classes = image_folders.list_images(folder)[:3]
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
    image_folders.copy_images(folder, tmp_path / "out", {})
    assert contents(tmp_path / "out") == expected


# ---------------------------------------------------------------- training and testing


def write_contents(root, classes):
    """Write for each class, a list of bytes, files of these contents: root/CLASS/NUMBER.png."""
    for name, files in classes.items():
        (root / name).mkdir()
        for index, content in enumerate(files):
            (root / name / f"{index}.png").write_bytes(content)


@given(
    st.lists(st.lists(st.binary(max_size=3), min_size=2, max_size=12), min_size=2, max_size=3), st.binary()
)
def test_about_a_fifth_is_held_out_and_a_new_image_moves_no_other(classes, new):
    classes = dict(zip(["ant", "bee", "cat"], classes, strict=False))
    with tempfile.TemporaryDirectory() as root:
        write_contents(Path(root), classes)
        halves = image_folders.list_folder(Path(root))
        (Path(root) / "ant" / "new.png").write_bytes(new)
        later = image_folders.list_folder(Path(root))
    train, test = ({str(Path(file).relative_to(root)) for file in half.files} for half in halves)
    assert sorted([*train, *test]) == sorted(
        f"{name}/{index}.png" for name, files in classes.items() for index in range(len(files))
    )
    by_hash = {}
    for name, files in classes.items():
        fifths = [int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % 5 == 0 for content in files]
        by_hash[name] = {f"{name}/{index}.png" for index, fifth in enumerate(fifths) if fifth}
        ours = {file for file in test if file.startswith(f"{name}/")}
        assert 0 < len(ours) < len(files)
        if 0 < len(by_hash[name]) < len(files):
            assert ours == by_hash[name]
        else:
            assert len(ours) == 1
    if 0 < len(by_hash["ant"]) < len(classes["ant"]):
        later = [
            {str(Path(file).relative_to(root)) for file in half.files} - {"ant/new.png"} for half in later
        ]
        assert later == [train, test]


def test_a_class_of_one_image_cannot_be_divided(tmp_path):
    write_contents(tmp_path, {"ant": [b"1", b"2"], "bee": [b"3"]})
    with pytest.raises(UserError, match=r"bee/0\.png: is the only image of the class bee; two are needed"):
        image_folders.list_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "tested", "unused"),
    [
        (["train", "test"], "test", []),
        (["train", "val", "test"], "test", ["val"]),
        (["training", "validation"], "validation", []),
        (["train", "valid"], "valid", []),
        (["train", "valid", "testing"], "testing", ["valid"]),
        (["Train", "TEST", "Val"], "TEST", ["Val"]),
    ],
)
def test_the_folders_of_the_splits_are_known_by_their_names(tmp_path, names, tested, unused):
    for name in names:
        (tmp_path / name).mkdir()
    splits = image_folders.find_splits(tmp_path)
    assert splits == (tmp_path / names[0], tmp_path / tested, [tmp_path / name for name in unused])


def test_a_copy_keeps_the_folders_form(tmp_path):
    write_contents(tmp_path, {"ant": [b"1", b"2", b"3"], "bee": [b"4", b"5"]})
    image_folders.copy_images(tmp_path, tmp_path.with_name("alone"), {"ant/0.png": "bee", "ant/1.png": None})
    expected = {"ant/2.png": b"3", "bee/0.png": b"4", "bee/1.png": b"5", "bee/2-0.png": b"1"}
    assert contents(tmp_path.with_name("alone")) == expected


def test_validation_images_are_left_alone_and_copied_as_they_are(folder, tmp_path, capsys):
    before = data.load(str(folder))
    (folder / "val").mkdir()
    (folder / "val" / "1.png").write_bytes(b"not of a class, and no image")
    (folder / "val" / "around").symlink_to(".")
    for half, again in zip(before, data.load(str(folder)), strict=True):
        assert half.fingerprint() == again.fingerprint()
    assert capsys.readouterr().out.startswith(f"{folder}/val is left alone: the images in {folder}/test are")
    image_folders.copy_images(folder, tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(folder)


def test_class_folders_alone_are_loaded_in_two_halves(folder, capsys):
    halves = data.load(str(folder / "train"))
    assert [half.classes for half in halves] == 2 * [("row0", "row2", "row4")]
    assert sum(map(len, halves)) == 24
    n_test = len(halves[1])
    line = f"{folder}/train has no test images: {n_test} of 24 are held out for that, always the same ones\n"
    assert capsys.readouterr().out == line
    whole = {
        name: (image, label)
        for half in data.load(str(folder))[:1]
        for name, image, label in zip(half.ids, half.images, half.labels, strict=True)
    }
    for half in halves:
        for name, image, label in zip(half.ids, half.images, half.labels, strict=True):
            assert torch.equal(image, whole[f"train/{name}"][0])
            assert label == whole[f"train/{name}"][1]


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("colour", [False, True])
def test_what_is_written_is_read_back(tmp_path, colour):
    train, test = stripes(13), stripes(7, seed=1)
    if colour:
        train, test = (
            data.replace(half, images=torch.cat([half.images, half.images // 2, half.images // 3], dim=1))
            for half in (train, test)
        )
    image_folders.write_images(train, test, tmp_path / "out")
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
        image_folders.copy_images(
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
    image_folders.copy_images(
        tmp_path / "in", tmp_path / "out", {"train/cat/1.png": "dog", "train/ant/1.png": "dog"}
    )
    names = {path.name: Image.open(path).getpixel((0, 0)) for path in (tmp_path / "out/train/dog").iterdir()}
    assert names == {"1.png": 2, "2-1.png": 3, "3-1.png": 4, "4-1.png": 1}
    assert not (tmp_path / "out/train/cat").exists()


def test_folders_in_class_folders_are_copied(folder, tmp_path):
    inner = folder / "train" / "row0" / "inner"
    inner.mkdir()
    (folder / "train" / "row0" / "000.png").rename(inner / "000.png")
    image_folders.copy_images(folder, tmp_path / "out", {"train/row0/inner/000.png": "row2"})
    moved = contents(folder)
    moved["train/row2/000.png"] = moved.pop("train/row0/inner/000.png")
    assert contents(tmp_path / "out") == moved


def test_an_empty_current_folder_can_be_the_new_one(folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    image_folders.copy_images(folder, ".", {})
    assert contents(tmp_path / "here") == contents(folder)


def test_a_copy_is_whole_or_not_there(folder, tmp_path, monkeypatch):
    (tmp_path / "full" / "of").mkdir(parents=True)
    with pytest.raises(UserError, match="full: something is there; choose another folder"):
        image_folders.copy_images(folder, tmp_path / "full", {})
    with pytest.raises(UserError, match=r"is inside .*, which is not to be changed"):
        image_folders.copy_images(folder, folder / "train" / "copy", {})
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("row0", "row2"):
        (linked / name).symlink_to(folder / "train" / name)
    with pytest.raises(UserError, match=r"is inside .*linked/row2, which"):
        image_folders.copy_images(linked, folder / "train" / "row2" / "copy", {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="something is there"):
        image_folders.copy_images(folder, tmp_path / "file", {})

    def full_disk(source, target):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(image_folders.shutil, "copyfile", full_disk)
        with pytest.raises(OSError, match="No space left"):
            image_folders.copy_images(folder, tmp_path / "out", {})
    assert {path.name for path in tmp_path.iterdir()} == {"stripes", "full", "file", "linked"}


def test_a_full_disk_ends_an_export(tmp_path, monkeypatch):
    def full_disk(self, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        image_folders.write_images(stripes(3), stripes(3), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_linked_folder_is_not_written_into(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(folder / "train")
    (tmp_path / "linked" / "test").symlink_to(folder / "test")
    before = contents(folder)
    with pytest.raises(UserError, match="which is not to be changed"):
        image_folders.copy_images(tmp_path / "linked", folder / "train" / "copy", {})
    image_folders.copy_images(tmp_path / "linked", tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(folder) == before


def test_what_a_killed_copy_left_goes_and_nothing_else(folder, tmp_path):
    (tmp_path / ".out.0123abcd.part" / "train").mkdir(parents=True)
    kept = {".out.part", ".out.0123abcd.part2", ".other.0123abcd.part", ".out.89abcdef.part"}
    for name in kept - {".out.89abcdef.part"}:
        (tmp_path / name / "mine").mkdir(parents=True)
    (tmp_path / ".out.89abcdef.part").symlink_to(folder)
    (tmp_path / "out").mkdir()  # empty, so nothing is lost
    before = contents(folder)
    image_folders.copy_images(folder, tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"stripes", "out"} | kept


def test_of_two_copies_to_one_place_the_second_is_refused(folder, tmp_path):
    def slow_copy():
        with image_folders.whole_folder(tmp_path / "out") as part:
            (part / "slow").touch()
            image_folders.copy_images(folder, tmp_path / "out", {})

    with pytest.raises(UserError, match="something is there"):
        slow_copy()
    assert contents(tmp_path / "out") == contents(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"stripes", "out"}


def test_a_pipe_is_no_image(folder):
    before = image_folders.list_images(folder / "train")
    os.mkfifo(folder / "train" / "row0" / "pipe.png")
    (folder / "train" / "row0" / "gone.png").symlink_to("nowhere")
    listing = image_folders.list_images(folder / "train")
    assert listing[:3] == before[:3]
    assert {Path(file).name for file in listing.others} == {"pipe.png", "gone.png"}


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_that_it_is_in_adds_no_image(folder, target):
    before = image_folders.list_images(folder / "train")
    (folder / "train" / "row0" / "loop").symlink_to(target)
    assert image_folders.list_images(folder / "train") == before


def test_links_from_class_to_class_end_and_add_each_image_once(folder):
    train = folder / "train"
    (train / "row0" / "other").symlink_to("../row2")
    (train / "row2" / "other").symlink_to("../row0")
    listing = image_folders.list_images(train)
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
        image_folders.list_images(folder / "train")
