"""Every picture: a run's curves, lines to compare, costs, a confusion matrix, a contact sheet of images."""

import argparse
import math
from pathlib import Path

from support.canvas import BLUE, GREY, INK, ORANGE, SCALE, Canvas, axes, whole_ticks
from support.files import check_replaceable, write_csv

from PIL import Image, ImageFont


def panel(canvas, area, series, title, log=False):
    """Draw one diagram over epochs into `area`, (left, top, right, bottom).

    `series` is a list of (name, colour, values), a value for each epoch from 1 on; `log` makes the y axis
    logarithmic.
    """
    n_epochs = max(len(line) for _, _, line in series)
    if log:
        series = [(name, colour, [max(value, 1e-6) for value in line]) for name, colour, line in series]
    values = [value for _, _, line in series for value in line]
    margin = max((max(values) - min(values)) * 0.06, 0.05)
    y_range = max(min(values) - margin, 0), min(max(values) + margin, 100)  # of an accuracy in percent
    if log:
        y_range = min(values) / 1.3, max(values) * 1.3
    x_range = (1, n_epochs) if n_epochs > 1 else (0, 2)
    x_ticks = whole_ticks(1, n_epochs)
    place = axes(canvas, area, x_range, y_range, title, "epoch", log_y=log, x_ticks=x_ticks)
    for _, colour, line in series:
        points = [place(epoch, value) for epoch, value in enumerate(line, 1)]
        canvas.line(points, colour, 2)
        for point in points if n_epochs <= 40 else []:
            canvas.dot(*point, colour)


def legend(canvas, x, y, series):
    """Write the names of `series` in their colours, in a row that is centred on (x, y)."""
    widths = [ImageFont.load_default(13).getlength(name) + 50 for name, _, _ in series]
    x -= sum(widths) / 2
    for (name, colour, _), width in zip(series, widths, strict=True):
        canvas.line([(x, y), (x + 22, y)], colour, 2)
        canvas.dot(x + 11, y, colour)
        canvas.text(x + 28, y, name)
        x += width


def draw_curves(path, history, title):
    """Draw a run's loss and accuracy by epoch; `history` is a list of metrics.csv's rows."""
    canvas = Canvas(900, 400)
    canvas.text(450, 24, title, 15, "mm")
    for left, name, unit in (
        (70, "loss", "loss (cross-entropy, log scale)"),
        (520, "accuracy", "accuracy (%)"),
    ):
        factor = 100 if name == "accuracy" else 1
        series = [
            (split, colour, [factor * row[f"{key}_{name}"] for row in history])
            for split, key, colour in (
                ("training set, mean over the epoch", "train", BLUE),
                ("test set, after it", "test", ORANGE),
            )
        ]
        panel(canvas, (left, 80, left + 350, 320), series, unit, log=name == "loss")
    legend(canvas, 450, 382, series)
    canvas.save(path)


COLOURS = (BLUE, ORANGE, "#009e73", "#c2679d", "#333333", "#c99700", "#56b4e9", "#8c564b")


def output_file(suffix):
    """Return argparse's `type` for a file to write: refuses other suffixes and the files of a run."""

    def path(text):
        file = Path(text).resolve()  # now, as A/../B is B only once A is there
        if file.suffix != suffix or (file.exists() and not file.is_file()):
            raise argparse.ArgumentTypeError(f"{text}: is no name for a new {suffix} file")
        if (file.parent / "config.json").exists():
            raise argparse.ArgumentTypeError(f"{text}: is a run's; choose another place")
        if suffix == ".png":
            check_replaceable(text)
        return text

    return path


def add_output_flags(parser, picture):
    """Give an ArgumentParser the flags of a command that ends in `write_outputs`."""
    parser.add_argument(
        "--picture",
        default=picture,
        type=output_file(".png"),
        metavar="FILE",
        help=f"draw this (default: {picture})",
    )
    parser.add_argument(
        "--csv", type=output_file(".csv"), metavar="FILE", help="write the table to this file too"
    )


