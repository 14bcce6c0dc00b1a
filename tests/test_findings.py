"""The documents: their tables' numbers are in the CSV files, and all that they point to is there."""

import importlib
import re
import sys
from itertools import pairwise
from pathlib import Path

from support.chance import mean_sd
from support.files import check_replaceable, read_csv

import pytest

import search

ROOT = Path(__file__).parent.parent
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
NO_RESULTS = ("command", "hardware", "seeds", "sets", "found of each set")
PAGES = ("README.md", "MANUAL.md", "FINDINGS.md", "BENCHMARKS.md")
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
# The first column of tables that have no numbers of a results/….csv.
WORDS = ("question", "part", "file", "file of a training", "flag", "`--data`", "search", "tried")
MEAN_SD = r"\d[\d.,]* ± \d[\d.]*"


def tables(text):
    """Return (name of the first column, rows' cells, CSV files that the text below names) of each table."""
    found = []
    for table, below in re.findall(r"((?:^\|.*\n)+)\n?((?:^[^|\n].*\n)*)", text, re.MULTILINE):
        header, _, *rows = [line.strip("|").split("|") for line in table.splitlines()]
        found.append((header[0].strip(), rows, re.findall(r"results/\w+\.csv", below)))
    return found


def kept_rows(file):
    """Return the rows of a CSV file; where each is one run, means and deviations over the runs."""
    rows, runs = read_csv(ROOT / file), {}
    if file.endswith("accuracy.csv"):
        for row in rows:
            command = re.sub(r" --(seed|threads) \d+", "", row["command"])
            runs.setdefault((command, row["hardware"]), []).append({"accuracy": row["test accuracy (%)"]})
    elif file.endswith("cleaning.csv"):
        for row in rows:
            measures = {name: row[name] for name in ("wrong after", "test accuracy (%)", "test loss")}
            runs.setdefault((row["images"], row["wrong (%)"], row["epochs"], row["labels"]), []).append(
                measures
            )
    else:
        return rows
    return [summary(name, same) for name, same in runs.items()]


def summary(name, rows):
    """Return one row for `rows`, runs that are called `name`: their number, and means with deviations."""
    row = {"name": str(name), "n": str(len(rows))}
    for measure in rows[0]:
        mean, sd = mean_sd([float(each[measure]) for each in rows])
        row |= {measure: str(mean), f"{measure} sd": str(sd)}
    return row


def rounds_to(value, shown):
    """Return whether the float `value` is the number `shown`, a text, once it is rounded like that."""
    shown = shown.replace(",", "").lstrip("+")
    mantissa, exponent, _ = shown.partition("e")
    return float(f"{value:.{len(mantissa.partition('.')[2])}{exponent or 'f'}}") == float(shown)


def holds(row, cells):
    """Return whether a CSV file's row has what `cells` show: numbers, a mean with its deviation, verdicts."""
    fields = [field for name, field in row.items() if name not in NO_RESULTS]
    values = [float(v.replace(",", "")) for field in fields for v in re.findall(NUMBER, field)]
    for shown in (number for cell in cells for number in re.findall(NUMBER, cell)):
        exact = "." in shown or float(shown.replace(",", "")) in values
        if not exact or not any(rounds_to(value, shown) for value in values):
            return False
    pairs = [pair for cell in cells for pair in re.findall(rf"({NUMBER}) ± ({NUMBER})", cell)]
    return all(has_pair(fields, pair) for pair in pairs) and all(has_verdict(fields, cell) for cell in cells)


def is_shown(field, shown):
    """Return whether a row's text `field` is the number `shown`, but for rounding."""
    return bool(re.fullmatch(NUMBER, field)) and rounds_to(float(field), shown)


def has_pair(fields, pair):
    """Return whether a mean and its deviation are neighbours in `fields`, the texts of a row."""
    return any(all(map(is_shown, neighbours, pair)) for neighbours in pairwise(fields))


def has_verdict(fields, cell):
    """Return whether the verdict in a cell, after its number, is the one after that number in `fields`."""
    number, verdict = re.search(NUMBER, cell), re.search("(larger than|within) chance", cell)
    if not number or not verdict:
        return True
    for place, field in enumerate(fields):
        after = [other for other in fields[place:] if other.endswith(" chance")]
        if is_shown(field, number[0]) and after[:1] == [verdict[0]]:
            return True
    return False


WITH_NUMBERS = [
    (page, *table) for page, text in TEXTS.items() for table in tables(text) if table[0] not in WORDS
]


