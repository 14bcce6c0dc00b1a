"""Image folders: listings, held-out images, copies. No file is changed, and each error is one line."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from support import image_files
from support import image_folders as folders
from support.console import UserError

rng = np.random.default_rng(0)


def noise(*shape):
    """Return random uint8 pixels, (height, width) or (height, width, 3)."""
    return rng.integers(0, 256, shape, dtype=np.uint8)


def write(file, pixels=None, kind=None, **options):
    """Write `pixels`, random ones by default, to an image file and return its path."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(6, 5) if pixels is None else pixels).save(file, kind, **options)
    return str(file)


def write_classes(root, n=6, names=("cat", "dog")):
    """Write `n` random images for each class and return `root`."""
    for name in names:
        for index in range(n):
            write(Path(root, name, f"{index}.png"))
    return Path(root)


def names(listing, root):
    """Return the paths of a Listing relative to `root`."""
    return [os.path.relpath(file, root) for file in listing.files]


# ---------------------------------------------------------------- list


def test_a_listing_has_each_image_once_by_class_folder_and_name(tmp_path, capsys):
    root = write_classes(tmp_path / "train").parent
    write_classes(root / "Testing", 2)
    write(root / "train/cat/inner/0.JPEG")
    write(root / "train/cat/.hidden.png")
    train, test = folders.list_folder(root)
    assert names(train, root)[:7] == [f"train/cat/{i}.png" for i in range(6)] + ["train/cat/inner/0.JPEG"]
    assert (train.labels, test.labels) == ([0] * 7 + [1] * 6, [0, 0, 1, 1])
    assert train.classes == test.classes == ("cat", "dog")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("device", ["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "__MACOSX"])
def test_system_folders_are_skipped_at_every_depth(tmp_path, capsys, device):
    root = write_classes(tmp_path)
    write(root / device / "x.jpg" / "THUMB.jpg")
    write(root / "cat" / "inner" / device / "THUMB.jpg")
    train, test = folders.list_folder(root)
    assert train.classes == ("cat", "dog")
    assert len(train.files + test.files) == 12
    assert f"cat/inner/{device}" in capsys.readouterr().out


def test_our_own_output_is_never_a_class(tmp_path, capsys):
    root, mark = write_classes(tmp_path), PngInfo()
    mark.add_text(*folders.PNG_MARK)
    write(root / "runs/predicted.png", pnginfo=mark)
    write(root / "charts/inner/a.png", pnginfo=mark)
    write(root / "diagnosis/x.png")
    (root / "diagnosis/config.json").touch()
    (root / "diagnosis/top_losses.csv").touch()
    write(root / "data/FashionMNIST/raw/t10k-images-idx3-ubyte", kind="BMP")
    (root / "data/FashionMNIST/raw/t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    write(root / "cat/zz.png", pnginfo=mark)  # one of our pictures among others hides nothing
    train, test = folders.list_folder(root)
    assert (train.classes, len(train.files + test.files)) == (("cat", "dog"), 13)
    assert "diagnosis" in capsys.readouterr().out


def test_the_first_bytes_identify_images_with_unknown_suffixes(tmp_path, capsys):
    root = write_classes(tmp_path)
    kinds = {"a": "JPEG", "b.jpg_large": "JPEG", "c.jfif": "JPEG", "d.x": "WEBP", "e": "BMP"}
    for name, kind in kinds.items():
        write(root / "cat" / name, kind=kind)
    others = {"note.txt": b"BMW, P5 or GIF", "raw.nef": b"II*\0" + bytes(99), "empty": b""}
    for name, content in others.items():
        (root / "dog" / name).write_bytes(content)
    os.mkfifo(root / "dog/pipe.png")
    train, test = folders.list_folder(root)
    assert len(train.files + test.files) == 17
    assert "4 in all" in capsys.readouterr().out


def test_links_are_followed_but_not_in_circles(tmp_path):
    root = write_classes(tmp_path / "a")
    for target in (".", "..", "../.."):
        (root / "cat/loop").symlink_to(target)
        train, test = folders.list_folder(root)
        assert len(train.files + test.files) == 12
        (root / "cat/loop").unlink()
    (root / "cat/other").symlink_to("../dog")
    (root / "dog/other").symlink_to("../cat")
    train, test = folders.list_folder(root)
    assert len(train.files + test.files) == 24


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda root: (root / "train/hen").symlink_to("/mnt/none/hen"), "/mnt/none/hen"),
        (lambda root: write(root / "test/hen/1.png"), "hen"),
        (lambda root: write(root / "test/Ca\u0308t/1.png"), "Ca\\u0308t"),
        (lambda root: write(root / "test/cat /1.png"), "'cat ' *; *'cat' only looks"),
        (lambda root: (root / "test").rename(root / "other"), "needs one of"),
        (lambda root: write_classes(root / "training"), "training"),
        (lambda root: (root / "train/dog").rename(root / "dog"), "1 class folders"),
        (lambda root: root.rename(root.with_name("gone")), "no such folder"),
        (lambda root: [shutil.rmtree(root / name) for name in ("train", "test")], "0 class folders"),
        (lambda root: [write(root / "1.png"), *map(shutil.rmtree, root.glob("t*"))], "0 class folders"),
    ],
)
def test_a_layout_that_is_unclear_is_refused(tmp_path, change, fact):
    root = write_classes(tmp_path / "m/train").parent
    write_classes(root / "test", 2)
    change(root)
    with pytest.raises(UserError, match=fact.replace("\\", "\\\\")):
        folders.list_folder(root)


