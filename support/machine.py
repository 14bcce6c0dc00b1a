"""Devices, precision, memory, and the processes that torchrun starts."""

import atexit
import ctypes
import os
import platform
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from support import console
from support.console import UserError, is_out_of_memory

# ---------------------------------------------------------------- device


def choose_device(name=None):
    """Return `name`, by default the first usable of cuda, mps and cpu. Raises UserError if it is unusable."""
    if not name:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and n_processes() > max(1, torch.cuda.device_count()):
        raise UserError(f"--device cuda: {torch.cuda.device_count()} GPUs for {n_processes()} processes")
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise UserError(f"--device {name}: does not exist here; try --device cpu") from None
    return name


def processor():
    """Return torch's dict of CPU capabilities, such as cpu_name and avx512_bf16; {} before torch 2.13."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def hardware(device):
    """Return the name of the processor or GPU that `device` stands for."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    kind = torch.backends.cpu.get_cpu_capability() if device.startswith("cpu") else device
    return f"{processor().get('cpu_name') or platform.machine()}, {kind}"


def has_fast_bf16(device):
    """Return whether `device` multiplies bf16 matrices in hardware; without that, fp32 is faster."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = processor() if device == "cpu" else {}
    # On Intel's AVX-512 without AMX, training in bf16 is slower than in fp32.
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and "Intel" not in has.get("cpu_name", "")))


def autocast(settings):
    """Return the autocast context for `settings.precision` on `settings.device`."""
    device_type = torch.device(settings.device).type
    return torch.autocast(device_type, torch.bfloat16, enabled=settings.precision == "bf16")


def to_device(data, device):
    """Return `data.to(device)`, or `data` unchanged if it does not fit there."""
    try:
        return data.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return data


def keep_freed_memory():
    """Let this process keep the memory that it frees (Linux with glibc; see mallopt(3)).

    By default malloc returns large blocks to the kernel, and each training step gets them back page by page.
    vgg16 loses two thirds of its speed to these page faults, the ResNet a seventh.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never return the end of the heap
        libc.mallopt(-4, 0)  # M_MMAP_MAX: never give a block a mapping of its own


# ---------------------------------------------------------------- processes


def join_torchrun():
    """Join the other processes if torchrun started this one. Only the first process prints.

    All of torchrun's variables must be set: other programs may set a single one, such as LOCAL_RANK.
    """
    numbers = [os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    if all(map(str.isdecimal, numbers)) and {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        if int(numbers[0]) > 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of this process)
            for number in (signal.SIGINT, signal.SIGTERM):  # only the first process reports it
                signal.signal(number, signal.SIG_DFL)
        console.process = int(numbers[0])
        if int(numbers[1]) < torch.cuda.device_count():
            torch.cuda.set_device(int(numbers[1]))  # "cuda" then means a different GPU in each process
        dist.init_process_group(timeout=timedelta(days=1))  # a process may wait long for another
        atexit.register(dist.destroy_process_group)


is_alone = False  # search.py sets it to True while each process trains its own network


def together():
    """Return whether all processes of torchrun train one network together, not one each (`is_alone`)."""
    return dist.is_initialized() and not is_alone


def rank():
    """Return the number of this process, from 0. Process 0 prints and writes files."""
    return dist.get_rank() if together() else 0


def n_processes():
    """Return how many processes work together; without torchrun it is 1."""
    return dist.get_world_size() if together() else 1


def from_first(function):
    """Call `function` in the first process; all return its result. If it fails, torchrun ends the others."""
    result = [function() if rank() == 0 else None]
    if n_processes() > 1:
        dist.broadcast_object_list(result)
    return result[0]


def sum_over_processes(numbers):
    """Return the list of `numbers`, each summed over all processes."""
    sums = torch.tensor(numbers)
    if n_processes() > 1:
        dist.all_reduce(sums)
    return sums.tolist()
