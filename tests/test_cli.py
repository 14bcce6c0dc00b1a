"""The command line as a user types it, in processes of its own: whole runs, kill -9, bad input."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from support import run_folder
from support.console import run_command
from support.decisions import read_decisions
from support.files import locked, read_csv

import pytest
import torch
from conftest import write_folder
from PIL import Image

import compare
import data
import diagnose
import models
import search
import train

PROJECT = Path(__file__).parent.parent
NETWORK = "--n-features-1 4 --n-features-2 4 --n-fully-1 8 --n-fully-2 8 --n-blocks 2"
SMALL = f"{NETWORK} --batch-size 8 --precision fp32"


def command(arguments, script="train.py"):
    return [sys.executable, str(PROJECT / script), *arguments.split()]


def typed(arguments, cwd, script="train.py", **options):
    """Run a script as typed in the folder `cwd`, and return the finished process with its output as text."""
    line = command(arguments, script)
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


def started(arguments, cwd, script="train.py", stdout=subprocess.DEVNULL):
    """Start a script as typed in the folder `cwd` and return the running process."""
    line = command(arguments, script)
    return subprocess.Popen(line, cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_run_from_the_command_to_its_folder(tmp_path):
    write_folder(tmp_path / "data" / "mnist_png")
    done = typed(f"--model resnet --init xavier --epochs 3 --limit 20 {SMALL}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mnist_png: 20 training and 12 test images, 8 pixels wide and 8 high, in 3 classes" in done.stdout
    assert "next, to compare: python train.py --model encoder --init xavier --n-blocks 2 " in done.stdout
    assert "--data data/mnist_png --epochs 3 --limit 20\n" in done.stdout
    folder = tmp_path / "runs" / "resnet-xavier"
    names = {"config.json", "metrics.csv", "model.pt", "state.pt", "curves.png", "confusion.png"}
    assert {file.name for file in folder.iterdir()} == names
    for name in ("curves.png", "confusion.png"):
        Image.open(folder / name).verify()

    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["n_features_1"] == 4
    assert config["settings"]["data"] == "data/mnist_png"
    assert config["data"]["n_train"] == 20
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["epoch"] == "3"
    n_wrong = round(12 * (1 - float(last["test_accuracy"])))
    assert f"{n_wrong} of 12 test images wrong" in done.stdout

    # The weights alone, in a network made here, answer as the run said.
    network = models.ResNet(3, 1, 8, 2, 4, 4, 8, 8)
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    _, test = train.load(str(tmp_path / "data" / "mnist_png"))
    assert (network(test.images / 255).argmax(dim=1) != test.labels).sum() == n_wrong


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", n_train=200)
    arguments = f"--data images --epochs 20 --augment {SMALL}"
    monkeypatch.chdir(tmp_path)
    train.main(f"{arguments} --out whole".split())  # in this process, as starting one takes seconds
    process = started(f"{arguments} --out killed", tmp_path)
    for n_epochs in (3, 9):
        while count_epochs(tmp_path / "killed") < n_epochs and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "model.pt").exists()
        process = started("--resume killed", tmp_path)
    assert process.wait(timeout=120) == 0
    whole, killed = (
        torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert count_epochs(tmp_path / "killed") == 20
    files = [{file.name for file in (tmp_path / name).iterdir()} for name in ("whole", "killed")]
    assert files[0] == files[1]  # nothing half written is left


def count_epochs(folder):
    """Return how many epochs a run's metrics.csv has."""
    metrics = folder / "metrics.csv"
    return len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0


