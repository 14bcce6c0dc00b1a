"""The benchmark: every part measures something and prints nothing, the table has the rounds' medians and
ratios, and a part that fails is named. No timing decides a test."""

import copy
import sys
from itertools import count
from pathlib import Path

from support.console import UserError
from support.files import read_csv, write_csv

import pytest
import torch
from conftest import small_settings

from studies import bench, peers


@pytest.mark.parametrize(
    "part",
    [
        lambda: bench.our_speed(20),
        lambda: bench.our_speed(20, image_size=14),
        lambda: bench.our_speed(20, precision="fp32"),
        lambda: bench.speed_of(peers.plain_loop, 10, precision="bf16", n_workers=1),
    ],
)
def test_parts_measure_something_and_print_nothing(part, monkeypatch, capsys):
    monkeypatch.setattr(peers, "BATCH_SIZE", 10)
    assert part() > 0
    assert capsys.readouterr().out == ""  # a line of progress would spoil the JSON


def test_the_limit_is_the_matrix_products_rate_over_the_work_of_an_image(monkeypatch):
    clock = count(0, 0.001).__next__  # so that each product takes a millisecond
    monkeypatch.setattr(bench.time, "perf_counter", clock)
    monkeypatch.setattr(bench, "complete", lambda settings: small_settings())
    limit = bench.limit()
    side, features = 28, 32
    # Multiplications and additions, forward; backward each layer has twice as many, but for the first one.
    stem = 2 * side**2 * 9 * features
    blocks = sum(2 * 2 * n**2 * 9 * features**2 for n in (28, 14, 7))
    classifier = 2 * (288 * 144 + 144 * 72 + 72 * 10)
    n_flops = 2 * stem + 3 * (blocks + classifier)
    assert limit["matrix product"] * 1e12 / limit["limit"] == pytest.approx(n_flops)
    assert limit["matrix product"] == pytest.approx(2 * 2048**3 / 0.001 / 1e12)


def test_ours_takes_as_many_epochs_as_it_needs_and_only_the_last_training_counts(monkeypatch):
    accuracies = {1: [0.98], 2: [0.985, 0.9899], 3: [0.9, 0.98, 0.99]}
    trained = []

    def fit(model, training, test, settings):
        torch.manual_seed(0)  # as a training does
        trained.append((settings.epochs, settings.seed))
        return [{"test_accuracy": accuracy, "seconds": 5.0} for accuracy in accuracies[settings.epochs]]

    monkeypatch.setattr(bench.train, "fit", fit)
    torch.manual_seed(7)
    digits = bench.random_digits(10)
    assert bench.our_training(digits, digits) == (15, 3)
    assert trained == [(1, 7), (2, 7), (3, 7)]


@pytest.fixture
def values(tmp_path, monkeypatch):
    """What each part measures in each round, {part: list}; who measures takes it out of there."""
    values = {"ours": [10, 30, 20], "plain": [4, 5, 6], "plain_bf16": [8, 8, 8], "plain_workers": [5, 5, 5]}
    values["limit"] = [{"limit": 100, "matrix product": 0.5}] * 3
    values |= {"ours_fp32": [7] * 3, "vgg16": [8] * 3}

    def measured(part, seed):
        assert seed + len(values[part]) == 3  # each round has another seed
        return values[part].pop(0)

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(bench, "complete", lambda settings: small_settings(precision="bf16"))
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    monkeypatch.chdir(tmp_path)
    return values


def test_the_table_has_medians_and_the_ratios_of_each_round(values):
    rows = {row["measure"]: row for row in bench.measure()}
    assert rows["ours"] == {"measure": "ours", "median": 20, "low": 10, "high": 30, "unit": "images/s"}
    assert rows["ours / plain"]["median"] == 3.33  # of 10 / 4, 30 / 5 and 20 / 6
    assert rows["ours / plain_bf16"]["median"] == 2.5
    assert rows["ours / limit"]["median"] == 0.2
    units = {name: row["unit"] for name, row in rows.items() if row["unit"] != "images/s"}
    assert rows["ours_fp32 / plain"]["median"] == 1.4
    ratios = dict.fromkeys(
        [f"ours / {other}" for other in ("plain", "plain_bf16", "plain_workers", "limit")], "×"
    )
    ratios["ours_fp32 / plain"] = "×"
    assert units == ratios | {"matrix product": "TFLOP/s"}
    assert not any(values.values())  # each was measured, so often as it should be


def test_where_bf16_is_no_gain_the_plain_loop_in_bf16_is_left_out(values, monkeypatch):
    monkeypatch.setattr(bench, "complete", lambda settings: small_settings(precision="fp32"))
    assert not any("bf16" in row["measure"] for row in bench.measure())


def test_the_table_is_printed_and_written_with_the_machine(values, capsys):
    bench.main()
    printed = capsys.readouterr().out
    assert "3.33 × the plain loop in fp32, 2.50 × the plain loop in bf16, and 20% of the limit" in printed
    rows = read_csv("results/bench.csv")
    assert [(row["measure"], row["median"]) for row in rows][:2] == [("ours", "20"), ("plain", "5")]
    assert {row["threads"] for row in rows} == {"2"}


