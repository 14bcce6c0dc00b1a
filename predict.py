"""Classify images with a trained network: print their classes, probabilities and second-best classes.

    python predict.py runs/resnet-xavier photo.jpg drawings --csv predicted.csv

Probabilities are the network's softmax, which is often too high. A run needs only its config.json and
model.pt, and may be moved. In Python: network, classes = predict.load_network("runs/resnet-xavier")
"""

from argparse import Namespace
from collections import Counter
from pathlib import Path

from torchvision.transforms.v2.functional import grayscale_to_rgb, rgb_to_grayscale, to_pil_image

import models
import train
from support import charts, machine, run_folder
from support.console import Parser, UserError, add_output_flags, path, run_command
from support.image_files import read_images, resize
from support.image_folders import image_files

COLUMNS = ("file", "predicted", "probability", "second", "second_probability")  # of the table
N_PRINTED, N_DRAWN = 20, 100  # images


def load_network(folder, device="cpu"):
    """Return (network, classes): the trained network of a run of train.py, in eval mode, and its class names.

    The network maps float32 images (N, channels, height, width) on `device`, values from 0 to 1, to logits
    (N, classes). In config.json, image_shape begins with the channels, and image_size is (height, width).
    Raises UserError if `folder` has no finished run.
    """
    config, file = run_folder.read_config(folder), Path(folder, "model.pt")
    if not file.exists():
        raise UserError(f"{folder}: is not finished (it has no model.pt); train.py --resume continues it")
    settings = Namespace(**config["settings"] | {"init": "default", "device": device})  # model.pt follows
    classes = tuple(config["data"]["classes"])
    network = models.build(settings, len(classes), config["data"]["image_shape"][0])
    try:
        network.load_state_dict(run_folder.read_tensors(file))
    except (TypeError, RuntimeError, AttributeError):
        raise UserError(f"{file}: does not fit the network in config.json") from None
    return network.eval(), classes


def read(files, data, invert=False):
    """Return the images in `files`, uint8 (N, channels, height, width), in the shape of the training images.

    `data` is the part of config.json that describes the training images. With `invert`, return negatives.
    """
    channels, *size = data["image_shape"]
    images = resize(read_images(files, size, data["white"])[0], size)
    images = 255 - images if invert else images
    if channels < images.shape[1]:  # rounded: truncated uint8 values would change grey pixels
        return rgb_to_grayscale(images.float()).round().to(images.dtype)
    return images if channels == 1 else grayscale_to_rgb(images)


def print_rows(rows):
    """Print the first rows as an aligned table. If there are more, print the number of images per class."""
    lines = [("class", "probability", "second best", "", "file")]
    for row in rows[:N_PRINTED]:
        p, q = f"{row['probability']:.2%}", f"{row['second_probability']:.2%}"
        lines.append((row["predicted"], p, row["second"], q, row["file"]))
    a, b, c, d, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    for name, p, second, q, file in lines:
        print(f"{name:{a}}  {p:>{b}}  {second:{c}}  {q:>{d}}  {file}")
    if len(rows) > N_PRINTED:
        counts = Counter(row["predicted"] for row in rows).most_common()
        listed = ", ".join(f"{n:,} {name}" for name, n in counts)
        print(f"… {len(rows):,} images (--csv FILE writes all): {listed}")


def note_negatives(brightnesses, brightness, invert):
    """Print a note if most images look like negatives of the training images, judged by mean brightness.

    `brightness` is the mean of the training images (0 to 1). If it is from 0.3 to 0.7, as for photos, nothing
    is printed. No test image of MNIST (0.13) looks like a negative; 5.5 % of Fashion-MNIST's (0.29) do.
    """
    n = sum((each < 0.5) != (brightness < 0.5) for each in brightnesses)
    if abs(brightness - 0.5) > 0.2 and n > len(brightnesses) / 2:
        these, those = ("bright", "dark") if brightness < 0.5 else ("dark", "bright")
        print(f"Note: {n:,} of {len(brightnesses):,} images are {these}; the training images are {those}.")
        print(f"If they should look like the training images, {'leave out' if invert else 'use'} --invert")


def main():
    """Predict as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=path, metavar="RUN", help="folder of a finished training run")
    parser.add_argument("images", nargs="+", type=path, metavar="FILE_OR_FOLDER", help="images to classify")
    parser.add_argument("--invert", action="store_true", help="classify the negatives of the images")
    add_output_flags(parser, "runs/predicted.png")
    given = parser.parse_args()
    config = run_folder.read_config(given.run)
    settings = Namespace(**config["settings"] | {"device": machine.choose_device()})
    network, classes = load_network(given.run, settings.device)
    files = list(dict.fromkeys(file for each in given.images for file in image_files(each)))
    if not files:
        raise UserError(f"{given.images[0]}: has no images")
    run_folder.check_replaceable(given.picture)
    if given.csv:
        run_folder.check_replaceable(given.csv, COLUMNS)
    images = read(files, config["data"], given.invert)
    probabilities, best = train.predict(network, images, settings, "predicting").softmax(1).topk(2)
    rows = []
    for file, (p, q), (a, b) in zip(files, probabilities.tolist(), best.tolist(), strict=True):
        row = (file, classes[a], round(p, 4), classes[b], round(q, 4))
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    if given.csv:
        run_folder.write_csv(given.csv, rows)
    print_rows(rows)
    draw_least_sure(given.picture, rows, images)
    brightnesses = [image.float().mean().item() / 255 for image in images]
    note_negatives(brightnesses, config["data"]["brightness"], given.invert)


def draw_least_sure(picture, rows, images):
    """Draw the images with the lowest probabilities."""
    ordered = sorted(range(len(rows)), key=lambda index: rows[index]["probability"])[:N_DRAWN]
    captions = []
    for row in [rows[index] for index in ordered]:
        chance = f"{row['probability']:.0%}, or {row['second']}"
        captions.append((row["predicted"], chance, Path(row["file"]).name))
    pictures = list(map(to_pil_image, images[ordered]))
    charts.draw_sheet(picture, pictures, captions, "Least sure predictions first")
    print(f"see {picture}: the least sure predictions first")


if __name__ == "__main__":
    run_command(main)
