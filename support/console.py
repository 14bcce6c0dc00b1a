"""What every command shares: errors in one line, numbers from the command line, progress to look at."""

import argparse
import ctypes
import math
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

# ---------------------------------------------------------------- errors


class UserError(Exception):
    """Something that the user can mend; its text says in one line what is wrong and what to do.

    Of the processes under torchrun only the first says it, or one where `speaks` is set.
    """

    speaks = False


def one_line(error):
    """Return an exception's text on one line, or its type where it has no text."""
    return " ".join(map(str.strip, str(error).splitlines())).strip() or type(error).__name__


def printable(text):
    """Return `text` with what would not show as itself, such as a control character, escaped as \\x1b."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


class Escaped:
    """The text stream `unescaped`, on which names from files send no control characters: see `printable`."""

    def __init__(self, unescaped):
        self.unescaped = unescaped

    def write(self, text):
        """Write `text`, all but its line ends printable."""
        return self.unescaped.write("\n".join(map(printable, text.split("\n"))))

    def __getattr__(self, name):
        return getattr(self.unescaped, name)


def shell_words(*words):
    """Return a command line of `words`, quoted for the machine's shell. A Path never looks like a flag."""
    named = [isinstance(word, Path) and str(word).startswith("-") for word in words]
    words = [f"./{word}" if name else str(word) for word, name in zip(words, named, strict=True)]
    if sys.platform != "win32":
        return shlex.join(words)
    return " ".join(word if re.fullmatch(r"[\w.,:=+/\\-]+", word) else f'"{word}"' for word in words)


def is_out_of_memory(error):
    """Return whether an exception says that memory ran out, of the processor or of the GPU."""
    return isinstance(error, MemoryError) or bool(
        re.search(
            "out of memory|not enough memory|allocate memory|size calculation overflowed|start new thread",
            str(error),
        )
    )


def run_command(main):
    """Call `main()`; what a user can cause ends in one line on stderr and exit status 2, no traceback.

    Of the processes that torchrun starts on a machine, only the first says these things.
    """
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    if not speaks:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of this process)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (where the shell closed it)
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may have fewer letters than we use
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # being told to end is like Ctrl-C
        with redirect_stdout(Escaped(sys.stdout)):
            main()
        sys.stdout.flush()
        return
    except UserError as error:
        message = one_line(error)
        speaks = speaks or error.speaks
    except KeyboardInterrupt:
        message = "interrupted"
    except BrokenPipeError:  # nobody reads our output any more, as in `python train.py | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = "interrupted: the output was closed"
    except OSError as error:  # a full disk, a missing permission
        message = f"{error.filename or 'cannot write'}: {error.strerror or one_line(error)}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory; try a smaller --batch-size, --image-size or --limit"
    for told_to_end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told_to_end, signal.SIG_IGN)  # it ends
    if sys.stdout.isatty():
        print()  # leaves the progress line
    if speaks:
        print(printable(f"{Path(sys.argv[0]).name}: {message}"), file=sys.stderr)
    sys.exit(2)


def keep_freed_memory():
    """Let malloc keep what is freed, for the rest of this process: mallopt(3), of Linux' glibc only.

    Else it hands large blocks back to the kernel, and each training step gets them anew, page by page: a
    seventh of a ResNet's time in fp32, a third of vgg16's, measured in turn with and without.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap's end is never given back
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped by itself, to be unmapped when it is freed


@contextmanager
def network_timeout(seconds=15):
    """Let a server that does not answer fail a download in the block after `seconds`, not never."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# ---------------------------------------------------------------- the command line


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def __init__(self, *arguments, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)  # keeps a text's lines
        script = Path(sys.argv[0])
        if script.parent.name == "studies":
            options.setdefault("prog", f"python -m studies.{script.stem}")
        super().__init__(*arguments, **options)
        self.color = False  # Python 3.14's, whose escape sequences `Escaped` would show

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")


def positive(number):
    """Return an argparse type: a `number` (int or float) above zero."""

    def parse(text):
        value = number(text)
        if not 0 < value < (2**31 if number is int else math.inf):  # torch takes no larger sizes
            raise ValueError
        return value

    parse.__name__ = f"positive {number.__name__}"  # argparse's message: invalid positive int value
    return parse


def seed_number(text):
    """Parse an int of 32 bits that is zero or more."""
    if not 0 <= int(text) < 2**32:
        raise ValueError
    return int(text)


seed_number.__name__ = "seed"


# ---------------------------------------------------------------- what a person sees


