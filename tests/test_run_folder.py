"""A run's folder: tables, checkpoints, interrupted and failed writes, resumed runs, damaged files."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import FLAGS, contents, write_folder
from hypothesis import given
from hypothesis import strategies as st

from support import run_folder
from support.console import UserError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8)


@given(st.lists(st.fixed_dictionaries({"id": texts, "class, or\nso": texts}), min_size=1, max_size=5))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("csv") / "table.csv"
    run_folder.write_csv(file, rows)
    assert run_folder.read_csv(file) == rows


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "'=1", "-x", "-1", "-1.5e-07", "1", "x"]
)
def test_a_text_that_a_spreadsheet_would_compute_is_marked_and_numbers_are_not(tmp_path, text):
    run_folder.write_csv(tmp_path / "table.csv", [{"id": text}])
    cell = (tmp_path / "table.csv").read_bytes().decode().split("\r\n")[1].strip('"')
    is_harmless = text in ("-1", "-1.5e-07", "1", "x")
    assert cell == (text if is_harmless else f"'{text}")


def test_a_damaged_table_is_named(tmp_path):
    for content in ("a,b\n1\n", 'a,b\n1,"2\n', "a,b\n1,2,3\n"):
        (tmp_path / "table.csv").write_text(content)
        with pytest.raises(UserError, match=r"table\.csv"):
            run_folder.read_csv(tmp_path / "table.csv")


@contextmanager
def small_files_only():
    """Imitate a full disk: no file may grow beyond 2,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with small_files_only(), pytest.raises(OSError, match="large"):
        run_folder.write_tensors(file, torch.zeros(5000))
    with pytest.raises(ZeroDivisionError), run_folder.written(file) as opened:
        opened.write(bytes([1, 2, 1 // 0]))
    assert contents(tmp_path) == {"file": b"old"}


def test_tensors_are_read_back_and_damage_is_noticed(tmp_path):
    file = tmp_path / "model.pt"
    tensors = {"a": torch.arange(5000.0), "rows": [{"epoch": 1}]}
    run_folder.write_tensors(file, tensors)
    again = run_folder.read_tensors(file)
    assert torch.equal(again["a"], tensors["a"])
    assert again["rows"] == tensors["rows"]
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # in the middle of the numbers, which torch.load does not check
    for content in (whole[:1000], bytes(flipped), b"", b"<html>"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.pt"):
            run_folder.read_tensors(file)
    torch.save(Path("x"), file)  # an object, which could run code
    with pytest.raises(UserError, match=r"model\.pt"):
        run_folder.read_tensors(file)


# ---------------------------------------------------------------- runs


def test_config_json_records_settings_and_data(type_in, folder):
    type_in(f"train.py --data images --epochs 2 --seed 3 --limit 20 --out run {FLAGS}")
    config = run_folder.read_config("run")
    expected = {"data": "images", "epochs": 2, "seed": 3, "limit": 20, "image_size": [8, 8], "lr": 0.003}
    assert expected.items() <= config["settings"].items()
    assert config["data"]["n_train"] == 20
    assert config["data"]["image_shape"] == [1, 8, 8]
    assert config["data"]["classes"] == ["row0", "row2", "row4"]
    assert config["n_parameters"] == sum(w.numel() for w in torch.load("run/model.pt").values())


def interrupted(type_in, line):
    """Leave the folder run/ as an interruption just before the end leaves it."""
    type_in(f"train.py {line} --epochs 1 --out run {FLAGS}")
    whole = Path("run/model.pt").read_bytes()
    os.remove("run/model.pt")
    return whole


def test_moved_data_and_weights_are_recognised_by_their_content(type_in, refused, folder):
    type_in(f"train.py --data images --epochs 1 --out first {FLAGS}")
    whole = interrupted(type_in, "--data images --init transfer --weights first/model.pt")
    Path("elsewhere").mkdir()
    folder.rename("elsewhere/photos")
    os.rename("first/model.pt", "elsewhere/weights.pt")
    write_folder(Path("others"), n_train=25)
    assert "--data" in refused("train.py --resume run")
    assert "others" in refused("train.py --resume run --data others --weights elsewhere/weights.pt")
    assert "--epochs" in refused("train.py --resume run --epochs 2")
    Path("copy.pt").write_bytes(Path("run/metrics.csv").read_bytes())
    assert "copy.pt" in refused("train.py --resume run --data elsewhere/photos --weights copy.pt")
    type_in("train.py --resume run --data elsewhere/photos --weights elsewhere/weights.pt")
    assert Path("run/model.pt").read_bytes() == whole
    assert run_folder.read_config("run")["settings"]["data"] == "elsewhere/photos"


def test_a_finished_run_is_neither_trained_again_nor_overwritten(type_in, refused, folder):
    Path("run").mkdir()  # an empty folder may be named
    type_in(f"train.py --data images --epochs 1 --out run {FLAGS}")
    before = contents(Path("run"))
    assert "finished" in type_in("train.py --resume run").out
    assert "run" in refused("train.py --data images --out run")
    assert contents(Path("run")) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"script": "diagnose.py"}', b"\xff"])
def test_a_run_without_the_config_of_a_training_is_named(refused, content):
    Path("run").mkdir()
    Path("run/config.json").write_bytes(content)
    for line in ("train.py --resume run", "compare.py run", "predict.py run x.png"):
        assert "run" in refused(line)


def test_a_damaged_state_is_named(type_in, refused, folder):
    interrupted(type_in, "--data images")
    for state in ({"history": []}, {"model": 5, "history": []}):
        torch.save(state, "run/state.pt")
        assert "run/state.pt" in refused("train.py --resume run")


def test_a_full_disk_ends_in_one_line_that_says_how_to_continue(type_in, refused, folder):
    with small_files_only():
        line = refused(f"train.py --data images --epochs 1 --out run {FLAGS}")
    assert "python train.py --resume run" in line
    assert {path.name for path in Path("run").iterdir()} == {"config.json", "metrics.csv"}
    type_in("train.py --resume run")
    assert Path("run/model.pt").exists()
