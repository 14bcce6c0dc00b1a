"""Labels that are made wrong, so many and no others, and the true ones found again by the pixels."""

from dataclasses import replace

from support import mislabelled, randomness
from support.console import UserError
from support.mislabelled import true_labels

import pytest
import torch
from conftest import stripes
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("seed", range(4))
def test_wrong_labels_are_not_those_that_a_training_sees_first(seed):
    _, chosen = mislabelled.make_wrong(torch.arange(3000) % 10, 10, 100, seed)
    for epoch in range(3):
        first = randomness.random_order(3000, seed, epoch)[:100]
        assert len(set(first.tolist()) & set(chosen.tolist())) < 20  # by chance 3


@given(st.data(), st.integers(2, 6), st.integers(0, 99))
def test_exactly_so_many_labels_become_wrong_and_only_among_the_classes(content, n_classes, seed):
    labels = torch.tensor(content.draw(st.lists(st.integers(0, n_classes - 1), min_size=1, max_size=40)))
    classes = content.draw(st.none() | st.sets(st.integers(0, n_classes - 1), min_size=2))
    among = classes or set(range(n_classes))
    n_candidates = sum(label in among for label in labels.tolist())
    count = content.draw(st.integers(0, n_candidates))
    wrong, changed = mislabelled.make_wrong(labels, n_classes, count, seed, classes)
    assert (wrong != labels).nonzero().flatten().tolist() == changed.tolist()
    assert len(changed) == count
    assert {*labels[changed].tolist(), *wrong[changed].tolist()} <= among
    assert torch.equal(wrong, mislabelled.make_wrong(labels, n_classes, count, seed, classes)[0])
    with pytest.raises(UserError, match="cannot be made wrong"):
        mislabelled.make_wrong(labels, n_classes, n_candidates + 1, seed, classes)


def test_a_wrong_label_is_any_other_class_alike():
    labels = torch.arange(4).repeat(3000)
    wrong, _ = mislabelled.make_wrong(labels, 4, 12000, 0)
    counts = torch.bincount(labels * 4 + wrong, minlength=16).view(4, 4)
    assert counts.diagonal().sum() == 0
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 1000).abs().max() < 150  # six standard deviations


def test_every_label_may_become_wrong_and_the_seed_decides_which():
    labels = torch.zeros(50, dtype=torch.int64)
    chosen = [tuple(mislabelled.make_wrong(labels, 3, 5, seed)[1].tolist()) for seed in range(100)]
    assert {index for each in chosen for index in each} == set(range(50))
    assert len(set(chosen)) == 100


def test_mislabel_moves_files_and_changes_none(folder, tmp_path):
    mislabelled.mislabel(str(folder), tmp_path / "wrong", count=5, seed=1)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
    after = {path.relative_to(tmp_path / "wrong"): path.read_bytes() for path in tmp_path.glob("wrong/*/*/*")}
    moved = before.keys() - after.keys()
    assert len(moved) == 5
    assert len(after) == len(before)
    for path in moved:
        (new,) = (other for other in after.keys() - before.keys() if other.name == path.name)
        assert path.parent != new.parent
        assert path.parts[0] == new.parts[0] == "train"
        assert after[new] == before[path]
    mislabelled.mislabel(str(folder), tmp_path / "again", count=5, seed=1)
    assert {path.relative_to(tmp_path / "again") for path in tmp_path.glob("again/*/*/*")} == after.keys()


def test_only_the_named_classes_are_mislabelled(folder, tmp_path):
    mislabelled.mislabel(str(folder), tmp_path / "wrong", count=9, classes=["row0", "row4"])
    kept = {path.relative_to(folder) for path in folder.glob("*/row2/*")}
    assert {path.relative_to(tmp_path / "wrong") for path in tmp_path.glob("wrong/*/row2/*")} == kept
    with pytest.raises(UserError, match="has no class row3; it has row0, row2, row4"):
        mislabelled.mislabel(str(folder), tmp_path / "other", classes=["row0", "row3"])
    with pytest.raises(UserError, match="99 labels cannot be made wrong: 24 images are in 3 classes"):
        mislabelled.mislabel(str(folder), tmp_path / "other", count=99)
    assert not (tmp_path / "other").exists()


