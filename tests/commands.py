"""Commands as a user types them, in processes of their own that can be killed."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def typed(line, cwd):
    """Start `python LINE` in the folder `cwd`, and return the running process, its output in pipes."""
    words = [sys.executable, *line.split()]
    return subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@cache
def copies():
    """Return a context of multiprocessing that starts copies of a process which has torch imported.

    So a command starts at once, not after three seconds. That process only imports, while the first tests
    run: what torch computes begins threads, which a copy would lack.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "diagnose", "search", "torch.distributed.run"])
    before = os.getcwd()
    os.chdir(PROJECT)  # where the process looks for the modules
    forkserver.ensure_running()
    os.chdir(before)
    return context


def started(module, arguments, cwd):
    """Start the command `module`, such as "train", in the folder `cwd`, and return the running process.

    Its output goes into the files stdout and stderr there.
    """
    process = copies().Process(target=run_as_typed, args=(module, arguments.split(), cwd), daemon=True)
    process.start()
    return process


def under_torchrun(script, arguments, cwd):
    """Start `script` in two processes under torchrun; see `started`."""
    return started("torch.distributed.run", f"--standalone --nproc-per-node 2 {script} {arguments}", cwd)


def run_as_typed(module, arguments, cwd):
    """Do all that `python -m MODULE ARGUMENTS` does, in the folder `cwd`; torch is imported already."""
    os.chdir(cwd)
    for descriptor, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        setattr(sys, name, open(descriptor, "w"))  # noqa: SIM115 (for the rest of this process)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
