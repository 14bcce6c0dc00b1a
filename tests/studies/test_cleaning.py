"""The study of cleaning: what is changed, what is trained on, what an interruption leaves, what it says."""

from functools import partial

from support.console import UserError
from support.files import read_csv, replace_rows, write_csv
from support.settings import Settings

import pytest
import torch
from conftest import stripes

from studies import cleaning, suspect_rankings

NETWORK = {"n_blocks": 1, "n_features_1": 8, "n_features_2": 8, "batch_size": 64, "precision": "fp32"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The study on small images and networks in an empty folder; returns what networks were trained on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cleaning, "load", lambda source: (stripes(400), stripes(90, seed=1)))
    monkeypatch.setattr(cleaning, "Settings", partial(Settings, **NETWORK))
    learnt = []

    def fitted(data, settings, task, fitted=cleaning.fitted):
        learnt.append((len(data), settings.seed, data.labels))
        return fitted(data, settings, task)

    for study in (cleaning, suspect_rankings):
        monkeypatch.setattr(study, "fitted", fitted)
    return learnt


def test_suspects_are_removed_or_relabelled_and_each_set_is_done_once(small, capsys):
    command = ["--data", "x", "--sizes", "300", "--percents", "10", "--sets", "5", "6"]
    cleaning.main(command[:-1])
    assert len(small) == 6
    cleaning.main([*command[:-2], "6"])
    rows = read_csv("results/cleaning.csv")  # those of set 5 stay
    assert [row["labels"] for row in rows] == ["none wrong", "wrong", "removed", "relabelled"] * 2
    for none, wrong, removed, relabelled in (rows[:4], rows[4:]):
        assert (none["wrong after"], wrong["wrong after"], wrong["changed"]) == ("0", "30", "0")
        n = int(removed["changed"])
        assert 5 <= n <= 45
        assert relabelled["changed"] == removed["changed"]
        assert 30 - n <= int(removed["wrong after"]) < 25
        assert 30 - n <= int(relabelled["wrong after"]) < 25
    first, second = small[:6], small[6:]  # three networks find the suspects, and one of them is compared with
    for number, trained in ((5, first), (6, second)):
        sizes = [n for n, *_ in trained]
        n_removed = int(rows[2 if number == 5 else 6]["changed"])
        assert sizes == [300, 300, 300, 300, 300 - n_removed, 300]
        assert [seed for _, seed, _ in trained] == [1000 + 3 * number + run for run in (0, 1, 2, 0, 0, 0)]
        assert (trained[5][2] != trained[0][2]).sum() == n_removed  # relabelled
    assert not torch.equal(first[3][2], second[3][2])  # a set is another part of the images
    capsys.readouterr()
    cleaning.main(command)
    assert len(small) == 12  # from the table
    assert read_csv("results/cleaning.csv") == rows
    said = capsys.readouterr().out
    assert "x, 300 images, 10 % of the labels wrong, 2 sets" in said
    assert "wrong → removed: " in said

    write_csv("results/cleaning.csv", [*rows[:7], rows[7] | {"test loss": "0,5"}])  # a person edited it
    with pytest.raises(UserError, match="a line has no number where one is needed"):
        cleaning.main(command)
    assert len(small) == 12
    write_csv("results/cleaning.csv", [*rows[:7], rows[6]])
    cleaning.main(command)
    assert len(small) == 18
    assert read_csv("results/cleaning.csv") == rows


def test_with_epochs_all_four_networks_learn_for_so_long_and_without_moved_images(small, monkeypatch):
    trained = []
    fitted = cleaning.fitted

    def record(data, settings, task):
        trained.append((settings.epochs, settings.augment, settings.seed))
        return fitted(data, settings, task)

    monkeypatch.setattr(cleaning, "fitted", record)
    command = ["--data", "x", "--sizes", "300", "--percents", "10", "--sets", "5"]
    cleaning.main(command)
    short = trained.copy()
    cleaning.main([*command, "--epochs", "3"])
    assert len(short) == 3
    assert all(augment for _, augment, _ in short)
    assert trained[3:] == [(3, False, 1015)] * 4
    rows = read_csv("results/cleaning.csv")
    assert [row["epochs"] for row in rows] == ["as diagnose.py"] * 4 + ["3"] * 4
    assert [row["changed"] for row in rows[:4]] == [row["changed"] for row in rows[4:]]


def test_what_another_process_wrote_meanwhile_stays(small, monkeypatch):
    measure = cleaning.measure

    def beside_another(*given):
        other = dict.fromkeys(cleaning.COLUMNS, "other")
        replace_rows("results/cleaning.csv", [other], cleaning.KEY)
        return measure(*given)

    monkeypatch.setattr(cleaning, "measure", beside_another)
    monkeypatch.setattr(cleaning, "summarise", lambda rows: None)
    cleaning.main(["--data", "x", "--sizes", "60", "--percents", "10", "--sets", "5"])
    assert [row["data"] for row in read_csv("results/cleaning.csv")] == ["other", *4 * ["x"]]


def test_more_images_than_there_are_are_refused(small):
    with pytest.raises(UserError, match="--sizes 401: x has only 400 images"):
        cleaning.main(["--data", "x", "--sizes", "300", "401"])
    with pytest.raises(UserError, match="--percents 100: less than 100 can be wrong"):
        cleaning.main(["--data", "x", "--percents", "5", "100"])
    assert small == []
