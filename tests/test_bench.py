"""The benchmark: the loops learn the same, and the table has the measurements. No test depends on speed."""

from importlib.util import find_spec

import pytest
import torch
from conftest import stripes
from PIL import Image

from studies import bench
from support.run_folder import read_csv


def weights(name, n_epochs, seed=3):
    """Return a loop's final weights, one tensor. An epoch is one step, so the images' order has no effect."""
    _, model, seconds = bench.run(name, stripes(10, n_classes=10, size=28), seed, n_epochs)
    assert len(seconds) == n_epochs
    assert min(seconds) > 0
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_plain_loops_end_with_equal_weights_and_the_recipe_with_ours():
    plain = weights("plain", 2)
    for name, n_epochs, expected in (
        ("plain_in_memory", 2, plain),
        ("plain_workers", 2, plain),
        ("plain_recipe", 4, weights("ours", 4)),
        ("plain_recipe", 1, weights("ours", 1)),
    ):
        torch.testing.assert_close(weights(name, n_epochs), expected, atol=1e-3, rtol=0)
    assert (weights("plain", 2, seed=4) - plain).abs().max() > 0.01


@pytest.fixture
def source(tmp_path):
    """A folder of black and of white images in MNIST's shape, which are easy to learn."""
    for split in ("train", "test"):
        for name, value in (("black", 0), ("white", 255)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (28, 28), value).save(tmp_path / split / name / f"{number}.png")
    return str(tmp_path)


def test_a_round_measures_each_loop_and_the_fewest_epochs_to_99(source):
    names, (data, test) = ["plain", "plain_recipe", "ours"], bench.load(source)
    measured = bench.measure(1, source, names, names[1:])
    assert len(measured) == 3 + 2 + 2 * 2 + 1
    speeds = measured["ours", "images/s"] / measured["plain_recipe", "images/s"]
    assert measured["ours / plain_recipe", "×"] == pytest.approx(speeds)
    seconds = measured["plain_recipe_to_99", "s"] / measured["ours_to_99", "s"]
    assert measured["plain_recipe_to_99 / ours_to_99", "×"] == pytest.approx(seconds)
    fewest = measured["ours_to_99, epochs", ""]
    for n_epochs in range(1, fewest + 1):
        settings, model, _ = bench.run("ours", data, 1, n_epochs)
        assert (bench.train.evaluate(model, test, settings)[1] >= 0.99) == (n_epochs == fewest)


def test_the_command_writes_medians_and_ratios(source, type_in, refused, monkeypatch):
    monkeypatch.setattr(bench, "METHOD", "fork")  # quick, because torch is imported already
    type_in(f"studies.bench.py --data {source} --csv table.csv")
    table = {row["measure"]: row for row in read_csv("table.csv")}
    rows = {name: [float(row[each]) for each in ("low", "median", "high")] for name, row in table.items()}
    others = ("plain", "plain_workers", "plain_in_memory", "plain_recipe")
    assert rows.keys() == {"ours", *others, *(f"ours / {other}" for other in others)}
    assert all(0 < low <= middle <= high for low, middle, high in rows.values())
    for other in others:
        least, most = rows["ours"][0] / rows[other][2], rows["ours"][2] / rows[other][0]
        assert least - 0.05 <= rows[f"ours / {other}"][1] <= most + 0.05
    if not find_spec("lightning"):
        assert "pip install lightning" in refused("studies.bench.py --peers")
