"""Label errors: scores and counts against calculations by hand and against data with known true labels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import make_wrong
from support import label_errors
from support.label_errors import count_errors, error_scores, label_counts

# ---------------------------------------------------------------- by hand, sample by sample


@st.composite
def outputs(draw):
    """Labels, and log-probabilities of one to three networks, with losses that are often equal."""
    n, n_networks = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    n_classes = draw(st.sampled_from([2, 3, 4, 7]))
    labels = draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n))
    n_values = n * n_networks * n_classes
    values = draw(st.lists(st.integers(-9, 0), min_size=n_values, max_size=n_values))
    return torch.tensor(labels), torch.tensor(values).float().view(n_networks, n, n_classes).log_softmax(2)


def ensemble_by_hand(log_probabilities):
    """The logarithms of the geometric means of the networks' probabilities, divided by their sums."""
    samples = zip(*log_probabilities.tolist(), strict=True)
    means = [[sum(logs) / len(logs) for logs in zip(*sample, strict=True)] for sample in samples]
    return [[log - math.log(sum(map(math.exp, row))) for log in row] for row in means]


def counts_by_hand(labels, rows):
    n_classes = len(rows[0])
    shares = [sum(map(math.exp, column)) / len(rows) for column in zip(*rows, strict=True)]
    counts = [[labels.count(i) if i == k else 0 for k in range(n_classes)] for i in range(n_classes)]
    for _ in range(20):
        sums = [[0] * n_classes for _ in range(n_classes)]
        for label, row in zip(labels, rows, strict=True):
            priors = [count + 0.5 / n_classes for count in counts[label]]
            weights = [math.exp(row[k]) / shares[k] * priors[k] for k in range(n_classes)]
            for k in range(n_classes):
                sums[label][k] += weights[k] / sum(weights)
        counts = sums
    return counts, shares


def without_expected_by_hand(rows):
    """The logarithms of the probabilities without the 0.3-quantile among rows with the same prediction."""
    rows, n_classes = [list(map(math.exp, row)) for row in rows], len(rows[0])
    predicted = [row.index(max(row)) for row in rows]
    expected = {}
    for cell in {(j, k) for j in predicted for k in range(n_classes) if k != j}:
        values = sorted(row[cell[1]] for row, j in zip(rows, predicted, strict=True) if j == cell[0])
        place = 0.3 * (len(values) - 1)
        below, above = values[math.floor(place)], values[math.ceil(place)]
        expected[cell] = below + (place - math.floor(place)) * (above - below)
    return [
        [math.log(max(p - expected.get((j, k), 0), p / 10)) for k, p in enumerate(row)]
        for j, row in zip(predicted, rows, strict=True)
    ]


def score_by_hand(label, row, counts, shares, frequencies):
    classes = range(len(row))
    counts = [[count + 0.5 / len(row) for count in of_label] for of_label in counts]
    mistakes = [counts[i][k] for i in classes for k in classes if i != k]
    concentration = len(mistakes) * sum((count / sum(mistakes)) ** 2 for count in mistakes)
    power = min(2, (concentration - 1) / 15)
    q = [frequencies[k] * math.exp(row[k]) / shares[k] for k in classes]
    return math.log(sum(counts[label][k] ** power * q[k] for k in classes if k != label) / q[label])


@given(outputs())
def test_counts_and_scores_follow_bayes_rule(given):
    labels, log_probabilities = given
    together = label_errors.ensemble(log_probabilities)
    assert torch.allclose(together, torch.tensor(ensemble_by_hand(log_probabilities)), atol=1e-5)
    rows, numbers = together.tolist(), labels.tolist()  # these rows, because ties decide predictions
    counts, shares = counts_by_hand(numbers, rows)
    assert torch.allclose(label_counts(labels, together), torch.tensor(counts), atol=1e-3)
    counts, _ = counts_by_hand(numbers, without_expected_by_hand(rows))
    n, n_classes = len(numbers), len(rows[0])
    frequencies = [(numbers.count(k) + 0.5 / n_classes) / n for k in range(n_classes)]
    pairs = zip(numbers, rows, strict=True)
    scores = [score_by_hand(label, row, counts, shares, frequencies) for label, row in pairs]
    assert error_scores(labels, together).tolist() == pytest.approx(scores, abs=2e-3)


