"""Data: loading by name and from folders, batches, augmentation, random numbers, wrong labels."""

import math
import os
import socket
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import contents, small_settings, stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data
from support.console import UserError

# ---------------------------------------------------------------- folders

CLASSES = ["cat", "dog", "Ärger"]
class_names = st.lists(st.sampled_from(CLASSES), max_size=6).map(lambda names: CLASSES + names)


@given(class_names, class_names, st.sampled_from(["train", "training"]), st.sampled_from(["test", "val"]))
def test_a_folder_becomes_images_labels_and_ids(train_names, test_names, train_folder, test_folder):
    with tempfile.TemporaryDirectory() as root:
        for split, names in ((train_folder, train_names), (test_folder, test_names)):
            for index, name in enumerate(names):
                folder = Path(root, split, name)
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 3), color=index).save(folder / f"{index}.png")
        splits = data.load(root)
    for loaded, split, names in zip(
        splits, (train_folder, test_folder), (train_names, test_names), strict=True
    ):
        assert loaded.images.shape == (len(names), 1, 3, 4)
        assert loaded.classes == ("cat", "dog", "Ärger")
        for image, label, id in zip(loaded.images, loaded.labels, loaded.ids, strict=True):
            index = image[0, 0, 0].item()
            assert loaded.classes[label] == names[index]
            assert id == f"{split}/{names[index]}/{index}.png"


def test_limit_keeps_the_same_random_images(folder):
    train, test = data.load(str(folder))
    few, few_test = data.load(str(folder), limit=7)
    assert (len(few), len(few_test)) == (7, 7)
    assert set(few.ids) < set(train.ids)
    assert few.ids == data.load(str(folder), limit=7)[0].ids
    assert few.ids != train.ids[:7]  # files are sorted by class: the first ones would be of one class
    for index, name in enumerate(few.ids):
        assert torch.equal(few.images[index], train.images[train.ids.index(name)])
    assert len(data.load(str(folder), limit=1000)[1]) == len(test)


def test_a_fingerprint_depends_on_pixels_labels_and_classes_but_not_on_order_or_name():
    clean = stripes(12)
    images, labels = clean.images.clone(), clean.labels.clone()
    images[3, 0, 2, 2] += 1
    labels[5] = 0
    order = data.random_order(12, 0)
    changed = [
        replace(clean, images=images),
        replace(clean, labels=labels),
        replace(clean, classes=("a", "b", "c")),
        replace(clean, labels=clean.labels[order]),  # as many of each class
        clean.subset(torch.arange(11)),
    ]
    assert len({each.fingerprint() for each in [clean, *changed]}) == 6
    assert replace(clean.subset(order), source="another name").fingerprint() == clean.fingerprint()


# ---------------------------------------------------------------- names


def write_mnist(folder, n_train=20, n_test=10):
    """Write files in the IDX format of MNIST, from its description: magic, sizes, bytes."""
    (folder / "raw").mkdir(parents=True)
    for name, n in (("train", n_train), ("t10k", n_test)):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (folder / "raw" / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(i % 10 for i in range(n))
        (folder / "raw" / f"{name}-labels-idx1-ubyte").write_bytes(labels)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A new current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_auto_is_the_sheets_folder_then_mnist_then_the_built_in_digits(here, monkeypatch, capsys):
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=socket.gaierror("no network")))
    assert data.find("auto") == "digits"
    assert "MNIST could not be downloaded" in capsys.readouterr().out
    write_mnist(Path("data/MNIST"))
    assert data.find("auto") == "mnist"
    train, test = data.load("auto")
    assert (len(train), len(test), train.source) == (20, 10, "MNIST")
    write_folder(Path("data/mnist_png"))
    assert data.find("auto") == "data/mnist_png"
    assert data.load("auto")[0].source == "mnist_png"
    with pytest.raises(UserError, match="FashionMNIST"):
        data.load("fashion")


@pytest.mark.parametrize("name", ["digits", "mnist", "auto"])
def test_an_ambiguous_name_is_refused_and_both_unambiguous_spellings_work(here, name):
    write_folder(Path(name))
    write_mnist(Path("data/MNIST"))
    with pytest.raises(UserError, match=rf"\./{name} or set:{name}"):
        data.load(name)
    assert data.load(f"./{name}")[0].source == name
    found = data.find(f"set:{name}")
    assert data.load(found)[0].source == ("the built-in digits" if name == "digits" else "MNIST")
    assert data.find(found) == found


