"""The comparison of scores: kinds of noise, what is held out, each score by its definition, the table."""

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

from support.console import UserError, run_command
from support.files import read_csv
from support.settings import Settings, complete

import numpy as np
import pytest
import torch
from conftest import stripes
from hypothesis import given
from hypothesis import strategies as st

import diagnose
from studies import suspect_rankings as study

# ---------------------------------------------------------------- wrong labels


@given(st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_labels_are_wrong_as_the_noise_says(count, seed):
    data = stripes(150)
    for kind, pairs in (
        ("random", {(a, b) for a in range(3) for b in range(3) if a != b}),
        ("row0_row4", {(0, 2), (2, 0)}),
        ("row4_to_row2", {(2, 1)}),
    ):
        labels = study.with_noise(data, f"stripes-{kind}-{count}", seed)
        changed = labels != data.labels
        assert changed.sum() == count
        both = zip(data.labels[changed].tolist(), labels[changed].tolist(), strict=True)
        assert set(both) <= pairs
        assert torch.equal(labels, study.with_noise(data, f"stripes-{kind}-{count}", seed))


@pytest.mark.parametrize("kind", ["row0_row9", "row0", "row0_to_row2_to_row4", "row0_to_row0"])
def test_classes_that_are_not_there_are_named(kind):
    with pytest.raises(UserError, match=f"no classes {kind} in stripes: row0, row2, row4"):
        study.with_noise(stripes(30), f"stripes-{kind}-3", 0)


def test_a_class_may_have_hyphens_in_its_name():
    data = replace(stripes(30), classes=("T-shirt-top", "Shirt", "Coat"))
    labels = study.with_noise(data, "fashion-T-shirt-top_Shirt-6", 0)
    assert set(labels[labels != data.labels].tolist()) == {0, 1}


def test_a_class_is_not_emptied():
    with pytest.raises(UserError, match="there are only 10 images of the class row0"):
        study.with_noise(stripes(30), "stripes-row0_to_row2-10", 0)


# ---------------------------------------------------------------- networks


def numbered_outputs(networks, part, settings):
    """Log-probabilities that say which image each row is of."""
    return torch.tensor([float(name[-5:]) for name in part.ids]).expand(len(networks), 3, -1).mT


def test_held_out_networks_never_see_what_they_rank_and_see_as_many_images_as_the_others(monkeypatch):
    data = stripes(31)
    learnt, seen = [], []

    def fit(model, train, test, settings, task):
        learnt.append(set(train.ids))
        seen.append((settings.seed, settings.epochs * len(train)))

    def ranked(networks, part, settings):
        assert len(part) == len(data) or not set(part.ids) & learnt[-1]
        return numbered_outputs(networks, part, settings)

    monkeypatch.setattr(study.train, "fit", fit)
    monkeypatch.setattr(study.diagnose, "predict_all", ranked)
    expected = torch.arange(31.0).expand(1, 3, -1).mT
    assert torch.equal(study.cross_validated(data, complete(Settings()), 7, ""), expected)
    held_out, seen[:] = list(seen), []
    assert study.by_default(data, complete(Settings()), 7, "").shape == (3, 31, 3)
    assert sum(n for _, n in seen) == 31 * 3 * diagnose.N_EPOCHS[1]  # so few are seen as often as can be
    assert sum(n for _, n in held_out) == pytest.approx(sum(n for _, n in seen), rel=0.01)
    study.by_default(data, complete(Settings()), 8, "")
    assert len({seed for seed, _ in seen}) == 6  # sets share no network


def test_what_networks_say_is_computed_once_for_each_set_and_noise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked, data = [], stripes(9)

    def way(data, settings, number, task):
        asked.append(number)
        return torch.full((1, len(data), 3), float(number))

    other = stripes(8)
    for noise, number, part in (
        ("a-b-1", 3, data),
        ("a-b-1", 3, data),
        ("a-b-1", 4, data),
        ("a-b-2", 3, data),
        ("a-b-1", 3, other),
    ):
        assert study.kept(noise, number, way, part, None)[0, 0, 0] == number
    assert asked == [3, 4, 3, 3]


# ---------------------------------------------------------------- scores


def outputs_of(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, n, 3, generator=generator)).log_softmax(dim=2)


