"""Commands that are killed, stopped or out of room, processes that die, and how all that goes on."""

import json
import os
import resource
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from inspect import getsource
from pathlib import Path

from support import run_folder
from support.console import run_command
from support.files import locked, read_csv
from support.run_folder import read_config, write_config
from support.trials import Architecture

import pytest
import torch
from commands import PROJECT, started, under_torchrun
from conftest import DIAGNOSE, FLAGS, SEARCH, contents, write_folder
from PIL import Image

import diagnose
import search
import train


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Make a new folder the current one, in this process too."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def two_search(tmp_path_factory):
    """(process, folder) of a search by two processes: it takes seconds, so it starts before all tests."""
    root = tmp_path_factory.mktemp("two")
    write_folder(root / "images", n_train=90)
    return under_torchrun(PROJECT / "search.py", f"{SEARCH} --out two", root), root


def send(number, process, ready):
    """Send a signal to a running process as soon as `ready()` is true, and wait for its end."""
    while not ready() and process.is_alive():
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
    process.join(timeout=120)


def n_rows(file):
    """Return how many rows a table has that a running command writes; none where it is not there yet."""
    return len(Path(file).read_text().splitlines()) - 1 if Path(file).exists() else 0


def stderr():
    """Return what the last command that was `started` here complained of."""
    return Path("stderr").read_text()


def without_times(file):
    """Return the rows of a table, without the columns that differ from run to run."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "elapsed")} for row in read_csv(file)]


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


# ---------------------------------------------------------------- a training


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    arguments = f"--data images --epochs 20 --augment {FLAGS}"
    train.main(f"{arguments} --out whole".split())
    process = started("train", f"{arguments} --out killed", tmp_path)
    for n_epochs in (2, 6):
        send(signal.SIGKILL, process, lambda n=n_epochs: n_rows("killed/metrics.csv") >= n)
        assert process.exitcode == -signal.SIGKILL
        process = started("train", "--resume killed", tmp_path)
    process.join(timeout=120)
    assert process.exitcode == 0
    whole, killed = (torch.load(f"{name}/model.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert without_times("killed/metrics.csv") == without_times("whole/metrics.csv")
    assert names("killed") == names("whole")  # nothing half written is left


def test_ctrl_c_ends_in_one_line_with_the_command_that_goes_on(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    process = started("train", f"--data images --epochs 1000 --out run {FLAGS}", tmp_path)
    send(signal.SIGINT, process, lambda: n_rows("run/metrics.csv") >= 1)
    assert process.exitcode == 2
    assert stderr() == "train.py: interrupted; to go on: python train.py --resume run\n"


@contextmanager
def small_files_only():
    """Stand for a full disk in the block: no file may grow beyond 2,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_in_one_line_and_leaves_no_half_file(refused):
    with small_files_only():
        line = refused(f"--data images --epochs 1 --out run {FLAGS}")
    assert line == "train.py: run: File too large; when that is mended: python train.py --resume run\n"
    assert names("run") == {"config.json", "metrics.csv"}
    train.main(["--resume", "run"])
    assert Path("run/model.pt").exists()


def test_a_reader_who_goes_away_ends_the_run_in_one_line(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    os.mkfifo("stdout")
    process = started("train", f"--data images --epochs 1000 --out run {FLAGS}", tmp_path)
    with open("stdout") as reader:
        reader.readline()
    process.join(timeout=60)
    assert process.exitcode == 2
    assert stderr() == "train.py: interrupted: the output was closed\n"


# ---------------------------------------------------------------- a training of two processes


def gradient_descent(model, lr, n_steps):
    """Stand for train.optimisation: AdamW would hide gradients that are all too large or too small."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)


TRAIN_SO = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
import train, torch
{getsource(gradient_descent)}
train.optimisation = gradient_descent
train.run_command(train.main)
"""


def said_where_one_dies(process, folder, rank, script):
    """Kill one of two processes that train in `folder`, check what the other says, return all of stderr."""
    while n_rows(f"{folder}/metrics.csv") < 2 and process.is_alive():
        time.sleep(0.001)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[rank]), signal.SIGKILL)
    process.join(timeout=60)
    assert process.exitcode == 1
    said = [line for line in stderr().splitlines() if line.startswith(f"{script}: ")]
    assert len(said) == 1
    assert said[0].endswith(f"; to go on: torchrun --nproc-per-node 2 train.py --resume {folder}")
    return stderr()


