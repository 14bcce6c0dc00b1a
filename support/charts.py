"""All charts and pictures, drawn with Pillow: line charts, costs, confusion matrices, contact sheets.

Pictures are drawn at twice their size and halved when saved, which smooths them; lengths are before halving.
"""

import math
import unicodedata
from contextlib import suppress
from functools import cache
from itertools import accumulate

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from support.console import printable
from support.run_folder import PNG_MARK, written

INK, GREY, PALE, GRID = (34, 34, 34), (102, 102, 102), (136, 136, 136), (228, 228, 228)
BLUE, ORANGE = (31, 111, 180), (217, 100, 26)  # colour-blind readers can distinguish them
COLOURS = (BLUE, ORANGE, (0, 143, 104), (194, 85, 143), INK, (160, 120, 0), (47, 147, 203), (140, 86, 75))
PHOTO = 288  # side of a photo in a contact sheet
# Fonts of Linux, Windows and macOS; "" is Pillow's own font (little more than ASCII); fonts with Chinese.
FONTS = ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "", "NotoSansCJK-Regular.ttc", "msyh.ttc", "Songti.ttc")
# Ticks of a logarithmic axis, to be multiplied by powers of ten; `axis` uses the first row with at most 8.
FINE = 1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9
LOG_TICKS = FINE, (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)


@cache
def fonts(size):
    """Return the FONTS that this machine has, loaded in `size`."""
    found = []
    for name in FONTS:
        with suppress(OSError):
            found.append(ImageFont.truetype(name, size) if name else ImageFont.load_default(size))
    return found


@cache
def draws(font, letter):
    """Return whether `font` has a glyph for `letter`. If not, it draws nothing or a box."""
    mask = font.getmask(letter)
    return letter == " " or bool(mask.getbbox() and bytes(mask) != bytes(font.getmask("\uffff")))


def typeset(text, size):
    """Return (text, font) for the font with most letters of `text`; escape the others, such as \\u732b."""
    text = printable(str(text))
    font = max(fonts(size), key=lambda font: sum(draws(font, letter) for letter in text))
    plain = {"×": "x", "→": ">", "–": "-", "…": "...", "●": ""}  # replacements for symbols in our own texts
    return "".join(c if draws(font, c) else plain.get(c, ascii(c)[1:-1]) for c in text), font


def length(text, size=24):
    """Return the width of `text` if it is written in `size`."""
    text, font = typeset(text, size)
    return font.getlength(text)


def cut(text, width, size=24):
    """Return `text`, with … for its middle if it is wider than `width`; names often differ at their ends."""
    text = shown = printable(str(text))
    n_left = len(text)
    while n_left and length(shown, size) > width:
        n_left -= 1
        shown = f"{text[: n_left // 3]}…{text[len(text) - n_left + n_left // 3 :]}"
    return shown


class Canvas(ImageDraw.ImageDraw):
    """A white picture to draw on."""

    def __init__(self, width, height):
        self.image = Image.new("RGB", (math.ceil(width), math.ceil(height)), "white")
        super().__init__(self.image, "RGBA")  # RGBA: colours may be transparent

    def write(self, x, y, text, anchor="l", size=24, fill=INK):
        """Write `text` on one line; its left end ("l"), middle ("m") or right end ("r") is at (x, y)."""
        text, font = typeset(text, size)
        self.text((x, y), text, fill, font, f"{anchor}m")

    def key(self, names, top, n_columns):
        """Write `names`, numbered from 1, below `top`, column by column."""
        n_rows, width = math.ceil(len(names) / n_columns), (self.image.width - 80) // n_columns
        for i, name in enumerate(names):
            x, y = 40 + i // n_rows * width, top + i % n_rows * 36
            self.write(x, y, cut(f"{i + 1}  {name}", width - 24))

    def save(self, path, title, subtitle=""):
        """Write a PNG file with the title, the subtitle and, below them, the drawing."""
        title, subtitle = cut(title, 2000, 32), cut(subtitle, 2000)
        width = max(self.image.width, length(title, 32) + 80, length(subtitle) + 80)
        whole = Canvas(width, self.image.height + 90 + 40 * bool(subtitle))
        whole.write(40, 48, title, size=32)
        whole.write(40, 94, subtitle, fill=GREY)
        whole.image.paste(self.image, (0, whole.image.height - self.image.height))
        marked = PngInfo()
        marked.add_text(*PNG_MARK)
        with written(path) as file:
            whole.image.reduce(2).save(file, "PNG", pnginfo=marked)


