"""What trained networks say of images: as in training, of whatever files, and unreadable ones are named."""

import io
import os
import shutil
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from support import pictures
from support.console import printable, run_command
from support.files import read_csv, read_json
from support.run_folder import read_config, write_config

import numpy as np
import pytest
import torch
import torchvision
from conftest import FLAGS, small_settings, small_vgg16, stripes, write_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import MNIST, FashionMNIST

import data
import models
import predict
import train

PROJECT = Path(__file__).parent.parent
RUNS = {
    "plain": "--data images",
    "enlarged": "--data images --image-size 11",
    "shrunk": "--data images --image-size 6",
    "tensors": "--data digits --image-size 6",  # as MNIST: no file is resized, but each batch
    "mixed": "--data sizes --image-size 8",
    "colour": "--data colours",
    "frozen": "--data images --init transfer --weights plain/model.pt --freeze --lr 0.1",
    "vgg16": "--data images --model vgg16 --init pretrained --weights vgg16.pth --image-size 32",
}


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    """The current folder for all tests: data sets, and a run of each kind; weights to begin with are gone."""
    root = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(torchvision.models, "vgg16", small_vgg16)
        write_folder(root / "images", n_train=48, n_test=30)
        patch.setattr(data, "load_digits", lambda: [stripes(48), stripes(30, seed=1)])  # the same images
        for name, change in {"sizes": resized, "colours": coloured}.items():
            for index, file in enumerate(sorted(write_folder(root / name, n_test=30).rglob("*.png"))):
                change(Image.open(file), index).save(file)
        torch.save(small_vgg16().state_dict(), "vgg16.pth")
        for name, flags in RUNS.items():
            size = "" if name == "vgg16" else FLAGS
            batch = "--batch-size 8 --precision fp32 --threads 1"
            train.main(f"{size} {batch} --epochs 2 --lr 0.02 {flags} --out {name}".split())
        os.remove("vgg16.pth")
        yield root


def resized(picture, index):
    return picture.resize((8 + index % 3, 9 + index % 2))


def coloured(picture, index):
    """Return a grey picture as one in colour, but for every third."""
    return (
        picture if index % 3 == 0 else Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180)))
    )


