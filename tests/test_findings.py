"""FINDINGS.md and README.md: the tables' numbers are in the CSV files, and all they point to is there."""

import importlib
import re
import sys
from pathlib import Path

from support.files import check_replaceable, read_csv

import pytest

ROOT = Path(__file__).parent.parent
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
NO_RESULTS = ("command", "hardware", "seeds", "label seeds", "found of 100")


def tables(text):
    """Return (rows, files) of each table: its rows' cells, and the CSV files that the text below names."""
    found = []
    for table, below in re.findall(r"((?:^\|.*\n)+)\n?((?:^[^|\n].*\n)*)", text, re.MULTILINE):
        rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
        found.append((rows, re.findall(r"results/\w+\.csv", below)))
    return found


def holds(row, cells):
    """Return whether a CSV file's row has each number of `cells`, rounded as it is shown there."""
    fields = [field for name, field in row.items() if name not in NO_RESULTS]
    values = [float(v.replace(",", "")) for field in fields for v in re.findall(NUMBER, field)]
    for shown in (number for cell in cells for number in re.findall(NUMBER, cell)):
        shown = shown.replace(",", "").lstrip("+")
        mantissa, exponent, _ = shown.partition("e")
        style = f".{len(mantissa.partition('.')[2])}{exponent or 'f'}"
        if not any(f"{value:{style}}" == shown and ("." in shown or value == int(shown)) for value in values):
            return False
    return True


FINDINGS = (ROOT / "FINDINGS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", tables(FINDINGS))
def test_every_row_of_a_table_is_a_row_of_its_csv_file(table):
    rows, files = table
    assert files, f"no results/….csv is named below the table of {rows[0]}"
    kept = [row for file in files for row in read_csv(ROOT / file)]
    for name, *cells in rows:
        cells = [cell for cell in cells if not cell.strip().startswith("`")]  # a command
        assert "not measured here" in "".join(cells) or re.search(NUMBER, "".join(cells)), name
        assert any(holds(row, cells) for row in kept), f"{name}: {cells} is no row of {files}"


def test_a_wrong_number_is_seen():
    row = {"accuracy": "99.396", "sd": "0.044", "seeds": "0 1 2", "n": "1000", "std": "0.0000131"}
    row["change"] = "-0.017"
    assert holds(row, [" 99.40 ± 0.04 ", "1,000", "1.3e-05", "never", "-0.02"])
    assert not holds(row, ["+0.02"])
    assert not holds(row, ["99"])
    assert not holds(row, ["2"])
    assert not holds(row, ["1.2e-05"])
    assert not holds(row, ["99.39 ± 0.04"])
    assert not holds(row, ["99.40 ± 0.05"])


def test_tables_are_found_with_their_files():
    assert len(tables(FINDINGS)) >= 5
    text = (
        "| a | b |\n|---|---|\n| c | 1 |\n\nFrom `results/x.csv` and\n`results/y.csv`.\n\n`results/z.csv`\n"
    )
    assert tables(text) == [([[" c ", " 1 "]], ["results/x.csv", "results/y.csv"])]


@pytest.mark.parametrize("page", ["FINDINGS.md", "README.md"])
def test_pictures_and_files_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)#:]+)\)|((?:figures|results)/\w+\.(?:png|csv))", text):
        assert (ROOT / "".join(path)).is_file(), path
    assert sum(file.stat().st_size for file in (ROOT / "figures").iterdir()) < 3 * 2**20


def test_the_commands_of_these_pages_may_write_over_their_pictures():
    for picture in (*ROOT.glob("figures/*.png"), *ROOT.glob("results/*.png")):
        check_replaceable(picture)


@pytest.mark.parametrize("page", ["FINDINGS.md", "README.md"])
def test_commands_that_a_page_names_have_these_flags(page, monkeypatch, capsys):
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"(?:python|per-node \d) (?:(\w+)\.py|-m (studies\.\w+))\b([^\n`;|#)]*)", text)
    assert len(commands) > 10
    flags = {}
    for script, study, arguments in commands:
        flags.setdefault(script or study, set()).update(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", arguments))
    for name, named in flags.items():
        module = importlib.import_module(name)
        if not named:
            continue
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *(["mislabel"] if name == "data" else []), "--help"])
        with pytest.raises(SystemExit):
            module.main()
        assert named <= set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out)), name
