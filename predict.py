"""Say what a trained network sees in images: the class of each, how probable it is, and the second best.

    python predict.py runs/resnet-xavier photo.jpg drawings --csv predicted.csv

The probability is the network's softmax. Networks are often too sure. Of a run, config.json and model.pt are
enough, wherever they lie. From Python: network, classes = predict.load_network("runs/resnet-xavier")
"""

import os
import sys
from collections import Counter, deque
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

from support import pictures
from support.console import Parser, UserError, counted, printable, run_command
from support.files import check_replaceable, read_tensors, write_csv
from support.image_files import EXTENSIONS, in_threads, read_image, resize
from support.image_folders import check_outside, files_under, note_others
from support.run_folder import read_resumable
from support.settings import complete

import torch
from torchvision.transforms.v2.functional import grayscale_to_rgb, rgb_to_grayscale

import models
import train

COLUMNS = ("file", "predicted", "probability", "second", "second_probability")  # of the table
N_PRINTED, N_DRAWN = 20, 100  # images


def load_network(folder, device="cpu"):
    """Return (network, classes): the trained network of a run of train.py, in eval mode, and its class names.

    The network maps float32 images (N, channels, height, width), values from 0 to 1, on `device` to logits
    (N, classes). The images' shape is image_shape in the run's config.json. Where image_size is set there
    too, it is the height and the width. Raises UserError where `folder` has no such run, or an unfinished
    one.
    """
    settings, config = read_resumable(Path(folder))
    file, classes = Path(folder, "model.pt"), tuple(config["data"]["classes"])
    if not file.exists():
        raise UserError(f"{file}: is missing; a run writes it at its end, and --resume goes on to there")
    weights = read_tensors(file)
    settings = replace(settings, init="default", device=device)  # no other weights are needed any more
    network = models.build(settings, len(classes), config["data"]["image_shape"])
    try:
        network.load_state_dict(weights)
    except (TypeError, RuntimeError, AttributeError):
        raise UserError(f"{file}: has not the weights of the network that config.json describes") from None
    return network.eval(), classes


def list_files(paths):
    """Return the files of `paths`, of a folder all images in it; raise UserError where a folder has none."""
    files = []
    for path in paths:
        images, others = files_under(path) if os.path.isdir(path) else ([path], [])
        if not images:
            raise UserError(f"{path}: no images ({', '.join(EXTENSIONS)}) in this folder")
        note_others(path, others)
        files += images
    return files


def read_all(files, image_shape, invert, unreadable):
    """Yield (file, image) for each of `files` that can be read; add the errors of others to `unreadable`.

    An image is uint8 of `image_shape`, (channels, height, width), made as train.py made its own, or
    with `invert` the negative of that.
    """
    channels, *size = image_shape
    side = size[0] if size[0] == size[1] else None

    def read(file):
        if os.path.exists(file) and not os.path.isfile(file):  # a pipe might never end
            return file, UserError(f"{file}: cannot be read as an image (it is no file)")
        try:
            return file, read_image(file, side)
        except UserError as error:
            return file, error

    for file, image in counted(in_threads(read, files), "predicting", len(files)):
        if isinstance(image, UserError):
            unreadable.append(image)
            continue
        image = 255 - image if invert else image
        image = image if list(image.shape[1:]) == size else resize(image, size)
        yield file, rgb_to_grayscale(image) if channels == 1 else grayscale_to_rgb(image)


def predicted_rows(network, classes, images, settings, seen):
    """Yield a row with COLUMNS for each (file, image) of `images`, which are read a batch at a time.

    Keeps in `seen` the `counts` by class, each `brightness`, and the N_DRAWN `least_sure` (row, image).
    """
    while batch := list(islice(images, settings.batch_size)):
        pixels = torch.stack([image for _, image in batch])  # (batch, channels, height, width)
        logits = train.logits_of(network, pixels, settings)
        best_two = logits.topk(2).indices  # (batch, 2)
        probabilities = logits.softmax(dim=1).gather(1, best_two).tolist()
        pairs = []
        for (file, image), (a, b), (p, q) in zip(batch, best_two.tolist(), probabilities, strict=True):
            cells = (file, classes[a], round(p, 4), classes[b], round(q, 4))
            pairs.append((dict(zip(COLUMNS, cells, strict=True)), image))
        seen.counts.update(row["predicted"] for row, _ in pairs)
        seen.brightness += (pixels.flatten(1).float().mean(dim=1) / 255).tolist()
        seen.least_sure = sorted(seen.least_sure + pairs, key=lambda pair: pair[0]["probability"])[:N_DRAWN]
        yield from (row for row, _ in pairs)


