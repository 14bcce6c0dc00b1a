"""Data: files and tensors are the same thing in both directions, and each bad file or folder is named."""

import gzip
import hashlib
import http.server
import math
import struct
import tempfile
import threading
from pathlib import Path

from support import randomness
from support.console import UserError

import numpy as np
import pytest
import torch
from conftest import stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import MNIST, FashionMNIST

import data

# ---------------------------------------------------------------- folders

labels_of_a_split = st.lists(st.sampled_from(["cat", "dog", "Ärger"]), min_size=1, max_size=6).map(
    lambda labels: ["cat", "dog", "Ärger", *labels]
)


@given(
    labels_of_a_split,
    labels_of_a_split,
    st.sampled_from(["train", "training"]),
    st.sampled_from(["test", "val"]),
)
def test_a_folder_becomes_what_is_in_it(train_labels, test_labels, train_name, test_name):
    with tempfile.TemporaryDirectory() as root:
        for split, labels in ((train_name, train_labels), (test_name, test_labels)):
            for index, label in enumerate(labels):
                folder = Path(root, split, label)
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 3), color=index).save(folder / f"{index}.png")
        halves = data.load(root)
    for half, split, labels in zip(halves, (train_name, test_name), (train_labels, test_labels), strict=True):
        assert half.images.shape == (len(labels), 1, 3, 4)
        assert half.classes == ("cat", "dog", "Ärger")
        for image, label, name in zip(half.images, half.labels, half.ids, strict=True):
            index = image[0, 0, 0].item()
            assert half.classes[label] == labels[index]
            assert name == f"{split}/{labels[index]}/{index}.png"


def test_each_faulty_folder_has_its_sentence(folder):
    def message():
        with pytest.raises(UserError) as error:
            data.load(str(folder))
        return str(error.value)

    (folder / "test").rename(folder / "elsewhere")
    assert "needs one folder named train or training and one named test or testing or val" in message()
    assert message().endswith("has train; class folders need other names")
    (folder / "elsewhere").rename(folder / "test")
    (folder / "testing").mkdir()
    assert message().endswith("has train and test and testing; class folders need other names")
    (folder / "testing").rmdir()
    (folder / "train" / "extra").mkdir()
    assert "in the class folders extra; put images there" in message()
    Image.new("L", (8, 8)).save(folder / "train" / "extra" / "a.png")
    assert "only the training set has the class extra" in message()


def test_a_folder_needs_two_classes(tmp_path):
    write_folder(tmp_path / "one", n_classes=1)
    with pytest.raises(UserError, match="one class only, row0"):
        data.load(str(tmp_path / "one"))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        UserError, match="nowhere: no such folder; give a folder, or one of auto, mnist, fashion, digits"
    ):
        data.load(str(tmp_path / "nowhere"))


def test_limit_keeps_the_same_random_images_in_both_halves(folder):
    train, test = data.load(str(folder))
    few, few_test = data.load(str(folder), limit=7)
    assert (len(few), len(few_test)) == (7, 7)
    assert set(few.ids) < set(train.ids)
    assert few.ids == data.load(str(folder), limit=7)[0].ids
    assert few.ids != train.ids[:7]  # files are sorted by class: the first ones would be of one class
    for index, name in enumerate(few.ids):
        assert torch.equal(few.images[index], train.images[train.ids.index(name)])
    assert len(data.load(str(folder), limit=1000)[1]) == len(test)


def test_fingerprints_tell_any_change_of_pixels_labels_or_classes_and_one_of_them_of_the_order():
    clean = stripes(12)
    images, labels = clean.images.clone(), clean.labels.clone()
    images[3, 0, 2, 2] += 1
    labels[5] = 0
    changed = [
        data.replace(clean, images=images),
        data.replace(clean, labels=labels),
        clean.subset(torch.arange(11)),
    ]
    changed.append(data.replace(clean, classes=("a", "b", "c")))
    changed.append(
        data.replace(clean, labels=clean.labels[randomness.random_order(12, 0)])
    )  # of the same counts
    for fingerprint in (data.ImageData.fingerprint, data.ImageData.content_fingerprint):
        assert len(set(map(fingerprint, [clean, *changed]))) == 6
        assert fingerprint(clean) == fingerprint(stripes(12))
    shuffled = clean.subset(randomness.random_order(12, 0))
    assert shuffled.fingerprint() != clean.fingerprint()
    assert shuffled.content_fingerprint() == clean.content_fingerprint()


# ---------------------------------------------------------------- MNIST and its like


