"""Images per second of our training loop beside a plain PyTorch loop: same network, images and machine.

    python -m studies.bench

Each part is a process of its own, so that none inherits another's memory, threads or settings; the parts
alternate, since a machine's speed drifts, and their medians count. The pixels are random.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

from support.console import Parser, Progress, UserError, run_command
from support.files import check_replaceable, replace_rows
from support.image_files import read_images
from support.settings import Settings, complete, hardware_name

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import write_png
from torchvision.transforms import ToTensor

import train
from data import ImageData
from models import ResNet, build

N_ROUNDS = 3


def random_digits(n_images):
    """Return an ImageData of random pixels in MNIST's shape."""
    images = torch.randint(256, (n_images, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(10, (n_images,))
    return ImageData(images, labels, tuple("0123456789"), tuple(map(str, range(n_images))), "random pixels")


# ---------------------------------------------------------------- what is measured


def ours(n_images=6000, **changes):
    """Return images per second of `train.fit` in its second epoch; `changes` are of its settings."""
    settings = complete(Settings(init="xavier", epochs=2, **changes))
    data = random_digits(n_images)
    model = build(settings, 10, (1, 28, 28))
    with redirect_stdout(StringIO()):  # its table
        rows = train.fit(model, data, data.subset(torch.arange(min(128, n_images))), settings)
    return n_images / rows[1]["seconds"]


class PlainDataset(Dataset):
    """One image at a time, as torchvision.datasets.MNIST gives it with ToTensor."""

    def __init__(self, data):
        self.data = data
        self.to_tensor = ToTensor()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image = Image.fromarray(self.data.images[index, 0].numpy())
        return self.to_tensor(image), int(self.data.labels[index])


def plain(precision="fp32", n_images=3000):
    """Return images per second of a DataLoader loop in `precision`, after 640 images to warm up."""
    settings = replace(complete(Settings()), precision=precision)
    model = ResNet().to(settings.device)
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(PlainDataset(random_digits(640 + n_images)), batch_size=128, shuffle=True)
    for step, (images, labels) in enumerate(loader):
        with train.autocast(settings.device, settings.precision):
            loss = F.cross_entropy(model(images.to(settings.device)), labels.to(settings.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 4:
            loss.item()  # waits for a GPU
            start = time.perf_counter()
    loss.item()
    return n_images / (time.perf_counter() - start)


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


def reading(n_images=20000):
    """Return PNG files read per second."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{index}.png")) for index in range(n_images)]
        for image, file in zip(random_digits(n_images).images, files, strict=True):
            write_png(image, file)
        start = time.perf_counter()
        with redirect_stdout(StringIO()):
            read_images(files)
        return n_images / (time.perf_counter() - start)


def memory(n_images=60000):
    """Return the peak memory (MiB) of an epoch on as many images as MNIST has.

    Of a GPU it is what torch allocated, else the whole process, Python and torch included.
    """
    settings = complete(Settings(init="xavier", epochs=1))
    model = build(settings, 10, (1, 28, 28))
    with redirect_stdout(StringIO()):
        train.fit(model, random_digits(n_images), random_digits(n_images // 6), settings)
    if settings.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not above, as Windows has none

    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


PARTS = {
    "ours": ours,
    "ours_fp32": partial(ours, 3000, precision="fp32"),
    "vgg16": partial(ours, 384, model="vgg16", image_size=32),
    "plain": plain,
    "plain_bf16": partial(plain, "bf16"),
    "limit": limit,
    "reading": reading,
    "memory": memory,
}

# ---------------------------------------------------------------- the table

TABLE = "results/bench.csv"
COLUMNS = ("measure", "median", "low", "high", "unit")  # and the machine


def measured(part):
    """Return what the function of PARTS named `part` returns in a process of its own."""
    command = [sys.executable, "-m", "studies.bench", "--part", part]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() if ended.returncode > 0 else []  # else a signal ended it
        raise UserError(f"measuring {part} failed: {said[-1] if said else f'status {ended.returncode}'}")
    return json.loads(ended.stdout.splitlines()[-1])


def measure():
    """Return a list of rows, dicts of measure, median, low, high and unit."""
    compared = ["ours", "plain", "plain_bf16", "limit"]
    if complete(Settings()).precision == "fp32":
        compared.remove("plain_bf16")
    names = [*compared, "ours_fp32", "vgg16", "reading"] * N_ROUNDS + ["memory"]
    progress = Progress()
    values = {}  # by measure, a list with each round's
    for number, part in enumerate(names, 1):
        progress.show(f"measuring {part.replace('_', ' ')} ({number} of {len(names)})")
        result = measured(part)
        for name, value in result.items() if isinstance(result, dict) else [(part, result)]:
            values.setdefault(name, []).append(value)
    progress.clear()
    for other in compared[1:]:  # round by round, as the machine's speed drifts
        rounds = zip(values["ours"], values[other], strict=True)
        values[f"ours / {other}"] = [ours_then / other_then for ours_then, other_then in rounds]
    units = {"reading": "PNGs/s", "memory": "MiB", "matrix product": "TFLOP/s"}
    rows = []
    for name, numbers in values.items():
        unit = "×" if " / " in name else units.get(name, "images/s")
        digits = 2 if unit in ("×", "TFLOP/s") else 0
        spread = [round(function(numbers), digits or None) for function in (statistics.median, min, max)]
        rows.append(dict(zip(COLUMNS, (name, *spread, unit), strict=True)))
    return rows


def print_table(rows):
    """Print the rows of `measure`, and how ours compares."""
    median = {row["measure"]: row["median"] for row in rows}
    for row in rows:
        spread = f"({row['low']:,} to {row['high']:,})" if row["low"] < row["high"] else ""
        print(f"{row['measure']:17} {row['median']:8,} {row['unit']:9} {spread}")
    print(f"\nours is {median['ours / plain']:.2f} × the plain loop in fp32", end="")
    if "ours / plain_bf16" in median:
        print(f", {median['ours / plain_bf16']:.2f} × the plain loop in bf16", end="")
    print(f", and {median['ours / limit']:.0%} of the limit, were all its work matrix products")
    print(f"60,000 PNGs are read in {60000 / median['reading']:.1f} s")


def main():
    """Measure everything, print a table and write results/bench.csv, where other machines keep their rows."""
    parser = Parser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="measure only this, in this process")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part]()))
        return
    settings = complete(Settings())
    machine = {"hardware": hardware_name(settings.device), "precision": settings.precision}
    machine |= {"threads": settings.threads, "torch": torch.__version__}
    machine |= {"torchvision": torchvision.__version__}
    check_replaceable(TABLE, [*COLUMNS, *machine])  # before minutes of measuring
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("this takes about three minutes on two cores; leave the machine alone meanwhile", flush=True)
    rows = measure()
    print_table(rows)
    Path("results").mkdir(exist_ok=True)
    replace_rows(TABLE, [row | machine for row in rows], machine)


if __name__ == "__main__":
    run_command(main)
