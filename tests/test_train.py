"""Training: it learns, it repeats itself exactly, and an interruption changes nothing."""

import math
import time
from dataclasses import replace
from functools import cache

from support import console, randomness, run_folder
from support.console import UserError

import pytest
import torch
import torchvision
from conftest import same_weights, small_model, small_settings, small_vgg16, stripes

import data
import models
import train

TRAIN, TEST = stripes(40), stripes(20, seed=1)


def trained(run_settings, folder=None):
    """Return (model, history) of a training from the start, or from `folder`'s state."""
    model = small_model(run_settings, TRAIN)
    return model, train.fit(model, TRAIN, TEST, run_settings, folder)


def without_times(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


@pytest.mark.parametrize("model", ["encoder", "resnet"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_learns_32_images_by_heart(model, precision):
    images = stripes(32)
    run_settings = small_settings(model=model, init="xavier", precision=precision, epochs=40, n_features_1=8)
    network = small_model(run_settings, images)
    history = train.fit(network, images, TEST, run_settings)
    assert history[0]["train_accuracy"] < 0.9
    loss, accuracy = train.evaluate(network, images, run_settings)
    assert loss < 0.05
    assert accuracy == 1


def test_the_same_seed_gives_the_same_weights():
    run_settings = small_settings(augment=True)
    model, history = trained(run_settings)
    torch.rand(100)  # somebody else's random numbers in between
    again, history_again = trained(run_settings)
    assert same_weights(model, again)
    assert without_times(history) == without_times(history_again)


@pytest.mark.parametrize("model", ["encoder", "resnet"])
def test_freezing_is_training_with_the_other_layers_fixed(model):
    run_settings = small_settings(model=model, freeze=True, epochs=3)
    frozen, start = small_model(run_settings, TRAIN), small_model(run_settings, TRAIN)
    history = train.fit(frozen, TRAIN, TEST, run_settings)
    last = models.last_layer(frozen)[0]
    for name, value in frozen.state_dict().items():
        assert torch.equal(value, start.state_dict()[name]) != name.startswith(last), name
    for name, parameter in start.named_parameters():
        parameter.requires_grad_(name.startswith(last))
    expected = train.fit(start, TRAIN, TEST, replace(run_settings, freeze=False))
    for name, value in frozen.state_dict().items():
        assert torch.allclose(value, start.state_dict()[name], atol=1e-5), name
    assert [row["test_accuracy"] for row in history] == [row["test_accuracy"] for row in expected]
    assert train.evaluate(frozen, TEST, run_settings)[1] == history[-1]["test_accuracy"]


def test_vgg16s_features_are_without_dropout(monkeypatch):
    monkeypatch.setattr(torchvision.models, "vgg16", small_vgg16)  # for speed
    images = stripes(2, size=32)
    run_settings = small_settings(model="vgg16", image_size=32, freeze=True)
    model = small_model(run_settings, images).train()
    _, features, _ = train.frozen(model, images, images, run_settings)
    _, again, _ = train.frozen(model.train(), images, images, run_settings)
    assert features.images.shape == (2, 6)
    assert torch.equal(features.images, again.images)
    assert torch.allclose(
        models.last_layer(model)[1](features.images), train.predict(model, images, run_settings), atol=1e-4
    )


def test_a_frozen_training_is_resumed_bit_by_bit(tmp_path, monkeypatch):
    whole, history = trained(small_settings(freeze=True))
    with monkeypatch.context() as patch:
        patch.setattr(train, "write_csv", lambda *args: (_ for _ in ()).throw(Interrupted()))
        patch.setattr(console.Watch, "due", lambda self: True)
        patch.setattr(console.Watch, "time_to_save", lambda self: True)
        with pytest.raises(Interrupted):
            trained(small_settings(freeze=True), tmp_path)
    resumed, resumed_history = trained(small_settings(freeze=True), tmp_path)
    assert same_weights(whole, resumed)
    assert without_times(history) == without_times(resumed_history)


def test_computing_the_features_counts_as_training(monkeypatch):
    def slow(*arguments, frozen=train.frozen):
        time.sleep(0.2)
        return frozen(*arguments)

    monkeypatch.setattr(train, "frozen", slow)
    first, second = trained(small_settings(freeze=True))[1]
    assert first["seconds"] > 0.2
    assert second["seconds"] < first["seconds"]


def test_processes_share_out_a_batch_and_differ_in_dropout_alone(monkeypatch):
    images = replace(TRAIN, labels=torch.arange(40))  # which says of each image which it is
    run_settings = small_settings(augment=True, batch_size=15)
    (whole, labels, _), *_ = train.training_batches(images, run_settings, epoch=1, n_seen=15)
    shares, random_numbers = [], []
    for number in range(2):
        monkeypatch.setattr(train, "process_number", lambda number=number: number)
        monkeypatch.setattr(train, "is_main", lambda number=number: number == 0)
        monkeypatch.setattr(train, "n_processes", lambda: 2)
        share, own_labels, n_images = next(train.training_batches(images, run_settings, epoch=1, n_seen=15))
        random_numbers.append(torch.rand(1).item())
        shares.append(share)
        assert n_images == 15
        assert torch.equal(own_labels, labels[number::2])
    assert torch.equal(shares[0], whole[::2])
    assert torch.equal(shares[1], whole[1::2])
    assert random_numbers[0] != random_numbers[1]


def test_the_loop_is_the_plain_one():
    run_settings = small_settings(batch_size=16, epochs=3)
    model, _ = trained(run_settings)
    plain = small_model(run_settings, TRAIN)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=run_settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, run_settings.lr, total_steps=9)
    for epoch in range(3):
        order = randomness.random_order(40, run_settings.seed, epoch)
        for batch in (order[:16], order[16:32], order[32:]):
            loss = torch.nn.functional.cross_entropy(plain(TRAIN.images[batch] / 255), TRAIN.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


class Recorder(torch.nn.Module):
    """A network that notes what it is given and in which mode; its logits follow one weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x, torch.rand(1).item()))
        return x.mean(dim=(1, 2, 3))[:, None] * self.weight


def test_an_epoch_shows_every_image_once_in_another_order_with_other_random_numbers():
    recorder = Recorder()
    train.fit(recorder, TRAIN, TEST, small_settings(batch_size=16, epochs=3))
    shown = [
        torch.cat([x for training, x, _ in recorder.seen if training]).flatten(1)[n : n + 40]
        for n in (0, 40, 80)
    ]
    expected = sorted((TRAIN.images / 255).flatten(1).tolist())
    assert all(sorted(epoch.tolist()) == expected for epoch in shown)
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[1], shown[2])
    random_numbers = [number for training, _, number in recorder.seen if training]
    assert len(set(random_numbers)) == 9  # so that dropout and augmentation differ in every step


def test_prediction_is_in_evaluation_mode_and_never_augmented():
    recorder = Recorder()
    train.predict(recorder, TEST, small_settings(augment=True))
    assert not any(training for training, _, _ in recorder.seen)
    assert torch.equal(torch.cat([x for _, x, _ in recorder.seen]), TEST.images / 255)


def test_bf16_is_used_and_close_to_fp32():
    model = small_model(small_settings(init="xavier"), TRAIN)
    exact, rounded = (train.predict(model, TEST, small_settings(precision=name)) for name in ("fp32", "bf16"))
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact, rounded, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize("model", ["encoder", "resnet", "vgg16"])
def test_in_bf16_the_last_layer_and_the_loss_are_in_fp32(monkeypatch, model):
    monkeypatch.setattr(torchvision.models, "vgg16", small_vgg16)  # for speed
    images = stripes(4, size=32)
    run_settings = small_settings(model=model, init="xavier", precision="bf16", image_size=32)
    network = small_model(run_settings, images).eval()
    layer = models.last_layer(network)[1]
    seen = []
    layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    logits = train.predict(network, images, run_settings)
    assert seen[0].dtype == torch.bfloat16  # the layers below it are not
    exact = seen[0].double() @ layer.weight.double().T + layer.bias.double()
    assert torch.allclose(logits.double(), exact, rtol=1e-5, atol=1e-6)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_convolutions_are_kept_in_channels_last_order():
    model = small_model(small_settings(), TRAIN)
    assert model.blocks[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.86 GB, max allowed: 9.07 GB)."),
    ],
)
def test_images_that_the_device_has_no_room_for_stay_where_they_are(monkeypatch, error):
    def no_room(self, device):
        raise error

    whole, _ = trained(small_settings())
    monkeypatch.setattr(data.ImageData, "to", no_room)
    assert same_weights(whole, trained(small_settings())[0])


def test_another_error_on_the_way_to_the_device_is_no_lack_of_room(monkeypatch):
    def broken(self, device):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(data.ImageData, "to", broken)
    with pytest.raises(RuntimeError, match="device-side"):
        trained(small_settings())


@pytest.mark.parametrize("n_steps", range(1, 9))
@pytest.mark.parametrize("model", ["encoder", "resnet"])
def test_the_shortest_training_moves_every_layer(model, n_steps):
    run_settings = small_settings(model=model, init="xavier", epochs=1, batch_size=math.ceil(40 / n_steps))
    start, (network, _) = small_model(run_settings, TRAIN), trained(run_settings)
    for name, weight in start.named_parameters():
        moved = (network.state_dict()[name] - weight).abs().max()
        assert run_settings.lr / 10 < moved < 10 * run_settings.lr, name


def test_the_row_of_an_epoch_is_what_an_independent_count_finds():
    run_settings = small_settings(epochs=1, batch_size=40, lr=1e-12)  # one step that changes next to nothing
    model, (row,) = trained(run_settings)
    for split, part in (("train", TRAIN), ("test", TEST)):
        with torch.no_grad():
            probabilities = model(part.images / 255).softmax(dim=1)
        losses = [
            -math.log(p[label]) for p, label in zip(probabilities.tolist(), part.labels.tolist(), strict=True)
        ]
        right = [
            max(p) == p[label] for p, label in zip(probabilities.tolist(), part.labels.tolist(), strict=True)
        ]
        assert row[f"{split}_loss"] == pytest.approx(sum(losses) / len(part), rel=1e-4)
        assert row[f"{split}_accuracy"] == sum(right) / len(part)


def test_prediction_does_not_depend_on_the_batches():
    model = small_model(small_settings(), TRAIN)
    whole = train.predict(model, TRAIN, small_settings(batch_size=100))
    assert torch.allclose(whole, train.predict(model, TRAIN, small_settings(batch_size=7)), atol=1e-5)
    assert whole.shape == (40, 3)
    assert whole.dtype == torch.float32


class Interrupted(Exception):
    pass


def killed(*args):
    raise Interrupted


uninterrupted = cache(trained)


@pytest.mark.parametrize("model", ["encoder", "resnet"])
@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 6, 8, 11, 15])  # of 15: in each epoch 4 full ones and a part
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(tmp_path, monkeypatch, model, n_steps):
    run_settings = small_settings(model=model, init="xavier", augment=True, epochs=3, batch_size=9)
    whole, history = uninterrupted(run_settings)
    seen = []

    def interrupt(self, n_done, loss_sum):
        seen.append(n_done)
        if len(seen) == n_steps:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(console.Watch, "due", lambda self: True)
        patch.setattr(console.Watch, "show", interrupt)
        # After every other step, and at the end of every other epoch.
        patch.setattr(console.Watch, "time_to_save", lambda self, *seconds: len(seen) % 2 == 0)
        with pytest.raises(Interrupted):
            trained(run_settings, tmp_path)
    assert (tmp_path / "state.pt").exists() == (n_steps > 2)
    resumed, resumed_history = trained(run_settings, tmp_path)
    assert same_weights(whole, resumed)
    assert without_times(history) == without_times(resumed_history)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 3


def test_an_interruption_after_an_epochs_last_step_does_not_repeat_it(tmp_path, monkeypatch):
    run_settings = small_settings(batch_size=9)  # the last step has 4 images
    whole, history = trained(run_settings)

    with monkeypatch.context() as patch:
        patch.setattr(console.Watch, "due", lambda self: True)
        patch.setattr(console.Watch, "time_to_save", lambda self: True)
        patch.setattr(console.Watch, "seconds", lambda self: 60.0)
        patch.setattr(train, "evaluate", killed)
        with pytest.raises(Interrupted):
            trained(run_settings, tmp_path)
    resumed, resumed_history = trained(run_settings, tmp_path)
    assert [row["seconds"] > 60 for row in resumed_history] == [True, False]  # those before count
    assert same_weights(whole, resumed)
    assert without_times(history) == without_times(resumed_history)


@pytest.mark.parametrize(("module", "lost"), [(train, "write_csv"), (run_folder, "save_position")])
def test_an_interruption_between_two_files_loses_no_row(tmp_path, monkeypatch, module, lost):
    with monkeypatch.context() as patch:
        patch.setattr(module, lost, killed)
        with pytest.raises(Interrupted):
            trained(small_settings(epochs=1), tmp_path)
    trained(small_settings(epochs=1), tmp_path)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 1


def test_a_run_that_goes_on_shows_the_epochs_before_and_writes_a_lost_or_damaged_table_anew(tmp_path, capsys):
    trained(small_settings(), tmp_path)
    shown = capsys.readouterr().out
    whole = (tmp_path / "metrics.csv").read_bytes()
    for damage in (None, b"epo"):
        (tmp_path / "metrics.csv").unlink()
        if damage:
            (tmp_path / "metrics.csv").write_bytes(damage)
        trained(small_settings(), tmp_path)
        assert (tmp_path / "metrics.csv").read_bytes() == whole
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize("batch_size", [8, 40])  # with 40, only the test after the one step can tell
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, batch_size):
    with pytest.raises(UserError, match="training diverged"):
        trained(small_settings(lr=1e38, epochs=1, batch_size=batch_size), tmp_path)
    assert not (tmp_path / "state.pt").exists()


class OnAGpu:
    """Stands for a GPU's tensor: all that may be done with it here is to fetch it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def cpu(self):
        return self.tensor


def test_the_weights_that_a_gpu_learnt_are_written_from_the_cpu(tmp_path, monkeypatch):
    run_settings = small_settings()
    model, history = trained(run_settings)
    weights = model.state_dict()
    monkeypatch.setattr(model, "state_dict", lambda: {name: OnAGpu(each) for name, each in weights.items()})
    train.finish(tmp_path, model, TEST, history, run_settings)
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)
