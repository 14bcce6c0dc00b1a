"""A run's settings: a frozen dataclass ↔ the command line, one field per flag."""

import argparse
import math
import platform
from dataclasses import dataclass, field, fields, replace

from support.console import Parser, UserError, positive, seed_number, shell_words

import torch


def flag(default, text, **argparse_options):
    """Return a dataclass field that is a command-line flag too, with `argparse_options`.

    An int without a `type` is a positive one.
    """
    return field(default=default, metadata={"help": text, **argparse_options})


@dataclass(frozen=True)
class Settings:
    """All that makes a run what it is. None stands for what suits the model, the data or the machine."""

    model: str = flag("resnet", "network", choices=("vgg16", "encoder", "resnet"))
    init: str = flag(
        "default",
        "first weights: PyTorch's own, Xavier's, ImageNet's (vgg16 only), or another run's (see --weights)",
        choices=("default", "xavier", "pretrained", "transfer"),
    )
    n_blocks: int = flag(3, "blocks, each of which halves the image")
    n_features_1: int = flag(32, "channels of the stem and of a block's first convolution")
    n_features_2: int = flag(32, "channels of a block's second convolution")
    n_fully_1: int = flag(144, "units of the first hidden fully connected layer")
    n_fully_2: int = flag(72, "units of the second hidden fully connected layer")
    data: str = flag("auto", "auto, mnist, fashion, digits (the built-in ones) or a folder", metavar="SOURCE")
    epochs: int = flag(
        None,
        "passes over the training images (default: 5; diagnose.py 2, with --freeze 10; more of few images)",
    )
    batch_size: int = flag(None, "images in a step (default: 128; vgg16 and frozen networks 32)")
    lr: float = flag(
        None,
        "highest learning rate of the cycle (default: 0.003, in one epoch 0.005; vgg16 0.0001; "
        "with --freeze 0.03, vgg16 0.003)",
        type=positive(float),
        metavar="RATE",
    )
    augment: bool = flag(
        False,
        "move the training images by small random affine maps, or do not",
        action=argparse.BooleanOptionalAction,
    )
    freeze: bool = flag(
        False,
        "train only the last layer, with --init pretrained or transfer; the features below are computed once",
        action="store_true",
    )
    image_size: int = flag(
        None, "resize images to N×N pixels (default: as they are, large or mixed ones 64; vgg16 224)"
    )
    limit: int = flag(None, "use at most N training and N test images (default: all)")
    seed: int = flag(0, "seed of all that is random", type=seed_number, metavar="N")
    device: str = flag(None, "cpu, cuda or mps (default: cuda or mps where there is one)", metavar="NAME")
    precision: str = flag(
        None, "default: bf16 where the processor is faster with it, else fp32", choices=("fp32", "bf16")
    )
    threads: int = flag(None, "CPU threads (default: as torch and OMP_NUM_THREADS say)")
    weights: str = flag(
        None,
        "for --init transfer another run's model.pt; for --init pretrained vgg16's ImageNet weights "
        "(default: torchvision's download)",
        metavar="FILE",
    )


@dataclass(frozen=True)
class Options:
    """What a command is told besides the settings of its networks."""

    out: str = flag(None, "run folder to make (default: a new one in runs/)", metavar="DIR")
    resume: str = flag(None, "continue the interrupted run in this folder", metavar="RUN")


FEWEST_STEPS = 150  # of a training, by default
VGG16_SIZE = 224  # pixels, by default
LEARNING_RATES = {  # the highest of the cycle: in several epochs, in one epoch, with frozen features
    "encoder": (3e-3, 5e-3, 3e-2),
    "resnet": (3e-3, 5e-3, 3e-2),
    "vgg16": (1e-4, 1e-4, 3e-3),
}
ARCHITECTURE = ("n_blocks", "n_features_1", "n_features_2", "n_fully_1", "n_fully_2")


def flag_name(name):
    """Return a field's name as it is typed."""
    return f"--{name.replace('_', '-')}"


def add_flags(parser, kind, names=None, **defaults):
    """Give `parser` a flag for each field of the dataclass `kind`, or for its fields `names`.

    `defaults` take the place of the fields' own.
    """
    for setting in fields(kind):
        flag_options = {"type": positive(int), "metavar": "N"} if setting.type is int else {}
        flag_options |= setting.metadata
        default = defaults.get(setting.name, setting.default)
        if default is not None and default is not False:
            flag_options["help"] += f" (default: {default})"
        if names is None or setting.name in names:
            # Without a default here, `typed` returns only what was really typed.
            parser.add_argument(flag_name(setting.name), default=argparse.SUPPRESS, **flag_options)


def typed(parser, arguments=None):
    """Return {name: value} of the flags on the command line."""
    given = vars(parser.parse_args(arguments))
    if "" in given.values():
        raise UserError("a flag was given an empty text; leave the flag out, or give it a value")
    return given


