"""Tables of decisions, as spreadsheets save them, and the review page, by real keys in a real browser."""

import base64
import csv
import io
import json
import os
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import torch
from browser import chromium, wait_until
from conftest import stripes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support import review
from support.console import UserError
from support.image_folders import copy_folder
from support.run_folder import read_csv

# Names that could end a script, a row or a field, or are not text: Python reads the byte 255 as \udcff.
# 📿 is text, but in a browser it is \ud83d\udcff.
HOSTILE = ("<script>alert(1)</script>", '=a"b,\n</script>', "\udcff<!--\u202e\u2028📿")
IDS = ('a,\n\r"b', "'=1", "-1", "\udcff\udcfe.png", "📿", "\t", "<b>", "__proto__", "NONCE CONTENT")
DATA = replace(stripes(9), ids=IDS, classes=HOSTILE)
OTHERS = replace(DATA, ids=tuple(f"{index}.png" for index in range(9)), classes=("cat", "dog", "bird"))
LABELS, ORDER = DATA.labels, torch.arange(9).flip(0)  # image 8 is the most suspicious
PREDICTED = torch.tensor([1, 2, 2, 1, 2, 0, 1, 2, 0])  # contradicts all labels but that of image 2
PROBABILITIES = 0.7 * torch.eye(3)[PREDICTED] + 0.1


def decisions(removed=(), confirmed=(), relabelled=(), labels=LABELS, suspects=()):
    """Return Decisions; other images stay as they are. `relabelled` has pairs of an index and a class."""
    indices, changes = range(len(labels)), dict(relabelled)
    kept = torch.tensor([index not in (*removed, *suspects) for index in indices])
    new_labels = torch.tensor([changes.get(index, labels[index]) for index in indices])
    decided = (new_labels != labels) | torch.tensor([index in (*removed, *confirmed) for index in indices])
    return review.Decisions(kept, new_labels, decided)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def fault(path, *images):
    with pytest.raises(UserError) as error:
        review.read_decisions(path, *images)
    return str(error.value)


@given(st.lists(st.sampled_from(["keep", "remove", "", 0, 1, 2]), min_size=6, max_size=6))
def test_decisions_are_written_and_read_back(tmp_path_factory, chosen):
    path, numbers = tmp_path_factory.getbasetemp() / "top_losses.csv", torch.arange(9.0)
    actions = ["", "", "", *chosen]  # the first three images keep each class alive
    removed, confirmed = ([i for i in range(9) if actions[i] == name] for name in ("remove", "keep"))
    wanted = decisions(removed, confirmed, [(i, actions[i]) for i in range(9) if isinstance(actions[i], int)])
    table = (LABELS, ORDER, numbers - 3.5, numbers / 3, PROBABILITIES, wanted)
    review.write_table(path, IDS, HOSTILE, *table)
    assert same(review.read_decisions(path, IDS, HOSTILE, LABELS), wanted)
    start = b"\xef\xbb\xbfrank,id,action,new_label,given,predicted,score,loss,p(<script>"
    assert path.read_bytes().startswith(start)
    for rank, (row, i) in enumerate(zip(read_csv(path), ORDER.tolist(), strict=True), 1):
        new_label = HOSTILE[wanted.new_labels[i]] if wanted.new_labels[i] != LABELS[i] else ""
        action = "relabel" if new_label else actions[i] if isinstance(actions[i], str) else ""
        cells = [str(rank), IDS[i], action, new_label, HOSTILE[LABELS[i]], HOSTILE[PREDICTED[i]]]
        assert list(row.values())[:6] == cells
        shares = [0.8 if k == PREDICTED[i] else 0.1 for k in range(3)]
        assert [float(cell) for cell in list(row.values())[6:]] == [i - 3.5, round(i / 3, 4), *shares]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "mac_roman"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_that_a_spreadsheet_saved_are_read(tmp_path, delimiter, encoding):
    ids, classes = ("Äpfel/ö.png", "Äpfel/2.png", "ß/3.png", "ß/4.png"), ("Äpfel", "ß")
    world, path = (ids, classes, torch.tensor([0, 0, 1, 1])), tmp_path / "edited.csv"
    rows = [["action", "new_label", "p(x;y,\tz)", "id"], [" Remove ", "", "1,5", ids[0]], [""] * 4]
    rows += [["RELABEL", "Äpfel", 'a "note"\nof two lines', ids[3]], ["keep", "", "", ids[2]]]
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert same(review.read_decisions(path, *world), decisions([0], [2], [(3, 0)], world[2]))
    if encoding in ("cp1252", "mac_roman"):  # a guess must fit all ids
        with open(path, "a", encoding=encoding) as file:
            file.write(delimiter.join(["remove", "", "", "Äpfel/gone.png\n"]))
        assert "CSV UTF-8" in fault(path, *world)


