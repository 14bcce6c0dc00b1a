"""The comparison of ways to rank suspects: each ranking against its definition, what each way's networks
learn and find, the table and the picture that are left, and what is refused before the training."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from support.console import UserError
from support.files import read_csv, write_csv
from support.settings import Settings

import pytest
import torch
from conftest import stripes
from PIL import Image

import diagnose
from studies import suspect_rankings


def test_each_ranking_is_a_sort_by_what_it_says():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (40,), generator=generator)
    outputs = torch.randn(2, 40, 3, generator=generator).log_softmax(dim=2)
    mean = outputs.mean(dim=0).tolist()
    losses = [-mean[i][label] for i, label in enumerate(labels.tolist())]
    orders = suspect_rankings.rankings(labels, outputs)
    assert orders["loss"].tolist() == sorted(range(40), key=lambda i: -losses[i])
    assert torch.equal(orders["loss and pair"], diagnose.top_losses(labels, outputs)[0])


def test_each_way_is_a_line_with_what_each_set_of_wrong_labels_gave(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suspect_rankings, "load", lambda source: (stripes(300), None))
    monkeypatch.setattr(suspect_rankings, "N_WRONG", 10)
    small = {"n_blocks": 1, "n_features_1": 8, "n_features_2": 8, "batch_size": 32}
    monkeypatch.setattr(suspect_rankings, "Settings", partial(Settings, **small))
    recipes = {
        name: (3, augment, held_out, n)
        for name, (_, augment, held_out, n) in suspect_rankings.NETWORKS.items()
    }
    monkeypatch.setattr(suspect_rankings, "NETWORKS", recipes)
    suspect_rankings.main(["--seeds", "3", "4"])
    rows = table()
    assert len(rows) == 2 * len(suspect_rankings.WAYS)
    for row in rows:
        found = [int(number) for number in row["found of 100"].split()]
        assert (row["label seeds"], len(found)) == ("3 4", 2)
        assert float(row["mean"]) == sum(found) / 2
    best = max(float(row["mean"]) for row in rows)
    assert best >= 5  # a random order finds a third of one


def table():
    return read_csv(Path("results") / "wrong_labels.csv")


def test_a_held_out_network_never_sees_what_it_ranks(monkeypatch):
    data = stripes(20)
    learnt = []
    recipes = {"held out": (1, False, True, 2), "whole": (1, False, False, 1)}
    monkeypatch.setattr(suspect_rankings, "NETWORKS", recipes)
    fit = lambda model, train, *_, **__: learnt.append(train.ids)  # noqa: E731
    monkeypatch.setattr(suspect_rankings.train, "fit", fit)

    def ranked(networks, part, settings):
        assert set(part.ids) == set(data.ids) or not set(part.ids) & set(learnt[-1])
        return torch.tensor([float(data.ids.index(image)) for image in part.ids]).expand(1, 3, -1).mT

    monkeypatch.setattr(suspect_rankings.diagnose, "predict_all", ranked)
    outputs = suspect_rankings.log_probabilities(data, Settings())
    assert torch.equal(outputs["held out"], torch.arange(20.0).expand(2, 3, 20).mT)  # each where it belongs
    assert [len(ids) for ids in learnt] == [10, 10, 10, 10, 20]
    assert len(set(map(frozenset, learnt))) == 5


@pytest.fixture
def two_sets(tmp_path, monkeypatch):
    """A run over two sets of wrong labels, in which the networks suspect given images."""
    monkeypatch.chdir(tmp_path)
    data = stripes(60)
    monkeypatch.setattr(suspect_rankings, "load", lambda source: (data, None))
    monkeypatch.setattr(suspect_rankings, "N_WRONG", 4)
    changed = {3: torch.tensor([30, 31, 32, 33]), 4: torch.tensor([40, 41, 42, 7])}
    make_wrong = lambda labels, n_classes, count, seed, _: (labels, changed[seed])  # noqa: E731
    monkeypatch.setattr(suspect_rankings, "make_wrong", make_wrong)

    def run(suspects, *flags):
        """`suspects` are {recipe: (images in the first set, images in the second)}."""
        numbers = iter((0, 1))

        def outputs(data, settings):
            number = next(numbers)
            outputs = {}
            for recipe, (*_, n) in suspect_rankings.NETWORKS.items():
                likely = torch.full((n, 60, 3), 0.01).scatter(2, data.labels.expand(n, -1)[..., None], 0.98)
                for index in suspects[recipe][number]:
                    likely[:, index] = likely[:, index].roll(1, dims=1)
                outputs[recipe] = likely.log()
            return outputs

        monkeypatch.setattr(suspect_rankings, "log_probabilities", outputs)
        suspect_rankings.main(["--seeds", "3", "4", *flags])
        return data.ids

    return run


def test_every_way_counts_what_its_own_networks_find(two_sets):
    nothing = [0, 1, 2, 3]
    for recipe, found in (("plain", 1), ("augmented", 2), ("longer", 3), ("held out", 4)):
        suspects = dict.fromkeys(suspect_rankings.NETWORKS, (nothing, nothing))
        two_sets(suspects | {recipe: ([30, 31, 32, 33][:found] + nothing[found:], nothing)})
        for row in table():
            recipes = suspect_rankings.WAYS[row["networks"]]
            if recipe not in recipes:
                assert row["found of 100"] == "0 0"
            elif len(recipes) == 1:
                assert row["found of 100"] == f"{found} 0"
        assert len(table()) == 2 * len(suspect_rankings.WAYS)  # in place of those of the same sets


def test_rankings_of_before_that_are_no_more_keep_their_lines(two_sets):
    nothing = dict.fromkeys(suspect_rankings.NETWORKS, ([0, 1, 2, 3], [0, 1, 2, 3]))
    two_sets(nothing)
    old = table()[0] | {"ranked by": "margin"}
    write_csv(Path("results") / "wrong_labels.csv", [old, *table()])
    two_sets(nothing)
    assert table()[0] == old
    assert len(table()) == 1 + 2 * len(suspect_rankings.WAYS)


def test_with_4_9_these_two_are_taken_for_each_other_and_no_other_labels_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = replace(stripes(300), classes=("9", "5", "4"))
    imperfect = []

    def outputs(data, settings):
        imperfect.append(data.labels)
        raise KeyboardInterrupt

    monkeypatch.setattr(suspect_rankings, "load", lambda source: (data, None))
    monkeypatch.setattr(suspect_rankings, "log_probabilities", outputs)
    with pytest.raises(KeyboardInterrupt):
        suspect_rankings.main(["--classes", "4_9"])
    changed = imperfect[0] != data.labels
    assert changed.sum() == 100
    assert torch.equal(imperfect[0][changed], 2 - data.labels[changed])  # 0 ↔ 2


def test_other_data_have_lines_and_a_picture_of_their_own(two_sets):
    nothing = dict.fromkeys(suspect_rankings.NETWORKS, ([0, 1, 2, 3], [0, 1, 2, 3]))
    two_sets(nothing)
    rows = table()
    pictures = {file: file.read_bytes() for file in Path("results").glob("*.png")}
    two_sets(nothing, "--data", "others/MNIST")  # a folder, whatever its name
    assert [row["data"] for row in table()] == ["mnist"] * len(rows) + ["others/MNIST"] * len(rows)
    assert table()[: len(rows)] == rows
    assert all(file.read_bytes() == content for file, content in pictures.items())
    assert len(list(Path("results").glob("*.png"))) == 2


def test_the_default_is_what_diagnose_does():
    assert suspect_rankings.WAYS[suspect_rankings.DEFAULT] == {"augmented": 3}
    epochs, augment, held_out, _ = suspect_rankings.NETWORKS["augmented"]
    assert (epochs, augment, held_out) == (diagnose.N_EPOCHS[0], diagnose.RECIPE["augment"], False)


def test_unchanged_labels_that_are_suspects_are_named_and_drawn(two_sets, capsys):
    nothing = dict.fromkeys(suspect_rankings.NETWORKS, ([0, 1, 2, 3], [0, 1, 2, 3]))
    ids = two_sets(nothing | {"augmented": ([5, 7, 9, 30], [9, 7, 40, 5])})  # 7 is changed in one of them
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert sorted(line.split()[-1] for line in lines[:2]) == [ids[5], ids[9]]
    assert all("in 2 of 2 sets" in line for line in lines[:2])
    data = stripes(60)
    names = [data.classes[(data.labels[7] + step) % 3] for step in (0, 1)]
    assert lines[2].endswith(f"in 1 of 2 sets: {' → '.join(names)}  {ids[7]}")
    assert Image.open(Path("results") / "wrong_labels_mnist_random.png").size[1] > 100
    assert {row["found of 100"] for row in table() if row["networks"] == suspect_rankings.DEFAULT} == {"1 2"}


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("wrong_labels.csv", [], r"wrong_labels\.csv: is there without this program's mark"),
        ("wrong_labels_mnist_random.png", [], r"mnist_random\.png: is there without this program's mark"),
        (None, ["--classes", "4_9"], "has no classes 4 and 9"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch, file, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suspect_rankings, "load", lambda source: (stripes(300), None))
    monkeypatch.setattr(suspect_rankings, "log_probabilities", None)
    Path("results").mkdir()
    if file:
        Path("results", file).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=message):
        suspect_rankings.main(arguments)
    assert not file or Path("results", file).read_text() == "a,b\n1,2\n"
