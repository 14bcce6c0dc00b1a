"""Named data sets: downloads arrive whole or not at all, and damaged files are named."""

import gzip
import hashlib
import http.server
import threading
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


def test_only_a_folder_with_nothing_else_is_torchvisions(tmp_path):
    assert named_sets.made_by_torchvision(tmp_path) is None
    write_mnist(tmp_path / "MNIST")
    assert (
        named_sets.made_by_torchvision(tmp_path)
        == named_sets.made_by_torchvision(tmp_path / "MNIST")
        == tmp_path / "MNIST"
    )
    (tmp_path / ".hidden").mkdir()
    assert named_sets.made_by_torchvision(tmp_path) == tmp_path / "MNIST"
    (tmp_path / "cat").mkdir()
    assert named_sets.made_by_torchvision(tmp_path) is None
    assert named_sets.made_by_torchvision(tmp_path / "cat") is None


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine that has MNIST's packed files; torchvision downloads from it."""
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "source")
    packed = {
        f"{file.name}.gz": gzip.compress(file.read_bytes())
        for file in (tmp_path / "source" / "raw").iterdir()
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = packed.get(Path(self.path).name)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{running.server_port}/"])
        md5s = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
        monkeypatch.setattr(MNIST, "resources", md5s)
        yield packed
        running.shutdown()


def test_a_download_arrives_once_and_whole(server):
    named_sets.download("mnist")
    assert len(named_sets.read("mnist")[2][0][1]) == 20
    server.clear()
    named_sets.download("mnist")  # is there: nothing is asked for
    assert [path.name for path in Path("data").iterdir()] == ["MNIST"]


def test_a_failed_download_leaves_nothing_and_says_where_to_put_the_files(server):
    server.popitem()
    with pytest.raises(UserError, match="data/MNIST/raw"):
        named_sets.download("mnist")
    assert not list(Path("data").iterdir())
