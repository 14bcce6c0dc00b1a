"""Several processes: who goes first, who speaks, which device each takes. Real ones: test_interruptions."""

import sys
from types import SimpleNamespace

from support import processes
from support.console import UserError, run_command

import pytest


@pytest.fixture
def as_rank(monkeypatch):
    """A function that makes this process believe it is the given one of three; returns what it then calls."""

    def pretend(rank):
        calls = []
        group = SimpleNamespace(
            is_initialized=lambda: True,
            get_rank=lambda: rank,
            get_world_size=lambda: 3,
            barrier=lambda: calls.append("barrier"),
            init_process_group=lambda backend, timeout: calls.append(backend),
            destroy_process_group=lambda: None,
        )
        monkeypatch.setattr(processes, "dist", group)
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
        return calls

    return pretend


def test_what_the_first_process_finds_holds_for_all_and_so_does_its_error(as_rank, monkeypatch):
    sent = []

    def gather(contents, content):  # as if the first process had come here first
        sent.append(content)
        contents[:] = [sent[0], content, content]

    for function, error in ((lambda: "digits", None), (lambda: {}["x"], KeyError), (fail, UserError)):
        sent.clear()
        for rank in (0, 2) if error is not KeyError else (0,):
            as_rank(rank)
            monkeypatch.setattr(processes.dist, "all_gather_object", gather, raising=False)
            ours = function if rank == 0 else None  # the others need not call it
            if error:
                with pytest.raises(error):
                    processes.from_main(ours)
            else:
                assert processes.from_main(ours) == "digits"


def fail():
    raise UserError("no such folder")


def test_alone_nothing_waits():
    assert processes.from_main(lambda: 5) == 5
    assert (processes.process_number(), processes.n_processes()) == (0, 1)


def test_only_the_first_process_of_a_machine_speaks(as_rank, monkeypatch, capsys):
    def main():
        print("a table")
        raise UserError("a fault")

    for rank, said in ((0, ("a table\n", "train.py: a fault\n")), (1, ("", ""))):
        as_rank(rank)
        monkeypatch.setattr(sys, "argv", ["train.py"])
        monkeypatch.setattr(sys, "stdout", sys.stdout)  # which the second closes for itself
        with pytest.raises(SystemExit):
            run_command(main)
        assert tuple(capsys.readouterr()) == said


@pytest.mark.parametrize(
    ("device", "n_gpus", "mps", "outcome"),
    [
        (None, 0, False, "gloo"),
        ("cpu", 4, True, "gloo"),
        (None, 4, False, "nccl"),
        ("cuda", 4, False, "nccl"),
        ("cuda:1", 4, False, "leave out --device cuda:1"),
        (None, 2, False, "--nproc-per-node 3: GPUs here: 2"),
        (None, 0, True, "torchrun needs --device cpu"),
    ],
)
def test_each_process_takes_a_gpu_of_its_own(as_rank, monkeypatch, device, n_gpus, mps, outcome):
    calls = as_rank(1)
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(processes.torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(processes.torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(processes.torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(processes.atexit, "register", lambda function: None)
    if outcome in ("gloo", "nccl"):
        processes.meet_others(device)
        assert calls == ([1, "nccl"] if outcome == "nccl" else ["gloo"])
    else:
        with pytest.raises(UserError, match=outcome):
            processes.meet_others(device)


def test_on_its_own_a_process_of_several_is_alone(as_rank):
    as_rank(2)
    with processes.alone():
        assert (processes.process_number(), processes.n_processes()) == (0, 1)
        assert processes.from_all("mine") == ["mine"]
        assert processes.total(7) == 7  # and waits for nobody
    assert (processes.process_number(), processes.n_processes()) == (2, 3)
    with pytest.raises(ZeroDivisionError), processes.alone():
        raise ZeroDivisionError
    assert (processes.process_number(), processes.n_processes()) == (2, 3)