def test_each_of_our_orders_is_what_it_says():
    data, outputs = stripes(60), outputs_of(60)
    ranking = diagnose.top_losses(data, outputs)
    orders = study.our_orders(data, ranking, outputs)
    assert torch.equal(orders["diagnose.py"][0], ranking.order)
    assert orders["diagnose.py"][1] == (ranking.n_wrong and ranking.n_wrong[1])
    mean = outputs.mean(dim=0).tolist()
    losses = [-row[label] for row, label in zip(mean, data.labels.tolist(), strict=True)]
    totals = [np.log(np.exp(row).sum()) for row in mean]
    alone = [loss + total for loss, total in zip(losses, totals, strict=True)]
    assert orders["loss alone"][0].tolist() == sorted(range(60), key=alone.__getitem__, reverse=True)
    others = [
        max((k for k in range(3) if k != label), key=row.__getitem__)
        for row, label in zip(mean, data.labels.tolist(), strict=True)
    ]
    pairs = list(zip(data.labels.tolist(), others, strict=True))
    sure = [pair for pair, row in zip(pairs, mean, strict=True) if row[pair[1]] - row[pair[0]] > 4]
    former = [
        loss + np.log((sure.count(pair) + 1) / (len(sure) + 9))
        for loss, pair in zip(losses, pairs, strict=True)
    ]
    assert study.former_score(data.labels, outputs.mean(dim=0)).tolist() == pytest.approx(former, abs=1e-4)
    assert orders["former score"][0].tolist() == sorted(range(60), key=former.__getitem__, reverse=True)


