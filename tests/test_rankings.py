"""The study of rankings: wrong labels, held-out images, the counts in the table, and the command."""

from argparse import Namespace
from dataclasses import replace
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
from support.run_folder import read_csv, read_tensors


@given(st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_the_wrong_labels_are_those_of_the_published_tables(count, seed):
    clean = replace(stripes(30), classes=("T-shirt", "Shirt", "Coat"))
    for kind, classes in (("random", None), ("T-shirt_Coat", [0, 2])):
        expected, _ = data.make_wrong(clean.labels, 3, count, seed, classes)
        assert torch.equal(rankings.with_noise(clean, kind, count, seed), expected)
    expected, candidates = clean.labels.clone(), (clean.labels == 2).nonzero().flatten()
    expected[candidates[data.random_order(10, seed, 2**32 - 1)[:count]]] = 0
    assert torch.equal(rankings.with_noise(clean, "Coat_to_T-shirt", count, seed), expected)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_found_and_average_precision_are_counted_from_the_most_suspicious_on(wrong):
    found, precision = rankings.judge(torch.tensor(wrong))
    assert found == sum(wrong[: sum(wrong)])
    at_hits = [sum(wrong[: place + 1]) / (place + 1) for place, hit in enumerate(wrong) if hit]
    assert precision == pytest.approx(sum(at_hits) / sum(wrong) if any(wrong) else 0)


def test_a_network_never_learns_the_labels_that_it_ranks(tmp_path):
    noisy, settings, outputs = stripes(31), small_settings(augment=True, seed=1015), []
    fold, *others = data.random_order(31, 1005, 2**32 - 2).chunk(3)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        outputs.append(rankings.held_out(noisy, noisy.labels, settings, 5, tmp_path / name).squeeze(0))
        noisy.labels[fold] = (noisy.labels[fold] + 1) % 3  # in the second round
    assert torch.equal(*(output[fold] for output in outputs))
    assert (outputs[0] != outputs[1])[torch.cat(others)].any(dim=1).all()
    assert outputs[0].exp().sum(1).tolist() == pytest.approx(31 * [1])
    rows = [read_tensors(file)["row"] for file in sorted((tmp_path / "one").rglob("result.pt"))]
    assert [(row["seed"], row["epoch"]) for row in rows] == [(1015, 3), (1016, 3), (1017, 3)]


@pytest.fixture
def study(tmp_path, type_in):
    """A function that runs the study in the current folder, with images/; it returns the table."""
    write_folder(tmp_path / "images", n_train=45)
    rankings.load.cache_clear()

    def run(flags):
        type_in(f"studies.rankings.py {flags} --csv table.csv")
        return read_csv("table.csv")

    return run


def test_the_command_ranks_each_set_and_trains_only_once(study):
    rows = study("images-random-6 images-row0_row4-4 --sets 3")
    cells = [tuple(row.values())[:4] for row in rows]
    sets = ("images-random-6", "3", "6"), ("images-row0_row4-4", "3", "4")
    assert cells == [(*one, method) for one in sets for method in ("diagnose.py", "loss alone")]
    noisy, _, truth = rankings.noisy_set("images-random-6", 3)
    files = sorted(Path("runs/rankings").rglob("result.pt"))
    trained = [(read_tensors(file)["row"]["seed"], read_tensors(file)["row"]["epoch"]) for file in files]
    assert trained == 2 * [(1009, 10), (1010, 10), (1011, 10)]
    logits = torch.stack([read_tensors(file)["logits"][0] for file in files[:3]])
    view = diagnose.rank_labels(noisy, logits.log_softmax(2))
    for row, order in zip(rows, (view.order, diagnose.top_losses(view.losses)), strict=False):
        assert int(row["found"]) == (noisy.labels != truth)[order[:6]].sum()
    assert rows[0]["estimate"] == str(view.n_wrong[1] if view.n_wrong else "")
    times = [file.stat().st_mtime_ns for file in files]
    assert study("images-random-6 --sets 3") == rows[:2]
    assert times == [file.stat().st_mtime_ns for file in files]


def test_cleaning_compares_what_a_network_learns(study):
    data.mislabel("images", "noisy", 6)
    rows = study("images:noisy --sets 3 --cleaning --epochs 1 --no-augment --images 40")
    noisy, removed, relabelled, true = rows
    assert [row["labelling"] for row in rows] == ["noisy", "removed", "relabelled", "true"]
    assert {(row["epoch"], row["augment"], row["seed"]) for row in rows} == {("1", "False", "1009")}
    assert noisy["n_images"] == relabelled["n_images"] == true["n_images"] == "40"
    assert int(removed["n_images"]) <= 40
    assert true["n_wrong"] == "0" < noisy["n_wrong"]
    assert int(removed["n_wrong"]) <= int(noisy["n_wrong"])


@pytest.mark.parametrize("noise", ["images-random", "images-row0_row9-3", "images-random-99", "images:more"])
def test_impossible_sets_are_refused(study, tmp_path, noise):
    write_folder(tmp_path / "more", n_train=61)
    with pytest.raises(UserError):
        rankings.measure(noise, 3, Namespace(images=None))