def test_torchvisions_folder_is_read_but_never_hides_class_folders(here):
    write_mnist(Path("data/MNIST"))
    Path("data/.hidden").mkdir()
    assert data.load("data/MNIST")[0].source == data.load("data")[0].source == "MNIST"
    write_folder(Path("classes"))
    for name in ("row0", "row2", "row4"):
        os.rename(f"classes/train/{name}", f"data/{name}")
    assert data.load("data")[0].classes == ("row0", "row2", "row4")


def test_introduce_notes_uneven_classes_copies_and_contradictions(capsys):
    train, test = stripes(30), stripes(6, seed=1)
    data.introduce(train, test)
    (line,) = capsys.readouterr().out.splitlines()
    assert "30 training and 6 test images, 8×8 pixels, grey, 3 classes" in line
    data.introduce(*(replace(split, images=split.images.repeat(1, 3, 1, 1)) for split in (train, test)))
    assert "colour" in capsys.readouterr().out
    labels, images = train.labels.clone(), train.images.clone()
    labels[:8] = 2
    images[9] = images[2]  # of another class
    data.introduce(replace(train, labels=labels, images=images), replace(test, images=images[:6]))
    _, size, copies, contradictions = capsys.readouterr().out.splitlines()
    assert "16 images of row4, 7 of row2" in size
    assert ": 6, such as train/00000 = train/00000" in copies
    assert ": 1, such as train/00002 = train/00009" in contradictions


# ---------------------------------------------------------------- batches


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 3))
def test_processes_split_each_batch_and_each_process_gets_images(n_images, batch_size, n_processes):
    images = replace(stripes(n_images), labels=torch.arange(n_images))  # each image has its own label
    settings = small_settings(batch_size=batch_size)
    alone = list(data.batches(images, settings, epoch=1))
    shares = [list(data.batches(images, settings, 1, rank, n_processes)) for rank in range(n_processes)]
    assert sorted(torch.cat([labels for _, labels in alone]).tolist()) == list(range(n_images))
    for step, (_, labels) in enumerate(alone):
        parts = [share[step][1] for share in shares]
        assert all(len(part) for part in parts)
        if len(labels) >= n_processes:
            assert sorted(torch.cat(parts).tolist()) == sorted(labels.tolist())
        for batch, numbers in (share[step] for share in shares):
            assert torch.equal(batch, images.images[numbers] / 255)


def test_processes_share_augmentation_but_not_dropout():
    settings, images = small_settings(augment=True, batch_size=9), stripes(9)
    whole, _ = next(data.batches(images, settings, 1))
    shares, numbers = [], set()
    for rank in range(3):
        shares.append(next(data.batches(images, settings, 1, rank, 3))[0])
        numbers.add(torch.rand(1).item())
    assert all(torch.equal(share, whole[rank::3]) for rank, share in enumerate(shares))
    assert len(numbers) == 3
    torch.manual_seed(data.mix(0, 1, 1))  # seed, epoch, step: with others, published numbers would change
    order = data.random_order(9, 0, 1)
    expected = data.batch_to_float(images.images[order], [8, 8], data.affine_maps(9, (8, 8)))
    assert torch.equal(whole, expected)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_batches_become_floats_of_the_wanted_size(channels, height, width, to_height, to_width):
    images = torch.randint(256, (2, channels, height, width), dtype=torch.uint8)
    batch = data.batch_to_float(images, [to_height, to_width])
    assert batch.shape == (2, channels, to_height, to_width)
    assert batch.min() >= 0
    assert batch.max() <= 1
    assert batch.is_contiguous(memory_format=torch.channels_last)
    if (height, width) == (to_height, to_width):
        assert torch.equal(batch, images / 255)


# ---------------------------------------------------------------- augmentation


