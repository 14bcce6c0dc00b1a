"""What a user may type that cannot be: every command says so in one line, here in this process for speed."""

import os
from pathlib import Path

from support.files import read_csv

import pytest
import torch
import torchvision
from conftest import FLAGS, contents, small_vgg16, stripes

import data
import diagnose
import search
import train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data nowhere", "nowhere: no such folder"),
        ("--model lenet", "invalid choice"),
        ("--epochs", "expected one argument"),
        ("--data images --model vgg16 --image-size 18", "18 → 9 → 4 → 2 → 1 → nothing; the smallest size"),
        ("--data images --n-blocks 4", "8 → 4 → 2 → 1 → nothing; the smallest size that works is 16×16"),
        (
            "--data images --model vgg16 --init pretrained --weights none.pth --image-size 32",
            "none.pth: No such file or directory",
        ),
        ("--data images --out images", "something is there"),
        ("--data images --n-blocks 2 --lr 1e30", "training diverged"),
        ("--data images --n-blocks 2000000", "too small to be halved 2000000 times"),
        ("--resume= --epochs 3", "empty text"),
        ("--resume nowhere", "no run is there"),
        ("--resume images/train/row0/000.png", "no run is there"),
    ],
)
def test_bad_input_is_one_line(refused, monkeypatch, arguments, message):
    monkeypatch.setattr(torchvision.models, "vgg16", small_vgg16)  # for speed
    assert message in refused(arguments)
    assert not list(Path().rglob("*.part"))


def test_a_size_that_cannot_work_is_refused_before_the_data_are_looked_for(refused):
    assert "18 → 9 → 4 → 2 → 1 → nothing" in refused("--data nowhere --model vgg16 --image-size 18")


def test_refusals_before_the_training_leave_no_folder(refused):
    refused("--data images --n-blocks 4")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--remove 0", "--remove: invalid positive int or auto value: '0'"),
        ("--remove -3", "--remove: invalid positive int or auto value: '-3'"),
        ("--data images --remove 13", "--remove 13: that is more than half of the 24 training images"),
        ("--data nowhere --remove 3", "--data nowhere: no such folder"),
        ("--data digits --remove 3 --write-clean new", "copies image files, and digits has none"),
        ("--data images --remove 3 --write-clean images/new", "is inside images"),
        ("--data images --remove 3 --write-clean new --out new/", "nothing to do with"),
        ("--data images --remove 3 --write-clean new --out new/run", "nothing to do with"),
        ("--data images --remove 3 --write-clean runs/diagnosis", "nothing to do with"),
        ("--data images --remove 3 --out images/train/run", "is inside images"),
        ("--data images --remove 3 --out images", "images: something is there"),
        ("--data images --remove 3 --decisions mine.csv", "leave out --remove"),
        ("--data nowhere --remove 3 --write-clean images", "images: something is there"),  # first of all
        ("--data nowhere --decisions mine.csv", "mine.csv: is not there; is it still"),  # first of all
        ("--data images --decisions all.csv", "all.csv: leaves no image of the class row0"),
        ("--data images --mislabelled 3", "leave out --data"),
        ("--resume nowhere", "no run is there"),
        ("--resume nowhere --remove 3", "leave out --remove"),
    ],
)
def test_a_diagnosis_that_cannot_be_is_one_line(refused, monkeypatch, arguments, message):
    monkeypatch.setattr(data, "load_digits", lambda: [stripes(24), stripes(12)])  # for speed
    ids = "".join(f"{file},remove,\n" for file in Path("images").glob("train/*/*"))
    Path("all.csv").write_text("id,action,predicted\n" + ids.replace("images/", ""))
    assert message in refused(arguments, diagnose)
    assert not Path("runs").exists()


def test_a_run_in_a_linked_class_folder_is_refused(refused):
    Path("linked").mkdir()
    for name in ("row0", "row2"):
        Path("linked", name).symlink_to(Path("images", "train", name).resolve())
    line = refused("--data linked --epochs 1 --out images/train/row2/run")
    assert "is inside linked/row2, which is not to be changed" in line
    assert not Path("images/train/row2/run").exists()


def test_of_a_class_whose_images_are_all_suspects_one_stays(refused, monkeypatch, capsys):
    ranked = diagnose.top_losses

    def one_class_first(half, log_probabilities):
        order = (half.labels != 0).int().argsort(stable=True)
        probabilities = torch.tensor([[0.0, 0, 1]]).expand(len(half), 3)  # all others are contradicted
        return ranked(half, log_probabilities)._replace(order=order, probabilities=probabilities)

    monkeypatch.setattr(diagnose, "top_losses", one_class_first)
    arguments = f"--data images --remove 8 --seeds 1 --epochs 1 --out run {FLAGS}"
    diagnose.main(arguments.split())
    rows = read_csv("run/top_losses.csv")
    assert [row["action"] for row in rows] == ["remove"] * 7 + ["keep"] * 17
    assert {row["given"] for row in rows[:8]} == {"row0"}
    assert "all images of row0 are suspects: the least suspicious one stays" in capsys.readouterr().out


def test_a_run_of_one_command_is_not_resumed_by_another(refused):
    train.main(f"--data images --epochs 1 --out run {FLAGS}".split())
    os.remove("run/model.pt")
    assert "of another command" in refused("--resume run", diagnose)
    diagnose.main(f"--data images --epochs 1 --remove 3 --seeds 1 --out other {FLAGS}".split())
    before = contents(Path("other"))
    diagnose.main(["--resume", "other"])  # is finished
    assert contents(Path("other")) == before
    assert "of another command" in refused("--resume other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: export | mislabel"),
        ("mislabel images images --count 3", "is inside images, which is not to be changed"),
        ("mislabel images out", "100 labels cannot be made wrong: 24 images are in 3 classes"),
        ("mislabel images out --count 3 --classes row0 row9", "images has no class row9"),
        ("mislabel images out --count 3 --classes row0", "cannot be made wrong"),
        ("mislabel nowhere out", "nowhere: no such folder"),
        ("export images --source images", "images: something is there"),
        ("export out --source nowhere", "nowhere: no such folder"),
    ],
)
def test_data_that_cannot_be_made_is_one_line(refused, arguments, message):
    assert message in refused(arguments, data)
    assert {path.name for path in Path().iterdir()} == {"images"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--minutes 0", "--minutes: invalid positive float value: '0'"),
        ("--minutes nan", "--minutes: invalid positive float value: 'nan'"),
        ("--minutes 3 --grid", "--grid has no budget: leave out --minutes"),
        ("--model vgg16", "invalid choice: 'vgg16'"),
        ("--n-blocks", "--n-blocks: expected at least one argument"),
        ("--n-features-1 16 0", "invalid positive int value: '0'"),
        ("--data nowhere", "nowhere: no such folder"),
        ("--data images --n-blocks 4 5", "none of the 16 combinations leaves anything"),
        (
            "--data images --n-blocks 2 --image-size 4",
            "the sheet's architecture, to compare with, does not",
        ),
        ("--data images --limit 1", "one training image is too few"),
        ("--data images --threads 9999", "--threads 9999: 1024 are the most"),
        ("--data images --minutes 0.0001", "--minutes 0.0001 are too short to compare two"),
        ("--data images --out images", "images: something is there"),
        ("--data images --out images/train/run", "is inside images"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(refused, arguments, message):
    assert message in refused(arguments, search)
