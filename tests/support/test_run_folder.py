"""A run's folder: its own, checked by what is in it, and gone on with from its state."""

import io
import json
import re
from pathlib import Path

from support import files, run_folder
from support.console import UserError

import pytest
import torch
from conftest import FLAGS, small_model, small_settings, stripes, write_folder

import train


def test_no_run_folder_is_used_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [run_folder.new_run_folder("a").name for _ in range(3)] == ["a", "a-2", "a-3"]
    assert run_folder.new_run_folder("a", out="mine/run").is_dir()
    assert run_folder.new_run_folder("a", out="mine/run").is_dir()  # still empty
    (tmp_path / "mine" / "run" / "file").touch()
    for taken in ("mine/run", "mine/run/file"):
        with pytest.raises(UserError, match="something is there"):
            run_folder.new_run_folder("a", out=taken)


def test_a_run_goes_on_only_with_the_weights_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images")
    small = f"--data images {FLAGS}"
    train.main(f"{small} --epochs 1 --out first".split())
    train.main(f"{small} --epochs 1 --init transfer --weights first/model.pt --out second".split())
    Path("second/model.pt").unlink()
    first = torch.load("first/model.pt", weights_only=True)
    torch.save({name: value + 1 for name, value in first.items()}, "first/model.pt")
    with pytest.raises(UserError, match=r"first/model\.pt is not what it began with"):
        train.main(["--resume", "second"])


def test_a_state_is_read_back_and_a_damaged_one_is_named(tmp_path):
    model = torch.nn.Linear(2, 2)
    assert run_folder.load_position(tmp_path, {"model": model}, "cpu") is None
    position = run_folder.Position([{"epoch": 1, "seconds": 2.5}], 12, 0.5, torch.tensor([3.25, 7.0]))
    run_folder.save_position(tmp_path, {"model": model}, position)
    other = torch.nn.Linear(2, 2)
    again = run_folder.load_position(tmp_path, {"model": other}, "cpu")
    assert vars(again).keys() == vars(position).keys()
    assert (again.history, again.n_seen, again.seconds) == (position.history, 12, 0.5)
    assert torch.equal(again.sums, position.sums)
    assert torch.equal(other.weight, model.weight)

    state = tmp_path / "state.pt"
    whole = state.read_bytes()
    for content in (whole[:1000], whole[:-1], b""):
        state.write_bytes(content)
        with pytest.raises(UserError, match=r"state\.pt is damaged"):
            run_folder.load_position(tmp_path, {"model": model}, "cpu")
    for content in (torch.zeros(3), {"at": 5}, {**torch.load(io.BytesIO(whole)), "at": {}}):
        torch.save(content, state)
        with pytest.raises(UserError, match=r"state\.pt is damaged"):
            run_folder.load_position(tmp_path, {"model": model}, "cpu")


@pytest.fixture
def config(tmp_path):
    """A run's config.json, as a dict; the run is in tmp_path."""
    images = stripes(6)
    run_settings = small_settings()
    config = run_folder.describe(run_settings, small_model(run_settings, images), images, images)
    run_folder.write_config(tmp_path, config)
    return config


def test_a_config_has_the_training_images_mean_brightness(config):
    assert config["brightness"] == pytest.approx(stripes(6).images.double().mean().item() / 255, abs=1e-4)


def test_a_config_is_read_back_and_an_edited_one_is_refused(tmp_path, config):
    assert run_folder.read_config(tmp_path) == (small_settings(), config)
    with pytest.raises(UserError, match="no run is there"):
        run_folder.read_config(tmp_path / "other")
    with pytest.raises(UserError, match="of another command"):
        run_folder.read_resumable(tmp_path, {"remove", "seeds"})
    written = files.read_json(tmp_path / "config.json")
    edited = [{"settings": config["settings"] | {"epochs": 9}}, {"data": config["data"] | {"n_test": 5}}]
    edited += [{"content_fingerprint": []}, {"options": {}}, {"checksum": None}]
    without = [{name: value for name, value in written.items() if name != lacking} for lacking in written]
    whole = json.dumps(written)
    contents = [json.dumps(each) for each in (*(written | each for each in edited), *without, [], {}, "a", 3)]
    for content in (*contents, whole[:-9], "\0", "[" * 99999):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json is damaged, edited, or of another version"):
            run_folder.read_config(tmp_path)


@pytest.mark.parametrize(
    ("interruption", "message"),
    [
        (KeyboardInterrupt(), "interrupted; to go on: python train.py --resume 'my run'"),
        (
            OSError(28, "No space left on device", "my run/a"),
            "my run/a: No space left on device; when that is",
        ),
    ],
)
def test_an_interruption_says_how_to_go_on(tmp_path, interruption, message):
    with (
        pytest.raises(UserError, match=re.escape(message)),
        run_folder.resumable_by(["train.py", "--resume", "my run"], tmp_path),
    ):
        raise interruption


@pytest.mark.parametrize("error", [BrokenPipeError(), RuntimeError("a fault of ours"), ValueError("another")])
def test_what_is_no_interruption_goes_on_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as raised, run_folder.resumable_by(["train.py"], tmp_path):
        raise error
    assert raised.value is error
