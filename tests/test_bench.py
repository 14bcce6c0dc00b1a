"""The benchmark: the loops learn the same, and the table has what was measured. No timing decides a test."""

import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import stripes, write_folder

from studies import bench
from support.run_folder import read_csv


def weights(name, n_epochs, seed=3):
    """Return the weights, one tensor, that a loop ends with if each epoch is one step, so that order is no matter."""
    _, model, seconds = bench.run(name, stripes(40, n_classes=10, size=28), seed, n_epochs)
    assert len(seconds) == n_epochs
    assert min(seconds) > 0
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def distance(one, other):
    return (one - other).abs().max()


def test_a_pillow_batch_has_the_pixels_from_0_to_1():
    data = stripes(40, size=28)
    images, labels = bench.pillow_batch(list(zip(data.images, data.labels, strict=True)))
    assert torch.equal(images, data.images / 255)
    assert torch.equal(labels, data.labels)


def test_the_plain_loops_learn_the_same():
    plain = weights("plain", 2)
    assert distance(weights("plain_in_memory", 2), plain) < 1e-3
    assert distance(weights("plain_workers", 2), plain) < 1e-3
    assert distance(weights("plain", 2, seed=4), plain) > 0.01


def test_the_plain_loop_with_our_recipe_learns_as_train_py():
    assert distance(weights("plain_recipe", 5), weights("ours", 5)) < 1e-3
    assert distance(weights("plain_recipe", 1), weights("ours", 1)) < 1e-3


def test_a_round_measures_each_loop_and_the_fewest_epochs_to_99(tmp_path):
    source = str(write_folder(tmp_path / "images", n_train=400, n_test=40, size=28))
    names = ["plain_in_memory", "plain_recipe", "ours"]
    measured = bench.measure(0, source, names, names[1:])
    assert measured["ours / plain_in_memory", "×"] == pytest.approx(
        measured["ours", "images/s"] / measured["plain_in_memory", "images/s"]
    )
    assert measured["plain_recipe_to_99 / ours_to_99", "×"] == pytest.approx(
        measured["plain_recipe_to_99", "s"] / measured["ours_to_99", "s"]
    )
    assert len(measured) == 3 + 2 * 2 + 2 + 1
    n_epochs, (data, test) = measured["ours_to_99, epochs", ""], bench.load(source)
    for n in (n_epochs - 1, n_epochs):
        if n:
            settings, model, _ = bench.run("ours", data, 0, n)
            assert (bench.train.evaluate(model, test, settings)[1] >= 0.99) == (n == n_epochs)


def test_the_command_writes_the_table(tmp_path, type_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "bench", bench)
    monkeypatch.setattr(bench, "N_ROUNDS", 1)
    write_folder(tmp_path / "images", size=28)
    ended = type_in(f"bench.py --data {tmp_path}/images --csv table.csv")
    assert ended.status == 0, ended.err
    rows = {row["measure"]: row for row in read_csv("table.csv")}
    others = ("plain", "plain_workers", "plain_in_memory", "plain_recipe")
    assert rows.keys() == {"ours", *others, *(f"ours / {other}" for other in others)}
    for other in others:
        ratio = float(rows["ours"]["median"]) / float(rows[other]["median"])
        assert float(rows[f"ours / {other}"]["median"]) == pytest.approx(ratio, rel=0.05)
    assert all(row["low"] == row["median"] == row["high"] for row in rows.values())


@pytest.mark.skipif(find_spec("lightning") is not None, reason="Lightning is installed")
def test_lightning_must_be_installed(type_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "bench", bench)
    ended = type_in("bench.py --peers")
    assert ended.status == 2
    assert "pip install lightning" in ended.err
