"""The way of a user's own images: a folder of photos, what is said of it, decisions, the cleaned folder."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import FLAGS, contents
from PIL import Image

import data
import diagnose
import train

KINDS = ("jpg", "PNG", "webp", "bmp", "gif", "tif")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of class folders alone: 24 red photos, 24 blue ones, 5 green, of mixed sizes and kinds.

    One photo is a copy in another class.
    """
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for channel, (name, n_photos) in enumerate((("red", 24), ("blue", 24), ("green", 5))):
        Path("mine", name).mkdir(parents=True)
        for number in range(n_photos):
            pixels = rng.integers(0, 80, (60 + 5 * number, 90 - number, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(f"mine/{name}/{number}.{KINDS[number % 6]}")
    return tmp_path / "mine"


def table(file):
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_folder_of_photos_is_trained_on_as_it_is(photos, capsys):
    before = contents(photos)
    train.main(f"--data mine --epochs 8 {FLAGS}".split())
    output = capsys.readouterr().out
    assert "mine has no test images: " in output
    assert "large images or mixed sizes: all are made 64×64 pixels; --image-size N makes them N×N" in output
    assert "64 pixels wide and 64 high, in 3 classes" in output
    assert "Note: the classes differ in size: " in output
    assert "mean of the classes' accuracies (the classes differ in size): " in output
    accuracy = float(table("runs/resnet-default/metrics.csv")[-1]["test_accuracy"])
    assert accuracy > 0.9
    assert f"test accuracy on mine: {accuracy:.2%}" in output
    assert contents(photos) == before


def test_decisions_about_test_images_are_carried_out_and_the_effect_is_that_on_all_of_them(
    photos, monkeypatch, capsys
):
    (photos / "red" / "copy.PNG").write_bytes((photos / "blue" / "1.PNG").read_bytes())
    before = contents(photos)
    diagnose.main(f"--data mine --epochs 3 --seeds 1 --remove 2 {FLAGS}".split())
    output = capsys.readouterr().out
    assert "Note: copies of an image are in several classes, of which at most one is right: 1" in output
    assert table("runs/diagnosis/top_losses.csv")[0]["id"] in ("red/copy.PNG", "blue/1.PNG")
    tested = table("runs/diagnosis/top_losses_test.csv")
    scores = [float(row["score"]) for row in tested]
    assert scores == sorted(scores, reverse=True)
    assert {row["action"] for row in tested} == {"keep"}

    gone, moved = (
        next(row["id"] for row in tested if row["id"].startswith(name)) for name in ("red", "blue")
    )
    Path("decisions.csv").write_text(
        f"id,action,predicted\n{gone},remove,\n{moved},relabel,red\nred/copy.PNG,remove,\n"
    )
    Path("mine/blue/broken.jpg").write_bytes(b"no image")  # to be copied, images need not be decoded
    diagnose.main(f"--data mine --decisions decisions.csv --write-clean clean {FLAGS}".split())
    Path("mine/blue/broken.jpg").unlink()
    cleaned = contents(Path("clean"))
    assert cleaned.pop("blue/broken.jpg") == b"no image"
    expected = {
        name: content for name, content in before.items() if name not in (gone, moved, "red/copy.PNG")
    }
    assert {name: content for name, content in cleaned.items() if name in before} == expected
    ((name, content),) = (item for item in cleaned.items() if item[0] not in before)
    assert name.startswith("red/")
    assert content == before[moved]
    assert contents(photos) == before

    tested_on = []

    def noting(network, half, test, *rest, fit=train.fit):
        tested_on.append(test.fingerprint())
        return fit(network, half, test, *rest)

    monkeypatch.setattr(train, "fit", noting)
    capsys.readouterr()
    diagnose.main(f"--data mine --epochs 2 --seeds 1 --decisions decisions.csv --out judged {FLAGS}".split())
    assert "decisions change 2 of them, and the effect is measured on all" in capsys.readouterr().out
    assert tested_on == 2 * [data.load("mine")[1].fingerprint()]  # the imperfect and the cleaned network
    assert [row["action"] for row in table("judged/top_losses_test.csv")].count("keep") == len(tested) - 2
