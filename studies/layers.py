"""How large a network's activations and gradients are, layer by layer: does the signal get through?

    python -m studies.layers runs/vgg16-xavier runs/vgg16-default

Each run's network is looked at as it was initialised, and as it was trained (exercise sheet 1.1 c).
"""

from dataclasses import replace
from pathlib import Path

from support import pictures
from support.console import Parser, UserError, run_command
from support.files import read_tensors
from support.randomness import random_part
from support.run_folder import check_inputs, describe, read_run
from support.settings import complete

import torch.nn.functional as F
from torch import autograd, nn

import models
from data import batch_to_float, load

N_IMAGES = 32


def layer_stds(model, images, labels):
    """Return a list with a dict (layer, activation_std, gradient_std) for each convolution and linear layer.

    `images` are float (N, channels, height, width), `labels` int64 (N,). A layer's activations are what it
    puts out, before a ReLU; the gradients are those of each image's cross-entropy with respect to them.
    Dropout is off. Raises UserError where they are not finite.
    """
    outputs = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):

            def keep(layer, inputs, output, name=name):
                outputs[name] = output
                return output.clone()  # which vgg16's ReLU then changes in place

            hooks.append(layer.register_forward_hook(keep))
    loss = F.cross_entropy(model.eval()(images), labels, reduction="sum")
    for hook in hooks:
        hook.remove()
    gradients = autograd.grad(loss, list(outputs.values()))
    if not all(tensor.isfinite().all() for tensor in (*outputs.values(), *gradients)):
        raise UserError("this network's activations or gradients are no finite numbers")
    return [
        {"layer": name, "activation_std": output.std().item(), "gradient_std": gradient.std().item()}
        for (name, output), gradient in zip(outputs.items(), gradients, strict=True)
    ]


def look_at(folder):
    """Return {network: rows of layer_stds} of the run in `folder`: at the start, and trained, if it is."""
    run = read_run(folder)
    settings = complete(replace(run["settings"], device=None, precision=None, threads=None))
    data, test = load(settings.data, settings.limit, settings.image_size)
    model = models.build(settings, len(data.classes), data.images.shape[1:])
    check_inputs(folder, run["config"], describe(settings, model, data, test))
    sample = data.subset(random_part(len(data), N_IMAGES)).to(settings.device)  # a folder is sorted by class
    images = batch_to_float(sample.images, settings.image_size)
    networks = {f"{folder}, at the start, on {data.source}": layer_stds(model, images, sample.labels)}
    if run["finished"]:
        try:
            model.load_state_dict(read_tensors(folder / "model.pt"))
        except (RuntimeError, TypeError, AttributeError):
            raise UserError(f"{folder}/model.pt: is not what {folder}/config.json describes") from None
        networks[f"{folder}, trained, on {data.source}"] = layer_stds(model, images, sample.labels)
    else:
        print(f"Note: {folder} is not finished; only its start is shown")
    return networks


def print_table(networks):
    """Print the networks beside each other, layer by layer; networks with other layers have a table each."""
    by_layers = {}
    for name, rows in networks.items():
        by_layers.setdefault(tuple(row["layer"] for row in rows), {})[name] = rows
    for layers, alike in by_layers.items():
        print(
            "\nstandard deviations: of a layer's output, before a ReLU; of the gradients with respect to it"
        )
        for number, name in enumerate(alike, 1):
            print(f"{number}: {name}")
        heads = "".join(f"{number:>8}: out{'gradient':>10}" for number in range(1, len(alike) + 1))
        print(f"{'layer':28}{heads}")
        for index, layer in enumerate(layers):
            pairs = [(rows[index]["activation_std"], rows[index]["gradient_std"]) for rows in alike.values()]
            stds = "".join(f"{activation:13.2g}{gradient:10.2g}" for activation, gradient in pairs)
            print(f"{index + 1:3} {layer:24}{stds}")


def main(arguments=None):
    """Look at the runs that the command line names."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of train.py")
    pictures.add_output_flags(parser, "runs/layers.png")
    given = parser.parse_args(arguments)
    networks = {}
    for folder in given.runs:
        networks |= look_at(folder)
    print_table(networks)
    lines = []
    for name, rows in networks.items():
        stds = [[max(row[key], 1e-12) for row in rows] for key in ("activation_std", "gradient_std")]
        lines.append((name, [pictures.curve_of(numbers) for numbers in stds]))
    ticks = pictures.whole_ticks(1, max(map(len, networks.values())))
    panel = {"x_title": "layer, from the image to the logits", "log_y": True, "x_ticks": ticks}
    titles = ("standard deviation of the activations", "standard deviation of the gradients")
    panels = [panel | {"title": f"{title} (log scale)"} for title in titles]
    table = [{"network": name, **row} for name, rows in networks.items() for row in rows]
    pictures.write_outputs(given, table, "Activations and gradients, layer by layer", [("", panels, lines)])


if __name__ == "__main__":
    run_command(main)
