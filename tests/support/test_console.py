"""Errors in one line, numbers from the command line, and what a person sees while a command runs."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from support import console

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def test_what_is_counted_is_shown_and_passed_on(capsys, monkeypatch):
    monkeypatch.setattr(console.Progress, "due", lambda self: True)
    assert list(console.counted("abc", "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().out == "reading: 1 of 3\nreading: 2 of 3\nreading: 3 of 3\n"
    assert list(console.counted([5, 6], "testing", n_all=7, each=4)) == [5, 6]
    assert capsys.readouterr().out == "testing: 4 of 7\ntesting: 7 of 7\n"


def test_a_long_count_says_what_time_is_left(clock, capsys):
    for _ in console.counted(range(100), "reading", n_all=200, each=2):
        clock.now += 1.5  # seconds: the whole takes two and a half minutes
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reading: 14 of 200, about 2 min 20 s left"
    assert lines[-1].count("left") == 0


@given(st.integers(0, 10**6))
def test_a_duration_is_right_to_its_last_unit(seconds):
    text = console.duration(seconds)
    units = {"h": 3600, "min": 60, "s": 1}
    words = text.split()
    read = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(read - seconds) < (60 if "h" in words else 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (console.UserError("two\n  lines"), "two lines"),
        (console.UserError("to go on: --resume 'my  run'"), "--resume 'my  run'"),  # a name is as it is
        (KeyboardInterrupt(), "interrupted"),
        (OSError(28, "No space left on device", "runs/a"), "runs/a: No space left on device"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory; try a smaller --batch-size",
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "out of memory; try a smaller"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory; try a smaller --batch-size"),
        (MemoryError(), "out of memory; try a smaller --batch-size"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_status_2(error, message, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        console.run_command(main)
    assert end.value.code == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1


@given(st.text())
def test_what_is_printed_moves_no_cursor_and_what_shows_as_itself_is_left_alone(text):
    assert console.printable(text).isprintable()
    kept = "".join(letter for letter in text if letter.isprintable())
    assert console.printable(kept) == kept


def test_names_from_files_are_escaped_in_all_that_a_command_says(capsys):
    def main():
        print("\x1b[31m\tred\r", "\udcff\u202eä →", sep="\n")
        raise console.UserError("no \x1b[31m\udcff\x07")

    before = console.sys.stdout
    with pytest.raises(SystemExit):
        console.run_command(main)
    out, err = capsys.readouterr()
    assert out == "\\x1b[31m\\tred\\r\n\\udcff\\u202eä →\n"
    assert err.endswith(": no \\x1b[31m\\udcff\\x07\n")
    assert console.sys.stdout is before


def test_a_mistake_of_ours_keeps_its_traceback():
    def main():
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError):
        console.run_command(main)


PROJECT = Path(console.__file__).parent.parent
COMMANDS = [
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for path in (*PROJECT.glob("*.py"), *PROJECT.glob("studies/*.py"))
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
]
BEFORE_TORCH = """
import os, sys, importlib

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"])
            sys.exit()

sys.meta_path.insert(0, Finder())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_openmp_hears_that_its_threads_are_to_sleep_before_torch_is_there(command):
    assert len(COMMANDS) > 5
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_TORCH, command],
        cwd=PROJECT,
        env=environment | {"KMP_BLOCKTIME": "7"},  # what a user has set stands
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1000 7\n"


IMPORT_INTERRUPTED = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv[0] = "train.py"
import train
"""


def test_ctrl_c_during_the_imports_is_one_line_and_status_2():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import signal\nsignal.signal(2, signal.default_int_handler)\n{IMPORT_INTERRUPTED}",
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "train.py: interrupted\n")


PAGE_FAULTS = """
import ctypes, resource
from support import console

console.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
for n_done in range(4):
    if n_done == 2:  # what it will ever have, it has by now
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (30 << 20, 300 << 20):  # 84,480 pages
        block = libc.malloc(size)
        libc.memset(block, 1, size)
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has this to be told")
def test_memory_that_is_freed_is_there_again_without_the_kernel():
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], cwd=PROJECT, capture_output=True, text=True)
    assert int(done.stdout) < 1000


