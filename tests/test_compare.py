"""Runs side by side: which are one line and which stand apart, the numbers, the column `settings`, unfinished
and damaged runs, and that no file of a run or of a person is written over."""

import shutil
import statistics
from pathlib import Path

from support.console import UserError
from support.files import read_csv, write_csv
from support.run_folder import read_config, write_config

import pytest
from conftest import FLAGS, write_folder
from PIL import Image

import compare
import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with finished runs of one network: on images, the same in another order, and others."""
    root = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_folder(root / "images")
        write_folder(root / "others", n_test=9)
        for file in sorted(write_folder(root / "shuffled").rglob("*.png")):
            file.rename(file.with_stem(f"{1000 - int(file.stem)}"))
        for name, flags in {
            "a-0": "--data images --epochs 3",
            "a-1": "--data images --epochs 3 --seed 1",
            "a-2": "--data shuffled --epochs 3 --seed 2",
            "b": "--data shuffled --epochs 2 --augment",
            "c": "--data others --epochs 3",
        }.items():
            train.main(f"{FLAGS} {flags} --out runs/{name}".split())
    return root


def table(flags=""):
    compare.main([*flags.split(), "--csv", "table.csv"])
    return read_csv("table.csv")


def accuracies(run):
    return [100 * float(row["test_accuracy"]) for row in read_csv(f"runs/{run}/metrics.csv")]


def seconds(run):
    return [float(row["seconds"]) for row in read_csv(f"runs/{run}/metrics.csv")]


def test_seeds_are_one_line_whatever_the_images_order_and_other_data_stand_apart(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    a, b, c = table()
    assert [row["n_seeds"] for row in (a, b, c)] == ["3", "1", "1"]
    assert (a["seeds"], a["epochs"], b["epochs"]) == ("0 1 2", "3", "2")
    runs = ("a-0", "a-1", "a-2")
    final = [accuracies(run)[-1] for run in runs]
    assert float(a["final_accuracy"]) == pytest.approx(statistics.mean(final), abs=1e-3)
    assert float(a["final_accuracy_sd"]) == pytest.approx(statistics.stdev(final), abs=1e-3)
    assert float(a["seconds"]) == pytest.approx(sum(sum(seconds(run)) for run in runs) / 3, abs=0.1)
    assert "augment" in b["named"]
    assert "trained on" not in b["named"]
    assert "augment" not in a["named"]
    output = capsys.readouterr().out
    assert output.count("tested on") == 2
    assert "Compare within each of the 2 tables only" in output
    Image.open("runs/compare.png").verify()
    assert "Compare within" not in compare_output("runs/a-0 runs/b", capsys)


def compare_output(flags, capsys):
    capsys.readouterr()
    table(flags)
    return capsys.readouterr().out


def copied(folder, tmp_path, monkeypatch, run="a-0"):
    """Go to `tmp_path` with a copy of a run there, and return its folder."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "runs" / run
    copy.mkdir(parents=True)
    for file in (folder / "runs" / run).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_epochs_and_seconds_to_99_percent_are_those_of_the_first_epoch_over_it(folder, tmp_path, monkeypatch):
    for run, line in (("a-0", (0.5, 0.98, 0.991)), ("a-1", (0.99, 0.2, 0.97))):
        copy = copied(folder, tmp_path, monkeypatch, run)
        rows = read_csv(copy / "metrics.csv")
        write_csv(
            copy / "metrics.csv",
            [row | {"test_accuracy": a, "seconds": 10} for row, a in zip(rows, line, strict=True)],
        )
    (row,) = table()
    assert (row["n_reached"], row["epochs_to_99"], row["seconds_to_99"]) == ("2", "2", "20.0")  # of 3 and 1
    assert row["images_per_second"] == str(round(3 * 24 / 30))
    assert row["final_accuracy"] == "98.05"  # not the best epochs'


def test_an_interrupted_run_is_shown_as_far_as_it_got(folder, tmp_path, monkeypatch, capsys):
    copy = copied(folder, tmp_path, monkeypatch)
    (copy / "model.pt").unlink()
    write_csv(copy / "metrics.csv", read_csv(copy / "metrics.csv")[:2])
    copied(folder, tmp_path, monkeypatch, "a-1")
    rows = table()
    assert [(row["epochs"], row["finished"]) for row in rows] == [("2", "False"), ("3", "True")]
    output = capsys.readouterr().out
    assert "1: not finished, 2 of 3 epochs are over\n   python train.py --resume runs/a-0\n" in output
    other = tmp_path / "runs" / "a-1"
    (other / "model.pt").unlink()
    write_csv(other / "metrics.csv", read_csv(other / "metrics.csv")[:1])
    assert [(row["epochs"], row["finished"]) for row in table()] == [("2", "False"), ("1", "False")]
    (copy / "metrics.csv").unlink()
    assert len(table()) == 1
    assert "runs/a-0 is left out: none of its epochs is over" in capsys.readouterr().out


def test_the_same_images_from_another_place_are_the_same_experiment(folder, tmp_path, monkeypatch):
    copy = copied(folder, tmp_path, monkeypatch, "a-1")
    config = read_config(copy)[1]
    config["settings"] |= {"data": "moved", "limit": 500}
    write_config(copy, config)
    copied(folder, tmp_path, monkeypatch)
    assert [row["n_seeds"] for row in table()] == ["2"]
    config["platform"]["hardware"] = "another machine"
    write_config(copy, config)
    assert [row["n_seeds"] for row in table()] == ["1", "1"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[]", r"config\.json is damaged"),
        ("config.json", None, "no run is there"),
        ("metrics.csv", None, r"metrics\.csv: is not that of all 3 epochs"),  # of a finished run
        ("metrics.csv", "epoch,seconds\n1,2\n", r"metrics\.csv: is no table of epochs"),
        ("metrics.csv", "epoch,test_accuracy,seconds\n1,high,2\n", r"metrics\.csv: is no table of epochs"),
        ("metrics.csv", "epoch,test_accuracy,seconds\n1,nan,2\n", r"metrics\.csv: is no table of epochs"),
    ],
)
def test_what_is_no_run_is_named(folder, tmp_path, monkeypatch, file, content, message):
    copy = copied(folder, tmp_path, monkeypatch)
    (copy / file).unlink()
    if content:
        (copy / file).write_text(content)
    with pytest.raises(UserError, match=message):
        compare.main(["runs/a-0"])


