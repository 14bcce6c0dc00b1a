"""The settings: what is typed is what is set, what makes no sense is refused, the rest suits the machine."""

import re
from dataclasses import fields, replace

from support.console import UserError
from support.settings import (
    Settings,
    command_line,
    complete,
    flag_name,
    has_fast_bf16,
    network_flags,
    parse,
    with_epochs,
)

import pytest
import torch
from conftest import small_settings
from hypothesis import given
from hypothesis import strategies as st


def test_help_names_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        parse("", ["--help"])
    assert end.value.code == 0
    help_text = capsys.readouterr().out
    listed = {
        flag.split()[0].strip(","): " ".join(flag.split()) for flag in re.split(r"\n  (?=-)", help_text)
    }
    for setting in fields(Settings):
        text = listed[flag_name(setting.name)]
        if setting.name in ("augment", "freeze", "precision"):
            continue  # off, and what its text says
        default = "" if setting.default is None else setting.default
        assert f"(default: {default}" in text


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--model alexnet", "invalid choice: 'alexnet'"),
        ("--batch-size 9999999999999999999999", "--batch-size: invalid positive int value"),
        ("--seed 18446744073709551616", "--seed: invalid seed value"),
        ("--epochs 0", "--epochs: invalid positive int value: '0'"),
        ("--lr -1", "--lr: invalid positive float value: '-1'"),
        ("--lr nan", "--lr: invalid positive float value: 'nan'"),
        ("--batch-size many", "--batch-size: invalid positive int value: 'many'"),
        ("--seed -1", "--seed: invalid seed value: '-1'"),
        ("--colour", "unrecognized arguments: --colour"),
        ("--model vgg16 --n-blocks 2", "vgg16's architecture is fixed: leave out --n-blocks"),
        ("--model resnet --init pretrained", "no pretrained weights for resnet"),
        ("--model vgg16 --weights file", "--weights goes with --init transfer, and with --model vgg16"),
        ("--init transfer", "--init transfer needs --weights RUN/model.pt"),
        ("--freeze", "it goes with --init pretrained or transfer"),
        (
            "--freeze --augment --init transfer --weights file",
            "computes the features once: leave out --augment",
        ),
        ("--resume run --epochs 3", "--resume keeps the run's own settings: leave out --epochs"),
        ("--resume run --out there", "--resume keeps the run's own settings: leave out --out"),
    ],
)
def test_what_makes_no_sense_is_refused(typed, message):
    with pytest.raises(UserError) as error:
        parse("", typed.split())
    assert message in str(error.value)


def test_vgg16_has_its_own_defaults():
    assert (small_settings().image_size, small_settings().lr) == (None, 3e-3)
    assert small_settings(epochs=1).lr == 5e-3
    big = small_settings(model="vgg16", batch_size=None)
    assert (big.image_size, big.lr, big.batch_size) == (224, 1e-4, 32)
    assert small_settings(model="vgg16", image_size=64, lr=1.0).image_size == 64
    assert small_settings(model="vgg16", freeze=True).lr == 3e-3  # a single layer bears more
    assert small_settings(freeze=True).lr == 3e-2


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "meta"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(UserError, match=f"--device {device}: there is none"):
        small_settings(device=device)


def test_bf16_is_chosen_only_where_the_processor_is_faster_by_it(monkeypatch):
    for flags, chosen in (
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert has_fast_bf16("cpu") is chosen
        assert small_settings(precision=None).precision == ("bf16" if chosen else "fp32")


@pytest.mark.parametrize(
    "typed",
    [
        "--model encoder --init xavier --n-blocks 2 --data mine --epochs 1 --augment --image-size 18",
        "--model vgg16 --init default --limit 2000 --seed 3",
        "--model resnet --init default",
    ],
)
def test_the_command_line_of_settings_gives_them_again(typed):
    run_settings, _ = parse("", typed.split())
    assert command_line(run_settings) == f"python train.py {typed}"
    here = replace(run_settings, device="cpu", precision="fp32", threads=3)  # what each machine decides anew
    assert command_line(here) == command_line(run_settings)


@given(st.integers(1, 10**5), st.sampled_from([32, 128]), st.sampled_from([(2, 10), (5, 50)]))
def test_few_images_are_seen_more_often(n_train, batch_size, bounds):
    usual, most = bounds
    settings = complete(Settings(device="cpu", batch_size=batch_size))
    epochs = with_epochs(settings, n_train, *bounds).epochs
    assert usual <= epochs <= most
    steps = -(-n_train // batch_size)
    assert epochs == most or epochs * steps >= 150
    assert epochs == usual or (epochs - 1) * steps < 150  # and no more than that
    assert with_epochs(replace(settings, epochs=3), n_train).epochs == 3


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, ""),
        ({"init": "xavier", "n_blocks": 2, "epochs": 9, "seed": 4}, "--init xavier --n-blocks 2"),
        ({"image_size": 32}, "--image-size 32"),
        (
            {"model": "vgg16", "init": "pretrained", "freeze": True},
            "--model vgg16 --init pretrained --freeze",
        ),
        ({"model": "vgg16", "image_size": 32}, "--model vgg16 --image-size 32"),
        ({"init": "transfer", "weights": "a.pt"}, "--init transfer --weights a.pt"),
    ],
)
def test_the_flags_of_a_network_are_those_that_differ_and_no_others(changes, flags):
    completed = complete(Settings(device="cpu", **changes))
    assert " ".join(network_flags(completed, Settings())) == flags
    assert network_flags(completed, completed) == []