APPLES = normalize("NFD", "Äpfel")
FOUND = [("7", "007", "cat"), ("1.00E+03", "1e3", "x"), ("1,00e3", "1000", "x"), ("7", "7", "007")]
FOUND += [(APPLES, "Äpfel", "x"), ("Äpfel", APPLES, "x")]


@pytest.mark.parametrize("names", [*FOUND, ("7", "007", "07"), ("nan", "NaN", "x"), ("", "x", "y")])
def test_classes_and_ids_that_a_spreadsheet_rewrote_are_found(tmp_path, names):
    path, ids = tmp_path / "mine.csv", ("é/0", "é/1", "é/2")
    path.write_text(f'id,action,predicted\n{normalize("NFD", ids[1])},relabel,"{names[0]}"\n', "utf-8")
    for first, classes in enumerate((names[1:], names[:0:-1])):
        images = (ids, classes, torch.tensor([first, 1 - first, 1 - first]))
        if names in FOUND:
            assert review.read_decisions(path, *images).new_labels.tolist() == [first, first, 1 - first]
        else:
            assert "line 2" in fault(path, *images)


WRONG = ["a/1,burn,b", "a/1,relabel,c", "a/1,relabel,a", "a/1,relabel", "c/1,relabel,b"]
WRONG += [",keep,", ",relabel,b", "c/1,"]
MANY = "id,action\n" + "".join(f"x/{index},keep\n" for index in range(12))


@pytest.mark.parametrize(
    ("text", "part"),
    [(f"id,action,predicted\na/2,keep,a\n{line}\n", "line 3") for line in WRONG]
    + [(MANY, "12 lines"), (MANY, "x/9 is not among the images; …"), ("id,rank\n", "CSV UTF-8")]
    + [("id,action\nb/3,remove\nb/4,remove", "class b"), ("", "CSV UTF-8")]
    + [(f"id,action\na/1,{cell}", "CSV UTF-8") for cell in ('"keep', '"keep"x')],
)
def test_errors_in_a_table_are_named(tmp_path, text, part):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    message = fault(path, ("a/1", "a/2", "b/3", "b/4"), ("a", "b"), torch.tensor([0, 0, 1, 1]))
    assert message.startswith(str(path))
    assert part in message


@pytest.mark.parametrize("top", ["", "train/"])
def test_a_second_round_keeps_the_decisions_of_the_first(tmp_path, top):
    ids, classes = [f"{top}{name}" for name in ("a/1", "a/2", "b/1", "b/3", "b/4", "b/5")], ("a", "b")
    labels, path = torch.tensor([0, 0, 1, 1, 1, 1]), tmp_path / "decisions.csv"
    for name in ids:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).touch()
    actions = ("keep,,a", ",,", "relabel,a,b", "remove,,b", "keep,,a", "relabel,a,b")  # b/4 was labelled a
    rows = [f"{name},{action}" for name, action in zip(ids, actions, strict=True)]
    path.write_text("\n".join(["id,action,new_label,given", *rows]))
    first = review.read_decisions(path, ids, classes, labels)
    assert same(first, decisions([3], [0], [(2, 0), (5, 0)], labels))
    changes = review.new_classes(ids, classes, labels, first)
    assert changes == {ids[2]: "a", ids[3]: None, ids[5]: "a"}
    copy_folder(tmp_path / "mine", tmp_path / "copy", changes)
    ids = [f"{top}{name}" for name in ("a/1", "a/2", "a/2-1", "a/5", "b/4")]
    assert all((tmp_path / "copy" / name).is_file() for name in ids)
    labels = torch.tensor([0, 0, 0, 0, 1])
    assert same(review.read_decisions(path, ids, classes, labels), decisions((), [0, 2, 3], labels=labels))


