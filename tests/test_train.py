"""Training: the loop learns and is the plain one; frozen features; settings. test_cli.py interrupts runs."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import small_model, small_settings, stripes, trained

import models
import train
from data import random_order

TRAIN, TEST = stripes(40), stripes(20, seed=1)


@pytest.mark.parametrize("model", ["encoder", "resnet"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_can_memorise_32_images(model, precision):
    images = stripes(32)
    settings = small_settings(model=model, init="xavier", precision=precision, epochs=40, n_features_1=8)
    network, history = trained(settings, images, TEST)
    assert history[0]["train_accuracy"] < 0.9
    loss, accuracy, _ = train.evaluate(network, images, settings)
    assert loss < 0.05
    assert accuracy == 1


def test_the_loop_is_the_plain_one():
    settings = small_settings(batch_size=16, epochs=3)
    model, plain = small_model(settings, TRAIN), small_model(settings, TRAIN)
    _, logits = train.train(model, TRAIN, TEST, settings)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=9)
    for epoch in range(3):
        order = random_order(40, settings.seed, epoch)
        for batch in (order[:16], order[16:32], order[32:]):
            loss = torch.nn.functional.cross_entropy(plain(TRAIN.images[batch] / 255), TRAIN.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(logits, model(TEST.images / 255), atol=1e-5)


def test_the_row_of_an_epoch_equals_an_independent_count():
    settings = small_settings(epochs=1, batch_size=15, lr=1e-12)  # the steps change almost nothing
    model, (row,) = trained(settings, TRAIN, TEST)
    for split, part in (("train", TRAIN), ("test", TEST)):
        with torch.no_grad():
            probabilities = model(part.images / 255).softmax(dim=1).tolist()
        losses = [-math.log(p[label]) for p, label in zip(probabilities, part.labels.tolist(), strict=True)]
        right = [max(p) == p[label] for p, label in zip(probabilities, part.labels.tolist(), strict=True)]
        assert row[f"{split}_loss"] == pytest.approx(sum(losses) / len(part), rel=1e-5)
        assert row[f"{split}_accuracy"] == pytest.approx(sum(right) / len(part))
    assert row["epoch"] == 1
    assert row["seconds"] > 0


class Recorder(torch.nn.Module):
    """A network that notes what it is given and in which mode; its logits follow one weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x, torch.rand(1).item()))
        return x.mean(dim=(1, 2, 3))[:, None] * self.weight


def test_every_epoch_is_in_training_mode_and_every_step_has_other_random_numbers():
    recorder = Recorder()
    train.train(recorder, TRAIN, TEST, small_settings(batch_size=16, epochs=3))
    assert len({number for training, _, number in recorder.seen if training}) == 9  # for dropout


def test_prediction_is_in_evaluation_mode_not_augmented_and_independent_of_batches():
    recorder = Recorder()
    train.predict(recorder, TEST.images, small_settings(augment=True))
    assert not any(training for training, _, _ in recorder.seen)
    assert torch.equal(torch.cat([x for _, x, _ in recorder.seen]), TEST.images / 255)
    model = small_model(small_settings(), TRAIN)
    whole, parts = (train.predict(model, TRAIN.images, small_settings(batch_size=n)) for n in (100, 7))
    assert torch.allclose(whole, parts, atol=1e-5)
    assert not whole.requires_grad


def test_bf16_is_used_but_not_for_the_last_layer():
    settings = small_settings(init="xavier", precision="bf16")
    model = small_model(settings, TRAIN)
    layer, seen = models.last_layer(model)[1], []
    layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    logits = train.predict(model, TEST.images, settings)
    assert seen[0].dtype == torch.bfloat16
    exact = torch.cat(seen).double() @ layer.weight.double().T + layer.bias.double()
    assert torch.allclose(logits.double(), exact, rtol=1e-5, atol=1e-6)
    in_fp32 = train.predict(model, TEST.images, small_settings())
    assert torch.allclose(logits, in_fp32, atol=0.05 * in_fp32.abs().max().item())


@pytest.mark.parametrize(("n_steps", "expected"), [(1, [0.5]), (3, 3 * [0.5]), (10, [0.04, 0.52, 1.0])])
def test_the_learning_rate_rises_to_its_maximum_or_stays_at_half_of_it_in_few_steps(n_steps, expected):
    optimizer, scheduler = train.optimisation(torch.nn.Linear(1, 1), 0.01, n_steps)
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"] / 0.01)
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected)


# ---------------------------------------------------------------- frozen features


@pytest.mark.parametrize("model", ["encoder", "resnet"])
def test_freezing_is_training_with_the_other_layers_fixed(model):
    settings = small_settings(model=model, epochs=3)
    network, plain = small_model(settings, TRAIN), small_model(settings, TRAIN)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    layer, *features = train.extract_features(network, TRAIN, TEST, settings)
    history, _ = train.train(layer, *features, settings)
    last = models.last_layer(network)[0]
    for name, value in network.state_dict().items():
        assert torch.equal(value, start[name]) != name.startswith(last), name
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name.startswith(last))
    expected, _ = train.train(plain, TRAIN, TEST, settings)
    for name, value in network.state_dict().items():
        assert torch.allclose(value, plain.state_dict()[name], atol=1e-5), name
    assert [row["test_accuracy"] for row in history] == [row["test_accuracy"] for row in expected]
    assert train.evaluate(network, TEST, settings)[1] == history[-1]["test_accuracy"]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("n_images", "changes", "expected"),
    [
        (60000, {}, {"epochs": 5, "batch_size": 128, "lr": 0.003}),
        (60000, {"epochs": 1}, {"epochs": 1, "lr": 0.005}),
        (60000, {"model": "vgg16"}, {"batch_size": 32, "lr": 0.0001}),
        (60000, {"model": "vgg16", "freeze": True}, {"batch_size": 32, "lr": 0.003}),
        (60000, {"freeze": True}, {"batch_size": 32, "lr": 0.03}),
        (1000, {}, {"epochs": 19}),  # 150 steps in epochs of 8
        (40, {}, {"epochs": 50}),
        (40, {"epochs": 3, "batch_size": 7, "lr": 1.0}, {"epochs": 3, "batch_size": 7, "lr": 1.0}),
        (40, {"image_size": 32}, {"image_size": [32, 32]}),
        (40, {}, {"image_size": [8, 9]}),
    ],
)
def test_default_settings_depend_on_model_and_data(n_images, changes, expected):
    unset = dict.fromkeys(("epochs", "batch_size", "lr", "image_size", "device", "precision", "threads"))
    settings = small_settings(**unset | {"threads": 1} | changes)
    images = torch.zeros(1, 1, 8, 9, dtype=torch.uint8).expand(n_images, -1, -1, -1)
    train.complete(settings, replace(TRAIN, images=images, labels=torch.zeros(n_images)))
    assert {name: getattr(settings, name) for name in expected} == expected
    assert all(getattr(settings, name) is not None for name in unset)
