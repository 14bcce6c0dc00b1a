"""Train one of the exercise sheet's networks: settings → data → model → training loop → a run folder.

Example: python train.py --model resnet --init xavier
"""

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from runs import (
    TABLE_HEADER,
    Progress,
    UserError,
    Watch,
    is_out_of_memory,
    keep_freed_memory,
    run_command,
    table_row,
)

import torch
import torch.nn.functional as F

import figures
import models
from checkpoint import (
    describe,
    load_state,
    resumable,
    resumable_by,
    save_state,
    start_of_epoch,
    start_or_resume,
)
from data import affine_maps, batch_to_float, find, load, mix, random_order
from files import locked, write_csv, write_tensors
from ranks import averaging, from_first, join_ranks, ranks, total
from settings import ARCHITECTURE, VGG16_SIZE, command_line, complete, parse

# ---------------------------------------------------------------- model and training


def build(settings, n_classes, image_shape):
    """Return the initialised network of `settings` for images of `image_shape`, (channels, height, width)."""
    n_channels, *image_size = image_shape
    image_size = settings.image_size or tuple(image_size)
    torch.manual_seed(settings.seed)
    if settings.model == "vgg16":
        model = models.vgg16(n_classes, image_size)
    else:
        network = {"encoder": models.encoder, "resnet": models.ResNet}[settings.model]
        architecture = {name: getattr(settings, name) for name in ARCHITECTURE}
        model = network(n_classes, n_channels, image_size, **architecture)
    if settings.init == "pretrained":
        models.load_imagenet(model, settings.weights)
    elif settings.init == "transfer":
        models.load_run(model, settings.weights)
    else:
        models.initialise(model, settings.init)
    return model.to(settings.device, memory_format=torch.channels_last)


