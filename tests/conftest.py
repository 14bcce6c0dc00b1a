"""Shared by the test files: small data sets, as tensors and as files, and functions that run commands."""

import os
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import settings as hypothesis_settings
from PIL import Image

import data
import models
import train
from support.console import run_command

# No time limit, because some machines are slow; the same examples in every run.
hypothesis_settings.register_profile("project", deadline=None, derandomize=True, max_examples=30)
hypothesis_settings.load_profile("project")
os.environ["COLUMNS"] = "100"  # argparse wraps --help at this width
torch.set_num_threads(1)  # more threads slow down such small tensors

NETWORK = {"n_blocks": 2, "n_features_1": 4, "n_features_2": 4, "n_fully_1": 8, "n_fully_2": 8}
FLAGS = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in NETWORK.items())
FLAGS += " --batch-size 8 --precision fp32 --threads 1 --device cpu"


def stripes(n_images, n_classes=3, size=8, seed=0):
    """Return an ImageData that is easy to learn: noise, with a bright row whose position is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_images) % n_classes
    images = torch.randint(0, 120, (n_images, 1, size, size), generator=generator)
    images[torch.arange(n_images), 0, 2 * labels] += 120
    ids = tuple(f"train/{index:05}" for index in range(n_images))
    classes = tuple(f"row{2 * label}" for label in range(n_classes))
    return data.ImageData(images.to(torch.uint8), labels, classes, ids, "stripes")


def write_folder(root, n_train=24, n_test=12, **kind):
    """Write stripes as PNG files root/train/CLASS/NUMBER.png and root/test/…, and return root."""
    for split, n_images, seed in (("train", n_train, 0), ("test", n_test, 1)):
        part = stripes(n_images, seed=seed, **kind)
        for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            folder = root / split / part.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{index:03}.png")
    return root


def small_settings(**changes):
    """Return the complete settings of a network that trains in a moment."""
    settings = {"model": "resnet", "init": "default", "weights": None, "freeze": False, "augment": False}
    settings |= {"epochs": 2, "batch_size": 8, "lr": 0.003, "image_size": [8, 8], "limit": None, "seed": 0}
    settings |= {"device": "cpu", "precision": "fp32", "threads": 1, "data": "stripes"}
    return Namespace(**settings | NETWORK | changes)


def small_model(settings, images):
    """Return the network of `settings` for the ImageData `images`."""
    return models.build(settings, len(images.classes), images.images.shape[1])


def same_weights(one, other):
    """Return whether two state dicts are equal, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def contents(root):
    """Return {relative path: bytes} of all files under `root`."""
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def type_in(tmp_path, monkeypatch, capfd):
    """A function that runs a command line, such as "train.py --epochs 1", in the current folder `tmp_path`.

    It checks the exit status and returns what the command printed: (out, err). "studies.bench.py" is a study.
    The command runs in this process, because another one would have to import torch first.
    """
    monkeypatch.chdir(tmp_path)

    def run(line, status=0):
        script, *arguments = line.split()
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        module, ended = import_module(Path(script).stem), 0
        try:
            run_command(module.main)
        except SystemExit as end:
            ended = end.code
        printed = capfd.readouterr()
        assert ended == status, printed
        return printed

    return run


@pytest.fixture
def refused(type_in):
    """A function that runs a command that must be refused: one line on stderr, which it returns, status 2."""

    def run(line):
        err = type_in(line, 2).err
        assert err.startswith(f"{line.split()[0]}: ")
        assert err.count("\n") == 1, err
        return err

    return run


@pytest.fixture
def folder(tmp_path):
    """A folder of small PNG files."""
    return write_folder(tmp_path / "images")


def trained(settings, train_data, test_data):
    """Return (model, history) of a training."""
    model = small_model(settings, train_data)
    return model, train.train(model, train_data, test_data, settings)[0]


def without_times(rows):
    """Return rows of metrics without the columns that differ from run to run."""
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]
