"""Run commands in separate processes, which tests can kill."""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

PROJECT = Path(__file__).parent.parent


@cache
def copies():
    """Return a multiprocessing context whose processes start at once, because torch is imported already.

    Test files call it when pytest collects them, so that the import is done before a test needs it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "torch.distributed.run"])
    before = os.getcwd()
    os.chdir(PROJECT)  # the processes import modules from here
    forkserver.ensure_running()
    os.chdir(before)
    return context


def started(module, arguments, cwd, **variables):
    """Start the command `module`, such as "train", in the folder `cwd`, with more environment `variables`.

    Its output is in the files stdout and stderr there, under torchrun stdout0 and stderr0 of process 0.
    """
    run = (module, arguments.split(), cwd, {name: str(value) for name, value in variables.items()})
    process = copies().Process(target=run_as_typed, args=run, daemon=True)
    process.start()
    return process


def together(module, lines, cwd):
    """Start a process for each of `lines` as torchrun does, without importing torch again in each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    same = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    same |= {"WORLD_SIZE": len(lines), "LOCAL_WORLD_SIZE": len(lines)}
    return [started(module, line, cwd, RANK=i, LOCAL_RANK=i, **same) for i, line in enumerate(lines)]


def run_as_typed(module, arguments, cwd, variables):
    """Do what `python -m MODULE ARGUMENTS` does in the folder `cwd`; torch is imported already."""
    os.chdir(cwd)
    os.environ.update(variables)
    for descriptor, name in enumerate(("stdout", "stderr"), 1):
        file = name + variables.get("RANK", "")
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        setattr(sys, name, open(descriptor, "w"))  # noqa: SIM115 (for the rest of this process)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
