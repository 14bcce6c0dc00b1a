"""A real browser for the tests: Chromium without a window, driven over a pipe."""

import json
import os
import select
import signal
import subprocess
import time
from contextlib import contextmanager


@contextmanager
def chromium(program, folder):
    """Yield (send, events) of a new browser with an empty page; its files are in `folder`.

    `send(method, **parameters)` sends a command of the Chrome DevTools Protocol and returns the answer.
    `events` collects the browser's other messages. At the end all its processes are killed.
    """
    (theirs, to_it), (from_it, ours) = os.pipe(), os.pipe()
    line = f"exec {program} --headless --no-sandbox --disable-gpu --disable-breakpad --no-first-run "
    line += f"--remote-debugging-pipe --user-data-dir={folder} 3<&{theirs} 4>&{ours} 2>/dev/null"
    home, pipes = os.environ | {"HOME": str(folder)}, (theirs, ours)
    process = subprocess.Popen(["bash", "-c", line], env=home, pass_fds=pipes, start_new_session=True)
    os.close(theirs)
    os.close(ours)
    events, session, received = [], {}, bytearray()

    def receive():  # a message is JSON, ended by \0
        while 0 not in received:
            assert select.select([from_it], [], [], 20)[0], "the browser does not answer"
            received.extend(some := os.read(from_it, 2**16))
            assert some, "the browser has ended"
        end = received.index(0)
        message = json.loads(received[:end])
        del received[: end + 1]
        return message

    def send(method, **parameters):
        content = json.dumps({"id": 1, "method": method, "params": parameters} | session)
        os.write(to_it, content.encode() + b"\0")
        while "id" not in (answer := receive()):
            events.append(answer)
        assert "result" in answer, answer
        return answer["result"]

    try:
        (page,) = (each for each in send("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        session["sessionId"] = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            send(f"{domain}.enable")
        yield send, events
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to_it)
        os.close(from_it)


def wait_until(is_so):
    """Return when the function `is_so` returns something true."""
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
