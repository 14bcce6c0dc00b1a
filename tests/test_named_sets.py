"""Named data sets: downloads arrive whole or not at all, and damaged files are named."""

import gzip
import hashlib
import http.server
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_data import write_mnist
from torchvision.datasets import MNIST

from support import named_sets
from support.console import UserError


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_files_in_mnists_format_are_read(tmp_path, name):
    write_mnist(tmp_path / name)
    source, classes, ((images, labels), (test_images, _)) = named_sets.read(str(tmp_path / name))
    assert source == name
    expected = np.random.default_rng(20).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    assert np.array_equal(images[:, 0].numpy(), expected)
    assert labels.tolist() == 2 * list(range(10))
    assert len(test_images) == 10
    assert classes[0] == {"MNIST": "0", "FashionMNIST": "T-shirt-top"}[name]  # a class is a folder's name too
    assert len(set(classes)) == 10


@pytest.mark.parametrize("damage", ["missing", "cut", "not IDX", "fewer labels", "wrong label"])
def test_damaged_files_are_named(tmp_path, damage):
    write_mnist(tmp_path / "MNIST")
    raw = tmp_path / "MNIST" / "raw"
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    {
        "missing": images.unlink,
        "cut": lambda: images.write_bytes(images.read_bytes()[:1000]),
        "not IDX": lambda: images.write_bytes(b"<html>"),
        "fewer labels": lambda: labels.write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes()),
        "wrong label": lambda: labels.write_bytes(labels.read_bytes()[:-1] + b"\x0a"),
    }[damage]()
    with pytest.raises(UserError, match=str(raw)):
        named_sets.read(str(tmp_path / "MNIST"))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The folder of a web server on this machine with MNIST's packed files; torchvision downloads from it."""
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "source")
    folder, md5s = tmp_path / "source" / "raw", []
    for file in sorted(folder.iterdir()):
        packed = gzip.compress(file.read_bytes())
        (folder / f"{file.name}.gz").write_bytes(packed)
        md5s.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{running.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", md5s)
        yield folder
        running.shutdown()


def test_a_download_arrives_once_and_whole(server):
    named_sets.download("mnist")
    assert len(named_sets.read("mnist")[2][0][1]) == 20
    server.rename("gone")
    named_sets.download("mnist")  # is there: nothing is asked for
    assert [path.name for path in Path("data").iterdir()] == ["MNIST"]


def test_of_two_downloads_at_once_both_succeed(server):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(named_sets.download, ["mnist", "mnist"]))
    assert [path.name for path in Path("data").iterdir()] == ["MNIST"]


def test_a_failed_download_leaves_nothing_and_says_where_to_put_the_files(server):
    (server / "train-labels-idx1-ubyte.gz").unlink()  # the last of the four
    with pytest.raises(UserError, match="data/MNIST/raw"):
        named_sets.download("mnist")
    assert not list(Path("data").iterdir())