def axis(values, start, end):
    """Return (place, ticks) of an axis from pixel `start` to `end`: place(value) is the pixel of a value.

    The axis is linear if all `values` are ints, such as epochs, else logarithmic; 0 is then at `start`.
    """
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        steps = [factor * 10**power for power in range(10) for factor in (1, 2, 5)]
        step = next(step for step in steps if high - low <= 6 * step)
        ticks = [value for value in range(low, high + 1) if value % step == 0]
        scale, margin = float, (high - low) / 20 or 0.5
        low, high = low - margin, high + margin
    else:
        scale, zero = math.log, [0] if low <= 0 else []
        least = min((value for value in values if value > 0), default=1)
        low, high = least / 1.25, max(high, least) * 1.25
        powers = [10.0**power for power in range(-12, 13)]
        rows = [[f * p for p in powers for f in factors if low <= f * p <= high] for factors in LOG_TICKS]
        ticks = zero + next((row for row in rows if len(row) <= 8), rows[-1])
        low = low / 3 if zero else low
    unit = (end - start) / (scale(high) - scale(low))
    return lambda x: start + unit * (scale(max(x, low)) - scale(low)), ticks


def axes(canvas, area, points, title, x_title):
    """Draw axes for `points` into `area`, (left, top, right, bottom); return a function (x, y) → pixel."""
    left, top, right, bottom = area
    place_x, x_ticks = axis([x for x, _ in points], left, right)
    place_y, y_ticks = axis([y for _, y in points], bottom, top)
    canvas.write(left, top - 36, title)
    for value in y_ticks:
        y = place_y(value)
        canvas.line((left, y, right, y), GRID, 2)
        canvas.write(left - 14, y, f"{value:g}", "r")
    for value in x_ticks:
        x = place_x(value)
        canvas.line((x, bottom, x, bottom + 8), GREY, 2)
        canvas.write(x, bottom + 28, f"{value:g}", "m")
    canvas.line((left, top, left, bottom, right, bottom), GREY, 2)
    canvas.write((left + right) / 2, bottom + 68, x_title, "m")
    return lambda x, y: (place_x(x), place_y(y))


def draw_lines(path, title, panels, rows):
    """Draw rows of diagrams. The diagrams in a row show the same lines; the last one has their names.

    `panels` has (title, x_title) for each diagram in a row, `rows` is a list of (heading, lines), `lines` a
    list of (name, curves). `curves` has a list of points (x, y, low, high) for each panel; low and high are
    the edges of a band around the line.
    """
    plot, step, widest = 800, 960, max(length(cut(name, 660)) for _, lines in rows for name, _ in lines)
    heights = [max(540, 34 * len(lines)) for _, lines in rows]
    canvas = Canvas(len(panels) * step + 80 + widest, sum(heights) + 225 * len(rows))
    top = 100
    for (heading, lines), height in zip(rows, heights, strict=True):
        canvas.write(40, top - 84, heading)
        for number, titles in enumerate(panels):
            left, is_last = 120 + number * step, number + 1 == len(panels)
            curves = [(name if is_last else "", curves[number]) for name, curves in lines]
            draw_panel(canvas, (left, top, left + plot, top + height), titles, curves)
        top += height + 225
    canvas.save(path, title)


def draw_panel(canvas, area, titles, lines):
    """Draw one diagram of `draw_lines` into `area`, (left, top, right, bottom); `lines` are (name, curve)."""
    place = axes(canvas, area, [(x, y) for _, curve in lines for x, *ys in curve for y in ys], *titles)
    ends = []
    for i, (name, curve) in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        points, lower, upper = ([place(point[0], point[side]) for point in curve] for side in (1, 2, 3))
        canvas.polygon(lower + upper[::-1], (*colour, 40))
        canvas.line((lower[-1], upper[-1]), (*colour, 110), 2)
        canvas.line(points, colour, 4, joint="curve")
        for point in points if len(points) <= 40 else []:  # hollow dots if the colour is used again
            canvas.circle(point, 6, colour if i < len(COLOURS) else "white", colour, 2)
        ends += [(*points[-1][::-1], name, colour)] if name else []
    ends.sort()
    _, top, right, bottom = area
    for (y, x, name, colour), height in zip(ends, spread([y for y, *_ in ends], top, bottom), strict=True):
        canvas.line((x, y, right + 8, y, right + 52, height), (*colour, 110), 2)
        canvas.write(right + 58, height, cut(name, 660), fill=colour)


