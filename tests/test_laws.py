"""Which modules may import which."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = [path for pattern in ("*.py", "support/*.py", "studies/*.py") for path in sorted(ROOT.glob(pattern))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
PACKAGES = {"torch", "torchvision", "PIL", "numpy"}  # those of requirements.txt that are not for tests


def imported(path):
    """Return the names of what a file imports, inside functions too; a module of ours as support.console."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
    return names


def test_support_imports_only_support_and_packages_and_nothing_imports_a_study_but_studies():
    allowed = {"support"} | PACKAGES | sys.stdlib_module_names
    for name, path in MODULES.items():
        heads = {each.partition(".")[0] for each in imported(path)}
        assert heads <= allowed or not name.startswith("support"), name
        assert "studies" not in heads or name.startswith("studies"), name


def test_there_are_no_circular_imports():
    TopologicalSorter({name: imported(path) & MODULES.keys() for name, path in MODULES.items()}).prepare()


def test_train_py_imports_at_most_four_modules_of_support():
    assert len({name for name in imported(MODULES["train"]) if name.startswith("support.")}) <= 4


def test_openmp_is_configured_before_torch_is_imported():
    for name in ("train", "diagnose", "search"):
        lines = MODULES[name].read_text(encoding="utf-8").splitlines()
        heads = ("import torch", "from torch", "import models", "import train", "from data import")
        first = next(number for number, line in enumerate(lines) if line.startswith(heads))
        assert any("GOMP_SPINCOUNT" in line for line in lines[:first]), name
