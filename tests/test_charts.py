"""Charts: properties of axes and names, and pixels read back from the files."""

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops
from torchvision.transforms.functional import to_pil_image

from support import charts

few = settings(max_examples=12, deadline=None)


def drawn(draw, path, *arguments):
    """Return the picture that `draw` writes to `path`; check that nothing touches its edge."""
    draw(path, *arguments)
    picture = Image.open(path).convert("RGB")
    left, top, right, bottom = ImageChops.invert(picture).getbbox()
    assert min(left, top, picture.width - right, picture.height - bottom) >= 4
    return picture


def number_of(picture, colour):
    return {colour: n for n, colour in picture.getcolors(1 << 18)}.get(colour, 0)


@given(st.lists(st.just(0.0) | st.floats(1e-6, 1e3), min_size=1, max_size=9))
@example([100.0])
@example([0.0])
def test_a_logarithmic_axis_has_room_for_its_values_and_round_ticks(values):
    place, ticks = charts.axis(values, 0, 1)
    places = [place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] < 1
    assert all(place(value) > 0 for value in values if value)
    assert (0 in ticks) == (0 in values)  # at the start of the axis, apart from all that is above it
    above = [tick for tick in ticks if tick]
    assert 2 <= len(above) <= 10
    assert above == sorted(set(above))
    assert all(float(f"{tick:.1e}") == pytest.approx(tick) for tick in above)
    shares = [place(above[0] * factor) for factor in (1, 1.1, 1.21)]
    assert shares[2] - shares[1] == pytest.approx(shares[1] - shares[0])


@given(st.lists(st.integers(1, 1000), min_size=1))
@example([1])
def test_an_axis_of_epochs_is_linear_and_its_ticks_are_whole_and_even(values):
    place, ticks = charts.axis(values, 0, 1)
    low, high = min(values), max(values)
    assert 0 < place(low) <= place(high) < 1
    assert place((low + high) / 2) == pytest.approx(0.5)
    assert 1 <= len(ticks) <= 7
    assert all(type(tick) is int and low <= tick <= high for tick in ticks)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low + 1
    assert ticks == list(range(ticks[0], ticks[-1] + 1, step))
    assert ticks[0] - step < low <= high < ticks[-1] + step


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12))
def test_names_at_line_ends_do_not_overlap_and_move_symmetrically(wanted):
    wanted.sort()
    heights = charts.spread(wanted, 0, 500, 32)
    assert all(below - above >= 32 - 1e-6 for above, below in pairwise(heights))
    assert -1e-6 <= heights[0] <= heights[-1] <= 500 + 1e-6
    assert charts.spread(heights, 0, 500, 32) == pytest.approx(heights)  # names that do not overlap stay
    mirrored = charts.spread([500 - y for y in wanted[::-1]], 0, 500, 32)
    assert mirrored == pytest.approx([500 - y for y in heights[::-1]])


@given(st.text(), st.text())
@example("猫", "犬")
@example("a\nb", "ab")
@example("\u200b", "")
def test_different_texts_are_drawn_differently_and_no_letter_as_a_box(one, other):
    assume(one != other and not set("×→–…●\\") & set(one + other))
    texts = [charts.typeset(text, 24) for text in (one, other)]
    assert texts[0][0] != texts[1][0]
    for text, font in texts:
        assert text.isprintable()
        assert all(bytes(font.getmask(c)) != bytes(font.getmask("\uffff")) for c in text)


@given(st.text("abWi é猫\n", min_size=1, max_size=40), st.integers(30, 300))
def test_a_text_loses_its_middle_only_if_it_is_too_wide(text, width):
    text = charts.printable(text)
    shown = charts.cut(text, width)
    assert (shown == text) == (charts.length(text) <= width)
    if shown != text:
        start, end = shown.split("…")
        assert charts.length(shown) <= width or shown == "…"
        assert text.startswith(start)
        assert text.endswith(end)
        assert 0 <= len(end) - 2 * len(start) <= 2
        n = len(start + end) + 1  # with one letter more it would be too wide
        longer = f"{text[: n // 3]}…{text[len(text) - n + n // 3 :]}"
        assert n == len(text) or charts.length(longer) > width