def test_a_ratio_that_has_lost_a_tenth_is_pointed_out(values, capsys):
    again = copy.deepcopy(values)
    bench.main()
    assert "before" not in capsys.readouterr().out
    rows = read_csv("results/bench.csv")
    write_csv("results/bench.csv", [*rows, *(row | {"threads": 3, "median": 9} for row in rows)])  # another
    again["plain"] = [4.4, 5.55, 6.7]  # of ours it is 2.27, 5.4 and 2.99 then, where it was 2.5, 6 and 3.33
    values |= again
    bench.main()
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["ours / plain"].endswith("before: 3.33, a tenth or more is lost")
    assert lines["ours / limit"].endswith("before: 0.2")
    assert not any("before" in line for name, line in lines.items() if "/" not in name)


def test_a_median_that_is_no_number_is_named_before_the_work(values):
    bench.main()
    rows = read_csv("results/bench.csv")
    write_csv("results/bench.csv", [rows[0] | {"median": "abc"}, *rows[1:]])
    with pytest.raises(UserError, match="a median is no number"):
        bench.main()  # else there would be nothing left to measure, an IndexError


def test_with_flags_lightning_and_the_seconds_until_99_are_measured(values, monkeypatch, capsys):
    values |= {"lightning": [4] * 3}
    timed = {"ours": [10, 30, 20], "plain": [50, 60, 80]}
    timed |= {"plain_bf16": [20, 60, 40], "lightning": [40, 90, 80]}
    for name, seconds in timed.items():
        name = f"{name}_to_99"
        values[name] = [{name: each, f"{name}, epochs": each // 10} for each in seconds]
    monkeypatch.setattr(sys, "argv", ["bench.py", "--peers", "--to-99"])
    monkeypatch.setattr(bench, "load", lambda source: None)
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install lightning first"):
        bench.main()
    assert all(values.values())  # nothing was measured
    monkeypatch.setattr(bench, "find_spec", lambda name: name)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    bench.main()
    assert not any(values.values())
    rows = {row["measure"]: row for row in read_csv("results/bench.csv")}
    assert (rows["ours_to_99"]["median"], rows["ours_to_99"]["unit"]) == ("20", "s")
    assert (rows["plain_to_99, epochs"]["median"], rows["plain_to_99, epochs"]["unit"]) == ("6", "epochs")
    assert rows["plain_to_99 / ours_to_99"]["median"] == "4.0"  # of 5, 2 and 4
    assert rows["plain_bf16_to_99 / ours_to_99"]["median"] == "2.0"
    assert rows["lightning_to_99 / ours_to_99"]["median"] == "4.0"
    assert rows["ours / lightning"]["median"] == "5.0"
    assert rows["ours"]["hardware"].endswith(", oneDNN limited to AVX2")


def test_its_own_rows_are_replaced_and_those_of_another_machine_stay(values, monkeypatch):
    bench.main()
    first = read_csv("results/bench.csv")
    n_first = len(first)
    monkeypatch.setattr(bench, "print_table", print)
    for machine, median in (("mine", 1), ("mine", 2), ("yours", 3)):
        monkeypatch.setattr(bench, "hardware_name", lambda device, machine=machine: machine)
        row = dict.fromkeys(bench.COLUMNS, median) | {"measure": "ours"}
        monkeypatch.setattr(bench, "measure", lambda *flags, row=row: [row])
        bench.main()
    assert read_csv("results/bench.csv")[:n_first] == first
    assert [row["median"] for row in read_csv("results/bench.csv")][n_first:] == ["2", "3"]


def test_another_table_is_not_written_over_and_the_refusal_comes_before_the_work(values):
    Path("results").mkdir()
    Path("results/bench.csv").write_text("measure,median\nmine,1\n")
    with pytest.raises(UserError, match=r"bench\.csv: is there without this program's mark"):
        bench.main()
    assert Path("results/bench.csv").read_text() == "measure,median\nmine,1\n"
    assert all(values.values())  # nothing was measured


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit('the reason')", "the reason"),
        ("raise SystemExit(3)", "status 3"),
        ("import os, sys; print('a warning', file=sys.stderr); os.kill(os.getpid(), 9)", "status -9"),
    ],
)
def test_a_part_is_a_process_of_the_folder_above_and_named_where_it_fails(
    tmp_path, monkeypatch, script, reason
):
    monkeypatch.chdir(tmp_path)
    Path("studies").mkdir()
    Path("studies/bench.py").write_text(script)
    with pytest.raises(UserError, match=f"measuring ours failed: {reason}"):
        bench.measured("ours", 0)


def test_what_a_part_prints_last_is_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("studies").mkdir()
    Path("studies/bench.py").write_text("import json, sys; print('a note'); print(json.dumps(sys.argv[2:]))")
    assert bench.measured("plain", 7) == ["plain", "--seed", "7"]
