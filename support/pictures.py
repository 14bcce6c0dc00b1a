"""Every picture, drawn with Pillow: lines, a run's curves, costs, a confusion matrix, a sheet of images.

All is drawn at twice its size and then halved, which smooths the lines.
"""

import argparse
import math
import unicodedata
from functools import cache, partial
from itertools import cycle
from pathlib import Path

from support.console import printable
from support.files import PNG_MARK, check_replaceable, write_csv, written

from PIL import Image, ImageColor, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

SCALE = 2
INK, GREY, PALE, GRID = "#222222", "#777777", "#bbbbbb", "#e4e4e4"
BLUE, ORANGE = "#1f6fb4", "#d9641a"  # told apart by colour-blind eyes too
COLOURS = (BLUE, ORANGE, "#009e73", "#c2679d", "#333333", "#c99700", "#56b4e9", "#8c564b")

# ---------------------------------------------------------------- a canvas, and the axes of a diagram


class Canvas:
    """A white picture of `width` × `height` pixels, to draw on; all lengths are in pixels."""

    def __init__(self, width, height):
        self.image = Image.new("RGB", (SCALE * width, SCALE * height), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x, y, text, size=13, anchor="lm", fill=INK, width=math.inf):
        """Write `text` on one line, cut to `width`; Pillow's `anchor` says which point of it (x, y) is."""
        font = font_of(SCALE * size)
        text = "".join(map(drawable, printable(str(text))))
        whole = text
        while font.getlength(text) > SCALE * width:
            whole = whole[:-1]
            text = whole and whole + "…"
        self.draw.text((SCALE * x, SCALE * y), text, fill, font, anchor)

    def line(self, points, fill=GREY, width=1):
        """Join `points`, (x, y) pairs."""
        self.draw.line([(SCALE * x, SCALE * y) for x, y in points], fill, round(SCALE * width), joint="curve")

    def dots(self, points, fill, radius=2.5):
        """Draw a filled circle around each of `points`."""
        for x, y in points:
            self.draw.circle((SCALE * x, SCALE * y), SCALE * radius, fill)

    def box(self, left, top, side, fill):
        """Draw a filled square."""
        right, bottom = SCALE * (left + side) - 1, SCALE * (top + side) - 1
        self.draw.rectangle((SCALE * left, SCALE * top, right, bottom), fill)

    def area(self, points, fill):
        """Draw a filled polygon with the corners `points`, (x, y) pairs."""
        self.draw.polygon([(SCALE * x, SCALE * y) for x, y in points], fill)

    def save(self, path):
        """Write the picture as a PNG file, whole or not at all."""
        marked = PngInfo()
        marked.add_text(*PNG_MARK)
        with written(path) as file:
            self.image.reduce(SCALE).save(file, "PNG", pnginfo=marked)


font_of = cache(ImageFont.load_default)  # by its size in pixels


@cache
def drawable(letter):
    """Return `letter` where the font has it, else what is next to it: of ü u, of × x, of others ?."""
    font = font_of(20)

    def has(letter):
        return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff")) or letter == " "

    plain = {"×": "x", "ß": "ss", "→": ">", "–": "-"}.get(letter) or unicodedata.normalize("NFKD", letter)
    return letter if has(letter) else "".join(filter(has, plain)) or "?"


def shade(colour, share):
    """Return the hexadecimal `colour` mixed with white: all of it where `share` is 1, white where it is 0."""
    return tuple(round(255 + (channel - 255) * share) for channel in ImageColor.getrgb(colour))


def ticks(low, high, n_most=6, least_step=0):
    """Return round numbers from `low` to `high`, at most `n_most` and one, as (value, label) pairs."""
    rough = max((high - low) / n_most, least_step)
    step = 10 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if rough <= factor * step)
    n_digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, f"{number * step:.{n_digits}f}") for number in range(first, last + 1)]


def whole_ticks(low, high):
    """Return whole numbers from `low` to `high`, ints, at most eleven, as (value, label) pairs."""
    return ticks(low, high, n_most=10, least_step=1)