def test_runs_of_other_commands_are_refused_or_left_out(folder, tmp_path, monkeypatch):
    copy = copied(folder, tmp_path, monkeypatch)
    config = read_config(copy)[1]
    write_config(copy, config | {"options": {"remove": 100}})
    with pytest.raises(UserError, match="a run of another command"):
        compare.main(["runs/a-0"])
    with pytest.raises(UserError, match="no training run is in runs/"):
        compare.main([])


def test_a_repeated_run_is_no_other_seed(folder, tmp_path, monkeypatch, capsys):
    for run in ("a-0", "a-1"):
        copied(folder, tmp_path, monkeypatch, run)
    shutil.copytree("runs/a-0", "runs/a-0-2")
    (row,) = table()
    assert (row["n_seeds"], row["seeds"]) == ("2", "0 1")
    assert "runs/a-0-2 is left out: it repeats seed 0 of runs/a-0" in capsys.readouterr().out
    (row,) = table("runs/a-0")
    assert row["final_accuracy_sd"] == ""  # one seed has no spread
    output = capsys.readouterr().out
    assert f"{float(row['final_accuracy']):.2f} ± " not in output


def test_other_training_data_or_hardware_are_named(folder, tmp_path, monkeypatch, capsys):
    copied(folder, tmp_path, monkeypatch)
    copy = copied(folder, tmp_path, monkeypatch, "a-1")
    config = read_config(copy)[1]
    config["data"]["source"] = "mislabelled"
    config["data"]["fingerprint"][0] = config["content_fingerprint"][0] = "0" * 16
    config["platform"]["hardware"] = "a GPU"
    write_config(copy, config)
    names = [row["named"] for row in table()]
    assert names[0].startswith("trained on 24 of images, ")
    assert names[1].startswith("trained on 24 of mislabelled, a GPU, ")
    assert capsys.readouterr().out.count("tested on") == 1


def test_the_column_of_settings_is_there_only_where_it_says_something(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (row,) = table("runs/a-0")
    header, line = capsys.readouterr().out.splitlines()[2:4]
    assert row["named"] == ""
    assert header == compare.HEADER
    assert len(line) == len(header)
    a, b = table("runs/a-0 runs/b")
    assert (a["named"], b["named"]) == ("epochs 3", "epochs 2, augment")
    header, *lines = capsys.readouterr().out.splitlines()[2:5]
    assert header == compare.HEADER + "  settings"
    assert [line[len(compare.HEADER) + 2 :] for line in lines] == ["epochs 3", "epochs 2, augment"]


def test_one_damaged_run_does_not_hide_the_others(folder, tmp_path, monkeypatch, capsys):
    copied(folder, tmp_path, monkeypatch)
    copy = copied(folder, tmp_path, monkeypatch, "a-1")
    (copy / "metrics.csv").write_text("epoch\n\x00")
    assert len(table()) == 1
    assert "runs/a-1/metrics.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--picture", ""],
        ["--picture", "runs"],
        ["--picture", "table.csv"],
        ["--csv", "runs/a-0/metrics.csv"],
        ["--csv", "runs/a-0/model.pt"],
        ["--picture", "runs/a-0/curves.png"],
        ["--picture", "runs/missing/../a-0/curves.png"],
        ["--picture", "photo.png"],
    ],
)
def test_no_file_of_a_run_is_written_over_and_the_refusal_comes_before_the_work(
    folder, tmp_path, monkeypatch, flags
):
    monkeypatch.setattr(compare, "read_run", None)
    copy = copied(folder, tmp_path, monkeypatch)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    Image.new("RGB", (9, 9), "red").save("photo.png")
    photo = (tmp_path / "photo.png").read_bytes()
    with pytest.raises(UserError, match=r"is no name for a new|is a run's|photo\.png: is there without"):
        compare.main(["runs/a-0", *flags])
    assert (tmp_path / "photo.png").read_bytes() == photo
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"name,score\nme,1\n"), ("a.csv", b""), ("a.csv", b"\xff\0\n"), ("a.png", b"a picture?")],
)
def test_of_table_and_picture_neither_is_written_where_one_would_hurt_a_file_of_a_persons(
    folder, tmp_path, monkeypatch, name, content
):
    copied(folder, tmp_path, monkeypatch)
    Path(name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: is there without this program's mark"):
        compare.main(["runs/a-0", "--csv", "a.csv", "--picture", "a.png"])
    assert Path(name).read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"runs", name}
    Path(name).unlink()
    for _ in range(2):  # its own files are replaced
        compare.main(["runs/a-0", "--csv", "a.csv", "--picture", "a.png"])


def test_a_run_that_ended_just_before_its_model_was_written_is_not_among_the_finished(
    folder, tmp_path, monkeypatch
):
    copied(folder, tmp_path, monkeypatch)
    (copied(folder, tmp_path, monkeypatch, "a-1") / "model.pt").unlink()
    assert [(row["seeds"], row["finished"]) for row in table()] == [("0", "True"), ("1", "False")]
