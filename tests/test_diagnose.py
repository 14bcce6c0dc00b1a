"""Diagnosis: counts against independent counts, ranks against sorting, suspects against the truth."""

import math
from collections import Counter
from pathlib import Path

from support import mislabelled
from support.console import UserError
from support.digits import digits
from support.files import read_csv
from support.mislabelled import true_labels
from support.settings import Settings, complete

import pytest
import torch
from conftest import FLAGS, stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data
import diagnose
import models
import train
from data import find_imperfect, known_truth
from diagnose import confusion_matrix, top_losses

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
    wrong, changed = mislabelled.make_wrong(labels, 10, 20, seed=1)
    imperfect = data.ImageData(images, wrong, data.TEN_DIGITS, data.numbered("train", 2000), "digits")
    small = {"image_size": 14, "n_blocks": 2, "n_features_1": 16, "n_features_2": 16}
    run_settings = complete(Settings(init="xavier", epochs=3, device="cpu", **small))
    model = models.build(run_settings, 10, (1, 28, 28))
    train.fit(model, imperfect, imperfect.subset(torch.arange(10)), run_settings)
    order, _, _ = top_losses(wrong, diagnose.predict_all([model], imperfect, run_settings))
    assert len(set(order[:40].tolist()) & set(changed.tolist())) >= 15  # a random order has 0.4


@given(st.integers(1, 30), st.data())
def test_removing_the_first_keeps_every_other(n, content):
    order = torch.tensor(content.draw(st.permutations(range(n))))
    n_remove = content.draw(st.integers(0, n))
    kept = diagnose.without_first(order, n_remove, n)
    assert set(kept.nonzero().flatten().tolist()) == set(order[n_remove:].tolist())


def test_of_frozen_networks_the_features_are_computed_once_and_the_rest_is_as_in_train_py(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images")
    train.main(f"--data images {FLAGS} --epochs 2 --out source".split())
    frozen = f"--data images {FLAGS} --init transfer --weights source/model.pt --freeze"
    for seed in (0, 1):
        train.main(f"{frozen} --epochs 3 --seed {seed} --out run{seed}".split())
    computed = []
    monkeypatch.setattr(
        train, "frozen", lambda *given, frozen=train.frozen: computed.append(1) or frozen(*given)
    )
    diagnose.main(f"{frozen} --epochs 3 --seeds 2 --remove 2 --out diagnosis".split())
    assert len(computed) == 1
    for seed in (0, 1):
        (metrics,) = Path("diagnosis").glob(f"imperfect-*-{seed}/metrics.csv")
        ours, theirs = (
            [row | {"seconds": 0} for row in read_csv(file)] for file in (metrics, f"run{seed}/metrics.csv")
        )
        assert ours == theirs


def test_what_the_networks_never_saw_is_ranked_by_its_loss_alone():
    test = stripes(9)
    log_probabilities = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    ranking = diagnose.rank_test(test, log_probabilities)
    losses = [-log_probabilities[:, index, label].mean().item() for index, label in enumerate(test.labels)]
    assert ranking.order.tolist() == sorted(range(9), key=lambda index: -losses[index])
    assert torch.allclose(ranking.losses, torch.tensor(losses))


def test_of_two_copies_the_one_that_is_contradicted_leads_the_suspects():
    data_ = stripes(12)
    images, labels = data_.images.clone(), data_.labels.clone()
    images[8] = images[5]
    labels[8] = 0  # of which the networks are not sure, while they contradict many others
    log_probabilities = torch.eye(3)[(labels + 1) % 3].mul(9).log_softmax(1)
    log_probabilities[[5, 8]] = torch.tensor([[0.2, 0.3, 0.5]]).log()
    ranking = diagnose.rank_training(
        data.replace(data_, images=images, labels=labels), log_probabilities[None]
    )
    assert ranking.order[0] == 8
    assert sorted(ranking.order.tolist()) == list(range(12))


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


def found(n_wrong, source="auto"):
    """What `find_imperfect` returns where no number of images is too small."""
    return find_imperfect(source, n_wrong, lambda n_images: None)


def test_imperfect_data_are_made_from_nothing_and_then_kept(empty_place, capsys):
    imperfect, clean = found(7)
    assert (imperfect, clean) == ("data/digits_png_mislabelled_7", "./data/digits_png")
    assert "Using the built-in digits instead" in capsys.readouterr().out
    (train_data, _), (clean_data, _) = data.load(imperfect), data.load(clean)
    assert (true_labels(train_data, clean_data) != train_data.labels).sum() == 7
    before = sorted(path.stat().st_mtime_ns for path in empty_place.rglob("*.png"))
    assert found(7) == (imperfect, clean)
    assert sorted(path.stat().st_mtime_ns for path in empty_place.rglob("*.png")) == before


def test_the_command_in_an_empty_folder_without_a_network(empty_place, capsys):
    small = "--n-features-1 4 --n-features-2 4 --n-fully-1 8 --n-fully-2 8 --batch-size 8 --precision fp32"
    diagnose.main(f"--remove 4 --mislabelled 4 --seeds 2 --epochs 3 {small}".split())
    out = capsys.readouterr().out
    assert "Using the built-in digits instead" in out
    assert "4 of its labels are not those of ./data/digits_png" in out
    assert "of the 4 suspects" in out
    assert "Cleaning 4 of 40 images (10.00%) changed" in out
    assert (empty_place / "runs" / "diagnosis" / "effect.csv").exists()


def test_the_copy_of_a_folder_of_mixed_sizes_needs_no_size(empty_place):
    clean = write_folder(empty_place / "data" / "mnist_png")
    image = next(clean.rglob("*.png"))
    Image.open(image).resize((40, 30)).save(image)
    assert found(3) == ("data/mnist_png_mislabelled_3", "./data/mnist_png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--remove 21", "--remove 21: that is more than half of the 40 training images"),
        ("--remove 6 --limit 11", "--remove 6: that is more than half of the 11 training images"),
        ("--remove 4 --mislabelled 41", "41 labels cannot be made wrong: 40 images"),
    ],
)
def test_what_the_data_are_too_few_for_is_refused_before_files_are_made(empty_place, arguments, message):
    with pytest.raises(UserError, match=message):
        diagnose.main(arguments.split())
    assert list(empty_place.iterdir()) == []


def test_the_sheets_folder_comes_first_with_or_without_its_clean_one(empty_place):
    (empty_place / "data" / "mnist_png_mislabelled").mkdir(parents=True)
    assert found(100) == ("data/mnist_png_mislabelled", None)
    (empty_place / "data" / "mnist_png").mkdir()
    assert found(100) == ("data/mnist_png_mislabelled", "./data/mnist_png")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_of_ones_own(empty_place, slash):
    write_folder(empty_place / "mine")
    assert found(100, f"./mine{slash}") == (f"./mine{slash}", None)
    write_folder(empty_place / "mine_mislabelled_by_hand")
    assert found(100, f"mine_mislabelled_by_hand{slash}")[1] == "./mine"


def test_true_labels_that_cannot_be_had_are_done_without(empty_place, capsys):
    (empty_place / "empty").mkdir()
    images = stripes(9)
    assert known_truth(images, "empty", None) is None
    assert "the true labels are not known, as empty: has no class folders" in capsys.readouterr().out
    write_folder(empty_place / "other", n_train=9)
    assert torch.equal(known_truth(images, "other", None), images.labels)
    more = stripes(12, seed=5)
    assert known_truth(more, "other", None) is None
    assert "12 of its images are not in other" in capsys.readouterr().out
    assert known_truth(images, None, None) is None