def test_mislabel_leaves_every_class_an_image(folder, tmp_path, monkeypatch):
    def all_of_the_first(labels, *_):
        return labels.clamp(min=1), (labels == 0).nonzero().flatten()

    monkeypatch.setattr(mislabelled, "make_wrong", all_of_the_first)
    with pytest.raises(UserError, match="no image of the class row0 would be left"):
        mislabelled.mislabel(str(folder), tmp_path / "other")


def test_true_labels_are_found_by_the_pixels():
    clean = stripes(30)
    order = randomness.random_order(30, 4)
    imperfect = replace(clean.subset(order), labels=(clean.labels[order] + 1) % 3)
    assert torch.equal(true_labels(imperfect, clean), clean.labels[order])
    assert true_labels(stripes(30, seed=9), clean).tolist() == [-1] * 30
    renamed = replace(clean, classes=clean.classes[::-1])
    assert torch.equal(true_labels(imperfect, renamed), 2 - clean.labels[order])
    foreign = replace(clean, classes=("row0", "row2", "another"))  # a class that the imperfect data lack
    assert true_labels(clean, foreign).tolist() == [0, 1, -1] * 10


def test_of_a_picture_in_two_classes_either_label_is_right():
    clean = stripes(6)
    images = clean.images.clone()
    images[1] = images[0]  # of the classes 0 and 1
    clean = replace(clean, images=images)
    assert torch.equal(true_labels(clean, clean), clean.labels)
    assert true_labels(replace(clean, labels=clean.labels * 0 + 2), clean).tolist()[:3] == [0, 0, 2]


pictures = st.lists(st.integers(0, 3), min_size=1, max_size=8)  # the brightness of each image, all its pixels


@given(pictures, st.data())
def test_of_copies_only_those_with_the_better_label_are_not_contradicted(shades, content):
    images = torch.tensor(shades, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    labels = torch.tensor(
        content.draw(st.lists(st.integers(0, 2), min_size=len(shades), max_size=len(shades)))
    )
    losses = torch.tensor(content.draw(st.permutations(range(len(shades)))), dtype=torch.float)
    contradicted = mislabelled.contradicted_copies(images, labels, losses)
    for index, shade in enumerate(shades):
        copies = [other for other, its in enumerate(shades) if its == shade]
        best = min(copies, key=losses.__getitem__)
        assert contradicted[index] == (labels[index] != labels[best])


def test_classes_are_uneven_from_more_than_three_times_as_many_images_on():
    assert not mislabelled.are_uneven([9, 3])
    assert mislabelled.are_uneven([10, 3])


def noted(train, test, capsys):
    mislabelled.note_contents(train, test)
    return capsys.readouterr().out


def test_what_a_person_should_know_of_the_data_is_said(capsys):
    train, test = stripes(30), stripes(9, seed=1)
    assert noted(train, test, capsys) == ""
    images, labels = test.images.clone(), train.labels.clone()
    images[4:6] = train.images[7]
    leaked = replace(test, images=images)
    line = "Note: copies of training images are among the test images, which flatters the accuracy: "
    assert noted(train, leaked, capsys) == f"{line}2, such as train/00004 = train/00007\n"
    uneven = train.subset(torch.cat([torch.arange(0, 30, 3), torch.tensor([1, 4, 7, 2, 5, 8, 11])]))
    line = "Note: the classes differ in size: 10 of row0 and 3 of row2 among the training images\n"
    assert noted(uneven, test, capsys) == line
    images = train.images.clone()
    images[9] = images[0]  # of the same class
    assert noted(replace(train, images=images), test, capsys) == ""
    labels[9] = 1
    line = "Note: copies of an image are in several classes, of which at most one is right: 1, such as "
    twice = replace(train, images=images, labels=labels)
    assert noted(twice, test, capsys) == f"{line}train/00000 = train/00009\n"
