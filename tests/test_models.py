"""The networks: shapes, gradients, parameter counts, initialisation, by independent calculations."""

import math
import socket
from unittest.mock import Mock

import pytest
import torch
import torchvision
from conftest import small_settings
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import models
from support.console import UserError

few = st.integers(1, 6)
custom = pytest.mark.parametrize("network", [models.encoder, models.ResNet])


@pytest.fixture(scope="module")
def vgg16():
    """One vgg16 for all tests of this file, because building it takes seconds."""
    torch.manual_seed(0)
    return models.vgg16(image_size=32)


@custom
@given(
    n_blocks=st.integers(0, 4),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    counts=st.tuples(few, few, few, few, few, few),
    n_images=st.integers(1, 3),
)
def test_any_legal_architecture_maps_images_to_logits(network, n_blocks, size, counts, n_images):
    n_classes, n_channels, *widths = counts
    names = ("n_features_1", "n_features_2", "n_fully_1", "n_fully_2")
    arguments = {"n_classes": n_classes, "n_channels": n_channels, "image_size": size, "n_blocks": n_blocks}
    arguments |= dict(zip(names, widths, strict=True))
    if min(size) < 2**n_blocks:  # each block halves, rounding down
        with pytest.raises(UserError, match=f"works is {2**n_blocks}×{2**n_blocks}"):
            network(**arguments)
    else:
        images = torch.rand(n_images, n_channels, *size)
        assert network(**arguments)(images).shape == (n_images, n_classes)


@custom
def test_parameters_as_counted_by_hand(network):
    stem, convolution = 1 * 32 * 9 + 32, 32 * 32 * 9 + 32
    fully_connected = (3 * 3 * 32 * 144 + 144) + (144 * 72 + 72) + (72 * 10 + 10)
    assert count(network()) == stem + 6 * convolution + fully_connected == 108_594
    # 18×18 leaves 2×2 of 32 channels: 128 features
    assert count(network(image_size=18)) == 108_594 - (288 - 128) * 144


def test_the_bypass_has_parameters_only_if_channel_counts_differ():
    wide = {"n_features_1": 8, "n_features_2": 12}
    # stem; the blocks' first convolutions, to 8 channels; their second ones, to 12; 3×3×12, then the rest
    by_hand = (9 + 1) * 8 + (8 * 9 + 1) * 8 + 2 * (12 * 9 + 1) * 8 + 3 * (8 * 9 + 1) * 12
    by_hand += (108 + 1) * 144 + (144 + 1) * 72 + (72 + 1) * 10
    assert count(models.encoder(**wide)) == by_hand
    assert count(models.ResNet(**wide)) == by_hand + 8 * 12 + 12  # the first block's 1×1 convolution


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_vgg16_has_the_published_parameters_except_for_its_last_layer(vgg16):
    assert count(vgg16) == 138_357_544 - (4096 * 1000 + 1000) + (4096 * 10 + 10)


@custom
@pytest.mark.parametrize(
    "arguments", [{}, {"image_size": 18}, {"n_blocks": 2, "n_features_2": 48}, {"n_channels": 3}]
)
@pytest.mark.parametrize("init", ["default", "xavier"])
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(network, arguments, init):
    torch.manual_seed(0)
    model = network(**arguments)
    if init == "xavier":
        models.initialise_xavier(model)
    size = arguments.get("image_size", 28)
    check_gradients(model, torch.rand(4, arguments.get("n_channels", 1), size, size))


def test_every_parameter_of_vgg16_gets_a_finite_gradient_that_is_not_zero(vgg16):
    check_gradients(vgg16, torch.rand(2, 1, 32, 32))
    vgg16.zero_grad()


def check_gradients(model, images):
    nn.functional.cross_entropy(model(images), torch.arange(len(images))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("n_features_2", [2, 3])
def test_a_residual_blocks_gradient_is_the_difference_quotient(n_features_2):
    torch.manual_seed(0)
    block = models.ResidualBlock(2, 3, n_features_2).double()
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*block.named_parameters(), strict=True)

    def block_of(x, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(block_of, (x, *parameters))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9))
def test_a_residual_block_without_its_second_convolution_only_pools(n, inner, height, width):
    block = models.ResidualBlock(n, inner, n)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    x = torch.randn(2, n, height, width)
    assert torch.equal(block(x), nn.functional.max_pool2d(x, 2))


def test_a_resnet_without_its_bypasses_is_the_encoder():
    resnet, encoder = models.ResNet(), models.encoder()
    assert [p.shape for p in resnet.parameters()] == [p.shape for p in encoder.parameters()]
    encoder.load_state_dict(dict(zip(encoder.state_dict(), resnet.state_dict().values(), strict=True)))
    x = torch.rand(2, 1, 28, 28)
    assert not torch.allclose(resnet(x), encoder(x))
    for block in resnet.blocks:
        block.bypass.forward = torch.zeros_like
    assert torch.allclose(resnet(x), encoder(x), atol=1e-6)


def test_the_encoder_is_sequential_and_has_the_sheets_layers_in_order():
    kinds = [type(layer).__name__ for layer in models.encoder()]
    block = ["Conv2d", "ReLU", "Conv2d", "MaxPool2d"]
    assert kinds[1:] == ["Conv2d", *3 * block, "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Logits"]


