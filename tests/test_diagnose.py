"""Diagnosis: counts against independent counts, ranks against sorting, suspects against the truth."""

import math
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st

import data
import diagnose
import train
from diagnose import confusion_matrix, spread_over_classes, top_losses
from digits import digits
from imperfect import find_imperfect, true_labels
from settings import Settings, complete

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)


@given(pairs)
def test_every_cell_is_a_count_and_every_row_sum_a_class_count(pairs):
    labels, predicted = torch.tensor(pairs).unbind(dim=1)
    matrix = confusion_matrix(labels, predicted, 5)
    assert matrix.dtype == torch.int64
    counted = Counter(pairs)
    assert all(matrix[i, j] == counted[i, j] for i in range(5) for j in range(5))
    assert matrix.sum(dim=1).tolist() == [sum(label == i for label, _ in pairs) for i in range(5)]
    assert matrix.trace() == sum(label == guess for label, guess in pairs)


# ---------------------------------------------------------------- the ranking


@st.composite
def rankings(draw):
    """Labels and log-probabilities of one to three networks, with losses that are often equal."""
    n, n_networks, n_classes = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(2, 4))
    labels = torch.tensor(draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)))
    values = st.lists(
        st.integers(-9, 0), min_size=n * n_networks * n_classes, max_size=n * n_networks * n_classes
    )
    return labels, torch.tensor(draw(values)).float().view(n_networks, n, n_classes)


@given(rankings())
def test_the_ranking_is_a_sort_by_loss_and_by_how_common_the_mistake_is(ranking):
    labels, log_probabilities = ranking
    order, scores, losses = top_losses(labels, log_probabilities)
    n_classes, pairs, sure = log_probabilities.shape[2], [], []
    for sample, label in enumerate(labels.tolist()):
        mean = [sum(network[sample][c].item() for network in log_probabilities) for c in range(n_classes)]
        mean = [total / len(log_probabilities) for total in mean]
        other = max((c for c in range(n_classes) if c != label), key=lambda c: mean[c])
        assert losses[sample].item() == pytest.approx(-mean[label])
        pairs.append((label, other))
        sure += [(label, other)] if mean[other] - mean[label] > diagnose.SURE else []
    for sample, pair in enumerate(pairs):
        share = (sure.count(pair) + 1) / (len(sure) + n_classes**2)
        assert scores[sample].item() == pytest.approx(losses[sample].item() + math.log(share), abs=1e-4)
    # Python's sort keeps equal ones in their order, too.
    assert order.tolist() == sorted(range(len(labels)), key=lambda sample: -scores[sample].item())


def test_within_a_pair_the_greater_loss_comes_first():
    log_probabilities = torch.tensor([[[-5.0, -0.1], [-7.0, -0.1], [-6.0, -0.1]]])
    order, _, losses = top_losses(torch.zeros(3, dtype=torch.int64), log_probabilities)
    assert order.tolist() == [1, 2, 0]
    assert losses.tolist() == [5, 7, 6]


@given(rankings(), st.randoms())
def test_the_ranking_does_not_depend_on_the_samples_order(ranking, rng):
    labels, log_probabilities = ranking
    noise = torch.rand(len(labels), 1, generator=torch.Generator().manual_seed(0))
    log_probabilities = log_probabilities - noise  # no two losses equal
    mixed = list(range(len(labels)))
    rng.shuffle(mixed)
    order, scores, _ = top_losses(labels, log_probabilities)
    mixed_order, mixed_scores, _ = top_losses(labels[mixed], log_probabilities[:, mixed])
    assert torch.equal(scores[mixed], mixed_scores)
    assert [mixed[index] for index in mixed_order] == order.tolist()


def test_planted_wrong_labels_are_found():
    images, labels = digits(2000, seed=5)
    wrong, changed = data.wrong_labels(labels, 10, 20, seed=1)
    imperfect = data.ImageData(images, wrong, data.TEN_DIGITS, data.numbered("train", 2000), "digits")
    run_settings = complete(Settings(init="xavier", epochs=3, device="cpu"))
    model = train.build(run_settings, 10, (1, 28, 28))
    train.fit(model, imperfect, imperfect.subset(torch.arange(10)), run_settings)
    order, _, _ = top_losses(wrong, diagnose.predict_all([model], imperfect, run_settings))
    assert len(set(order[:40].tolist()) & set(changed.tolist())) >= 15  # a random order has 0.4


# ---------------------------------------------------------------- what is known of the labels


def test_true_labels_are_found_by_the_pixels():
    clean = stripes(30)
    order = data.random_order(30, 4)
    imperfect = replace(clean.subset(order), labels=(clean.labels[order] + 1) % 3)
    assert torch.equal(true_labels(imperfect, clean), clean.labels[order])
    assert true_labels(stripes(30, seed=9), clean).tolist() == [-1] * 30
    renamed = replace(clean, classes=clean.classes[::-1])
    assert torch.equal(true_labels(imperfect, renamed), 2 - clean.labels[order])


