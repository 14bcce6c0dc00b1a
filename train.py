"""Train one of the exercise sheet's networks; write its weights, metrics and pictures into a run folder.

python train.py --model resnet --init xavier
"""

import math
import os
import time
from dataclasses import replace
from pathlib import Path

# Waiting OpenMP threads must not spin: otherwise two trainings at once take ten times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # OpenMP reads this when torch is imported

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import models
from data import batch_to_float, batches, describe_data, find, introduce, load
from support import charts, console, machine, run_folder
from support.console import Parser, UserError, command, path, progress, run_command

COLUMNS = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")  # of metrics.csv
HEADER = "  ".join(COLUMNS).replace("_", " ")
ROW = "{:5} {:11.4f} {:15.2%} {:10.4f} {:14.2%} {:8.1f}"

# ---------------------------------------------------------------- the loop


def train_epoch(model, data, settings, epoch, optimizer, scheduler, task):
    """Train `model` for one epoch; return its mean loss and accuracy (0 to 1) over the training images."""
    model.train()
    loss_sum, n_correct, n_seen = 0.0, 0, 0
    n_steps = math.ceil(len(data) / settings.batch_size)
    steps = batches(data, settings, epoch, machine.rank(), machine.n_processes())
    for images, labels in progress(steps, task, n_steps, n_after=n_steps * (settings.epochs - epoch - 1)):
        with machine.autocast(settings):
            logits = model(images)  # (batch, classes)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        loss_sum += loss.detach() * len(labels)  # stays on the device: .item() waits for the GPU
        n_correct += (logits.argmax(dim=1) == labels).sum()
        n_seen += len(labels)
    loss_sum, n_correct, n_seen = machine.sum_over_processes([loss_sum, n_correct, n_seen])
    return loss_sum / n_seen, n_correct / n_seen


def train(model, train_data, test_data, settings, folder=None, task=None):
    """Train `model` in place; return (history, logits).

    `history` has a dict for each epoch, a row of metrics.csv; `logits`, float32 (N, classes), are the outputs
    for the test images after the last epoch. With a `folder`, each epoch writes metrics.csv there and, except
    the last, state.pt; training continues from an existing state.pt. `task` is the title of the progress
    line; without it, the epochs are printed as a table. Random numbers depend only on seed, epoch, step and
    process: a resumed run ends with bit-identical weights. Raises UserError if the loss is not finite.
    """
    machine.keep_freed_memory()
    # Makes a GPU deterministic, except AdaptiveAvgPool2d's backward pass (vgg16 below 224 pixels).
    torch.backends.cudnn.deterministic = True
    train_data, test_data = (machine.to_device(data, settings.device) for data in (train_data, test_data))
    n_steps = settings.epochs * math.ceil(len(train_data) / settings.batch_size)
    optimizer, scheduler = optimisation(model, settings.lr, n_steps)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    history = run_folder.load_state(folder, settings.device, **parts)
    network = model
    if machine.n_processes() > 1:
        # With this flag, DDP never regroups gradients: a resumed run sums them in the same order.
        network = DistributedDataParallel(model, find_unused_parameters=True)
    if not task:
        print(HEADER, flush=True)
        for row in history:
            print(ROW.format(*row.values()))
    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        title = task or f"epoch {epoch + 1} of {settings.epochs}"
        train_metrics = train_epoch(network, train_data, settings, epoch, optimizer, scheduler, title)
        seconds = time.perf_counter() - started
        *test_metrics, logits = evaluate(model, test_data, settings)
        numbers = (epoch + 1, *train_metrics, *test_metrics, seconds)
        history.append(row := dict(zip(COLUMNS, numbers, strict=True)))
        if not math.isfinite(row["train_loss"] + row["test_loss"]):
            raise UserError("training diverged: the loss is not finite; try again with a smaller --lr")
        if not task:
            print(ROW.format(*numbers), flush=True)
        if folder and machine.rank() == 0:
            run_folder.write_csv(folder / "metrics.csv", history)
            if epoch + 1 < settings.epochs:  # after the last epoch the caller writes model.pt
                run_folder.save_state(folder, history, **parts)
    return history, logits


