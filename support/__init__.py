"""What the scripts share. A reader may leave this door closed."""

import os

# OpenMP's threads spin while they wait for work, and beside anything else that computes they take the cores
# from each other: two trainings at once took several times as long as one. Here they soon sleep instead.
# OpenMP reads this when torch is imported, so every file imports from here first (pyproject.toml does it).
if "OMP_WAIT_POLICY" not in os.environ:  # a user's own choice stands
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # rounds; of GNU's OpenMP
os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; of LLVM's, on macOS, where it is untested
