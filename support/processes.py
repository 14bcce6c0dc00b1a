"""Several processes, started by torchrun, that train one network together. Without torchrun there is one."""

import atexit
import os
import re
from contextlib import contextmanager
from datetime import timedelta

from support.console import UserError

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def process_number():
    """Return this process's number, from 0; without torchrun it is 0."""
    return dist.get_rank() if together() else 0


def n_processes():
    """Return how many processes work on the same thing."""
    return dist.get_world_size() if together() else 1


def is_main():
    """Return whether this process is the one that writes files and prints."""
    return process_number() == 0


def together():
    """Return whether this process is one of several that work on the same thing."""
    return dist.is_initialized() and not on_its_own


on_its_own = False


@contextmanager
def alone():
    """Let this process train a network of its own in the block, whatever the others do."""
    global on_its_own
    on_its_own = True
    try:
        yield
    finally:
        on_its_own = False


def from_all(content):
    """Return a list of what each process has as its `content`, which pickle can take."""
    if not together():
        return [content]
    contents = [None] * dist.get_world_size()
    dist.all_gather_object(contents, content)
    return contents


def meet_others(device):
    """Meet the other processes that torchrun started, if it did. `device` is as typed, None if it was not.

    With GPUs each process takes one of its own.
    """
    if "LOCAL_RANK" not in os.environ:
        return
    cuda = torch.cuda.is_available() and device != "cpu"
    if not cuda and device != "cpu" and torch.backends.mps.is_available():
        raise UserError("torchrun needs --device cpu on this machine")
    if cuda and device not in (None, "cuda"):
        raise UserError(f"under torchrun every process takes a GPU of its own: leave out --device {device}")
    n_here, n_gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if cuda and n_here > n_gpus:  # all processes refuse, as only the first one speaks
        raise UserError(
            f"--nproc-per-node {n_here}: GPUs here: {n_gpus}; each process needs one, or --device cpu"
        )
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    a_day = timedelta(days=1)  # a process that waits for another's long work is not lost
    dist.init_process_group("nccl" if cuda else "gloo", timeout=a_day)
    atexit.register(dist.destroy_process_group)


def lost_connection(error):
    """Return whether an exception says that another process can no longer be reached."""
    return bool(re.search("closed by peer|reset by peer|Broken pipe|refused", str(error)))


def from_main(function):
    """Return what `function()` returns in the main process, which alone calls it; all raise its error."""
    result = None
    if is_main():
        try:
            result = function()
        except (UserError, OSError) as error:
            result = error
    result = from_all(result)[0]
    if isinstance(result, Exception):
        raise result
    return result


def averaging(model):
    """Return what to call for `model`'s output, so that its gradients are the mean over all processes."""
    if n_processes() == 1:
        return model
    network = DistributedDataParallel(model)
    network.broadcast_buffers = False  # they are constants: none need be sent around before every step
    return network


def total(tensor):
    """Return the sum of `tensor`, in place, over all processes."""
    if together():
        dist.all_reduce(tensor)
    return tensor
