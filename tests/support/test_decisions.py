"""top_losses.csv: what is written is read, what a spreadsheet makes of it too, faults have a line."""

import csv
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

from support.console import UserError
from support.decisions import DECIDED, check_left, decide, read_decisions, suspects_of, write_ranking

import pytest
import torch
from conftest import stripes
from hypothesis import given
from hypothesis import strategies as st

from diagnose import Ranking

DATA = stripes(9)
EACH = torch.arange(3)  # an image of each class
PROBABILITIES = torch.full((9, 3), 0.25) + 0.25 * torch.eye(3)[[1, 2, 0] * 3]  # never the label


def ranking_of(half):
    numbers = torch.arange(float(len(half)))
    return Ranking(numbers.long(), numbers, numbers, PROBABILITIES[: len(half)], (0, 0))


def written(folder, kept, labels):
    path = Path(folder, "top_losses.csv")
    order, losses = torch.arange(8, -1, -1), torch.arange(9.0)
    write_ranking(path, DATA, Ranking(order, losses - 3.5, losses, PROBABILITIES, 0), kept, labels)
    return path


choices = st.lists(st.sampled_from(["keep", "remove", 0, 1, 2]), min_size=9, max_size=9)


def keeps_all_classes(decisions):
    labels = [index % 3 if what == "keep" else what for index, what in enumerate(decisions)]
    return {0, 1, 2} <= set(labels)


@given(choices.filter(keeps_all_classes))
def test_decisions_are_read_back(decisions):
    kept = torch.tensor([what != "remove" for what in decisions])
    labels = DATA.labels.clone()
    for index, what in enumerate(decisions):
        if isinstance(what, int):
            labels[index] = what
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, kept, labels)
        read_kept, read_labels = read_decisions(path, DATA)[0]
        rows = list(csv.DictReader(path.read_text().splitlines()))
    assert torch.equal(read_kept, kept)
    assert torch.equal(read_labels, labels)
    assert [row["id"] for row in rows] == [f"train/{index:05}" for index in range(8, -1, -1)]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 10)]
    for row in rows:
        index = int(row["id"][-5:])
        assert row["given"] == DATA.classes[DATA.labels[index]]
        assert (float(row["loss"]), float(row["score"])) == (index, index - 3.5)
        assert [float(row[f"p({name})"]) for name in DATA.classes] == PROBABILITIES[index].tolist()
        if decisions[index] in ("keep", "remove"):
            assert row["action"] == decisions[index]
            assert row["predicted"] == DATA.classes[(DATA.labels[index] + 1) % 3]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_a_spreadsheet_writes_is_read(tmp_path, delimiter):
    path = tmp_path / "edited.csv"
    lines = [["action", "p(tench, Tinca, x;y)", "predicted", "id"]]
    lines += [[" Remove ", "one\nnote\u2028more", "row2", "train/00003"]]
    lines += [["RELABEL", "a 4, really", "row4", "train/00000"]]
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        empty = [""] * len(lines[0])
        csv.writer(file, delimiter=delimiter, lineterminator="\r\n").writerows([*lines, empty])
    kept, labels = read_decisions(path, DATA)[0]
    assert kept.tolist() == [index != 3 for index in range(9)]
    assert labels.tolist() == [2, *DATA.labels[1:].tolist()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/99999,keep,row0", r"line 3: train/99999 is not among the images"),
        ("train/00001,keep,row0", r"line 3: train/00001 is twice in this file"),
        ("train/00002,burn,row0", r"line 3: the action is 'burn'; it must be one of remove, keep, relabel"),
        ("train/00002,,row0", r"line 3: the action is ''"),
        ("train/00002", r"line 3: the action is ''"),
        ("train/00002,relabel,row9", r"line 3: there is no class 'row9' to relabel to"),
        ("train/00003,relabel,row0", r"line 3: train/00003 is labelled row0 already; put the right class"),
        ("train/00002,relabel", r"line 3: there is no class None to relabel to"),
    ],
)
def test_each_faulty_line_is_named(tmp_path, line, message):
    path = tmp_path / "edited.csv"
    path.write_text(f"id,action,predicted\ntrain/00001,keep,row0\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_decisions(path, DATA)[0]


def test_something_of_every_class_must_be_kept(tmp_path):
    decided = read_decisions(written(tmp_path, DATA.labels != 1, DATA.labels), DATA, DATA.subset(EACH))
    with pytest.raises(UserError, match=r"mine\.csv: leaves no image of the class row2"):
        check_left((DATA, DATA.subset(EACH)), decided, "mine.csv")


def test_a_stray_quote_swallows_no_line(tmp_path):
    path = tmp_path / "edited.csv"
    for stray in ('train/00001,keep,"row0\ntrain/00002,remove,row0\n', 'train/00001,keep,"row0"x\n'):
        path.write_text(f"id,action,predicted\n{stray}")
        with pytest.raises(UserError, match=r"edited\.csv, line \d: is no line of a table"):
            read_decisions(path, DATA)[0]


@pytest.mark.parametrize("classes", [("=1+1", "\udcff", "-2"), ("'", "a\nb", "\x1b[2J"), ("@", "'@", "''@")])
def test_names_that_are_no_text_or_a_formula_are_kept(tmp_path, classes):
    odd = replace(DATA, ids=("train/\udcff.png", "=1", "'=1", *DATA.ids[3:]), classes=classes)
    order, kept, labels = torch.arange(9), torch.arange(9) > 0, odd.labels.roll(1)
    labels[0] = odd.labels[0]
    path = tmp_path / "top_losses.csv"
    ranking = Ranking(order, torch.zeros(9), torch.zeros(9), PROBABILITIES, 0)
    write_ranking(path, odd, ranking, kept, labels)
    read_kept, read_labels = read_decisions(path, odd)[0]
    assert torch.equal(read_kept, kept)
    assert torch.equal(read_labels, labels)


def test_of_a_large_file_a_line_is_in_memory_at_a_time(tmp_path):
    n_images, n_classes = 300, 300
    large = replace(stripes(n_images), classes=tuple(f"class {label}" for label in range(n_classes)))
    numbers, kept = torch.zeros(n_images), torch.arange(n_images) > 9
    ranking = Ranking(torch.arange(n_images), numbers, numbers, torch.eye(n_images)[:, :n_classes], 0)
    path = tmp_path / "top_losses.csv"
    tracemalloc.start()
    try:
        write_ranking(path, large, ranking, kept, large.labels)
        assert read_decisions(path, large)[0][0].tolist() == kept.tolist()
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size  # as many bytes as the file has
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"id,rank\n", b"\xff\xfe\x00", None])
def test_a_file_that_is_no_decisions_is_named(tmp_path, content):
    path = tmp_path / "other.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.csv: (needs the columns|is not there)"):
        read_decisions(path, DATA)[0]


