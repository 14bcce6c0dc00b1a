"""Train one of the exercise sheet's networks: settings → data → model → training loop → a run folder.

Example: python train.py --model resnet --init xavier
"""

# The lines that train are in `train_epoch`; `train_epochs` goes over the epochs, tests, saves and resumes.

import math
import time
from dataclasses import replace
from pathlib import Path

from support import run_folder
from support.console import (
    UserError,
    Watch,
    counted,
    is_out_of_memory,
    keep_freed_memory,
    run_command,
    shell_words,
)
from support.files import write_csv, write_tensors
from support.mislabelled import are_uneven, note_contents
from support.processes import averaging, from_main, is_main, meet_others, n_processes, process_number, total
from support.randomness import mix, random_order
from support.settings import complete, parse, with_epochs

import torch
import torch.nn.functional as F

import models
from data import affine_maps, batch_to_float, find, load

COLUMNS = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")  # of metrics.csv

# ---------------------------------------------------------------- the loop


def optimisation(model, lr, n_steps):
    """Return (optimizer, scheduler): AdamW (Loshchilov & Hutter 2019) and one cycle (Smith 2018).

    The rate rises from `lr` / 25 to `lr` in the first 30 % of the `n_steps`, then falls to almost zero;
    AdamW's first beta falls from 0.95 to 0.85 and rises again. Fewer than four steps leave no room for a
    cycle. Their rate is `lr` / 2, because `lr` is too high without a warm-up. LEARNING_RATES in
    support/settings.py has the rates by default.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    if n_steps < 4:
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=n_steps)


def training_batches(train, settings, epoch, n_seen):
    """Yield (images, labels, n_images) for each step of `epoch`, skipping its first `n_seen` images.

    `images`, float, and `labels` are this process's share of the step's `n_images`, on the device.
    """
    order = random_order(len(train), settings.seed, epoch).to(train.images.device)
    share = slice(process_number(), None, n_processes())  # of a batch
    for start in range(n_seen, len(train), settings.batch_size):
        batch = order[start : start + settings.batch_size]  # indices
        step = 1 + start // settings.batch_size
        # Just before the step, so that augmentation and dropout depend on (seed, epoch, step) alone.
        torch.manual_seed(mix(settings.seed, epoch, step))
        maps = affine_maps(len(batch), train.images.shape[2:])[share] if settings.augment else None
        if not is_main():
            torch.manual_seed(mix(settings.seed, epoch, step, process_number()))  # so that dropout differs
        images = train.images[batch[share]].to(settings.device)
        labels = train.labels[batch[share]].to(settings.device)
        yield batch_to_float(images, settings.image_size, maps), labels, len(batch)


def train_epoch(network, batches, optimizer, scheduler, precision):
    """Train `network` on `batches`, those of `training_batches`. A generator: it yields after each step.

    It yields (n_images, loss_sum, n_right): the images in the step, the sum of their losses and the number of
    right answers. The last two are tensors on the device, and count this process's images only.
    """
    for images, labels, n_images in batches:
        with autocast(images.device, precision):
            logits = network(images)  # (batch, classes)
            loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        optimizer.zero_grad()
        # The mean over the step's images. Times the processes, as their gradients are averaged, not added.
        mean_loss = loss_sum * (n_processes() / n_images)
        mean_loss.backward()
        optimizer.step()
        scheduler.step()
        yield n_images, loss_sum.detach(), (logits.argmax(dim=1) == labels).sum()


def train_epochs(model, train, test, settings, folder, watch, seconds_before):
    """Train `model` for the epochs of `settings` that are still to come; return the history. See `fit`.

    `seconds_before` have gone by for this training already.
    """
    n_steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
    optimizer, scheduler = optimisation(model, settings.lr, n_steps)
    trained = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    start = run_folder.start_of_epoch([], settings.device, seconds_before)
    position = run_folder.load_position(folder, trained, settings.device) or start
    folder = folder if is_main() else None  # which only the main process writes
    network = averaging(model)
    watch.print_table(position.history)
    if folder and position.history:
        write_csv(folder / "metrics.csv", position.history)  # whatever has become of it meanwhile

    for epoch in range(len(position.history), settings.epochs):
        model.train()
        watch.start_epoch(epoch, position.n_seen, position.seconds)
        batches = training_batches(train, settings, epoch, position.n_seen)
        steps = train_epoch(network, batches, optimizer, scheduler, settings.precision)
        for n_images, loss_sum, n_right in steps:
            position.n_seen += n_images
            # The sums stay on the device: to read them, a GPU would have to wait.
            position.sums += total(torch.stack([loss_sum, n_right]))
            if is_main() and watch.due():
                watch.show(position.n_seen, finite(position.sums[0]))
                if folder and watch.time_to_save():
                    with watch.saving():
                        run_folder.save_position(folder, trained, replace(position, seconds=watch.seconds()))

        of_training = loss_and_accuracy(position.sums, len(train))  # waits for a GPU
        seconds = watch.seconds()  # without the test
        of_test = evaluate(model, test, settings)
        row = dict(zip(COLUMNS, (epoch + 1, *of_training, *of_test, seconds), strict=True))
        watch.print_row(row)
        position = run_folder.start_of_epoch([*position.history, row], settings.device)
        if folder:
            # The table first: once the state is there, the epoch counts as done. Of few images epochs are
            # short, and vgg16's state is 1.6 GB: then not every epoch is saved.
            write_csv(folder / "metrics.csv", position.history)
            if watch.time_to_save(0) or epoch + 1 == settings.epochs:
                with watch.saving():
                    run_folder.save_position(folder, trained, position)
    return position.history


def fit(model, train, test, settings, folder=None, task=None):
    """Train `model` in place, or with `settings.freeze` its last layer; return the history, a row per epoch.

    `train` and `test` are ImageData, `settings` complete. A row is a dict with the columns of metrics.csv.
    Prints the rows, or with `task` only a line of progress that names it. With `folder`, goes on from its
    state.pt where there is one, and keeps metrics.csv up to date there, and state.pt, but not after every
    epoch where saving takes long. All randomness is a function of (seed, epoch, step), so a run that is
    resumed ends with the same weights, bit by bit, as one that was never interrupted. Under torchrun each
    process trains on its share of every batch. Raises UserError when the loss is no longer finite.
    """
    keep_freed_memory()
    started = time.perf_counter()
    if settings.freeze and not train.images.is_floating_point():  # those of diagnose.py are features already
        model, train, test = frozen(model, train, test, settings)
    seconds_before = time.perf_counter() - started  # of computing the features
    train, test = on_device(train, settings.device), on_device(test, settings.device)
    watch = Watch(settings.epochs, len(train), len(test), task)
    return train_epochs(model, train, test, settings, folder, watch, seconds_before)


def frozen(model, train, test, settings):
    """Return (layer, train, test): the last layer of `model`, and ImageData for it to be trained on.

    Their `images` are the features below that layer, without dropout, float32 (N, features).
    """
    name, layer = models.last_layer(model)
    model.set_submodule(name, torch.nn.Identity())
    train, test = (
        replace(half, images=predict(model, half, settings, "computing features")) for half in (train, test)
    )
    model.set_submodule(name, layer)
    return layer, train, test


def on_device(data, device):
    """Return the ImageData `data` with its tensors on `device`, or where they do not fit there, as it is."""
    try:
        return data.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return data


def autocast(device, precision):
    """Return the context in which a network computes in `precision`, "bf16" or "fp32", on `device`."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def finite(loss):
    """Return a loss as a float; raise UserError where it is infinite or not a number."""
    if not math.isfinite(loss.item()):
        raise UserError(
            "training diverged: the loss is no longer a finite number; try again with a smaller --lr"
        )
    return loss.item()


