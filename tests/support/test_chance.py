"""Chance: changes over seeds and wrong labels over classes, against cases by hand and chance itself."""

import math
import random
import re
from collections import Counter

from support import chance, mislabelled, randomness
from support.chance import T_95, difference, mean_sd, spread_over_classes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import data

# ---------------------------------------------------------------- over seeds

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@given(numbers, st.floats(-5, 5))
def test_a_shift_is_found_with_its_size(before, shift):
    mean, sd, verdict = difference(before, [number + shift for number in before])
    assert mean == pytest.approx(shift, abs=1e-9)
    assert sd == pytest.approx(0, abs=1e-9)
    assert verdict != "larger than chance" or sd > 0


@given(numbers)
def test_no_change_is_never_larger_than_chance(before):
    assert difference(before, before) == (0, 0, "within chance")


def test_a_case_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, t = 2 / (1 / √3) = 3.46, less than 4.30
    assert difference([0, 0, 0], [1, 2, 3]) == (2, 1, "within chance")
    # differences of one hundredth each, as an accuracy's may be: no spread but rounding's
    assert difference([99.44, 99.35, 99.41], [99.45, 99.36, 99.42])[2] == "no spread to judge by"
    # differences 2, 3, 4: t = 3 √3 = 5.2
    assert difference([0, 0, 0], [2, 3, 4]) == (3, 1, "larger than chance")
    assert difference([0], [5]) == (5, 0, "no spread to judge by")
    assert mean_sd([3]) == (3, 0)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_chance_alone_is_taken_for_an_effect_once_in_twenty(n):
    rng = random.Random(n)
    verdicts = [difference([0] * n, [rng.gauss(0, 1) for _ in range(n)])[2] for _ in range(4000)]
    assert 0.035 < verdicts.count("larger than chance") / 4000 < 0.065  # 5 % ± 4 standard deviations