class Progress:
    """A line that is updated in place on a terminal; into a file or pipe, a line every ten seconds."""

    def __init__(self):
        self.terminal = sys.stdout.isatty()
        self.interval = 0.1 if self.terminal else 10  # seconds
        self.last_shown = time.perf_counter()

    def due(self):
        """Return whether it is time for a new text; ask this first where making the text costs time."""
        return time.perf_counter() - self.last_shown >= self.interval

    def show(self, text):
        """Replace the line by `text`."""
        self.last_shown = time.perf_counter()
        if self.terminal:
            self.clear(printable(text)[: shutil.get_terminal_size().columns - 1])
        else:
            print(text, flush=True)

    def clear(self, text=""):
        """Remove the line, so that `text` or other output can follow."""
        if self.terminal:
            stream = getattr(sys.stdout, "unescaped", sys.stdout)
            print(f"\r\x1b[K{text}", end="", flush=True, file=stream)


def counted(items, task, n_all=None, each=1):
    """Yield `items` and show how far they are done: "reading images: 1,200 of 60,000".

    The time that is left is shown too where it is over a minute. With `n_all` there are so many things, and
    an item stands for `each` of them; without it `items` is a sequence.
    """
    progress = Progress()
    started = time.perf_counter()
    n_all = n_all or len(items)
    for n_items, item in enumerate(items, 1):
        yield item
        if progress.due():
            n_done = min(each * n_items, n_all)
            seconds_left = (time.perf_counter() - started) * (n_all / n_done - 1)
            time_left = f", about {duration(seconds_left)} left" if seconds_left > 60 else ""
            progress.show(f"{task}: {n_done:,} of {n_all:,}{time_left}")
    progress.clear()


def duration(seconds):
    """Return `seconds` as a person says them: "8 s", "4 min 10 s", "3 h 05 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


class Watch:
    """Times a training run: the progress line, one estimate of the whole, and when to save.

    Every count is in images; `n_test` are tested after each of the `n_epochs` epochs of `n_train`. With
    `task` the run is one of many, of which only a progress line with that text is shown.
    """

    def __init__(self, n_epochs, n_train, n_test, task=None):
        self.n_epochs, self.n_train, self.n_test = n_epochs, n_train, n_test
        self.task = task
        self.progress = Progress()
        self.estimated = False
        self.saved, self.save_seconds = time.perf_counter(), 0

    def print_table(self, rows):
        """Print the head of the table of epochs, and the lines of those that are over."""
        if not self.task:
            print("epoch  train loss  train accuracy  test loss  test accuracy  seconds", flush=True)
        for row in rows:
            self.print_row(row)

    def print_row(self, row):
        """Print the line of an epoch that is over."""
        self.progress.clear()
        if not self.task:
            print(
                f"{row['epoch']:5}  {row['train_loss']:10.4f}  {row['train_accuracy']:14.2%}  "
                f"{row['test_loss']:9.4f}  {row['test_accuracy']:13.2%}  {row['seconds']:7.1f}",
                flush=True,
            )

    def start_epoch(self, epoch, n_before, seconds_before):
        """Start timing `epoch` (from 0), of which `n_before` images were done before an interruption."""
        self.epoch, self.n_before, self.seconds_before = epoch, n_before, seconds_before
        self.started = time.perf_counter()

    def seconds(self):
        """Return the seconds of training in this epoch, those before an interruption included."""
        return time.perf_counter() - self.started + self.seconds_before

    def due(self):
        """Return whether to call `show`."""
        return self.progress.due()

    def show(self, n_done, loss_sum):
        """Show the state after `n_done` images of this epoch whose losses add up to `loss_sum`."""
        elapsed = time.perf_counter() - self.started
        rate = (n_done - self.n_before) / elapsed  # images a second
        # Testing has no backward pass, which is two thirds of the work, so that three images cost as one in
        # training.
        n_left = (self.n_epochs - self.epoch) * (self.n_train + self.n_test / 3) - n_done
        if elapsed > 2 and not self.estimated and not self.task:
            self.estimated = True
            self.estimate(elapsed + n_left / rate)
        if self.task:
            n_all = self.n_epochs * self.n_train
            share = (self.epoch * self.n_train + n_done) / n_all
            self.progress.show(f"{share:4.0%} of {self.task}")
            return
        self.progress.show(
            f"epoch {self.epoch + 1}/{self.n_epochs}  {n_done / self.n_train:4.0%}  {rate:,.0f} images/s  "
            f"loss {loss_sum / n_done:.4f}  {duration(n_left / rate)} left"
        )

    def estimate(self, seconds):
        """Say how long the run takes if that is over a minute; over half an hour, also what shortens it."""
        self.progress.clear()
        if seconds > 60:
            print(
                f"this training takes about {duration(seconds)}; Ctrl-C stops it, --resume goes on",
                flush=True,
            )
        if seconds > 1800:
            print("shorter: --limit 2000, --epochs 1, for large images --image-size 64", flush=True)

    def time_to_save(self, seconds=30):
        """Return whether to save: so long after the last time that saving takes a twentieth at most.

        But not before `seconds` are over.
        """
        return time.perf_counter() >= self.saved + max(seconds, 20 * self.save_seconds)

    @contextmanager
    def saving(self):
        """Time the block, which saves."""
        started = time.perf_counter()
        yield
        self.saved = time.perf_counter()
        self.save_seconds = self.saved - started