def test_two_processes_one_of_which_dies_give_the_weights_of_one_to_rounding(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", n_train=25, n_test=11)  # the last batch is one image, for two processes
    Path("sgd.py").write_text(TRAIN_SO)
    arguments = f"--data images --epochs 20 --augment --image-size 9 --lr 0.05 --device cpu {FLAGS}"
    process = under_torchrun("sgd.py", f"{arguments} --out two", tmp_path)
    said = said_where_one_dies(process, "two", 1, "sgd.py")
    assert 'train.py", line' not in said  # no traceback of ours; torchrun prints its own
    assert not Path("two/model.pt").exists()

    process = under_torchrun("sgd.py", "--resume two", tmp_path)
    process.join(timeout=120)
    assert process.exitcode == 0
    stdout = Path("stdout").read_text()
    assert stdout.count("test accuracy on images") == stdout.count("in each of 2 processes") == 1
    monkeypatch.setattr(train, "optimisation", gradient_descent)
    train.main(f"{arguments} --out one".split())
    one, two = (torch.load(f"{name}/model.pt", weights_only=True) for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    rows = [without_times(f"{name}/metrics.csv") for name in ("one", "two")]
    for row, other in zip(*rows, strict=True):
        assert [float(v) for v in row.values()] == pytest.approx([float(v) for v in other.values()], abs=1e-3)


def test_where_the_first_process_dies_the_second_says_so(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    arguments = f"--data images --epochs 1000 --device cpu {FLAGS} --out two"
    process = under_torchrun(PROJECT / "train.py", arguments, tmp_path)
    said_where_one_dies(process, "two", 0, "train.py")


# ---------------------------------------------------------------- who may go on with a run


@pytest.fixture
def interrupted(refused):
    """The folder of a run of one epoch that lacks its last file, model.pt."""
    train.main(f"--data images --epochs 1 --out run {FLAGS}".split())
    os.remove("run/model.pt")
    return Path("run")


def test_a_finished_run_is_neither_trained_again_nor_overwritten(refused, capsys):
    train.main(f"--data images --epochs 1 --out run {FLAGS}".split())
    before = contents(Path("run"))
    capsys.readouterr()
    run_command(lambda: train.main(["--resume", "run"]))  # would end this process with another status than 0
    assert capsys.readouterr().out == "run is finished already; model.pt and its other results are there\n"
    assert "something is there" in refused("--data images --out run")
    assert contents(Path("run")) == before


def test_a_run_that_another_process_finishes_while_the_data_are_read_is_left_as_it_is(monkeypatch):
    write_folder(Path("images"))
    train.main(f"--data images --epochs 1 --out run {FLAGS}".split())
    before = contents(Path("run"))
    answers, is_finished = [False], run_folder.is_finished  # not yet, when it is asked first
    monkeypatch.setattr(
        run_folder, "is_finished", lambda *run: answers.pop() if answers else is_finished(*run)
    )
    assert train.main(["--resume", "run"]) is None
    assert answers == []
    assert contents(Path("run")) == before


def test_a_run_is_trained_by_one_process_at_a_time(refused, interrupted):
    with locked(interrupted):
        assert "another process is at work there" in refused("--resume run")
    train.main(["--resume", "run"])


def test_of_two_runs_with_the_same_folder_one_is_refused(refused, interrupted, monkeypatch):
    config = Path("run/config.json").read_bytes()
    monkeypatch.setattr(run_folder, "check_new", lambda out: None)  # as if the other one came just after this
    assert "another process was faster" in refused(f"--data images --epochs 2 --out run {FLAGS}")
    assert Path("run/config.json").read_bytes() == config


def test_a_run_on_another_machine_goes_on_with_a_note(interrupted, capsys):
    config = read_config(Path("run"))[1]
    config["platform"]["torch"] = "1.0"
    write_config(Path("run"), config)
    train.main(["--resume", "run"])
    assert "Note: that run began with other software" in capsys.readouterr().out


def test_a_run_goes_on_only_with_its_own_data_and_a_whole_config(refused, interrupted):
    file = next(Path("images/train").rglob("*.png"))
    Image.new("L", (8, 8), 7).save(file)
    assert "the data at images is not what that run began with" in refused("--resume run")
    edited = json.loads(Path("run/config.json").read_text())
    edited["settings"]["epochs"] = 8
    for damaged in (json.dumps(edited), "{", "{}", "[]"):
        Path("run/config.json").write_text(damaged)
        assert "config.json is damaged" in refused("--resume run")


# ---------------------------------------------------------------- a diagnosis


def test_a_diagnosis_that_is_killed_goes_on_to_the_same_end(tmp_path):
    write_folder(tmp_path / "data" / "mnist_png", n_train=90)
    diagnose.main(f"{DIAGNOSE} --out whole".split())
    process = started("diagnose", f"{DIAGNOSE} --write-clean new --out killed", tmp_path)
    send(signal.SIGKILL, process, lambda: list(Path("killed").glob("cleaned*/state.pt")))
    assert process.exitcode == -signal.SIGKILL
    diagnose.main(["--resume", "killed"])
    for name in ("top_losses.csv", "top_losses.png", "confusion_test.png"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()
    assert without_times("killed/effect.csv") == without_times("whole/effect.csv")
    assert len(list(Path("new").glob("train/*/*"))) == 85
    assert names("killed") == names("whole")


def test_a_resumed_diagnosis_does_what_the_edited_ranking_says(tmp_path):
    write_folder(tmp_path / "images", n_train=90)
    arguments = f"--data images --remove 5 --seeds 1 --epochs 1 {FLAGS}"
    diagnose.main(f"{arguments} --write-clean new --out run".split())
    os.remove("run/effect.csv")  # as if it had been interrupted
    shutil.rmtree("new")
    ranking = Path("run/top_losses.csv")
    edited = ranking.read_text().replace(",remove,", ",keep,", 4)
    ranking.write_text(edited)
    diagnose.main(["--resume", "run"])
    assert ranking.read_text() == edited
    assert read_csv("run/effect.csv")[-1]["n_images"] == "89"
    assert len(list(Path("new").glob("train/*/*"))) == 89


def test_a_diagnosis_that_another_process_finishes_meanwhile_is_left_alone(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "images")
    diagnose.main(f"--data images --seeds 1 --epochs 1 {FLAGS} --out run".split())
    finished = contents(Path("run"))
    os.rename("run/effect.csv", "effect.csv")

    def slow(*given, load=diagnose.load, **named):
        os.rename("effect.csv", "run/effect.csv")
        return load(*given, **named)

    monkeypatch.setattr(diagnose, "load", slow)
    diagnose.main(["--resume", "run"])
    assert contents(Path("run")) == finished
    assert "run is finished already" in capsys.readouterr().out


# ---------------------------------------------------------------- a search


QUICK_SEARCH = f"{SEARCH} --n-blocks 1 --n-features-1 3"


@pytest.fixture
def quick(monkeypatch):
    """Let searches in this process test their winner from one seed only, beside one of a single block."""
    monkeypatch.setattr(search, "N_FINAL_SEEDS", 1)
    monkeypatch.setattr(search, "THE_SHEETS", Architecture("resnet", 1, 2, 2, 2, 2))


@pytest.fixture(scope="module")
def whole_search(tmp_path_factory):
    """(folder, winner) of a search that nothing interrupts."""
    root = tmp_path_factory.mktemp("search")
    write_folder(root / "images", n_train=90)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return root / "whole", search.main(f"{SEARCH} --out whole".split())


def test_a_search_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, capsys, whole_search):
    write_folder(tmp_path / "images", n_train=90)
    whole, winner = whole_search
    table = Path("killed/results.csv")
    for n_trials in (2, 11, 17):  # in the first rung, between two, in the final
        process = started("search", f"{SEARCH} --out killed", tmp_path)
        send(signal.SIGKILL, process, lambda n=n_trials: n_rows(table) >= n)
        assert process.exitcode == -signal.SIGKILL
    with open(table, "a") as file:
        file.write("validation,resnet,1,")  # as if the last kill had come while a line was written
    assert search.main(f"{SEARCH} --out killed".split()) == winner
    assert without_times(table) == without_times(whole / "results.csv")
    before = table.read_bytes()
    capsys.readouterr()
    assert search.main(f"{SEARCH} --out killed".split()) == winner  # a finished one is only told again
    assert table.read_bytes() == before
    assert "mean ± sd of 5 seeds" in capsys.readouterr().out


def test_two_processes_search_as_one_does(two_search, whole_search):
    process, folder = two_search
    process.join(timeout=120)
    assert process.exitcode == 0, (folder / "stderr").read_text()
    assert (folder / "stdout").read_text().count("next, to train the winner") == 1
    assert without_times(folder / "two" / "results.csv") == without_times(whole_search[0] / "results.csv")


@pytest.mark.parametrize("told_to_end", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_search_ends_in_one_line_with_the_command_that_goes_on(tmp_path, told_to_end):
    write_folder(tmp_path / "images", n_train=90)
    process = started("search", f"{SEARCH} --out run", tmp_path)
    send(told_to_end, process, Path("run/results.csv").exists)
    assert process.exitcode == 2
    assert stderr() == f"search.py: interrupted; to go on: python search.py {SEARCH} --out run\n"


def test_a_search_goes_on_only_from_whole_files_and_keeps_the_damaged_ones(refused, quick):
    search.main(f"{QUICK_SEARCH} --out run".split())
    for name, damage, message in (
        ("results.csv", b"a,b\n1,2\n", "has a line that is no trial"),
        ("results.csv", b"my own notes", "is no table of this program any more"),
        ("plan.json", b"{", "plan.json: is damaged"),
        ("plan.json", b"[[[3]], 5]", "plan.json: is no plan of this search"),
    ):
        file = Path("run", name)
        whole = file.read_bytes()
        file.write_bytes(damage)
        assert message in refused(f"{QUICK_SEARCH} --out run", search)
        assert file.read_bytes() == damage
        file.write_bytes(whole)
    with locked(Path("run")):
        assert "another process is at work there" in refused(f"{QUICK_SEARCH} --out run", search)


def test_the_advice_to_take_more_minutes_can_be_followed_in_the_same_folder(refused, quick):
    assert "try --minutes 1," in refused(SEARCH.replace("--minutes 9", "--minutes 0.0001 --out run"), search)
    assert not Path("run").exists()
    search.main(SEARCH.replace("--minutes 9", "--minutes 1 --out run").split())
    assert Path("run/costs.png").exists()


def test_the_same_search_goes_on_and_another_starts_anew(refused, quick):
    search.main(QUICK_SEARCH.split())
    before = without_times("runs/search/results.csv")
    for other in ("--seed 3", "--minutes 8", ""):
        search.main(f"{QUICK_SEARCH} {other}".split())
    assert names("runs") == {"search", "search-2", "search-3"}
    assert without_times("runs/search/results.csv") == before
    assert {row["seed"] for row in without_times("runs/search-2/results.csv")} == set("34")
