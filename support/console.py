"""Code that all commands share: one-line errors, command-line flags, progress."""

import argparse
import math
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path


class UserError(Exception):
    """A problem that the user can solve. Its text says in one line what is wrong and what to do."""


def one_line(error):
    """Return the text of an exception on one line, or its type if it has no text."""
    return " ".join(map(str.strip, str(error).splitlines())) or type(error).__name__


def printable(text):
    """Return `text` with each control or unassigned character escaped, such as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Escaped:
    """A text stream that escapes control characters, and characters that `stream` cannot encode.

    File and class names are data: they must not move the cursor or change the colours of a terminal.
    """

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        """Write `text` with its control characters escaped, except line ends."""
        text = "\n".join(map(printable, text.split("\n")))
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name):
        return getattr(self.stream, name)


def is_out_of_memory(error):
    """Return whether an exception says that the memory of the processor or of the GPU ran out."""
    texts = "out of memory|not enough memory|allocate memory|size calculation overflowed|start new thread"
    return isinstance(error, MemoryError) or bool(re.search(texts, str(error)))


process = None  # number of this process, if torchrun started it


def has_lost_process(error):
    """Return whether an exception says that another process of torchrun has ended."""
    return process is not None and bool(re.search("by peer|Broken pipe|refused", str(error)))


def run_command(main):
    """Call `main()`. An error that the user can cause ends in one line on stderr and exit status 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a command as Ctrl-C does
    socket.setdefaulttimeout(15)  # seconds, for a download from a server that does not answer
    try:
        with redirect_stdout(Escaped(sys.stdout or open(os.devnull, "w"))):
            main()
            sys.stdout.flush()
        return
    except UserError as error:
        message = one_line(error)
    except KeyboardInterrupt:
        message = "interrupted"
    except BrokenPipeError:  # nobody reads the output any more, as in `python train.py | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = "interrupted: the output was closed"
    except OSError as error:  # such as a full disk or a missing permission
        message = f"{error.filename or 'cannot write'}: {error.strerror or one_line(error)}"
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            message = "out of memory; train with a smaller --batch-size, --image-size or --limit"
        elif has_lost_process(error):
            message = "another process of torchrun has ended"
        else:
            raise
    if process:
        time.sleep(5)  # if the first process has the same error, torchrun ends this one before it prints
    print(printable(f"{Path(sys.argv[0]).name}: {message}"), file=sys.stderr)
    sys.exit(2)


# ---------------------------------------------------------------- the command line


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError, and keeps the line breaks of its description in --help."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.color = False  # Python 3.14 colours --help with control characters, which are escaped here

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")

    def typed(self):
        """Return {name: value} of the flags that the user typed, without defaults."""
        unset = argparse.Namespace(**dict.fromkeys(vars(self.parse_args()), self))
        values = vars(self.parse_args(namespace=unset))
        return {name: value for name, value in values.items() if value is not self}


def positive(number):
    """Return an argparse type for a `number` (int or float) above zero."""

    def parse(text):
        value = number(text)
        if not 0 < value < (2**31 if number is int else math.inf):
            raise ValueError
        return value

    parse.__name__ = f"positive {number.__name__}"  # argparse prints it: invalid positive int value
    return parse


def seed(text):
    """Parse a seed, an integer from 0 to 2³² - 1."""
    if not 0 <= int(text) < 2**32:
        raise ValueError
    return int(text)


def path(text):
    """Parse a path; expand a leading ~, which shells do not expand in --data=~/mine."""
    if not text:
        raise ValueError
    return os.path.expanduser(text)


def add_network_flags(parser, architecture, init="default"):
    """Add the flags that choose one network, by default initialised with `init`.

    `architecture` has the names and defaults of the parameters of the custom networks.
    """
    add, number = parser.add_argument, {"type": positive(int), "metavar": "N"}
    add("--model", choices=("vgg16", "encoder", "resnet"), default="resnet", help="default: resnet")
    inits = ("default", "xavier", "pretrained", "transfer")
    text = "initial weights: PyTorch's default, Xavier, ImageNet (only vgg16) or another run"
    add("--init", choices=inits, default=init, help=f"{text} (default: {init})")
    text = "RUN/model.pt for --init transfer, or a file with ImageNet weights for --init pretrained"
    add("--weights", type=path, metavar="FILE", help=text)
    add("--freeze", action="store_true", help="train only the last layer (--init transfer or pretrained)")
    texts = (
        "number of blocks of the encoder or ResNet; each halves the image size",
        "output channels of the stem and of the first convolution in each block",
        "output channels of the second convolution in each block",
        "units of the first hidden fully connected layer",
        "units of the second hidden fully connected layer",
    )
    for (name, value), text in zip(architecture.items(), texts, strict=True):
        add(f"--{name.replace('_', '-')}", default=value, help=f"{text} (default: {value})", **number)


