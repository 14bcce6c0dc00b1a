"""The pictures: round ticks, what is drawn where (read back from the files), which costs are on the front."""

from itertools import pairwise

from support import files, pictures
from support.console import UserError

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageColor, ImageFont


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low, span):
    marks = pictures.ticks(low, low + span)
    assert 2 <= len(marks) <= 7
    assert all(low - 1e-6 * span <= value <= low + span * (1 + 1e-6) for value, _ in marks)
    assert all(abs(float(label) - value) < 1e-3 * span for value, label in marks)  # it says where it is


@given(st.floats(1e-12, 1e3), st.floats(1.3, 1e8))
def test_log_ticks_are_inside_and_never_too_few_to_read_the_axis(low, factor):
    marks = pictures.log_ticks(low, low * factor)
    values = [value for value, _ in marks]
    assert 2 <= len(values) <= 15
    assert values == sorted(values)
    assert all(low * 0.999 <= value <= low * factor * 1.001 for value in values)


@given(st.integers(1, 50), st.integers(0, 2000))
def test_whole_ticks_are_whole_and_evenly_spaced(low, span):
    marks = pictures.whole_ticks(low, low + span)
    values = [value for value, _ in marks]
    assert (2 if span else 1) <= len(values) <= 11
    assert all(type(value) is int and low <= value <= low + span for value in values)
    assert [str(value) for value in values] == [label for _, label in marks]
    assert len({after - before for before, after in pairwise(values)}) <= 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
@example([100.0])
@example([0.0])
def test_an_axis_of_percentages_has_room_for_all_of_them_and_shows_no_others(values):
    low, high = pictures.axis_range(values, False, 100)
    assert 0 <= low <= min(values) <= max(values) <= high <= 100
    assert low < high


def history(n_epochs):
    rows = []
    for epoch in range(1, n_epochs + 1):
        row = {"epoch": epoch, "train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch, "seconds": 1.0}
        rows.append(row | {"test_loss": 1 / epoch, "test_accuracy": 1 - 0.4 / epoch})
    return rows


def colours(path):
    with Image.open(path) as picture:
        return {colour for _, colour in picture.getcolors(1 << 24)}


def test_a_picture_bears_the_mark_of_this_program_and_others_do_not(tmp_path):
    mine, other = tmp_path / "mine.png", tmp_path / "other.png"
    pictures.Canvas(30, 20).save(mine)
    with Image.open(mine) as picture:
        assert picture.info == {"Software": "Image classification, from the exercise sheet to the numbers"}
        picture.save(other, "PNG")
    files.check_replaceable(mine)
    files.check_replaceable(tmp_path / "none.png")
    with pytest.raises(UserError, match="is there without this program's mark"):
        files.check_replaceable(other)


BOTH_LINES = {ImageColor.getrgb(colour) for colour in (pictures.BLUE, pictures.ORANGE)}


@pytest.mark.parametrize("n_epochs", [1, 2, 7, 100])
def test_curves_have_both_lines_for_any_length(tmp_path, n_epochs):
    pictures.draw_curves(tmp_path / "curves.png", history(n_epochs), "a title")
    assert colours(tmp_path / "curves.png") >= BOTH_LINES


def test_curves_of_a_perfect_run_are_drawn(tmp_path):
    row = {"epoch": 1, "train_loss": 0.0, "train_accuracy": 1.0, "test_loss": 0.0, "test_accuracy": 1.0}
    pictures.draw_curves(tmp_path / "curves.png", [row, row], "perfect")
    assert colours(tmp_path / "curves.png") & BOTH_LINES  # one lies on the other


def test_in_both_diagrams_of_the_curves_the_greater_value_is_drawn_higher(tmp_path):
    pictures.draw_curves(tmp_path / "curves.png", history(5), "a title")
    with Image.open(tmp_path / "curves.png") as picture:
        for x in (
            170,
            610,
        ):  # in the loss, where the test set's is half; in the accuracy, where it is greater
            column = [picture.getpixel((x, y)) for y in range(100, 310)]
            heights = [column.index(ImageColor.getrgb(c)) for c in (pictures.BLUE, pictures.ORANGE)]
            assert (heights[0] < heights[1]) == (x == 170)  # y grows downwards


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12))
def test_the_numbers_at_the_lines_ends_never_meet_and_stay_above_the_axis(last_values):
    canvas, written = pictures.Canvas(400, 400), []
    canvas.text = lambda x, y, text, *_, fill=None, **__: written.append((y, text)) if fill else None
    curves = [[(1, 5, 5, 5), (2, value, value, value)] for value in last_values]
    pictures.draw_panel(canvas, (50, 50, 350, 300), {"title": "", "x_title": ""}, curves)
    numbers = sorted(written)
    assert {number for _, number in numbers} == set(range(1, len(curves) + 1))
    assert all(below[0] - above[0] > 12.9 for above, below in pairwise(numbers))
    assert numbers[-1][0] <= 300 - 7 + 1e-9
    order = [last_values[number - 1] for _, number in numbers]
    assert order == sorted(order, reverse=True)


def test_a_band_is_drawn_paler_than_its_line_and_between_its_edges(tmp_path):
    lines = [("a", [[(1, 5, 2, 8), (2, 5, 2, 8)]]), ("b", [[(1, 0, 0, 0), (2, 10, 10, 10)]])]
    pictures.draw_lines(tmp_path / "a.png", "", [("a heading", [{"title": "", "x_title": ""}], lines)])
    with Image.open(tmp_path / "a.png") as picture:
        column = [picture.getpixel((200, y)) for y in range(picture.height)]
    pale = [y for y, colour in enumerate(column) if colour == pictures.shade(pictures.BLUE, 0.2)]
    line = column.index(ImageColor.getrgb(pictures.BLUE))
    assert len(pale) > 100
    assert (min(pale) + max(pale)) / 2 == pytest.approx(line, abs=3)