def log_ticks(low, high):
    """Return 1, 2 and 5 times the powers of ten from `low` to `high`, as (value, label) pairs.

    Where those are many, just the powers; where they are fewer than two, or span no power of ten, evenly
    spaced numbers.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    marks = [(mark, f"{mark:g}") for mark in marks if low <= mark <= high]
    return marks if high > 10 * low and len(marks) > 1 else ticks(low, high)


def axis_range(values, log, most=math.inf):
    """Return (low, high), somewhat wider than `values`, but not above `most`, nor needlessly below 0."""
    low, high = min(values), max(values)
    if log:
        return low / 1.25, high * 1.25
    margin = (high - low) * 0.05 or 1
    return max(low - margin, min(low, 0)), min(high + margin, most)


def axes(canvas, area, points, title, x_title, log_x=False, log_y=False, x_ticks=None, y_most=math.inf):
    """Draw a diagram's frame, grid and labels into `area`, (left, top, right, bottom).

    It has room for `points`, (x, y) pairs, but none above `y_most`. `x_ticks`, (value, label) pairs, take the
    place of round numbers. Returns the function that maps (x, y) to its place on the canvas.
    """
    left, top, right, bottom = area
    xs, ys = zip(*points, strict=True)
    x_range, y_range = axis_range(xs, log_x), axis_range(ys, log_y, y_most)

    def share(value, low, high, log):
        return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

    def place(x, y):
        across, up = share(x, *x_range, log_x), share(y, *y_range, log_y)
        return left + (right - left) * across, bottom - (bottom - top) * up

    canvas.text((left + right) / 2, top - 20, title, 14, "mm")
    for value, label in (log_ticks if log_y else ticks)(*y_range):
        y = place(x_range[0], value)[1]
        canvas.line([(left, y), (right, y)], GRID)
        canvas.text(left - 7, y, label, 12, "rm")
    for value, label in x_ticks or (log_ticks if log_x else ticks)(*x_range):
        x = place(value, y_range[0])[0]
        canvas.line([(x, bottom), (x, bottom + 4)])
        canvas.text(x, bottom + 14, label, 12, "mm")
    canvas.line([(left, top), (left, bottom), (right, bottom)])
    canvas.text((left + right) / 2, bottom + 34, x_title, 12, "mm")
    return place


# ---------------------------------------------------------------- lines


def draw_lines(path, title, rows):
    """Draw rows of diagrams, in each row the same lines, numbered and named below it.

    `rows` is a list of (heading, panels, lines): `panels` are dicts of `axes`' arguments title, x_title,
    log_x, log_y, x_ticks, y_most; `lines` are (name, curves), in `curves` for each panel a list of points
    (x, y, low, high), where low and high are the edges of a band around the line.
    """
    heights = [350 + 20 * bool(heading) + 20 * len(lines) for heading, _, lines in rows]
    canvas, bottom = Canvas(960, 44 + sum(heights)), 44
    canvas.text(480, 24, title, 15, "mm")
    for (heading, panels, lines), height in zip(rows, heights, strict=True):
        canvas.text(20, bottom + 12, heading)
        bottom += height
        names = bottom - 20 - 20 * len(lines)  # where they begin
        for number, options in enumerate(panels):
            left = 70 + number * 880 / len(panels)
            area = (left, names - 288, left + 880 / len(panels) - 90, names - 60)
            draw_panel(canvas, area, options, [curves[number] for _, curves in lines])
        for number, ((name, _), colour) in enumerate(zip(lines, cycle(COLOURS), strict=False)):
            y = names + number * 20
            canvas.line([(40, y), (62, y)], colour, 2.5)
            canvas.text(68, y, f"{number + 1}  {name}", 12)
    canvas.save(path)


def draw_panel(canvas, area, options, curves):
    """Draw one diagram of `draw_lines`; `curves` is a list with each line's points."""
    edges = [(x, edge) for curve in curves for x, _, *band in curve for edge in band]
    place = axes(canvas, area, edges, **options)
    for curve, colour in zip(curves, cycle(COLOURS), strict=False):
        lower = [place(x, low) for x, _, low, _ in curve]
        upper = [place(x, high) for x, _, _, high in curve]
        canvas.area(lower + upper[::-1], shade(colour, 0.2))
    ends = []
    for number, (curve, colour) in enumerate(zip(curves, cycle(COLOURS), strict=False), 1):
        points = [place(x, y) for x, y, *_ in curve]
        canvas.line(points, colour, 2)
        canvas.dots(points if len(points) <= 40 else [], colour)
        ends.append((*points[-1][::-1], number, colour))
    y_above, lowest = -math.inf, area[3] - 7 - 13 * len(ends)
    for y, x, number, colour in sorted(ends):  # from the top down, none on another and none below the axis
        lowest += 13
        y_above = max(min(y, lowest), y_above + 13)
        canvas.text(x + 9, y_above, number, 12, fill=colour)