def add_training_flags(parser, augment=False, epochs="5, more for few images"):
    """Add the flags that all training scripts share.

    `augment` is the default of the script; the text `epochs` describes its default number of epochs.
    """
    add, number = parser.add_argument, {"type": positive(int), "metavar": "N"}
    add("--data", type=path, default="auto", help="auto (default), mnist, fashion, digits or a folder")
    add("--epochs", help=f"default: {epochs}", **number)
    add("--batch-size", help="default: 128; 32 for vgg16 and with --freeze", **number)
    text = "maximum learning rate (default: 0.003; one epoch 0.005; frozen 0.03; vgg16 0.0001, frozen 0.003)"
    add("--lr", type=positive(float), metavar="RATE", help=text)
    switch, text = argparse.BooleanOptionalAction, "augment training images with random affine transforms"
    add("--augment", action=switch, default=augment, help=text)
    text = "resize images to N×N pixels (default: vgg16 224; 64 if sizes vary or exceed 128; else unchanged)"
    add("--image-size", help=text, **number)
    add("--limit", help="use at most N training and N test images", **number)
    add("--seed", type=seed, default=0, metavar="N", help="seed of random numbers in training (default: 0)")
    add("--device", help="cpu, cuda or mps (default: a GPU if there is one)")
    add("--precision", choices=("fp32", "bf16"), help="default: bf16 if the hardware is faster with it")
    add("--threads", help="CPU threads (default: all cores)", **number)


def add_output_flags(parser, picture):
    """Add the flags of a command that draws a picture and may write a table."""
    parser.add_argument("--picture", type=path, default=picture, metavar="FILE", help=f"default: {picture}")
    parser.add_argument("--csv", type=path, metavar="FILE", help="also write the table to this file")


def check_flags(settings, architecture):
    """Raise UserError if network flags contradict each other or --augment."""
    vgg16, transfer = settings.model == "vgg16", settings.init == "transfer"
    other_weights = transfer or settings.init == "pretrained"
    custom = any(getattr(settings, name) != value for name, value in architecture.items())
    for is_wrong, problem in (
        (vgg16 and custom, "vgg16 has a fixed architecture: leave out flags such as --n-blocks"),
        (not vgg16 and settings.init == "pretrained", "--init pretrained needs --model vgg16"),
        (settings.weights and not other_weights, "--weights needs --init transfer or pretrained"),
        (transfer and not settings.weights, "--init transfer needs --weights RUN/model.pt"),
        (settings.freeze and not other_weights, "--freeze needs --init transfer or pretrained"),
        (settings.freeze and settings.augment, "--freeze computes the features once: leave out --augment"),
    ):
        if is_wrong:
            raise UserError(problem)


def command(script, *words, n_processes=1):
    """Return the command line that runs `script`, such as "train.py", with `words`, quoted for the shell.

    It works in the current folder even if the scripts are in another one. A Path that begins with - gets ./
    """
    launcher = ["torchrun", "--nproc-per-node", n_processes] if n_processes > 1 else ["python"]
    file = os.path.join(os.path.dirname(sys.argv[0]), script)
    words = [f"./{word}" if isinstance(word, Path) and str(word)[0] == "-" else str(word) for word in words]
    words = [*map(str, launcher), file, *words]
    if sys.platform != "win32":
        return shlex.join(words)
    return " ".join(word if re.fullmatch(r"[\w.,:=+/\\-]+", word) else f'"{word}"' for word in words)


# ---------------------------------------------------------------- progress


def duration(seconds):
    """Return `seconds` as a readable text: "8 s", "4 min 10 s", "3 h 05 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def progress(items, task, n_items=None, n_after=0):
    """Yield `items`, and print the share that is done and the time left: "reading: 20%, 8 s left".

    `n_items` is needed if `items` has no len(). If `n_after` more such items follow in later calls, the time
    left includes them. A terminal updates the line in place; elsewhere a line is printed every 10 seconds.
    """
    n_items = len(items) if n_items is None else n_items
    stream = sys.stdout.stream if isinstance(sys.stdout, Escaped) else sys.stdout
    in_place = stream.isatty() and os.environ.get("TERM") != "dumb"
    started = shown = time.monotonic()
    try:
        for n_done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - shown >= (0.1 if in_place else 10):
                shown = now
                left = (now - started) / n_done * (n_items + n_after - n_done)
                line = printable(f"{task}: {n_done / n_items:.0%}, {duration(left)} left")
                if in_place:
                    # \x1b[K erases the line; after \r the next text replaces it.
                    line = f"\x1b[K{line[: shutil.get_terminal_size().columns - 1]}\r"
                print(line, end="" if in_place else "\n", flush=True, file=stream if in_place else sys.stdout)
    finally:  # also if an exception ends the loop of the caller
        if in_place and shown > started:
            print("\x1b[K", end="", flush=True, file=stream)
