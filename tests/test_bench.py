"""The benchmark: every part runs and measures something; no timing decides a test."""

import csv
import json
import sys
from pathlib import Path

import pytest
from conftest import small_settings

import bench
from runs import UserError


@pytest.mark.parametrize(
    "part",
    [
        lambda: bench.ours(300),
        lambda: bench.ours(200, image_size=14),
        lambda: bench.plain(n_images=100),
        lambda: bench.plain("bf16", n_images=100),
        lambda: bench.limit()["limit"],
        lambda: bench.limit()["matrix product"],
        lambda: bench.reading(30),
        lambda: bench.memory(600),
    ],
)
def test_parts_measure_something_and_print_nothing(part, capsys):
    assert part() > 0
    assert capsys.readouterr().out == ""  # a line of progress would spoil the JSON


def test_the_table_compares_medians_and_the_files_hold_them(tmp_path, monkeypatch, capsys):
    limit = {"limit": 100, "matrix product": 0.5}
    others = [limit, 60000, {"a": 1, "b": 2}, {"c": 3}]
    rates = iter([10, 4, 8, *others, 30, 5, 8, *others, 20, 6, 8, *others, 500])
    monkeypatch.setattr(bench, "measured", lambda part: next(rates))
    monkeypatch.setattr(bench, "complete", lambda settings: small_settings(precision="bf16"))
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    monkeypatch.chdir(tmp_path)
    bench.main()
    out = capsys.readouterr().out
    assert "ours                    20 images/s  (10 to 30)" in out
    # The medians of each round's ratio: of 10 / 4, 30 / 5 and 20 / 6, of 10 / 8, …
    assert "3.33 × the plain loop in fp32, 2.50 × the plain loop in bf16, and 20% of the limit" in out
    assert "60,000 PNGs are read in 1.0 s" in out
    rows = list(csv.DictReader(Path("results/bench.csv").read_text().splitlines()))
    assert [(row["measure"], row["median"]) for row in rows][:2] == [("ours", "20"), ("plain", "5")]
    assert {row["threads"] for row in rows} == {"2"}


def test_json_is_only_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "measured", lambda part: 5)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--json"])
    monkeypatch.chdir(tmp_path)
    bench.main()
    assert {row["median"] for row in json.loads(capsys.readouterr().out)} == {5, 1}  # 1 is a ratio


def test_a_part_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "bench.py").write_text("raise SystemExit('the reason')")
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "bench.py"))
    with pytest.raises(UserError, match="measuring ours failed: the reason"):
        bench.measured("ours")