def curve_of(values):
    """Return `values`, the first for x = 1, as a curve without a band: what `draw_lines` takes."""
    return [(x, y, y, y) for x, y in enumerate(values, 1)]


def draw_curves(path, history, title):
    """Draw a run's loss and accuracy by epoch; `history` is a list of metrics.csv's rows."""
    lines = []
    for name, split in (("training set, mean over the epoch", "train"), ("test set, after it", "test")):
        losses = [max(row[f"{split}_loss"], 1e-6) for row in history]  # none is 0, for the log
        accuracies = [100 * row[f"{split}_accuracy"] for row in history]
        lines.append((name, [curve_of(losses), curve_of(accuracies)]))
    epochs = {"x_title": "epoch", "x_ticks": whole_ticks(1, len(history))}
    loss = epochs | {"title": "loss (cross-entropy, log scale)", "log_y": True}
    accuracy = epochs | {"title": "accuracy (%)", "y_most": 100}
    draw_lines(path, title, [("", [loss, accuracy], lines)])


def output_file(suffix, text):
    """Return `text`, a file to write: refuse other suffixes than `suffix`, and the files of a run."""
    file = Path(text).resolve()  # now, as A/../B is B only once A is there
    if file.suffix != suffix or (file.exists() and not file.is_file()):
        raise argparse.ArgumentTypeError(f"{text}: is no name for a new {suffix} file")
    if (file.parent / "config.json").exists():
        raise argparse.ArgumentTypeError(f"{text}: is a run's; choose another place")
    if suffix == ".png":
        check_replaceable(text)
    return text


def add_output_flags(parser, picture):
    """Give an ArgumentParser the flags of a command that ends in `write_outputs`."""
    drawn, table = partial(output_file, ".png"), partial(output_file, ".csv")
    text = f"draw this (default: {picture})"
    parser.add_argument("--picture", default=picture, type=drawn, metavar="FILE", help=text)
    parser.add_argument("--csv", type=table, metavar="FILE", help="write the table to this file too")


def write_outputs(given, table, title, rows):
    """Write the table, dicts, where --csv was given, draw `rows` as `draw_lines` does, and say where."""
    if given.csv:
        check_replaceable(given.csv, table[0])
        Path(given.csv).parent.mkdir(parents=True, exist_ok=True)
        write_csv(given.csv, table)
    Path(given.picture).parent.mkdir(parents=True, exist_ok=True)
    draw_lines(given.picture, title, rows)
    print(f"\nlook at {given.picture}" + (f"; the table is in {given.csv}" if given.csv else ""))


# ---------------------------------------------------------------- costs, classes, images


def pareto(entries, cost, value):
    """Return those of `entries`, dicts, than which no cheaper one is as good, from the cheapest on."""
    front = []
    for entry in sorted(entries, key=lambda entry: (entry[cost], -entry[value])):
        if not front or entry[value] > front[-1][value]:
            front.append(entry)
    return front


def draw_costs(path, board, title):
    """Draw the validation error of architectures against their cost; `board` is search_report.leaderboard's.

    Those that were trained the longest are dots, blue for encoders and orange for ResNets; the others,
    trained more briefly, are small and grey. Of the longest trained ones those are joined than which no
    cheaper one is as good.
    """
    board = [entry | {"error": max(100 - 100 * entry["mean"], 0.01)} for entry in board]  # in percent
    longest = max(entry["passes"] for entry in board)
    full = [entry for entry in board if entry["passes"] == longest]
    front = pareto(full, "mflop", "mean")
    canvas = Canvas(900, 566 + 20 * math.ceil(len(front) / 3))
    canvas.text(450, 24, title, 15, "mm")
    points = [(entry["mflop"], entry["error"]) for entry in board]
    x_title, y_title = "MFLOP of one image, forward (log scale)", "validation error (%, log scale)"
    on_canvas = axes(canvas, (80, 80, 860, 470), points, y_title, x_title, log_x=True, log_y=True)

    def place(entry):
        return on_canvas(entry["mflop"], entry["error"])

    canvas.dots([place(entry) for entry in board if entry["passes"] < longest], PALE)
    canvas.line([place(entry) for entry in front])
    for model, colour in (("encoder", BLUE), ("resnet", ORANGE)):
        canvas.dots([place(entry) for entry in full if entry["model"] == model], colour, 4.5)
    for number, entry in enumerate(front):
        x, y = place(entry)
        canvas.text(x, y + 14, number + 1, 12, "mm")
        x, y = 135 + number % 3 * 235, 566 + number // 3 * 20
        canvas.text(x, y, f"{number + 1}  {entry['architecture']}", 12)
    kinds = [(BLUE, "encoder"), (ORANGE, "ResNet"), (PALE, "trained more briefly")]
    x = 140
    for colour, name in kinds if len(full) < len(board) else kinds[:2]:
        canvas.dots([(x, 535)], colour, 4.5)
        canvas.text(x + 10, 535, name)
        x += 110
    canvas.text(x + 60, 535, "line: no cheaper one is as good", fill=GREY)
    canvas.save(path)