def optimisation(model, lr, n_steps):
    """Return (optimizer, scheduler): AdamW (Loshchilov & Hutter 2019) and one cycle (Smith 2018).

    The rate rises from `lr` / 25 to `lr` in the first 30 % of the `n_steps`, then falls to almost zero. Fewer
    than four steps leave no room for a cycle; they have `lr` / 2, as all of it is too much without a warm-up.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    if n_steps < 4:
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=n_steps)


def fit(model, train, test, settings, folder=None, label=None):
    """Train `model` in place with the optimiser of `optimisation`.

    `train` and `test` are ImageData, `settings` complete. Prints a row per epoch and returns the rows, a
    list of dicts; with `label` it prints only a line of progress, which begins with that. With `folder`,
    goes on from its state.pt where there is one, and keeps state.pt and metrics.csv there up to date. All
    randomness is a function of (seed, epoch, step), so a run that is resumed ends with the same weights,
    bit by bit, as one that was never interrupted. Under torchrun each process trains on its share of
    every batch. Raises UserError when the loss is no longer finite.
    """
    keep_freed_memory()
    rank, n_ranks = ranks()
    image_size, started = settings.image_size or max(train.images.shape[2:]), time.perf_counter()
    if settings.freeze:
        model, train, test = frozen(model, train, test, settings)
    train, test = on_device(train, settings.device), on_device(test, settings.device)
    n_steps = math.ceil(len(train) / settings.batch_size)  # in an epoch
    optimizer, scheduler = optimisation(model, settings.lr, settings.epochs * n_steps)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    at = load_state(folder, parts, settings.device)
    if settings.freeze and not at["history"] and not at["n_seen"]:
        at["seconds"] = time.perf_counter() - started  # of computing the features
    folder = None if rank else folder  # which only the first process writes
    network = averaging(model)
    watch = Watch(settings.epochs, len(train), len(test), label, image_size)
    watch.table(TABLE_HEADER, *map(table_row, at["history"]))

    for epoch in range(len(at["history"]), settings.epochs):
        order = random_order(len(train), settings.seed, epoch).to(train.images.device)
        model.train()
        watch.start_epoch(epoch, at["n_seen"], at["seconds"])
        for step in range(math.ceil(at["n_seen"] / settings.batch_size), n_steps):
            batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            images, labels = prepare(train, batch, settings, (epoch, 1 + step))
            with autocast(settings):
                logits = network(images)  # (batch, classes)
                loss = F.cross_entropy(logits, labels, reduction="sum")
            optimizer.zero_grad()
            (loss * (n_ranks / len(batch))).backward()
            optimizer.step()
            scheduler.step()

            # Sums stay on the device: reading them would make a GPU wait.
            at["n_seen"] += len(batch)
            at["sums"] += total(torch.stack([loss.detach(), (logits.argmax(dim=1) == labels).sum()]))
            if rank == 0 and watch.due():
                watch.show(at["n_seen"], finite(at["sums"][0]))
                if folder and watch.time_to_save():
                    with watch.saving():
                        save_state(folder, parts, {**at, "seconds": watch.seconds()})

        row = {"epoch": epoch + 1, "train_loss": finite(at["sums"][0]) / len(train)}
        row["train_accuracy"] = at["sums"][1].item() / len(train)
        seconds = watch.seconds()  # of training, without the evaluation
        row["test_loss"], row["test_accuracy"] = evaluate(model, test, settings)
        row["seconds"] = seconds
        watch.table(table_row(row))
        at = start_of_epoch([*at["history"], row], settings.device)
        if folder:
            write_csv(folder / "metrics.csv", at["history"])  # before the state that says this epoch is over
            save_state(folder, parts, at)
    return at["history"]


def frozen(model, train, test, settings):
    """Return (layer, train, test): the last layer of `model`, and ImageData for it to be trained on.

    Their `images` are what the layers before it make of each image, without dropout, float32 (N, features).
    """
    name, layer = models.last_layer(model)
    model.set_submodule(name, torch.nn.Identity())
    halves = [replace(half, images=predict(model, half, settings, "computing")) for half in (train, test)]
    model.set_submodule(name, layer)
    return layer, *halves


def prepare(data, batch, settings, place):
    """Return the images (float) and labels of this process's share of a step, on the device.

    `batch` holds the indices of the step's images in `data`, `place` is (epoch, step), from which the step's
    random numbers come: those of the augmentation, and later in the step those of dropout.
    """
    rank, n_ranks = ranks()
    torch.manual_seed(mix(settings.seed, *place))
    maps = affine_maps(len(batch), data.images.shape[2:])[rank::n_ranks] if settings.augment else None
    if rank:
        torch.manual_seed(mix(settings.seed, *place, rank))  # so that dropout differs
    images = data.images[batch[rank::n_ranks]].to(settings.device)
    labels = data.labels[batch[rank::n_ranks]].to(settings.device)
    return batch_to_float(images, settings.image_size, maps), labels


def on_device(data, device):
    """Return the ImageData `data` with its tensors on `device`, or where they do not fit there, as it is."""
    try:
        return data.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return data


def autocast(settings):
    """Return the context in which a network computes in the precision of `settings`."""
    return torch.autocast(
        torch.device(settings.device).type, torch.bfloat16, enabled=settings.precision == "bf16"
    )


def finite(loss):
    """Return a loss as a float; raise UserError where it is infinite or not a number."""
    if not math.isfinite(loss.item()):
        raise UserError(
            "training diverged: the loss is no longer a finite number; try again with a smaller --lr"
        )
    return loss.item()


@torch.no_grad()
def predict(model, data, settings, doing="testing"):
    """Return the logits of all of `data`, float32 (N, classes), on the device of `settings`."""
    model.eval()
    logits, progress = [], Progress()
    for images in data.images.split(settings.batch_size):
        images = batch_to_float(images.to(settings.device), settings.image_size)
        with autocast(settings):
            logits.append(model(images).float())
        if progress.due():
            progress.show(f"{doing}: {sum(map(len, logits)):,} of {len(data):,} images")
    progress.clear()
    return torch.cat(logits)


def evaluate(model, data, settings):
    """Return the mean cross-entropy loss and the accuracy (0 to 1) of `model` on `data`."""
    rank, n_ranks = ranks()
    share = data.subset(torch.arange(rank, len(data), n_ranks)) if n_ranks > 1 else data
    logits, labels = predict(model, share, settings), share.labels.to(settings.device)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    sums = total(torch.stack([loss, (logits.argmax(dim=1) == labels).sum()]))
    return finite(sums[0]) / len(data), sums[1].item() / len(data)


# ---------------------------------------------------------------- the run


def finish(folder, model, test, history, settings):
    """Draw the run's pictures, write its weights, say how it went; model.pt, the last file, marks its end."""
    from diagnose import confusion_matrix  # not above, as diagnose.py imports this file

    # Once more after the last epoch's test, as a run may have been interrupted between the two.
    predicted = predict(model, test, settings).argmax(dim=1).cpu()
    n_wrong = (predicted != test.labels).sum().item()
    wrong = f"{n_wrong:,} of {len(test):,} test images wrong"
    axes = "rows: true class, columns: predicted class"
    fixed = ", all but the last layer frozen" if settings.freeze else ""
    title = f"{settings.model}, {settings.init} initialisation{fixed}, seed {settings.seed} on {test.source}"
    figures.draw_curves(folder / "curves.png", history, title)
    matrix = confusion_matrix(test.labels, predicted, len(test.classes))
    figures.draw_confusion(folder / "confusion.png", matrix, test.classes, title, f"{wrong}; {axes}")
    # From the CPU, as a file with a GPU's tensors cannot be read where there is none.
    write_tensors(folder / "model.pt", {name: weight.cpu() for name, weight in model.state_dict().items()})
    print(f"\ntest accuracy on {test.source}: {1 - n_wrong / len(test):.2%}, {wrong}")
    print(f"look at {folder}/curves.png and {folder}/confusion.png; metrics.csv and model.pt are there too")
    init = "default" if settings.init == "default" else "xavier"
    other = "encoder" if settings.model == "resnet" else "resnet"
    other = replace(settings, model=other, init=init, freeze=False, weights=None, batch_size=None, lr=None)
    if settings.model == "vgg16" and settings.image_size == VGG16_SIZE:
        other = replace(other, image_size=None)  # which was vgg16's own
    print(f"next, to compare: {command_line(other)}")
    print("and to see all runs side by side: python compare.py")


