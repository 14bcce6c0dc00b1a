"""Commands in processes of their own, which can be killed."""

import multiprocessing
import os
import runpy
import signal
import sys
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

PROJECT = Path(__file__).parent.parent


@cache
def copies():
    """Return a context of multiprocessing whose processes have torch imported, so that they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "torch.distributed.run"])
    before = os.getcwd()
    os.chdir(PROJECT)  # where the modules are looked for
    forkserver.ensure_running()
    os.chdir(before)
    return context


def started(module, arguments, cwd):
    """Start the command `module`, such as "train", in the folder `cwd`, with its output in files there."""
    process = copies().Process(target=run_as_typed, args=(module, arguments.split(), cwd), daemon=True)
    process.start()
    return process


def under_torchrun(script, arguments, cwd):
    """Start `script` in two processes under torchrun; see `started`."""
    return started("torch.distributed.run", f"--standalone --nproc-per-node 2 {script} {arguments}", cwd)


def run_as_typed(module, arguments, cwd):
    """Do what `python -m MODULE ARGUMENTS` does in the folder `cwd`; torch is imported already."""
    os.chdir(cwd)
    for descriptor, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        setattr(sys, name, open(descriptor, "w"))  # noqa: SIM115 (for the rest of this process)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
