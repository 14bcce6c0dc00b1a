"""The commands as a user types them: each training flag, signals, a folder of photos from start to end."""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import copies, started
from conftest import FLAGS, contents, same_weights, without_times, write_folder
from PIL import Image

import models
from support.run_folder import read_csv

copies()
SHORT = f"--data images --epochs 2 --init xavier {FLAGS}"


def weights(folder="run"):
    return torch.load(f"{folder}/model.pt", weights_only=True)


def test_the_users_command_writes_a_run_folder_with_the_result_that_it_printed(type_in):
    write_folder(Path("data/mnist_png"))
    ended = type_in("train.py --model resnet --init xavier --epochs 3 --threads 1")  # on --data auto
    assert ended.err == ""
    run = Path("runs/resnet-xavier")
    names = {"config.json", "metrics.csv", "model.pt", "curves.png", "confusion.png"}
    assert {file.name for file in run.iterdir()} == names
    rows = read_csv(run / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    accuracy = float(rows[-1]["test_accuracy"])
    assert f"{accuracy:.2%} ({round(12 * (1 - accuracy))} of 12 test images wrong)" in ended.out
    network = models.ResNet(3, 1, 8)
    network.load_state_dict(weights(run))
    type_in("train.py --model resnet --init xavier --epochs 3 --threads 1")
    assert same_weights(weights(run), weights("runs/resnet-xavier-2"))


# ---------------------------------------------------------------- each flag has its effect


@pytest.fixture
def train(type_in, folder):
    """A function that trains with flags beside SHORT, and returns (weights, rows of metrics.csv)."""

    def run(flags=""):
        run.n += 1
        type_in(f"train.py {SHORT} {flags} --out run{run.n}")
        return weights(f"run{run.n}"), without_times(read_csv(f"run{run.n}/metrics.csv"))

    run.n = 0
    return run


def test_each_flag_changes_what_is_learned(train):
    """The flags of the layers, --freeze and --init transfer have their own tests."""
    write_folder(Path("two"), n_train=18, n_test=9, n_classes=2)
    plain = train()[1]
    flags = "--model encoder, --init default, --data two, --epochs 3, --batch-size 5, --lr 0.001, --augment"
    flags += ", --image-size 16, --limit 11, --seed 1, --precision bf16"
    for flag in flags.split(", "):
        assert train(flag)[1] != plain, flag


def test_the_layers_have_the_widths_of_the_flags(train):
    flags = "--n-blocks 1 --n-features-1 3 --n-features-2 6 --n-fully-1 9 --n-fully-2 11"
    shapes = {name: tuple(value.shape) for name, value in train(flags)[0].items()}
    assert shapes["stem.weight"] == (3, 1, 3, 3)
    assert shapes["blocks.0.conv2.weight"] == (6, 3, 3, 3)
    assert shapes["classifier.1.weight"] == (9, 6 * 4 * 4)
    assert shapes["classifier.3.weight"] == (11, 9)


def test_freeze_changes_the_last_layer_only(train):
    first, _ = train("--lr 1e-12")
    transfer = "--init transfer --weights run1/model.pt"
    last, _ = train(f"{transfer} --freeze")
    for name, value in last.items():
        assert torch.equal(value, first[name]) != name.startswith("classifier.5."), name
    start, _ = train(f"{transfer} --lr 1e-12")
    assert all(torch.allclose(start[n], first[n], atol=1e-9) != n.startswith("classifier.5.") for n in first)


# ---------------------------------------------------------------- kill -9, Ctrl-C and kill


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    write_folder(tmp_path / "images")
    line = f"--data images --epochs 20 --augment {FLAGS}"
    process = started("train", f"{line} --out ended", tmp_path)
    table = tmp_path / "ended" / "metrics.csv"
    for number, n_epochs in ((signal.SIGINT, 1), (signal.SIGKILL, 3), (signal.SIGTERM, 5)):
        while process.is_alive() and not (table.exists() and table.read_text().count("\n") > n_epochs):
            process.join(timeout=0.002)
        os.kill(process.pid, number)
        process.join(timeout=60)
        assert process.exitcode == (-9 if number == signal.SIGKILL else 2)
        if process.exitcode == 2:
            said = (tmp_path / "stderr").read_text()
            assert re.fullmatch(r"train\.py: interrupted; .*train\.py --resume ended\n", said)
        process = started("train", "--resume ended", tmp_path)
    process.join(timeout=120)
    whole = started("train", f"{line} --out whole", tmp_path)
    whole.join(timeout=120)
    assert (process.exitcode, whole.exitcode) == (0, 0)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "ended"))
    rows = [without_times(read_csv(tmp_path / name / "metrics.csv")) for name in ("whole", "ended")]
    assert rows[0] == rows[1]
    assert contents(tmp_path / "ended").keys() == contents(tmp_path / "whole").keys()  # no temporary file


# ---------------------------------------------------------------- a folder of photos

KINDS = ("jpg", "PNG", "webp", "bmp", "gif", "tif")


def test_a_folder_of_photos_is_trained_compared_and_predicted_and_never_changed(type_in):
    rng = np.random.default_rng(0)
    for channel, (name, n_photos) in enumerate((("red", 24), ("blue", 24), ("green", 5))):
        Path("mine", name).mkdir(parents=True)
        for number in range(n_photos):
            pixels = rng.integers(0, 80, (60 + 5 * number, 90 - number, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(f"mine/{name}/{number}.{KINDS[number % 6]}")
    before, started = contents(Path("mine")), time.monotonic()
    ended = type_in(f"train.py --data mine --epochs 8 {FLAGS}")
    rows = read_csv("runs/resnet-default/metrics.csv")
    assert 0 < sum(float(row["seconds"]) for row in rows) < time.monotonic() - started
    numbers = [line.split() for line in ended.out.splitlines() if re.match(" +[0-9]", line)]
    assert [line[0] for line in numbers] == [row["epoch"] for row in rows]
    assert re.search(r"mine: \d+ training and \d+ test images", ended.out)
    assert re.search("^epoch .*test accuracy", ended.out, re.MULTILINE)
    assert "64×64" in ended.out
    assert "the classes differ in size" in ended.out
    assert float(rows[-1]["test_accuracy"]) > 0.9
    assert "resnet default" in type_in("compare.py").out
    ended = type_in("predict.py runs/resnet-default mine/red/0.jpg mine/blue")
    assert re.search(r"^red .*mine/red/0.jpg$", ended.out, re.MULTILINE)
    assert contents(Path("mine")) == before
