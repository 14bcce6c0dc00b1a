"""The commands as a user types them: a whole run of each, and names from files that are hostile."""

import csv
import io
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from support.console import run_command
from support.decisions import read_decisions
from support.files import read_csv, read_json

import pytest
import torch
from commands import PROJECT, started, typed
from conftest import DIAGNOSE, FLAGS, SEARCH, contents, write_folder
from PIL import Image

import compare
import data
import diagnose
import models
import train

# ---------------------------------------------------------------- as typed

TRAIN = f"--model resnet --init xavier --epochs 3 --limit 20 {FLAGS}"
ARGUMENTS = {
    "compare": "before",
    "predict": "before images/test --csv predicted.csv",
    "search": SEARCH,
    "diagnose": f"{DIAGNOSE} --write-clean cleaned",
    "data": "mislabel images wrong --count 3",
    "studies.layers": "before --picture layers.png",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with small images twice, and a run on them: before/."""
    root = tmp_path_factory.mktemp("typed")
    write_folder(root / "images", n_train=90)
    write_folder(root / "data" / "mnist_png", n_train=90)
    train.main(f"--data {root}/images --epochs 1 --out {root}/before {FLAGS}".split())
    return root


@pytest.fixture(scope="module")
def ended(root):
    """The commands of ARGUMENTS, and train.py from its start: {name: (exit status, stdout, stderr)}."""
    training = typed(f"{PROJECT}/train.py {TRAIN}", root)  # takes seconds to start
    ended = {}
    for name, arguments in ARGUMENTS.items():
        process = started(name, arguments, root)
        process.join(timeout=300)
        ended[name] = (process.exitcode, *((root / file).read_text() for file in ("stdout", "stderr")))
    said = training.communicate(timeout=300)
    return ended | {"train": (training.returncode, *said)}


@pytest.fixture(scope="module")
def said(ended):
    """What each command printed: {name: stdout}."""
    return {name: stdout for name, (_, stdout, _) in ended.items()}


@pytest.mark.parametrize("name", ["train", *ARGUMENTS])
def test_a_command_ends_well_and_complains_of_nothing(ended, name):
    exit_status, _, stderr = ended[name]
    assert (exit_status, stderr) == (0, "")


def test_a_training_leaves_its_folder_with_weights_that_answer_as_it_said(root, said):
    lines = said["train"].splitlines()
    assert lines[0] == ("mnist_png: 20 training and 12 test images, 8 pixels wide and 8 high, in 3 classes")
    folder = root / "runs" / "resnet-xavier"
    names = {"config.json", "metrics.csv", "model.pt", "curves.png", "confusion.png"}
    assert {file.name for file in folder.iterdir()} == names
    for name in ("curves.png", "confusion.png"):
        Image.open(folder / name).verify()
    config = read_json(folder / "config.json")
    assert config["settings"]["n_features_1"] == 4
    assert config["settings"]["data"] == "data/mnist_png"
    assert config["data"]["n_train"] == 20
    last = read_csv(folder / "metrics.csv")[-1]
    assert last["epoch"] == "3"
    n_wrong = round(12 * (1 - float(last["test_accuracy"])))
    assert f"{n_wrong} of 12 test images wrong" in said["train"]

    # The weights alone, in a network made here, answer as the run said.
    network = models.ResNet(3, 1, 8, 2, 4, 4, 8, 8)
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    _, test = data.load(str(root / "data" / "mnist_png"))
    assert (network(test.images / 255).argmax(dim=1) != test.labels).sum() == n_wrong


def test_a_comparison_has_a_row_of_the_run(root, said):
    assert re.search(r"^   1  resnet   default +1 +90 ", said["compare"], re.MULTILINE)
    Image.open(root / "runs" / "compare.png").verify()


def test_a_prediction_has_as_many_right_as_the_training_said(root, said):
    rows = read_csv(root / "predicted.csv")
    n_right = sum(f"/{row['predicted']}/" in row["file"] for row in rows)
    last = read_csv(root / "before" / "metrics.csv")[-1]
    assert (len(rows), n_right) == (12, round(12 * float(last["test_accuracy"])))
    for row in rows:
        assert re.search(rf"^{row['predicted']} .* {row['file']}$", said["predict"], re.MULTILINE)
    Image.open(root / "runs" / "predicted.png").verify()


def test_labels_are_made_wrong_in_a_copy(root, said):
    before, wrong = contents(root / "images"), contents(root / "wrong")
    assert len(wrong) == len(before)
    assert len(wrong.keys() - before.keys()) == 3


def test_a_study_is_run_from_the_project(root, said):
    Image.open(root / "layers.png").verify()


# ---------------------------------------------------------------- a diagnosis, as typed


@pytest.fixture(scope="module")
def ranking(root, said):
    """The rows of the diagnosis' top_losses.csv."""
    return read_csv(root / "runs" / "diagnosis" / "top_losses.csv")


@pytest.fixture(scope="module")
def imperfect(root, said):
    """The files of the data that the diagnosis made: five labels are wrong."""
    return contents(root / "data" / "mnist_png_mislabelled_5")


def test_a_diagnosis_makes_its_imperfect_data_and_leaves_the_clean_ones(root, said, imperfect, tmp_path):
    before = contents(write_folder(tmp_path, n_train=90))
    assert contents(root / "data" / "mnist_png") == before
    assert len(imperfect) == len(before)
    assert len(imperfect.keys() - before.keys()) == 5
    assert "5 of its labels are not those of ./data/mnist_png" in said["diagnose"]


def test_a_diagnosis_writes_the_page_to_decide_on(root, said, ranking):
    page = (root / "runs" / "diagnosis" / "review.html").read_text()
    content = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    config = read_json(root / "runs" / "diagnosis" / "config.json")
    assert content["key"] == config["checksum"]  # of the settings and the data, among others
    command = said["diagnose"].splitlines()[-1]
    assert content["command"] == command.replace("top_losses.csv", "decisions.csv")
    tested = read_csv(root / "runs" / "diagnosis" / "top_losses_test.csv")
    for tab, rows in zip(content["tabs"], (ranking, tested), strict=True):
        assert [item["id"] for item in tab["items"]] == [row["id"] for row in rows]
        assert [item["suggestion"] for item in tab["items"]] == [[row["action"]] for row in rows]
        predicted = [content["classes"][item["predicted"]] for item in tab["items"]]
        assert predicted == [row["predicted"] for row in rows]
    assert f"open {config['options']['out'] or 'runs/diagnosis'}/review.html in a browser" in said["diagnose"]


def test_a_diagnosis_ranks_all_training_images_and_finds_wrong_labels(root, said, imperfect, ranking):
    assert {row["id"] for row in ranking} == {name for name in imperfect if name.startswith("train")}
    scores = [float(row["score"]) for row in ranking]
    assert scores == sorted(scores, reverse=True)
    assert [row["action"] for row in ranking] == ["remove"] * 5 + ["keep"] * 85
    n_found = n_wrong_labels(root, ranking[:5])
    assert n_found >= 3
    assert f"{n_found} labels are wrong (precision {n_found / 5:.1%})" in said["diagnose"]
    folder = root / "runs" / "diagnosis"
    for name in ("top_losses.png", "confusion_train.png", "confusion_test.png"):
        Image.open(folder / name).verify()
    assert (folder / "missed.png").exists() == (n_found < 5)


def n_wrong_labels(root, rows):
    """Return how many of the images of `rows`, of a ranking, the clean data do not have in that class."""
    return sum(not (root / "data" / "mnist_png" / row["id"]).exists() for row in rows)


def test_a_diagnosis_trains_on_the_cleaned_data_and_writes_them(root, said, imperfect, ranking):
    removed = [row["id"] for row in ranking[:5]]
    assert contents(root / "cleaned") == {k: v for k, v in imperfect.items() if k not in removed}
    fingerprint = data.load(str(root / "cleaned"))[0].fingerprint()
    folder = root / "runs" / "diagnosis"
    names = {path.name for path in folder.glob("cleaned-*")}
    assert names == {f"cleaned-{fingerprint}-{seed}" for seed in (0, 1)}  # what the networks were trained on
    effect = [tuple(row.values())[:4] for row in read_csv(folder / "effect.csv")]
    n_missed = str(5 - n_wrong_labels(root, ranking[:5]))
    counts = {"clean": ("90", "0"), "imperfect": ("90", "5"), "cleaned": ("85", n_missed)}
    assert effect == [(name, seed, *counts[name]) for name in counts for seed in "01"]


def test_a_persons_decisions_are_carried_out(root, imperfect, ranking, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [dict(row) for row in ranking]
    new_class = "row0" if rows[0]["given"] == "row4" else "row4"
    rows[0] |= {"action": "relabel", "predicted": new_class}
    rows[1] |= {"action": "keep"}
    with open("mine.csv", "w", newline="", encoding="utf-8-sig") as file:  # as a German spreadsheet leaves it
        table = csv.DictWriter(file, rows[0], delimiter=";")
        table.writeheader()
        table.writerows(rows)
    edited = Path("mine.csv").read_bytes()
    line = f"{FLAGS} --data {root}/data/mnist_png_mislabelled_5 --decisions mine.csv"
    diagnose.main(f"{line} --write-clean mine".split())
    assert {path.name for path in Path().iterdir()} == {"mine", "mine.csv"}  # nothing was trained
    assert Path("mine.csv").read_bytes() == edited
    relabelled, kept, *removed = (row["id"] for row in rows[:5])
    expected = {name: image for name, image in imperfect.items() if name not in (relabelled, *removed)}
    expected[f"train/{new_class}/{Path(relabelled).name}"] = imperfect[relabelled]
    assert contents(Path("mine")) == expected

    diagnose.main(f"{line} --seeds 1 --epochs 1 --out run".split())
    actions = {row["id"]: (row["action"], row["predicted"]) for row in read_csv("run/top_losses.csv")}
    assert actions[relabelled] == ("relabel", new_class)
    assert [actions[name][0] for name in (kept, *removed)] == ["keep", "remove", "remove", "remove"]
    imperfect_data = data.load(f"{root}/data/mnist_png_mislabelled_5")[0]
    is_kept, labels = read_decisions("mine.csv", imperfect_data)[0]
    trained_on = replace(imperfect_data, labels=labels).subset(is_kept.nonzero().flatten())
    assert Path(f"run/cleaned-{trained_on.fingerprint()}-0").is_dir()
    assert contents(root / "data" / "mnist_png_mislabelled_5") == imperfect


def test_the_page_has_the_last_lines_command_with_a_free_name(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root / "images", "mine")
    diagnose.main(f"--data mine/. --seeds 1 --write-clean mine_cleaned --out run {FLAGS} --epochs 1".split())
    last = capsys.readouterr().out.splitlines()[-1]
    network = "--n-blocks 2 --n-features-1 4 --n-features-2 4 --n-fully-1 8 --n-fully-2 8"
    mine = "--data mine --decisions run/decisions.csv"
    assert last == f"python diagnose.py {network} {mine} --write-clean mine_cleaned-2"
    assert not list(Path("run").glob("*/state.pt"))  # they are of no more use
    page = re.search(r'json" id="data">(.*?)</script>', Path("run/review.html").read_text(), re.DOTALL)[1]
    assert json.loads(page)["command"] == last


# ---------------------------------------------------------------- a search, as typed


def test_a_search_tries_and_tests_what_its_plan_says(root, said):
    folder = root / "runs" / "search"
    names = {"config.json", "plan.json", "results.csv", "costs.png"}
    assert {file.name for file in folder.iterdir()} == names
    Image.open(folder / "costs.png").verify()
    assert "images: 75 training images, and 15 held out to compare by" in said["search"]
    plan = "8 for 1/3 epoch, then the best 3 for 2 epochs, then the best 3 for 2 epochs from 2 seeds;"
    assert f"the plan: {plan}" in said["search"]
    rows = read_csv(folder / "results.csv")
    assert len(rows) == 8 + 3 + 3 + 10
    assert all(row["error"] == "" for row in rows)
    tested = [row for row in rows if row["judged_on"] == "test"]
    assert sorted(row["seed"] for row in tested) == sorted(2 * "01234")


def test_the_command_that_a_search_names_trains_the_network_of_its_final(root, said, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    line = said["search"].split("next, to train the winner: python train.py ")[1].strip()
    train.main(f"{line} --precision fp32 --threads 1 --out {tmp_path}/run".split())
    last = read_csv(tmp_path / "run" / "metrics.csv")[-1]
    tested = [row for row in read_csv("runs/search/results.csv") if row["judged_on"] == "test"]
    winner = next(row for row in tested if row["seed"] == "0" and row["n_features_1"] != "32")
    assert (last["test_accuracy"], last["test_loss"]) == (winner["accuracy"], winner["loss"])


# ---------------------------------------------------------------- names from files are data

HOSTILE = (b"=1+1", b"-x", b"\x1b[2J", b"a\nb", b"\xff")
CLASSES = tuple(sorted(map(os.fsdecode, HOSTILE)))


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The name, in the current folder, of a folder of images whose names must not reach a terminal."""
    images = write_folder(tmp_path / "im\x1b[31mages", n_train=40, n_test=10, n_classes=5, size=10)
    for folder in images.iterdir():
        for index, name in enumerate(HOSTILE):
            (folder / f"row{2 * index}").rename(folder / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    return images.name


def printed(command):
    """Return what `command()` prints where only ASCII can be printed; check that it is harmless."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        run_command(command)
        text = sys.stdout.buffer.getvalue().decode("ascii")
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert r"im\x1b[31mages" in text
    return text


def test_hostile_names_come_back_from_a_runs_files_and_reach_no_terminal(hostile):
    printed(lambda: train.main(f"--data {hostile} --epochs 1 --out run {FLAGS}".split()))
    assert read_json("run/config.json")["data"]["classes"] == list(CLASSES)
    os.remove("run/model.pt")
    printed(lambda: train.main(["--resume", "run"]))
    printed(lambda: compare.main(["run", "--csv", "table.csv"]))
    assert read_csv("table.csv")[0]["data"] == hostile
    for file in ("run/confusion.png", "run/curves.png", "runs/compare.png"):
        Image.open(file).verify()


def test_hostile_names_come_back_from_a_diagnosis_files_and_reach_no_terminal(hostile):
    flags = f"--data {hostile} --epochs 1 --remove 5 --seeds 1 --out diagnosis {FLAGS}"
    text = printed(lambda: diagnose.main(flags.split()))
    assert all(name in text for name in (r"\udcff", r"\x1b[2J", r"a\nb"))
    assert len(re.findall(r"^   [1-5] .*\.png$", text, re.MULTILINE)) == 5  # the suspects, a line each
    train_data = data.load(hostile)[0]
    assert train_data.classes == CLASSES
    kept, labels = read_decisions("diagnosis/top_losses.csv", train_data)[0]
    assert (kept.sum(), torch.equal(labels, train_data.labels)) == (35, True)
    os.remove("diagnosis/effect.csv")
    printed(lambda: diagnose.main(["--resume", "diagnosis"]))
    for name in ("top_losses", "confusion_test"):
        Image.open(f"diagnosis/{name}.png").verify()
