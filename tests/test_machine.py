"""Devices, and processes that torchrun starts; incomplete variables of torchrun are ignored."""

import os
import re
import signal
from unittest.mock import Mock

import pytest
import torch
from commands import PROJECT, copies, started, together
from conftest import FLAGS, same_weights, write_folder

from support import machine
from support.run_folder import read_csv

copies()


def test_tensors_too_large_for_the_device_stay_and_other_errors_are_raised():
    tensors = Mock()
    tensors.to.side_effect = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert machine.to_device(tensors, "cuda") is tensors
    tensors.to.side_effect = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side"):
        machine.to_device(tensors, "cuda")


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "0"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "-1", "LOCAL_RANK": "-1", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        | {"MASTER_ADDR": "", "MASTER_PORT": ""},
    ],
)
def test_an_incomplete_set_of_torchruns_variables_is_ignored(type_in, folder, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "test accuracy" in type_in(f"train.py --data images --epochs 1 --out run {FLAGS}").out


def test_three_processes_train_one_network_and_resume_with_the_same_weights(tmp_path):
    write_folder(tmp_path / "images")
    places = [tmp_path / name for name in ("one", "whole", "killed")]
    for place in places:
        place.mkdir()
    line = f"--data ../images --epochs 6 --augment --image-size 9 --out run {FLAGS}"
    one, *whole = started("train", line, places[0]), *together("train", 3 * [line], places[1])
    killed = together("train", 3 * [line], places[2])
    while killed[0].is_alive() and not (places[2] / "run" / "state.pt").exists():
        killed[0].join(timeout=0.01)
    os.kill(killed[2].pid, signal.SIGKILL)
    killed[0].join(timeout=60)
    assert killed[0].exitcode == 2
    message = (places[2] / "stderr0").read_text()
    assert re.search("torchrun --nproc-per-node 3 .*train.py --resume run\n", message)
    assert 'train.py", line' not in message  # no traceback of ours

    resumed = together("train", 3 * ["--resume run"], places[2])
    for process in (one, *whole, *resumed):
        process.join(timeout=120)
        assert process.exitcode == 0
    said = [(places[2] / f"stdout{rank}").read_text() for rank in range(3)]
    assert "test accuracy" in said[0]
    assert said[1:] == ["", ""]
    weights = [torch.load(place / "run" / "model.pt") for place in places]
    assert same_weights(weights[1], weights[2])
    assert not same_weights(weights[0], weights[1])  # three processes add in another order
    first, last = ([read_csv(place / "run" / "metrics.csv")[i] for place in places[:2]] for i in (0, -1))
    for metric in ("train_loss", "test_loss"):  # AdamW amplifies rounding errors from step to step
        assert float(first[0][metric]) == pytest.approx(float(first[1][metric]), rel=1e-3)
        assert float(last[0][metric]) == pytest.approx(float(last[1][metric]), rel=0.02)


def test_each_process_prints_its_own_error_and_a_common_error_is_printed_once(tmp_path):
    write_folder(tmp_path / "images")
    line = f"--data images --epochs 1 {FLAGS}"
    arguments = f"--standalone --nproc-per-node 2 {PROJECT}/train.py {line} --lr 1e30"
    torchrun = started("torch.distributed.run", arguments, tmp_path)
    for process in together("train", [line, "--epochs 0"], tmp_path):
        process.join(timeout=60)
        assert process.exitcode == 2
    for rank, fact in enumerate(("another process", "--epochs")):
        (said,) = (tmp_path / f"stderr{rank}").read_text().splitlines()
        assert fact in said
    torchrun.join(timeout=60)
    assert (tmp_path / "stderr").read_text().count("smaller --lr") == 1
