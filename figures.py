"""Every picture, drawn with Pillow: a run's curves, a confusion matrix, a contact sheet of images.

Everything is drawn at twice its size and then halved, which smooths the lines.
"""

import math

from PIL import Image, ImageDraw, ImageFont

from files import written

SCALE = 2
INK, GREY, GRID = "#222222", "#777777", "#e4e4e4"
BLUE, ORANGE = "#1f6fb4", "#d9641a"  # told apart by colour-blind eyes too


class Canvas:
    """A white picture of `width` × `height` pixels, to draw on; all lengths are in pixels."""

    def __init__(self, width, height):
        self.image = Image.new("RGB", (SCALE * width, SCALE * height), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x, y, text, size=13, anchor="lm", fill=INK):
        """Write `text`; `anchor` is Pillow's, such as lm: (x, y) is its left end, half-way up."""
        font = ImageFont.load_default(SCALE * size)
        self.draw.text((SCALE * x, SCALE * y), str(text), fill, font, anchor)

    def line(self, points, fill=GREY, width=1):
        """Join `points`, (x, y) pairs."""
        self.draw.line([(SCALE * x, SCALE * y) for x, y in points], fill, round(SCALE * width), joint="curve")

    def dot(self, x, y, fill, radius=2.5):
        """Draw a filled circle."""
        self.draw.circle((SCALE * x, SCALE * y), SCALE * radius, fill)

    def box(self, left, top, right, bottom, fill):
        """Draw a filled rectangle."""
        self.draw.rectangle((SCALE * left, SCALE * top, SCALE * right - 1, SCALE * bottom - 1), fill)

    def save(self, path):
        """Write the picture as a PNG file, whole or not at all."""
        with written(path) as file:
            self.image.reduce(SCALE).save(file, "PNG", optimize=True)


def ticks(low, high, n_most=6):
    """Return round numbers from `low` to `high`, at most `n_most` and one, as (value, label) pairs."""
    step = 10 ** math.floor(math.log10((high - low) / n_most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * step) <= n_most)
    n_digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, f"{number * step:.{n_digits}f}") for number in range(first, last + 1)]


def log_ticks(low, high):
    """Return 1, 2 and 5 times the powers of ten from `low` to `high`, as (value, label) pairs.

    Where those are many, just the powers; where they are fewer than two, evenly spaced numbers.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    marks = [(mark, f"{mark:g}") for mark in marks if low <= mark <= high]
    return marks if len(marks) > 1 else ticks(low, high)


def panel(canvas, area, series, title, log=False):
    """Draw one diagram over epochs into `area`, (left, top, right, bottom).

    `series` is a list of (name, colour, values), a value for each epoch from 1 on; `log` makes the y axis
    logarithmic.
    """
    left, top, right, bottom = area
    n_epochs = max(len(line) for _, _, line in series)
    scale = math.log if log else float
    if log:
        series = [(name, colour, [max(value, 1e-6) for value in line]) for name, colour, line in series]
    values = [value for _, _, line in series for value in line]
    margin = max((max(values) - min(values)) * 0.06, 0.05)
    low, high = max(min(values) - margin, 0), min(max(values) + margin, 100)  # of an accuracy in percent
    if log:
        low, high = min(values) / 1.3, max(values) * 1.3
    y_ticks = log_ticks(low, high) if log else ticks(low, high)

    def x_of(epoch):
        return left + (right - left) * ((epoch - 1) / (n_epochs - 1) if n_epochs > 1 else 0.5)

    def y_of(value):
        return bottom - (bottom - top) * (scale(value) - scale(low)) / (scale(high) - scale(low))

    canvas.text((left + right) / 2, top - 20, title, 14, "mm")
    for value, label in y_ticks:
        canvas.line([(left, y_of(value)), (right, y_of(value))], GRID)
        canvas.text(left - 7, y_of(value), label, 12, "rm")
    for epoch in sorted({round(tick) for tick, _ in ticks(1, n_epochs, 10)} if n_epochs > 1 else {1}):
        canvas.line([(x_of(epoch), bottom), (x_of(epoch), bottom + 4)])
        canvas.text(x_of(epoch), bottom + 14, epoch, 12, "mm")
    canvas.line([(left, top), (left, bottom), (right, bottom)])
    canvas.text((left + right) / 2, bottom + 34, "epoch", 12, "mm")
    for _, colour, line in series:
        points = [(x_of(epoch), y_of(value)) for epoch, value in enumerate(line, 1)]
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
    left, top, right, bottom = 80, 80, 860, 470
    costs, errors = [entry["mflop"] for entry in board], [error_of(entry) for entry in board]
    low_x, high_x, low_y, high_y = min(costs) / 1.2, max(costs) * 1.2, min(errors) / 1.3, max(errors) * 1.1

    def x_of(cost):
        return left + (right - left) * (math.log(cost / low_x) / math.log(high_x / low_x))

    def y_of(error):
        return bottom - (bottom - top) * (math.log(error / low_y) / math.log(high_y / low_y))

    def place(entry):
        return x_of(entry["mflop"]), y_of(error_of(entry))

    for value, label in (log_ticks if high_y > 10 * low_y else ticks)(low_y, high_y):
        canvas.line([(left, y_of(value)), (right, y_of(value))], GRID)
        canvas.text(left - 7, y_of(value), label, 12, "rm")
    for value, label in (log_ticks if high_x > 10 * low_x else ticks)(low_x, high_x):
        canvas.line([(x_of(value), bottom), (x_of(value), bottom + 4)])
        canvas.text(x_of(value), bottom + 14, label, 12, "mm")
    canvas.line([(left, top), (left, bottom), (right, bottom)])
    canvas.text(left, top - 18, "validation error (%, log scale)", 12)
    canvas.text((left + right) / 2, bottom + 36, "MFLOP of one image, forward (log scale)", 12, "mm")
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