def spread(wanted, top, bottom, gap=32):
    """Return ascending heights close to `wanted`, from `top` to `bottom` and at least `gap` apart."""
    lower = list(accumulate(wanted, lambda above, y: max(above + gap, y)))
    upper = list(accumulate(wanted[::-1], lambda below, y: min(below - gap, y)))[::-1]
    middle = [(a + b) / 2 for a, b in zip(lower, upper, strict=True)]
    last = bottom - gap * (len(wanted) - 1)
    return [min(max(y, top + gap * i), last + gap * i) for i, y in enumerate(middle)]


def draw_curves(path, history, title):
    """Draw the loss and the error of a run by epoch; `history` is the list of rows of metrics.csv, dicts."""
    lines = []
    for name, split in (("training", "train"), ("test", "test")):
        losses = [row[f"{split}_loss"] for row in history]
        errors = [100 - 100 * row[f"{split}_accuracy"] for row in history]
        lines.append((name, [[(x, y, y, y) for x, y in enumerate(ys, 1)] for ys in (losses, errors)]))
    panels = ("loss (cross-entropy, log scale)", "epoch"), ("error (%, log scale)", "epoch")
    draw_lines(path, title, panels, [("", lines)])


def pareto(entries):
    """Return the Pareto front of `entries`, dicts with mflop and error: no other entry is as good in both."""
    ordered = sorted(entries, key=lambda entry: (entry["mflop"], entry["error"]))
    return [e for i, e in enumerate(ordered) if all(e["error"] < other["error"] for other in ordered[:i])]


def draw_costs(path, entries, title):
    """Draw validation error against cost, and the Pareto front of the architectures trained in full.

    `entries` are dicts: model ("encoder" or "resnet"), architecture (text), mflop (float), error (%),
    error_sd (or None), longest (bool: trained in full, not briefly), is_sheets (bool: the sheet's network).
    """
    front = pareto(entry for entry in entries if entry["longest"])
    canvas = Canvas(1800, 1020 + 36 * math.ceil(len(front) / 2))
    points = []  # three for each entry: the lower end of its error bar, its error, the upper end
    for entry in entries:
        error, sd = entry["error"], entry["error_sd"] or 0
        points += [(entry["mflop"], y) for y in (max(error - sd, error / 2), error, error + sd)]
    titles = "validation error (%, log scale)", "MFLOP of one image, forward (log scale)"
    place = axes(canvas, (140, 90, 1740, 840), points, *titles)
    canvas.line([place(entry["mflop"], entry["error"]) for entry in front], PALE, 4)
    for i, entry in sorted(enumerate(entries), key=lambda pair: pair[1]["longest"]):
        low, (x, y), high = (place(*point) for point in points[3 * i : 3 * i + 3])
        canvas.line((low, high), GREY, 2)
        colour = BLUE if entry["model"] == "encoder" else ORANGE
        canvas.circle((x, y), *((10, colour) if entry["longest"] else (6, PALE)))
        if entry["is_sheets"]:
            canvas.circle((x, y), 18, None, INK, 2)
            canvas.write(x, min(high[1], y - 18) - 20, "the sheet's network", "m")
        if entry in front:
            canvas.write(x - 18, min(y + 22, 824), front.index(entry) + 1, "m")
    canvas.write(1400, 54, "● encoder", "r", fill=BLUE)
    canvas.write(1530, 54, "● ResNet", "r", fill=ORANGE)
    if not all(entry["longest"] for entry in entries):
        canvas.write(1740, 54, "● trained briefly", "r", fill=PALE)
    canvas.write(40, 956, "Pareto front (grey line):")
    canvas.key([entry["architecture"] for entry in front], 1000, 2)
    canvas.save(path, title)