def test_the_transform_scales_then_shears_then_rotates():
    torch.manual_seed(5)
    angle, shift_x, shift_y, scale_x, scale_y, slant = (2 * torch.rand(6, 1) - 1)[:, 0].tolist()
    torch.manual_seed(5)
    ((*linear, shifts),) = data.affine_maps(1, (20, 40)).mT
    radians = math.radians(10 * angle)
    rotate = torch.tensor([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]])
    shear = torch.tensor([[1, 0.1 * slant], [0, 1]])
    grow = torch.tensor([[math.exp(0.1 * scale_x), 0], [0, math.exp(0.1 * scale_y)]])
    to_unit = torch.diag(torch.tensor([1 / 20, 1 / 10]))  # positions: ±1 are the edges of 40×20 pixels
    assert torch.allclose(torch.stack(linear).mT, to_unit @ rotate @ shear @ grow @ to_unit.inverse())
    assert shifts.tolist() == pytest.approx([2 * 0.05 * shift_x, 2 * 0.05 * shift_y])


def test_augmented_images_are_similar_and_all_different():
    images = torch.zeros(50, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 8:20, 10:18] = 255
    moved = data.batch_to_float(images, [28, 28], data.affine_maps(50, (28, 28)))
    original = data.batch_to_float(images, [28, 28])
    distances = (moved - original).abs().mean(dim=(1, 2, 3))
    assert (distances > 0).all()
    assert distances.max() < 0.15
    assert len(moved.flatten(1).unique(dim=0)) == 50


# ---------------------------------------------------------------- random numbers


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_an_order_is_a_permutation_that_depends_on_all_numbers(numbers):
    order = data.random_order(50, *numbers)
    assert order.sort().values.tolist() == list(range(50))
    assert torch.equal(order, data.random_order(50, *numbers))
    for place in range(len(numbers)):
        other = [*numbers]
        other[place] ^= 1
        assert not torch.equal(order, data.random_order(50, *other))


def test_published_numbers_stay_valid():
    assert data.mix(0, 1, 2) == 3884055042
    assert data.random_order(6, 3, 1).tolist() == [4, 3, 5, 1, 2, 0]
    wrong, changed = data.make_wrong(torch.arange(10).repeat(3), 10, 4, seed=0)
    assert changed.tolist() == [5, 11, 13, 21]
    assert wrong[changed].tolist() == [1, 9, 8, 3]


# ---------------------------------------------------------------- wrong labels


@given(st.lists(st.integers(0, 3), min_size=4, max_size=30), st.data())
def test_the_wanted_number_of_labels_is_wrong_and_only_among_the_given_classes(labels, draw):
    labels = torch.tensor(labels)
    classes = draw.draw(st.none() | st.lists(st.integers(0, 3), min_size=2, max_size=4, unique=True))
    among = torch.isin(labels, torch.tensor(classes or [0, 1, 2, 3]))
    count = draw.draw(st.integers(0, among.sum().item()))
    wrong, changed = data.make_wrong(labels, 4, count, 0, classes)
    assert (wrong != labels).nonzero().flatten().tolist() == changed.tolist()
    assert len(changed) == count
    assert among[changed].all()
    assert not classes or set(wrong[changed].tolist()) <= set(classes)
    with pytest.raises(UserError):
        data.make_wrong(labels, 4, len(labels) + 1, 0, classes)


def test_a_mislabelled_copy_has_the_same_files_in_other_classes(type_in, refused, folder):
    before = contents(folder)
    ended = type_in("data.py mislabel images wrong --count 5 --classes row0 row2 --seed 1")
    after = contents(Path("wrong"))
    assert contents(folder) == before
    assert sorted(after.values()) == sorted(before.values())
    where = {content: name for name, content in before.items()}
    moved = [(where[content], name) for name, content in after.items() if where[content] != name]
    assert len(moved) == 5
    assert "5 wrong labels among 24 training images" in ended.out
    assert all({old.split("/")[1], new.split("/")[1]} == {"row0", "row2"} for old, new in moved)
    assert all(old.startswith("train/") and new.startswith("train/") for old, new in moved)
    assert "cat" in refused("data.py mislabel images more --classes cat row0")
    assert "wrong" in refused("data.py mislabel images wrong")
    assert "25" in refused("data.py mislabel images most --count 25")


def test_an_export_is_read_as_the_data_set_itself(type_in, refused):
    write_mnist(Path("MNIST"), 30, 20)
    assert "png/training: 30 images" in type_in("data.py export png --source MNIST").out
    for ours, theirs in zip(data.load("MNIST"), data.load("png"), strict=True):
        assert ours.fingerprint() == theirs.fingerprint()
    assert "png" in refused("data.py export png --source MNIST")
    assert "png/inside" in refused("data.py export png/inside --source png")
