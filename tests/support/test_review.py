"""The page on which a person decides: its file by laws, and its use by real keys in a real browser."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

from support import review
from support.decisions import read_decisions, read_table
from support.review import MOST, review_tab, write_page

import numpy as np
import pytest
import torch
from browser import chromium, wait_until
from conftest import stripes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import ImageData

# Names that end a script, a row or a field, or are no text: \udcff is what Python makes of a byte 255.
# 📿, which is text, is \ud83d\udcff in a browser.
HOSTILE = ("<script>alert(1)</script>", '=a"b,\n</script>', "\udcff<!--\u202e\u2028📿")
TEMPLATE = Path(review.__file__).with_name("review.html")


def tab_of(data, n_suspects=0, n_more=100, source="nowhere"):
    """Return the tab of `data` where the last image is the worst, and every second suspect is relabelled."""
    n, n_classes = len(data), len(data.classes)
    order = torch.arange(n).flip(0)
    kept, labels = torch.ones(n, dtype=torch.bool), data.labels.clone()
    kept[order[:n_suspects:2]] = False
    labels[order[1:n_suspects:2]] = (labels[order[1:n_suspects:2]] + 1) % n_classes
    predicted = (data.labels + 1) % n_classes
    probabilities = 0.7 * torch.eye(n_classes)[predicted] + 0.1
    ranking = (order, None, torch.arange(n) / 8, probabilities, 0)
    return review_tab(data, source, ranking, kept, labels, n_more)


def content_of(path):
    """Return what the page at `path` holds as data, found up to the first </script> as browsers do."""
    return json.loads(re.search(r'json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


# ---------------------------------------------------------------- the file

names = st.text(st.characters(codec="utf-8") | st.sampled_from("<>&\"'\u2028\udcff"), max_size=20)


@given(st.lists(names, min_size=3, max_size=3, unique=True), names, names)
def test_names_are_data_and_come_back(tmp_path_factory, classes, name, command):
    path = tmp_path_factory.getbasetemp() / "review.html"
    tabs = {name: tab_of(replace(stripes(3), classes=tuple(classes), ids=tuple(classes)), 2)}
    write_page(path, name, tabs, tuple(classes), "key", command)
    content = content_of(path)
    assert (content["title"], content["classes"], content["command"]) == (name, classes, command)
    assert content["tabs"][0]["title"] == name
    assert [item["id"] for item in content["tabs"][0]["items"]] == classes[::-1]
    assert path.read_text().count("<") == TEMPLATE.read_text().count("<")


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(tmp_path):
    write_page(tmp_path / "review.html", "title", {"images": tab_of(stripes(9))}, ("a",), "key", "command")
    page = (tmp_path / "review.html").read_bytes().decode()
    rules = dict(rule.split(" ", 1) for rule in re.search(r'Policy" content="([^"]*)"', page)[1].split("; "))
    for name in ("style", "script"):
        (text,) = re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    none = dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    assert rules == none | {"img-src": "data:"}
    assert not re.search(r"https?:|\ssrc=|\sstyle=|\son\w+=|innerHTML", page)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_the_suspects_come_first_then_the_others_the_worst_first(n, n_suspects, n_more):
    n_suspects = min(n, n_suspects)
    items = tab_of(stripes(n), n_suspects, n_more)["items"]
    assert [item["rank"] for item in items] == list(range(1, min(n, n_suspects + n_more) + 1))
    for place, item in enumerate(items):
        index = n - 1 - place
        label, predicted = index % 3, (index + 1) % 3
        suggestion = ["keep"] if place >= n_suspects else ["relabel", predicted] if place % 2 else ["remove"]
        assert item["id"] == f"train/{index:05}"
        assert (item["label"], item["predicted"], item["loss"]) == (label, predicted, index / 8)
        assert item["suggestion"] == suggestion
        assert item["likely"][0] == (predicted, 0.8)
        assert [share for _, share in item["likely"]] == [0.8, 0.1, 0.1]


def test_suspects_far_down_the_ranking_are_on_the_page():
    data = stripes(300)
    kept = torch.arange(300) != 7
    ranking = torch.arange(300), None, torch.zeros(300), torch.full((300, 3), 1 / 3), 0
    items = review_tab(data, "nowhere", ranking, torch.arange(300) != 250, data.labels)["items"]
    assert [item["rank"] for item in items] == [*range(1, 101), 251]
    items = review_tab(data, "nowhere", ranking, kept, data.labels)["items"]
    assert [item["rank"] for item in items] == [*range(1, 102)]


def test_a_page_is_cut_at_so_many_images(monkeypatch):
    monkeypatch.setattr(review, "thumbnail", lambda *_: "")
    tab = tab_of(stripes(MOST + 500), MOST + 300)
    assert [item["rank"] for item in tab["items"]] == list(range(1, MOST + 1))
    assert tab["left_out"] == 400


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_a_picture_is_the_file_where_there_is_one_small_and_never_enlarged(tmp_path, random_image):
    data = replace(stripes(4), ids=("tiny.png", "large.png", "gone.png", "deep.png"))
    tiny, large = random_image(30, 64, 3), random_image(500, 1000)
    Image.fromarray(tiny).save(tmp_path / "tiny.png")
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(257 * large[:50, :50].astype(np.uint16)).save(tmp_path / "deep.png")  # 16 bits
    items = tab_of(data, source=str(tmp_path))["items"]  # the last image is the first
    pictures = [picture(item["image"]) for item in items[::-1]]
    kinds = [(each.format, each.size) for each in pictures]
    assert kinds == [("PNG", (64, 30)), ("JPEG", (160, 80)), ("PNG", (8, 8)), ("PNG", (50, 50))]
    assert (np.asarray(pictures[0]) == tiny).all()
    assert (np.asarray(pictures[3]) == large[:50, :50, None]).all()
    assert (np.asarray(pictures[2]) == data.images[2, 0, :, :, None].numpy()).all()


def test_a_picture_leads_to_its_file_whatever_it_is_called(page, tmp_path):
    names = ('a b?%41#"<é.png', os.fsdecode(b"\xff.png"), "gone.png")
    for name in names[:2]:
        Image.new("L", (300, 200)).save(tmp_path / name)
    tabs = {"images": tab_of(replace(stripes(3), ids=names), source=str(tmp_path))}
    write_page(page.file, "title", tabs, ("a", "b", "c"), "key", "command")
    page.visit()
    assert page.run("document.getElementById('file').hasAttribute('href')") is False  # the last one is first
    for name in names[1::-1]:
        page.press("ArrowRight")
        link = page.run("document.getElementById('file').href")
        assert os.fsencode(tmp_path / name) == unquote_to_bytes(link.removeprefix("file://"))


def test_a_hundred_noisy_photos_take_less_than_2_mb(tmp_path):
    images = torch.randint(0, 256, (100, 3, 160, 160), dtype=torch.uint8)
    ids = tuple(f"train/a folder/another/{index:05}.jpeg" for index in range(100))
    data = ImageData(images, torch.arange(100) % 3, ("a", "b", "c"), ids, "photos")
    path = tmp_path / "review.html"
    write_page(path, "photos", {"images": tab_of(data, 90)}, data.classes, "key", "command")
    assert path.stat().st_size < 2e6


# ---------------------------------------------------------------- the page in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (program := shutil.which("chromium")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium is not installed")
    with chromium(program, tmp_path_factory.mktemp("chromium")) as send_and_events:
        yield send_and_events


MENU = "document.getElementById('menu')"
CODES = {"Tab": 9, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


@pytest.fixture
def page(browser, tmp_path):
    """What a person does with the page in `file`, in a browser that remembers nothing yet; errors fail."""
    send, events = browser
    send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    file = tmp_path / "review.html"

    def run(script):
        answer = send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def visit():
        before = len(named(events, "Page.loadEventFired"))
        send("Page.navigate", url=file.as_uri())
        wait_until(lambda: run("document.title") and len(named(events, "Page.loadEventFired")) > before)

    def press(*keys):
        for key in keys:
            typed = {"text": key} if len(key) == 1 else {}
            code = {"key": key, "windowsVirtualKeyCode": CODES.get(key, 0)}
            send("Input.dispatchKeyEvent", type="keyDown", **code, **typed)
            send("Input.dispatchKeyEvent", type="keyUp", **code)

    def click(selector):
        box = run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            send("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)

    def text(name):
        return run(f"document.getElementById('{name}').innerText")

    def saved():
        click("#save")
        csv = tmp_path / "decisions.csv"
        wait_until(csv.exists)
        return csv.rename(tmp_path / f"{len(list(tmp_path.iterdir()))}.csv")

    key = tmp_path.name  # of this test alone: what another test decided is another matter
    yield SimpleNamespace(
        file=file, key=key, run=run, visit=visit, press=press, click=click, text=text, saved=saved
    )
    faults = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    assert named(events, "Log.entryAdded", *faults) == []
    events.clear()


def named(events, *names):
    return [event for event in events if event["method"] in names]


IMAGES = replace(
    stripes(9),
    classes=HOSTILE,
    ids=('a,\n\r"b', "'=1", "-1", "\udcff\udcfe.png", "📿", "\t", "<b>", "__proto__", "train/8"),
)
CLASS_OF = IMAGES.labels.tolist()


def write(page, key="", **tabs):
    tabs = tabs or {"training images": tab_of(IMAGES, 4)}
    write_page(page.file, "<b>title", tabs, IMAGES.classes, page.key + key, "python diagnose.py <now>")
    page.visit()


def labels_with(changes):
    return [changes.get(index, label) for index, label in enumerate(CLASS_OF)]


def test_decisions_by_keys_outlive_the_page_and_are_read_back(page):
    write(page)
    assert page.text("count") == "0 of 9 decided: 0 keep, 0 remove, 0 relabel"
    assert page.text("names") == f"{HOSTILE[2]} → {HOSTILE[0]}"

    def outlive():
        page.press("r", "l", "ArrowRight", "K")  # of the images 8, 7 and 5; the last is the worst
        assert page.run("document.activeElement.ariaCurrent") == "true"
        write(page)  # made again
        return page.text("count").startswith("3 of 9")

    wait_until(outlive)  # now and then Chromium loses what a page stored just before it was left
    assert page.text("count") == "3 of 9 decided: 1 keep, 1 remove, 1 relabel"
    page.press("ArrowRight", "ArrowRight", "r", "u", "l")  # of 6, the second time for good
    page.press("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight", "r", "l")  # of 3 and 2
    kept, labels = read_decisions(page.saved(), IMAGES)[0]
    assert kept.tolist() == [index not in (8, 3) for index in range(9)]
    assert labels.tolist() == labels_with({7: 2, 6: 1, 2: 0})
    write(page, key="another")
    assert page.text("count").startswith("0 of 9 decided")


def test_every_id_and_class_comes_back_byte_by_byte(page):
    write(page)
    page.press(*9 * "l")
    content = page.saved().read_bytes()
    assert content.startswith(b'"id","action","predicted"\r\n"train/8","relabel","<script>')
    assert b'\r\n"\xff\xfe.png","relabel","' in content
    assert f'"{HOSTILE[2]}"'.encode(errors="surrogateescape") in content
    assert b"\r\n\"''=1\"," in content
    assert b'\r\n"\'\t",' in content
    page.press(*9 * "u")
    assert len(page.saved().read_bytes().splitlines()) == 1


def test_undo_takes_back_step_by_step_across_filters(page):
    write(page)
    page.press("r", "r", "u", "u", "u")
    assert page.text("said") == "Nothing to undo"
    page.press("k")
    page.click("#undecided")
    assert page.text("shown") == "8 of 9 images"
    page.press("k")  # the next takes its place
    assert page.text("numbers").startswith("rank 3,")
    page.press("u")
    assert (page.text("numbers").partition(",")[0], page.text("shown")) == ("rank 2", "8 of 9 images")
    page.press("u")
    assert (page.text("numbers").partition(",")[0], page.text("shown")) == ("rank 1", "9 of 9 images")
    page.press("r")
    page.run("document.getElementById('label').focus()")
    page.press("ArrowDown")
    assert page.text("shown") == "3 of 9 images"
    page.click("[data-key=u]")  # of an image that the filter hides
    assert (page.text("numbers").partition(",")[0], page.text("shown")) == ("rank 1", "9 of 9 images")


def test_filters_choose_what_is_shown_and_the_rest_is_accepted(page):
    write(page)
    page.press("k")
    page.run("document.getElementById('label').focus()")
    page.press("ArrowDown")  # class 0: images 6, 3 and 0
    assert page.text("shown") == "3 of 9 images"
    page.click("#accept")
    assert page.text("count") == "4 of 9 decided: 3 keep, 1 remove, 0 relabel"
    page.press("u")
    assert page.text("count").startswith("1 of 9")
    page.run("document.getElementById('predicted').focus()")
    page.press("ArrowDown")  # none has label 0 and prediction 0
    assert page.text("one") == "No image is left here."
    page.press("r", "l", "k", "ArrowRight", "ArrowUp")
    page.run("document.getElementById('label').focus()")
    page.press("ArrowUp")
    assert page.text("shown") == "3 of 9 images"
    page.run("document.getElementById('predicted').focus()")
    page.press("ArrowUp")
    page.click("#accept")
    assert page.text("count") == "9 of 9 decided: 6 keep, 1 remove, 2 relabel"
    assert page.run("document.getElementById('accept').disabled")
    kept, labels = read_decisions(page.saved(), IMAGES)[0]
    assert kept.tolist() == [index != 6 for index in range(9)]
    assert labels.tolist() == labels_with({7: 2, 5: 0})


def test_after_the_last_undecided_image_comes_the_one_before(page):
    write(page)
    page.click("#undecided")
    page.click(".card:last-child")
    page.press("k")
    assert page.text("numbers").startswith("rank 8,")


def test_the_menus_arrows_change_one_image_though_the_filter_hides_what_is_decided(page):
    write(page)
    page.click("#undecided")
    page.press("c", "ArrowDown", "ArrowDown")
    assert page.text("count") == "1 of 9 decided: 0 keep, 0 remove, 1 relabel"
    page.press("Escape", "u")  # one choice, however many arrows
    assert page.text("count").startswith("0 of 9 decided")
    page.press("c", "ArrowDown", "Escape")
    assert page.text("shown") == "8 of 9 images"


def test_each_key_is_a_button_and_the_menu_has_the_other_classes(page):
    write(page)
    for key in ("r", "l", "arrowright", "k", "arrowleft", "arrowleft", "r", "u"):
        page.click(f"[data-key={key}]")
    assert page.text("count") == "3 of 9 decided: 1 keep, 1 remove, 1 relabel"
    assert page.text("numbers").startswith("rank 3,")  # image 6, of class 0
    page.press("c", "ArrowDown", "ArrowUp")  # not up to its own class
    assert page.text("decision") == f"decided: relabel → {HOSTILE[1]}".replace("\n", " ")
    page.press("ArrowDown", "Escape", "ArrowRight", "ArrowLeft")
    assert page.text("decision") == f"decided: relabel → {HOSTILE[2]}"
    page.run(f"{MENU}.value = 1; {MENU}.dispatchEvent(new Event('change'))")  # as a pointer does: it moves on
    assert page.text("numbers").startswith("rank 4,")
    page.press("u", "?", "r")
    assert page.run("document.getElementById('help').open")
    page.click("#help button")
    assert not page.run("document.getElementById('help').open")
    page.press("?", "?")
    _, labels = read_decisions(page.saved(), IMAGES)[0]
    assert labels.tolist() == labels_with({7: 2, 6: 2})


def test_an_image_that_is_predicted_as_labelled_is_not_relabelled_to_that(page):
    tab = tab_of(IMAGES)
    tab["items"][0]["predicted"] = tab["items"][0]["label"]
    write(page, images=tab)
    page.press("l")
    page.click("[data-key=l]")
    assert page.text("count").startswith("0 of 9")


@pytest.mark.parametrize(
    "pressed", [{"autoRepeat": True}, {"modifiers": 1}, {"modifiers": 2}, {"modifiers": 4}]
)
def test_a_key_held_down_or_with_another_decides_nothing(page, browser, pressed):
    write(page)
    browser[0]("Input.dispatchKeyEvent", type="keyDown", key="k", text="k", **pressed)
    assert page.text("count").startswith("0 of 9")


def test_the_keyboard_alone_reaches_everything(page):
    write(page)
    reached = []
    for _ in range(20):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.dataset.key || 'card'"))
    order = "u ? save label predicted undecided accept card k r l menu arrowleft arrowright"
    assert " ".join(reached).startswith(order)


def test_decisions_on_two_tabs_go_into_one_file(page):
    tests = replace(IMAGES, ids=tuple(f"test/{index}" for index in range(9)))
    write(page, **{"training images": tab_of(IMAGES, 2), "<i>test": tab_of(tests, 0, 4)})
    page.press("r")
    page.click("#tabs button:nth-child(2)")
    assert page.text("shown") == "4 of 4 images"
    page.press("l")
    assert page.text("count") == "2 of 13 decided: 0 keep, 1 remove, 1 relabel"
    rows = [row["id"] for row, _ in read_table(page.saved())]
    assert rows == ["train/8", "test/8"]
    page.press("u", "u")  # leads back to the first tab
    assert page.text("shown") == "9 of 9 images"


def test_another_window_and_a_browser_that_keeps_nothing(page):
    write(page)
    page.run(f"""localStorage.setItem("review {page.key}", '[["<b>", ["remove"]]]')""")
    page.run('dispatchEvent(new Event("storage"))')
    assert page.text("count").startswith("1 of 9")
    page.run("Storage.prototype.setItem = () => { throw Error() }")
    page.press("k")
    assert page.text("said").startswith("This browser keeps nothing")


def test_what_is_known_of_an_image_is_shown(page):
    write(page, images=tab_of(IMAGES, 4) | {"left_out": 1234})
    assert page.text("shown") == "9 of 9 images; 1,234 more have no room on this page"
    assert (page.text("numbers"), page.text("decision")) == ("rank 1, loss 1.00;", "suggestion: remove")
    assert page.text("likely").split("\n")[:2] == [HOSTILE[0], "80.0 %"]
    page.press("ArrowDown")  # by a row of seven cards
    assert (page.text("id"), page.text("decision")) == (IMAGES.ids[1], "suggestion: keep")
    assert page.run("document.getElementById('picture').naturalWidth") == 8
    page.press("ArrowUp", "l", "ArrowLeft")
    assert page.text("decision") == f"decided: relabel → {HOSTILE[0]}"
    assert page.run(f"{MENU}.value") == "0"
    page.click(".card:nth-child(3)")
    assert (page.text("numbers"), page.run(f"{MENU}.value")) == ("rank 3, loss 0.75;", "")


def test_markup_in_names_is_shown_and_the_page_says_how_to_go_on(page):
    write(page)
    assert (page.text("title"), page.run("document.title")) == ("<b>title", "<b>title")
    assert page.text("command") == "python diagnose.py <now>"
    assert page.text("place") == str(page.file.with_name("decisions.csv"))
    assert page.run("document.querySelectorAll('script').length") == 2
    assert page.run("document.getElementById('likely').firstChild.textContent") == HOSTILE[0]


def test_no_other_script_runs(page, browser):
    write(page)
    page.run("document.body.append(Object.assign(document.createElement('script'), {text: 'hit = 1'}))")
    assert page.run("typeof hit") == "undefined"
    (fault,) = named(browser[1], "Log.entryAdded")
    assert fault["params"]["entry"]["source"] == "security"
    browser[1].clear()
