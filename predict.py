"""Classify images with a trained network: the class of each, its probability, and the second best.

    python predict.py runs/resnet-xavier photo.jpg drawings --csv predicted.csv

A probability is the network's softmax; networks are often too sure. A run's config.json and model.pt suffice,
also in another place. From Python: network, classes = predict.load_network("runs/resnet-xavier")
"""

import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import torch
from torchvision.transforms.v2.functional import grayscale_to_rgb, rgb_to_grayscale

import models
import train
from support import charts, machine, run_folder
from support.console import Parser, UserError, add_output_flags, path, printable, progress, run_command
from support.image_files import in_threads, read_image, resize
from support.image_folders import image_files

COLUMNS = ("file", "predicted", "probability", "second", "second_probability")  # of the table
N_PRINTED, N_DRAWN = 20, 100  # images
CHUNK = 1024  # images in memory at a time


def load_network(folder, device="cpu"):
    """Return (network, classes): the trained network of a run of train.py, in eval mode, and its class names.

    It maps float32 images (N, channels, height, width) on `device`, values from 0 to 1, to logits
    (N, classes). image_shape and image_size in the run's config.json are the channels and the size to use.
    Raises UserError if `folder` has no such run, or an unfinished one.
    """
    config, file = run_folder.read_config(folder), Path(folder, "model.pt")
    if not file.exists():
        raise UserError(f"{folder}: is not finished (it has no model.pt); train.py --resume continues it")
    settings = Namespace(**config["settings"] | {"init": "default", "device": device})  # the weights follow
    classes = tuple(config["data"]["classes"])
    network = models.build(settings, len(classes), config["data"]["image_shape"][0])
    try:
        network.load_state_dict(run_folder.read_tensors(file))
    except (TypeError, RuntimeError, AttributeError):
        raise UserError(f"{file}: does not fit the network in config.json") from None
    return network.eval(), classes


def read(file, data, invert=False):
    """Return an image in the shape of the training images, uint8 (channels, height, width), or a UserError.

    `data` is the part of config.json that describes these. `invert` returns the negative.
    """
    channels, *size = data["image_shape"]
    try:
        image = resize(read_image(file, size, data["white"]), size)
    except UserError as error:
        return error
    image = 255 - image if invert else image
    return rgb_to_grayscale(image) if channels == 1 else grayscale_to_rgb(image)


def predict_images(network, classes, images, settings):
    """Return a row with COLUMNS for each of `images`, {file: uint8 (channels, height, width)}."""
    logits = train.predict(network, torch.stack(list(images.values())), settings, "predicting")
    probabilities, ranked = logits.softmax(1).topk(2)
    return [
        dict(zip(COLUMNS, (file, classes[a], round(p, 4), classes[b], round(q, 4)), strict=True))
        for file, (p, q), (a, b) in zip(images, probabilities.tolist(), ranked.tolist(), strict=True)
    ]


def print_rows(rows):
    """Print the first rows as an aligned table, and how many images each class has if there are more."""
    shown = rows[:N_PRINTED]
    width = max(len(name) for row in shown for name in (row["predicted"], row["second"], "second"))
    print(f"{'class':{width}}  probability  {'second':{width}}  probability  file")
    for file, name, p, second, q in map(dict.values, shown):
        print(f"{name:{width}}  {p:11.2%}  {second:{width}}  {q:11.2%}  {file}")
    if len(rows) > N_PRINTED:
        counts = Counter(row["predicted"] for row in rows).most_common()
        counts = ", ".join(f"{n:,} {name}" for name, n in counts)
        print(f"… {len(rows):,} images (--csv FILE writes all): {counts}")


def note_negatives(brightness, usual, invert):
    """Print a note if the images look like negatives of the training images.

    `brightness` is their mean and `usual` that of the training images, 0 to 1: 0.13 for MNIST, 0.29 for
    Fashion-MNIST. If `usual` is within 0.2 of a half, as of photos, there is no note.
    """
    if abs(usual - 0.5) > 0.2 and (brightness < 0.5) != (usual < 0.5):
        means = f"a mean brightness of {brightness:.2f}, the training images one of {usual:.2f}"
        print(f"Note: the images have {means};")
        print(f"if they are negatives of such images, {'leave out' if invert else 'use'} --invert")


def main():
    """Predict as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=path, metavar="RUN", help="folder of a finished training run")
    parser.add_argument("images", nargs="+", type=path, metavar="FILE_OR_FOLDER", help="images to classify")
    parser.add_argument("--invert", action="store_true", help="classify the negatives of the images")
    add_output_flags(parser, "runs/predicted.png")
    given = parser.parse_args()
    config = run_folder.read_config(given.run)
    settings, data = Namespace(**config["settings"] | {"device": machine.choose_device()}), config["data"]
    network, classes = load_network(given.run, settings.device)
    files = list(dict.fromkeys(file for each in given.images for file in image_files(each)))
    if not files:
        raise UserError(f"{given.images[0]}: has no images")
    run_folder.check_replaceable(given.picture)
    if given.csv:
        run_folder.check_replaceable(given.csv, COLUMNS)
    rows, errors, brightness = [], [], 0.0
    for start in progress(range(0, len(files), CHUNK), "reading and predicting"):
        chunk = files[start : start + CHUNK]
        images = dict(zip(chunk, in_threads(lambda file: read(file, data, given.invert), chunk), strict=True))
        errors += [image for image in images.values() if isinstance(image, UserError)]
        images = {file: image for file, image in images.items() if not isinstance(image, UserError)}
        if images:
            rows += predict_images(network, classes, images, settings)
            brightness += sum(image.float().mean().item() / 255 for image in images.values())
    if rows:
        if given.csv:
            run_folder.write_csv(given.csv, rows)
        print_rows(rows)
        least_sure = sorted(rows, key=lambda row: row["probability"])[:N_DRAWN]
        draw(given.picture, least_sure, [read(row["file"], data, given.invert) for row in least_sure])
        note_negatives(brightness / len(rows), data["brightness"], given.invert)
    for error in errors:
        print(printable(str(error)), file=sys.stderr)
    if errors:
        raise UserError(f"{len(errors):,} of {len(files):,} images could not be read")


def draw(picture, rows, images):
    """Draw `images` with the predictions in `rows` into the file `picture`."""
    captions = [
        (row["predicted"], f"{row['probability']:.0%}, or {row['second']}", Path(row["file"]).name)
        for row in rows
    ]
    charts.draw_sheet(picture, images, captions, "Least sure predictions first")
    print(f"see {picture}: the least sure predictions first")


if __name__ == "__main__":
    run_command(main)
