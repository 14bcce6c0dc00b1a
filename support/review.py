"""review.html: the page on which a person decides which suspicious labels are wrong; see review.html here.

It is one file that needs no server and loads nothing. Names are data in it, never markup.
"""

import base64
import hashlib
import io
import json
import re
from itertools import count
from pathlib import Path

from support.console import counted, shell_words
from support.decisions import changed
from support.files import written
from support.image_files import read_rgb
from support.run_folder import checksum, read_config
from support.settings import Settings, network_flags

from PIL import Image

MOST = 1900  # images of a tab; with the hundred first test images they are 2,000
SIDE = 160  # pixels of a picture's longer side, at most
TINY = 64  # pixels, up to which a picture is a PNG: smaller than a JPEG, and exact
QUALITY = 70  # of a JPEG: with it 1,000 pictures of pure noise take 18 MB


def write_review(halves, rankings, decided, settings, new_copy, folder):
    """Write review.html, the page on which a person decides.

    `halves`, `rankings` and `decided` are as `decisions.decide` takes and returns them, `new_copy` is as for
    `to_carry_out`.
    """
    tabs = [
        review_tab(half, settings.data, ranking, *decisions)
        for half, ranking, decisions in zip(halves, rankings, decided, strict=True)
    ]
    tabs = dict(zip(("training images", "test images"), tabs, strict=True))
    data, key = halves[0], checksum(read_config(folder)[1])
    command = to_carry_out(folder / "decisions.csv", data, settings, new_copy)
    write_page(folder / "review.html", data.source, tabs, data.classes, key, command)


def to_carry_out(file, data, settings, new_copy):
    """Return the command line that carries out the decisions in `file`.

    It writes to a folder that is not there yet, and is not `new_copy`, the diagnosis' own --write-clean or
    None.
    """
    flags = network_flags(settings, Settings(init="xavier"))  # for the training that is suggested next
    words = ["python", "diagnose.py", *flags, "--data", Path(settings.data), "--decisions", file]
    if Path(settings.data, data.ids[0]).is_file():
        source = Path(settings.data)
        source = source if source.name.strip(".") else source.resolve()  # . and ..
        names = (Path(f"{source}_cleaned" + f"-{number}" * (number > 1)) for number in count(1))
        taken = new_copy and Path(new_copy).resolve()
        free = (name for name in names if not name.exists() and name.resolve() != taken)
        words += ["--write-clean", next(free)]
    return shell_words(*words)


def review_tab(data, source, ranking, kept, labels, n_more=100):
    """Return a tab of `write_page`: the changed samples of the ImageData `data` and `n_more` others.

    They come in the order of the diagnose.Ranking, the worst first, at most MOST of them. `source` is the
    folder that the ids are paths in, if they are. `kept`, bool (N,), and `labels`, int64 (N,), say what is
    suggested, as decisions.read_decisions returns them.
    """
    order, _, losses, probabilities, _ = ranking
    shown = changed(data, kept, labels)
    shown[order[~shown[order]][:n_more]] = True
    places = shown[order].nonzero().flatten().tolist()
    likeliest = probabilities.topk(min(3, len(data.classes)))

    def item(place):
        index = order[place].item()
        file = Path(source, data.ids[index])
        is_there = file.is_file()
        label, new_label = data.labels[index].item(), labels[index].item()
        relabelled = ["relabel", new_label] if new_label != label else ["keep"]
        shares = [round(share, 4) for share in likeliest.values[index].tolist()]
        return {
            "id": data.ids[index],
            "rank": place + 1,
            "label": label,
            "predicted": likeliest.indices[index, 0].item(),
            "loss": round(losses[index].item(), 4),
            "likely": list(zip(likeliest.indices[index].tolist(), shares, strict=True)),
            "suggestion": relabelled if kept[index] else ["remove"],
            "image": thumbnail(read_rgb(file, SIDE) if is_there else data.images[index]),
            "file": file.resolve().as_uri() if is_there else None,
        }

    items = [item(place) for place in counted(places[:MOST], "writing the page")]
    return {"items": items, "left_out": len(places) - len(items)}


def thumbnail(image):
    """Return `image`, uint8 (1 or 3, height, width), as the data: URL of a small picture."""
    picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
    tiny = max(picture.size) <= TINY
    picture.thumbnail((SIDE, SIDE))  # never enlarges
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if tiny else "JPEG", quality=QUALITY, optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{content}"


def write_page(path, title, tabs, classes, key, command):
    """Write the page to `path`. `tabs` maps titles to what `review_tab` returned, `classes` are the names.

    The browser keeps the decisions under the text `key`. `command` is the text that carries them out, once
    they are in decisions.csv beside the page.
    """
    tabs = [{"title": name, **tab} for name, tab in tabs.items()]
    content = {"title": title, "tabs": tabs, "classes": classes, "key": key, "command": command}
    content["place"] = str(Path(path).with_name("decisions.csv"))
    page = Path(__file__).with_name("review.html").read_text(encoding="utf-8")
    for name in ("style", "script"):
        page = page.replace(f"{name.upper()}-HASH", policy_hash(name, page), 1)
    # ASCII: what is no text in a file's name, a lone surrogate, is escaped. With < so no tag ends the script.
    page = page.replace("CONTENT", json.dumps(content).replace("<", r"\u003c"), 1)
    with written(path) as file:
        file.write(page.encode())


def policy_hash(name, page):
    """Return the hash by which a content security policy allows the one <style> or <script> of `page`."""
    text = re.search(f"<{name}>(.*?)</{name}>", page, re.DOTALL)[1]
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
