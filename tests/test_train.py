"""Training: it learns, it repeats itself exactly, and an interruption changes nothing."""

import math

import pytest
import torch
from conftest import same_weights, small_model, small_settings, stripes

import runs
import train
from runs import UserError
from settings import Settings, has_fast_bf16, parse

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
    assert train.evaluate(network, images, run_settings) < (0.05, 1.01)
    assert train.evaluate(network, images, run_settings)[1] == 1


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    run_settings = small_settings(augment=True)
    model, history = trained(run_settings)
    torch.rand(100)  # somebody else's random numbers in between
    again, history_again = trained(run_settings)
    assert same_weights(model, again)
    assert without_times(history) == without_times(history_again)
    assert not same_weights(model, trained(small_settings(augment=True, seed=1))[0])


def test_settings_reach_the_training():
    base = trained(small_settings())[0]
    for change in ({"augment": True}, {"lr": 1e-3}, {"batch_size": 16}, {"epochs": 3}, {"init": "xavier"}):
        assert not same_weights(base, trained(small_settings(**change))[0]), change


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


@pytest.mark.parametrize("model", ["encoder", "resnet"])
@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 6, 8, 11, 15])  # of 15, which are 5 in each epoch
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(tmp_path, monkeypatch, model, n_steps):
    run_settings = small_settings(model=model, init="xavier", augment=True, epochs=3)
    whole, history = trained(run_settings)
    seen = []

    def interrupt(self, n_done, loss_sum):
        seen.append(n_done)
        if len(seen) == n_steps:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(runs.Watch, "due", lambda self: True)
        patch.setattr(runs.Watch, "show", interrupt)
        patch.setattr(runs.Watch, "time_to_save", lambda self: len(seen) % 2 == 0)  # after every other step
        with pytest.raises(Interrupted):
            trained(run_settings, tmp_path)
    assert (tmp_path / "state.pt").exists() == (n_steps > 2)
    resumed, resumed_history = trained(run_settings, tmp_path)
    assert same_weights(whole, resumed)
    assert without_times(history) == without_times(resumed_history)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 3


def test_a_damaged_state_is_named(tmp_path):
    trained(small_settings(epochs=1), tmp_path)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"state\.pt is damaged"):
        trained(small_settings(epochs=1), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    with pytest.raises(UserError, match="training diverged"):
        trained(small_settings(lr=1e30), tmp_path)
    assert not (tmp_path / "state.pt").exists()


# ---------------------------------------------------------------- settings


def test_what_is_typed_is_what_is_set():
    typed = (
        "--model encoder --init xavier --n-blocks 2 --n-fully-1 20 --lr 1e-4 --augment --limit 5 --out there"
    )
    run_settings, out, resume = parse("", typed.split())
    expected = {"model": "encoder", "init": "xavier", "n_blocks": 2, "n_fully_1": 20, "lr": 1e-4}
    assert run_settings == Settings(**expected, augment=True, limit=5)
    assert (out, resume) == ("there", None)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--model alexnet", "invalid choice: 'alexnet'"),
        ("--epochs 0", "--epochs: invalid positive int value: '0'"),
        ("--lr -1", "--lr: invalid positive float value: '-1'"),
        ("--lr nan", "--lr: invalid positive float value: 'nan'"),
        ("--batch-size many", "--batch-size: invalid positive int value: 'many'"),
        ("--seed -1", "--seed: invalid seed value: '-1'"),
        ("--colour", "unrecognized arguments: --colour"),
        ("--model vgg16 --n-blocks 2", "vgg16's architecture is fixed: leave out --n-blocks"),
        ("--model resnet --init pretrained", "no pretrained weights for resnet"),
        ("--model vgg16 --weights file", "--weights goes with --model vgg16 --init pretrained"),
        ("--resume run --epochs 3", "--resume keeps the run's own settings: leave out --epochs"),
        ("--resume run --out there", "--resume keeps the run's own settings: leave out --out"),
    ],
)
def test_what_makes_no_sense_is_refused(typed, message):
    with pytest.raises(UserError) as error:
        parse("", typed.split())
    assert message in str(error.value)


def test_vgg16_has_its_own_defaults():
    assert (small_settings().image_size, small_settings().lr) == (None, 5e-3)
    big = small_settings(model="vgg16", batch_size=None)
    assert (big.image_size, big.lr, big.batch_size) == (224, 1e-4, 32)
    assert small_settings(model="vgg16", image_size=64, lr=1.0).image_size == 64


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "meta"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(UserError, match=f"--device {device}: there is none"):
        small_settings(device=device)


def test_bf16_is_chosen_only_where_the_processor_says_it_has_it(monkeypatch):
    for flags, chosen in (
        ({"avx512_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({"amx_bf16": True}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert has_fast_bf16("cpu") is chosen
        assert small_settings(precision=None).precision == ("bf16" if chosen else "fp32")
