"""The study of rankings: which labels get wrong, what is held out, what is counted, and the command."""

import sys
from argparse import Namespace
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import small_settings, stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st

import data
import diagnose
from studies import rankings
from support.console import UserError
from support.run_folder import read_csv


@given(st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_as_many_labels_as_asked_for_get_wrong_and_of_the_kind_asked_for(count, seed):
    clean = replace(stripes(30), classes=("T-shirt", "Shirt", "Coat"))
    for kind, first, second in (
        ("random", {0, 1, 2}, {0, 1, 2}),
        ("T-shirt_Coat", {0, 2}, {0, 2}),
        ("Coat_to_T-shirt", {2}, {0}),
    ):
        labels = rankings.with_noise(clean, kind, count, seed)
        wrong = labels != clean.labels
        assert wrong.sum() == count
        assert set(clean.labels[wrong].tolist()) <= first
        assert set(labels[wrong].tolist()) <= second


def test_the_sets_are_those_of_the_published_tables():
    clean = stripes(30)
    for kind, classes in (("random", None), ("row0_row4", [0, 2])):
        expected, _ = data.make_wrong(clean.labels, 3, 6, 5, classes)
        assert torch.equal(rankings.with_noise(clean, kind, 6, 5), expected)
    candidates = (clean.labels == 1).nonzero().flatten()
    expected = clean.labels.clone()
    expected[candidates[data.random_order(10, 5, 2**32 - 1)[:6]]] = 0
    assert torch.equal(rankings.with_noise(clean, "row2_to_row0", 6, 5), expected)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_found_and_average_precision_are_counted_from_the_most_suspicious_on(wrong):
    found, precision = rankings.judge(torch.tensor(wrong))
    n_wrong = sum(wrong)
    assert found == sum(wrong[:n_wrong])
    at_hits = [sum(wrong[: place + 1]) / (place + 1) for place, hit in enumerate(wrong) if hit]
    assert precision == pytest.approx(sum(at_hits) / n_wrong if n_wrong else 0)


def test_a_network_never_learns_the_labels_that_it_ranks(tmp_path):
    noisy, settings = stripes(31), small_settings(augment=True, seed=1015)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    fold, *_ = data.random_order(31, 1005, 2**32 - 2).chunk(3)
    first = rankings.held_out(noisy, noisy.labels, settings, 5, tmp_path / "one")
    noisy.labels[fold] = (noisy.labels[fold] + 1) % 3
    second = rankings.held_out(noisy, noisy.labels, settings, 5, tmp_path / "other")
    assert torch.equal(first[0, fold], second[0, fold])
    others = torch.ones(31).index_fill(0, fold, 0).bool()
    assert (first[0, others] != second[0, others]).any(dim=1).all()
    assert first.exp().sum(2) == pytest.approx(torch.ones(1, 31), abs=1e-5)
    rows = diagnose.train_networks(
        (noisy, noisy), None, settings, 3, tmp_path / "one", None, "noisy", noisy.labels
    )[0]
    assert [row["epoch"] for row in rows] == 3 * [3]  # two epochs of three networks, three of two thirds


@pytest.mark.skipif(not find_spec("cleanlab"), reason="pip install cleanlab")
def test_cleanlab_ranks_by_the_probability_of_the_label():
    noisy = stripes(60)
    log_probabilities = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    methods = rankings.cleanlabs(noisy, log_probabilities)
    losses = diagnose.losses_of(noisy.labels, log_probabilities[0])
    assert torch.equal(methods["cleanlab, self confidence"][0], diagnose.top_losses(losses))
    order, n_flagged = methods["cleanlab, its filter"]
    assert sorted(order.tolist()) == list(range(60))
    assert losses[order[:n_flagged]].tolist() == sorted(losses[order[:n_flagged]].tolist(), reverse=True)
    assert torch.equal(
        methods["diagnose.py's score, held out"][0], diagnose.rank(noisy, log_probabilities).order
    )


@pytest.fixture
def study(tmp_path, type_in, monkeypatch):
    """A function that runs the study in the current folder, with images/; it returns the table."""
    write_folder(tmp_path / "images", n_train=60)
    monkeypatch.setitem(sys.modules, "rankings", rankings)
    rankings.load.cache_clear()

    def run(flags):
        ended = type_in(f"rankings.py {flags} --csv table.csv")
        assert ended.status == 0, ended.err
        return read_csv("table.csv")

    return run


def test_the_command_ranks_each_set_and_trains_only_once(study):
    rows = study("images-random-6 images-row0_row4-4 --sets 3 4")
    expected = [
        (f"images-{noise}", number, n)
        for noise, n in (("random-6", 6), ("row0_row4-4", 4))
        for number in "34"
    ]
    assert [(row["noise"], row["set"], int(row["n_wrong"])) for row in rows[::2]] == expected
    assert [row["method"] for row in rows] == 4 * ["diagnose.py", "loss alone"]
    noisy, _, truth = rankings.noisy_set("images-random-6", 3)
    logits = [
        rankings.run_folder.read_tensors(file)["logits"][0]
        for file in sorted(Path("runs").rglob("result.pt"))
    ]
    assert len(logits) == 12
    folder = next(Path("runs/rankings").glob("images-random-6-3-*"))
    results = [
        rankings.run_folder.read_tensors(folder / f"noisy-{seed}/result.pt") for seed in (1009, 1010, 1011)
    ]
    view = diagnose.rank(noisy, torch.stack([result["logits"][0] for result in results]).log_softmax(2))
    assert int(rows[0]["found"]) == (noisy.labels != truth)[view.order[:6]].sum()
    assert rows[0]["estimate"] == str(view.n_wrong[1] if view.n_wrong else "")
    files = {file: file.stat().st_mtime_ns for file in Path("runs").rglob("result.pt")}
    assert study("images-random-6 --sets 3") == rows[:2]
    assert files == {file: file.stat().st_mtime_ns for file in Path("runs").rglob("result.pt")}


def test_cleaning_compares_what_a_network_learns(study):
    data.mislabel("images", "noisy", 6)
    rows = study("images:noisy --sets 3 --cleaning --epochs 1 --no-augment --images 40")
    noisy, removed, relabelled, true = rows
    assert [row["labelling"] for row in rows] == ["noisy", "removed", "relabelled", "true"]
    assert {row["epoch"] for row in rows} == {"1"}
    assert noisy["n_images"] == relabelled["n_images"] == true["n_images"] == "40"
    assert int(removed["n_images"]) <= 40
    assert true["n_wrong"] == "0" < noisy["n_wrong"]
    assert int(removed["n_wrong"]) <= int(noisy["n_wrong"])


@pytest.mark.parametrize(
    "noise", ["images-random", "images-row0_row9-3", "images-random-99", "images:others"]
)
def test_what_cannot_be_is_refused(study, tmp_path, noise):
    write_folder(tmp_path / "others", n_train=61)
    with pytest.raises(UserError):
        rankings.measure(noise, 3, Namespace(images=None))