def predicted(*arguments):
    """Return the table's rows of a prediction. It draws nothing, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "draw", lambda *given: None)
        predict.main([*map(str, arguments), "--csv", "table.csv"])
    return read_csv("table.csv")


def answers(rows):
    return [tuple(row.values())[1:] for row in rows]


# ---------------------------------------------------------------- the same answers as in training


@pytest.mark.parametrize("run", RUNS)
def test_the_test_images_are_predicted_as_after_the_training(run, capsys):
    settings = read_json(f"{run}/config.json")["settings"]
    source, size = (settings["data"], settings["image_size"]) if run != "tensors" else ("images", None)
    rows = predicted(run, f"{source}/test")
    n_right = sum(Path(row["file"]).parent.name == row["predicted"] for row in rows)
    last = read_csv(f"{run}/metrics.csv")[-1]
    assert n_right / len(rows) == pytest.approx(float(last["test_accuracy"]))
    assert len(rows) == 30

    # All digits of the table, from a network made here of the run's weights.
    _, test = data.load(source, None, size)
    run_settings = small_settings(**settings | {"init": "default"})
    network = models.build(run_settings, 3, test.images.shape[1:])
    network.load_state_dict(torch.load(f"{run}/model.pt", weights_only=True))
    shares, order = train.predict(network, test, run_settings).softmax(1).sort(1, descending=True)
    expected = {
        f"{source}/{name}": (test.classes[a], p, test.classes[b], q)
        for name, (a, b, _), (p, q, _) in zip(test.ids, order.tolist(), shares.tolist(), strict=True)
    }
    for row in rows:
        name, p, second, q = expected[row["file"]]
        assert (row["predicted"], row["second"]) == (name, second)
        assert float(row["probability"]) == pytest.approx(p, abs=2e-4)
        assert float(row["second_probability"]) == pytest.approx(q, abs=2e-4)


@pytest.mark.parametrize("run", RUNS)
def test_from_python_config_and_weights_alone_are_the_network_and_its_classes(run, tmp_path):
    for name in ("config.json", "model.pt"):
        shutil.copy(f"{run}/{name}", tmp_path)
    network, classes = predict.load_network(tmp_path)
    assert classes == ("row0", "row2", "row4")
    assert not network.training
    assert {name.device.type for name in network.parameters()} == {"cpu"}
    state = torch.load(f"{run}/model.pt", weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    folder = "sizes/test" if run == "mixed" else "images/test"
    assert predicted(tmp_path, folder) == predicted(run, folder)


def test_a_run_of_a_gpu_in_bf16_predicts_without_one(tmp_path):
    shutil.copytree("plain", tmp_path / "run")
    config = read_config(Path("plain"))[1]
    config["settings"] |= {"device": "cuda:7", "precision": "bf16"}
    write_config(tmp_path / "run", config)
    expected = [float(row["probability"]) for row in predicted("plain", "images/test")]
    rows = predicted(tmp_path / "run", "images/test")
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected, abs=0.05)


def test_no_more_than_a_batch_of_images_is_read_ahead(monkeypatch):
    n_read, n_predicted, ahead = [], [], []
    read, logits_of = predict.read_image, train.logits_of
    monkeypatch.setattr(predict, "read_image", lambda *given: n_read.append(1) or read(*given))

    def counting(model, images, settings):
        ahead.append(len(n_read) - len(n_predicted))
        n_predicted.extend(images)
        return logits_of(model, images, settings)

    monkeypatch.setattr(train, "logits_of", counting)
    predicted("plain", "images/test")
    assert ahead == [8, 8, 8, 6]


# ---------------------------------------------------------------- negatives, colours, turned images


@pytest.fixture
def negatives(tmp_path):
    """A folder with the negatives of the test images."""
    folder = shutil.copytree("images/test", tmp_path / "negatives")
    for file in folder.rglob("*.png"):
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
    return folder


@pytest.mark.parametrize("run", ["plain", "enlarged", "colour"])
def test_the_negatives_inverted_are_predicted_as_the_images(run, negatives):
    rows = predicted(run, "images/test")
    assert answers(predicted(run, negatives, "--invert")) == answers(rows)
    assert answers(predicted(run, negatives)) != answers(rows)


def test_only_negatives_are_taken_for_negatives(negatives, tmp_path, capsys):
    for arguments, said in (
        (["images/test"], False),
        ([negatives], "30 of 30 images are bright where the training images are dark;\n"),
        ([negatives], "if they are like negatives of these, try --invert\n"),
        ([negatives, "--invert"], False),
        (["images/test", "--invert"], "if they are like negatives of these, leave out --invert\n"),
        (["images/test", negatives / "row0"], False),
    ):
        predicted("plain", *arguments)
        output = capsys.readouterr().out
        assert said in output if said else "negatives of" not in output


@pytest.mark.parametrize(("dataset", "trained", "share"), [(MNIST, 0.1307, 0), (FashionMNIST, 0.286, 0.0548)])
def test_single_images_are_taken_for_negatives_as_seldom_as_is_said(dataset, trained, share, capsys):
    try:
        images = dataset(PROJECT / "data", train=False).data
    except RuntimeError:
        pytest.skip(f"{dataset.__name__} is not in data/")
    brightness = (images.flatten(1).float().mean(1) / 255).tolist()

    def n_noted(values):
        for each in values:
            predict.note_inverted([each], trained, False)
        return capsys.readouterr().out.count("Note:")

    assert n_noted(brightness) / len(brightness) == pytest.approx(share, abs=1e-4)
    assert n_noted([1 - each for each in brightness]) / len(brightness) == pytest.approx(1 - share, abs=1e-4)
    assert n_noted([0.1]) == 0
    predict.note_inverted([0.9, 0.9], 0.4, False)  # the training images are neither dark nor bright
    predict.note_inverted([0.9, 0.1], trained, False)
    assert capsys.readouterr().out == ""


def read(picture, name, *shape, invert=False):
    """Return a picture as the network of `shape` is given it, from a file."""
    picture.save(name)
    ((_, image),) = predict.read_all([name], list(shape), invert, [])
    return image


def test_colours_become_luminance_and_grey_becomes_three_channels(random_image):
    colour, grey = Image.fromarray(random_image(9, 12, 3)), Image.fromarray(random_image(9, 12))
    luminance = torch.from_numpy(np.array(colour.convert("L"))).int()
    assert (read(colour, "a.png", 1, 9, 12)[0] - luminance).abs().max() <= 1
    assert torch.equal(read(colour, "a.png", 3, 9, 12), torch.from_numpy(np.array(colour)).permute(2, 0, 1))
    repeated = read(grey, "a.png", 3, 9, 12)
    assert repeated.shape == (3, 9, 12)
    assert (repeated.numpy() == np.array(grey)).all()
    assert read(colour, "a.png", 1, 4, 7).shape == (1, 4, 7)


def test_a_photo_is_turned_as_its_exif_data_say(random_image):
    picture = Image.fromarray(random_image(9, 12, 3))
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x112] = 6  # to be turned by 90 degrees clockwise
    turned.save("turned.webp", lossless=True, exact=True, exif=turned.getexif())
    shape = [3, 9, 12]
    ((_, image),) = predict.read_all(["turned.webp"], shape, False, [])
    assert torch.equal(image, read(picture, "a.png", *shape))


# ---------------------------------------------------------------- folders as they come

NAMES = st.sampled_from(["a", "B", "ä b", "-x", "=1+1", "\x1b[31m", "c\nd", ".hidden", "train"])
ENDINGS = st.sampled_from([".png", ".PNG", ".jpg", ".Gif", ".webp", ".txt", ""])
FILES = st.dictionaries(
    st.tuples(st.lists(NAMES, max_size=2), NAMES, ENDINGS).map(lambda t: "/".join([*t[0], t[1] + t[2]])),
    st.one_of(st.tuples(st.sampled_from(["L", "RGB", "RGBA", "P"]), st.integers(1, 20)), st.just("broken")),
    max_size=30,
)


def is_image(name):
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and name.lower().endswith((".png", ".jpg", ".gif", ".webp"))


@given(FILES)
def test_every_image_has_one_row_and_every_unreadable_one_is_named(root, contents):
    with tempfile.TemporaryDirectory(dir=root, prefix="\n") as folder:
        there = {}
        for name, content in contents.items():
            file = Path(folder, "odd", name)
            if any(part.is_file() for part in file.parents) or file.is_dir():
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            there[name] = content
            if content == "broken":
                file.write_bytes(b"no image")
            else:
                mode, size = content
                Image.new(mode, (size, 5), 99 if mode in "LP" else "teal").save(file, "PNG")
        Path(folder, "odd").mkdir(exist_ok=True)
        status, out, err = ended(["plain", f"{folder}/odd", "--csv", f"{folder}/t.csv"])
        images = {f"{folder}/odd/{name}": content for name, content in there.items() if is_image(name)}
        broken = [name for name, content in images.items() if content == "broken"]
        rows = read_csv(f"{folder}/t.csv") if len(broken) < len(images) else []
        assert not Path(folder, "t.csv").exists() or rows
    assert sorted(row["file"] for row in rows) == sorted(set(images) - set(broken))
    assert [row["file"] for row in rows] == sorted((row["file"] for row in rows), key=os.path.split)
    *lines, last = err.splitlines() or [""]
    assert sorted(line.split(": cannot be read")[0] for line in lines) == sorted(
        printable(name) for name in broken
    )
    if not images:
        assert "no images" in last
    elif broken:
        assert last.endswith(f"{len(broken)} of {len(images)} images could not be read")
    assert status == (2 if broken or not images else 0)
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)
    assert all(f"  {printable(row['file'])}\n" in out for row in rows[:20])  # each on one line
    n_others = sum(not is_image(name) and not hidden(name) for name in there)
    note = f"Note: files in {printable(folder)}/odd that are no images are left out, {n_others} in all: "
    assert (note in out) == (n_others > 0 and len(images) > 0)


def hidden(name):
    return any(part.startswith(".") for part in name.split("/"))


def ended(arguments):
    """Return (exit status, stdout, stderr) of the command."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    status = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_command(lambda: predict.main(arguments))
        except SystemExit as end:
            status = end.code
        out.flush()
    return status, out.buffer.getvalue().decode(), err.getvalue()