@pytest.mark.parametrize("n", T_95)
def test_a_limit_leaves_a_twentieth_of_students_distribution_outside(n):
    degrees = n - 1  # of freedom; the density at x is norm (1 + x² / degrees)^(-n / 2)
    norm = math.gamma(n / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    x = (np.arange(200_000) + 0.5) / 200_000 * T_95[n]  # the midpoints of short pieces from 0 to the limit
    inside = 2 * norm * ((1 + x**2 / degrees) ** (-n / 2)).mean() * T_95[n]
    assert inside == pytest.approx(0.95, abs=0.0005)


@pytest.fixture
def effects():
    """Rows of two seeds before a cleaning and after it, which takes a quarter of the training loss."""
    before = [
        {"train_loss": 0.5, "train_accuracy": 0.9, "test_loss": 0.2, "test_accuracy": 0.95},
        {"train_loss": 0.6, "train_accuracy": 0.8, "test_loss": 0.3, "test_accuracy": 0.97},
    ]
    before = [row | {"labelling": "imperfect"} for row in before]
    return before, [row | {"labelling": "cleaned", "train_loss": 0.75 * row["train_loss"]} for row in before]


def test_a_change_is_told_with_its_verdict(effects):
    loss = ("0.5500 ± 0.0707", "0.4125 ± 0.0530", "-0.1375 ± 0.0177", "within chance")
    assert chance.effect_texts("train_loss", *effects) == loss  # t = 11.0, and 12.71 is needed
    accuracy = ("85.00 ± 7.07", "85.00 ± 7.07", "+0.00 ± 0.00", "within chance")
    assert chance.effect_texts("train_accuracy", *effects) == accuracy
    effects[1][0]["train_accuracy"] -= 0.00001  # rounds to no change, which has no sign
    assert chance.effect_texts("train_accuracy", *effects)[2] == "+0.00 ± 0.00"


def test_the_table_names_both_and_the_summary_says_what_the_cleaning_changed(effects, capsys):
    chance.print_effect(*effects)
    header, loss, *_ = capsys.readouterr().out.splitlines()[1:]
    assert header.split()[-3:] == ["imperfect", "cleaned", "change"]
    assert loss.split("  ")[0] == "train loss"
    assert loss.endswith("-0.1375 ± 0.0177  within chance")
    chance.print_summary(*effects, 3, 60)
    first, accuracy, *_ = capsys.readouterr().out.splitlines()[1:]
    assert first == "Cleaning 3 of 60 images (5.00%) changed"
    assert accuracy == "  the test accuracy by +0.00 ± 0.00 points: within chance"


@pytest.mark.parametrize(
    ("change", "test", "train"), [(0.1, True, False), (-0.1, False, True), (0.001, False, False)]
)
def test_a_loss_that_changed_as_it_often_does_is_explained(effects, capsys, change, test, train):
    before, _ = effects
    noise = (0.02, -0.02)  # within which the third change is
    after = [
        row | {name: row[name] + change + more for name in ("test_loss", "train_loss")}
        for row, more in zip(before * 2, noise * 2, strict=True)
    ]
    chance.print_summary(before * 2, after, 3, 60)
    *_, of_test, of_train = capsys.readouterr().out.splitlines()
    assert of_test.endswith(" cost a surer network more)") == test
    assert of_train.endswith(" once images of great loss are gone)") == train


# ---------------------------------------------------------------- over classes


def test_wrong_labels_all_over_are_told_from_those_of_two_classes():
    labels = torch.arange(10).repeat(600)
    for classes, words, end in (
        (None, "no class stands out", "So nothing shows that the suspects concern some classes more than"),
        ({4, 9}, "some classes stand out", "So the suspects concern some classes far more than"),
    ):
        wrong, changed = mislabelled.make_wrong(labels, 10, 100, 3, classes)
        text = spread_over_classes(wrong, labels, changed, data.TEN_DIGITS)
        assert text.count(words) == 2
        assert text.endswith(f"{end} others.")
        pair, n = Counter(zip(wrong[changed].tolist(), labels[changed].tolist(), strict=True)).most_common(1)[
            0
        ]
        assert f"Label → prediction (if spread evenly): {pair[0]} → {pair[1]}: {n} (1.1)" in text
    for digit in (4, 9):
        n = (wrong[changed] == digit).sum()
        assert re.search(rf"\b{digit} has {n} \(\d+\.\d if spread evenly\)", text)


def test_a_class_that_few_suspects_can_have_forbids_the_test_and_one_that_none_can_have_does_not():
    values = torch.arange(2).repeat(50)
    rare, none = (torch.tensor([0.5 - each / 2, 0.5 - each / 2, each]) for each in (0.005, 0))
    assert chance.stand_out("labels", values, rare, 1, "abc")[0] is None
    assert chance.stand_out("labels", values, none, 1, "abc")[0] is False


def test_a_name_with_a_line_end_is_on_one_line():
    labels, predicted = torch.zeros(30).long(), torch.ones(30).long()
    text = spread_over_classes(labels, predicted, torch.arange(9), ("a\nb", "c\x1b"))
    assert "a\\nb → c\\x1b: 9" in text
    assert text.count("\n") == 3


def test_wrong_labels_of_one_true_class_are_seen_in_the_predictions():
    truth = torch.arange(10).repeat(600)
    changed = (truth == 4).nonzero().flatten()[:99]
    wrong = truth.clone()
    wrong[changed] = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 9]).repeat(11)
    text = spread_over_classes(wrong, truth, changed, data.TEN_DIGITS)
    assert "Among their predictions some classes stand out: 4 has 99 (9.9 if spread evenly)" in text
    assert text.endswith("So the suspects concern some classes far more than others.")


def test_even_is_measured_by_the_true_classes_sizes():
    truth = torch.tensor([0] * 500 + [1] * 300 + [2] * 200)
    changed = torch.arange(0, 1000, 5)  # 200 of them: 100, 60 and 40
    wrong = truth.clone()
    wrong[changed] = torch.tensor([1, 2] * 50 + [0, 2] * 30 + [0, 1] * 20)  # 50, 70 and 80 labels
    text = spread_over_classes(wrong, truth, changed, "abc")
    assert "labels no class stands out: 50 to 80 each (χ² test: p = 1)" in text
    assert "predictions no class stands out: 40 to 100 each (χ² test: p = 1)" in text
    assert "b → a: 50 (50.0), c → a: 50 (50.0), a → b: 30 (30.0)" in text
    wrong[changed[:100]] = 2
    text = spread_over_classes(wrong, truth, changed, "abc")
    assert text.startswith("Among their labels some classes stand out: c has 130 (80.0 if spread evenly)")
    assert spread_over_classes(wrong, truth, changed[::11], "abc").startswith("Too few suspects to tell")