class Clock:
    """A clock for `time.perf_counter` that moves when it is told to."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(console.time, "perf_counter", clock)
    return clock


@pytest.mark.parametrize(
    ("rate", "said", "unsaid"),
    [
        (1000, [], ["this takes", "shorter"]),
        (50, ["about 8 min 45 s"], ["shorter"]),
        (2, ["3 h", "--limit"], []),
    ],
)
def test_a_long_run_is_announced_once_and_a_very_long_one_with_what_shortens_it(
    clock, capsys, rate, said, unsaid
):
    # 2 epochs of 12,000 training images, each followed by 3,375 test images at three times the rate
    watch = console.Watch(n_epochs=2, n_train=12000, n_test=3375)
    watch.start_epoch(0, 0, 0.0)
    for n_done in (4 * rate, 8 * rate):
        clock.now += 4
        watch.show(n_done, 0.5 * n_done)
    output = capsys.readouterr().out
    assert all(text in output for text in said)
    assert not any(text in output for text in unsaid)
    assert output.count("this training takes") == bool(said)
    assert f"{rate} images/s  loss 0.5000" in output.replace(",", "")


def test_one_run_of_many_shows_only_its_progress_after_its_label(clock, capsys):
    watch = console.Watch(n_epochs=2, n_train=9000, n_test=9, task="rung 1, 3 of 8")
    watch.print_table([{}])
    watch.start_epoch(1, 0, 0.0)
    clock.now += 4
    watch.show(900, 1.0)
    assert capsys.readouterr().out == " 55% of rung 1, 3 of 8\n"


def test_seconds_before_an_interruption_count_and_their_images_do_not_speed_up_the_rate(clock, capsys):
    watch = console.Watch(n_epochs=1, n_train=2000, n_test=30)
    watch.start_epoch(0, n_before=1000, seconds_before=60.0)
    clock.now += 5
    watch.show(1500, 1500.0)
    assert watch.seconds() == 65
    assert "75%  100 images/s  loss 1.0000  5 s left" in capsys.readouterr().out


@pytest.mark.parametrize(  # within ten minutes; `cost` is in seconds, for one
    ("cost", "least", "n_saves"),
    [(0, [], 20), (1, [], 19), (10, [], 3), (0, [0], 600), (1, [0], 29), (10, [0], 3)],
)
def test_a_state_is_saved_every_half_minute_or_so_rarely_that_it_costs_a_twentieth(
    clock, cost, least, n_saves
):
    watch, saves, end = console.Watch(1, 10, 10), 0, clock.now + 600
    while clock.now < end:
        clock.now += 1
        if watch.time_to_save(*least):
            with watch.saving():
                clock.now += cost
            saves += 1
    assert saves == n_saves


def test_in_a_pipe_progress_is_a_line_every_ten_seconds(clock, capsys):
    progress = console.Progress()
    for second in range(60):
        clock.now += 1
        if progress.due():
            progress.show(f"{second}")
    assert capsys.readouterr().out.split() == ["9", "19", "29", "39", "49", "59"]


def test_on_a_terminal_progress_is_one_line_that_fits(clock, capsys, monkeypatch):
    monkeypatch.setattr(console.sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(console.shutil, "get_terminal_size", lambda: os.terminal_size((20, 10)))

    def main():
        progress = console.Progress()
        progress.show("x" * 50)
        progress.show("\x1b[2J" * 9)
        progress.show("second")
        progress.clear()

    expected = f"\r\x1b[K{'x' * 19}\r\x1b[K{'x1b[2J'.join(chr(92) * 4)[:19]}\r\x1b[Ksecond\r\x1b[K"
    main()
    assert capsys.readouterr().out == expected
    console.run_command(main)
    assert capsys.readouterr().out == expected


def test_a_command_line_is_quoted_for_the_machines_shell(monkeypatch):
    words = ("python", "train.py", "--resume", Path("runs", "my run"))
    assert console.shell_words(*words) == "python train.py --resume 'runs/my run'"
    assert console.shell_words("--out", Path("-run"), "-") == "--out ./-run -"
    monkeypatch.setattr(console.sys, "platform", "win32")  # whose cmd.exe knows no single quotes
    assert console.shell_words(*words) == 'python train.py --resume "runs/my run"'
    assert console.shell_words("--resume", "runs\\mine", "R&D") == '--resume runs\\mine "R&D"'