def test_splits_in_classes_are_refused_but_a_class_may_have_a_folder_train(tmp_path):
    for name in ("cat", "dog"):
        write_classes(tmp_path / name, 4, ("train",))
    assert folders.list_folder(tmp_path)[0].classes == ("cat", "dog")
    write(tmp_path / "cat/Test/1.png")
    with pytest.raises(UserError, match="train/cat and test/cat"):
        folders.list_folder(tmp_path)


def test_val_replaces_a_test_folder_without_classes_and_untested_classes_are_trained(tmp_path, capsys):
    write_classes(tmp_path / "train", names=("cat", "dog", "hen"))
    write_classes(tmp_path / "val", 3)
    write(tmp_path / "test/1.png")
    (tmp_path / "val/hen").mkdir()
    write(tmp_path / "beside/1.png")
    train, test = folders.list_folder(tmp_path)
    assert train.classes == test.classes == ("cat", "dog", "hen")
    assert (len(train.files), sorted({*test.labels})) == (18, [0, 1])
    assert names(test, tmp_path)[0] == "val/cat/0.png"
    printed = capsys.readouterr().out
    assert "not tested: hen" in printed
    assert "beside" in printed
    write_classes(tmp_path / "test", 1)
    assert names(folders.list_folder(tmp_path)[1], tmp_path) == ["test/cat/0.png", "test/dog/0.png"]
    assert "val" in capsys.readouterr().out


# ---------------------------------------------------------------- held-out images


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), min_size=2, max_size=4))
def test_copies_stay_together_and_each_class_keeps_a_training_image(classes):
    with tempfile.TemporaryDirectory() as root:
        for label, numbers in enumerate(classes):
            for index, number in enumerate(numbers):
                file = Path(root, f"c{label}", f"{index}.png")
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(b"%d" % number)
        try:
            train, test = folders.list_folder(root)
        except UserError:
            assert all(len({*numbers}) == 1 for numbers in classes)
            return
        bytes_of = [{Path(file).read_bytes() for file in split.files} for split in (train, test)]
        assert not bytes_of[0] & bytes_of[1]
        assert {*train.labels} == {*range(len(classes))}
        for label, numbers in enumerate(classes):
            alone = {*numbers} - {n for other, more in enumerate(classes) if other != label for n in more}
            assert label in test.labels or len(alone) < 2  # a class with two images of its own lends one
        assert len(train.files + test.files) == sum(map(len, classes))


def test_one_image_in_five_is_held_out_and_new_images_do_not_move_others(tmp_path, capsys):
    for index in range(400):
        for name in ("cat", "dog"):
            Path(tmp_path, name).mkdir(exist_ok=True)
            Path(tmp_path, name, f"{index}.png").write_bytes(f"{name} {index}".encode())
    train, test = folders.list_folder(tmp_path)
    assert 120 < len(test.files) < 200
    assert f"{len(test.files)} of 800" in capsys.readouterr().out
    assert all(int(hashlib.sha256(Path(f).read_bytes()).hexdigest()[:16], 16) % 5 == 0 for f in test.files)
    for index in range(400, 500):
        Path(tmp_path, "cat", f"{index}.png").write_bytes(b"%d" % index)
    more_train, more_test = folders.list_folder(tmp_path)
    assert {*train.files} <= {*more_train.files}
    assert {*test.files} <= {*more_test.files}


