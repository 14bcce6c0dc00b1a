"""The script that measures a part anew: which commands it runs, once each, and how it goes on."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "studies" / "reproduce.sh"
# In place of Python: notes what it is called with, and makes the folder or the file that it is to make.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >> commands
while [ $# -gt 0 ]; do
    if [ "$1" = --out ]; then mkdir -p "$2"; touch "$2/results.csv"; fi
    shift
done
"""
# Of the runs and of the tables that are compared with kept ones, how many a part has.
PARTS = {"1.1": (21, 1), "1.2": (70, 3), "1.3": (1, 1), "1.4": (5, 1), "beyond": (0, 1)}


@pytest.fixture
def reproduce(tmp_path):
    """A function that runs the script in a folder of its own, and returns its status and its commands."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "reproduce.sh").write_bytes(SCRIPT.read_bytes())
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def run(*part):
        (tmp_path / "commands").write_text("")
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        ended = subprocess.run(["bash", "studies/reproduce.sh", *part], cwd=tmp_path, env=path)
        return ended.returncode, (tmp_path / "commands").read_text().splitlines()

    return run


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_each_command_once_goes_on_and_compares(reproduce, part):
    n_runs, n_tables = PARTS[part]
    status, commands = reproduce(part)
    runs = [command for command in commands if "--out" in command]
    assert (status, len(runs), len(set(commands))) == (0, n_runs, len(commands))
    tables = [command.split()[-2:] for command in commands if command.startswith("-m studies.moved")]
    assert len(tables) == n_tables
    for kept, new in tables:
        assert (SCRIPT.parents[1] / kept).is_file()
        assert Path(new).name == Path(kept).name
    _, again = reproduce(part)
    resumed = [command for command in again if "--resume" in command or "--grid" in command]
    assert (len(again), len(resumed)) == (len(commands), n_runs)
    assert set(again) - set(resumed) == set(commands) - set(runs)


@pytest.mark.parametrize("part", [[], ["1.5"]])
def test_another_part_is_refused(reproduce, part):
    assert reproduce(*part) == (2, [])
