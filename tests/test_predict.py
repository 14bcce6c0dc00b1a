"""Predictions: the same as after training, for all kinds of image files; unreadable files are named."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FLAGS, contents, write_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import data
import predict
from support.console import one_line, printable
from support.run_folder import read_config, read_csv, write_config

CHANGES = {  # kind of data set: (change of a small grey picture, flags of the training)
    "plain": (lambda picture, i: picture, ""),
    "enlarged": (lambda picture, i: picture, "--image-size 11"),
    "mixed": (lambda picture, i: picture.resize((8 + i % 3, 9 + i % 2)), "--image-size 8"),
    "colour": (lambda picture, i: Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180))), ""),
    # 10 of 16 bits
    "deep": (lambda picture, i: Image.fromarray(np.asarray(picture).astype(np.uint16) * 4), ""),
}


@pytest.fixture
def make_run(type_in):
    """A function that writes a data set images/ of one of CHANGES and trains a network on it: run/."""

    def make(kind="plain"):
        change, flags = CHANGES[kind]
        for index, file in enumerate(sorted(write_folder(Path("images"), 48, 30).rglob("*.png"))):
            change(Image.open(file), index).save(file)
        type_in(f"train.py --data images --epochs 2 --lr 0.02 {flags} --out run {FLAGS}")
        return float(read_csv("run/metrics.csv")[-1]["test_accuracy"])

    return make


def predicted(type_in, line):
    """Return the rows of the table that predict.py writes."""
    type_in(f"predict.py {line} --csv table.csv")
    return read_csv("table.csv")


@pytest.mark.parametrize("kind", CHANGES)
def test_the_test_images_are_predicted_as_after_the_training(type_in, make_run, kind):
    accuracy = make_run(kind)
    rows = predicted(type_in, "run images/test")
    assert len(rows) == 30
    n_right = sum(Path(row["file"]).parent.name == row["predicted"] for row in rows)
    assert n_right / 30 == pytest.approx(accuracy)
    # All numbers of the table, from the network in Python.
    network, classes = predict.load_network("run")
    config = read_config("run")
    _, test = data.load("images", None, config["settings"]["image_size"])
    with torch.no_grad():
        logits = network(data.batch_to_float(test.images, config["settings"]["image_size"]))
    shares, order = logits.softmax(1).sort(1, descending=True)
    answers = {
        f"images/{name}": (classes[a], p, classes[b], q)
        for name, (a, b, _), (p, q, _) in zip(test.ids, order.tolist(), shares.tolist(), strict=True)
    }
    for row in rows:
        name, p, second, q = answers[row["file"]]
        assert (row["predicted"], row["second"]) == (name, second)
        assert float(row["probability"]) == pytest.approx(p, abs=2e-4)
        assert float(row["second_probability"]) == pytest.approx(q, abs=2e-4)
    Image.open("runs/predicted.png").verify()


def test_config_and_weights_suffice_in_another_place_and_without_the_gpu(type_in, make_run):
    make_run()
    expected = predicted(type_in, "run images/test")
    Path("elsewhere").mkdir()
    for name in ("config.json", "model.pt"):
        shutil.copy(f"run/{name}", "elsewhere")
    config = read_config("run")
    config["settings"]["device"] = "cuda:7"
    write_config("elsewhere", config)
    shutil.rmtree("run")
    assert predicted(type_in, "elsewhere images/test") == expected


def test_negatives_are_noticed_and_inverted(type_in, make_run):
    make_run()
    expected = predicted(type_in, "run images/test")
    shutil.copytree("images/test", "negatives")
    for file in Path("negatives").rglob("*.png"):
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
    for line, noted in (
        ("images/test", False),
        ("negatives", True),
        ("negatives --invert", False),
        ("images/test --invert", True),
        ("images/test negatives/row0", False),  # most are not negatives
    ):
        assert ("--invert" in type_in(f"predict.py run {line}").out) == noted, line
    inverted = predicted(type_in, "run negatives --invert")
    assert [list(row.values())[1:] for row in inverted] == [list(row.values())[1:] for row in expected]


def test_a_prediction_does_not_depend_on_the_other_images_of_the_command(type_in, make_run):
    make_run()
    alone = predicted(type_in, "run images/test")
    Image.new("RGB", (8, 8), "red").save("colour.png")
    assert predicted(type_in, "run images/test colour.png")[:30] == alone


def test_the_first_rows_are_printed_and_all_are_counted(type_in, make_run):
    make_run()
    rows = predicted(type_in, "run images/test")
    lines = type_in("predict.py run images/test").out.splitlines()
    for row, line in zip(rows, lines[1:21], strict=False):
        p, q = (f"{float(row[name]):.2%}" for name in ("probability", "second_probability"))
        assert line.split() == [row["predicted"], p, row["second"], q, row["file"]]
    assert len({line.index("images/test") for line in lines[1:21]}) == 1  # aligned
    names = [row["predicted"] for row in rows]
    assert all(f"{names.count(name)} {name}" in lines[21] for name in set(names))
    assert "30 images" in lines[21]
    Path("images/test/row0/notes.txt").touch()
    few = type_in("predict.py run images/test/row0").out
    assert "notes.txt" in few
    assert "images (" not in few


def test_a_named_file_is_read_once_whatever_its_name(type_in, make_run):
    make_run()
    for name in ("no-ending", ".hidden.png"):
        shutil.copy("images/test/row0/000.png", name)
    rows = predicted(type_in, "run no-ending .hidden.png no-ending")
    assert [row["file"] for row in rows] == ["no-ending", ".hidden.png"]


NAMES = st.sampled_from(["a", "B", "äb", "-x", "=1+1", "\x1b[31m", "c\nd", "train"])
FILES = st.dictionaries(
    st.tuples(
        st.lists(NAMES, max_size=2).map(tuple), NAMES, st.sampled_from([".png", ".PNG", ".Gif", ".webp"])
    ),
    st.one_of(st.tuples(st.sampled_from(["L", "RGB", "RGBA", "P"]), st.integers(1, 20)), st.just("broken")),
    min_size=1,
    max_size=8,
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES)
def test_every_image_has_one_row_or_every_unreadable_one_is_named(type_in, make_run, files):
    if not Path("run").exists():
        make_run()
    with tempfile.TemporaryDirectory(dir=".", prefix="odd") as made:
        root, broken, images = Path(made).name, [], []
        for (folders, name, ending), content in files.items():
            file = Path(root, *folders, name + ending)
            file.parent.mkdir(parents=True, exist_ok=True)
            (broken if content == "broken" else images).append(str(file))
            if content == "broken":
                file.write_bytes(b"no image")
            else:
                Image.new(content[0], (content[1], 5)).save(file, "PNG")
        Path("table.csv").unlink(missing_ok=True)
        ended = type_in(f"predict.py run {root} --csv table.csv", 2 if broken else 0)
    assert all(ended.err.count(f"{printable(one_line(file))}: ") == 1 for file in broken)
    assert all(c.isprintable() or c == "\n" for c in ended.out + ended.err)
    assert Path("table.csv").exists() == (not broken)
    if not broken:
        assert sorted(row["file"] for row in read_csv("table.csv")) == sorted(images)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("nowhere images", "nowhere"),
        ("run empty", "empty"),
        ("run images gone.png", "gone.png"),
        ("run pipe", "pipe"),
        ("run images --csv mine.csv", "mine.csv"),
        ("run images --csv run/table.csv", "run/table.csv"),
        ("run images --picture images/test/row0/000.png", "000.png"),
        ("unfinished images", "unfinished"),
        ("other images", "other/model.pt"),
        ("cut images", "cut/model.pt"),
    ],
)
def test_errors_name_their_cause_and_no_file_is_written(type_in, make_run, line, fact):
    make_run()
    for name in ("unfinished", "other", "cut"):
        shutil.copytree("run", name)
    os.remove("unfinished/model.pt")
    torch.save({"weight": torch.zeros(1)}, "other/model.pt")
    Path("cut/model.pt").write_bytes(Path("run/model.pt").read_bytes()[:-99])
    Path("empty").mkdir()
    Path("mine.csv").write_text("name,score\nme,1\n")
    os.mkfifo("pipe")
    before = contents(Path())
    assert fact in type_in(f"predict.py {line}", 2).err.splitlines()[-1]
    assert contents(Path()) == before
