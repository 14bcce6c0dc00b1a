"""What every command shares: one-line errors, harmless output, flags, progress."""

import io
import os
import re
import shlex
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import Mock

import pytest
from commands import PROJECT, started
from conftest import FLAGS, write_folder
from hypothesis import given
from hypothesis import strategies as st

from support import console
from support.console import UserError


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (UserError("two\nlines"), "two lines"),
        (UserError("a \x1b[31mred name"), r"\x1b[31m"),
        (KeyboardInterrupt(), "interrupted"),
        (OSError(28, "No space left on device", "runs/x"), "runs/x: No space left on device"),
        (MemoryError(), "--limit"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "--batch-size"),
    ],
)
def test_user_errors_end_in_one_line_and_status_2(capfd, monkeypatch, error, fact):
    monkeypatch.setattr(sys, "argv", ["somewhere/train.py"])
    with pytest.raises(SystemExit) as end:
        console.run_command(Mock(side_effect=error))
    err = capfd.readouterr().err
    assert end.value.code == 2
    assert err.startswith("train.py: ")
    assert fact in err
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a bug"):
        console.run_command(Mock(side_effect=RuntimeError("a bug")))


@given(st.text())
def test_printed_names_cannot_control_the_terminal(text):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    console.Escaped(stream).write(text)
    stream.flush()
    written = stream.buffer.getvalue().decode("ascii")
    assert written.count("\n") == text.count("\n")
    assert all(c.isprintable() or c == "\n" for c in written)


def test_commands_print_in_a_notebook():
    with redirect_stdout(io.StringIO()) as stream:  # it has no encoding and no file descriptor either
        console.run_command(lambda: print("Ärger"))
    assert stream.getvalue() == "Ärger\n"


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        *((f"--epochs {text}", "--epochs") for text in ("0", "-1", "1.5", "x", "nan", 2**31)),
        *((f"--seed {number}", "--seed") for number in (-1, 2**32)),
        *((f"--lr {text}", "--lr") for text in ("inf", "0")),
        *((f"--data images --device {name}", name) for name in ("cuda:99", "nonsense", "meta")),
        ("--model lenet", "lenet"),
        ("--data=", "--data"),
        ("--data nowhere", "nowhere: is not a folder, nor one of auto, mnist, fashion, digits"),
        ("--model vgg16 --n-blocks 2", "--n-blocks"),
        ("--init pretrained", "vgg16"),
        ("--weights x.pt", "--init"),
        ("--init transfer", "--weights"),
        ("--freeze", "--init"),
        ("--freeze --augment --init transfer --weights x.pt", "--augment"),
        ("--data images --init transfer --weights nowhere.pt", "nowhere.pt"),
        ("--data images --n-blocks 4", "8 → 4 → 2 → 1 → nothing; the smallest size that works is 16×16"),
        (
            "--data images --model vgg16 --image-size 18",
            "18 → 9 → 4 → 2 → 1 → nothing; the smallest size that works is 32×32",
        ),
        ("--data images --n-blocks 2000000", "2000000"),
        ("--data images --n-blocks 2 --lr 1e30", "--lr"),
        ("--resume nowhere", "nowhere"),
    ],
)
def test_invalid_flags_end_in_one_line(refused, folder, line, fact):
    assert fact in refused(f"train.py {line} --threads 1")
    written = [path.name for path in Path("runs").rglob("*")]  # only a training that begins makes a folder
    assert written == (["resnet-default", "config.json"] if "1e30" in line else [])


def test_help_lists_flags_and_defaults(type_in):
    help_text = type_in("train.py --help").out
    assert {"--model", "--init", "--n-features-1", "--resume"} <= set(re.findall(r"--[\w-]+", help_text))
    assert "default: 144" in help_text


@pytest.mark.parametrize("words", [["a b", "-x", "it's"], [Path("-out"), "ü"], ["$HOME", "*"]])
def test_a_shell_splits_a_printed_command_into_its_words(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    line = console.command("train.py", *words)
    expected = [f"./{word}" if isinstance(word, Path) else word for word in words]
    assert shlex.split(line) == ["python", "train.py", *expected]


def test_printed_commands_work_in_another_folder(type_in, folder):
    out = type_in(f"{PROJECT}/train.py --data images --epochs 1 --out run {FLAGS}").out
    (following,) = re.findall("next.*: python (.*compare.py.*)", out)
    assert Path(following.split()[0]).is_file()
    assert "resnet default" in type_in(following).out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (11100, "3 h 05 min")]
)
def test_durations_have_at_most_two_units(seconds, text):
    assert console.duration(seconds) == text


@pytest.mark.parametrize("dumb", [False, True])
def test_progress_yields_all_items_and_a_terminal_shows_percent_and_time_left(monkeypatch, dumb):
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True
    with redirect_stdout(stream):
        items = list(console.progress((time.sleep(0.06) or n for n in range(6)), "reading\x1b", 6, n_after=6))
    assert items == [0, 1, 2, 3, 4, 5]
    lines = r"(\x1b\[Kreading\\x1b: \d+%, \d+ s left\r)+\x1b\[K"
    assert re.fullmatch("" if dumb else lines, stream.getvalue())


def test_a_loop_that_ends_early_leaves_no_progress_line(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stdout(stream):
        for number in console.progress(range(9), "reading"):
            time.sleep(0.06)
            if number == 4:
                break
    assert stream.getvalue().endswith("left\r\x1b[K")


# ---------------------------------------------------------------- signals and pipes


def test_a_closed_pipe_ends_the_run_in_one_line(tmp_path):
    write_folder(tmp_path / "images", n_train=200)
    os.mkfifo(tmp_path / "stdout")
    process = started("train", f"--data images --epochs 1000 --out run {FLAGS}", tmp_path)
    with open(tmp_path / "stdout") as reader:
        reader.readline()
    process.join(timeout=60)
    assert process.exitcode == 2
    assert (tmp_path / "stderr").read_text().count("\n") == 1
