"""Diagnoses of ever more wrong labels: their order, the table, pairs of seeds, which tables are refused."""

from pathlib import Path

from support.chance import MEASURES
from support.console import UserError
from support.files import read_csv, write_csv

import pytest
from PIL import Image

from studies import wrong_label_shares


def effect_rows(n_wrong, n_found, accuracies):
    """Return effect.csv's rows for 1,000 images; `accuracies` has two seeds' for each of the three labels."""
    counts = {
        "clean": (1000, 0),
        "imperfect": (1000, n_wrong),
        "cleaned": (1000 - n_wrong, n_wrong - n_found),
    }
    rows = []
    for (labels, (n_images, wrong)), pair in zip(counts.items(), accuracies, strict=True):
        for seed, accuracy in enumerate(pair):
            row = {"labelling": labels, "seed": seed, "n_images": n_images, "n_wrong": wrong}
            rows.append(row | dict.fromkeys(MEASURES, 0.1) | {"test_accuracy": accuracy})
    return rows


def test_diagnoses_stand_in_the_order_of_their_shares_of_wrong_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv("many.csv", effect_rows(100, 80, [(0.9, 0.9), (0.5, 0.7), (0.8, 0.9)]))
    write_csv("few.csv", effect_rows(10, 9, [(0.9, 0.9), (0.9, 0.9), (0.9, 0.9)]))
    wrong_label_shares.main(["many.csv", "few.csv", "--picture", "effect.png", "--csv", "table.csv"])
    few, many = read_csv("table.csv")
    assert (few["wrong_percent"], few["n_removed"], few["n_found"]) == ("1.0", "10", "9")
    assert (many["wrong_percent"], many["n_removed"], many["n_found"]) == ("10.0", "100", "80")
    assert float(many["test_accuracy_imperfect"]) == 60
    assert float(many["test_accuracy_imperfect_sd"]) == pytest.approx(14.1421, abs=1e-4)  # 20 / √2
    assert float(many["test_accuracy_change"]) == 25
    assert many["test_accuracy_verdict"] == "within chance"  # t = 5, and 12.71 is needed
    Image.open("effect.png").verify()


def test_the_printed_table_has_a_line_for_accuracy_and_one_for_loss(tmp_path, capsys):
    write_csv(tmp_path / "effect.csv", effect_rows(100, 80, [(0.9, 0.9), (0.5, 0.7), (0.8, 0.9)]))
    (diagnosis,) = wrong_label_shares.read_effects([tmp_path / "effect.csv"])
    wrong_label_shares.print_diagnoses([wrong_label_shares.summary(diagnosis)])
    _, accuracy, loss = capsys.readouterr().out.splitlines()
    assert accuracy.split()[:3] == ["10.00%", "100", "80"]
    assert "60.00 ± 14.14" in accuracy
    assert loss.count("0.1000 ± 0.0000") == 3


def test_one_table_may_hold_several_diagnoses(tmp_path):
    rows = [row | {"command": "a"} for row in effect_rows(10, 9, [(0.9, 0.9)] * 3)]
    rows += [row | {"command": "b"} for row in effect_rows(50, 9, [(0.9, 0.9)] * 3)]
    write_csv(tmp_path / "both.csv", rows)
    assert [run["share"] for run in wrong_label_shares.read_effects([tmp_path / "both.csv"])] == [1, 5]


def test_seeds_are_paired_whatever_their_order(tmp_path):
    rows = effect_rows(10, 9, [(0.9, 0.9), (0.2, 0.6), (0.3, 0.8)])
    write_csv(tmp_path / "a.csv", [*rows[:4], rows[5], rows[4]])
    (diagnosis,) = wrong_label_shares.read_effects([tmp_path / "a.csv", tmp_path / "a.csv"])
    row = wrong_label_shares.summary(diagnosis)
    assert row["test_accuracy_change_sd"] == pytest.approx(7.0711, abs=1e-4)  # of 10 and 20


def test_a_table_that_is_read_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv("in.csv", effect_rows(10, 9, [(0.9, 0.9)] * 3))
    before = Path("in.csv").read_bytes()
    for flags in (["--csv", "in.csv"], ["--csv", str(tmp_path / "in.csv")], ["--picture", "in.csv"]):
        with pytest.raises(UserError, match=r"in\.csv: is"):
            wrong_label_shares.main(["in.csv", *flags])
    assert Path("in.csv").read_bytes() == before
    Path("empty.csv").touch()
    with pytest.raises(UserError, match=r"empty\.csv: is no file with rows"):
        wrong_label_shares.main(["empty.csv"])


def test_diagnoses_of_other_data_are_not_mixed(tmp_path):
    rows = effect_rows(10, 9, [(0.9, 0.9)] * 3)
    write_csv(tmp_path / "a.csv", rows)
    write_csv(tmp_path / "b.csv", [row | {"n_images": 2 * row["n_images"]} for row in rows])
    with pytest.raises(UserError, match="different data, of 1,000 and 2,000 training images"):
        wrong_label_shares.read_effects([tmp_path / "a.csv", tmp_path / "b.csv"])


@pytest.mark.parametrize(
    "change",
    [{"n_wrong": ""}, {"n_wrong": 0}, {"test_loss": "low"}, {"seed": 1}, {"labelling": "other"}],
)
def test_what_is_no_effect_csv_is_named(tmp_path, change):
    write_csv(tmp_path / "effect.csv", [row | change for row in effect_rows(10, 9, [(0.9, 0.9)] * 3)])
    with pytest.raises(UserError, match=r"effect\.csv: (is no|needs|has no)"):
        wrong_label_shares.read_effects([tmp_path / "effect.csv"])


@pytest.mark.parametrize("column", ["labelling", "seed", "n_images", "n_wrong", *MEASURES])
def test_a_table_without_a_column_is_named(tmp_path, column):
    rows = effect_rows(10, 9, [(0.9, 0.9)] * 3)
    write_csv(tmp_path / "effect.csv", [{name: row[name] for name in row if name != column} for row in rows])
    with pytest.raises(UserError, match=r"effect\.csv: is no effect\.csv of this version"):
        wrong_label_shares.read_effects([tmp_path / "effect.csv"])


def test_all_three_labels_need_the_same_seeds(tmp_path):
    rows = effect_rows(10, 9, [(0.9, 0.9)] * 3)
    for others in (rows[:5], rows[:4], [*rows[:5], rows[5] | {"seed": 7}]):
        write_csv(tmp_path / "effect.csv", others)
        with pytest.raises(UserError, match="the same seeds"):
            wrong_label_shares.read_effects([tmp_path / "effect.csv"])
