"""Measure activations and gradients in each layer of a network, before and after training (sheet 1.1 c).

python -m studies.layers runs/vgg16-xavier runs/vgg16-default
"""

from argparse import Namespace
from pathlib import Path

import torch.nn.functional as F
from torch import autograd, nn

import models
from compare import name_of
from data import batch_to_float, load, random_part
from support import charts, console, run_folder


def layer_stds(model, images, labels):
    """Return (name, activation_std, gradient_std) for each convolution and linear layer, in a list.

    `images` are float (N, channels, height, width), `labels` int64 (N,). Activations are the outputs of
    a layer, before a ReLU; gradients are the derivatives of each image's cross-entropy with respect to these
    outputs. Dropout is off.
    """
    outputs, names = {}, {layer: name for name, layer in model.named_modules()}

    def keep(layer, inputs, output):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            outputs[layer] = output
            return output.clone()  # vgg16's in-place ReLU changes only the clone

    with nn.modules.module.register_module_forward_hook(keep):
        loss = F.cross_entropy(model.eval()(images), labels, reduction="sum")
    gradients = zip(outputs, autograd.grad(loss, list(outputs.values())), strict=True)
    return [(names[layer], outputs[layer].std().item(), each.std().item()) for layer, each in gradients]


def networks_of(run, name):
    """Return {text: layer_stds} for a run called `name`: before training and, if it is finished, after."""
    settings = Namespace(**vars(run.settings) | {"device": "cpu"})
    data, test = load(settings.data, settings.limit, settings.image_size)
    if [data.fingerprint(), test.fingerprint()] != run.config["data"]["fingerprints"]:
        raise console.UserError(f"{run.folder}: {settings.data} no longer holds the images of this run")
    model = models.build(settings, len(data.classes), data.images.shape[1])
    sample = data.subset(random_part(len(data), 32))  # at random, because a folder is sorted by class
    batch = batch_to_float(sample.images, settings.image_size), sample.labels
    networks = {f"{name}, at the start": layer_stds(model, *batch)}
    if run.finished:
        model.load_state_dict(run_folder.read_tensors(Path(run.folder, "model.pt")))
        networks[f"{name}, trained"] = layer_stds(model, *batch)
    return networks


def main():
    """Print, draw and write the standard deviations for the runs that the command line names."""
    parser = console.Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=console.path, metavar="RUN", help="run folders of train.py")
    console.add_output_flags(parser, "runs/layers.png")
    given, table, lines = parser.parse_args(), [], []
    runs = [run_folder.read_run(folder) for folder in given.runs]
    names = [f"{name_of(run, runs)}, seed {run.settings.seed}" for run in runs]
    networks = [item for pair in zip(runs, names, strict=True) for item in networks_of(*pair).items()]
    for name, rows in networks:
        print(f"\n{name}\nstandard deviations:     activations  gradients")
        for layer, *stds in rows:
            print(f"{layer:24}{stds[0]:12.2g}{stds[1]:11.2g}")
            row = {"network": name, "layer": layer}
            table.append(row | {"activation_std": stds[0], "gradient_std": stds[1]})
        _, *columns = zip(*rows, strict=True)
        lines.append((name, [[(x, y, y, y) for x, y in enumerate(stds, 1)] for stds in columns]))
    kinds, x_title = ("activations", "gradients"), "layer, from image to logits"
    panels = [(f"standard deviation of the {kind}", x_title) for kind in kinds]
    run_folder.check_replaceable(given.picture)
    sources = " and ".join(dict.fromkeys(run.config["data"]["source"] for run in runs))
    charts.draw_lines(given.picture, f"Activations and gradients by layer, {sources}", panels, [("", lines)])
    if given.csv:
        run_folder.check_replaceable(given.csv, table[0])
        run_folder.write_csv(given.csv, table)


if __name__ == "__main__":
    console.run_command(main)
