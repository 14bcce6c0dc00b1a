"""Files: whole or not there, and tables that survive a kill."""

import csv
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import files
from support.console import UserError

import pytest
import torch
from conftest import write_folder
from hypothesis import given
from hypothesis import strategies as st

HERE = {"PYTHONPATH": str(Path(files.__file__).parent.parent)}


def test_a_file_is_replaced_only_when_its_new_content_is_whole(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def write_half():
        with files.written(file, "w") as new:
            new.write("half of the n")
            new.flush()
            assert file.read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert file.read_text() == "old"
    with files.written(file, "w") as new:
        new.write("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_of_two_writers_at_once_each_writes_a_whole_file(tmp_path):
    file = tmp_path / "file"
    with files.written(file, "w") as slow:
        slow.write("slow")
        with files.written(file, "w") as fast:
            fast.write("fast one")
        assert file.read_text() == "fast one"
    assert file.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [file]


def test_many_writers_at_once_never_mix(tmp_path):
    file = tmp_path / "file"
    contents = [letter * n for letter, n in zip("abcd", (10, 5000, 70000, 200000), strict=True)]

    def write(content):
        for _ in range(20):
            with files.written(file, "w") as new:
                new.write(content)
            assert file.read_text() in contents

    with ThreadPoolExecutor() as threads:
        list(threads.map(write, contents))
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_kill_left_half_written_is_gone_for_the_next_one_in_the_folder(tmp_path):
    (tmp_path / "run" / "clean-0").mkdir(parents=True)
    kill = "with files.written('run/a'), files.written('run/clean-0/a'): os.kill(os.getpid(), 9)"
    kill = f"import os\nfrom support import files\n{kill}"
    subprocess.run([sys.executable, "-c", kill], cwd=tmp_path, env=os.environ | HERE)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
    files.check_new(tmp_path / "run" / "clean-0")  # nothing else is there
    with files.locked(tmp_path / "run"):
        assert not any(path.is_file() for path in tmp_path.rglob("*"))


WINDOWS = """
import sys, types
import torch, torchvision  # which ask for msvcrt to learn where they are, before it seems to be there
import fcntl, os

def locking(descriptor, mode, n_bytes):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

def open_file(path, *rest, opened=os.open, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, *rest, **options)

os.open = open_file
msvcrt = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
sys.modules.update(fcntl=None, resource=None, msvcrt=msvcrt)
import train
from support.files import is_free, locked
train.main("--data images --out run --epochs 1 --n-blocks 1 --n-fully-1 4 --precision fp32".split())
with locked("run"):
    assert not is_free("run")
assert is_free("run")
"""


def test_without_fcntl_a_run_is_trained_and_locked_as_on_windows(tmp_path):
    write_folder(tmp_path / "images")
    line = [sys.executable, "-c", WINDOWS]
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | HERE, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "model.pt").exists()
    assert {file.name for file in tmp_path.iterdir()} == {"images", "run"}  # and no lock


def test_json_and_csv_are_read_back(tmp_path):
    content = {"classes": ["Ä", os.fsdecode(b"\xff"), "\\udcff"], "n": 3}
    files.write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content
    rows = [{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 1 / 3}]
    files.write_csv(tmp_path / "a.csv", rows)
    with open(tmp_path / "a.csv", newline="") as file:
        read = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert read == rows


names = st.binary(max_size=9).map(lambda name: name.replace(b"\0", b"")).map(os.fsdecode)  # of any file
starts = st.sampled_from(["", "'", "''", "=", "'=", "+", "-", "@", "\t", "\r", "\n"])


@given(st.lists(st.tuples(starts, names, st.floats(allow_nan=False)), min_size=1, max_size=4))
def test_any_text_is_read_back_and_none_is_a_formula(tmp_path_factory, rows):
    place = tmp_path_factory.mktemp("table")
    rows = [{"name": start + name, "score": score} for start, name, score in rows]
    files.write_csv(place / "whole.csv", rows)
    for row in rows:
        files.append_csv(place / "grown.csv", row)
    for file in place.iterdir():
        assert [{**row, "score": float(row["score"])} for row in files.read_csv(file)] == rows
        with open(file, encoding="utf-8", errors="surrogateescape", newline="") as table:
            for name, score in list(csv.reader(table))[1:]:
                assert name[:1] not in set("=+-@\t\r")
                assert float(score) in [row["score"] for row in rows]  # no ' before a number, which is none


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=9)


