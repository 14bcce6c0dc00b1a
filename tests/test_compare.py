"""Comparisons: runs that share a line, unfinished and damaged runs, files that are never overwritten."""

import shutil
import statistics
from pathlib import Path

import pytest
from conftest import FLAGS, contents, write_folder
from PIL import Image

from support.run_folder import read_config, read_csv, write_config, write_csv


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data sets, and an empty folder runs/ that `here` fills once."""
    root = tmp_path_factory.mktemp("compare")
    write_folder(root / "images")
    write_folder(root / "others", n_test=9)
    for file in sorted(write_folder(root / "shuffled").rglob("*.png")):
        file.rename(file.with_stem(f"{1000 - int(file.stem)}"))
    return root


@pytest.fixture
def here(made, type_in, tmp_path):
    """The current folder, with runs of one network: on images, the same in another order, and others."""
    if not (made / "runs").exists():
        for name, flags in {
            "a-0": "--data images --epochs 3",
            "a-1": "--data images --epochs 3 --seed 1",
            "a-2": "--data shuffled --epochs 3 --seed 2",
            "b": "--data shuffled --epochs 2 --augment",
            "c": "--data others --epochs 3 --image-size 9",
        }.items():
            flags = flags.replace("--data ", f"--data {made}/")
            type_in(f"train.py {FLAGS} {flags} --out {made}/runs/{name}")
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path


@pytest.fixture
def compare(type_in, here):
    """A function that compares runs; it returns the rows of the table and what was printed."""

    def run(*folders):
        out = type_in(f"compare.py --csv table.csv {' '.join(folders)}").out
        return read_csv("table.csv"), out

    return run


def column(run, name):
    return [float(row[name]) for row in read_csv(f"runs/{run}/metrics.csv")]


def test_runs_that_differ_in_their_seed_are_one_line(compare):
    (a, b, c), out = compare()
    accuracies = [100 * column(run, "test_accuracy")[-1] for run in ("a-0", "a-1", "a-2")]
    assert [row["seeds"] for row in (a, b, c)] == ["0 1 2", "0", "0"]
    assert [float(text) for text in a["accuracies"].split()] == pytest.approx(accuracies, abs=1e-4)
    assert float(a["accuracy"]) == pytest.approx(statistics.mean(accuracies), abs=1e-3)
    assert float(a["accuracy_sd"]) == pytest.approx(statistics.stdev(accuracies), abs=1e-3)
    assert b["accuracy_sd"] == ""
    seconds = statistics.mean(sum(column(run, "seconds")) for run in ("a-0", "a-1", "a-2"))
    assert float(a["seconds"]) == pytest.approx(seconds, abs=0.1)
    assert int(a["images_per_second"]) == pytest.approx(72 / seconds, rel=0.1)
    assert "augment" in b["name"]
    assert "augment" not in a["name"]
    assert out.count("tested on") == 2
    assert "9×9 pixels" in out
    assert max(map(len, out.splitlines())) <= 100
    Image.open("runs/compare.png").verify()


def changed(run, **parts):
    """Change parts of a run's config.json."""
    config = read_config(f"runs/{run}")
    for part, changes in parts.items():
        config[part] |= changes
    write_config(f"runs/{run}", config)


def test_content_and_hardware_distinguish_runs_but_not_the_location_of_the_data(compare):
    changed("a-1", settings={"data": "moved", "limit": 500})
    assert len(compare("runs/a-0", "runs/a-1")[0]) == 1
    changed("a-1", platform={"hardware": "a GPU"})
    assert ["a GPU" in row["name"] for row in compare("runs/a-0", "runs/a-1")[0]] == [False, True]
    fingerprints = ["0" * 16, read_config("runs/a-0")["data"]["fingerprints"][1]]
    changed("a-2", data={"fingerprints": fingerprints, "source": "images"})
    names = [row["name"] for row in compare("runs/a-0", "runs/a-2")[0]]
    assert names == ["resnet default (runs/a-0)", "resnet default (runs/a-2)"]
    changed("a-2", data={"source": "mislabelled"})
    rows, out = compare("runs/a-0", "runs/a-2")
    assert ["mislabelled" in row["name"] for row in rows] == [False, True]
    assert out.count("tested on") == 1


