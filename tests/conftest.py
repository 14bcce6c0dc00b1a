"""What several test files use: small data sets, as tensors and as real files, and small networks."""

import os
import sys
from collections import OrderedDict

from support.console import run_command
from support.settings import Settings, complete, flag_name

import numpy as np
import pytest
import torch
from hypothesis import settings as hypothesis_settings
from PIL import Image
from torch import nn

import data
import models
import train

# A slow machine must not fail a test, and a test must not fail only now and then.
hypothesis_settings.register_profile("project", deadline=None, derandomize=True, max_examples=30)
hypothesis_settings.load_profile("project")
os.environ["COLUMNS"] = "100"  # of the terminal that argparse's help is wrapped for
torch.set_num_threads(1)  # a second thread only slows tensors this small
for absent in (torch.cuda, torch.xpu, torch.mtia):
    if not absent.is_available():  # torch.manual_seed would write down the whole stack for each, in each step
        absent.manual_seed_all = lambda seed: None


def pytest_collection_finish():
    """Begin with the imports of commands in processes of their own, if their tests are collected."""
    if commands := sys.modules.get("commands"):
        commands.copies()


def stripes(n_images, n_classes=3, size=8, seed=0):
    """Return an ImageData that is easy to learn: noise, with a bright row whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_images) % n_classes
    images = torch.randint(0, 120, (n_images, 1, size, size), generator=generator)
    images[torch.arange(n_images), 0, 2 * labels] += 120
    ids = tuple(f"train/{index:05}" for index in range(n_images))
    classes = tuple(f"row{2 * label}" for label in range(n_classes))
    return data.ImageData(images.to(torch.uint8), labels, classes, ids, "stripes")


def write_folder(root, n_train=24, n_test=12, **kind):
    """Write stripes as PNG files in the layout root/train/CLASS/NUMBER.png and return root."""
    for split, n_images, seed in (("train", n_train, 0), ("test", n_test, 1)):
        part = stripes(n_images, seed=seed, **kind)
        for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            folder = root / split / part.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{index:03}.png")
    return root


# The settings of a network that trains in a moment, and as they are typed.
NETWORK = {"n_blocks": 2, "n_features_1": 4, "n_features_2": 4, "n_fully_1": 8, "n_fully_2": 8}
SMALL = NETWORK | {"batch_size": 8, "precision": "fp32"}
FLAGS = " ".join(f"{flag_name(name)} {value}" for name, value in (SMALL | {"threads": 1}).items())
DIAGNOSE = f"--epochs 6 --seeds 2 --mislabelled 5 --remove 5 {FLAGS}"
SEARCH = "--data images --n-blocks 1 2 --n-features-1 2 3 --n-features-2 2 --n-fully-1 4 --n-fully-2 4"
SEARCH += " --batch-size 8 --precision fp32 --minutes 9 --threads 1 --epochs 2 --device cpu"


def small_settings(**changes):
    """Return complete settings for a network that trains in a moment."""
    return complete(Settings(**(SMALL | {"epochs": 2, "device": "cpu", "threads": 2} | changes)))


def small_model(run_settings, images):
    """Return the network of `run_settings` for the ImageData `images`."""
    return models.build(run_settings, len(images.classes), images.images.shape[1:])


def small_vgg16():
    """Return a network that has of torchvision's vgg16 the names and the five halvings, and little else."""
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *5 * [nn.MaxPool2d(2)])
    classifier = nn.Sequential(nn.Linear(4, 6), nn.Dropout(), nn.Linear(6, 1000))
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


def same_weights(model, other):
    """Return whether two models' weights are the same, bit by bit."""
    state, other_state = model.state_dict(), other.state_dict()
    return state.keys() == other_state.keys() and all(
        torch.equal(state[key], other_state[key]) for key in state
    )


def contents(root):
    """Return {relative path: bytes} of all files under `root`."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A function that runs a script with arguments that it must refuse; it returns the one line of stderr.

    It runs in this process, in a folder that has small images in images/.
    """
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images")

    def run(arguments, script=train):
        name = f"{script.__name__}.py"
        monkeypatch.setattr(sys, "argv", [name, *arguments.split()])
        with pytest.raises(SystemExit) as end:
            run_command(script.main)
        assert end.value.code == 2
        stderr = capsys.readouterr().err
        assert stderr.startswith(f"{name}: ")
        assert stderr.count("\n") == 1
        return stderr

    return run


@pytest.fixture
def folder(tmp_path):
    """A folder of small PNG files."""
    return write_folder(tmp_path / "stripes")


@pytest.fixture
def random_image():
    """A function that makes a random uint8 picture as an array, (height, width) or (height, width, 3)."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.integers(0, 256, shape, dtype=np.uint8)
