"""Train one of the exercise sheet's networks: settings → data → model → training loop → a run folder.

Example: python train.py --model resnet --init xavier
"""

import hashlib
import io
import json
import math
import platform
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision

import figures
import models
from data import batch_to_float, find, load, mix, random_order
from diagnose import confusion_matrix
from runs import (
    TABLE_HEADER,
    Progress,
    UserError,
    Watch,
    is_out_of_memory,
    keep_freed_memory,
    locked,
    new_run_folder,
    one_line,
    run_command,
    table_row,
    write_csv,
    write_json,
    write_tensors,
)
from settings import ARCHITECTURE, Settings, complete, hardware_name, parse

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
    else:
        models.initialise(model, settings.init)
    return model.to(settings.device, memory_format=torch.channels_last)


def optimisation(model, lr, n_steps):
    """Return (optimizer, scheduler): AdamW (Loshchilov & Hutter 2019) and one cycle (Smith 2018).

    The rate rises from `lr` / 25 to `lr` in the first 30 % of the `n_steps`, then falls to almost zero.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=n_steps)


def fit(model, train, test, settings, folder=None):
    """Train `model` in place with the optimiser of `optimisation`.

    `train` and `test` are ImageData, `settings` complete. Prints a row per epoch and returns the rows, a list
    of dicts. With `folder`, goes on from its state.pt where there is one, and keeps state.pt and metrics.csv
    there up to date. All randomness is a function of (seed, epoch, step), so a run that is resumed ends with
    the same weights, bit by bit, as one that was never interrupted. Raises UserError when the loss is no
    longer finite.
    """
    keep_freed_memory()
    train, test = on_device(train, settings.device), on_device(test, settings.device)
    n_steps = math.ceil(len(train) / settings.batch_size)  # in an epoch
    optimizer, scheduler = optimisation(model, settings.lr, settings.epochs * n_steps)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    at = load_state(folder, parts, settings.device)
    print(TABLE_HEADER, *map(table_row, at["history"]), sep="\n", flush=True)
    watch = Watch(settings.epochs, len(train), len(test))

    for epoch in range(len(at["history"]), settings.epochs):
        order = random_order(len(train), settings.seed, epoch).to(train.images.device)
        model.train()
        watch.start_epoch(epoch, at["n_seen"], at["seconds"])
        for step in range(math.ceil(at["n_seen"] / settings.batch_size), n_steps):
            torch.manual_seed(mix(settings.seed, epoch, 1 + step))  # for augmentation and dropout
            batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            labels = train.labels[batch].to(settings.device)
            images = train.images[batch].to(settings.device)
            images = batch_to_float(images, settings.image_size, settings.augment)

            with autocast(settings):
                logits = model(images)  # (batch, classes)
                loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

            at["n_seen"] += len(batch)
            at["loss_sum"] += loss.detach() * len(batch)  # stays on the device: reading it makes a GPU wait
            at["n_right"] += (logits.argmax(dim=1) == labels).sum()
            if watch.due():
                watch.show(at["n_seen"], finite(at["loss_sum"]))
                if folder and watch.time_to_save():
                    with watch.saving():
                        save_state(folder, parts, {**at, "seconds": watch.seconds()})

        row = {"epoch": epoch + 1, "train_loss": finite(at["loss_sum"]) / len(train)}
        row["train_accuracy"] = at["n_right"].item() / len(train)
        seconds = watch.seconds()  # of training, without the evaluation
        row["test_loss"], row["test_accuracy"] = evaluate(model, test, settings)
        row["seconds"] = seconds
        print(table_row(row), flush=True)
        at = start_of_epoch([*at["history"], row], settings.device)
        if folder:
            write_csv(folder / "metrics.csv", at["history"])  # before the state that says this epoch is over
            save_state(folder, parts, at)
    return at["history"]


def on_device(data, device):
    """Return the ImageData `data` with its tensors on `device`, or where they do not fit there, as it is."""
    try:
        return data.to(device)
    except torch.OutOfMemoryError:
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
def predict(model, data, settings):
    """Return the logits of all of `data`, float32 (N, classes), on the device of `settings`."""
    model.eval()
    logits, progress = [], Progress()
    for images in data.images.split(settings.batch_size):
        images = batch_to_float(images.to(settings.device), settings.image_size)
        with autocast(settings):
            logits.append(model(images).float())
        if progress.due():
            progress.show(f"testing: {len(logits) * settings.batch_size:,} of {len(data):,} images")
    progress.clear()
    return torch.cat(logits)


def evaluate(model, data, settings):
    """Return the mean cross-entropy loss and the accuracy (0 to 1) of `model` on `data`."""
    logits = predict(model, data, settings)
    labels = data.labels.to(settings.device)
    return finite(F.cross_entropy(logits, labels)), (logits.argmax(dim=1) == labels).sum().item() / len(data)


# ---------------------------------------------------------------- interruption


def start_of_epoch(history, device):
    """Return where a run is at the start of an epoch: the rows of those before it, no image seen yet."""
    loss_sum, n_right = torch.zeros(2, device=device)
    return {"history": history, "n_seen": 0, "seconds": 0.0, "loss_sum": loss_sum, "n_right": n_right}


def save_state(folder, parts, at):
    """Write `folder`/state.pt: where the run is, and the state of `parts` (model, optimizer, scheduler)."""
    states = {name: part.state_dict() for name, part in parts.items()}
    write_tensors(folder / "state.pt", {"at": at, **states})


def load_state(folder, parts, device):
    """Put `parts` into the state of `folder`/state.pt and return where the run was; without it, the start."""
    if not folder or not (folder / "state.pt").exists():
        return start_of_epoch([], device)
    content = (folder / "state.pt").read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("not a run's state")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        at = {key: state["at"][key] for key in start_of_epoch([], device)}
    except Exception as error:  # torch.load has many kinds for a file that is not whole
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{folder}/state.pt is damaged ({type(error).__name__}): move it away, and --resume starts anew"
        ) from None
    return at


def resumable(folder):
    """Return (settings, config) of the unfinished run in `folder`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings, _ = Settings(**config["settings"]), (config["data"], config["platform"])
        if config["checksum"] != checksum(config["settings"]):
            raise ValueError("the settings were edited")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--resume {folder}: no run is there (no config.json)") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{folder}/config.json is damaged, edited, or of another version of this program"
        ) from None
    if (folder / "model.pt").exists():
        raise UserError(f"--resume {folder}: that run is finished already")
    return settings, config