def draw_confusion(path, matrix, classes, title, subtitle):
    """Draw a confusion matrix, int64 (classes, classes), rows the labels and columns the predicted classes.

    Right answers are blue, wrong ones orange, each the deeper the more there are among their kind.
    """
    n = len(classes)
    matrix = matrix.tolist()
    cell = max(4, min(44 if n > 5 else 88, 900 // n))
    names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
    left, top = 60 + 7 * max(map(len, names)), 104
    right = left + n * cell
    canvas = Canvas(max(right + 90, 10 * len(title) + 40, 7 * len(subtitle) + 40), top + n * cell + 40)
    canvas.text(20, 24, title, 15)
    canvas.text(20, 48, subtitle, 12, fill=GREY)
    most_right = max([1, *(matrix[i][i] for i in range(n))])
    most_wrong = max([1, *(matrix[i][j] for i in range(n) for j in range(n) if i != j)])
    for i, row in enumerate(matrix):
        y = top + i * cell
        for j, count in enumerate(row):
            x = left + j * cell
            share, colour = (count / most_right, BLUE) if i == j else (count / most_wrong, ORANGE)
            canvas.box(x, y, cell - 1, shade(colour, 0.85 * share) if count else "#f6f6f6")
            if count and cell >= 24:
                size = 13 if count < 1000 else 11
                canvas.text(x + cell / 2, y + cell / 2, count, size, "mm", "white" if share > 0.6 else INK)
        if cell >= 12:
            canvas.text(left - 8, y + cell / 2, names[i], 12, "rm")
            canvas.text(left + (i + 0.5) * cell, top - 14, names[i], 12, "mm", width=cell - 3)
            canvas.text(right + 10, y + cell / 2, f"{row[i] / max(sum(row), 1):.2%}", 12, fill=GREY)
    if cell >= 12:
        canvas.text(right + 10, top - 14, "right", 12, fill=GREY)
    canvas.save(path)


def draw_sheet(path, images, captions, title):
    """Draw a contact sheet of `images`, uint8 (N, channels, height, width).

    `captions` is a list of N (from, to, note): under each image stands an arrow from one class name to
    another, and the note under that. Where names are long, the second one stands below the first.
    """
    stacked = max((len(name) for *names, _ in captions for name in names), default=0) > 4
    n_columns, width, height = 10, 84, 126 if stacked else 110
    n_rows = math.ceil(len(images) / n_columns)
    canvas = Canvas(max(n_columns * width, 10 * len(title)) + 40, n_rows * height + 60)
    canvas.text(20, 26, title, 15)
    for index, (image, (name, other, note)) in enumerate(zip(images, captions, strict=True)):
        left, top = 20 + index % n_columns * width, 52 + index // n_columns * height
        picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
        enlarged = SCALE * 72 / max(picture.size)
        size = [max(1, round(enlarged * side)) for side in picture.size]
        # Few pixels stay squares, as networks see them; many are averaged.
        method = Image.Resampling.NEAREST if enlarged >= 1 else Image.Resampling.LANCZOS
        canvas.image.paste(picture.resize(size, method), (SCALE * left, SCALE * top))
        x, y = (left + 6, top + 98) if stacked else (left + 36, top + 82)
        if stacked:
            canvas.text(x + 10, y - 16, name, 12, width=66)
        else:
            canvas.text(x - 10, y, name, 12, "rm", width=31)
        canvas.text(x + 10, y, other, 12, width=66)
        canvas.line([(x - 6, y), (x + 6, y)])  # the font has no arrow
        canvas.line([(x + 2, y - 3), (x + 6, y), (x + 2, y + 3)])
        canvas.text(left + 36, y + 14, note, 10, "mm", GREY, width - 4)
    canvas.save(path)
