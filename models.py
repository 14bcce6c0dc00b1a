"""The exercise sheet's three networks and their initialisation.

    encoder(...)   sheet 1.2 a: one nn.Sequential of convolution blocks
    ResNet(...)    sheet 1.2 b: the same structure, each block with a bypass
    vgg16(...)     sheet 1.1:   torchvision's vgg16 with a new last layer

Every network maps float images (N, n_channels, height, width), values from 0 to 1, to logits (N, n_classes).
"""

from pathlib import Path

from support.console import UserError, network_timeout, one_line
from support.files import read_tensors
from support.settings import ARCHITECTURE

import torch
import torchvision
from torch import nn
from torchvision.models import VGG16_Weights
from torchvision.transforms import v2

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of MNIST's training pixels
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Subtract `mean` and divide by `std`, of each channel: (N, channels, height, width) → the same.

    It is part of each network, so that a network's weights are never used with another's mean. Without
    normalisation a network trained for one epoch ends 0.1 percentage points lower.
    """

    def __init__(self, mean, std):
        super().__init__()
        # Buffers move to the GPU with the model; not persistent, so weight files hold learned weights only.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x):
        return (x - self.mean) / self.std


def halve(image_size, n_halvings):
    """Return the (height, width) that `n_halvings` 2×2 max-pools leave of `image_size`, in pixels.

    `image_size` is one int for a square or (height, width). Raises UserError, with the sizes on the way and
    the smallest size that works, where nothing would be left.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    smaller_side = [min(height, width)]
    while len(smaller_side) <= n_halvings and smaller_side[-1] > 0:
        smaller_side.append(smaller_side[-1] // 2)
    if smaller_side[-1] == 0:
        steps = " → ".join(str(side) for side in smaller_side[:-1])
        needed = f"{2**n_halvings}×{2**n_halvings}" if n_halvings < 16 else f"2^{n_halvings} squared"
        raise UserError(
            f"an image {height} pixels high and {width} wide is too small to be halved {n_halvings} times: "
            f"{steps} → nothing; the smallest size that works is {needed}"
        )
    return height >> n_halvings, width >> n_halvings


def check_image_size(settings):
    """Raise UserError where `settings.image_size` is too small for their network."""
    if settings.image_size:
        halve(settings.image_size, 5 if settings.model == "vgg16" else settings.n_blocks)


class Logits(nn.Linear):
    """A network's last layer, computed in fp32 even where autocast has the others in bf16.

    bf16 rounds a logit of 20 to a multiple of 0.125; diagnose.py ranks by finer losses than that.
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


def encoder(
    n_classes=10,
    n_channels=1,
    image_size=28,
    n_blocks=3,
    n_features_1=32,
    n_features_2=32,
    n_fully_1=144,
    n_fully_2=72,
):
    """Return the sheet's encoder (1.2 a) as one nn.Sequential.

    `n_features_1` and `n_features_2` are the channels of a block's two convolutions, `n_fully_1` and
    `n_fully_2` the widths of the two hidden fully connected layers; `image_size` is in pixels, one int or
    (height, width). Raises UserError where `n_blocks` halvings leave nothing of the image.
    """
    height, width = halve(image_size, n_blocks)
    layers = [Normalise(MNIST_MEAN, MNIST_STD), nn.Conv2d(n_channels, n_features_1, kernel_size=3, padding=1)]
    channels = n_features_1
    for _ in range(n_blocks):
        layers += [
            nn.Conv2d(channels, n_features_1, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(n_features_1, n_features_2, kernel_size=3, padding=1),
            nn.MaxPool2d(2),
        ]
        channels = n_features_2
    return nn.Sequential(*layers, *classifier(channels * height * width, n_fully_1, n_fully_2, n_classes))


class ResidualBlock(nn.Module):
    """An encoder block whose input is added to its second convolution's output (He et al. 2015; sheet 1.2 b).

    (N, n_inputs, height, width) → (N, n_features_2, height // 2, width // 2). Where the channel counts
    differ, the bypass is a 1×1 convolution; where they agree it has no parameters.
    """

    def __init__(self, n_inputs, n_features_1, n_features_2):
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_features_1, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(n_features_1, n_features_2, kernel_size=3, padding=1)
        self.bypass = (
            nn.Identity() if n_inputs == n_features_2 else nn.Conv2d(n_inputs, n_features_2, kernel_size=1)
        )
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        residual = self.conv2(torch.relu(self.conv1(x)))
        return self.pool(self.bypass(x) + residual)


class ResNet(nn.Module):
    """The sheet's ResNet (1.2 b): the encoder with residual blocks. Arguments and errors as for `encoder`."""

    def __init__(
        self,
        n_classes=10,
        n_channels=1,
        image_size=28,
        n_blocks=3,
        n_features_1=32,
        n_features_2=32,
        n_fully_1=144,
        n_fully_2=72,
    ):
        super().__init__()
        height, width = halve(image_size, n_blocks)
        self.normalise = Normalise(MNIST_MEAN, MNIST_STD)
        self.stem = nn.Conv2d(n_channels, n_features_1, kernel_size=3, padding=1)
        channels = [n_features_1] + n_blocks * [n_features_2]  # before the first block, and after each
        self.blocks = nn.Sequential(*(ResidualBlock(n, n_features_1, n_features_2) for n in channels[:-1]))
        self.classifier = nn.Sequential(
            *classifier(channels[-1] * height * width, n_fully_1, n_fully_2, n_classes)
        )

    def forward(self, x):  # (N, n_channels, height, width)
        x = self.stem(self.normalise(x))  # (N, n_features_1, height, width)
        x = self.blocks(x)  # (N, n_features_2, height >> n_blocks, width >> n_blocks)
        return self.classifier(x)  # (N, n_classes)


def vgg16(n_classes=10, image_size=224):
    """Return torchvision's vgg16 (Simonyan & Zisserman 2014) with a new last layer; sheet 1.1.

    Takes grey or RGB images; grey is repeated to three channels, then normalised as for ImageNet. The network
    itself is in `[-1]`. Raises UserError where its five halvings leave nothing of `image_size`.
    """
    halve(image_size, 5)
    network = torchvision.models.vgg16()
    network.classifier[-1] = Logits(network.classifier[-1].in_features, n_classes)
    return nn.Sequential(v2.RGB(), Normalise(IMAGENET_MEAN, IMAGENET_STD), network)


def build(settings, n_classes, image_shape):
    """Return the initialised network of `settings` for images of `image_shape`, (channels, height, width)."""
    n_channels, *image_size = image_shape
    image_size = settings.image_size or tuple(image_size)
    torch.manual_seed(settings.seed)
    if settings.model == "vgg16":
        model = vgg16(n_classes, image_size)
    else:
        network = {"encoder": encoder, "resnet": ResNet}[settings.model]
        architecture = {name: getattr(settings, name) for name in ARCHITECTURE}
        model = network(n_classes, n_channels, image_size, **architecture)
    if settings.init == "pretrained":
        load_imagenet(model, settings.weights)
    elif settings.init == "transfer":
        load_run(model, settings.weights)
    else:
        initialise(model, settings.init)
    return model.to(settings.device, memory_format=torch.channels_last)


def initialise(model, init):
    """Set all weights of `model`: "default" keeps what it was made with, "xavier" is by Glorot & Bengio 2010.

    Xavier draws every convolution's and linear layer's weights uniformly within ±√(6 / (fan_in + fan_out))
    and sets their biases to zero (sheet 1.1 b).
    """
    if init == "xavier":
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


def last_layer(model):
    """Return (name, layer): the last fully connected layer of `model`, which gives the logits."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]


def load_imagenet(model, weights_file=None):
    """Load ImageNet's weights into a `vgg16(...)`, in place, all but its new last layer.

    They come from `weights_file`, a state dict as torchvision's `vgg16-397923af.pth`, or without one from
    torchvision, which downloads them once into torch.hub's cache. Raises UserError where neither gives them.
    """
    zoo = VGG16_Weights.IMAGENET1K_V1
    file = Path(weights_file or Path(torch.hub.get_dir(), "checkpoints", Path(zoo.url).name))
    if not weights_file and not file.exists():
        try:
            with network_timeout():
                weights = zoo.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
        except Exception as error:  # of the network or the disk; each has its own kinds
            raise UserError(
                f"cannot download vgg16's ImageNet weights ({one_line(error)}): put {zoo.url} (528 MB) at "
                f"{file} or name a copy with --weights FILE"
            ) from None
    else:
        weights = read_tensors(file)
    load_all_but_last(model[-1], weights, f"{file}: these are not the weights of torchvision's vgg16")


def load_run(model, weights_file):
    """Load a run's model.pt into the same kind of network, in place, all but its new last layer.

    That is where transfer learning begins (Yosinski et al. 2014). Raises UserError where it does not fit.
    """
    mismatch = f"{weights_file}: is no model.pt of this network with this architecture and image size"
    load_all_but_last(model, read_tensors(weights_file), mismatch)


def load_all_but_last(model, weights, mismatch):
    """Load the state dict `weights` into `model`, but for the last layer; `mismatch` says what is wrong."""
    name, layer = last_layer(model)
    kept = {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    try:
        model.load_state_dict({**weights, **kept})
    except (TypeError, RuntimeError, AttributeError):
        raise UserError(mismatch) from None