def write_outputs(given, table, title, rows):
    """Write the table, dicts, where --csv was given, draw `rows` as `draw_lines` does, and say where."""
    if given.csv:
        check_replaceable(given.csv, table[0])
    for path in filter(None, (given.csv, given.picture)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if given.csv:
        write_csv(given.csv, table)
    draw_lines(given.picture, title, rows)
    print(f"\nlook at {given.picture}" + (f"; the table is in {given.csv}" if given.csv else ""))


def draw_lines(path, title, rows):
    """Draw rows of diagrams, in each row the same lines, numbered and named below it.

    `rows` is a list of (heading, panels, lines): `panels` are dicts of `axes`' arguments title, x_title,
    log_x, log_y, x_ticks; `lines` are (name, curves), in `curves` for each panel a list of points
    (x, y, low, high), where low and high are the edges of a band around the line.
    """
    heights = [370 + 20 * len(lines) for _, _, lines in rows]
    canvas, top = Canvas(960, 44 + sum(heights)), 44
    canvas.text(480, 24, title, 15, "mm")
    for (heading, panels, lines), height in zip(rows, heights, strict=True):
        canvas.text(20, top + 12, heading, 13)
        for number, options in enumerate(panels):
            left = 70 + number * 880 / len(panels)
            area = (left, top + 62, left + 880 / len(panels) - 90, top + 290)
            draw_bands(canvas, area, options, [curves[number] for _, curves in lines])
        for number, (name, _) in enumerate(lines):
            x, y = 40, top + 350 + number * 20
            canvas.line([(x, y), (x + 22, y)], COLOURS[number % len(COLOURS)], 2.5)
            canvas.text(x + 28, y, f"{number + 1}  {name}", 12)
        top += height
    canvas.save(path)


def draw_bands(canvas, area, options, curves):
    """Draw one diagram of `draw_lines`; `curves` is a list with each line's points."""
    points = [point for curve in curves for point in curve]
    xs, ys = [point[0] for point in points], [y for point in points for y in point[1:]]
    x_margin, y_margin = (max(xs) - min(xs)) * 0.03 or 1, (max(ys) - min(ys)) * 0.06 or 1
    x_range, y_range = (min(xs) - x_margin, max(xs) + x_margin), (min(ys) - y_margin, max(ys) + y_margin)
    if options.get("log_x"):
        x_range = min(xs) / 1.1, max(xs) * 1.1
    if options.get("log_y"):
        y_range = min(ys) / 1.3, max(ys) * 1.3
    place = axes(canvas, area, x_range, y_range, **options)
    for number, curve in enumerate(curves):
        edges = [place(x, low) for x, _, low, _ in curve] + [place(x, high) for x, *_, high in curve[::-1]]
        canvas.area(edges, shade(COLOURS[number % len(COLOURS)], 0.2))
    ends = []
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        canvas.line([place(x, y) for x, y, *_ in curve], colour, 2)
        for x, y, *_ in curve if len(curve) <= 40 else []:
            canvas.dot(*place(x, y), colour)
        if curve:
            ends.append((*place(*curve[-1][:2])[::-1], number, colour))
    ends, places = sorted(ends), []
    for y, *_ in ends:  # from the top down, none on another
        places.append(max(y, places[-1] + 13) if places else y)
    for number in reversed(range(len(places))):  # and none below the axis
        places[number] = min(places[number], area[3] - 7 - 13 * (len(places) - 1 - number))
    for (_, x, number, colour), y in zip(ends, places, strict=True):
        canvas.text(x + 9, y, number + 1, 12, fill=colour)


def pareto(entries, cost, value):
    """Return those of `entries`, dicts, than which no cheaper one is as good, from the cheapest on."""
    front = []
    for entry in sorted(entries, key=lambda entry: (entry[cost], -entry[value])):
        if not front or entry[value] > front[-1][value]:
            front.append(entry)
    return front


def error_of(entry):
    """Return the error in percent of an entry of standings.leaderboard, at least 0.01."""
    return max(100 - 100 * entry["mean"], 0.01)


def draw_costs(path, board, title):
    """Draw the validation error of architectures against their cost; `board` is standings.leaderboard's.

    Those that were trained the longest are dots, blue for encoders and orange for ResNets; the others,
    trained more briefly, are small and grey. Of the longest trained ones those are joined than which no
    cheaper one is as good.
    """
    longest = max(entry["passes"] for entry in board)
    full = [entry for entry in board if entry["passes"] == longest]
    front = pareto(full, "mflop", "mean")
    canvas = Canvas(900, 566 + 20 * math.ceil(len(front) / 3))
    canvas.text(450, 24, title, 15, "mm")
    costs, errors = [entry["mflop"] for entry in board], [error_of(entry) for entry in board]
    x_range, y_range = (min(costs) / 1.2, max(costs) * 1.2), (min(errors) / 1.3, max(errors) * 1.1)
    x_title, y_title = "MFLOP of one image, forward (log scale)", "validation error (%, log scale)"
    on_canvas = axes(canvas, (80, 80, 860, 470), x_range, y_range, y_title, x_title, True, True)

    def place(entry):
        return on_canvas(entry["mflop"], error_of(entry))

    for entry in board:
        if entry["passes"] < longest:
            canvas.dot(*place(entry), "#bbbbbb", 2.5)
    canvas.line([place(entry) for entry in front], GREY)
    for entry in full:
        canvas.dot(*place(entry), BLUE if entry["model"] == "encoder" else ORANGE, 4.5)
    for number, entry in enumerate(front):
        x, y = place(entry)
        canvas.text(x, y + 14, number + 1, 12, "mm")
        canvas.text(
            135 + number % 3 * 235, 566 + number // 3 * 20, f"{number + 1}  {entry['architecture']}", 12
        )
    x = 140
    kinds = [(BLUE, "encoder"), (ORANGE, "ResNet"), ("#bbbbbb", "trained more briefly")]
    for colour, text in kinds if len(full) < len(board) else kinds[:2]:
        canvas.dot(x, 535, colour, 4.5)
        canvas.text(x + 10, 535, text)
        x += 110
    canvas.text(x + 60, 535, "line: no cheaper one is as good", 13, fill=GREY)
    canvas.save(path)


def draw_confusion(path, matrix, classes, title, subtitle):
    """Draw a confusion matrix, ints (classes, classes), rows the labels and columns the predicted classes.

    Right answers are blue, wrong ones orange, each the deeper the more there are among their kind.
    """
    n = len(classes)
    matrix = [[int(count) for count in row] for row in matrix]
    cell = max(4, min(44, 900 // n))
    names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
    left, top = 60 + 7 * max(map(len, names)), 104
    canvas = Canvas(max(left + n * cell + 90, 10 * len(title) + 40), top + n * cell + 40)
    canvas.text(20, 24, title, 15)
    canvas.text(20, 48, subtitle, 12, fill=GREY)
    most_right = max(max(matrix[i][i] for i in range(n)), 1)
    most_wrong = max(max(matrix[i][j] for i in range(n) for j in range(n) if i != j), 1)
    for i, row in enumerate(matrix):
        y = top + i * cell
        for j, count in enumerate(row):
            x = left + j * cell
            share, colour = (count / most_right, BLUE) if i == j else (count / most_wrong, ORANGE)
            canvas.box(x, y, x + cell - 1, y + cell - 1, shade(colour, 0.85 * share) if count else "#f6f6f6")
            if count and cell >= 24:
                size = 13 if count < 1000 else 11
                canvas.text(x + cell / 2, y + cell / 2, count, size, "mm", "white" if share > 0.6 else INK)
        if cell >= 12:
            canvas.text(left - 8, y + cell / 2, names[i], 12, "rm")
            right = row[i] / max(sum(row), 1)
            canvas.text(left + n * cell + 10, y + cell / 2, f"{right:.2%}", 12, fill=GREY)
    if cell >= 12:
        for j, name in enumerate(names):
            canvas.text(left + (j + 0.5) * cell, top - 14, name[: cell // 7], 12, "mm")
        canvas.text(left + n * cell + 10, top - 14, "right", 12, fill=GREY)
    canvas.save(path)


def draw_sheet(path, images, captions, title, n_columns=10):
    """Draw a contact sheet of `images`, uint8 (N, channels, height, width).

    `captions` is a list of N (from, to, note): under each image stands an arrow from one class name to
    another, and the note under that.
    """
    width, height = 84, 110
    n_rows = math.ceil(len(images) / n_columns)
    canvas = Canvas(max(n_columns * width, 10 * len(title)) + 40, n_rows * height + 60)
    canvas.text(20, 26, title, 15)
    for index, (image, (name, other, note)) in enumerate(zip(images, captions, strict=True)):
        left, top = 20 + index % n_columns * width, 52 + index // n_columns * height
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        picture = Image.fromarray(pixels.numpy())
        enlarged = SCALE * 72 / max(picture.size)
        size = [max(1, round(enlarged * side)) for side in picture.size]
        canvas.image.paste(picture.resize(size, Image.Resampling.NEAREST), (SCALE * left, SCALE * top))
        x, y = left + 36, top + 82
        canvas.text(x - 10, y, name[:5], 12, "rm")
        canvas.text(x + 10, y, other[:5], 12)
        canvas.line([(x - 6, y), (x + 6, y)])  # the font has no arrow
        canvas.line([(x + 2, y - 3), (x + 6, y), (x + 2, y + 3)])
        canvas.text(x, top + 96, note, 10, "mm", GREY)
    canvas.save(path)


def shade(colour, share):
    """Return the hexadecimal `colour` mixed with white: all of it where `share` is 1, white where it is 0."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(round(255 + (channel - 255) * share) for channel in channels)
