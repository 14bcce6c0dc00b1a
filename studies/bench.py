"""How fast our training loop is, beside others on the same network, images and machine.

    python -m studies.bench

It measures images per second, of random pixels: of our loop, of a plain PyTorch loop in fp32 (and in bf16,
where that is our precision), and of a plain loop in our precision whose DataLoader has two workers. --peers
measures Lightning too (pip install lightning). Each part is a process of its own, so that none inherits
another's memory, threads or settings; the parts alternate, since a machine's speed drifts, and their medians
count.

--to-99 trains on MNIST too: how many seconds of training until an epoch ends with 99.0 % of the test images
right? Each round has another seed. Ours has its own initial weights, its schedule and a learning rate for so
many epochs; shorter trainings that were not enough do not count. The others have PyTorch's initial weights
and AdamW's usual rate. To see an older processor's speed, put ONEDNN_MAX_CPU_ISA=AVX2 before the command.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from io import StringIO
from itertools import count
from pathlib import Path

from support.console import Parser, Progress, UserError, run_command, seed_number
from support.files import check_replaceable, finite_number, read_csv, replace_rows
from support.settings import Settings, complete, hardware_name

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import train
from data import ImageData, load
from models import ResNet, build
from studies import peers

N_ROUNDS = 3


def random_digits(n_images):
    """Return an ImageData of random pixels in MNIST's shape."""
    images = torch.randint(256, (n_images, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(10, (n_images,))
    return ImageData(images, labels, tuple("0123456789"), tuple(map(str, range(n_images))), "random pixels")


# ---------------------------------------------------------------- what is measured


def our_speed(n_images=6000, **changes):
    """Return images per second of `train.fit` in its second epoch; `changes` are of its settings."""
    settings = complete(Settings(init="xavier", epochs=2, **changes))
    data = random_digits(n_images)
    model = build(settings, 10, (1, 28, 28))
    with redirect_stdout(StringIO()):  # its table
        rows = train.fit(model, data, data.subset(torch.arange(min(128, n_images))), settings)
    return n_images / rows[1]["seconds"]


def speed_of(loop, n_images=3000, **options):
    """Return images per second of one of peers' loops, after five steps to warm up."""
    n_to_warm_up = 5
    data = random_digits(n_to_warm_up * peers.BATCH_SIZE + n_images)
    seconds, _ = loop(data, n_to_warm_up=n_to_warm_up, **options)
    return n_images / seconds


def to_99(name, loop, **options):
    """Return how long `loop` trains on MNIST until 99 % of the test images are right: seconds and epochs."""
    training, test = load("mnist")
    seconds, n_epochs = loop(training, test=test, **options)
    return {f"{name}_to_99": seconds, f"{name}_to_99, epochs": n_epochs}


def our_training(training, test):
    """Return (seconds, epochs) of our shortest training, of 1, 2, … epochs, that ends with 99 %.

    Each number of epochs is a training of its own, as the learning rate follows that number.
    """
    seed = torch.initial_seed()
    for n_epochs in count(1):
        settings = complete(Settings(init="xavier", epochs=n_epochs, seed=seed))
        model = build(settings, len(test.classes), test.images.shape[1:])
        with redirect_stdout(StringIO()):
            rows = train.fit(model, training, test, settings)
        if rows[-1]["test_accuracy"] >= peers.ENOUGH:
            return sum(row["seconds"] for row in rows), n_epochs


def limit():
    """Return the machine's matrix product in our precision, TFLOP/s, and how many images/s it allows."""
    settings = complete(Settings())
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    n = 8192 if settings.device.startswith("cuda") else 2048  # large enough to keep all of it busy
    a = torch.randn(n, n, device=settings.device, dtype=dtype)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    flops_per_second = 2 * n**3 / statistics.median(seconds)
    with FlopCounterMode(display=False) as counter:
        ResNet()(torch.rand(1, 1, 28, 28)).sum().backward()
    return {"limit": flops_per_second / counter.get_total_flops(), "matrix product": flops_per_second / 1e12}


PARTS = {
    "ours": our_speed,
    "ours_fp32": partial(our_speed, 3000, precision="fp32"),
    "vgg16": partial(our_speed, 384, model="vgg16", image_size=32),
    "plain": partial(speed_of, peers.plain_loop, precision="fp32"),
    "plain_bf16": partial(speed_of, peers.plain_loop, precision="bf16"),
    "plain_workers": partial(speed_of, peers.plain_loop, 20000, n_workers=2),  # their start counts for little
    "lightning": partial(speed_of, peers.lightning),
    "limit": limit,
    "ours_to_99": partial(to_99, "ours", our_training),
    "plain_to_99": partial(to_99, "plain", peers.plain_loop, precision="fp32"),
    "plain_bf16_to_99": partial(to_99, "plain_bf16", peers.plain_loop, precision="bf16"),
    "lightning_to_99": partial(to_99, "lightning", peers.lightning),
}

# ---------------------------------------------------------------- the table

TABLE = "results/bench.csv"
COLUMNS = ("measure", "median", "low", "high", "unit")  # and the machine


def measured(part, seed):
    """Return what the function of PARTS named `part` returns in a process of its own."""
    command = [sys.executable, "-m", "studies.bench", "--part", part, "--seed", str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() if ended.returncode > 0 else []  # else a signal ended it
        raise UserError(f"measuring {part} failed: {said[-1] if said else f'status {ended.returncode}'}")
    return json.loads(ended.stdout.splitlines()[-1])


def measure(with_lightning=False, with_to_99=False):
    """Return a list of rows, dicts of measure, median, low, high and unit."""
    others, also = ["plain", "plain_workers"], []
    if complete(Settings()).precision == "bf16":
        others.append("plain_bf16")
        also.append("ours_fp32")
    if with_lightning:
        others.append("lightning")
    # Workers change nothing of what is learnt.
    timed = [f"{name}_to_99" for name in ("ours", *others) if name != "plain_workers"] if with_to_99 else []
    names = ["ours", *others, "limit", *also, "vgg16", *timed]
    progress = Progress()
    values = {}  # by measure, a list with each round's
    for seed in range(N_ROUNDS):
        for part in names:
            progress.show(f"measuring {part.replace('_', ' ')}, round {seed + 1} of {N_ROUNDS}")
            result = measured(part, seed)
            for name, value in result.items() if isinstance(result, dict) else [(part, result)]:
                values.setdefault(name, []).append(value)
    progress.clear()
    pairs = [("ours", other) for other in (*others, "limit")]
    pairs += [(name, "plain") for name in also] + [(other, "ours_to_99") for other in timed[1:]]
    for name, other in pairs:  # round by round, as the machine's speed drifts
        rounds = zip(values[name], values[other], strict=True)
        values[f"{name} / {other}"] = [value / other_value for value, other_value in rounds]
    units = {"matrix product": "TFLOP/s"} | dict.fromkeys(timed, "s")
    units |= {f"{name}, epochs": "epochs" for name in timed}
    rows = []
    for name, numbers in values.items():
        unit = "×" if " / " in name else units.get(name, "images/s")
        digits = {"×": 2, "TFLOP/s": 2, "s": 1}.get(unit, 0)
        spread = [round(function(numbers), digits or None) for function in (statistics.median, min, max)]
        rows.append(dict(zip(COLUMNS, (name, *spread, unit), strict=True)))
    return rows


def print_table(rows, kept):
    """Print the rows of `measure`; `kept` has the medians of this machine in results/bench.csv, by measure.

    Only ratios are compared with these: a machine's own speed drifts.
    """
    median = {row["measure"]: row["median"] for row in rows}
    for row in rows:
        spread = f"({row['low']:,} to {row['high']:,})" if row["low"] < row["high"] else ""
        before = kept.get(row["measure"]) if row["unit"] == "×" else None
        remark = f"before: {before}" if before else ""
        if before and row["median"] <= 0.9 * before:
            remark += ", a tenth or more is lost"
        print(f"{row['measure']:29} {row['median']:8,} {row['unit']:9} {spread:20} {remark}".rstrip())
    print(f"\nours is {median['ours / plain']:.2f} × the plain loop in fp32", end="")
    if "ours / plain_bf16" in median:
        print(f", {median['ours / plain_bf16']:.2f} × the plain loop in bf16", end="")
    print(f", and {median['ours / limit']:.0%} of the limit, were all its work matrix products")


def kept_medians(machine):
    """Return {measure: median} of those rows of results/bench.csv that are of `machine`, a dict."""
    rows = read_csv(TABLE) if Path(TABLE).exists() else []
    here = {name: str(value) for name, value in machine.items()}.items()
    try:
        return {row["measure"]: finite_number(row["median"]) for row in rows if here <= row.items()}
    except ValueError:
        raise UserError(f"{TABLE}: a median is no number; mend it, or move the file away") from None


def main():
    """Measure what the flags ask for, write it to results/bench.csv (other machines' rows stay), print it."""
    parser = Parser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="measure Lightning too")
    parser.add_argument("--to-99", action="store_true", help="measure seconds until 99.0 %% on MNIST too")
    parser.add_argument("--part", choices=PARTS, help="measure only this, in this process")
    parser.add_argument("--seed", type=seed_number, default=0, help="the seed for --part")
    given = parser.parse_args()
    if (given.peers or "lightning" in (given.part or "")) and not find_spec("lightning"):
        raise UserError("pip install lightning first")
    if given.part:
        torch.manual_seed(given.seed)
        torch.backends.cudnn.deterministic = True  # as in train.py
        print(json.dumps(PARTS[given.part]()))
        return
    if given.to_99:
        load("mnist")  # a fault in the data is named now
    settings = complete(Settings())
    hardware = hardware_name(settings.device)
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        hardware += f", oneDNN limited to {os.environ['ONEDNN_MAX_CPU_ISA']}"
    machine = {"hardware": hardware, "precision": settings.precision}
    machine |= {"threads": settings.threads, "torch": torch.__version__}
    machine |= {"torchvision": torchvision.__version__}
    check_replaceable(TABLE, [*COLUMNS, *machine])  # before minutes of measuring
    kept = kept_medians(machine)
    Path("results").mkdir(exist_ok=True)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    minutes = "half an hour" if given.to_99 else "four minutes"
    print(f"this takes about {minutes} on two cores; leave the machine alone meanwhile", flush=True)
    rows = measure(given.peers, given.to_99)
    replace_rows(TABLE, [row | machine for row in rows], ["measure", *machine])
    print_table(rows, kept)


if __name__ == "__main__":
    run_command(main)