def print_rows(first, counts, table):
    """Print the `first` rows, aligned; if there are more, the `counts` by class, and where all rows are."""
    lines = [("class", "probable", "second best", "", "file")]
    for row in first:
        name, second, file = (printable(row[column]) for column in ("predicted", "second", "file"))
        lines.append((name, f"{row['probability']:.2%}", second, f"{row['second_probability']:.2%}", file))
    a, b, c, d, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    for name, share, second, second_share, file in lines:
        print(f"{name:{a}}  {share:>{b}}  {second:{c}}  {second_share:>{d}}  {file}")
    if counts.total() > len(first):
        print(f"… {len(first)} of {counts.total():,} images; for all see {table or '--csv FILE'}; by class:")
        print(", ".join(f"{printable(name)}: {n:,}" for name, n in counts.most_common()))


def note_inverted(brightness, trained, invert):
    """Say so where most images look like negatives, by their mean `brightness`, a list of floats, 0 to 1.

    Their brightness is then nearer to 1 - `trained` than to `trained`, the training images' mean. Of MNIST's
    test images (`trained` 0.13) none is, of Fashion-MNIST's (0.29) 5.5 % are; of their negatives 100 % and
    94.5 %. A mean within 0.2 of a half, as of photos, tells nothing.
    """
    n = sum((each < 0.5) != (trained < 0.5) for each in brightness)
    if abs(trained - 0.5) > 0.2 and n > len(brightness) / 2:
        these, those = ("bright", "dark") if trained < 0.5 else ("dark", "bright")
        print(f"Note: {n:,} of {len(brightness):,} images are {these} where the training images are {those};")
        print(f"if they are like negatives of these, {'leave out' if invert else 'try'} --invert")


def draw(picture, least_sure, run):
    """Draw the contact sheet: the `least_sure` images, since they are what a person should look at."""
    captions = []
    for row, _ in least_sure:
        name = Path(row["file"]).stem[-10:]  # its end tells it from others
        captions.append((name, row["predicted"], f"{row['probability']:.0%}, or {row['second']}"))
    images = torch.stack([image for _, image in least_sure])  # as the network saw them
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    pictures.draw_sheet(picture, images, captions, f"{run}: the least sure first, from file to class")
    print(f"look at {picture}, the least sure first")


def main(arguments=None):
    """Predict as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished training run")
    parser.add_argument("images", nargs="+", metavar="FILE_OR_FOLDER", help="images, or folders of images")
    parser.add_argument("--invert", action="store_true", help="predict the negatives of the images")
    pictures.add_output_flags(parser, "runs/predicted.png")
    given = parser.parse_args(arguments)
    check_outside(given.picture, *filter(Path.is_dir, map(Path, given.images)))  # of which it would be one
    if given.csv:
        check_replaceable(given.csv, COLUMNS)  # before the work
    settings, config = read_resumable(given.run)
    precision = "fp32" if settings.precision == "fp32" else None  # None: bf16 where the hardware has it
    settings = complete(replace(settings, device=None, precision=precision))
    files, unreadable = list_files(given.images), []
    images = read_all(files, config["data"]["image_shape"], given.invert, unreadable)
    seen = SimpleNamespace(counts=Counter(), brightness=[], least_sure=[])
    rows = predicted_rows(*load_network(given.run, settings.device), images, settings, seen)
    first = list(islice(rows, N_PRINTED))
    if given.csv and first:
        Path(given.csv).parent.mkdir(parents=True, exist_ok=True)
        write_csv(given.csv, chain(first, rows))
    deque(rows, maxlen=0)  # the rest, where there is no table
    if first:
        print_rows(first, seen.counts, given.csv)
        note_inverted(seen.brightness, config["brightness"], given.invert)
        draw(given.picture, seen.least_sure, given.run)
    for error in unreadable:
        print(printable(str(error)), file=sys.stderr)
    if unreadable:
        raise UserError(f"{len(unreadable):,} of {len(files):,} images could not be read")


if __name__ == "__main__":
    run_command(main)