def test_the_custom_networks_normalise_with_mnists_mean_and_deviation():
    encoder, x = models.encoder(), torch.rand(2, 1, 28, 28)
    assert torch.allclose(encoder(x), encoder[1:]((x - 0.1307) / 0.3081), atol=1e-5)
    resnet = models.ResNet()
    logits, resnet.normalise = resnet(x), nn.Identity()
    assert torch.allclose(logits, resnet((x - 0.1307) / 0.3081), atol=1e-5)


@pytest.mark.parametrize("name", ["encoder", "resnet", "vgg16"])
def test_xavier_weights_have_the_right_bound_and_variance(name, vgg16):
    model = {"encoder": models.encoder(), "resnet": models.ResNet(n_features_2=48), "vgg16": vgg16}[name]
    models.initialise_xavier(model)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == {"encoder": 10, "resnet": 11, "vgg16": 16}[name]
    for layer in layers:
        weight, n = layer.weight.detach(), layer.weight.numel()
        receptive_field = math.prod(weight.shape[2:])
        fans = (weight.shape[0] + weight.shape[1]) * receptive_field
        bound = math.sqrt(6 / fans)
        assert weight.abs().max() <= bound
        assert weight.abs().max() > bound * (1 - 20 / n)  # fails for one in e^20 layers
        # The variance of a uniform sample's variance is 0.8 σ⁴ / n.
        assert weight.var().item() == pytest.approx(2 / fans, rel=6 * math.sqrt(0.8 / n))
        assert not layer.bias.any()


def test_vgg16_works_from_32_pixels_on_and_fails_below(vgg16):
    vgg16.eval()
    with torch.no_grad():
        assert vgg16(torch.rand(1, 1, 32, 32)).shape == (1, 10)
        for size in (18, 31):
            with pytest.raises(RuntimeError, match="Output size is too small"):
                vgg16(torch.rand(1, 1, size, size))
            with pytest.raises(UserError, match="→ nothing; the smallest size that works is 32×32"):
                models.vgg16(image_size=size)


def test_vgg16_takes_grey_as_three_equal_channels_and_normalises_as_for_imagenet(vgg16):
    vgg16.eval()
    grey = torch.rand(2, 1, 32, 32)
    rgb = grey.repeat(1, 3, 1, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        assert torch.equal(vgg16(grey), vgg16(rgb))
        normalised = (rgb - mean[:, None, None]) / std[:, None, None]
        assert torch.allclose(vgg16(grey), vgg16[-1](normalised), atol=1e-5)


# ---------------------------------------------------------------- weights from files


@pytest.mark.parametrize("init", ["default", "xavier"])
def test_a_network_is_built_with_its_initialisation_and_with_channels_last_in_memory(init):
    stem = models.build(small_settings(init=init), n_classes=3, n_channels=3).stem
    assert stem.bias.any() == (init == "default")  # Xavier's biases are zero
    assert stem.weight.is_contiguous(memory_format=torch.channels_last)  # for speed


@pytest.fixture
def imagenet_file(tmp_path):
    """A file of vgg16's shapes; the i-th tensor's values are all i, stored once, so the file is small."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.vgg16().state_dict().items()}
    weights = {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}
    torch.save(weights, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


@pytest.mark.parametrize("cached", [False, True])
def test_imagenet_weights_come_from_a_file_or_torchvisions_cache(vgg16, imagenet_file, monkeypatch, cached):
    if cached:
        monkeypatch.setenv("TORCH_HOME", str(imagenet_file.parent))
        cache = imagenet_file.parent / "hub" / "checkpoints"
        cache.mkdir(parents=True)
        imagenet_file.rename(cache / "vgg16-397923af.pth")
    vgg16[-1].classifier[-1].reset_parameters()
    models.load_imagenet(vgg16, None if cached else imagenet_file)
    *loaded, last_weight, last_bias = vgg16[-1].state_dict().values()
    assert all((value == i).all() for i, value in enumerate(loaded))
    assert last_weight.shape == (10, 4096)
    assert last_weight.std() > 0  # not from the file
    assert last_bias.std() > 0


def test_without_network_the_error_names_the_file_its_place_and_the_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=socket.gaierror("no network")))
    with pytest.raises(UserError) as error:
        models.load_imagenet(None)
    place = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    assert all(part in str(error.value) for part in ("no network", str(place), "--weights FILE", "https://"))


@pytest.mark.parametrize("network", [models.encoder, models.ResNet])
def test_transfer_loads_all_weights_except_those_of_the_last_layer(network, tmp_path):
    before, model = network(n_classes=10), network(n_classes=3)
    torch.save(before.state_dict(), tmp_path / "model.pt")
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    models.load_weights(model, tmp_path / "model.pt")
    name, layer = models.last_layer(model)
    assert layer.out_features == 3
    for key, value in model.state_dict().items():
        assert torch.equal(value, (fresh if key.startswith(name) else before.state_dict())[key]), key


@pytest.mark.parametrize("options", [{"n_blocks": 2}, {"image_size": 18}, {"n_channels": 3}])
def test_weights_that_do_not_fit_are_refused(tmp_path, options):
    torch.save(models.ResNet().state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: .*another network .*grey"):
        models.load_weights(models.ResNet(**options), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: .*another network"):
        models.load_weights(models.encoder(), tmp_path / "model.pt")