def history(n_epochs):
    keys = "train_loss", "train_accuracy", "test_loss", "test_accuracy"
    values = [(2 / e, 1 - 0.5 / e, 1 / e, 1 - 0.2 / e) for e in range(1, n_epochs + 1)]
    return [dict(zip(keys, row, strict=True)) for row in values]


@pytest.mark.parametrize("n_epochs", [1, 60])
def test_greater_values_are_drawn_higher(tmp_path, n_epochs):
    picture = drawn(charts.draw_curves, tmp_path / "a.png", history(n_epochs), "a title " * 40)
    for left in (0, picture.width // 2):  # the loss, the error
        pixels = picture.crop((left, 90, left + 460, picture.height)).tobytes()
        assert pixels.index(bytes(charts.BLUE)) < pixels.index(bytes(charts.ORANGE))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    mark = b"tEXt" + "\0".join(charts.PNG_MARK).encode()
    assert mark in (tmp_path / "a.png").read_bytes()[:150]


def test_bands_are_transparent_and_between_their_edges(tmp_path):
    bands = [("a", 1.0, 8.0), ("b", 2.0, 16.0)]
    for order in (bands, bands[::-1]):
        lines = [(name, [[(x, 4.0, low, high) for x in (1, 2)]]) for name, low, high in order]
        picture = drawn(charts.draw_lines, tmp_path / "a.png", "", [("", "")], [("", lines)])
        column = [picture.getpixel((150, y)) for y in range(80, picture.height - 80)]
        tints = [tint for tint in dict.fromkeys(column) if column.count(tint) > 20 and tint != (255,) * 3]
        assert len(tints) == 3  # only the upper band, both, only the lower band
        starts = [column.index(tint) for tint in tints]
        assert starts[2] - starts[1] == pytest.approx(2 * (starts[1] - starts[0]), abs=4)  # 8 to 2, 16 to 8


@pytest.mark.parametrize(("n_lines", "name"), [(1, "a"), (20, "encoder, n_blocks 4, " * 4)])
def test_every_line_has_its_name_beside_the_last_panel_of_each_row(tmp_path, n_lines, name):
    panels, pictures = [("error", "epoch"), ("loss", "seconds")], []
    for last in "12":
        names = [f"{name}{number}" for number in range(n_lines - 1)] + [f"{name}{last}"]
        rows = [("heading", [(name, [[(1, 2.0, 1.0, 3.0), (2, 1.0, 0.5, 2.0)]] * 2) for name in names])]
        pictures.append(drawn(charts.draw_lines, tmp_path / "a.png", "title", panels, rows * 2))
    left, top, right, bottom = ImageChops.difference(*pictures).getbbox()
    assert right > left > 900  # beside the second panel
    assert bottom > pictures[0].height / 2 > top


@few
@given(st.lists(st.sampled_from((0, 3000, 6000, 9000, 12000)), min_size=9, max_size=9))
@example([0] * 9)
@example([9, 1, 5, 0, 5, 0, 0, 2, 1])
def test_the_diagonal_is_blue_other_cells_orange_and_greater_counts_are_darker(tmp_path_factory, counts):
    path, names = tmp_path_factory.mktemp("a") / "a.png", ("cat", "dog", "cow")
    picture = drawn(charts.draw_confusion, path, torch.tensor(counts).view(3, 3), names, "title", "a note")
    cells = [colour for n, colour in picture.getcolors(1 << 18) if n > 4000 and colour != (255,) * 3]
    assert all(colour[1] >= 150 for colour in cells)  # light enough for the ink of the counts
    for hue, kind in ((0, counts[::4]), (2, [n for i, n in enumerate(counts) if i % 4])):
        depths = {colour[hue] for colour in cells if colour[hue] < colour[2 - hue] - 15}
        n_different = len({round(136 * n / max(kind)) for n in kind if n})
        assert len(depths) == n_different


@pytest.mark.parametrize("n", [2, 20, 100])
@pytest.mark.parametrize("name", ["{}", "{} of a class's long name {}"])
def test_any_number_of_classes_with_any_names_fits_and_differs(tmp_path, n, name):
    names, pictures = [name.format(i, i) for i in range(n)], []
    for last in (n - 1, n):
        names[-1] = name.format(last, "")
        matrix = torch.eye(n, dtype=torch.int64).roll(1, 1)
        pictures.append(drawn(charts.draw_confusion, tmp_path / "a.png", matrix, names, "title", ""))
    assert pictures[0] != pictures[1]
    assert max(pictures[0].size) < 2500


def test_names_that_look_alike_are_numbered(tmp_path):
    pairs = [("a", "b"), ("a", "a "), ("e\u0301", "\u00e9")]
    matrix = torch.eye(2, dtype=torch.int64)
    pictures = (drawn(charts.draw_confusion, tmp_path / "a.png", matrix, pair, "", "") for pair in pairs)
    plain, *keyed = (picture.height for picture in pictures)
    assert min(keyed) > plain  # the key is below


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_pareto_front_has_the_points_that_no_other_point_dominates(points):
    front = charts.pareto({"mflop": mflop, "error": error} for mflop, error in points)
    best = [p for p in set(points) if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]
    assert [(entry["mflop"], entry["error"]) for entry in front] == sorted(best)


def test_costs_show_models_spread_and_the_sheets_network(tmp_path):
    first = {"mflop": 20.0, "error": 2.0, "error_sd": None, "model": "encoder", "architecture": "a network"}
    first |= {"longest": True, "is_sheets": False}
    last = first | {"mflop": 10.0, "error": 4.0, "model": "resnet", "longest": False}
    boards = [first, last], [first, last | {"longest": True}], [first, last | {"error_sd": 1.0}]
    boards += [first | {"is_sheets": True}, last], [first | {"error": 0.0}]
    pictures = (drawn(charts.draw_costs, tmp_path / "a.png", board, "a") for board in boards)
    brief, full, spread, sheets, _ = pictures
    added = (full, charts.ORANGE), (full, charts.PALE), (spread, charts.GREY), (sheets, charts.INK)
    for picture, colour in added:
        assert number_of(picture, colour) > number_of(brief, colour) + 20
    assert full.height == brief.height  # one row of the key has room for three


@few
@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 3]))
def test_every_pixel_of_a_small_picture_is_a_square(tmp_path_factory, height, width, channels):
    image = (torch.arange(channels * height * width).view(channels, height, width) * 7 % 200).to(torch.uint8)
    path, factor = tmp_path_factory.mktemp("a") / "a.png", 112 // max(height, width)
    picture = drawn(charts.draw_sheet, path, [to_pil_image(image)], [("", "", "")], "")
    left, top, right, bottom = ImageChops.invert(picture).getbbox()
    assert (right - left, bottom - top) == (width * factor, height * factor)
    shown = to_pil_image(image).convert("RGB").resize((width * factor, height * factor), 0)
    assert picture.crop((left, top, right, bottom)).tobytes() == shown.tobytes()


def test_photos_are_large_and_captions_keep_class_names_and_ends_of_file_names(tmp_path):
    sizes = (20, 3000), (400, 90), (65, 65)
    photos = [Image.new("RGB", size[::-1], (200, 30, i)) for i, size in enumerate(sizes)]
    long, pictures = "a_very_long_name_of_a_photo_in_a_folder_", []
    for first, last in (("a → b", "1.jpg"), (f"{long} → b", f"{long}1"), (f"{long} → b", f"{long}2")):
        caption = first, "loss 7.31", last
        pictures.append(drawn(charts.draw_sheet, tmp_path / "a.png", photos * 3, [caption] * 9, "title"))
        counts = [number_of(pictures[-1], (200, 30, i)) for i in range(3)]
        assert counts == [3 * 144, pytest.approx(3 * 144 * 32, rel=0.05), 3 * 144 * 144]
    assert pictures[1] != pictures[2]
    assert pictures[1].height > pictures[0].height  # the first line is broken after its arrow