@pytest.mark.parametrize(
    ("prefix", "n_train", "left"),
    [("", 9, True), ("test/", 9, False), ("row0/", 9, False), ("", 5, True), ("", 4, False)],
)
def test_the_only_test_image_of_a_class_may_go_where_another_takes_its_place(tmp_path, prefix, n_train, left):
    ids = [f"{prefix}row{2 * (index % 3)}/{index}.png" for index in range(n_train)]  # of 4, row2 has one
    train = replace(stripes(n_train), ids=tuple(ids))
    prefix = "test/" if prefix else ""  # the training images are in test/, or in a folder named as a class
    test = replace(train.subset(EACH), ids=tuple(f"{prefix}row{2 * i}/t.png" for i in range(3)))
    (tmp_path / "mine.csv").write_text(f"id,action,predicted\n{prefix}row2/t.png,remove,\n")
    (tmp_path / DECIDED).write_bytes((tmp_path / "mine.csv").read_bytes())
    rankings = [ranking_of(half) for half in (train, test)]
    if left:
        decided = decide((train, test), rankings, 100, "mine.csv", tmp_path)
        assert decided[1][0].tolist() == [True, False, True]
    else:
        with pytest.raises(UserError, match="leaves no image of the class row2 in its half"):
            decide((train, test), rankings, 100, "mine.csv", tmp_path)


@pytest.mark.parametrize(
    ("n_wrong", "n_remove", "n_removed"),
    [((1, 3), "auto", 3), ((8, 8), "auto", 6), ((0, 0), "auto", 0), (None, "auto", 0), ((0, 0), 2, 2)],
)
def test_with_auto_as_many_are_removed_as_look_wrong_if_the_networks_contradict_them(
    tmp_path, n_wrong, n_remove, n_removed
):
    probabilities = PROBABILITIES.clone()
    probabilities[[1, 3, 8]] = torch.eye(3)[DATA.labels[[1, 3, 8]]]  # one of each class agrees
    numbers = torch.arange(9.0)
    ranking = Ranking(torch.arange(9), numbers, numbers, probabilities, n_wrong)
    of_test = ranking._replace(n_wrong=(5, 5))
    decided = decide((DATA, DATA), (ranking, of_test), n_remove, None, tmp_path)
    (kept, labels), (test_kept, _) = decided
    assert (~kept).nonzero().flatten().tolist() == [0, 2, 4, 5, 6, 7][:n_removed]
    assert torch.equal(labels, DATA.labels)
    assert test_kept.all()


def test_a_sample_of_each_class_stays():
    order = torch.arange(9)
    ranking = Ranking(order, order.float(), order.float(), PROBABILITIES, (9, 9))  # all are contradicted
    assert suspects_of(DATA, ranking, "auto").tolist() == [0, 1, 2, 3, 4, 5]
    assert suspects_of(DATA, ranking, 8).tolist() == [0, 1, 2, 3, 4, 5]


def test_what_a_person_edited_is_not_written_again_where_another_file_is_missing(tmp_path):
    order = torch.arange(9)
    ranking = Ranking(order, order.float(), order.float(), PROBABILITIES, (0, 0))
    decide((DATA, DATA), (ranking, ranking), 2, None, tmp_path)
    edited = tmp_path / "top_losses.csv"
    edited.write_text(edited.read_text().replace("remove", "keep"))
    (tmp_path / "top_losses_test.csv").unlink()
    (kept, _), _ = decide((DATA, DATA), (ranking, ranking), 2, None, tmp_path)
    assert kept.all()
    assert (tmp_path / "top_losses_test.csv").exists()