@pytest.mark.parametrize("channels", [1, 3])
def test_written_images_are_read_back(tmp_path, channels):
    images = torch.randint(0, 256, (7, channels, 5, 6), dtype=torch.uint8)
    folders.write_images(tmp_path / "train", images, torch.arange(7) % 2, ("a", "b"))
    files = folders.image_files(tmp_path)
    assert files[:2] == [str(tmp_path / f"train/a/{name}.png") for name in ("00000", "00002")]
    assert torch.equal(image_files.read_images(files)[0], images[[0, 2, 4, 6, 1, 3, 5]])


choices = st.lists(st.sampled_from(["stay", None, "cat", "dog", "hen"]), min_size=12, max_size=12)


@given(choices, st.booleans())
def test_a_copy_has_every_file_that_was_not_removed(new_classes, has_splits):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "in", "train" if has_splits else "")
        write_classes(root)
        ids = sorted(contents(place + "/in"))
        for name in ("README", "cat/.hidden", "cat/1.xyz", "dog/@eaDir/x.png", "dog/\udcff.txt"):
            Path(root, name).parent.mkdir(exist_ok=True)
            Path(root, name).write_bytes(name.encode(errors="surrogateescape"))
        before = contents(place + "/in")
        told = {name: new for name, new in zip(ids, new_classes, strict=True) if new != "stay"}
        counts = folders.copy_folder(place + "/in", place + "/out", told | {"no/such.png": "cat"})
        assert contents(place + "/in") == before
        found = contents(place + "/out")
        assert counts == (len(before), len(found))
        wanted = [
            (str(Path(name).parent.with_name(told[name]) if name in told else Path(name).parent), content)
            for name, content in before.items()
            if told.get(name, "") is not None
        ]
        assert sorted((str(Path(name).parent), content) for name, content in found.items()) == sorted(wanted)


def test_a_name_that_exists_in_any_case_or_unicode_form_gets_a_number(tmp_path):
    long = "x" * 251
    for name in ("cat/A.JPG", "cat/2-a.jpg", f"cat/{long}.png", "cat/\u00c4.png"):
        write(tmp_path / "in" / name)
    moved = ["dog/a.jpg", f"dog/{long}.png", "hen/A\u0308.PNG", f"hen/{long}.png"]
    for name in moved:
        write(tmp_path / "in" / name)
    folders.copy_folder(tmp_path / "in", tmp_path / "out", dict.fromkeys(moved, "cat"))
    expected = {"A.JPG", "2-a.jpg", "3-a.jpg", f"{long}.png", f"2-{long[2:]}.png", f"3-{long[2:]}.png"}
    expected |= {"\u00c4.png", "2-A\u0308.PNG"}
    assert {path.name for path in (tmp_path / "out/cat").iterdir()} == expected
    assert sorted(contents(tmp_path / "out").values()) == sorted(contents(tmp_path / "in").values())


def test_a_copy_is_never_written_into_its_source_or_over_something(tmp_path):
    root = write_classes(tmp_path / "in")
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(root / name)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "all").symlink_to(root)  # it has folders only
    (tmp_path / "file").touch()
    (tmp_path / "to_nothing").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    for source, out in (
        (root, root / "x"),
        (root, root),
        (tmp_path / "linked", root / "cat/x"),
        (tmp_path / "deep", root / "x"),
        (root, "linked/cat/x"),
        (root, "file"),
        (root, "linked"),
        (root, "to_nothing"),
        (root, "empty"),
    ):
        with pytest.raises(UserError):
            folders.copy_folder(source, tmp_path / out, {})
    with pytest.raises(KeyError), folders.new_folder(tmp_path / "new/out") as folder:
        write(folder / "half/x.png", kind="no such kind")  # fails after it has made half/
    assert contents(tmp_path) == before
    assert list((tmp_path / "new").iterdir()) == []
    folders.copy_folder(tmp_path / "linked", tmp_path / "copy", {})
    assert contents(tmp_path / "copy") == contents(root)
