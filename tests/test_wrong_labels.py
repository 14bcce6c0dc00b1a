"""The comparison of ways to rank: each ranking against its definition, and the table that it leaves."""

import csv
from pathlib import Path

import torch
from conftest import stripes

import diagnose
import wrong_labels


def test_each_ranking_is_a_sort_by_what_it_says():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (40,), generator=generator)
    outputs = torch.randn(2, 40, 3, generator=generator).log_softmax(dim=2)
    mean = outputs.mean(dim=0).tolist()
    losses = [-mean[i][label] for i, label in enumerate(labels.tolist())]
    margins = [
        max(mean[i][c] for c in range(3) if c != label) - mean[i][label]
        for i, label in enumerate(labels.tolist())
    ]
    orders = wrong_labels.rankings(labels, outputs)
    assert orders["loss"].tolist() == sorted(range(40), key=lambda i: -losses[i])
    assert orders["margin"].tolist() == sorted(range(40), key=lambda i: -margins[i])
    assert torch.equal(orders["loss and pair"], diagnose.top_losses(labels, outputs)[0])


def test_each_way_adds_a_line_with_what_each_set_of_wrong_labels_gave(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wrong_labels, "load", lambda source: (stripes(300), None))
    monkeypatch.setattr(wrong_labels, "N_WRONG", 10)
    monkeypatch.setattr(wrong_labels, "NETWORKS", ((2, False, 3), (2, True, 2)))
    wrong_labels.main(["--seeds", "3", "4"])
    with open(Path("results") / "wrong_labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(wrong_labels.WAYS)
    for row in rows:
        found = [int(number) for number in row["found of 100"].split()]
        assert (row["label seeds"], len(found)) == ("3 4", 2)
        assert float(row["mean"]) == sum(found) / 2
    best = max(float(row["mean"]) for row in rows)
    assert best >= 5  # a random order finds a third of one