def taken(kind, given):
    """Return a dataclass `kind` of what `typed` returned for its flags, which is taken out of `given`."""
    return kind(**{option.name: given.pop(option.name) for option in fields(kind) if option.name in given})


def parse(description, arguments=None, options_kind=Options, **defaults):
    """Return (settings, options) from the command line.

    `options_kind` is the class of the options: Options or one made of it. `defaults` take the place of
    Settings' own.
    """
    parser = Parser(description=description)
    add_flags(parser, Settings, **defaults)
    add_flags(parser, options_kind)
    given = typed(parser, arguments)
    if "resume" in given and len(given) > 1:
        other = next(name for name in given if name != "resume")
        raise UserError(f"--resume keeps the run's own settings: leave out {flag_name(other)}")
    options = taken(options_kind, given)
    if "freeze" in given:
        defaults = defaults | {"augment": False}
    settings = Settings(**(defaults | given))
    if settings.model == "vgg16" and not given.keys().isdisjoint(ARCHITECTURE):
        raise UserError(
            f"vgg16's architecture is fixed: leave out {flag_name(min(set(given) & set(ARCHITECTURE)))}"
        )
    if settings.model != "vgg16" and settings.init == "pretrained":
        raise UserError(
            f"there are no pretrained weights for {settings.model}, only for vgg16; try --init xavier"
        )
    if settings.weights and settings.init not in ("pretrained", "transfer"):
        raise UserError("--weights goes with --init transfer, and with --model vgg16 --init pretrained")
    if settings.init == "transfer" and not settings.weights:
        raise UserError(
            "--init transfer needs --weights RUN/model.pt, of the run whose weights to begin with"
        )
    if settings.freeze and settings.init not in ("pretrained", "transfer"):
        raise UserError(
            "--freeze keeps the features as they begin: it goes with --init pretrained or transfer"
        )
    if settings.freeze and settings.augment:
        raise UserError("--freeze computes the features once: leave out --augment")
    return settings, options


def flag_words(name, value):
    """Return what is typed to set the field `name` to `value`, as a list of words."""
    return [flag_name(name)] if value is True else [flag_name(name), str(value)]


def network_flags(settings, defaults):
    """Return the words that ask for the network of `settings` and its first weights, beside `defaults`."""
    words = []
    for name in ("model", "init", "weights", "freeze", *ARCHITECTURE, "image_size"):
        value = getattr(settings, name)
        own_size = name == "image_size" and settings.model == "vgg16" and value == VGG16_SIZE
        if value != getattr(defaults, name) and not own_size:
            words += flag_words(name, value)
    return words


def command_line(settings):
    """Return what to type to train with `settings`, but for what the machine decides."""
    words = ["python", "train.py"]
    for setting in fields(Settings):
        name, value = setting.name, getattr(settings, setting.name)
        if name in ("device", "precision", "threads") or value is None:
            continue
        if name in ("model", "init") or value != setting.default:
            words += flag_words(name, value)
    return shell_words(*words)


def complete(settings):
    """Return `settings` with what suits the model and the machine in place of None; check the device."""
    device = settings.device or (
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise UserError(f"--device {device}: there is none here that computes; try --device cpu") from None
    if (settings.threads or 1) > 1024:
        raise UserError(f"--threads {settings.threads}: 1024 are the most")
    vgg16 = settings.model == "vgg16"
    several, single, frozen = LEARNING_RATES[settings.model]
    lr = frozen if settings.freeze else single if settings.epochs == 1 else several
    return replace(
        settings,
        batch_size=settings.batch_size or (32 if vgg16 or settings.freeze else 128),
        lr=settings.lr or lr,
        image_size=settings.image_size or (VGG16_SIZE if vgg16 else None),
        device=device,
        precision=settings.precision or ("bf16" if has_fast_bf16(device) else "fp32"),
        threads=settings.threads or torch.get_num_threads(),
    )


def with_epochs(settings, n_train, usual=5, most=50):
    """Return complete `settings` with their epochs, by default `usual`.

    Of few images they are as many as make FEWEST_STEPS steps, but not more than `most`.
    """
    steps = math.ceil(n_train / settings.batch_size)  # of an epoch
    by_default = max(usual, min(most, math.ceil(FEWEST_STEPS / steps)))
    return replace(settings, epochs=settings.epochs or by_default)


def processor():
    """Return what torch knows of the processor: its name and instructions; nothing before torch 2.13."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def has_fast_bf16(device):
    """Return whether `device` multiplies bf16 matrices in hardware; where it does not, fp32 is faster."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = processor() if device == "cpu" else {}
    # Intel's AMX multiplies bf16 fast. Its AVX-512 alone does not, on an Emerald Rapids whose virtual machine
    # has no AMX: this loop trains 1,222 images/s there, and 1,828 in fp32 (results/bench.csv).
    avx512 = has.get("avx512_bf16") and "Intel" not in has.get("cpu_name", "")
    return bool(has.get("amx_bf16") or avx512)


def hardware_name(device):
    """Return a line that names what computes on `device`."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{processor().get('cpu_name') or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