@pytest.mark.parametrize("table", WITH_NUMBERS)
def test_every_row_of_a_table_is_a_row_of_its_csv_file(table):
    page, _, rows, files = table
    assert files, f"{page}: no results/….csv is named below the table of {rows[0]}"
    kept = [row for file in files for row in kept_rows(file)]
    for name, *cells in rows:
        cells = [cell for cell in cells if not cell.strip().startswith("`")]  # a command
        assert "not measured here" in "".join(cells) or re.search(NUMBER, "".join(cells)), name
        assert any(holds(row, cells) for row in kept), f"{page}, {name}: {cells} is no row of {files}"


def test_what_a_page_repeats_is_what_stands_where_it_was_measured():
    answers, rest = re.split(r"(?<=\|)\n\n", TEXTS["FINDINGS.md"], maxsplit=1)
    measured = set(re.findall(MEAN_SD, rest + TEXTS["BENCHMARKS.md"]))
    results = str(tables(TEXTS["README.md"])[-1])
    repeated = set(re.findall(MEAN_SD, answers + TEXTS["MANUAL.md"] + results))
    assert len(repeated) > 3
    assert repeated <= measured


def test_the_grid_is_of_the_architectures_that_a_search_has_by_default():
    rows = read_csv(ROOT / "results" / "search_grid.csv")
    trained = {tuple(row[name] for name in search.SPACE) for row in rows}
    assert trained == {tuple(map(str, each)) for each in search.architectures(search.SPACE, (28, 28))}


def test_a_wrong_number_is_seen():
    row = {"accuracy": "99.396", "sd": "0.044", "seeds": "0 1 2", "n": "1000", "std": "0.0000131"}
    row |= {"other accuracy": "98", "other sd": "2.5"}
    row |= {
        "change": "-0.017",
        "change sd": "0.04",
        "verdict": "within chance",
        "other": "0.3",
        "its": "larger than chance",
    }
    assert holds(row, [" 99.40 ± 0.04 ", "1,000", "1.3e-05", "never", "-0.02"])
    assert holds(row, ["-0.02 ± 0.04, within chance", "0.3, larger than chance"])
    assert not holds(row, ["-0.02 ± 0.04, larger than chance"])
    assert not holds(row, ["0.3, within chance"])
    assert not holds(row, ["+0.02"])
    assert holds(row | {"change": "-0.001"}, ["+0.00 ± 0.04"])
    assert not holds(row, ["99"])
    assert not holds(row, ["3"])
    assert not holds(row, ["1.2e-05"])
    assert not holds(row, ["99.39 ± 0.04"])
    assert not holds(row, ["99.40 ± 0.05"])
    assert not holds(row, ["98 ± 0.04"])


def test_tables_are_found_with_their_files():
    assert len(WITH_NUMBERS) >= 9
    text = (
        "| a | b |\n|---|---|\n| c | 1 |\n\nFrom `results/x.csv` and\n`results/y.csv`.\n\n`results/z.csv`\n"
    )
    assert tables(text) == [("a", [[" c ", " 1 "]], ["results/x.csv", "results/y.csv"])]


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_files_that_a_page_names_are_there(page):
    for path in re.findall(r"\]\(([^)#:]+)[)#]|((?:figures|results)/[\w-]+\.(?:png|csv))", TEXTS[page]):
        assert (ROOT / "".join(path)).is_file(), path
    for other, anchor in re.findall(r"\]\((\w+\.md)#([^)]+)\)", TEXTS[page]):
        headings = re.findall(r"^#+ (.*)$", TEXTS[other], re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}
    assert sum(file.stat().st_size for file in (ROOT / "figures").iterdir()) < 3 * 2**20


def test_the_commands_of_these_pages_may_write_over_their_pictures():
    for picture in (*ROOT.glob("figures/*.png"), *ROOT.glob("results/*.png")):
        check_replaceable(picture)


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_have_these_flags(page, monkeypatch, capsys):
    commands = re.findall(
        r"(?:python|per-node \d) (?:(\w+)\.py|-m (studies\.\w+))\b([^\n`;|#)]*)", TEXTS[page]
    )
    assert len(commands) > 5
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


@pytest.mark.parametrize("page", PAGES)
def test_parts_that_a_page_names_can_be_reproduced(page):
    script = (ROOT / "studies" / "reproduce.sh").read_text()
    for part in re.findall(r"reproduce\.sh ([\w.]+\w)", TEXTS[page]):
        assert part == "PART" or f"\n{part})\n" in script, part