def main(arguments=None):
    """Train as the command line says; return the history, one row per epoch, None of a finished run."""
    settings, options = parse(__doc__, arguments)
    config, resume = None, options["resume"]
    if resume:
        resumed = resumable(Path(resume), "model.pt")
        if not resumed:
            return None
        settings, config = resumed
    join_ranks(settings.device)
    rank, n_ranks = ranks()
    settings = complete(settings)
    if settings.image_size:  # refuse what cannot work before the data are looked for
        models.halve(settings.image_size, 5 if settings.model == "vgg16" else settings.n_blocks)
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same weights

    settings = replace(settings, data=from_first(lambda: find(settings.data)))  # which may download it
    train, test = load(settings.data, settings.limit, settings.image_size)
    channels, height, width = train.images.shape[1:]
    images = f"{len(train):,} training and {len(test):,} test images, {width} pixels wide and {height} high"
    print(f"{train.source}: {images}, in {len(train.classes)} classes")
    model = build(settings, len(train.classes), (channels, height, width))
    now = describe(settings, model, train, test)
    where = f"{settings.device}, {settings.precision}, {settings.threads} threads"
    where += f" in each of {n_ranks} processes" if n_ranks > 1 else ""
    network = f"{settings.model}, {settings.init} initialisation, {now['n_parameters']:,} parameters"
    if settings.freeze:
        n_trained = sum(parameter.numel() for parameter in models.last_layer(model)[1].parameters())
        network += f", of which the last layer's {n_trained:,} are trained"
    print(f"{network}; seed {settings.seed}; {where}")

    name = f"{settings.model}-{settings.init}" + ("-frozen" if settings.freeze else "")
    folder = start_or_resume(name, now, options["out"], resume, config)
    with resumable_by(["train.py", "--resume", folder], folder), nullcontext() if rank else locked(folder):
        history = fit(model, train, test, settings, folder)
        if rank == 0:
            finish(folder, model, test, history, settings)
    return history


if __name__ == "__main__":
    run_command(main)