def test_a_label_of_confused_classes_comes_before_an_equally_doubtful_one():
    truth = torch.arange(400) % 4
    labels = truth.clone()
    labels[:40] = labels[:40] ^ 1  # 0 and 1 are mixed up, and 2 and 3
    labels[(truth > 1) & (labels != truth)] ^= 1  # but only 0 and 1
    log_probabilities = (4 * torch.eye(4)[truth]).log_softmax(1)
    log_probabilities[[100, 102]] = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]).clamp(min=1e-4).log()
    scores = error_scores(labels, log_probabilities)
    assert scores[100] > scores[102] + 1


def test_rare_classes_do_not_make_the_score_worse_than_the_loss():
    """The score finds as many wrong labels as the loss, if they are random and one class has 90 %."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.9, *9 * [0.1 / 9]])
    truth = torch.multinomial(shares, 3000, replacement=True, generator=generator)
    labels, changed = make_wrong(truth, 10, 200, 0)
    logits = 1.2 * torch.randn(3000, 10, generator=generator) + 3 * torch.eye(10)[truth] + shares.log()
    log_probabilities = logits.log_softmax(1)
    losses = -log_probabilities[torch.arange(3000), labels]
    scores = error_scores(labels, log_probabilities)
    by_loss, by_score = (torch.isin(each.topk(200).indices, changed).sum() for each in (losses, scores))
    assert by_score >= 0.97 * by_loss > 100


def test_certain_networks_give_finite_scores():
    """Class 2 has no sample, and the only sample of class 1 is surely of class 0."""
    scores = error_scores(torch.tensor([0, 0, 0, 1]), torch.tensor([[0, -300.0, -300.0]]).expand(4, 3))
    assert scores.isfinite().all()
    assert scores.argmax() == 3


# ---------------------------------------------------------------- how many are wrong


def calibrated(n_classes, seed):
    """Return the classes of 6,000 normally distributed numbers, and their probabilities by Bayes' rule."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(n_classes, (6000,), generator=generator)
    values = 4 * classes + torch.randn(6000, generator=generator)
    squares = (values[:, None] - 4 * torch.arange(n_classes)) ** 2
    return classes, (-squares / 2).softmax(dim=1).clamp(min=1e-30)


@settings(max_examples=12)
@given(st.integers(2, 5), st.integers(0, 2**31), st.sampled_from([0, 0.02, 0.1]))
def test_the_number_of_wrong_labels_is_found_if_networks_are_calibrated(n_classes, seed, share):
    classes, probabilities = calibrated(n_classes, seed)
    n_wrong = int(share * 6000)
    labels, _ = make_wrong(classes, n_classes, n_wrong, seed)
    counts = label_counts(labels, probabilities.log())
    pairs = torch.bincount(labels * n_classes + classes, minlength=n_classes**2)
    true_counts = pairs.view(counts.shape).float()
    assert torch.allclose(counts.sum(dim=1), true_counts.sum(dim=1))
    assert torch.allclose(counts, true_counts, rtol=0.1, atol=45)
    low, high = count_errors(labels, probabilities.log())
    assert (low, high) == pytest.approx((n_wrong, n_wrong), abs=25 + n_wrong / 10)


@settings(max_examples=12)
@given(st.integers(3, 5), st.integers(0, 2**31), st.sampled_from([0.05, 0.1]))
def test_the_high_estimate_is_right_if_networks_have_learned_to_expect_wrong_labels(n_classes, seed, share):
    classes, probabilities = calibrated(n_classes, seed)
    labels, wrong = make_wrong(classes, n_classes, int(share * len(classes)), seed)
    expects = torch.full((n_classes, n_classes), share / (n_classes - 1)).fill_diagonal_(1 - share)
    low, high = count_errors(labels, (probabilities @ expects).log())
    assert low < len(wrong) / 3  # such networks find a wrong label as likely as it is
    assert high == pytest.approx(len(wrong), rel=0.15)