def predict(model, data, settings, task="testing"):
    """Return the logits of all of `data`, float32 (N, classes), on the device of `settings`."""
    model.eval()
    batches = counted(data.images.split(settings.batch_size), task, len(data), each=settings.batch_size)
    return torch.cat([logits_of(model, images, settings) for images in batches])


@torch.no_grad()
def logits_of(model, images, settings):
    """Return the logits of one batch, uint8 (N, channels, height, width): float32 (N, classes)."""
    images = batch_to_float(images.to(settings.device), settings.image_size)
    with autocast(settings.device, settings.precision):
        return model(images).float()


def evaluate(model, data, settings):
    """Return the mean cross-entropy loss and the accuracy (0 to 1) of `model` on `data`."""
    share = data
    if n_processes() > 1:
        share = data.subset(torch.arange(process_number(), len(data), n_processes()))
    logits = predict(model, share, settings)
    labels = share.labels.to(settings.device)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    sums = total(torch.stack([loss, (logits.argmax(dim=1) == labels).sum()]))
    return loss_and_accuracy(sums, len(data))


def loss_and_accuracy(sums, n_images):
    """Return the mean loss and the accuracy (0 to 1), given the sums of losses and of right answers."""
    return finite(sums[0]) / n_images, sums[1].item() / n_images


