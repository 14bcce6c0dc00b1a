"""What the scripts share. A reader may leave this door closed."""

import os
import sys

# OpenMP's threads spin while they wait for work, and beside anything else that computes they take the cores
# from each other: two trainings at once took several times as long as one. Here they soon sleep instead.
# OpenMP reads this when torch is imported, so every file imports from here first (pyproject.toml does it).
if "OMP_WAIT_POLICY" not in os.environ:  # a user's own choice stands
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # rounds; of GNU's OpenMP
os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; of LLVM's, on macOS, where it is untested


def end_in_one_line(kind, error, traceback):
    """Print an uncaught error as Python does. A Ctrl-C, such as one during the imports, is one line."""
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)
    sys.exit(2)


if os.path.abspath(sys.argv[0]).startswith(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))):
    sys.excepthook = end_in_one_line  # in our commands, not in programs that import from here
