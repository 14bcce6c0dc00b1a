"""The benchmark: every part runs and measures something; no timing decides a test."""

import csv
import json
import sys
from itertools import count
from pathlib import Path

from support.console import UserError
from support.files import read_csv

import pytest
from conftest import small_settings

from studies import bench


@pytest.mark.parametrize(
    "part",
    [
        lambda: bench.ours(300),
        lambda: bench.ours(200, image_size=14),
        lambda: bench.ours(70, precision="fp32"),
        lambda: bench.plain(n_images=100),
        lambda: bench.plain("bf16", n_images=100),
        lambda: bench.reading(30),
        lambda: bench.memory(600),
    ],
)
def test_parts_measure_something_and_print_nothing(part, capsys):
    assert part() > 0
    assert capsys.readouterr().out == ""  # a line of progress would spoil the JSON


def test_the_limit_is_the_matrix_products_rate_over_the_work_of_an_image(monkeypatch):
    monkeypatch.setattr(
        bench.time, "perf_counter", count(0, 0.001).__next__
    )  # so that each takes a millisecond
    monkeypatch.setattr(bench, "complete", lambda settings: small_settings())
    limit = bench.limit()
    side, features = 28, 32
    # Multiplications and additions, forward; backward each layer has twice as many, but for the first one.
    stem = 2 * side**2 * 9 * features
    blocks = sum(2 * 2 * n**2 * 9 * features**2 for n in (28, 14, 7))
    classifier = 2 * (288 * 144 + 144 * 72 + 72 * 10)
    assert limit["matrix product"] * 1e12 / limit["limit"] == pytest.approx(
        2 * stem + 3 * (blocks + classifier)
    )
    assert limit["matrix product"] == pytest.approx(2 * 2048**3 / 0.001 / 1e12)


def test_the_table_compares_medians_and_the_files_hold_them(tmp_path, monkeypatch, capsys):
    limit = {"limit": 100, "matrix product": 0.5}
    values = {"ours": [10, 30, 20], "plain": [4, 5, 6], "plain_bf16": [8, 8, 8], "limit": [limit] * 3}
    values |= {
        "ours_fp32": [7] * 3,
        "vgg16": [8] * 3,
        "reading": [60000] * 3,
        "data_sizes": [{"a": 1, "b": 2}] * 3,
        "image_sizes": [{"c": 3}] * 3,
    }
    values |= {"memory": [500]}
    monkeypatch.setattr(bench, "measured", lambda part: values[part].pop(0))
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
    units = {row["measure"]: row["unit"] for row in rows}
    assert units == {
        **dict.fromkeys(
            ["ours", "plain", "plain_bf16", "limit", "ours_fp32", "vgg16", "a", "b", "c"], "images/s"
        ),
        **dict.fromkeys(["ours / plain", "ours / plain_bf16", "ours / limit"], "×"),
        "matrix product": "TFLOP/s",
        "reading": "PNGs/s",
        "memory": "MiB",
    }
    assert not any(values.values())  # each was measured, so often as it should be
    monkeypatch.setattr(bench, "measure", lambda: [dict.fromkeys(bench.COLUMNS, 1)])
    monkeypatch.setattr(bench, "print_table", print)
    bench.main()  # its own table is replaced
    assert [row["median"] for row in read_csv("results/bench.csv")] == ["1"]


def test_another_table_is_not_written_over_and_the_refusal_comes_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    monkeypatch.setattr(bench, "measure", None)
    Path("results").mkdir()
    Path("results/bench.csv").write_text("measure,median\nmine,1\n")
    with pytest.raises(UserError, match=r"bench\.csv: is there without this program's mark"):
        bench.main()
    assert Path("results/bench.csv").read_text() == "measure,median\nmine,1\n"


def test_json_is_only_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "measured", lambda part: 5)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--json"])
    monkeypatch.chdir(tmp_path)
    bench.main()
    assert {row["median"] for row in json.loads(capsys.readouterr().out)} == {5, 1}  # 1 is a ratio


def test_a_part_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "bench.py"))
    for script, reason in (
        ("raise SystemExit('the reason')", "the reason"),
        (
            "import os, sys; print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
            "status -9",
        ),
        ("raise SystemExit(3)", "status 3"),
    ):
        (tmp_path / "bench.py").write_text(script)
        with pytest.raises(UserError, match=f"measuring ours failed: {reason}"):
            bench.measured("ours")
