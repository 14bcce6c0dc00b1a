"""Several processes, started by torchrun, that train one network together. Without torchrun there is one."""

import atexit
import os
import re
import signal
from contextlib import contextmanager

import torch
import torch.distributed as dist


def ranks():
    """Return (this process's number, how many there are): (0, 1) without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def join_ranks(device):
    """Meet the other processes that torchrun started, if it did; all then compute on a `device` of their own.

    From here on a process that is told to end, as torchrun does when another one has died, ends as by Ctrl-C.
    """
    if "LOCAL_RANK" in os.environ:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(dist.destroy_process_group)


def lost_connection(error):
    """Return whether an exception says that another process can no longer be reached."""
    return bool(re.search("closed by peer|reset by peer|Broken pipe|refused", str(error)))


@contextmanager
def first_rank_first():
    """Let the first process of all run the block before the others do, as it makes files that they read."""
    rank, n_ranks = ranks()
    if rank:
        dist.barrier()
    yield
    if n_ranks > 1 and not rank:
        dist.barrier()


def total(tensor):
    """Return the sum of `tensor`, in place, over all processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
