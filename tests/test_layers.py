"""Activations and gradients by layer: compared with a pass by hand, and shown for runs in folders."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import FLAGS, write_folder
from PIL import Image
from torch import nn

import data
import models
from studies import layers
from support.run_folder import read_config, read_csv, read_run, read_tensors, write_config


def test_standard_deviations_equal_those_of_a_pass_by_hand():
    torch.manual_seed(0)
    model = models.encoder(3, image_size=8, n_blocks=2, n_features_1=4, n_features_2=4)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    for layer in model:
        layer.inplace = isinstance(layer, nn.ReLU)  # as in vgg16
    rows = layers.layer_stds(model, images, labels)
    outputs, x = {}, images
    for name, layer in model.named_children():
        x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            x.retain_grad()
            outputs[name] = x
    sum(F.cross_entropy(x[i : i + 1], labels[i : i + 1]) for i in range(6)).backward()
    assert [name for name, *_ in rows] == list(outputs)
    for (_, activation, gradient), output in zip(rows, outputs.values(), strict=True):
        assert activation == pytest.approx(output.std().item(), rel=1e-4)
        assert gradient == pytest.approx(output.grad.std().item(), rel=1e-4)


@pytest.fixture
def show(type_in, folder):
    """A function that shows the layers of a run; in the current folder are images/ and a finished run."""
    type_in(f"train.py {FLAGS} --lr 0.02 --epochs 2 --data images --init xavier --out runs/xavier")
    return lambda folders: type_in(f"studies.layers.py {folders} --csv table.csv")


def test_a_run_is_shown_at_the_start_and_trained(show):
    shutil.copytree("runs/xavier", "runs/unfinished")
    config = read_config("runs/unfinished")
    config["settings"]["lr"] = 0.01  # does not change the initial network
    write_config("runs/unfinished", config)
    Path("runs/unfinished/model.pt").unlink()
    show("runs/xavier runs/unfinished")
    networks = {}
    for row in read_csv("table.csv"):
        networks.setdefault(row["network"], []).append(list(row.values())[1:])
    finished = [f"epochs 2, lr 0.02, seed 0, {state}" for state in ("at the start", "trained")]
    names = [*finished, "2 of 2 epochs, lr 0.01, seed 0, at the start"]
    assert list(networks) == [f"resnet xavier, {name}" for name in names]
    start, trained, unfinished = networks.values()
    assert start == unfinished != trained
    sample = data.load("images")[0].subset(data.random_part(24, 32))
    batch = data.batch_to_float(sample.images, (8, 8)), sample.labels
    model = models.build(read_run("runs/xavier").settings, 3, 1)
    for rows in (start, trained):
        for (name, *stds), expected in zip(rows, layers.layer_stds(model, *batch), strict=True):
            assert (name, *map(float, stds)) == pytest.approx(expected)
        model.load_state_dict(read_tensors("runs/xavier/model.pt"))
    Image.open("runs/layers.png").verify()


def test_changed_images_are_refused_and_no_file_of_a_user_is_overwritten(show, refused):
    Path("runs/layers.png").write_text("mine")
    refused("studies.layers.py runs/xavier")
    assert Path("runs/layers.png").read_text() == "mine"
    write_folder(Path("images"), n_train=30)
    assert "runs/xavier: images no longer holds" in refused("studies.layers.py runs/xavier")
