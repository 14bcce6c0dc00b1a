"""Diagnosis: counts against independent counts, ranks against sorting, suspects against the truth."""

import math
import re
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


def counts_by_hand(labels, log_probabilities):
    """`label_counts` of lists of numbers, sample by sample."""
    n_classes = len(log_probabilities[0])
    shares = means(log_probabilities)
    counts = [[labels.count(i) if i == k else 0 for k in range(n_classes)] for i in range(n_classes)]
    for _ in range(diagnose.N_STEPS):
        sums = [[0] * n_classes for _ in range(n_classes)]
        for label, row in zip(labels, log_probabilities, strict=True):
            priors = [count + diagnose.UNSEEN / n_classes for count in counts[label]]
            weights = [
                math.exp(log_p) / share * prior
                for log_p, share, prior in zip(row, shares, priors, strict=True)
            ]
            for k in range(n_classes):
                sums[label][k] += weights[k] / sum(weights)
        counts = sums
    return counts


def means(log_probabilities):
    """Return each class's mean probability."""
    return [sum(map(math.exp, column)) / len(column) for column in zip(*log_probabilities, strict=True)]


def geometric_means(of_networks):
    """The logarithms of the geometric means of some networks' probabilities, made to sum to 1."""
    samples = zip(*of_networks, strict=True)
    log_means = [[sum(logs) / len(logs) for logs in zip(*sample, strict=True)] for sample in samples]
    sums = [sum(map(math.exp, row)) for row in log_means]
    return [[log - math.log(total) for log in row] for row, total in zip(log_means, sums, strict=True)]