def test_held_out_predictions_are_ranked_by_cleanlabs_scores_its_filter_and_ours(monkeypatch):
    data, outputs = stripes(30), outputs_of(30)[:1]
    probabilities = outputs[0].exp().numpy()

    def quality(labels, pred_probs, method):  # as cleanlab documents self_confidence: p of the label
        assert np.allclose(pred_probs, probabilities, atol=1e-6)
        assert np.allclose(pred_probs.sum(axis=1), 1, atol=1e-12)  # which cleanlab insists on
        return pred_probs[np.arange(len(labels)), labels]

    package = ModuleType("cleanlab")
    monkeypatch.setitem(sys.modules, "cleanlab", package)
    rank = SimpleNamespace(get_label_quality_scores=quality)
    monkeypatch.setitem(sys.modules, "cleanlab.rank", rank)
    count = SimpleNamespace(num_label_issues=lambda labels, pred_probs: len(labels) // 2)
    monkeypatch.setitem(sys.modules, "cleanlab.count", count)
    flagged = np.arange(30) % 7 == 3
    filters = SimpleNamespace(find_label_issues=lambda labels, pred_probs, n_jobs: flagged)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", filters)
    orders = study.held_out_orders(data, outputs)
    order, n_wrong = orders["cleanlab, self confidence"]
    assert n_wrong == 15
    assert torch.equal(order, diagnose.greatest_first(diagnose.losses_of(data.labels, outputs[0])))
    first, n_flagged = orders["cleanlab, its filter"]
    assert n_flagged == 4
    assert sorted(first[:4].tolist()) == [3, 10, 17, 24]
    assert first.tolist() == sorted(order.tolist(), key=lambda index: not flagged[index])
    ours = diagnose.top_losses(data, outputs)
    order, n_wrong = orders["diagnose.py's score, held out"]
    assert torch.equal(order, ours.order)
    assert n_wrong == (ours.n_wrong and ours.n_wrong[1])


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_found_and_average_precision_are_counted_from_the_most_suspicious_on(wrong):
    found, precision = study.judge(torch.tensor(wrong).double())
    n_wrong = sum(wrong)
    assert found == sum(wrong[:n_wrong])
    at_hits = [sum(wrong[: place + 1]) / (place + 1) for place, hit in enumerate(wrong) if hit]
    assert precision == pytest.approx(sum(at_hits) / n_wrong if n_wrong else 0)


def test_the_curve_has_the_precision_at_each_recall():
    first = torch.tensor([1.0, 0, 1, 0, 0])  # precision 1 at half of the recall, 2/3 at all of it
    second = torch.tensor([0, 1.0, 1, 0, 0])  # 1/2 and 2/3
    points = study.curve([(0, 0, 0, first), (0, 0, 0, second)], n_points=2)
    assert points[0] == pytest.approx((50, 75, 50, 100))
    assert points[1] == pytest.approx((100, 200 / 3, 200 / 3, 200 / 3))


# ---------------------------------------------------------------- the command


OWN = torch.tensor([5, 50, 77])


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The study on small networks in an empty folder; of the images, OWN have wrong labels from the start."""
    monkeypatch.chdir(tmp_path)
    data = stripes(300)
    labels = data.labels.clone()
    labels[OWN] = (labels[OWN] + 1) % 3
    monkeypatch.setattr(study, "load", lambda source: (replace(data, labels=labels), None))
    network = {"n_blocks": 1, "n_features_1": 8, "n_features_2": 8}
    training = {"batch_size": 64, "epochs": 6, "precision": "fp32"}
    monkeypatch.setattr(study, "Settings", partial(Settings, **network, **training))


def test_the_command_trains_once_and_writes_the_table_and_the_pictures(small, monkeypatch, capsys):
    study.main(["x-random-12", "x-row0_row2-12", "--sets", "3", "4"])
    rows = read_csv(study.TABLE)
    assert [(row["noise"], row["method"]) for row in rows] == [
        (noise, method)
        for noise in ("x-random-12", "x-row0_row2-12")
        for method in ("diagnose.py", "loss alone", "former score")
    ]
    for row in rows:
        assert float(row["found"]) == sum(map(int, row["found of each set"].split())) / 2
        assert (row["found verdict"] == "") == (row["method"] == "diagnose.py")
    assert float(rows[0]["found"]) >= 5  # a random order finds half of one
    gain = float(rows[0]["found"]) - float(rows[1]["found"])
    assert float(rows[1]["ours finds more"]) == pytest.approx(gain)
    said = capsys.readouterr().out
    for index in OWN.tolist():
        assert re.search(rf"not changed, but a suspect in 2 of 2 sets: row\d → row\d  train/{index:05}", said)
    for kind in ("own_labels", "precision"):
        for noise in ("x-random-12", "x-row0_row2-12"):
            assert Path("results", f"{kind}_{noise}.png").stat().st_size > 1000
    monkeypatch.setattr(study.train, "fit", None)  # from here on nothing is trained
    study.main(["x-random-12", "--sets", "3", "4"])
    again = read_csv(study.TABLE)
    assert sorted(map(str, again)) == sorted(map(str, rows))  # in place of its rows of before
    study.main(["x-random-12", "x-random-12", "--sets", "3", "4", "3", "--table", "new/other.csv"])
    assert read_csv("new/other.csv") == rows[:3]  # each once
    names = {"other.csv", "precision_x-random-12.png", "own_labels_x-random-12.png"}
    assert {file.name for file in Path("new").iterdir()} == names


def test_a_foreign_picture_is_not_written_over_and_none_wrong_has_no_curve(small, monkeypatch, capsys):
    Path("results").mkdir()
    picture = Path("results", "own_labels_x-random-0.png")
    picture.write_text("mine")
    with pytest.raises(UserError, match=r"own_labels_x-random-0\.png: is there without this program's mark"):
        study.main(["x-random-0", "--sets", "3"])
    assert picture.read_text() == "mine"
    picture.unlink()
    study.main(["x-random-0", "--sets", "3"])
    assert read_csv(study.TABLE)[0]["found"] == "0"
    assert not Path("results", "precision_x-random-0.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x-random"], "invalid DATA-KIND-COUNT value: 'x-random'"),
        (["x-random-many"], "invalid DATA-KIND-COUNT value: 'x-random-many'"),
        (["x/y-random-3"], "invalid DATA-KIND-COUNT value"),
        (["x-row0_a/b-3"], "invalid DATA-KIND-COUNT value"),
        (["x-random-3", "x-row0_row9-3", "--table", "new.csv"], "x-row0_row9-3: no classes row0_row9 in"),
        (["x-random-3", "--table", "table.png"], "table.png: is no name for a new .csv file"),
        (["x-random--3"], "invalid DATA-KIND-COUNT value"),
        (["x-random-03"], "invalid DATA-KIND-COUNT value"),
        (["x-random-3"], "suspect_rankings.csv: is there without this program's mark"),
        (["x-random-3", "--cleanlab"], "pip install cleanlab first"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_trained(
    small, monkeypatch, capsys, arguments, message
):
    Path("results").mkdir()
    Path(study.TABLE).write_text("a,b\n1,2\n")
    if "--cleanlab" in arguments:
        monkeypatch.setattr(study, "check_replaceable", lambda *_: None)
        monkeypatch.setattr(study, "find_spec", lambda name: None)
    monkeypatch.setattr(study.train, "fit", None)
    with pytest.raises(SystemExit) as end:
        run_command(partial(study.main, arguments))
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert Path(study.TABLE).read_text() == "a,b\n1,2\n"