def test_runs_from_different_weights_have_different_names(compare):
    for run in ("a-0", "a-1"):
        config = read_config(f"runs/{run}")
        config["settings"]["weights"] = f"runs/{run}/model.pt"
        write_config(f"runs/{run}", config | {"weights": f"fingerprint of {run}"})
    names = [row["name"] for row in compare("runs/a-0", "runs/a-1")[0]]
    assert names == [f"resnet default, weights of {run}" for run in ("a-0", "a-1")]


def test_an_unfinished_run_is_shown_up_to_its_last_epoch(compare):
    Path("runs/a-0/model.pt").unlink()
    write_csv("runs/a-0/metrics.csv", read_csv("runs/a-0/metrics.csv")[:2])
    rows, out = compare("runs/a-0", "runs/a-1")
    assert [(row["epochs"], row["finished"]) for row in rows] == [("2", "False"), ("3", "True")]
    assert [row["name"] for row in rows] == ["resnet default, 2 of 3 epochs", "resnet default, epochs 3"]
    assert "train.py --resume runs/a-0" in out
    Path("runs/a-0/metrics.csv").unlink()
    rows, out = compare("runs/a-0", "runs/a-1")
    assert len(rows) == 1
    assert "runs/a-0" in out


def test_a_repeated_run_is_not_another_seed(compare):
    shutil.copytree("runs/a-0", "runs/z")
    rows, out = compare("runs/a-0", "runs/a-1", "runs/z")
    assert rows[0]["seeds"] == "0 1"
    assert "runs/z" in out


def test_other_networks_are_compared_with_the_first_if_their_seeds_suffice(compare):
    assert "compared with" not in compare("runs/a-0", "runs/a-1", "runs/b")[1]
    for number, run in enumerate(5 * ["a-0"] + 5 * ["b"]):
        shutil.copytree(f"runs/{run}", f"runs/seed-{number}")
        changed(f"seed-{number}", settings={"seed": number})
        rows = read_csv(f"runs/seed-{number}/metrics.csv")
        rows[-1]["test_accuracy"] = (50 + number) / 100  # 50 to 54, and 55 to 59: the differences are 1 to 9
        write_csv(f"runs/seed-{number}/metrics.csv", rows)
    _, out = compare(*(f"runs/seed-{number}" for number in range(10)))
    assert "compared with resnet default, epochs 3: median difference in points" in out
    # U, two-sided 5 %: the two smallest and the two largest differences are left out.
    assert "\nresnet default, epochs 2, augment: +5.00 (+2.00 to +8.00), significant" in out
    seven = [f"runs/seed-{number}" for number in range(7)]  # five seeds and two: too few for any verdict
    assert "compared with" not in compare(*seven)[1]


def test_a_damaged_run_does_not_hide_the_others(compare):
    Path("runs/a-1/metrics.csv").write_text("epoch\n\0")
    Path("runs/a-2/config.json").write_text("{")
    rows, out = compare()
    assert rows[0]["seeds"] == "0"
    assert "runs/a-1" in out
    assert "runs/a-2" in out


def test_runs_of_other_commands_are_skipped(compare):
    write_config("runs/b", read_config("runs/b") | {"script": "diagnose.py"})
    Path("runs/b/metrics.csv").unlink()  # a diagnosis has one for each network, in subfolders
    assert "runs/b" not in compare()[1]


@pytest.mark.parametrize("content", ["epoch,seconds\n1,2\n", "epoch,test_accuracy,seconds\n1,high,2\n"])
def test_a_damaged_table_of_epochs_is_named(refused, here, content):
    Path("runs/a-0/metrics.csv").write_text(content)
    assert "runs/a-0/metrics.csv" in refused("compare.py runs/a-0")


def test_without_runs_the_next_command_is_named(refused):
    assert "train.py" in refused("compare.py")


@pytest.mark.parametrize(
    "flags", ["--csv mine.csv", "--picture photo.png", "--picture runs", "--picture runs/a-0/curves.png"]
)
def test_no_file_of_a_run_or_of_a_person_is_overwritten(refused, here, flags):
    Image.new("RGB", (9, 9), "red").save("photo.png")
    Path("mine.csv").write_text("name,score\nme,1\n")
    before = contents(here)
    refused(f"compare.py runs/a-0 {flags}")
    after = contents(here)
    assert {name: after[name] for name in before} == before