def score_by_hand(label, row, shares, counts):
    n_classes = len(row)
    counts = [[count + diagnose.UNSEEN / n_classes for count in of_label] for of_label in counts]
    others = sorted(counts[i][k] for i in range(n_classes) for k in range(n_classes) if i != k)
    usual = others[(len(others) - 1) // 2]
    more = [max(0, count - 3 * usual - 3 * math.sqrt(count)) for count in counts[label]]
    wrong = sum((usual + more[k]) * math.exp(row[k]) / shares[k] for k in range(n_classes) if k != label)
    return math.log(wrong) - math.log(counts[label][label] * math.exp(row[label]) / shares[label])


@given(rankings())
def test_the_ranking_is_a_sort_by_the_odds_that_a_label_is_wrong(ranking):
    labels, log_probabilities = ranking
    ranking = top_losses(pictured(labels, log_probabilities.shape[2]), log_probabilities)
    together = geometric_means(log_probabilities.tolist())
    shares = means(together)
    counts = counts_by_hand(labels.tolist(), together)
    for sample, label in enumerate(labels.tolist()):
        assert ranking.losses[sample].item() == pytest.approx(-together[sample][label], abs=1e-6)
        assert ranking.probabilities[sample].tolist() == pytest.approx(list(map(math.exp, together[sample])))
        score = score_by_hand(label, together[sample], shares, counts)
        assert ranking.scores[sample].item() == pytest.approx(score, abs=2e-3)
    # Python's sort keeps equal ones in their order, too.
    order = sorted(range(len(labels)), key=lambda sample: -ranking.scores[sample].item())
    assert ranking.order.tolist() == order


def pictured(labels, n_classes):
    """Return an ImageData with these labels, int64 (N,), in which no two images are alike."""
    n = len(labels)
    names = tuple(map(str, range(max(n, n_classes))))
    return data.ImageData(torch.arange(n).view(n, 1, 1, 1), labels, names[:n_classes], names[:n], "numbers")


def test_of_two_equally_doubtful_labels_the_one_of_a_common_mistake_comes_first():
    """Of 300 samples of three classes 39 0s are surely 1s; one more, and a 2, look a little like a 1."""
    labels = torch.arange(300) % 3
    likely = torch.full((300, 3), 1e-6)
    likely[torch.arange(300), labels] = 1
    mistaken = (labels == 0).nonzero().flatten()[:40]
    likely[mistaken] = torch.tensor([1e-6, 1, 1e-6])
    likely[0] = torch.tensor([0.7, 0.3, 1e-6])
    likely[2] = torch.tensor([1e-6, 0.3, 0.7])
    ranking = top_losses(pictured(labels, 3), likely.log()[None])
    assert set(ranking.order[:40].tolist()) == set(mistaken.tolist())
    assert ranking.scores[0] > ranking.scores[2] + 3
    assert ranking.n_wrong[0] == 39


def test_certain_networks_give_finite_scores():
    """A class that no sample has, and one whose only sample is surely of another."""
    labels = torch.tensor([0, 0, 0, 1])
    certain = torch.tensor([[0, -300.0, -300.0]]).expand(1, 4, 3)
    ranking = top_losses(pictured(labels, 3), certain)
    assert ranking.scores.isfinite().all()
    assert ranking.order[0] == 3
    assert [f"{loss:.2f}" for loss in ranking.losses] == ["0.00", "0.00", "0.00", "300.00"]  # never -0.00


@given(st.integers(2, 5), st.integers(0, 2**31), st.sampled_from([0, 0.02, 0.1, 0.3]))
def test_where_the_networks_say_how_sure_they_are_the_counts_are_the_true_ones(n_classes, seed, share):
    classes, probabilities = calibrated(n_classes, seed)
    n_wrong = int(share * 6000)
    labels, _ = mislabelled.make_wrong(classes, n_classes, n_wrong, seed) if n_wrong else (classes, None)
    counts = diagnose.label_counts(labels, probabilities.log())
    true_counts = confusion_matrix(labels, classes, n_classes)
    assert torch.allclose(counts.sum(dim=1), true_counts.sum(dim=1).float())
    assert torch.allclose(counts, true_counts.float(), rtol=0.1, atol=45)
    assert (counts.sum() - counts.trace()).item() == pytest.approx(n_wrong, abs=30 + 0.1 * n_wrong)


def calibrated(n_classes, seed, distance=4):
    """Return classes and probabilities of 6,000 samples, numbers around their class's: by Bayes' rule."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(n_classes, (6000,), generator=generator)
    values = distance * classes + torch.randn(6000, generator=generator)
    squares = (values[:, None] - distance * torch.arange(n_classes)) ** 2
    return classes, (-squares / 2).softmax(dim=1).clamp(min=1e-30)


def count_wrong(labels, log_probabilities):
    counts = diagnose.label_counts(labels, log_probabilities)
    return diagnose.count_wrong(labels, log_probabilities, counts)


@given(st.integers(2, 5), st.integers(0, 2**31), st.sampled_from([0, 0.02, 0.1]))
def test_wrong_labels_are_counted_by_networks_that_do_not_expect_them(n_classes, seed, share):
    classes, probabilities = calibrated(n_classes, seed)
    n_wrong = int(share * len(classes))
    labels, _ = mislabelled.make_wrong(classes, n_classes, n_wrong, seed) if n_wrong else (classes, None)
    low, high = count_wrong(labels, probabilities.log())
    assert low == pytest.approx(n_wrong, abs=25 + n_wrong / 10)
    assert high == pytest.approx(n_wrong, abs=25 + n_wrong / 10)


@given(st.integers(3, 5), st.integers(0, 2**31), st.sampled_from([0.05, 0.1]))
def test_what_networks_expect_of_wrong_labels_is_taken_off(n_classes, seed, share):
    classes, probabilities = calibrated(n_classes, seed)
    labels, wrong = mislabelled.make_wrong(classes, n_classes, int(share * len(classes)), seed)
    mistaken = torch.full((n_classes, n_classes), share / (n_classes - 1)).fill_diagonal_(1 - share)
    low, high = count_wrong(labels, (probabilities @ mistaken).log())
    assert low < len(wrong) / 3  # such networks find a wrong label as likely as it is
    assert high == pytest.approx(len(wrong), rel=0.15)


@given(st.integers(2, 4), st.integers(0, 2**31))
def test_classes_that_overlap_are_no_wrong_labels(n_classes, seed):
    classes, probabilities = calibrated(n_classes, seed, distance=3)
    low, high = count_wrong(classes, probabilities.log())
    assert low < 40
    assert high < 90  # of some 800 that are contradicted


def test_networks_that_contradict_half_of_the_labels_cannot_tell():
    labels = torch.arange(40) % 2
    for n_contradicted, told in ((19, True), (20, False)):
        predicted = labels.clone()
        predicted[:n_contradicted] = 1 - labels[:n_contradicted]
        log_probabilities = (3 * torch.eye(2)[predicted]).log_softmax(dim=1)
        assert (count_wrong(labels, log_probabilities) is not None) == told


@given(rankings(), st.randoms())
def test_the_ranking_does_not_depend_on_the_samples_order(ranking, rng):
    labels, log_probabilities = ranking
    noise = torch.rand(len(labels), 1, generator=torch.Generator().manual_seed(0))
    log_probabilities = log_probabilities - noise * labels[:, None]
    mixed = list(range(len(labels)))
    rng.shuffle(mixed)
    n_classes = log_probabilities.shape[2]
    scores = top_losses(pictured(labels, n_classes), log_probabilities).scores
    mixed_scores = top_losses(pictured(labels[mixed], n_classes), log_probabilities[:, mixed]).scores
    assert torch.allclose(scores[mixed], mixed_scores, atol=1e-3)


def test_planted_wrong_labels_are_found():
    images, labels = digits(2000, seed=5)
    wrong, changed = mislabelled.make_wrong(labels, 10, 20, seed=1)
    imperfect = data.ImageData(images, wrong, data.TEN_DIGITS, data.numbered("train", 2000), "digits")
    small = {"image_size": 14, "n_blocks": 2, "n_features_1": 16, "n_features_2": 16}
    run_settings = complete(Settings(init="xavier", epochs=3, device="cpu", **small))
    model = models.build(run_settings, 10, (1, 28, 28))
    train.fit(model, imperfect, imperfect.subset(torch.arange(10)), run_settings)
    order = top_losses(imperfect, diagnose.predict_all([model], imperfect, run_settings)).order
    assert len(set(order[:40].tolist()) & set(changed.tolist())) >= 15  # a random order has 0.4


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


def test_by_default_as_many_images_are_removed_as_it_says_look_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", n_train=600)
    data.mislabel("images", "wrong", 40)
    arguments = f"--data wrong --epochs 5 --seeds 1 --no-augment {FLAGS} --batch-size 16"
    diagnose.main(f"{arguments} --out run".split())
    said = capsys.readouterr().out
    numbers, n_images = re.search(r"about (.*) of the (\d+) training labels", said).groups()
    low, high = min(map(int, numbers.split(" to "))), max(map(int, numbers.split(" to ")))
    rows = read_csv("run/top_losses.csv")
    assert n_images == "600"
    assert 5 <= low <= high <= 60
    assert [row["action"] for row in rows] == ["remove"] * high + ["keep"] * (600 - high)


def test_where_nothing_is_changed_no_network_is_trained_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", n_train=60)
    monkeypatch.setattr(diagnose, "count_wrong", lambda *_: None)
    diagnose.main(f"--data images --remove auto --epochs 2 --seeds 2 --out run {FLAGS}".split())
    assert "how many training labels are wrong cannot be said" in capsys.readouterr().out
    assert [row["labelling"] for row in read_csv("run/effect.csv")] == ["imperfect"] * 2


def test_of_two_copies_the_one_that_is_contradicted_leads_the_suspects():
    data_ = stripes(12)
    images, labels = data_.images.clone(), data_.labels.clone()
    images[8] = images[5]
    labels[8] = 0  # of which the networks are not sure, while they contradict many others
    log_probabilities = torch.eye(3)[(labels + 1) % 3].mul(9).log_softmax(1)
    log_probabilities[[5, 8]] = torch.tensor([[0.2, 0.3, 0.5]]).log()
    ranking = top_losses(data.replace(data_, images=images, labels=labels), log_probabilities[None])
    assert ranking.order[0] == 8
    assert sorted(ranking.order.tolist()) == list(range(12))


# ---------------------------------------------------------------- the imperfect data


@pytest.fixture
def empty_place(tmp_path, monkeypatch):
    """An empty current folder, without a network; the built-in digits are few there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "download", no_network)
    monkeypatch.setattr(data, "load_digits", lambda: [stripes(40), stripes(9, seed=1)])
    return tmp_path


def no_network(name):
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


@pytest.mark.parametrize(
    ("n_images", "flags", "epochs"),
    [(40, "", 10), (300, "", 4), (2000, "", 2), (40, "--freeze", 10), (2000, "--freeze", 10)],
)
def test_networks_see_few_images_more_often_but_not_by_heart(
    empty_place, monkeypatch, n_images, flags, epochs
):
    settings, init = [], "xavier"
    if flags:
        network = models.build(complete(Settings(n_blocks=1, device="cpu")), 3, (1, 8, 8))
        torch.save(network.state_dict(), "first.pt")
        flags, init = f"{flags} --init transfer --weights first.pt", "transfer"
    monkeypatch.setattr(data, "load_digits", lambda: [stripes(n_images), stripes(9, seed=1)])
    monkeypatch.setattr(diagnose, "diagnose", lambda *given: settings.append(given[4]))
    diagnose.main(f"--data digits --remove 4 --batch-size 8 {flags} --n-blocks 1".split())
    assert (settings[0].epochs, settings[0].init, settings[0].augment) == (epochs, init, not flags)


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
