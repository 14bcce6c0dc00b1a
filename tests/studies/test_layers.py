"""Standard deviations by layer: against a pass by hand, Glorot's and He's laws, and of runs in folders."""

import shutil
from pathlib import Path

from support import randomness
from support.console import UserError
from support.files import read_csv
from support.run_folder import read_config

import pytest
import torch
import torch.nn.functional as F
from conftest import FLAGS, write_folder
from PIL import Image
from torch import nn

import data
import models
import train
from studies import layers


@pytest.mark.parametrize("inplace", [False, True])
def test_stds_are_those_of_a_pass_by_hand(inplace):
    torch.manual_seed(0)
    model = models.encoder(3, image_size=8, n_blocks=2, n_features_1=4, n_features_2=4)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    for layer in model:
        if isinstance(layer, nn.ReLU):
            layer.inplace = inplace  # as vgg16's are
    rows = layers.layer_stds(model, images, labels)
    outputs, x = {}, images
    for name, layer in model.named_children():
        x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            x.retain_grad()
            outputs[name] = x
    sum(F.cross_entropy(x[i : i + 1], labels[i : i + 1]) for i in range(6)).backward()
    assert [row["layer"] for row in rows] == list(outputs)
    for row, output in zip(rows, outputs.values(), strict=True):
        assert row["activation_std"] == pytest.approx(output.std().item(), rel=1e-4)
        assert row["gradient_std"] == pytest.approx(output.grad.std().item(), rel=1e-4)


def test_xavier_halves_the_variance_at_every_relu_and_kaiming_keeps_it():
    torch.manual_seed(0)
    width, depth = 400, 12
    plain = [module for _ in range(depth) for module in (nn.Linear(width, width), nn.ReLU())]
    network = nn.Sequential(*plain, nn.Linear(width, 10))
    models.initialise(network, "xavier")
    images, labels = torch.randn(64, width), torch.arange(64) % 10
    stds = [row["activation_std"] for row in layers.layer_stds(network, images, labels)]
    assert stds[10] / stds[0] == pytest.approx(0.5**5, rel=0.5)  # ten layers on
    for layer in plain[::2]:
        nn.init.kaiming_normal_(layer.weight)
    stds = [row["activation_std"] for row in layers.layer_stds(network, images, labels)]
    assert stds[10] / stds[0] == pytest.approx(1, rel=0.5)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """In the current folder, images/ and a finished run with them, runs/xavier."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images")
    train.main(f"{FLAGS} --lr 0.02 --epochs 2 --data images --init xavier --out runs/xavier".split())


def test_runs_are_looked_at_as_they_began_and_as_they_ended(runs, capsys):
    shutil.copytree("runs/xavier", "runs/other")
    Path("runs/other/model.pt").unlink()  # as if it were not finished
    layers.main(["runs/xavier", "runs/other", "--csv", "table.csv"])
    networks = {}
    for row in read_csv("table.csv"):
        stds = [float(row["activation_std"]), float(row["gradient_std"])]
        networks.setdefault(row["network"], []).append(stds)
    start, trained, other = (
        networks[f"{state}, on images"]
        for state in ("runs/xavier, at the start", "runs/xavier, trained", "runs/other, at the start")
    )
    assert start == other != trained
    assert len(start) == 8  # stem, two blocks of two convolutions, three linear layers
    settings, config = read_config(Path("runs/xavier"))
    model = models.build(settings, 3, config["data"]["image_shape"])
    model.load_state_dict(torch.load("runs/xavier/model.pt", weights_only=True))
    images = data.load("images")[0].subset(randomness.random_part(24, layers.N_IMAGES)).to(settings.device)
    expected = layers.layer_stds(model, data.batch_to_float(images.images), images.labels)
    assert trained[0][0] == pytest.approx(expected[0]["activation_std"])
    assert "runs/other is not finished" in capsys.readouterr().out
    Image.open("runs/layers.png").verify()


def test_a_run_whose_images_have_changed_is_refused(runs):
    write_folder(Path("images"), n_train=30)
    with pytest.raises(UserError, match="is not what that run began with"):
        layers.main(["runs/xavier"])


def test_weights_of_another_network_are_refused(runs):
    torch.save(models.encoder().state_dict(), "runs/xavier/model.pt")
    with pytest.raises(UserError, match=r"model\.pt: is not what"):
        layers.main(["runs/xavier"])


def test_where_numbers_are_not_finite_there_is_nothing_to_look_at():
    model = models.encoder(3, image_size=8, n_blocks=1)
    nn.init.constant_(model[-1].weight, torch.inf)
    with pytest.raises(UserError, match="no finite numbers"):
        layers.layer_stds(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