def idx(array):
    """Return an array of uint8 in the IDX format, written from its description: magic, sizes, bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_files(n_train=6, n_test=4):
    rng = np.random.default_rng(0)
    files = {}
    for name, n in (("train", n_train), ("t10k", n_test)):
        files[f"{name}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        files[f"{name}-labels-idx1-ubyte"] = np.arange(n, dtype=np.uint8)
    return files


both = pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])


@pytest.fixture
def write_idx(tmp_path):
    """A function that writes MNIST's files as those of the data set `name`, and returns their folder."""

    def write(name, *sizes):
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        for file, array in mnist_files(*sizes).items():
            (raw / file).write_bytes(idx(array))
        return raw

    return write


@both
@pytest.mark.parametrize("inside", [True, False])
def test_torchvisions_own_files_are_read(write_idx, name, inside):
    folder = write_idx(name).parent
    if inside:  # a folder of the same name around them, as MNIST("MNIST") makes it
        (folder.parent / "outer" / name).mkdir(parents=True)
        folder = folder.rename(folder.parent / "outer" / name / name)
    for source in (folder, folder.parent):
        train, test = data.load(str(source))
        files = mnist_files()
        assert np.array_equal(train.images[:, 0].numpy(), files["train-images-idx3-ubyte"])
        assert np.array_equal(test.labels.numpy(), files["t10k-labels-idx1-ubyte"])
        assert test.ids == ("test/00000", "test/00001", "test/00002", "test/00003")
        assert train.source == name
        assert train.classes[6] == {"MNIST": "6", "FashionMNIST": "Shirt"}[name]


@both
def test_each_class_has_a_folder_when_exported_beside_torchvisions_files(write_idx, name):
    root = write_idx(name, 10, 10).parents[1]  # an image of each class
    data.export(str(root / "png"), str(root))
    train, test = data.load(str(root / "png"))
    assert set(train.classes) == set(data.load(str(root))[0].classes)
    assert ("T-shirt-top" in train.classes) == (name == "FashionMNIST")
    assert (len(train), len(test)) == (10, 10)


@pytest.mark.parametrize("damage", ["missing", "cut", "not IDX", "fewer labels", "wrong label"])
@both
def test_damaged_files_are_named(write_idx, name, damage):
    raw = write_idx(name)
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    {
        "missing": images.unlink,
        "cut": lambda: images.write_bytes(images.read_bytes()[:1000]),
        "not IDX": lambda: images.write_bytes(b"<html>"),
        "fewer labels": lambda: labels.write_bytes(idx(np.zeros(3, np.uint8))),
        "wrong label": lambda: labels.write_bytes(idx(np.full(6, 10, np.uint8))),
    }[damage]()
    with pytest.raises(UserError, match=rf"{raw}: {name}'s train files are missing or damaged"):
        data.load(str(raw.parent))


@both
def test_a_folder_of_images_may_have_torchvisions_name_and_a_class_raw(tmp_path, name):
    folder = write_folder(tmp_path / name)
    for split in ("train", "test"):
        (folder / split / "row0").rename(folder / split / "raw")
    (folder / "raw").mkdir()  # where torchvision keeps its files
    assert data.load(str(folder))[0].classes == ("raw", "row2", "row4")


