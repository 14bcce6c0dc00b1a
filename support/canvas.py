"""A canvas that Pillow draws on, and the axes of a diagram.

Everything is drawn at twice its size and then halved, which smooths the lines.
"""

import math

from support.console import printable
from support.files import PNG_MARK, written

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

SCALE = 2
INK, GREY, GRID = "#222222", "#777777", "#e4e4e4"
BLUE, ORANGE = "#1f6fb4", "#d9641a"  # told apart by colour-blind eyes too


class Canvas:
    """A white picture of `width` × `height` pixels, to draw on; all lengths are in pixels."""

    def __init__(self, width, height):
        self.image = Image.new("RGB", (SCALE * width, SCALE * height), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x, y, text, size=13, anchor="lm", fill=INK):
        """Write `text` on one line; `anchor` is Pillow's, such as lm: (x, y) is its left end, half-way up."""
        font = ImageFont.load_default(SCALE * size)
        self.draw.text((SCALE * x, SCALE * y), printable(str(text)), fill, font, anchor)

    def line(self, points, fill=GREY, width=1):
        """Join `points`, (x, y) pairs."""
        self.draw.line([(SCALE * x, SCALE * y) for x, y in points], fill, round(SCALE * width), joint="curve")

    def dot(self, x, y, fill, radius=2.5):
        """Draw a filled circle."""
        self.draw.circle((SCALE * x, SCALE * y), SCALE * radius, fill)

    def box(self, left, top, right, bottom, fill):
        """Draw a filled rectangle."""
        self.draw.rectangle((SCALE * left, SCALE * top, SCALE * right - 1, SCALE * bottom - 1), fill)

    def area(self, points, fill):
        """Draw a filled polygon with the corners `points`, (x, y) pairs."""
        if len(points) > 2:
            self.draw.polygon([(SCALE * x, SCALE * y) for x, y in points], fill)

    def save(self, path):
        """Write the picture as a PNG file, whole or not at all."""
        marked = PngInfo()
        marked.add_text(*PNG_MARK)
        with written(path) as file:
            self.image.reduce(SCALE).save(file, "PNG", optimize=True, pnginfo=marked)


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


def axes(canvas, area, x_range, y_range, title, x_title, log_x=False, log_y=False, x_ticks=None):
    """Draw a diagram's frame, grid and labels into `area`, (left, top, right, bottom).

    `x_range` and `y_range` are (low, high); `x_ticks`, (value, label) pairs, take the place of round numbers.
    Returns the function that maps (x, y) to its place on the canvas.
    """
    left, top, right, bottom = area

    def share(value, low, high, log):
        return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

    def place(x, y):
        across, up = share(x, *x_range, log_x), share(y, *y_range, log_y)
        return left + (right - left) * across, bottom - (bottom - top) * up

    def marks(low, high, log):
        return (log_ticks if log and high > 10 * low else ticks)(low, high)

    canvas.text((left + right) / 2, top - 20, title, 14, "mm")
    for value, label in marks(*y_range, log_y):
        y = place(x_range[0], value)[1]
        canvas.line([(left, y), (right, y)], GRID)
        canvas.text(left - 7, y, label, 12, "rm")
    for value, label in x_ticks or marks(*x_range, log_x):
        x = place(value, y_range[0])[0]
        canvas.line([(x, bottom), (x, bottom + 4)])
        canvas.text(x, bottom + 14, label, 12, "mm")
    canvas.line([(left, top), (left, bottom), (right, bottom)])
    canvas.text((left + right) / 2, bottom + 34, x_title, 12, "mm")
    return place


def whole_ticks(low, high):
    """Return whole numbers from `low` to `high`, ints, at most eleven, as (value, label) pairs."""
    if low == high:
        return [(low, str(low))]
    return [(n, str(n)) for n in sorted({round(tick) for tick, _ in ticks(low, high, 10)})]