# ---------------------------------------------------------------- the run


def checksum(settings):
    """Return 16 hexadecimal digits that differ where `settings`, a dict, does."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def describe(settings, model, train, test):
    """Return what config.json holds: the settings, and the data, the software and the hardware they met."""
    return {
        "settings": asdict(settings),
        "checksum": checksum(asdict(settings)),  # a run cannot go on with other settings than it began with
        "data": {
            "source": train.source,
            "n_train": len(train),
            "n_test": len(test),
            "image_shape": list(train.images.shape[1:]),
            "classes": list(train.classes),
            "fingerprint": [train.fingerprint(), test.fingerprint()],
        },
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "platform": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "hardware": hardware_name(settings.device),
        },
    }


def finish(folder, model, test, history, settings):
    """Draw the run's pictures, write its weights, say how it went; model.pt, the last file, marks its end."""
    # Once more after the last epoch's test, as a run may have been interrupted between the two.
    predicted = predict(model, test, settings).argmax(dim=1).cpu()
    n_wrong = (predicted != test.labels).sum().item()
    wrong = f"{n_wrong:,} of {len(test):,} test images wrong"
    title = f"{settings.model}, {settings.init} initialisation, seed {settings.seed} on {test.source}"
    figures.draw_curves(folder / "curves.png", history, title)
    matrix = confusion_matrix(test.labels, predicted, len(test.classes))
    figures.draw_confusion(folder / "confusion.png", matrix, test.classes, title, wrong)
    write_tensors(folder / "model.pt", model.state_dict())
    print(f"\ntest accuracy on {test.source}: {1 - n_wrong / len(test):.2%}, {wrong}")
    print(f"look at {folder}/curves.png and {folder}/confusion.png; metrics.csv and model.pt are there too")
    other = ["python", "train.py", "--model", "encoder" if settings.model == "resnet" else "resnet"]
    other += ["--init", "xavier", "--data", settings.data]
    if settings.image_size:
        other += ["--image-size", str(settings.image_size)]
    print(f"next, to compare: {shlex.join(other)}")


def main(arguments=None):
    """Train as the command line says; return the history, one row per epoch."""
    settings, out, resume = parse(__doc__, arguments)
    if resume:
        settings, config = resumable(Path(resume))
    settings = complete(settings)
    if settings.image_size:  # refuse what cannot work before the data are looked for
        models.halve(settings.image_size, 5 if settings.model == "vgg16" else settings.n_blocks)
    settings = replace(settings, data=find(settings.data))
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same weights

    train, test = load(settings.data, settings.limit, settings.image_size)
    channels, height, width = train.images.shape[1:]
    images = f"{len(train):,} training and {len(test):,} test images, {width} pixels wide and {height} high"
    print(f"{train.source}: {images}, in {len(train.classes)} classes")
    model = build(settings, len(train.classes), (channels, height, width))
    now = describe(settings, model, train, test)
    where = f"{settings.device}, {settings.precision}, {settings.threads} threads"
    network = f"{settings.model}, {settings.init} initialisation, {now['n_parameters']:,} parameters"
    print(f"{network}; seed {settings.seed}; {where}")
    if resume:
        folder = Path(resume)
        if config["data"] != now["data"]:
            raise UserError(f"--resume {folder}: the data at {settings.data} is not what that run began with")
        if config["platform"] != now["platform"]:
            print("Note: that run began with other software or hardware; its last digits may differ")
    else:
        folder = new_run_folder(f"{settings.model}-{settings.init}", out)
        write_json(folder / "config.json", now)

    go_on = f"python train.py --resume {shlex.quote(str(folder))}"
    try:
        with locked(folder):
            history = fit(model, train, test, settings, folder)
            finish(folder, model, test, history, settings)
    except KeyboardInterrupt:
        raise UserError(f"interrupted; to go on: {go_on}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        problem = error.strerror or one_line(error)
        raise UserError(f"{error.filename or folder}: {problem}; when that is mended: {go_on}") from None
    return history


if __name__ == "__main__":
    run_command(main)