def test_a_folder_of_images_is_not_exported_into_itself(folder):
    with pytest.raises(UserError, match="is inside"):
        data.export(str(folder / "png"), str(folder))


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A web server on this machine that has MNIST's files and its like's, and torchvision told to use it."""
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for name, array in mnist_files().items():
        (served / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        resources.append((f"{name}.gz", hashlib.md5((served / f"{name}.gz").read_bytes()).hexdigest()))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=served)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # ends without delay
    for kind in (MNIST, FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(kind, "resources", resources)
    monkeypatch.setattr(data, "DATA", tmp_path / "data")
    yield served
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("source", ["auto", "mnist", "fashion"])
def test_what_has_a_name_is_downloaded_once(mirror, source):
    found = data.find(source)
    assert list(data.DATA.glob("*/raw/*-ubyte"))  # before any of several processes loads it
    train, _ = data.load(found)
    assert np.array_equal(train.images[:, 0].numpy(), mnist_files()["train-images-idx3-ubyte"])
    for file in mirror.iterdir():
        file.unlink()
    assert len(data.load(data.find(source))[1]) == 4  # from the disk


def test_a_failed_download_leaves_nothing_and_falls_back_with_a_notice(mirror, capsys):
    next(mirror.glob("t10k-labels*")).write_bytes(b"half a file")
    assert data.find("auto") == "digits"
    assert "Note: MNIST could not be downloaded" in capsys.readouterr().out
    assert not list(data.DATA.iterdir())
    with pytest.raises(UserError, match="MNIST could not be downloaded"):
        data.load("mnist")


def test_auto_prefers_the_sheets_folder(mirror):
    write_folder(data.DATA / "mnist_png")
    assert data.find("auto") == str(data.DATA / "mnist_png")
    assert data.load(data.find("auto"))[0].source == "mnist_png"


def test_a_source_that_is_named_is_not_looked_for(mirror):
    for source in ("digits", "mnist", "fashion", "a/folder"):
        assert data.find(source) == source


@pytest.mark.skipif(not Path("data/MNIST").exists(), reason="the real MNIST is not in data/")
def test_the_real_mnist():
    train, test = data.load("mnist")
    assert (len(train), len(test)) == (60000, 10000)
    # class counts as published on the data set's page
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


# ---------------------------------------------------------------- batches


def test_a_batch_is_the_pixels_from_0_to_1_in_channels_last_order():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    batch = data.batch_to_float(images)
    assert torch.equal(batch, images.double().div(255).float())
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert data.batch_to_float(images, image_size=9).shape == (2, 3, 9, 9)


def test_resizing_keeps_a_flat_image_flat():
    flat = torch.full((1, 1, 28, 28), 51, dtype=torch.uint8)
    assert torch.allclose(data.batch_to_float(flat, image_size=13), torch.tensor(0.2))


@pytest.mark.parametrize("row", [None, 0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(12, 12), (10, 14)])
def test_each_random_number_moves_the_picture_as_its_formula_says(monkeypatch, row, size):
    """Against sampling by hand: where each output pixel looks in the input, bilinear, black outside."""
    height, width = size
    numbers = torch.full((6, 1), 0.5)  # the middle of every range: no change
    if row is not None:
        numbers[row] = 1  # the end of one range
    monkeypatch.setattr(data.torch, "rand", lambda *shape: numbers)
    image = torch.arange(1, height * width + 1, dtype=torch.uint8).view(1, 1, height, width)
    maps = data.affine_maps(1, size, degrees=30, translate=0.15, scale=0.3, shear=0.4)
    moved = 255 * data.batch_to_float(image, maps=maps)

    turn, shift_x, shift_y, stretch_x, stretch_y, slant = (row == n for n in range(6))
    stretch = np.diag([np.exp(0.3 * stretch_x), np.exp(0.3 * stretch_y)])
    slanted = np.array([[1, 0.4 * slant], [0, 1]])
    angle = math.radians(30 * turn)
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    expected = np.zeros(size)
    for i in range(height):
        for j in range(width):
            place = np.array([j - (width - 1) / 2, i - (height - 1) / 2])  # in pixels from the middle
            x, y = turned @ slanted @ stretch @ place + [0.15 * shift_x * width, 0.15 * shift_y * height]
            x, y = x + (width - 1) / 2, y + (height - 1) / 2
            for k in (math.floor(y), math.floor(y) + 1):
                for m in (math.floor(x), math.floor(x) + 1):
                    if 0 <= k < height and 0 <= m < width:
                        expected[i, j] += image[0, 0, k, m].item() * (1 - abs(y - k)) * (1 - abs(x - m))
    assert np.allclose(moved[0, 0].numpy(), expected, atol=0.01)
    if row is None:
        assert torch.allclose(moved, image.float(), atol=0.01)


def test_the_built_in_digits_are_20000_to_learn_and_4000_others(monkeypatch):
    seeds = []

    def digits(n_images, seed):
        seeds.append(seed)
        return torch.zeros(n_images, 1, 28, 28, dtype=torch.uint8), torch.zeros(n_images, dtype=torch.int64)

    monkeypatch.setattr("support.digits.digits", digits)
    train, test = data.load_digits()
    assert (len(train), len(test)) == (20000, 4000)
    assert seeds[0] != seeds[1]


def test_each_image_has_its_own_map_of_the_usual_ranges_and_the_seed_decides():
    torch.manual_seed(1)
    maps = data.affine_maps(5, (12, 12))
    torch.manual_seed(1)
    assert torch.equal(maps, data.affine_maps(5, (12, 12), degrees=10, translate=0.05, scale=0.1, shear=0.1))
    assert len({tuple(each.flatten().tolist()) for each in maps}) == 5
