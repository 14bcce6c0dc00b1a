"""The pictures: what is drawn where, read back from the files."""

from support import canvas, files, pictures
from support.console import UserError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low, span):
    marks = canvas.ticks(low, low + span)
    assert 2 <= len(marks) <= 7
    assert all(low - 1e-6 * span <= value <= low + span * (1 + 1e-6) for value, _ in marks)
    assert all(
        abs(float(label) - value) < 1e-3 * span for value, label in marks
    )  # the label says where it is


@given(st.floats(1e-6, 1e3), st.floats(1.3, 1e8))
def test_log_ticks_are_inside_and_never_too_few_to_read_the_axis(low, factor):
    marks = canvas.log_ticks(low, low * factor)
    values = [value for value, _ in marks]
    assert 2 <= len(values) <= 15
    assert values == sorted(values)
    assert all(low * 0.999 <= value <= low * factor * 1.001 for value in values)


def history(n_epochs):
    rows = []
    for epoch in range(1, n_epochs + 1):
        row = {"epoch": epoch, "train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch, "seconds": 1.0}
        rows.append(row | {"test_loss": 1 / epoch, "test_accuracy": 1 - 0.4 / epoch})
    return rows


def colours(path):
    with Image.open(path) as picture:
        return {colour for _, colour in picture.getcolors(1 << 24)}


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_a_picture_bears_the_mark_of_this_program_and_others_do_not(tmp_path):
    mine, other = tmp_path / "mine.png", tmp_path / "other.png"
    canvas.Canvas(30, 20).save(mine)
    with Image.open(mine) as picture:
        assert picture.info == {"Software": "Image classification, from the exercise sheet to the numbers"}
        picture.save(other, "PNG")
    files.check_replaceable(mine)
    files.check_replaceable(tmp_path / "none.png")
    with pytest.raises(UserError, match="is there without this program's mark"):
        files.check_replaceable(other)


def test_curves_have_both_lines_for_any_length(tmp_path):
    for n_epochs in (1, 2, 7, 100):
        pictures.draw_curves(tmp_path / "curves.png", history(n_epochs), "a title")
        assert {rgb(pictures.BLUE), rgb(pictures.ORANGE)} <= colours(tmp_path / "curves.png")


def test_curves_of_a_perfect_run_are_drawn(tmp_path):
    row = {"epoch": 1, "train_loss": 0.0, "train_accuracy": 1.0, "test_loss": 0.0, "test_accuracy": 1.0}
    pictures.draw_curves(tmp_path / "curves.png", [row, row], "perfect")
    assert rgb(pictures.BLUE) in colours(tmp_path / "curves.png")


def test_a_lower_loss_is_drawn_lower(tmp_path):
    pictures.draw_curves(tmp_path / "curves.png", history(5), "a title")
    with Image.open(tmp_path / "curves.png") as picture:
        left_diagram = picture.convert("RGB").crop((75, 80, 425, 320))
    heights = {}
    for name in ("BLUE", "ORANGE"):
        wanted = rgb(getattr(figures, name))
        column = [y for y in range(240) if left_diagram.getpixel((170, y)) == wanted]
        heights[name] = column[0]
    assert heights["ORANGE"] > heights["BLUE"]  # test loss is half the training loss; y grows downwards


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
    pictures = [canvas.Canvas(200, 60) for _ in range(2)]
    for picture, text in zip(pictures, (name, drawn), strict=True):
        picture.text(100, 30, text, anchor="mm")
    assert pictures[0].image == pictures[1].image != canvas.Canvas(200, 60).image


def test_many_classes_with_long_names_fit_a_picture(tmp_path):
    names = [f"a class with the long name {number}" for number in range(120)]
    pictures.draw_confusion(
        tmp_path / "many.png", torch.eye(120, dtype=torch.int64), names, "title", "none wrong"
    )
    with Image.open(tmp_path / "many.png") as picture:
        assert max(picture.size) < 1300


def test_a_contact_sheet_shows_every_image_in_its_place(tmp_path):
    images = torch.arange(10, 130, 10, dtype=torch.uint8).view(12, 1, 1, 1).repeat(1, 1, 28, 20)
    pictures.draw_sheet(tmp_path / "sheet.png", images, [("4", "9", "loss 1")] * 12, "title")
    with Image.open(tmp_path / "sheet.png") as picture:
        middles = [picture.getpixel((20 + 84 * (i % 10) + 20, 52 + 110 * (i // 10) + 36)) for i in range(12)]
    assert middles == [(shade,) * 3 for shade in range(10, 130, 10)]
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
    sizes = {"n_blocks": 3, "n_features_1": 32, "n_features_2": 64, "n_fully_1": 144}
    sizes["architecture"] = "resnet 3 blocks 32/64 144/72"
    board = [
        {"model": "encoder", "mflop": 20.0, "mean": 0.99, "passes": 3.0, **sizes},
        {"model": "resnet", "mflop": 40.0, "mean": 1.0, "passes": 3.0, **sizes},
        {"model": "resnet", "mflop": 10.0, "mean": 0.97, "passes": 1.0, **sizes},
    ]
    pictures.draw_costs(tmp_path / "all.png", board, "title")
    seen = colours(tmp_path / "all.png")
    assert {ImageColor.getrgb(c) for c in (pictures.BLUE, pictures.ORANGE, "#bbbbbb")} <= seen
    pictures.draw_costs(tmp_path / "one.png", board[:1], "title")  # a single point has no range
    Image.open(tmp_path / "one.png").verify()