def test_a_class_without_samples_can_still_be_a_wrong_label():
    truth = torch.tensor([0, 2] * 100)
    changed = torch.arange(100)
    wrong = truth.clone()
    wrong[changed] = torch.tensor([1, 1, 2, 0] * 25)  # b gets half of all, as it should
    text = spread_over_classes(wrong, truth, changed, "abc")
    assert "labels no class stands out: 25 to 50 each (χ² test: p = 1)" in text
    assert "predictions no class stands out: 50 to 50 each (χ² test: p = 1)" in text
    wrong[changed] = 2 - truth[changed]
    text = spread_over_classes(wrong, truth, changed, "abc")
    assert "stand out: a has 50 (25.0 if spread evenly), c has 50 (25.0 if spread evenly) (χ²" in text


def test_the_test_of_evenness_by_hand():
    truth = torch.arange(3).repeat(100)
    for counts, chi2 in (((20, 30, 40), 200 / 30), ((14, 30, 46), 512 / 30)):
        suspects = torch.cat([(truth == label).nonzero().flatten()[:n] for label, n in enumerate(counts)])
        of_labels, of_predictions = p_values(spread_over_classes(truth, truth, suspects, "abc"))
        # With two degrees of freedom p = exp(-χ² / 2). 90 of 300 are drawn, so the counts vary less.
        assert of_predictions == pytest.approx(math.exp(-chi2 / 2 / (210 / 299)), rel=0.05)
        assert of_labels == pytest.approx(math.exp(-chi2 / 2 / (1 - 89 / 299 / 4)), rel=0.05)


def test_of_two_classes_labels_and_predictions_tell_the_same():
    truth = torch.tensor([0] * 700 + [1] * 300)
    suspects = torch.cat([torch.arange(180), torch.arange(880, 1000)])  # 210 and 90 if spread evenly
    p, same = p_values(spread_over_classes(1 - truth, truth, suspects, "ab"))
    assert p == same == pytest.approx(math.erfc(30 / math.sqrt(2 * 300 * 0.7 * 0.3 * 700 / 999)), rel=0.05)


@pytest.mark.parametrize("n", [10, 1000])
def test_what_is_not_left_to_chance_is_no_excess(n):
    one, suspects = torch.zeros(1000, dtype=torch.int64), torch.arange(n)
    assert "p = 1)" in spread_over_classes(one + 1, one, suspects, "ab")  # all of one class
    truth = torch.arange(2).repeat(n // 2)
    assert p_values(spread_over_classes(1 - truth, truth, torch.arange(n), "ab")) == [1, 1]  # all suspects


def p_values(text):
    """Return the p-values in a text of `spread_over_classes`: [the labels', the predictions']."""
    return [float(p) for p in re.findall(r"p [=<] ([\d.e-]+)\)", text)]


@pytest.mark.parametrize("n_wrong", [150, 1500])
@pytest.mark.parametrize("sizes", [(300,) * 10, (1500, 900, 600)])
def test_p_values_of_labels_made_wrong_at_random_are_spread_evenly(sizes, n_wrong):
    """Suspects that are just the wrong labels: p < 0.005 comes up in 0.5 % of the sets, and so on."""
    truth = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    found, n_sets = [], 250
    for seed in range(n_sets):
        wrong, changed = mislabelled.make_wrong(truth, len(sizes), n_wrong, seed)
        found.append(p_values(spread_over_classes(wrong, truth, changed, data.TEN_DIGITS[: len(sizes)])))
    for of_one in zip(*found, strict=True):
        for share in (0.005, 0.1, 0.5):
            n, expected = sum(p < share for p in of_one), n_sets * share
            assert abs(n - expected) < 4 * math.sqrt(expected * (1 - share)), (share, n)


def test_many_suspects_do_not_make_a_small_excess_stand_out():
    labels = torch.arange(2).repeat(30000)
    suspects = torch.cat([(labels == label).nonzero().flatten()[:n] for label, n in enumerate((5400, 6600))])
    text = spread_over_classes(labels, labels, suspects, "ab")  # 10 % more than 6,000, and p = 2e-34
    assert text.startswith("Among their labels no class stands out: 5400 to 6600 each (χ² test: p = 1.7e-34)")


def test_even_labels_are_called_uneven_by_chance_at_most_once_in_a_hundred():
    labels = torch.arange(10).repeat(60)
    texts = [
        spread_over_classes(labels, labels, randomness.random_order(600, seed)[:100], data.TEN_DIGITS)
        for seed in range(300)
    ]
    assert sum("stand out" in text for text in texts) <= 9