@pytest.mark.parametrize(("n_contradicted", "tells"), [(7, True), (8, False)])
def test_there_is_no_estimate_if_networks_contradict_a_fifth_of_the_labels(n_contradicted, tells):
    labels = torch.arange(40) % 2
    predicted = torch.cat([1 - labels[:n_contradicted], labels[n_contradicted:]])
    estimate = count_errors(labels, (3 * torch.eye(2)[predicted]).log_softmax(dim=1))
    assert (estimate is not None) == tells


# ---------------------------------------------------------------- copies, suspects, the truth

shades = st.lists(st.integers(0, 3), min_size=1, max_size=8)  # as hashes: equal for copies


@given(shades, st.data())
def test_copies_are_contradicted_unless_they_have_the_label_of_the_smallest_loss(digests, content):
    n = len(digests)
    labels = torch.tensor(content.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    losses = torch.tensor(content.draw(st.permutations(range(n))), dtype=torch.float)
    contradicted = label_errors.contradicted_copies(digests, labels, losses)
    for index, digest in enumerate(digests):
        copies = [other for other, its in enumerate(digests) if its == digest]
        assert contradicted[index] == (labels[index] != labels[min(copies, key=losses.__getitem__)])


@given(st.data(), st.integers(1, 12), st.integers(0, 14))
def test_suspects_are_the_first_contradicted_labels_and_no_class_loses_its_last(content, n_samples, n):
    some = st.lists(st.integers(0, 2), min_size=n_samples, max_size=n_samples)
    labels, predicted = content.draw(some), content.draw(some)
    order = content.draw(st.permutations(range(n_samples)))[: content.draw(st.integers(0, n_samples))]
    wanted = [index for index in order if labels[index] != predicted[index]][:n]
    for label in set(labels):
        if {index for index in range(n_samples) if labels[index] == label} <= set(wanted):
            wanted.remove([index for index in wanted if labels[index] == label][-1])
    tensors = [torch.tensor(each, dtype=torch.int64) for each in (labels, predicted, order)]
    assert label_errors.most_likely_errors(*tensors, n).tolist() == wanted


@given(shades, st.data())
def test_true_labels_come_from_the_same_images(digests, content):
    n = len(digests)
    labels = content.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    known = content.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2)), max_size=8))
    first, second = [digest for digest, _ in known], [label for _, label in known]
    true = label_errors.true_labels(digests, torch.tensor(labels), first, second)
    for index, digest in enumerate(digests):
        there = [label for its, label in known if its == digest]
        own = labels[index]
        assert true[index] == (own if own in there else there[0] if there else -1)


@pytest.mark.parametrize("n_classes", [3, 10])
def test_an_even_spread_has_the_mean_and_variance_of_random_wrong_labels(n_classes):
    truth = torch.arange(n_classes).repeat(300)[: 300 * n_classes - 150]  # the classes differ in size
    truth = torch.cat([truth, torch.zeros(400, dtype=torch.int64)])
    found = torch.zeros(2, 200, n_classes)
    for seed in range(200):
        wrong, changed = make_wrong(truth, n_classes, 200, seed)
        for kind, values in enumerate((wrong[changed], truth[changed])):
            found[kind, seed] = torch.bincount(values, minlength=n_classes)
    spreads = label_errors.even_spread(truth, 200, n_classes)
    for counts, (expected, variance) in zip(found, spreads, strict=True):
        assert expected.sum() == pytest.approx(200)
        assert torch.allclose(counts.mean(0).double(), expected, atol=4 * math.sqrt(200 / 4 / 200))
        chi_squares = ((counts - expected) ** 2 / expected).sum(1) / variance
        assert chi_squares.mean() == pytest.approx(n_classes - 1, rel=0.2)  # the mean of χ²