def test_of_a_picture_in_two_classes_either_label_is_right():
    clean = stripes(6)
    images = clean.images.clone()
    images[1] = images[0]  # of the classes 0 and 1
    clean = replace(clean, images=images)
    assert torch.equal(true_labels(clean, clean), clean.labels)
    assert true_labels(replace(clean, labels=clean.labels * 0 + 2), clean).tolist()[:3] == [0, 0, 2]


def test_wrong_labels_all_over_are_told_from_those_of_two_classes():
    labels = torch.arange(10).repeat(600)
    for classes, words in (
        (None, "All classes are affected: each label has "),
        ({4, 9}, "Not all classes are affected alike: of 100 suspects label "),
    ):
        wrong, changed = data.wrong_labels(labels, 10, 100, 3, classes)
        text = spread_over_classes(wrong, labels, changed, data.TEN_DIGITS)
        assert text.startswith(words)
        pair, n = Counter(zip(wrong[changed].tolist(), labels[changed].tolist(), strict=True)).most_common(1)[
            0
        ]
        assert f"Label → prediction: {pair[0]} → {pair[1]}: {n}" in text
    for digit in (4, 9):
        n = (wrong[changed] == digit).sum()
        assert re.search(rf"\b{digit} has {n} \(\d+\.\d if spread evenly\)", text)
    assert "1.1 each if spread evenly" in text  # 100 suspects, 90 pairs


def test_even_is_measured_by_the_classes_sizes():
    labels = torch.tensor([0] * 900 + [1] * 100)
    suspects = torch.arange(10, 1000, 10)  # 89 and 10 of them
    assert spread_over_classes(labels, 1 - labels, suspects, "ab").startswith("All classes")
    text = spread_over_classes(labels, 1 - labels, torch.arange(850, 950), "ab")
    assert text.startswith(
        "Not all classes are affected alike: of 100 suspects label b has 50 (10.0 if spread"
    )
    everything_in_one = spread_over_classes(
        torch.arange(200) % 2, torch.arange(200) % 2, torch.arange(0, 200, 2), "ab"
    )
    assert "label a has 100 (50.0 if spread evenly) (" in everything_in_one


def test_the_test_of_evenness_by_hand():
    labels = torch.arange(3).repeat(100)
    suspects = torch.cat([(labels == label).nonzero().flatten()[:n] for label, n in enumerate((20, 30, 40))])
    # χ² = (10² + 0² + 10²) / 30, and with two degrees of freedom p = exp(-χ² / 2) = 0.0357
    assert "(χ² test: p = 0.036)" in spread_over_classes(labels, labels, suspects, "abc")


def test_even_labels_are_called_uneven_by_chance_at_most_once_in_a_hundred():
    labels = torch.arange(10).repeat(60)
    texts = [
        spread_over_classes(labels, labels, data.random_order(600, seed)[:100], data.TEN_DIGITS)
        for seed in range(300)
    ]
    assert sum(text.startswith("Not all") for text in texts) <= 9


# ---------------------------------------------------------------- the imperfect data


@pytest.fixture
def empty_place(tmp_path, monkeypatch):
    """An empty current folder, without a network; the built-in digits are few there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "download_mnist", no_network)
    monkeypatch.setattr(data, "load_digits", lambda: [stripes(40), stripes(9, seed=1)])
    return tmp_path


def no_network():
    raise data.DownloadError("no network")


def test_imperfect_data_are_made_from_nothing_and_then_kept(empty_place, capsys):
    imperfect, clean = find_imperfect("auto", 7)
    assert (imperfect, clean) == ("data/digits_png_mislabelled_7", "data/digits_png")
    assert "Using the built-in digits instead" in capsys.readouterr().out
    (train_data, _), (clean_data, _) = data.load(imperfect), data.load(clean)
    assert (true_labels(train_data, clean_data) != train_data.labels).sum() == 7
    before = sorted(path.stat().st_mtime_ns for path in empty_place.rglob("*.png"))
    assert find_imperfect("auto", 7) == (imperfect, clean)
    assert sorted(path.stat().st_mtime_ns for path in empty_place.rglob("*.png")) == before


def test_the_sheets_folder_comes_first_with_or_without_its_clean_one(empty_place):
    (empty_place / "data" / "mnist_png_mislabelled").mkdir(parents=True)
    assert find_imperfect("auto", 100) == ("data/mnist_png_mislabelled", None)
    (empty_place / "data" / "mnist_png").mkdir()
    assert find_imperfect("auto", 100) == ("data/mnist_png_mislabelled", "data/mnist_png")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_of_ones_own(empty_place, slash):
    write_folder(empty_place / "mine")
    assert find_imperfect(f"./mine{slash}", 100) == ("mine", None)
    write_folder(empty_place / "mine_mislabelled_by_hand")
    assert find_imperfect(f"mine_mislabelled_by_hand{slash}", 100)[1] == "mine"