def test_a_file_that_is_named_is_tried_whatever_its_name_is(random_image):
    Image.fromarray(random_image(8, 8)).save("no-ending", "PNG")
    Image.fromarray(random_image(8, 8)).save(".hidden.png")
    assert [row["file"] for row in predicted("plain", "no-ending", ".hidden.png")] == [
        "no-ending",
        ".hidden.png",
    ]


# ---------------------------------------------------------------- what is told


def test_a_file_that_is_not_there_and_a_pipe_end_nothing(random_image):
    Image.fromarray(random_image(8, 8)).save("here.png")
    Path("gone.png").unlink(missing_ok=True)
    os.mkfifo("pipe.png")
    status, out, err = ended(["plain", "gone.png", "here.png", "pipe.png"])
    assert "  here.png\n" in out
    assert [line.split(": ")[0] for line in err.splitlines()[:2]] == ["gone.png", "pipe.png"]
    assert err.endswith("2 of 3 images could not be read\n")
    assert status == 2


def test_of_many_images_the_first_are_printed_and_the_least_sure_are_drawn(monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(pictures, "draw_sheet", lambda *given: drawn.append(given))
    monkeypatch.setattr(predict, "N_DRAWN", 12)
    predict.main(["plain", "images/test", "--csv", "table.csv"])
    rows, lines = read_csv("table.csv"), capsys.readouterr().out.splitlines()
    for row, line in zip(rows, lines[1:21], strict=False):
        p, q = (f"{float(row[name]):.2%}" for name in ("probability", "second_probability"))
        assert line.split() == [row["predicted"], p, row["second"], q, row["file"]]
    assert len({line.index("images/test") for line in lines[1:21]}) == 1
    assert lines[21] == "… 20 of 30 images; for all see table.csv; by class:"
    names = [row["predicted"] for row in rows]
    assert set(lines[22].split(", ")) == {f"{name}: {names.count(name)}" for name in set(names)}

    ((picture, images, captions, _),) = drawn
    assert picture == "runs/predicted.png"
    least_sure = sorted(rows, key=lambda row: float(row["probability"]))[:12]
    expected = [(Path(row["file"]).stem, row["predicted"], row["second"]) for row in least_sure]
    assert [(name, predicted, note.split(", or ")[1]) for name, predicted, note in captions] == expected
    for row, image in zip(least_sure, images, strict=True):
        assert (image[0].numpy() == np.array(Image.open(row["file"]))).all()

    predict.main(["plain", "images/test"])  # without a table
    told = capsys.readouterr().out.splitlines()
    assert told == [line.replace("table.csv", "--csv FILE") for line in lines]
    predict.main(["plain", "images/test/row0"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 10 + 1


def test_columns_are_aligned_whatever_the_names_are(capsys):
    rows = [("f", "a cat", 0.99999, "a", 0), ("g", "a", 0.5, "a very long name", 0.25)]
    predict.print_rows([dict(zip(predict.COLUMNS, row, strict=True)) for row in rows], Counter(a=1), None)
    assert capsys.readouterr().out.splitlines() == [
        "class  probable  second best               file",
        "a cat   100.00%  a                  0.00%  f",
        "a        50.00%  a very long name  25.00%  g",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere images", "nowhere: no run is there"),
        ("plain empty", "empty: no images"),
        ("plain images --csv mine.csv", "mine.csv: is there without this program's mark"),
        ("plain images --csv plain/table.csv", "is a run's"),
        ("plain images --picture images/test/row0/000.png", "000.png: is there without this program's mark"),
        ("unfinished images", "unfinished/model.pt: is missing; a run writes it at its end"),
        ("other images", "other/model.pt: has not the weights of the network that config.json describes"),
        ("cut images", "cut/model.pt: cannot be read as PyTorch weights"),
        ("list images", "list/model.pt: has not the weights"),
        ("diagnosis images", "diagnosis: is a run of another command"),
    ],
)
def test_what_cannot_be_predicted_is_one_line_and_nothing_is_written(
    tmp_path, arguments, message, monkeypatch
):
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "images"):
        shutil.copytree(root / name, name)
    for name in ("unfinished", "other", "cut", "list", "diagnosis"):
        shutil.copytree("plain", name)
    os.remove("unfinished/model.pt")
    shutil.copy(root / "shrunk/model.pt", "other/model.pt")
    Path("cut/model.pt").write_bytes(Path("plain/model.pt").read_bytes()[:-99])
    torch.save([1, 2], "list/model.pt")
    write_config(Path("diagnosis"), read_config(Path("plain"))[1] | {"options": {"remove": 3}})
    Path("empty").mkdir()
    Path("mine.csv").write_text("name,score\nme,1\n")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    status, out, err = ended(arguments.split())
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
