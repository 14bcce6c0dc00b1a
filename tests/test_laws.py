"""The laws of the house: who may import whom, how many modules a command loads, where the tests are."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import FLAGS, write_folder

ROOT = Path(__file__).parent.parent
PACKAGES = {"torch", "torchvision", "PIL", "numpy"}  # those of requirements.txt that are not for the tests


def module_name(path):
    """Return the name by which a file of the project is imported: support/console.py is support.console."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): path
    for pattern in ("*.py", "support/*.py", "studies/*.py")
    for path in sorted(ROOT.glob(pattern))
}
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imports(path):
    """Return [(line, name)] of all that a file imports, inside functions too.

    `from a import b` is a.b where that is a module of ours, else a.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: from . import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [(node.lineno, name if name in MODULES else node.module) for name in names]
    return sorted(found)


def imported(path):
    """Return the names of what a file imports."""
    return {name for _, name in imports(path)}


def test_support_imports_only_support_and_the_packages_it_needs():
    allowed = {"support"} | PACKAGES | sys.stdlib_module_names
    for name, path in MODULES.items():
        if name.startswith("support"):
            assert {each.partition(".")[0] for each in imported(path)} <= allowed, name


def test_nothing_imports_a_study_but_studies_and_their_tests():
    for path in (*MODULES.values(), *TESTS):
        if "studies" not in path.relative_to(ROOT).parts:
            assert not [each for each in imported(path) if each.startswith("studies")], path


def test_no_imports_go_in_a_circle():
    graph = {name: imported(path) & MODULES.keys() for name, path in MODULES.items()}
    graph["train"].remove("diagnose")  # the one exception: train.finish, inside the function, says why
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_support_is_imported_before_torch():  # as support/__init__.py is to tell OpenMP how to wait
    for path in (*MODULES.values(), *TESTS):
        tops = [(line, name.partition(".")[0]) for line, name in imports(path)]
        ours = [line for line, name in tops if name == "support"]
        torchs = [line for line, name in tops if name in ("torch", "torchvision")]
        assert not ours or not torchs or min(ours) < min(torchs), path


def test_every_module_has_its_test_file():
    modules = [path.relative_to(ROOT) for path in MODULES.values() if path.name != "__init__.py"]
    files = [ROOT / "tests" / module.parent / f"test_{module.name}" for module in modules]
    assert [str(file.relative_to(ROOT)) for file in files if not file.is_file()] == []


COUNT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import train

def count():
    files = {{getattr(module, "__file__", None) for module in sys.modules.values()}}
    print(len(files & {set(map(str, MODULES.values()))!r}), file=sys.stderr)

try:
    train.main(["--help"])
except SystemExit:
    count()
train.main()
count()
"""


def test_a_command_loads_few_modules(tmp_path):
    write_folder(tmp_path / "images")
    line = [sys.executable, "-c", COUNT, "--data", "images", "--epochs", "1", *FLAGS.split()]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    of_help, of_a_training = map(int, done.stderr.split())
    assert of_help <= 13
    assert of_a_training <= 19  # for its last picture it has diagnose.py and what that needs