# ---------------------------------------------------------------- the run


def finish(folder, model, test, history, settings):
    """Draw the run's pictures, write its weights, say how it went; model.pt, the last file, marks its end."""
    from support import pictures  # not above: only here it is needed

    from diagnose import confusion_matrix  # not above: diagnose.py imports this file

    # Once more after the last epoch's test, as a run may have been interrupted between the two.
    predicted = predict(model, test, settings).argmax(dim=1).cpu()
    n_wrong = (predicted != test.labels).sum().item()
    wrong = f"{n_wrong:,} of {len(test):,} test images wrong"
    legend = "rows: true class, columns: predicted class"
    fixed = ", all but the last layer frozen" if settings.freeze else ""
    title = f"{settings.model}, {settings.init} initialisation{fixed}, seed {settings.seed} on {test.source}"
    pictures.draw_curves(folder / "curves.png", history, title)
    matrix = confusion_matrix(test.labels, predicted, len(test.classes))
    pictures.draw_confusion(folder / "confusion.png", matrix, test.classes, title, f"{wrong}; {legend}")
    # From the CPU, as a file with a GPU's tensors cannot be read where there is none.
    write_tensors(folder / "model.pt", {name: weight.cpu() for name, weight in model.state_dict().items()})
    (folder / "state.pt").unlink(missing_ok=True)  # three times as large, 1.6 GB of vgg16, and of no more use
    print(f"\ntest accuracy on {test.source}: {1 - n_wrong / len(test):.2%}, {wrong}")
    counts = matrix.sum(dim=1)
    counts, n_right = counts[counts > 0], matrix.diagonal()[counts > 0]
    if are_uneven(counts.tolist()):
        print(
            f"mean of the classes' accuracies (the classes differ in size): {(n_right / counts).mean():.2%}"
        )
    print(f"look at {folder}/curves.png and {folder}/confusion.png; metrics.csv and model.pt are there too")
    if folder.parent == Path("runs"):
        print("next, to see all runs side by side: python compare.py")
    else:
        print(f"next, to see it in a table: {shell_words('python', 'compare.py', folder)}")
    print(f"or, to use this one: {shell_words('python', 'predict.py', folder, 'FILE')}")


def main(arguments=None):
    """Train as the command line says; return the history, a row per epoch, or None for a finished run."""
    settings, options = parse(__doc__, arguments)
    config = None
    if options.resume:
        settings, config = run_folder.read_resumable(Path(options.resume))
        if run_folder.is_finished(options.resume, "model.pt"):
            return None
    meet_others(settings.device)
    settings = complete(settings)
    models.check_image_size(settings)  # before the data are looked for
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same weights

    settings = replace(settings, data=from_main(lambda: find(settings.data)))  # which may download it
    train, test = load(settings.data, settings.limit, settings.image_size)
    channels, height, width = train.images.shape[1:]
    counts = f"{len(train):,} training and {len(test):,} test images"
    print(f"{train.source}: {counts}, {width} pixels wide and {height} high, in {len(train.classes)} classes")
    note_contents(train, test)
    settings = with_epochs(settings, len(train))
    model = models.build(settings, len(train.classes), (channels, height, width))
    description = run_folder.describe(settings, model, train, test)
    introduce(settings, model, description["n_parameters"])

    name = f"{settings.model}-{settings.init}" + ("-frozen" if settings.freeze else "")
    folder = run_folder.start_or_resume(name, description, options, config)
    with run_folder.resumable_by(["train.py", "--resume", folder], folder):
        if options.resume and from_main(lambda: run_folder.is_finished(folder, "model.pt")):
            return None  # another process has finished it meanwhile
        history = fit(model, train, test, settings, folder)
        if is_main():
            finish(folder, model, test, history, settings)
    return history


def introduce(settings, model, n_parameters):
    """Say which network will be trained, and on what."""
    size = f" at {settings.image_size}×{settings.image_size} pixels" if settings.image_size else ""
    network = f"{settings.model}{size}, {settings.init} initialisation, {n_parameters:,} parameters"
    if settings.freeze:
        n_trained = sum(parameter.numel() for parameter in models.last_layer(model)[1].parameters())
        network += f", of which the last layer's {n_trained:,} are trained"
    hardware = f"{settings.device}, {settings.precision}, {settings.threads} threads"
    hardware += f" in each of {n_processes()} processes" if n_processes() > 1 else ""
    print(f"{network}; seed {settings.seed}; {hardware}")


if __name__ == "__main__":
    run_command(main)
