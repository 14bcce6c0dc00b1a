"""The tables of the documents: the rows listed here agree with results/*.csv, and no cell is missing."""

import csv
import re
from pathlib import Path
from statistics import mean, stdev

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "MANUAL.md", "FINDINGS.md", "BENCHMARKS.md")


def numbers(file, where):
    """Return {column: mean, "column sd": standard deviation} over the rows of results/`file`.csv.

    Only rows count whose cells match `where`, {column: regular expression for a whole cell}.
    """
    with open(ROOT / "results" / f"{file}.csv", encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    rows = [row for row in rows if all(re.fullmatch(each, row[name]) for name, each in where.items())]
    assert rows, f"{file}.csv has no row with {where}"
    found = {}
    for name in rows[0]:
        if all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", row[name]) for row in rows):
            values = [float(row[name]) for row in rows]
            found |= {name: mean(values), f"{name} sd": stdev(values) if len(values) > 1 else 0}
    return found


def table(file, rows, columns):
    """Return lines of a table in Markdown: `rows` is {first cells: where}, `columns` [(where, format)].

    A format such as "{found:.0f}" gets the `numbers` of the rows of the file that both match.
    """
    lines = []
    for name, of_row in rows.items():
        cells = [form.format(**numbers(file, of_row | of_column)) for of_column, form in columns]
        lines.append(" | ".join([f"| {name}", *cells, ""]))
    return lines


def by(column, form, *values):
    """Return columns of a table that differ in one column of the file: a regular expression for each."""
    return [({column: value}, form) for value in values]


MODEL, SEEDS = r"python train\.py --model ", r" --seed \d --threads 1"
ACCURACY = "{test accuracy (%):.2f} ± {test accuracy (%) sd:.2f}"
FOUND, DRAWS = "{found:,.0f} ({average_precision:.3f})", "{found:,.1f} ± {found sd:.1f}"
OURS, LOSS = r".*\(diagnose\.py\)", "loss alone"
MAJORITY = {"noise": "cifar_mislabelled_aggre"}
# cleanlab's best score, which is not the same for all data sets
CONFIDENCE, MARGIN = {"method": "cleanlab, self confidence"}, {"method": "cleanlab, normalized margin"}
PULLOVERS, CLOTHES = {"noise": "fashion-Pullover_Coat-600"}, {"noise": "fashion-random-600"}
DIGITS, FOURS = {"noise": "mnist-random-100"}, {"noise": "mnist-4_9-100"}
SHARES = "{{test_accuracy_{0}:.2f}} ± {{test_accuracy_{0}_sd:.2f}}"
RATIO = "{median:.2f} ({low:.2f}–{high:.2f})"
AMD, GPU = {"hardware": "AMD EPYC, AVX512"}, {"hardware": "NVIDIA.*"}
XEON = {"hardware": "Intel Xeon, AVX512", "precision": "fp32"}
SLOW = {"hardware": "AMD EPYC, AVX2"}
LIGHTNING = "[Lightning](https://github.com/Lightning-AI/pytorch-lightning)"
SPEED = "{median:,.0f}"
RANKINGS = [*by("method", DRAWS, r"diagnose\.py", LOSS), ({}, DRAWS)]
MEAN = "{accuracy:.2f} ± {accuracy_sd:.2f}"
OF_SEEDS = "{{{0}_accuracy (%):.2f}} ± {{{0}_accuracy (%) sd:.2f}}"


def beside(loop, name="", other=""):
    """Return the columns of `loop`, our loop and their ratio, and of the ratio to the loop `other`."""
    measures = {loop: SPEED, "ours": SPEED, f"ours / {loop}": RATIO}
    measures |= {f"ours / {other}": f"{name}: {RATIO}"} if name else {}
    return [({"measure": measure}, form) for measure, form in measures.items()]


FROZEN = "transfer, last layer only (`--freeze`, learning rate 0.003)"
WORKERS, IN_MEMORY = ("two workers", "plain_workers"), ("images in memory", "plain_in_memory")
TABLES = [
    (
        "accuracy",
        {
            "`--model resnet --epochs 1`": {"command": f"{MODEL}resnet --init xavier --epochs 1{SEEDS}"},
            "`--model resnet`": {"command": f"{MODEL}resnet --init xavier{SEEDS}"},
            "`--model encoder`, Intel Xeon in fp32": {"command": f"{MODEL}encoder --init xavier{SEEDS}"},
        },
        [({}, ACCURACY)],
    ),
    ("bench", {"AMD EPYC, bf16": AMD}, beside("plain_bf16")),
    ("bench", {"Intel Xeon, fp32": XEON}, beside("plain", LIGHTNING, "lightning")),
    ("bench", {"AMD EPYC, only AVX2, fp32 (new)": SLOW}, beside("plain", *IN_MEMORY)),
    ("bench", {"NVIDIA H200, bf16": GPU}, beside("plain_bf16", *WORKERS)),
    (
        "reported_sets",
        {"three people, majority | 4,505": MAJORITY},
        by("method", FOUND, OURS, LOSS, CONFIDENCE["method"]),
    ),
    (
        "reported_sets",
        {"one person | 8,617": {"noise": "cifar_mislabelled_random"}},
        by("method", FOUND, OURS, LOSS),
    ),
    (
        "suspect_rankings",
        {
            "MNIST, 100 random": DIGITS | CONFIDENCE,
            "MNIST, 6,000 random": {"noise": "mnist-random-6000"} | CONFIDENCE,
            "Fashion-MNIST, 600 random": CLOTHES | CONFIDENCE,
            "Fashion-MNIST, 6,000 random": {"noise": "fashion-random-6000"} | CONFIDENCE,
            "MNIST, 100 3 → 8": {"noise": "mnist-3_to_8-100"} | MARGIN,
            "MNIST, 100 4 ↔ 9 (new)": FOURS | MARGIN,
            "Fashion-MNIST, 600 sandal ↔ dress": {"noise": "fashion-Sandal_Dress-600"} | MARGIN,
            "Fashion-MNIST, 600 pullover ↔ coat (new)": PULLOVERS | MARGIN,
        },
        RANKINGS,
    ),
    (
        "suspect_rankings",
        {
            "MNIST, 100 random": DIGITS,
            "MNIST, 6,000 random": {"noise": "mnist-random-6000"},
            "Fashion-MNIST, 600 random": CLOTHES,
            "Fashion-MNIST, 6,000 random": {"noise": "fashion-random-6000"},
        },
        by("method", "{look wrong:,.0f} ± {look wrong sd:.0f}", r"diagnose\.py", CONFIDENCE["method"]),
    ),
    (
        "cleaning",
        {
            "10": {"images": "2000", "epochs": "as diagnose.py", "wrong (%)": "20"},
            "20": {"images": "2000", "epochs": "20", "wrong (%)": "20"},
        },
        by("labels", ACCURACY, "none wrong", "wrong", "removed", "relabelled"),
    ),
    (
        "vgg16",
        {
            "Xavier": {"name": "vgg16 xavier.*"},
            "torchvision's default (Kaiming)": {"name": "vgg16 default.*"},
            "transfer from drawn digits": {"name": "vgg16 transfer, weights of digits, lr.*"},
            FROZEN: {"name": ".*freeze.*"},
        },
        [({}, MEAN)],
    ),
    (
        "networks",
        {
            "vgg16 | 134,301,514 | 6": {"name": "vgg16 xavier"},
            "encoder | 140,850 | 6": {"name": "encoder xavier, epochs 6"},
            "ResNet | 140,850 | 6": {"name": "resnet xavier, epochs 6"},
            "encoder | 140,850 | 30": {"name": "encoder xavier, epochs 30"},
            "ResNet | 140,850 | 30": {"name": "resnet xavier, epochs 30"},
        },
        [({}, MEAN)],
    ),
    (
        "epochs",
        {n: {"epoch": n} for n in ("5", "20")},
        by("run", OF_SEEDS.format("test"), "encoder-deep-.", "resnet-deep-."),
    ),
    (
        "epochs",
        {
            "Xavier | 78.34 ± 7.00 |": {"run": "vgg16-xavier-."},
            "torchvision's default (Kaiming) | 87.64 ± 2.82 | +7.9 (1.6 to 20.6)": {"run": "vgg16-default-."},
            "transfer from drawn digits | 95.92 ± 0.56 | +16.9 (10.6 to 28.1)": {"run": "vgg16-transfer-."},
            f"{FROZEN} | 88.62 ± 0.37 | +9.5 (3.2 to 20.7)": {"run": "vgg16-frozen-."},
        },
        [({"epoch": "6"}, OF_SEEDS.format("train"))],
    ),
    (
        "wrong_label_shares",
        {f"{n:,}": {"n_removed": str(n)} for n in (600, 6000, 12000)},
        [({}, form) for form in ("{n_found:,.0f}", SHARES.format("clean"), SHARES.format("imperfect"))],
    ),
    (
        "suspect_rankings",
        {
            "MNIST, 4 ↔ 9 | 100": FOURS | MARGIN,  # in README.md
            "Fashion-MNIST, pullover ↔ coat | 600": PULLOVERS | MARGIN,
        },
        RANKINGS,
    ),
    (
        "reported_sets",
        {"CIFAR-10N, errors of people | 4,505": MAJORITY},
        by("method", "{found:,.0f}", OURS, LOSS, CONFIDENCE["method"]),
    ),
]


@pytest.mark.parametrize(("file", "rows", "columns"), TABLES)
def test_rows_of_the_documents_have_the_numbers_of_the_results(file, rows, columns):
    texts = [(ROOT / document).read_text(encoding="utf-8").splitlines() for document in DOCUMENTS]
    lines = table(file, rows, columns)  # in the documents more cells may follow
    assert lines == [line for line in lines if any(f"{t} ".startswith(line) for text in texts for t in text)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_table_has_a_header_and_rows_of_its_width(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, rule, *rows = lines.splitlines()
        assert re.fullmatch(r"\|(-+\|)+", rule)
        assert rows
        assert {line.count("|") for line in (header, rule, *rows)} == {rule.count("|")}
