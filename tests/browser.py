"""A real browser for the tests: Chromium without a window, driven over a pipe."""

import fcntl
import itertools
import json
import os
import select
import signal
import time
from contextlib import contextmanager


def high_pipe():
    """Return a pipe's two ends, neither of them 3 or 4: the browser gets its own by these numbers."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high


@contextmanager
def chromium(program, folder):
    """Yield (send, events) of a new browser with an empty page; its files are in `folder`.

    `send(method, **parameters)` sends a command of the Chrome DevTools Protocol and returns the answer.
    `events` is a list of what else the browser has said meanwhile. At the end all its processes are killed.
    """
    line = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-breakpad", "--no-first-run"]
    line += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "--window-size=1280,900"]
    (theirs, to_it), (from_it, ours) = high_pipe(), high_pipe()
    moves = [(os.POSIX_SPAWN_DUP2, theirs, 3), (os.POSIX_SPAWN_DUP2, ours, 4)]
    moves += [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    home = os.environ | {"HOME": str(folder)}
    process = os.posix_spawn(program, line, home, file_actions=moves, setsid=True)  # a group of its own
    os.close(theirs)
    os.close(ours)
    events, received, numbers, session = [], bytearray(), itertools.count(1), {}

    def receive():  # a message is JSON, ended by \0
        while b"\0" not in received:
            assert select.select([from_it], [], [], 20)[0], "the browser does not answer"
            some = os.read(from_it, 2**16)
            assert some, "the browser has ended"
            received.extend(some)
        end = received.index(b"\0")
        message = json.loads(received[:end])
        del received[: end + 1]
        return message

    def send(method, **parameters):
        number = next(numbers)
        message = {"id": number, "method": method, "params": parameters} | session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(to_it, content) :]
        while (answer := receive()).get("id") != number:
            events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    try:
        (page,) = (each for each in send("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        session["sessionId"] = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            send(f"{domain}.enable")
        yield send, events
    finally:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(to_it)
        os.close(from_it)


def wait_until(is_so):
    """Return when the function `is_so` returns something true."""
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
