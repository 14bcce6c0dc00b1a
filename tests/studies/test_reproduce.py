"""The script that measures a part anew: which commands it runs, once each, and how it goes on."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from studies import moved

ROOT = Path(__file__).parents[2]
# In place of Python: notes what it is called with, and makes the run that it is to make. A pattern of runs
# that are not there, or what FAIL says, makes it fail.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >> commands
case "$*" in *[?]* | *$FAIL*) exit 1 ;; esac
while [ $# -gt 0 ]; do
    if [ "$1" = --out ]; then mkdir -p "$2"; touch "$2/config.json" "$2/results.csv"; fi
    shift
done
"""
# Of the runs and of the tables that are compared with kept ones, how many a part has.
PARTS = {"1.1": (21, 1), "1.2": (65, 3), "1.3": (1, 1), "1.4": (5, 1), "beyond": (0, 1), "gpu": (16, 1)}


@pytest.fixture
def reproduce(tmp_path):
    """A function that runs the script in a folder of its own, and returns its status and its commands."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "reproduce.sh").write_bytes((ROOT / "studies" / "reproduce.sh").read_bytes())
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def run(*part, fail="nothing"):
        (tmp_path / "commands").write_text("")
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FAIL": fail}
        ended = subprocess.run(["bash", "studies/reproduce.sh", *part], cwd=tmp_path, env=environment)
        return ended.returncode, (tmp_path / "commands").read_text().splitlines()

    return run


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_each_command_once_goes_on_and_compares(reproduce, tmp_path, part):
    n_runs, n_tables = PARTS[part]
    status, commands = reproduce(part)
    runs = [command for command in commands if "--out" in command]
    assert (status, len(runs), len(set(commands))) == (0, n_runs, len(commands))
    tables = [command.split()[-2:] for command in commands if command.startswith("-m studies.moved")]
    assert len(tables) == n_tables
    for kept, new in tables:
        assert any(moved.measured(ROOT / kept).values())
        assert Path(new).name == Path(kept).name
    for file in tmp_path.glob("runs/reproduced/*-0/config.json"):
        file.unlink()  # a run that was killed before it wrote anything
    _, again = reproduce(part)
    begun = {command for command in runs if re.search(r"-0( |$)", command) or "--grid" in command}
    resumed = [command for command in again if "--resume" in command]
    assert (len(again), len(resumed)) == (len(commands), n_runs - len(begun))
    assert set(again) - set(resumed) == set(commands) - set(runs) | begun


def test_where_a_command_fails_the_part_ends(reproduce):
    status, commands = reproduce("1.2", fail="studies.moved")
    assert (status, commands[-1][:16]) == (1, "-m studies.moved")
    assert reproduce("1.5") == reproduce() == (2, [])


def test_the_commands_have_these_flags(reproduce, monkeypatch, capsys):
    flags = {}
    for command in (command for part in PARTS for command in reproduce(part)[1]):
        name = command.removeprefix("-m ").split()[0].removesuffix(".py")
        flags.setdefault(name, set()).update(re.findall(r"(?<!\S)--[a-z0-9-]+", command))
    assert len(flags) == 10
    for name, named in flags.items():
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit):
            importlib.import_module(name).main()
        assert named <= set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out)), name