def optimisation(model, lr, n_steps):
    """Return (optimizer, scheduler): AdamW (Loshchilov & Hutter 2019) with a one-cycle rate (Smith 2018).

    The learning rate rises from `lr` / 25 to `lr` in the first 30 % of the `n_steps`, then falls to almost
    zero. With fewer than four steps there is no warm-up: the learning rate stays at `lr` / 2.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    if n_steps < 4:
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=n_steps)


def evaluate(model, data, settings):
    """Return the mean cross-entropy, the accuracy (0 to 1) and the logits, float32 (N, classes)."""
    logits, labels = predict(model, data.images, settings), data.labels.to(settings.device)
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return F.cross_entropy(logits, labels).item(), accuracy.item(), logits.cpu()


@torch.no_grad()
def predict(model, images, settings, task="testing"):
    """Return logits, float32 (N, classes), for `images`: uint8 (N, channels, height, width), or features."""
    model.eval()
    logits = []
    for batch in progress(images.split(settings.batch_size), task):
        with machine.autocast(settings):
            logits.append(model(batch_to_float(batch.to(settings.device), settings.image_size)).float())
    return torch.cat(logits)


def extract_features(model, train_data, test_data, settings):
    """Return (layer, train, test): the last layer of `model`, and both ImageData with features as images.

    Features are the inputs of this layer, float32 (N, features), computed once, in evaluation mode.
    """
    name, layer = models.last_layer(model)
    model.set_submodule(name, torch.nn.Identity())
    features = [
        predict(model, data.images, settings, "computing features") for data in (train_data, test_data)
    ]
    model.set_submodule(name, layer)
    return layer, replace(train_data, images=features[0]), replace(test_data, images=features[1])


# ---------------------------------------------------------------- the run


def complete(settings, data, usual_epochs=5, most_epochs=50):
    """Set the defaults in `settings` that depend on the model, the training `data` and the machine."""
    vgg16, size = settings.model == "vgg16", settings.image_size
    settings.device = machine.choose_device(settings.device)
    settings.batch_size = settings.batch_size or (32 if vgg16 or settings.freeze else 128)
    if not settings.epochs:
        epochs_for_150_steps = math.ceil(150 / math.ceil(len(data) / settings.batch_size))
        settings.epochs = max(usual_epochs, min(epochs_for_150_steps, most_epochs))
    if not settings.lr and settings.freeze:
        settings.lr = 0.003 if vgg16 else 0.03
    elif not settings.lr:
        settings.lr = 0.0001 if vgg16 else 0.005 if settings.epochs == 1 else 0.003
    settings.image_size = [size, size] if isinstance(size, int) else size or list(data.images.shape[2:])
    settings.precision = settings.precision or ("bf16" if machine.has_fast_bf16(settings.device) else "fp32")
    settings.threads = settings.threads or torch.get_num_threads()
    torch.set_num_threads(settings.threads)


def prepare(script, settings, *epochs):
    """Load the data, `complete` the settings, build the model; return (train, test, model, config)."""
    settings.image_size = settings.image_size or (224 if settings.model == "vgg16" else None)
    train_data, test_data = load(settings.data, settings.limit, settings.image_size)
    introduce(train_data, test_data)
    complete(settings, train_data, *epochs)
    model = models.build(settings, len(train_data.classes), train_data.images.shape[1])
    n_parameters = sum(map(torch.numel, model.parameters()))
    print(f"{settings.model}, {settings.init} initialisation, {n_parameters:,} parameters", end="; ")
    print(f"seed {settings.seed}; {settings.device}, {settings.precision}, {settings.threads} threads")
    config = run_folder.describe_run(script, settings, describe_data(train_data, test_data), n_parameters)
    return train_data, test_data, model, config


def main():
    """Train as the command line says."""
    machine.join_torchrun()
    parser = Parser(description=__doc__)
    console.add_network_flags(parser, models.ARCHITECTURE)
    console.add_training_flags(parser)
    parser.add_argument("--out", type=path, metavar="DIR", help="new run folder (default: in runs/)")
    parser.add_argument("--resume", type=path, metavar="RUN", help="continue the run in this folder")
    settings = parser.parse_args()
    out, resume = (vars(settings).pop(name) for name in ("out", "resume"))
    if resume and Path(resume, "model.pt").exists():
        return print(f"{resume} is finished; its results are in this folder")
    if resume:
        settings, config = run_folder.resumed(resume, parser)
    console.check_flags(settings, models.ARCHITECTURE)
    settings.data = machine.from_first(lambda: find(settings.data))
    train_data, test_data, model, described = prepare("train.py", settings)
    name = f"{settings.model}-{settings.init}" + "-frozen" * settings.freeze
    folder = Path(resume) if resume else machine.from_first(lambda: run_folder.new_folder(name, out))
    if resume:
        run_folder.check_same(folder, config, described)
    if machine.rank() == 0:
        run_folder.write_config(folder, described)
    with run_folder.resumable("train.py", folder, machine.n_processes()):
        to_train, inputs = model, (train_data, test_data)
        if settings.freeze:  # train the last layer, which is a part of `model`
            to_train, *inputs = extract_features(model, *inputs, settings)
        history, logits = train(to_train, *inputs, settings, folder)
        if machine.rank() == 0:
            finish(folder, model, test_data, logits.argmax(dim=1), history, settings)


def finish(folder, model, test_data, predicted, history, settings):
    """Draw the pictures of a run, print its result, and write model.pt, which marks a finished run."""
    n = len(test_data.classes)
    matrix = torch.bincount(test_data.labels * n + predicted, minlength=n * n).view(n, n)  # true, predicted
    title = f"{settings.model}, {settings.init} initialisation, seed {settings.seed}, on {test_data.source}"
    n_wrong = (predicted != test_data.labels).sum().item()
    result = f"{1 - n_wrong / len(predicted):.2%} ({n_wrong:,} of {len(predicted):,} test images wrong)"
    charts.draw_curves(folder / "curves.png", history, title)
    charts.draw_confusion(folder / "confusion.png", matrix, test_data.classes, title, f"accuracy {result}")
    weights = {name: weight.cpu() for name, weight in model.state_dict().items()}  # readable without a GPU
    run_folder.write_tensors(folder / "model.pt", weights)
    (folder / "state.pt").unlink(missing_ok=True)
    print(f"\ntest accuracy on {test_data.source}: {result}")
    sizes = matrix.sum(dim=1)
    if sizes.max() > 2 * sizes.min():
        accuracies = (matrix.diagonal() / sizes)[sizes > 0]
        print(f"mean accuracy over the classes: {accuracies.mean():.2%} (the classes differ in size)")
    print(f"see {folder}/curves.png and {folder}/confusion.png; the weights are in {folder}/model.pt")
    others = [] if folder.parent == Path("runs") else [folder]
    print(f"next, compare runs: {command('compare.py', *others)}")
    print(f"or classify images: {command('predict.py', folder, 'FILE')}")


if __name__ == "__main__":
    run_command(main)