def tab(data=DATA, root="nowhere", decided=None, title="images"):
    arguments = (data.images, LABELS, ORDER, torch.arange(9) / 8, PROBABILITIES)
    return review.page_tab(title, root, data.ids, *arguments, decided or decisions(suspects=[8, 7]))


def pixels_of(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


names = st.text(st.characters(codec="utf-8") | st.sampled_from("<>&\"'\u2028\udcff"), max_size=20)


@given(names, st.lists(names, min_size=3, max_size=3))
def test_names_are_data_and_only_the_pages_own_script_and_style_are_allowed(tmp_path_factory, title, classes):
    path = tmp_path_factory.getbasetemp() / "review.html"
    review.write_page(path, title, [tab(title=title)], classes, "key", title)
    page = path.read_text()
    content = json.loads(re.search(r'json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert (content["title"], content["classes"], content["command"]) == (title, classes, title)
    assert [item["id"] for item in content["tabs"][0]["items"]] == list(IDS[::-1])
    rules = dict(rule.split(" ", 1) for rule in re.search(r'Policy" content="([^"]*)"', page)[1].split("; "))
    nonce = re.fullmatch("'nonce-([0-9a-f]{32})'", rules.pop("script-src"))[1]
    assert page.count(f'nonce="{nonce}"') == 2
    none = dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    assert rules == none | {"img-src": "data: file:", "style-src": f"'nonce-{nonce}'"}
    assert not re.search(r"https?:|\ssrc=|\sstyle=|\son\w+=|innerHTML", page.replace(json.dumps(title), ""))


def test_the_images_to_remove_come_first_and_decided_ones_last():
    items = tab(decided=decisions([5], [8], [(6, 2)], suspects=[7, 0]))["items"]
    assert [item["rank"] for item in items] == [2, 9, 5, 6, 7, 8, 1, 3, 4]
    assert [item["suspect"] for item in items] == 2 * [True] + 7 * [False]
    assert [item["earlier"] for item in items] == 6 * [None] + [["keep"], ["relabel", 2], ["remove"]]
    for item in items:
        i = 9 - item["rank"]
        known = (item["id"], item["label"], item["predicted"], item["loss"], item["likely"][0])
        assert known == (IDS[i], LABELS[i], PREDICTED[i], i / 8, (PREDICTED[i], 0.8))
        assert dict(item["likely"]) == {k: 0.8 if k == PREDICTED[i] else 0.1 for k in range(3)}


def test_a_large_tab_is_cut_and_has_the_surest_images_of_each_class():
    n, steps = 2300, torch.linspace(0.5, 0.6, 2300)
    labels, probabilities = torch.arange(n) % 8, torch.full((n, 8), 0.05)
    probabilities[torch.arange(n), labels] = steps
    probabilities[-8:] = torch.eye(8)[(labels[-8:] + 1) % 8]  # the surest, but contradicted
    images = (torch.arange(n) % 251).to(torch.uint8)[:, None, None, None].expand(n, 3, 1, 1)
    arguments = ("", tuple(map(str, range(n))), images, labels, torch.arange(n), steps, probabilities)
    many = review.page_tab("many", *arguments, decisions(range(5), suspects=range(300, n), labels=labels))
    assert [item["rank"] for item in many["items"]] == [*range(301, 2201), *range(1, 6)]
    assert many["left_out"] == 200
    for label, urls in many["examples"].items():
        surest = [i for i in range(n - 9, -1, -1) if i % 8 == label][:3]
        assert [pixels_of(url)[0, 0, 0] for url in urls] == [i % 251 for i in surest]
    few = review.page_tab("few", *arguments, decisions(suspects=[n - 1], labels=labels))["items"]
    assert [item["rank"] for item in few] == [n, *range(1, 101)]
    assert [len(few[0]["likely"]), few[0]["likely"][-1]] == [4, (few[0]["label"], 0)]


def test_a_thumbnail_is_exact_if_small_and_never_enlarged(tmp_path):
    pixels, name = np.random.default_rng(0).integers(0, 256, (70, 64), dtype=np.uint8), "\udcffa b?%41#<é.png"
    for height, kind in ((64, "png"), (65, "jpeg")):
        Image.fromarray(pixels[:height]).save(tmp_path / name)
        url, thumbnail = review.picture_of(tmp_path / name, None)
        assert unquote_to_bytes(url.removeprefix("file://")) == os.fsencode(tmp_path / name)
        assert thumbnail.startswith(f"data:image/{kind};")
        assert np.abs(pixels_of(thumbnail).astype(int) - pixels[:height]).mean() < (kind == "jpeg") * 20 + 0.1
    Image.new("L", (1000, 500)).save(tmp_path / "large.jpg")
    assert pixels_of(review.picture_of(tmp_path / "large.jpg", None)[1]).shape == (80, 160)
    Image.fromarray(16 * pixels.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("deep.png", "gone.png"):
        url, thumbnail = review.picture_of(tmp_path / name, DATA.images[0])
        assert url is None
        assert (pixels_of(thumbnail) == DATA.images[0, 0].numpy()).all()


CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
FAULTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (program := shutil.which("chromium")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium is not installed")
    with chromium(program, tmp_path_factory.mktemp("chromium")) as send_and_events:
        yield send_and_events


@pytest.fixture
def page(browser, tmp_path):
    """The page in a browser without stored decisions, and a person's actions. Its errors fail the test."""
    send, events = browser
    send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))

    def run(script):
        return send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def write(*tabs, key="", width=1280, height=800, classes=HOSTILE):
        file = tmp_path / "review.html"
        review.write_page(file, "<b>", list(tabs) or [tab()], classes, tmp_path.name + key, "python <now>")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 1000}
        send("Emulation.setDeviceMetricsOverride", **size)
        run("window.isOld = true")
        send("Page.navigate", url=file.as_uri())
        wait_until(lambda: run("!window.isOld && document.readyState === 'complete'"))

    def press(*keys, **more):
        for key in keys:
            code = {"key": key, "windowsVirtualKeyCode": CODES.get(key, 40)} | more
            send("Input.dispatchKeyEvent", type="keyDown", **code, **({"text": key} if len(key) == 1 else {}))
            send("Input.dispatchKeyEvent", type="keyUp", **code)

    def box(selector):
        return run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")

    def click(selector):
        place = box(selector)
        at = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            send("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)

    def of(name, what="innerText"):  # of an element
        return run(f"document.getElementById('{name}').{what}")

    def choose(name, value):  # a browser without a window does not show the list that the mouse opens
        click(f"#{name}")
        press("Escape")
        run(f"{name}.value = {value}; {name}.dispatchEvent(new Event('change'))")

    def saved(data=DATA, labels=LABELS):
        click("#download")
        wait_until((tmp_path / "decisions.csv").exists)
        press("Escape")
        table = (tmp_path / "decisions.csv").rename(tmp_path / "saved.csv")
        return review.read_decisions(table, data.ids, data.classes, labels)

    yield SimpleNamespace(**locals())
    assert [event for event in events if event["method"] in FAULTS] == []
    events.clear()


def test_decisions_outlive_the_page_and_are_read_back_byte_by_byte(page):
    page.write()

    def outlive():
        page.press("r", "l", "ArrowRight", "k")  # images 8, 7 and 5
        page.write()
        return page.of("count") == "3 of 9 decided"

    wait_until(outlive)  # now and then Chromium loses what a page stored just before it was left
    assert "rank 3," in page.of("id")  # the first one without a decision
    page.press("r", "u", "l", "ArrowRight", "ArrowRight", "ArrowLeft", "r", "l")  # 6, 4 and 3
    assert same(page.saved(), decisions([8, 4], [5], [(7, 2), (6, 1), (3, 1)]))
    page.write(key="another")
    page.press("L", modifiers=8)  # Shift; not image 2, whose label is predicted
    assert same(page.saved(), decisions(relabelled=enumerate(PREDICTED)))
    content = (page.tmp_path / "saved.csv").read_bytes()
    assert content.startswith(b'\xef\xbb\xbf"id","action","new_label","given","predicted"\r\n"NONCE CON')
    assert b'\r\n"\xff\xfe.png","relabel","' in content
    page.press("k", "u", "u")  # two steps: one image, and all at once
    page.run("Storage.prototype.setItem = () => { throw Error() }")
    page.press("k")
    assert page.of("said").startswith("This browser keeps nothing")
    assert page.of("count") == "1 of 9 decided"


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (844, 390)])
def test_buttons_never_move(page, width, height):
    classes = ("a", "a long name of a class that does not fit on one line, nor on two of them", "日本語" * 9)
    page.write(tab(), tab(OTHERS, title="test images"), width=width, height=height, classes=classes)
    places = {key: page.box(f"[data-key={key}]") for key in ("k", "r", "l", "arrowleft", "arrowright", "u")}
    for _ in range(9):
        page.click("[data-key=k]")
        assert {key: page.box(f"[data-key={key}]") for key in places} == places
    for place in places.values():
        assert 0 <= place["left"] < place["right"] <= width
        assert 0 <= place["top"] < place["bottom"] <= height
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.box("#picture")["height"] > 0.3 * height
    assert page.saved(replace(DATA, classes=classes)).decided.all()


def test_undo_takes_back_step_by_step_across_filters_and_tabs(page):
    page.write(tab(), tab(OTHERS, title="<i>test"))
    page.press("u", "k")
    page.click("#undecided")
    page.press("k", "u")
    assert "rank 2," in page.of("id")
    assert page.of("shown") == "8 of 9 images shown"
    page.click("#tabs button:nth-child(2)")
    page.press("r", "ArrowDown", "ArrowUp", "u", "u")  # back to an image that the filter hid
    assert page.of("id").startswith(IDS[8])
    page.click("#tabs button:nth-child(2)")
    page.press("ArrowDown", "r")  # by a row of two
    kept = page.saved(replace(DATA, ids=IDS + OTHERS.ids), LABELS.repeat(2)).kept
    assert kept.tolist() == [index != 15 for index in range(18)]


def test_suggestions_are_named_only_if_there_are_any_and_accepted_alone(page):
    page.write(tab(decided=decisions([3], [6], [(5, 0)], suspects=[8, 7, 4])) | {"left_out": 1234})
    assert page.run("document.querySelectorAll('.suspect').length") == 3
    assert (page.of("decision"), page.of("suggested")) == ("Suggested: remove", "Remove the 3 suggested")
    assert page.of("names") == f"Labelled {HOSTILE[2]}; the networks predict {HOSTILE[0]}"
    assert page.of("id") == "NONCE CONTENT rank 1, loss 1.00"
    assert page.of("likely").split("\n")[:2] == [HOSTILE[0], "80.0 %"]
    page.press("k", "ArrowRight", "ArrowRight")
    assert page.of("decision") == "Undecided"
    page.click("#suggested")
    assert same(page.saved(), decisions([7, 4, 3], [8, 6], [(5, 0)]))  # with what an earlier round decided
    page.click("#undecided")
    assert page.of("shown") == "3 of 9 images shown; the page has no room for 1234 more"
    page.write(tab(decided=decisions()), key="none")
    assert page.of("suggested", "hidden")
    page.click(".card:nth-child(3)")
    page.press("ArrowDown", "ArrowDown", "l")
    page.click("[data-key=l]")  # of image 2, whose label is predicted
    for more in ({"autoRepeat": True}, {"modifiers": 1}, {"modifiers": 2}, {"modifiers": 4}):
        page.press("k", **more)
    assert (page.of("count"), page.of("id").split()[0]) == ("0 of 9 decided", IDS[2])


def test_keys_decide_after_a_filter_is_chosen_by_mouse_and_not_in_a_menu_reached_by_tab(page):
    page.write()
    page.click("#contradicted")
    assert page.of("shown") == "8 of 9 images shown"
    page.choose("label", 2)
    page.press("k")
    page.press("R", modifiers=8)  # all that are shown and undecided
    page.choose("predicted", 2)
    page.press("k", "R")  # no image is left
    assert same(page.saved(), decisions([5], [8]))
    page.write(classes=("row0", "row1", "krill"), key="tab")
    reached = []
    while "label" not in reached:
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.dataset.key"))
    assert {"k", "r", "l", "arrowleft", "arrowright", "menu", "u", "?", "download"} <= set(reached)
    page.press("k")  # chooses krill
    assert (page.of("label", "value"), page.of("count")) == ("2", "0 of 9 decided")


def test_digits_and_the_menu_choose_a_class(page):
    page.write(tab(OTHERS), classes=OTHERS.classes)
    page.press("2", "1", "2")  # image 8, a bird, is a dog; 7, a dog, is a cat; 6, a cat, is a dog
    page.press("7", "c", "ArrowDown", "ArrowDown", "Enter")  # no class; 5, a bird, is a dog
    page.press("c", "ArrowDown", "Escape", "ArrowRight", "1", "ArrowLeft", "ArrowLeft")  # 3, a cat, is one
    page.choose("menu", 2)  # 4, a dog, is a bird
    assert same(page.saved(OTHERS), decisions((), [3], [(8, 1), (7, 0), (6, 1), (5, 1), (4, 2)]))
    page.write(tab(OTHERS), key="digits", classes=("7", "x", "2"))
    page.press("7", "2")
    assert page.saved(replace(OTHERS, classes=("7", "x", "2"))).new_labels[7:].tolist() == [2, 0]


def test_the_picture_is_the_file_or_else_the_thumbnail(page):
    files = ('a b?%41#"<é.png', "\udcff.png", *(f"{i}.png" for i in range(7)))
    for name in files[:2]:
        Image.new("L", (300, 200)).save(page.tmp_path / name)
    page.write(tab(replace(DATA, ids=files), root=page.tmp_path))
    assert (page.of("picture", "naturalWidth"), page.of("file", "href")) == (8, "")
    page.press("ArrowLeft", *7 * ["ArrowRight"])
    for name in files[1::-1]:
        wait_until(lambda: page.of("picture", "naturalWidth") == 300)
        assert page.of("file", "href") == (page.tmp_path / name).as_uri()
        page.press("ArrowRight")


def test_the_page_counts_wrong_labels_among_the_last_20_and_shows_the_next_command(page):
    labels = torch.arange(22) % 2
    arguments = (stripes(22).images, labels, torch.arange(22), torch.ones(22), torch.eye(2)[1 - labels])
    page.write(review.page_tab("", "", tuple(map(str, range(22))), *arguments, decisions(labels=labels)))
    page.press(*"rrr", *16 * "k")
    assert page.of("count") == "19 of 22 decided"
    page.press("k", "k")
    assert page.of("count") == "21 of 22 decided; wrong of the last 20: 2"
    page.press("k", "r", "Escape", "?", "r", "?")  # nothing is decided while a dialog is open
    assert page.of("count") == "22 of 22 decided; wrong of the last 20: 1"
    page.click("#download")
    assert page.of("done").startswith("22 decisions were handed to your browser")
    assert (page.of("command"), page.of("place")) == ("python <now>", str(page.tmp_path / "decisions.csv"))
