"""The comparison of ways to rank: each ranking against its definition, and the table that it leaves."""

import csv
from pathlib import Path

import torch
from conftest import stripes

import diagnose
import wrong_labels
from settings import Settings


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
    monkeypatch.setattr(
        wrong_labels, "NETWORKS", ((2, False, False, 6), (3, False, False, 2), (3, True, True, 2))
    )
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


def test_a_held_out_network_never_sees_what_it_ranks(monkeypatch):
    data = stripes(20)
    learnt = []
    monkeypatch.setattr(wrong_labels, "NETWORKS", ((1, False, True, 2),))
    monkeypatch.setattr(
        wrong_labels.train, "fit", lambda model, train, *rest, **label: learnt.append(train.ids)
    )

    def ranked(networks, part, settings):
        assert not set(part.ids) & set(learnt[-1])
        return torch.tensor([float(data.ids.index(image)) for image in part.ids]).expand(1, 3, -1).mT

    monkeypatch.setattr(wrong_labels.diagnose, "predict_all", ranked)
    outputs = wrong_labels.log_probabilities(data, Settings())
    assert torch.equal(outputs, torch.arange(20.0).expand(2, 3, 20).mT)  # each where it belongs
    assert len(set(map(frozenset, learnt))) == 4


def test_unchanged_labels_that_every_set_suspects_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = stripes(60)
    monkeypatch.setattr(wrong_labels, "load", lambda source: (data, None))
    monkeypatch.setattr(wrong_labels, "N_WRONG", 4)
    changed = {3: torch.tensor([30, 31, 32, 33]), 4: torch.tensor([40, 41, 42, 7])}
    monkeypatch.setattr(
        wrong_labels, "wrong_labels", lambda labels, n, count, seed, _: (labels, changed[seed])
    )
    suspects = iter([[5, 7, 9, 30], [9, 7, 40, 5]])  # of both sets, but 7 is changed in one

    def outputs(given, settings):
        probabilities = torch.full((10, 60, 3), 0.01).scatter(2, given.labels.expand(10, -1)[..., None], 0.98)
        for index in next(suspects):
            probabilities[:, index] = probabilities[:, index].roll(1, dims=1)
        return probabilities.log()

    monkeypatch.setattr(wrong_labels, "log_probabilities", outputs)
    wrong_labels.main(["--seeds", "3", "4"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split(": ")[1].split() == [data.ids[5], data.ids[9]]
    with open(Path("results") / "wrong_labels.csv", newline="") as file:
        assert {row["found of 100"] for row in csv.DictReader(file)} == {"1 2"}
