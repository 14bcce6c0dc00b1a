"""Compare the speed of our training loop with other loops: the sheet's ResNet, MNIST, one machine.

    python -m studies.bench --peers --to-99

For each of LOOPS, this measures the images per second in the second epoch of 6,000 images. --to-99 also
measures the seconds of training (without testing) to a test accuracy of 99 %: it tries trainings of 1, 2, …
epochs, and the first that reaches 99 % counts. Each ratio compares numbers of one round. To measure as on a
laptop without AVX-512, set the environment variable ONEDNN_MAX_CPU_ISA=AVX2.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import count, pairwise
from multiprocessing import get_context
from statistics import median

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import ToTensor

import models
import train
from data import load
from support import console, machine, run_folder

N_ROUNDS, N_IMAGES = 3, 6000
KINDS = ("workers", "in_memory", "recipe")
METHOD = "spawn"  # starts a process that inherits neither memory nor settings

# ---------------------------------------------------------------- the loops return (model, epoch seconds)


def ours(data, settings):
    """Train as train.py does."""
    model = models.build(settings, len(data.classes), data.images.shape[1])
    history, _ = train.train(model, data, data.subset(torch.arange(1)), settings, task="ours")
    return model, [row["seconds"] for row in history]


def pillow_batch(samples):
    """Return (images, labels) of a list of pairs; convert images as torchvision's MNIST and ToTensor do."""
    images = [ToTensor()(Image.fromarray(image[0].numpy())) for image, _ in samples]
    return torch.stack(images), torch.stack([label for _, label in samples])


def loader(data, n_workers=0):
    """Return the DataLoader of an ImageData; `n_workers` processes prepare its batches."""
    options = {"collate_fn": pillow_batch, "num_workers": n_workers, "persistent_workers": n_workers > 0}
    return DataLoader(TensorDataset(data.images, data.labels), 128, shuffle=True, **options)


def plain(data, settings, kind=None):
    """Train as PyTorch's tutorials do: a DataLoader converts each image with Pillow, then to a tensor.

    Each `kind` changes one thing: "workers" loads in two processes, "in_memory" keeps tensors on the device
    instead of using a DataLoader, and "recipe" uses our initial weights and learning rates.
    """
    batches, data = loader(data, 2 if kind == "workers" else 0), data.to(settings.device)
    model, seconds = models.ResNet().to(settings.device), []
    optimizer, scheduler = torch.optim.AdamW(model.parameters()), None
    if kind == "recipe":
        models.initialise_xavier(model)
        optimizer, scheduler = train.optimisation(model, settings.lr, settings.epochs * len(batches))
    for _ in range(settings.epochs):
        started = time.perf_counter()
        if kind == "in_memory":
            order = torch.randperm(len(data), device=settings.device).split(128)
            batches = ((data.images[batch].float() / 255, data.labels[batch]) for batch in order)
        for images, labels in batches:
            with machine.autocast(settings):
                loss = F.cross_entropy(model(images.to(settings.device)), labels.to(settings.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
        loss.item()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return model, seconds


def lightning(data, settings):
    """Train with Lightning's Trainer, otherwise as `plain`."""
    from lightning import LightningModule, Trainer  # only --peers needs it

    class Plain(LightningModule):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

        def training_step(self, batch):
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def on_train_epoch_start(self):
            self.model.classifier[-1].bias.sum().item()  # waits for a GPU
            self.times.append(time.perf_counter())

        on_train_end = on_train_epoch_start

    module, precision = Plain(), {"fp32": "32-true", "bf16": "bf16-mixed"}[settings.precision]
    module.model, module.times = models.ResNet(), []
    # barebones: without logs, checkpoints and progress, as Lightning's authors measure it
    trainer = Trainer(max_epochs=settings.epochs, precision=precision, devices=1, barebones=True)
    trainer.fit(module, loader(data))
    return module.model.to(settings.device), [end - start for start, end in pairwise(module.times)]


LOOPS = {"plain": plain} | {f"plain_{kind}": partial(plain, kind=kind) for kind in KINDS}
LOOPS |= {"lightning": lightning, "ours": ours}  # ours is last: it changes malloc for the whole process

# ---------------------------------------------------------------- the measurements


def run(name, data, seed, n_epochs):
    """Train with the loop `name` of LOOPS; return (settings, model, seconds of each epoch)."""
    parser = console.Parser()
    console.add_network_flags(parser, models.ARCHITECTURE, "xavier")
    console.add_training_flags(parser)
    settings = parser.parse_args([])
    settings.seed, settings.epochs = seed, n_epochs
    train.complete(settings, data)
    torch.manual_seed(seed)
    return settings, *LOOPS[name](data, settings)


def measure(seed, source, names, to_99):
    """Measure one round of the loops `names`, with ours last; return {(measure, unit): number}."""
    (data, test), measured = load(source), {}
    few = data.subset(torch.arange(len(data))[:N_IMAGES])
    for name in names:
        measured[name, "images/s"] = len(few) / run(name, few, seed, 2)[2][1]
        for n_epochs in count(1) if name in to_99 else ():
            settings, model, seconds = run(name, data, seed, n_epochs)
            if train.evaluate(model, test, settings)[1] >= 0.99:
                measured |= {(f"{name}_to_99", "s"): sum(seconds), (f"{name}_to_99, epochs", ""): n_epochs}
                break
    ratios = {f"ours / {name}": ("ours", name, "images/s") for name in names[:-1]}
    ratios |= {f"{name}_to_99 / ours_to_99": (f"{name}_to_99", "ours_to_99", "s") for name in to_99[:-1]}
    return measured | {(ratio, "×"): measured[a, u] / measured[b, u] for ratio, (a, b, u) in ratios.items()}


def main():
    """Run the measurements that the flags select; print the results, and write them to a table."""
    parser = console.Parser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="measure Lightning too")
    parser.add_argument("--to-99", action="store_true", help="also measure the seconds to 99 %% accuracy")
    parser.add_argument("--data", default="mnist", help="images of 28×28 grey pixels (default: mnist)")
    parser.add_argument("--csv", default="runs/bench.csv", help="table (default: runs/bench.csv)")
    given = parser.parse_args()
    if given.peers and not find_spec("lightning"):
        raise console.UserError("--peers: pip install lightning first")
    names = [name for name in LOOPS if given.peers or name != "lightning"]
    to_99 = [name for name in names if name not in ("plain_workers", "plain_in_memory")] * given.to_99
    device, isa = machine.choose_device(), os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
    here = {"hardware": machine.hardware(device), "oneDNN": isa, "torch": torch.__version__}
    here["precision"] = "bf16" if machine.has_fast_bf16(device) else "fp32"
    here["threads"] = torch.get_num_threads()
    columns = ("measure", "median", "low", "high", "unit", *here)
    run_folder.check_replaceable(given.csv, columns)
    rounds, rows = [], []
    for seed in console.progress(range(N_ROUNDS), "measuring"):
        with ProcessPoolExecutor(1, get_context(METHOD)) as process:
            rounds.append(process.submit(measure, seed, given.data, names, to_99).result())
    for name, unit in rounds[0]:
        numbers, digits = [each[name, unit] for each in rounds], {"×": 2, "s": 1}.get(unit, 0)
        middle, low, high = (f"{function(numbers):.{digits}f}" for function in (median, min, max))
        print(f"{name:36}{middle:>8} {unit:9} ({low} to {high})")
        rows.append(dict(zip(columns, (name, middle, low, high, unit, *here.values()), strict=True)))
    run_folder.write_csv(given.csv, rows)


if __name__ == "__main__":
    console.run_command(main)