def draw_confusion(path, matrix, classes, title, subtitle):
    """Draw a confusion matrix, int64 (classes, classes): rows are labels, columns are predicted classes.

    The diagonal is blue, other cells are orange; darker means more images. If names look alike or do not fit
    above the columns, rows and columns have numbers, and a key below the matrix lists the names.
    """
    n, counts = len(classes), matrix.tolist()
    most_room = min(176, 1920 // n)
    alike = len({unicodedata.normalize("NFKC", name).strip() for name in classes}) < n
    numbered = alike or max(map(length, classes)) + 20 > most_room
    names = range(1, n + 1) if numbered else classes
    cell = max(10, min(most_room, max(96, 600 // n, 20 + max(map(length, names)))))
    left, top, side = 70 + max(length("label"), *map(length, names)), 100, n * cell
    below = 40 + 36 * math.ceil(n / 3 + 1) * numbered
    canvas = Canvas(max(left + side + 160, 1500 * numbered), top + side + below)
    canvas.write(left + side / 2, 20, "predicted class", "m")
    canvas.write(left - 16, 20, "label", "r")
    canvas.write(left + side + 20, 20, "agree", fill=GREY)
    right, gap = matrix.diag(), 3 if cell >= 28 else 1
    most = [max(1, int(kind.max())) for kind in (matrix - right.diag(), right)]
    size = next((size for size in (28, 24, 20) if length(max(most), size) <= cell - 8), 0)
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            x, y = left + j * cell, top + i * cell
            depth = round(30 + 136 * count / most[i == j])
            colour = (*(BLUE if i == j else ORANGE), depth) if count else (244, 244, 244)
            canvas.rectangle((x, y, x + cell - gap, y + cell - gap), colour)
            if count and size:
                canvas.write(x + cell / 2, y + cell / 2, count, "m", size)
    step = 1 if cell >= 28 else 10
    for i in range(step - 1, n, step):
        middle = (i + 0.5) * cell
        canvas.write(left - 16, top + middle, names[i], "r")
        canvas.write(left + middle, top - 28, names[i], "m")
        share = f"{counts[i][i] / sum(counts[i]):.2%}" if sum(counts[i]) else "–"
        canvas.write(left + side + 20, top + middle, share, fill=GREY)
    if numbered:
        canvas.key(classes, top + side + 60, 3)
    canvas.save(path, title, subtitle)


def draw_sheet(path, pictures, captions, title):
    """Draw a contact sheet. `pictures` are Pillow images.

    `captions` has three texts for each picture; a text that is too wide gets a line break after its arrow.
    The pixels of small pictures (up to 64×64) become squares; larger pictures are resized smoothly.
    """
    pictures = [picture.convert("RGB") for picture in pictures]
    side = PHOTO if any(max(picture.size) > 64 for picture in pictures) else 224
    n_columns = min(len(pictures), 2000 // (side + 32))
    texts = []
    for caption in captions:
        whole = [t if length(t) <= side else t.replace("→ ", "→\n") for t in map(printable, caption)]
        texts.append("\n".join(whole).split("\n"))
    height = side + 48 + 30 * max(map(len, texts))
    canvas = Canvas(n_columns * (side + 32) + 48, math.ceil(len(pictures) / n_columns) * height)
    for index, (picture, lines) in enumerate(zip(pictures, texts, strict=True)):
        left, top = 40 + index % n_columns * (side + 32), index // n_columns * height
        longest = max(picture.size)
        factor = side // 2 // longest * 2 if longest <= 64 else side / longest
        size = [max(1, round(factor * edge)) for edge in picture.size]
        method = Image.Resampling.NEAREST if longest <= 64 else Image.Resampling.LANCZOS
        corner = left + (side - size[0]) // 4 * 2, top + (side - size[1]) // 4 * 2  # even: halved exactly
        canvas.image.paste(picture.resize(size, method), corner)
        for number, line in enumerate(lines):
            fill = INK if number < len(lines) - 2 else GREY
            canvas.write(left, top + side + 24 + 30 * number, cut(line, side), fill=fill)
    canvas.save(path, title)
