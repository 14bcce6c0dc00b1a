"""Devices and precision; processes that torchrun starts, and variables of torchrun's that mean nothing."""

import os
import signal
from pathlib import Path

import pytest
import torch
from commands import PROJECT, started, under_torchrun
from conftest import FLAGS, write_folder

from support import machine
from support.console import UserError
from support.run_folder import read_csv


def test_a_device_that_does_not_exist_is_refused():
    assert machine.choose_device("cpu") == "cpu"
    assert torch.zeros(1, device=machine.choose_device()).item() == 0
    for name in ("cuda:99", "nonsense", "meta"):
        with pytest.raises(UserError, match=name):
            machine.choose_device(name)


def test_without_torchrun_there_is_one_process():
    assert (machine.rank(), machine.n_processes()) == (0, 1)
    assert machine.gathered("mine") == ["mine"]
    assert machine.from_first(lambda: 5) == 5
    assert machine.total(torch.ones(2)).tolist() == [1, 1]


class DoesNotFit:
    """A set of tensors that has no room on any device."""

    def __init__(self, text):
        self.text = text

    def to(self, device):
        raise RuntimeError(self.text)


def test_tensors_without_room_on_the_device_stay_but_other_errors_count():
    large = DoesNotFit("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert machine.to_device(large, "cuda") is large
    assert machine.to_device(torch.ones(1), "cpu").device.type == "cpu"
    with pytest.raises(RuntimeError, match="device-side"):
        machine.to_device(DoesNotFit("CUDA error: device-side assert triggered"), "cuda")


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "0"},
        {"LOCAL_RANK": "-1", "WORLD_SIZE": "2x"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {
            "RANK": "-1",
            "LOCAL_RANK": "-1",
            "WORLD_SIZE": "1",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "",
            "MASTER_PORT": "",
        },
    ],
)
def test_some_of_torchruns_variables_mean_nothing(type_in, folder, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = type_in(f"train.py --data images --epochs 1 --out run {FLAGS}")
    assert ended.status == 0
    assert "test accuracy" in ended.out


def test_two_processes_train_one_network_and_continue_after_a_kill(tmp_path):
    write_folder(tmp_path / "images")
    arguments = f"--data images --epochs 6 --augment --image-size 9 {FLAGS}"
    process = under_torchrun(PROJECT / "train.py", f"{arguments} --out two", tmp_path)
    (tmp_path / "alone").mkdir()
    alone = started("train", f"{arguments} --out one".replace("images", "../images"), tmp_path / "alone")
    while process.is_alive() and not (tmp_path / "two" / "state.pt").exists():
        process.join(timeout=0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    process.join(timeout=60)
    assert process.exitcode == 1
    assert 'train.py", line' not in (tmp_path / "stderr").read_text()  # no traceback of ours

    process = under_torchrun(PROJECT / "train.py", "--resume two", tmp_path)
    process.join(timeout=120)
    alone.join(timeout=120)
    assert (process.exitcode, alone.exitcode) == (0, 0)
    assert (tmp_path / "stdout").read_text().count("test accuracy") == 2  # column and result: one speaks
    one, two = (read_csv(tmp_path / name / "metrics.csv") for name in ("alone/one", "two"))
    assert len(two) == 6
    for metric in ("train_loss", "test_loss"):  # AdamW makes more of roundings from step to step
        assert float(one[0][metric]) == pytest.approx(float(two[0][metric]), rel=1e-3)
        assert float(one[-1][metric]) == pytest.approx(float(two[-1][metric]), rel=0.02)
