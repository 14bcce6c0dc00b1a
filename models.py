"""The exercise sheet's three networks and their initialisation.

    encoder(...)   sheet 1.2 a: one nn.Sequential of convolution blocks
    ResNet(...)    sheet 1.2 b: the same structure, each block with a bypass
    vgg16(...)     sheet 1.1:   torchvision's vgg16 with a new last layer

Each maps float images (N, n_channels, height, width), values from 0 to 1, to logits (N, n_classes).
"""

from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

from support.console import UserError, one_line
from support.run_folder import read_tensors

# Means and standard deviations of pixels. Each network normalises its own input, so its weights are always
# used with the same mean and standard deviation.
MNIST = (0.1307,), (0.3081,)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ARCHITECTURE = {  # of the encoder and the ResNet: the sheet's names and numbers (1.2 a)
    "n_blocks": 3,  # each halves the image
    "n_features_1": 32,  # channels of the stem and of a block's first convolution
    "n_features_2": 32,  # channels of a block's second convolution
    "n_fully_1": 144,  # units of the first hidden fully connected layer
    "n_fully_2": 72,  # units of the second
}


def halve(image_size, n_halvings):
    """Return the (height, width) of an image of `image_size` after `n_halvings` max-pools of 2×2.

    `image_size` is an int (a square) or (height, width), in pixels. Raises UserError if nothing remains; its
    text has the intermediate sizes and the smallest size that works.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    side = min(height, width)
    if side >> n_halvings == 0:
        steps = " → ".join(str(side >> n) for n in range(side.bit_length()))
        smallest = f"{2**n_halvings}×{2**n_halvings}" if n_halvings < 16 else f"2^{n_halvings} squared"
        problem = f"images of {height}×{width} pixels are too small to be halved {n_halvings} times"
        raise UserError(f"{problem}: {steps} → nothing; the smallest size that works is {smallest}")
    return height >> n_halvings, width >> n_halvings


class Logits(nn.Linear):
    """A network's last layer, computed in fp32 even if autocast computes the others in bf16.

    bf16 rounds a logit of 20 to a multiple of 0.125; diagnose.py ranks images by smaller differences.
    """

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def classifier(n_inputs, n_fully_1, n_fully_2, n_classes):
    """Return the layers that end both custom networks: (N, channels, height, width) → (N, n_classes)."""
    return [
        nn.Flatten(),
        nn.Linear(n_inputs, n_fully_1),
        nn.ReLU(),
        nn.Linear(n_fully_1, n_fully_2),
        nn.ReLU(),
        Logits(n_fully_2, n_classes),
    ]


def encoder(n_classes=10, n_channels=1, image_size=28, **architecture):
    """Return the sheet's encoder (1.2 a) as one nn.Sequential.

    `image_size` is one int or (height, width), in pixels; `architecture` replaces values of ARCHITECTURE.
    Raises UserError if the image is too small for `n_blocks`.
    """
    n_blocks, n_features_1, n_features_2, n_fully_1, n_fully_2 = (ARCHITECTURE | architecture).values()
    height, width = halve(image_size, n_blocks)
    *inputs, last = [n_features_1] + n_blocks * [n_features_2]  # channels before each block, and at the end
    layers = [v2.Normalize(*MNIST), nn.Conv2d(n_channels, n_features_1, kernel_size=3, padding=1)]
    for channels in inputs:
        layers += [
            nn.Conv2d(channels, n_features_1, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(n_features_1, n_features_2, kernel_size=3, padding=1),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, *classifier(last * height * width, n_fully_1, n_fully_2, n_classes))


class ResidualBlock(nn.Module):
    """An encoder block that adds its input to the second convolution's output (He et al. 2015; sheet 1.2 b).

    (N, n_inputs, height, width) → (N, n_features_2, height // 2, width // 2). If the channel counts differ,
    the bypass is a 1×1 convolution; otherwise it has no parameters.
    """

    def __init__(self, n_inputs, n_features_1, n_features_2):
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_features_1, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(n_features_1, n_features_2, kernel_size=3, padding=1)
        same = n_inputs == n_features_2
        self.bypass = nn.Identity() if same else nn.Conv2d(n_inputs, n_features_2, kernel_size=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        residual = self.conv2(torch.relu(self.conv1(x)))
        return self.pool(self.bypass(x) + residual)


class ResNet(nn.Module):
    """The sheet's ResNet (1.2 b): the encoder with residual blocks. Arguments and errors as for `encoder`."""

    def __init__(self, n_classes=10, n_channels=1, image_size=28, **architecture):
        super().__init__()
        n_blocks, n_features_1, n_features_2, n_fully_1, n_fully_2 = (ARCHITECTURE | architecture).values()
        height, width = halve(image_size, n_blocks)
        *inputs, last = [n_features_1] + n_blocks * [n_features_2]  # channels, as in `encoder`
        self.normalise = v2.Normalize(*MNIST)
        self.stem = nn.Conv2d(n_channels, n_features_1, kernel_size=3, padding=1)
        blocks = [ResidualBlock(channels, n_features_1, n_features_2) for channels in inputs]
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(*classifier(last * height * width, n_fully_1, n_fully_2, n_classes))

    def forward(self, x):  # (N, n_channels, height, width)
        x = self.stem(self.normalise(x))  # (N, n_features_1, height, width)
        x = self.blocks(x)  # (N, n_features_2, height >> n_blocks, width >> n_blocks)
        return self.classifier(x)  # (N, n_classes)


def vgg16(n_classes=10, image_size=224):
    """Return torchvision's vgg16 (Simonyan & Zisserman 2014) with a new last layer; sheet 1.1.

    It takes grey or RGB images, repeats grey to three channels, and normalises them as for ImageNet. The
    element `[-1]` is torchvision's network. Raises UserError if `image_size` is too small for five halvings.
    """
    halve(image_size, 5)
    network = torchvision.models.vgg16()
    network.classifier[-1] = Logits(network.classifier[-1].in_features, n_classes)
    return nn.Sequential(v2.RGB(), v2.Normalize(*IMAGENET), network)


# ---------------------------------------------------------------- initialisation


def build(settings, n_classes, n_channels):
    """Return the initialised network that `settings` describe, on `settings.device`."""
    torch.manual_seed(settings.seed)
    if settings.model == "vgg16":
        model = vgg16(n_classes, settings.image_size)
    else:
        network = {"encoder": encoder, "resnet": ResNet}[settings.model]
        architecture = {name: getattr(settings, name) for name in ARCHITECTURE}
        model = network(n_classes, n_channels, settings.image_size, **architecture)
    if settings.init == "xavier":
        initialise_xavier(model)
    elif settings.init == "pretrained":
        load_imagenet(model, settings.weights)
    elif settings.init == "transfer":
        load_weights(model, settings.weights)
    return model.to(settings.device, memory_format=torch.channels_last)


def initialise_xavier(model):
    """Initialise all convolutions and linear layers of `model` (Glorot & Bengio 2010; sheet 1.1 b).

    Weights are drawn uniformly between ±√(6 / (fan_in + fan_out)); biases become zero.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def last_layer(model):
    """Return (name, layer) of the last fully connected layer of `model`, which computes the logits."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]


def load_imagenet(model, file=None):
    """Load ImageNet weights into a `vgg16(...)`, except for its new last layer.

    They come from `file`, a state dict such as torchvision's vgg16-397923af.pth. Without `file`, torchvision
    downloads them once into torch.hub's cache. Raises UserError if the download fails or the file is wrong.
    """
    zoo = torchvision.models.VGG16_Weights.IMAGENET1K_V1
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(zoo.url).name)
    if not file and not cached.exists():
        try:
            zoo.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
        except Exception as error:  # network, server and disk raise different exceptions
            problem = f"cannot download vgg16's ImageNet weights ({one_line(error)})"
            advice = f"put {zoo.url} (528 MB) at {cached}, or name a copy with --weights FILE"
            raise UserError(f"{problem}: {advice}") from None
    load_weights(model[-1], file or cached)


def load_weights(model, file):
    """Load the state dict in `file` into `model`, except for its last layer (Yosinski et al. 2014).

    Raises UserError if `file` does not hold weights of this network.
    """
    weights, (name, layer) = read_tensors(file), last_layer(model)
    try:
        kept = {f"{name}.{key}": value for key, value in layer.state_dict().items()}
        model.load_state_dict({**weights, **kept})
    except (TypeError, RuntimeError, AttributeError):
        problem = "has weights for another network or image size, or for other channels (grey or colour)"
        raise UserError(f"--weights {file}: {problem}") from None