def test_ctrl_c_ends_in_one_line_with_the_command_that_goes_on(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    process = started(f"--data images --epochs 1000 --out run {SMALL}", tmp_path)
    while count_epochs(tmp_path / "run") < 1 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr == "train.py: interrupted; to go on: python train.py --resume run\n"


def test_a_full_disk_ends_in_one_line_and_leaves_no_half_file(tmp_path, monkeypatch):
    write_folder(tmp_path / "images")

    def small_files_only():  # stands for a full disk: no file may grow beyond 2,000 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = typed(f"--data images --out run {SMALL}", tmp_path, preexec_fn=small_files_only)
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: run: File too large; when that is mended: python train")
    assert done.stderr.count("\n") == 1
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"config.json", "metrics.csv"}
    monkeypatch.chdir(tmp_path)
    train.main(["--resume", "run"])
    assert (tmp_path / "run" / "model.pt").exists()


def test_a_reader_who_goes_away_ends_the_run_in_one_line(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    process = started(f"--data images --epochs 1000 --out run {SMALL}", tmp_path, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 2
    assert process.stderr.read() == "train.py: interrupted: the output was closed\n"


# ---------------------------------------------------------------- several processes


def gradient_descent(model, lr, n_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)


SGD = f"""
import sys
sys.path[:0] = {[str(PROJECT), str(PROJECT / "tests")]!r}
import test_cli, train
train.optimisation = test_cli.gradient_descent
train.run_command(train.main)
"""


def under_torchrun(arguments, cwd, script=PROJECT / "train.py"):
    """Start a script in two processes under torchrun, in the folder `cwd`, and return the running process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*launcher, str(script), *arguments.split()]
    return subprocess.Popen(line, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said_where_one_dies(process, folder, rank, script):
    """Kill one of two processes that train in `folder`, check what the other says, return all of stderr."""
    while count_epochs(folder) < 2 and process.poll() is None:
        time.sleep(0.001)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[rank]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    said = [line for line in stderr.splitlines() if line.startswith(f"{script}: ")]
    assert len(said) == 1
    assert said[0].endswith(f"; to go on: torchrun --nproc-per-node 2 train.py --resume {folder.name}")
    return stderr


def test_two_processes_one_of_which_dies_give_the_weights_of_one_to_rounding(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", n_train=25, n_test=11)  # the last batch is one image, for two processes
    # Plain gradient descent, as AdamW would hide gradients that are all too large or too small.
    (tmp_path / "sgd.py").write_text(SGD)
    arguments = f"--data images --epochs 60 --augment --image-size 9 --lr 0.05 {SMALL}"
    process = under_torchrun(f"{arguments} --out two", tmp_path, "sgd.py")
    stderr = said_where_one_dies(process, tmp_path / "two", 1, "sgd.py")
    assert 'train.py", line' not in stderr  # no traceback of ours; torchrun prints its own
    assert not (tmp_path / "two" / "model.pt").exists()

    process = under_torchrun("--resume two", tmp_path, "sgd.py")
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert stdout.count("test accuracy on images") == stdout.count("in each of 2 processes") == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "optimisation", gradient_descent)
    train.main(f"{arguments} --out one".split())
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two")]
    for row, other in zip(*map(csv.DictReader, rows), strict=True):
        for key in row.keys() - {"seconds"}:
            assert float(row[key]) == pytest.approx(float(other[key]), abs=1e-3)


def test_where_the_first_process_dies_the_second_says_so(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    process = under_torchrun(f"--data images --epochs 1000 {SMALL} --out two", tmp_path)
    said_where_one_dies(process, tmp_path / "two", 0, "train.py")


# ---------------------------------------------------------------- wrong labels

DIAGNOSE = f"--epochs 6 --seeds 2 --mislabelled 5 {SMALL}"


def contents(root):
    """Return {relative path: bytes} of all files under `root`."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_diagnosis_from_the_clean_images_to_the_cleaned_ones(tmp_path, monkeypatch):
    clean = write_folder(tmp_path / "data" / "mnist_png", n_train=90)
    before = contents(clean)
    done = typed(f"{DIAGNOSE} --remove 5 --write-clean cleaned", tmp_path, "diagnose.py")
    assert (done.returncode, done.stderr) == (0, "")
    imperfect = contents(tmp_path / "data" / "mnist_png_mislabelled_5")
    assert contents(clean) == before
    assert len(imperfect) == len(before)
    assert len(imperfect.keys() - before.keys()) == 5
    assert "5 of its labels are not those of ./data/mnist_png" in done.stdout

    folder = tmp_path / "runs" / "diagnosis"
    with open(folder / "top_losses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {name for name in imperfect if name.startswith("train")}
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    removed = [row["id"] for row in rows[:5]]
    assert [row["action"] for row in rows] == ["remove"] * 5 + ["keep"] * 85
    n_found = len(set(removed) & (imperfect.keys() - before.keys()))
    assert n_found >= 3
    assert f"{n_found} labels are wrong (precision {n_found / 5:.1%})" in done.stdout
    assert contents(tmp_path / "cleaned") == {k: v for k, v in imperfect.items() if k not in removed}
    fingerprint = data.load(str(tmp_path / "cleaned"))[0].fingerprint()
    names = {path.name for path in folder.glob("cleaned-*")}
    assert names == {f"cleaned-{fingerprint}-{seed}" for seed in (0, 1)}  # what the networks were trained on
    with open(folder / "effect.csv", newline="") as file:
        effect = [tuple(row.values())[:4] for row in csv.DictReader(file)]
    wrong = {"clean": ("90", "0"), "imperfect": ("90", "5"), "cleaned": ("85", str(5 - n_found))}
    assert effect == [(name, seed, *counts) for name, counts in wrong.items() for seed in "01"]
    for name in ("top_losses.png", "confusion_train.png", "confusion_test.png"):
        Image.open(folder / name).verify()
    assert (folder / "missed.png").exists() == (n_found < 5)

    # A person's decisions, in the file as a German spreadsheet leaves it.
    new_class = "row0" if rows[0]["given"] == "row4" else "row4"
    rows[0] |= {"action": "relabel", "predicted": new_class}
    rows[1] |= {"action": "keep"}
    with open(tmp_path / "mine.csv", "w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, rows[0], delimiter=";")
        table.writeheader()
        table.writerows(rows)
    edited = (tmp_path / "mine.csv").read_bytes()
    monkeypatch.chdir(tmp_path)
    line = "--data data/mnist_png_mislabelled_5 --decisions mine.csv"
    diagnose.main(f"{SMALL} {line} --write-clean mine".split())
    assert (tmp_path / "mine.csv").read_bytes() == edited
    relabelled = f"train/{new_class}/{Path(removed[0]).name}"
    expected = {k: v for k, v in imperfect.items() if k not in removed or k == removed[1]}
    assert contents(tmp_path / "mine") == expected | {relabelled: imperfect[removed[0]]}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"diagnosis"}  # nothing was trained
    diagnose.main(f"--seeds 1 {SMALL} {line}".split())
    with open("runs/diagnosis-2/top_losses.csv", newline="") as file:
        actions = {row["id"]: (row["action"], row["predicted"]) for row in csv.DictReader(file)}
    assert actions[removed[0]] == ("relabel", new_class)
    assert [actions[name][0] for name in removed[1:]] == ["keep", "remove", "remove", "remove"]
    imperfect_data = data.load("data/mnist_png_mislabelled_5")[0]
    kept, labels = read_decisions("mine.csv", imperfect_data)
    expected = data.replace(imperfect_data, labels=labels).subset(kept.nonzero().flatten())
    assert Path(f"runs/diagnosis-2/cleaned-{expected.fingerprint()}-0").is_dir()
    assert contents(tmp_path / "data" / "mnist_png_mislabelled_5") == imperfect


def test_a_diagnosis_that_is_killed_goes_on_to_the_same_end(tmp_path, monkeypatch):
    write_folder(tmp_path / "data" / "mnist_png", n_train=90)
    monkeypatch.chdir(tmp_path)
    diagnose.main(f"{DIAGNOSE} --remove 5 --out whole".split())
    process = started(f"{DIAGNOSE} --remove 5 --write-clean new --out killed", tmp_path, "diagnose.py")
    while not list((tmp_path / "killed").glob("cleaned*/state.pt")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "effect.csv").exists()
    diagnose.main(["--resume", "killed"])
    for name in ("top_losses.csv", "top_losses.png", "confusion_test.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    effects = []
    for name in ("whole", "killed"):
        with open(tmp_path / name / "effect.csv", newline="") as file:
            effects.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert effects[0] == effects[1]
    assert len(list((tmp_path / "new").glob("train/*/*"))) == 85
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def test_a_resumed_diagnosis_does_what_the_edited_ranking_says(tmp_path, monkeypatch):
    write_folder(tmp_path / "data" / "mnist_png", n_train=90)
    monkeypatch.chdir(tmp_path)
    diagnose.main(f"{DIAGNOSE} --remove 5 --write-clean new --out run".split())
    (tmp_path / "run" / "effect.csv").unlink()  # as if it had been interrupted
    ranking = tmp_path / "run" / "top_losses.csv"
    edited = ranking.read_text().replace(",remove,", ",keep,", 4)
    ranking.write_text(edited)
    diagnose.main(["--resume", "run"])
    assert ranking.read_text() == edited
    assert len(list((tmp_path / "run").glob("cleaned-*"))) == 4  # two of five removed, two of one


# ---------------------------------------------------------------- names from files are data

HOSTILE = (b"=1+1", b"-x", b"\x1b[2J", b"a\nb", b"\xff")


def test_hostile_names_reach_no_terminal_and_come_back_from_every_file(tmp_path, monkeypatch, capsys):
    images = write_folder(tmp_path / "im\x1b[31mages", n_train=40, n_test=10, n_classes=5, size=10)
    for folder in images.iterdir():
        for index, name in enumerate(HOSTILE):
            (folder / f"row{2 * index}").rename(folder / os.fsdecode(name))
    classes = sorted(map(os.fsdecode, HOSTILE))
    monkeypatch.chdir(tmp_path)

    run_command(lambda: train.main(f"--data {images.name} --epochs 1 --out run {SMALL}".split()))
    config = json.loads(Path("run", "config.json").read_text(encoding="utf-8"))
    assert config["data"]["classes"] == classes
    os.remove("run/model.pt")
    run_command(lambda: train.main(["--resume", "run"]))
    run_command(lambda: compare.main(["run", "--csv", "table.csv"]))
    assert read_csv("table.csv")[0]["data"] == images.name
    said = [capsys.readouterr().out]

    flags = f"--data {images.name} --epochs 1 --remove 5 --seeds 1 --out diagnosis {SMALL}"
    line = [sys.executable, str(PROJECT / "diagnose.py"), *flags.split()]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(line, env=ascii_only, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    said.append(done.stdout.decode("ascii"))
    for text in said:
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert r"im\x1b[31mages" in text
    assert all(name in said[1] for name in (r"\udcff", r"\x1b[2J", r"a\nb"))
    assert len(re.findall(r"^   [1-5] .*\.png$", said[1], re.MULTILINE)) == 5  # the suspects, a line each

    train_data = data.load(images.name)[0]
    assert train_data.classes == tuple(classes)
    kept, labels = read_decisions("diagnosis/top_losses.csv", train_data)
    assert (kept.sum(), torch.equal(labels, train_data.labels)) == (35, True)
    os.remove("diagnosis/effect.csv")
    run_command(lambda: diagnose.main(["--resume", "diagnosis"]))
    for name in ("run/confusion", "run/curves", "diagnosis/top_losses", "diagnosis/confusion_test"):
        Image.open(f"{name}.png").verify()


# ---------------------------------------------------------------- the search

SEARCH = "--data images --n-blocks 1 2 --n-features-1 2 3 --n-features-2 2 --n-fully-1 4 --n-fully-2 4"
SEARCH += " --batch-size 8 --precision fp32 --minutes 9 --threads 1 --epochs 2"


def trials_of(folder):
    """Return the rows of a search's results.csv, without the times."""
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in ("seconds", "elapsed")} for row in rows]


def test_a_search_from_the_command_to_its_folder(tmp_path):
    write_folder(tmp_path / "images", n_train=90)
    done = typed(SEARCH, tmp_path, "search.py")
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "runs" / "search"
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "plan.json",
        "results.csv",
        "costs.png",
    }
    Image.open(folder / "costs.png").verify()
    assert "images: 75 training images, and 15 held out to compare by" in done.stdout
    assert "8 architectures; the sheet's, resnet 3 blocks 32/32 144/72, has " in done.stdout
    plan = "8 for 1/3 epoch, then the best 3 for 2 epochs, then the best 3 for 2 epochs from 2 seeds;"
    assert f"the plan: {plan}" in done.stdout
    rows = trials_of(folder)
    assert len(rows) == 8 + 3 + 3 + 10
    assert all(row["error"] == "" for row in rows)
    tested = [row for row in rows if row["judged_on"] == "test"]
    assert sorted(row["seed"] for row in tested) == sorted(2 * "01234")

    # The command that it ends with trains the very network of the final's first seed.
    line = done.stdout.split("next, to train the winner: python ")[1].strip()
    again = typed(f"{line.removeprefix('train.py ')} --precision fp32 --threads 1 --out run", tmp_path)
    assert again.returncode == 0
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    winner = next(row for row in tested if row["seed"] == "0" and row["n_features_1"] != "32")
    assert (last["test_accuracy"], last["test_loss"]) == (winner["accuracy"], winner["loss"])


def test_a_search_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "images", n_train=90)
    monkeypatch.chdir(tmp_path)
    winner = search.main(f"{SEARCH} --out whole".split())
    for n_trials in (2, 11, 17):  # in the first rung, between two, in the final
        process = started(f"{SEARCH} --out killed", tmp_path, "search.py")
        table = tmp_path / "killed" / "results.csv"
        while not table.exists() or table.read_text().count("\n") < 1 + n_trials:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open(table, "a") as file:
        file.write("validation,resnet,1,")  # as if the last kill had come while a line was written
    assert search.main(f"{SEARCH} --out killed".split()) == winner
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")
    before = table.read_bytes()
    capsys.readouterr()
    assert search.main(f"{SEARCH} --out killed".split()) == winner  # a finished one is only told again
    assert table.read_bytes() == before
    assert "mean ± sd of 5 seeds" in capsys.readouterr().out


def test_two_processes_search_as_one_does(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", n_train=90)
    process = under_torchrun(f"{SEARCH} --out two", tmp_path, PROJECT / "search.py")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.count("next, to train the winner") == 1
    monkeypatch.chdir(tmp_path)
    search.main(f"{SEARCH} --out one".split())
    assert trials_of(tmp_path / "two") == trials_of(tmp_path / "one")


@pytest.mark.parametrize("told_to_end", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_search_ends_in_one_line_with_the_command_that_goes_on(tmp_path, told_to_end):
    write_folder(tmp_path / "images", n_train=90)
    process = started(f"{SEARCH} --out run", tmp_path, "search.py")
    while not (tmp_path / "run" / "results.csv").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(told_to_end)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (
        2,
        f"search.py: interrupted; to go on: python search.py {SEARCH} --out run\n",
    )


# ---------------------------------------------------------------- bad input, in this process for speed


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A function that runs a script with arguments that it must refuse; it returns the one line of stderr."""
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
def test_bad_input_is_one_line(refused, arguments, message):
    assert message in refused(arguments)
    assert not list(Path().rglob("*.part"))


def test_a_size_that_cannot_work_is_refused_before_the_data_are_looked_for(refused):
    assert "18 → 9 → 4 → 2 → 1 → nothing" in refused("--data nowhere --model vgg16 --image-size 18")


def test_refusals_before_the_training_leave_no_folder(refused):
    refused("--data images --n-blocks 4")
    assert not Path("runs").exists()


def test_a_finished_run_is_neither_trained_again_nor_overwritten(refused, capsys):
    train.main(f"--data images --epochs 1 --out run {SMALL}".split())
    before = {file.name: file.read_bytes() for file in Path("run").iterdir()}
    capsys.readouterr()
    run_command(lambda: train.main(["--resume", "run"]))  # would end this process with another status than 0
    assert capsys.readouterr().out == "run is finished already; model.pt and its other results are there\n"
    assert "something is there" in refused("--data images --out run")
    assert {file.name: file.read_bytes() for file in Path("run").iterdir()} == before


def test_a_run_is_trained_by_one_process_at_a_time(refused):
    train.main(f"--data images --epochs 1 --out run {SMALL}".split())
    os.remove("run/model.pt")
    with locked(Path("run")):
        assert "another process is at work there" in refused("--resume run")
    train.main(["--resume", "run"])


def test_of_two_runs_with_the_same_folder_one_is_refused(refused, monkeypatch):
    train.main(f"--data images --epochs 1 --out run {SMALL}".split())
    config = Path("run/config.json").read_bytes()
    monkeypatch.setattr(run_folder, "check_new", lambda out: None)  # as if the other one came just after this
    assert "another process was faster" in refused(f"--data images --epochs 2 --out run {SMALL}")
    assert Path("run/config.json").read_bytes() == config


def test_a_run_on_another_machine_goes_on_with_a_note(refused, capsys):
    train.main(f"--data images --epochs 1 --out run {SMALL}".split())
    os.remove("run/model.pt")
    config = json.loads(Path("run/config.json").read_text())
    config["platform"]["torch"] = "1.0"
    Path("run/config.json").write_text(json.dumps(config))
    train.main(["--resume", "run"])
    assert "Note: that run began with other software" in capsys.readouterr().out


def test_a_run_goes_on_only_with_its_own_data_and_a_whole_config(refused):
    train.main(f"--data images --epochs 1 --out run {SMALL}".split())
    os.remove("run/model.pt")
    file = next(Path("images/train").rglob("*.png"))
    Image.new("L", (8, 8), 7).save(file)
    assert "the data at images is not what that run began with" in refused("--resume run")
    edited = json.loads(Path("run/config.json").read_text())
    edited["settings"]["epochs"] = 8
    for damaged in (
        json.dumps(edited),
        "[" * 100000,
        "{",
        "{}",
        '{"settings": {}}',
        '{"settings": {"colour": 1}}',
        "[]",
    ):
        Path("run/config.json").write_text(damaged)
        assert "config.json is damaged" in refused("--resume run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--remove 0", "--remove: invalid positive int value: '0'"),
        ("--remove -3", "--remove: invalid positive int value: '-3'"),
        ("--data images --remove 13", "--remove 13: that is more than half of the 24 training images"),
        ("--data images", "--remove 100: that is more than half of the 24 training images"),
        ("--data nowhere --remove 3", "--data nowhere: no such folder"),
        ("--data digits --remove 3 --write-clean new", "copies image files, and digits has none"),
        ("--data images --remove 3 --write-clean images/new", "is inside images"),
        ("--data images --remove 3 --write-clean new --out new/", "need a folder each"),
        ("--data images --remove 3 --write-clean new --out new/run", "need a folder each"),
        ("--data images --remove 3 --out images/train/run", "is among the images"),
        ("--data images --remove 3 --out images", "images: something is there"),
        ("--data images --remove 3 --decisions mine.csv", "leave out --remove"),
        ("--data images --decisions mine.csv", "mine.csv: cannot be read (No such file or directory)"),
        ("--data images --decisions all.csv", "all.csv: leaves no training image of the class row0"),
        ("--data images --mislabelled 3", "leave out --data"),
        ("--resume nowhere", "no run is there"),
        ("--resume nowhere --remove 3", "leave out --remove"),
    ],
)
def test_a_diagnosis_that_cannot_be_is_one_line(refused, arguments, message):
    ids = "".join(f"{file},remove,\n" for file in Path("images").glob("train/*/*"))
    Path("all.csv").write_text("id,action,predicted\n" + ids.replace("images/", ""))
    assert message in refused(arguments, diagnose)
    assert not Path("runs").exists()


def test_a_removal_that_would_empty_a_class_leaves_no_ranking_behind(refused, monkeypatch):
    ranked = diagnose.top_losses

    def one_class_first(labels, log_probabilities):
        _, scores, losses = ranked(labels, log_probabilities)
        return (labels != 0).int().argsort(stable=True), scores, losses

    monkeypatch.setattr(diagnose, "top_losses", one_class_first)
    arguments = f"--data images --remove 8 --seeds 1 --epochs 1 --out run {SMALL}"
    assert "--remove 8: leaves no training image of the class row0" in refused(arguments, diagnose)
    assert not Path("run/top_losses.csv").exists()


def test_a_run_of_one_command_is_not_resumed_by_another(refused):
    train.main(f"--data images --epochs 1 --out run {SMALL}".split())
    os.remove("run/model.pt")
    assert "of another command" in refused("--resume run", diagnose)
    diagnose.main(f"--data images --epochs 1 --remove 3 --seeds 1 --out other {SMALL}".split())
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
        ("mislabel nowhere out", "nowhere: needs one folder named train or training"),
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
        ("--data images --out images/train/run", "is among the images"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(refused, arguments, message):
    assert message in refused(arguments, search)


def test_a_search_goes_on_only_from_whole_files_and_keeps_the_damaged_ones(refused):
    search.main(f"{SEARCH} --out run".split())
    whole = {name: Path("run", name).read_bytes() for name in ("results.csv", "plan.json")}
    for name, damage, message in (
        ("results.csv", b"a,b\n1,2\n", "has a line that is no trial"),
        ("results.csv", whole["results.csv"].replace(b"resnet,1", b"resnet,one", 1), "no trial"),
        ("results.csv", b"\xff\n", "is no table any more"),
        ("plan.json", b"{", "plan.json: is damaged"),
        ("plan.json", b"[]", "plan.json: is damaged"),
        ("plan.json", b'{"rungs": 1}', "plan.json: is damaged"),
        ("plan.json", b"[[1], [2]]", "plan.json: is damaged"),
        ("plan.json", b"[[], []]", "plan.json: is damaged"),
        ("plan.json", whole["plan.json"].replace(b"2.0", b"-1"), "plan.json: is damaged"),
        ("plan.json", whole["plan.json"].replace(b'"encoder"', b'"vgg16"'), "plan.json: is damaged"),
        ("results.csv", whole["results.csv"].replace(b"test,", b"text,", 1), "no trial"),
        ("results.csv", whole["results.csv"].replace(b",0.33", b",-0.33", 1), "no trial"),
    ):
        Path("run", name).write_bytes(damage)
        assert message in refused(f"{SEARCH} --out run", search)
        assert Path("run", name).read_bytes() == damage
        Path("run", name).write_bytes(whole[name])
    with locked(Path("run")):
        assert "another process is at work there" in refused(f"{SEARCH} --out run", search)


def test_the_advice_to_take_more_minutes_can_be_followed_in_the_same_folder(refused):
    assert "try --minutes 1," in refused(SEARCH.replace("--minutes 9", "--minutes 0.0001 --out run"), search)
    search.main(SEARCH.replace("--minutes 9", "--minutes 1 --out run").split())
    assert Path("run/costs.png").exists()


def test_the_same_search_goes_on_and_another_starts_anew(refused):
    search.main(SEARCH.split())
    before = trials_of(Path("runs/search"))
    for other in (f"{SEARCH} --seed 3", SEARCH.replace("--minutes 9", "--minutes 8"), SEARCH):
        search.main(other.split())
    assert {path.name for path in Path("runs").iterdir()} == {"search", "search-2", "search-3"}
    assert trials_of(Path("runs/search")) == before
    assert {row["seed"] for row in trials_of(Path("runs/search-2"))} == set("34567")