@given(st.lists(st.tuples(texts, st.floats(allow_nan=False)), min_size=1, max_size=4), st.data())
def test_a_table_that_a_kill_cut_short_has_its_whole_lines(tmp_path_factory, rows, content):
    file = tmp_path_factory.mktemp("table") / "results.csv"
    rows = [{"error": text, "loss": loss} for text, loss in rows]
    sizes = []
    for row in rows:
        files.append_csv(file, row)
        sizes.append(file.stat().st_size)
    read = [{"error": row["error"], "loss": float(row["loss"])} for row in files.read_csv(file)]
    assert read == rows
    if any("\n" in row["error"] for row in rows):
        return  # our own texts are one line each
    header = file.read_bytes().index(b"\n") + 1
    kept = content.draw(st.integers(header, sizes[-1]))
    os.truncate(file, kept)
    n_whole = sum(size <= kept for size in sizes)
    files.drop_torn_line(file, rows[0])
    assert len(files.read_csv(file)) == n_whole
    files.append_csv(file, rows[-1])
    assert len(files.read_csv(file)) == n_whole + 1


def test_a_table_of_which_a_kill_left_not_even_the_header_starts_anew(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text("err")
    files.drop_torn_line(file, ["error", "loss"])
    assert files.read_csv(file) == []
    files.append_csv(file, {"error": "", "loss": 1})
    assert files.read_csv(file) == [{"error": "", "loss": "1"}]


@pytest.mark.parametrize("other", [b"errors of mine", b"error,seed\n1,2", b"a\rb"])
def test_another_table_loses_no_line(tmp_path, other):
    file = tmp_path / "results.csv"
    file.write_bytes(other)
    with pytest.raises(UserError, match="is no table of this program any more"):
        files.drop_torn_line(file, ["error", "loss"])
    assert file.read_bytes() == other


@pytest.mark.parametrize("damage", [b"a,b\n1,2,3\n", b"a,b\n1\n", b'a,b\n1,"2"3\n', b"a,\xff\n1,2\n"])
def test_a_table_that_is_none_is_named_and_left_alone(tmp_path, damage):
    file = tmp_path / "results.csv"
    file.write_bytes(damage)
    for read in (files.read_csv, lambda file: files.check_replaceable(file, ["a", "b"])):
        with pytest.raises(UserError, match=r"results\.csv: "):
            read(file)
    assert file.read_bytes() == damage


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_would_run_a_program_is_refused_in_our_words_alone(tmp_path, recwarn, capfd, protocol):
    torch.save({"weight": Hostile()}, tmp_path / "a.pt", pickle_protocol=protocol)
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"weight": Hostile()}, protocol))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(UserError) as error:
            files.read_tensors(tmp_path / name)
        assert str(error.value).endswith("weights: damaged, or not tensors alone")
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def tensors_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("tensors") / "model.pt"
    files.write_tensors(file, {"weight": torch.arange(400.0), "step": 7})
    return file


@given(st.data())
def test_a_flipped_bit_is_seen_or_does_no_harm(tensors_file, content):
    whole = tensors_file.read_bytes()
    damaged = bytearray(whole)
    damaged[content.draw(st.integers(0, len(whole) - 1))] ^= 1 << content.draw(st.integers(0, 7))
    other = tensors_file.with_name("damaged.pt")
    other.write_bytes(damaged)
    try:
        read = files.read_tensors(other)
    except UserError:
        return
    assert torch.equal(read["weight"], torch.arange(400.0))
    assert read["step"] == 7


def test_json_that_is_damaged_is_named(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan.json: is damaged"):
        files.read_json(tmp_path / "plan.json")


def test_only_our_own_left_overs_are_removed_and_only_by_who_has_the_folder(tmp_path):
    theirs, ours = tmp_path / ".movie.mp4.part", tmp_path / "inner" / ".metrics.csv.0123abcd.part"
    ours.parent.mkdir()
    for file in (theirs, ours):
        file.touch()
    with pytest.raises(UserError, match="something is there"):
        files.check_new(tmp_path)
    assert files.is_free(tmp_path)
    assert ours.exists()
    with files.locked(tmp_path):
        assert theirs.exists()
        assert not ours.exists()


def test_rows_take_the_place_of_those_with_the_same_names(tmp_path):
    path = tmp_path / "table.csv"
    files.replace_rows(path, [{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "c": 5}], ["a", "b"])
    files.replace_rows(path, [{"a": 1, "b": 2, "c": 6}, {"a": 2, "b": 2, "c": 7}], ["a", "b"])
    assert [tuple(row.values()) for row in files.read_csv(path)] == [
        ("1", "4", "5"),
        ("1", "2", "6"),
        ("2", "2", "7"),
    ]


def test_the_other_rows_stay_byte_by_byte(tmp_path):
    path = tmp_path / "table.csv"
    cells = (("x", -0.25, "=1+1"), ("y", -3, "-"), ("w", -5e-5, "-1+1"))
    rows = [dict(zip("abc", row, strict=True)) for row in cells]
    files.write_csv(path, rows)
    before = path.read_bytes()
    assert before.endswith(b"x,-0.25,'=1+1\r\ny,-3,'-\r\nw,-5e-05,'-1+1\r\n")
    files.replace_rows(path, [{"a": "z", "b": 1, "c": ""}], ["a"])
    assert path.read_bytes() == before + b"z,1,\r\n"
