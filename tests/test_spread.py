"""Which classes are affected: against planted wrong labels, cases by hand, and chance itself."""

import re
from collections import Counter

import torch

import data
from spread import spread_over_classes


def test_wrong_labels_all_over_are_told_from_those_of_two_classes():
    labels = torch.arange(10).repeat(600)
    for classes, words, end in (
        (None, "no class stands out", "all classes about alike"),
        ({4, 9}, "some classes stand out", "some classes far more than others"),
    ):
        wrong, changed = data.wrong_labels(labels, 10, 100, 3, classes)
        text = spread_over_classes(wrong, labels, changed, data.TEN_DIGITS)
        assert text.count(words) == 2
        assert text.endswith(f"The wrong labels affect {end}, as far as 100 suspects can tell.")
        pair, n = Counter(zip(wrong[changed].tolist(), labels[changed].tolist(), strict=True)).most_common(1)[
            0
        ]
        assert f"Label → prediction: {pair[0]} → {pair[1]}: {n}" in text
    for digit in (4, 9):
        n = (wrong[changed] == digit).sum()
        assert re.search(rf"\b{digit} has {n} \(\d+\.\d if spread evenly\)", text)
    assert "1.1 each if spread evenly" in text  # 100 suspects, 90 pairs


def test_wrong_labels_of_one_true_class_are_seen_in_the_predictions():
    truth = torch.arange(10).repeat(600)
    changed = (truth == 4).nonzero().flatten()[:99]
    wrong = truth.clone()
    wrong[changed] = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 9]).repeat(11)
    text = spread_over_classes(wrong, truth, changed, data.TEN_DIGITS)
    assert "Among their predictions some classes stand out: 4 has 99 (9.9 if spread evenly)" in text
    assert text.endswith("some classes far more than others, as far as 99 suspects can tell.")


def test_even_is_measured_by_the_classes_sizes():
    labels = torch.tensor([0] * 900 + [1] * 100)
    suspects = torch.arange(10, 1000, 10)  # 89 and 10 of them
    assert "Among their labels no class" in spread_over_classes(labels, labels, suspects, "ab")
    text = spread_over_classes(labels, 1 - labels, torch.arange(850, 950), "ab")
    assert text.startswith("Among their labels some classes stand out: b has 50 (10.0 if spread evenly)")
    assert spread_over_classes(labels, labels, suspects[-20:], "ab").startswith("Too few suspects to tell")


def test_a_class_without_samples_moves_no_other_ones_count():
    labels = torch.tensor([0, 2] * 100)
    text = spread_over_classes(labels, 2 - labels, (labels == 2).nonzero().flatten(), "abc")
    assert text.startswith("Among their labels some classes stand out: c has 100 (50.0 if spread evenly) (")
    assert "Label → prediction: c → a: 100;" in text


def test_the_test_of_evenness_by_hand():
    labels = torch.arange(3).repeat(100)
    suspects = torch.cat([(labels == label).nonzero().flatten()[:n] for label, n in enumerate((20, 30, 40))])
    # χ² = (10² + 0² + 10²) / 30, and with two degrees of freedom p = exp(-χ² / 2) = 0.0357
    assert "(χ² test: p = 0.036)" in spread_over_classes(labels, labels, suspects, "abc")
    suspects = torch.cat([(labels == label).nonzero().flatten()[:n] for label, n in enumerate((14, 30, 46))])
    assert "(χ² test: p = 0.0002)" in spread_over_classes(labels, labels, suspects, "abc")  # exp(-256 / 30)


def test_many_suspects_do_not_make_a_small_excess_stand_out():
    labels = torch.arange(2).repeat(30000)
    suspects = torch.cat([(labels == label).nonzero().flatten()[:n] for label, n in enumerate((5400, 6600))])
    text = spread_over_classes(labels, labels, suspects, "ab")  # 10 % more than 6,000, and p = 6e-28
    assert text.startswith("Among their labels no class stands out: 5400 to 6600 each (χ² test: p = 6")


def test_even_labels_are_called_uneven_by_chance_at_most_once_in_a_hundred():
    labels = torch.arange(10).repeat(60)
    texts = [
        spread_over_classes(labels, labels, data.random_order(600, seed)[:100], data.TEN_DIGITS)
        for seed in range(300)
    ]
    assert sum("stand out" in text for text in texts) <= 9
