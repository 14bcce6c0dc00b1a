"""Diagnosis: counts against independent counts, ranks against sorting, suspects against the truth."""

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
from diagnose import confusion_matrix, spread_over_classes, top_losses, true_labels
from digits import digits
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
        st.integers(-3, 0), min_size=n * n_networks * n_classes, max_size=n * n_networks * n_classes
    )
    return labels, torch.tensor(draw(values)).float().view(n_networks, n, n_classes)


@given(rankings())
def test_the_ranking_is_a_sort_by_mean_loss(ranking):
    labels, log_probabilities = ranking
    order, losses = top_losses(labels, log_probabilities)
    expected = [
        -sum(network[sample][label].item() for network in log_probabilities) / len(log_probabilities)
        for sample, label in enumerate(labels.tolist())
    ]
    assert losses.tolist() == pytest.approx(expected)
    # Python's sort keeps equal ones in their order, too.
    assert order.tolist() == sorted(range(len(labels)), key=lambda sample: -losses[sample].item())


@given(rankings(), st.randoms())
def test_the_ranking_does_not_depend_on_the_samples_order(ranking, rng):
    labels, log_probabilities = ranking
    log_probabilities = log_probabilities - torch.arange(len(labels))[:, None] / 100  # no two losses equal
    mixed = list(range(len(labels)))
    rng.shuffle(mixed)
    order, _ = top_losses(labels, log_probabilities)
    mixed_order, _ = top_losses(labels[mixed], log_probabilities[:, mixed])
    assert [mixed[index] for index in mixed_order] == order.tolist()


def test_planted_wrong_labels_are_found():
    images, labels = digits(2000, seed=5)
    wrong, changed = data.wrong_labels(labels, 10, 20, seed=1)
    imperfect = data.ImageData(images, wrong, data.TEN_DIGITS, data.numbered("train", 2000), "digits")
    run_settings = complete(Settings(init="xavier", epochs=3, device="cpu"))
    model = train.build(run_settings, 10, (1, 28, 28))
    train.fit(model, imperfect, imperfect.subset(torch.arange(10)), run_settings)
    order, _ = top_losses(wrong, diagnose.predict_all([model], imperfect, run_settings))
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


def test_one_picture_in_two_classes_has_no_known_label():
    clean = stripes(6)
    images = clean.images.clone()
    images[1] = images[0]
    assert true_labels(replace(clean, images=images), replace(clean, images=images)).tolist()[:3] == [
        -1,
        -1,
        2,
    ]


def test_wrong_labels_all_over_are_told_from_those_of_two_classes():
    labels = torch.arange(10).repeat(600)
    for classes, words in ((None, "All classes are affected"), ({4, 9}, "suspects are labelled 4 (")):
        wrong, changed = data.wrong_labels(labels, 10, 100, 3, classes)
        text = spread_over_classes(wrong, labels, changed, data.TEN_DIGITS)
        assert words in text
        pair, n = Counter(zip(wrong[changed].tolist(), labels[changed].tolist(), strict=True)).most_common(1)[
            0
        ]
        assert f"Label → prediction: {pair[0]} → {pair[1]}: {n}" in text
    assert "spread evenly 1.1 each" in text  # 100 suspects, 90 pairs


def test_even_labels_are_called_limited_by_chance_at_most_once_in_a_hundred():
    labels = torch.arange(10).repeat(60)
    texts = [
        spread_over_classes(labels, labels, data.random_order(600, seed)[:100], data.TEN_DIGITS)
        for seed in range(300)
    ]
    assert sum(text.startswith("Limited") for text in texts) <= 9


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
    imperfect, clean = diagnose.find_imperfect("auto", 7)
    assert (imperfect, clean) == ("data/digits_png_mislabelled_7", "data/digits_png")
    assert "Using the built-in digits instead" in capsys.readouterr().out
    (train_data, _), (clean_data, _) = data.load(imperfect), data.load(clean)
    assert (true_labels(train_data, clean_data) != train_data.labels).sum() == 7
    before = sorted(path.stat().st_mtime_ns for path in empty_place.rglob("*.png"))
    assert diagnose.find_imperfect("auto", 7) == (imperfect, clean)
    assert sorted(path.stat().st_mtime_ns for path in empty_place.rglob("*.png")) == before


def test_the_sheets_folder_comes_first_with_or_without_its_clean_one(empty_place):
    (empty_place / "data" / "mnist_png_mislabelled").mkdir(parents=True)
    assert diagnose.find_imperfect("auto", 100) == ("data/mnist_png_mislabelled", None)
    (empty_place / "data" / "mnist_png").mkdir()
    assert diagnose.find_imperfect("auto", 100) == ("data/mnist_png_mislabelled", "data/mnist_png")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_of_ones_own(empty_place, slash):
    write_folder(empty_place / "mine")
    assert diagnose.find_imperfect(f"mine{slash}", 100)[1] is None
    write_folder(empty_place / "mine_mislabelled_by_hand")
    assert diagnose.find_imperfect(f"mine_mislabelled_by_hand{slash}", 100)[1] == "mine"