def test_wrong_answers_are_orange_only_where_there_are_any(tmp_path):
    right = torch.eye(3, dtype=torch.int64) * 5
    pictures.draw_confusion(tmp_path / "right.png", right, ("a", "b", "c"), "title", "none wrong")
    wrong = right.clone()
    wrong[0, 2] = 4
    pictures.draw_confusion(tmp_path / "wrong.png", wrong, ("a", "b", "c"), "title", "some wrong")
    deepest = pictures.shade(pictures.ORANGE, 0.85)
    assert deepest not in colours(tmp_path / "right.png")
    assert deepest in colours(tmp_path / "wrong.png")


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"), ("\udcff", r"\udcff"), ("\r\t", r"\r\t"), ("\0", r"\x00")],
)
def test_names_that_are_no_text_are_drawn_escaped_and_on_one_line(name, drawn):
    canvases = [pictures.Canvas(200, 60) for _ in range(2)]
    for canvas, text in zip(canvases, (name, drawn), strict=True):
        canvas.text(100, 30, text, anchor="mm")
    assert canvases[0].image == canvases[1].image != pictures.Canvas(200, 60).image


@given(st.text(), st.integers(0, 150))
def test_a_text_is_cut_to_its_width(text, width):
    canvas = pictures.Canvas(400, 60)
    canvas.text(10, 30, text, width=width)
    drawn = ImageChops.invert(canvas.image).getbbox() or (0, 0, 0, 0)
    assert drawn[2] <= pictures.SCALE * (10 + width + 2)  # letters may lean out a little


def test_a_text_that_is_cut_says_so():
    canvases = [pictures.Canvas(200, 60) for _ in range(2)]
    for canvas, text in zip(canvases, ("a name that is too long for it", "a na…"), strict=True):
        canvas.text(10, 30, text, width=40)
    assert canvases[0].image == canvases[1].image


def test_many_classes_with_long_names_fit_a_picture(tmp_path):
    names = [f"a class with the long name {number}" for number in range(120)]
    right = torch.eye(120, dtype=torch.int64)
    pictures.draw_confusion(tmp_path / "many.png", right, names, "title", "none wrong")
    with Image.open(tmp_path / "many.png") as picture:
        assert max(picture.size) < 1300


def test_of_few_classes_the_words_above_the_matrix_fit_too(tmp_path):
    subtitle = "3 of 24 labels differ from the prediction; rows: label, columns: prediction"
    pictures.draw_confusion(tmp_path / "few.png", torch.eye(2), ("cat", "dog"), "pets", subtitle)
    with Image.open(tmp_path / "few.png") as picture:
        margin = picture.convert("L").crop((picture.width - 20, 0, *picture.size))
    assert margin.getextrema() == (255, 255)


def test_a_contact_sheet_shows_every_image_in_its_place(tmp_path):
    images = torch.arange(10, 130, 10, dtype=torch.uint8).view(12, 1, 1, 1).repeat(1, 1, 28, 20)
    pictures.draw_sheet(tmp_path / "sheet.png", images, [("4", "9", "loss 1")] * 12, "title")
    with Image.open(tmp_path / "sheet.png") as picture:
        for number, shade in enumerate(range(10, 130, 10)):
            left, top = 20 + 84 * (number % 10), 52 + 110 * (number // 10)
            corners = [picture.getpixel((left + x, top + y)) for x in (0, 50) for y in (0, 71)]
            assert corners == [(shade,) * 3] * 4
    colour = torch.tensor([200, 30, 60], dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 300, 400)
    pictures.draw_sheet(tmp_path / "sheet.png", colour, [("kitten", "dog", "loss 1")], "title")
    assert (200, 30, 60) in colours(tmp_path / "sheet.png")


entries = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12)


@given(entries)
def test_the_front_holds_those_than_which_none_is_as_cheap_and_as_good(points):
    board = [{"mflop": cost, "mean": value} for cost, value in points]
    front = [(entry["mflop"], entry["mean"]) for entry in pictures.pareto(board, "mflop", "mean")]
    best = {
        (cost, value)
        for cost, value in points
        if not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
    }
    assert front == sorted(best)


def test_the_costs_of_architectures_are_dots_in_their_kinds_colours(tmp_path):
    board = [
        {"model": "encoder", "mflop": 20.0, "mean": 0.99, "passes": 3.0},
        {"model": "resnet", "mflop": 40.0, "mean": 1.0, "passes": 3.0},
        {"model": "resnet", "mflop": 10.0, "mean": 0.97, "passes": 1.0},
    ]
    board = [entry | {"architecture": "resnet 3 blocks 32/64 144/72"} for entry in board]
    pictures.draw_costs(tmp_path / "all.png", board, "title")
    assert colours(tmp_path / "all.png") >= BOTH_LINES | {ImageColor.getrgb(pictures.PALE)}
    pictures.draw_costs(tmp_path / "one.png", board[:1], "title")  # a single point has no range
    Image.open(tmp_path / "one.png").verify()


def test_what_the_font_has_not_is_written_as_what_is_next_to_it():
    assert "".join(map(pictures.drawable, "Würfel, Ärger 64×64 é – 中")) == "Wurfel, Arger 64x64 e - ?"
    font = ImageFont.load_default(20)
    missing = bytes(font.getmask("\uffff"))
    for letter in map(chr, range(33, 0x250)):
        for drawn in pictures.drawable(letter):
            assert bytes(font.getmask(drawn)) != missing, letter
