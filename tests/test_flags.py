"""Every flag of the commands that train, end to end: each law fails where its flag has no effect.

What config.json says is no effect: the weights, the metrics, the tables or the files must follow.
"""

import itertools
import math
import re
import shutil
from functools import cache, partial

from support import pictures
from support.console import UserError
from support.files import read_csv, read_json, write_csv
from support.trials import Architecture

import pytest
import torch
import torchvision
from conftest import small_vgg16, write_folder
from PIL import Image

import diagnose
import models
import search
import train

COMMANDS = {"train": train, "diagnose": diagnose, "search": search}
LEARNING = "--batch-size 8 --epochs 2 --lr 0.01 --device cpu --precision fp32 --threads 1"
BASE = f"--n-blocks 1 --n-features-1 4 --n-features-2 5 --n-fully-1 8 --n-fully-2 7 {LEARNING}"
BASES = {  # in each of which the last of two flags that are the same counts
    "train": f"{BASE} --init xavier",
    "diagnose": f"{BASE} --no-augment --seeds 1 --remove 2",
    "search": f"{BASE} --model resnet",
}
SHAPE = {"n_classes": 3, "n_channels": 1, "image_size": 8, "n_blocks": 1}
SHAPE |= {"n_features_1": 4, "n_features_2": 5, "n_fully_1": 8, "n_fully_2": 7}  # as BASE and the images say
FIRST = "--lr 1e-12"  # with which the last weights are the first ones


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that runs a command and returns its folder; what was run already is not run again."""
    root = tmp_path_factory.mktemp("flags")
    write_folder(root / "data" / "mnist_png")  # is what --data auto finds; diagnose.py has a copy of it,
    write_folder(root / "data" / "mnist_png_mislabelled")  # whose labels happen to be right
    write_folder(root / "two", n_train=18, n_test=9, n_classes=2)
    for seed in (7, 8):
        torch.manual_seed(seed)
        torch.save(models.ResNet(**SHAPE).state_dict(), root / f"{seed}.pt")
    torch.save(small_vgg16().state_dict(), root / "vgg16.pth")
    numbers = itertools.count()

    @cache
    def run(command, flags="", base=None):
        out = root / f"{command}-{next(numbers)}"
        COMMANDS[command].main(["--out", str(out), *(base or BASES[command]).split(), *flags.split()])
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(torchvision.models, "vgg16", small_vgg16)
        # For speed: no flag is about these, and to draw and save pictures is half of a short run.
        patch.setattr(search, "N_FINAL_SEEDS", 1)
        patch.setattr(search, "THE_SHEETS", Architecture("resnet", 1, 2, 2, 2, 2))
        patch.setattr(Image.Image, "save", lambda *given, **options: None)
        for name in ("draw_curves", "draw_confusion", "draw_sheet", "draw_costs"):
            patch.setattr(pictures, name, lambda *given: None)
        yield run


# ---------------------------------------------------------------- what a run leaves


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def without_times(file):
    return [{name: text for name, text in row.items() if name != "seconds"} for row in read_csv(file)]


def results(command, folder):
    """Return the metrics of a training, of a diagnosis' first network, or of a search's winner in the end."""
    if command == "train":
        return without_times(folder / "metrics.csv")
    if command == "diagnose":
        (file,) = folder.glob("imperfect-*/metrics.csv")
        return without_times(file)
    (row,) = winners(folder)
    return [{"test_loss": row["loss"], "test_accuracy": row["accuracy"]}]


def winners(folder):
    """Return the rows of a search's winner in the end, without those of the architecture beside it."""
    tested = [row for row in read_csv(folder / "results.csv") if row["judged_on"] == "test"]
    return [row for row in tested if row["n_features_1"] != "2"]


def difference(state, other):
    """Return the largest difference between two state dicts, of that tensor in which it is the smallest."""
    return min((state[name] - other[name]).abs().max().item() for name in state)


# ---------------------------------------------------------------- the laws

LAWS = {}  # by (command, flag): functions that take `run` and the command


def law(commands, *flags):
    """Return a decorator that makes a function a law of `flags`, of `commands`."""

    def note(function):
        for key in itertools.product(commands.split(), flags):
            LAWS.setdefault(key, []).append(function)
        return function

    return note


def test_every_flag_has_a_law(capsys):
    flags = set()
    for name, command in COMMANDS.items():
        with pytest.raises(SystemExit):
            command.main(["--help"])
        for listed in re.findall(r"^  (-.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE):
            flags |= {(name, flag) for flag in re.findall(r"--[a-z0-9-]+", listed)}
    assert flags - {(name, "--help") for name in COMMANDS} == set(LAWS)


# The settings of a training, each with flags that change it, and those in whose place they are.
CHANGES = {
    "--model": ("--model encoder", ""),
    "--init": ("--init default", ""),
    "--n-blocks": ("--n-blocks 2", ""),
    "--n-features-1": ("--n-features-1 3", ""),
    "--n-features-2": ("--n-features-2 4", ""),
    "--n-fully-1": ("--n-fully-1 9", ""),
    "--n-fully-2": ("--n-fully-2 6", ""),
    "--data": ("--data two", ""),
    "--epochs": ("--epochs 3", ""),
    "--batch-size": ("--batch-size 5", ""),
    "--lr": ("--lr 0.001", ""),
    "--augment": ("--augment", ""),
    "--no-augment": ("--augment --no-augment", "--augment"),
    "--freeze": ("--freeze --init transfer --weights 7.pt", "--init transfer --weights 7.pt"),
    "--image-size": ("--image-size 16", ""),
    "--limit": ("--limit 11", ""),
    "--seed": ("--seed 1", ""),
    "--precision": ("--precision bf16", ""),
    "--weights": ("--init transfer --weights 7.pt", "--init transfer --weights 8.pt"),
}
SEARCHED = ("--data", "--epochs", "--batch-size", "--lr", "--augment", "--no-augment", "--image-size")
SEARCHED += ("--limit", "--seed", "--precision")


def gives_others(flags, others, run, command):
    assert results("train", run("train", flags)) != results("train", run("train", others))


def trains_as_train_py(flags, others, run, command):
    """Check that a command's network is train.py's with the same flags, on which each flag has its effect."""
    gives_others(flags, others, run, command)
    for each in (flags, others):
        expected, ours = results("train", run("train", each)), results(command, run(command, each))
        assert ours == [{name: row[name] for name in ours[0]} for row in expected[-len(ours) :]]
        assert len(ours) == (1 if command == "search" else len(expected))


for flag, changes in CHANGES.items():
    law("train", flag)(partial(gives_others, *changes))
    law("diagnose", flag)(partial(trains_as_train_py, *changes))
    if flag in SEARCHED:
        law("search", flag)(partial(trains_as_train_py, *changes))


@law("train", "--model")
def the_network_is_the_one_that_is_named(run, command):
    for flags, network in (("", models.ResNet), ("--model encoder", models.encoder)):
        assert weights(run("train", flags)).keys() == network(**SHAPE).state_dict().keys()


@law("train", "--n-blocks", "--n-features-1", "--n-features-2", "--n-fully-1", "--n-fully-2", "--image-size")
def the_layers_are_as_wide_as_is_said(run, command):
    flags = "--n-blocks 2 --n-features-1 3 --n-features-2 6 --n-fully-1 9 --n-fully-2 11 --image-size 12"
    network = {name: tuple(value.shape) for name, value in weights(run("train", flags)).items()}
    assert network["stem.weight"] == (3, 1, 3, 3)
    assert network["blocks.0.conv2.weight"] == network["blocks.1.conv2.weight"] == (6, 3, 3, 3)
    assert network["classifier.1.weight"] == (9, 6 * 3 * 3)
    assert network["classifier.3.weight"] == (11, 9)
    assert "blocks.2.conv1.weight" not in network


@law("train", "--init")
def the_first_weights_are_pytorchs_own_or_within_xaviers_bounds_and_fill_them(run, command):
    for init, bound in (("default", lambda n, _: 1 / n), ("xavier", lambda n, m: 6 / (n + m))):
        for name, value in weights(run("train", f"--init {init} {FIRST}")).items():
            if name.endswith("bias"):
                assert (value.abs().max() < 1e-9) == (init == "xavier"), name
                continue
            fan_out, fan_in = (n * math.prod(value.shape[2:]) for n in value.shape[:2])
            reach = value.abs().max().item() / math.sqrt(bound(fan_in, fan_out))
            assert 1 - 20 / value.numel() < reach < 1 + 1e-6, name


@law("train", "--init", "--weights")
def the_first_weights_are_those_of_a_file_but_for_the_last_layer(run, command):
    flags = "--model vgg16 --init pretrained --weights vgg16.pth --image-size 32"
    for file, first, last in (
        ("7.pt", run("train", f"--init transfer --weights 7.pt {FIRST}"), "classifier.5."),
        ("8.pt", run("train", f"--init transfer --weights 8.pt {FIRST}"), "classifier.5."),
        ("vgg16.pth", run("train", f"{flags} {FIRST}", LEARNING), "2.classifier.2."),
    ):
        expected, state = torch.load(file, weights_only=True), weights(first)
        for name, value in state.items():
            there = expected[name.removeprefix("2.")] if file == "vgg16.pth" else expected[name]
            alike = value.shape == there.shape and torch.allclose(value, there, rtol=0, atol=1e-9)
            assert alike != name.startswith(last), name


@law("train", "--freeze")
def all_but_the_last_layer_stay_what_they_were(run, command):
    start = "--init transfer --weights 7.pt"
    first, last = weights(run("train", f"{start} {FIRST}")), weights(run("train", f"{start} --freeze"))
    for name, value in last.items():
        moved = (value - first[name]).abs().max()
        assert moved > 1e-3 if name.startswith("classifier.5.") else moved < 1e-9, name


@law("train", "--data")
def the_last_layer_has_the_classes_of_the_folder(run, command):
    assert weights(run("train"))["classifier.5.bias"].shape == (3,)
    assert weights(run("train", "--data two"))["classifier.5.bias"].shape == (2,)


@law("train", "--epochs")
def so_many_rows_are_in_the_metrics(run, command):
    assert [row["epoch"] for row in results("train", run("train", "--epochs 3"))] == ["1", "2", "3"]


@law("train", "--lr")
def the_weights_move_as_far_as_the_rate_lets_them(run, command):
    first = weights(run("train", FIRST))
    slow, fast = (difference(weights(run("train", f"--lr {lr}")), first) for lr in (1e-4, 1e-2))
    assert 1e-5 < slow < 6 * 3.2e-4  # in six steps, each of at most (1 - β₁) / √(1 - β₂) = 3.2 times the rate
    assert fast > 10 * slow


@law("train", "--augment")
def the_training_images_move_and_the_test_images_stay(run, command):
    still, moved = (results("train", run("train", f"{flags} {FIRST}"))[0] for flags in ("", "--augment"))
    assert moved["test_loss"] == still["test_loss"]
    assert abs(float(moved["train_loss"]) - float(still["train_loss"])) > 1e-4


@law("train", "--no-augment")
def no_image_moves(run, command):
    assert results("train", run("train", "--augment --no-augment")) == results("train", run("train"))


@law("train", "--limit")
def only_so_many_images_are_trained_on_and_tested(run, command):
    config = read_json(run("train", "--limit 11") / "config.json")
    assert (config["data"]["n_train"], config["data"]["n_test"]) == (11, 11)
    for row in results("train", run("train", "--limit 11")):
        for name in ("train_accuracy", "test_accuracy"):
            assert float(row[name]) in [n_right / 11 for n_right in range(12)]


@law("train", "--precision")
def losses_differ_by_rounding(run, command):
    exact, rounded = (
        float(results("train", run("train", f"--precision {name} {FIRST}"))[0]["test_loss"])
        for name in ("fp32", "bf16")
    )
    assert 0 < abs(exact - rounded) < 0.02


@law("train", "--seed")
def the_seed_makes_the_first_weights_the_order_and_the_moves(run, command):
    first = [weights(run("train", f"--init default --seed {seed} {FIRST}")) for seed in (0, 1)]
    assert difference(*first) > 0.01
    with pytest.MonkeyPatch.context() as patch:  # from the same first weights
        patch.setattr(models, "initialise", lambda model, init: model.load_state_dict(first[0]))
        still, other = (run.__wrapped__("train", f"--seed {seed}") for seed in (0, 1))
        one_image = "--epochs 1 --limit 1"  # which has no order
        moves = [run.__wrapped__("train", f"--seed {seed} --augment {one_image}") for seed in (0, 1)]
    assert difference(weights(still), weights(other)) > 1e-4
    losses = [float(results("train", folder)[0]["train_loss"]) for folder in moves]
    assert abs(losses[0] - losses[1]) > 1e-4


@law("train diagnose search", "--threads")
def torch_computes_with_so_many_threads(run, command):
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", told.append)  # as two real ones would be slow here
        run.__wrapped__(command, "--threads 2")
    assert told == [2]


@law("train diagnose search", "--device")
def the_cpu_computes_where_there_seems_to_be_a_gpu(run, command):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        folder = run.__wrapped__(command)
    assert results(command, folder) == results(command, run(command))


@law("train diagnose search", "--out")
def the_folder_is_the_one_that_is_named(run, command):
    last = {"train": "model.pt", "diagnose": "effect.csv", "search": "results.csv"}[command]
    folder = run(command)
    assert (folder / last).exists()
    assert not (folder.parent / "runs").exists()


@law("train diagnose", "--resume")
def a_run_goes_on_where_it_was_to_the_same_end(run, command):
    last, table = {"train": ("model.pt", "metrics.csv"), "diagnose": ("effect.csv", "effect.csv")}[command]
    folder = run(command)
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-copy"))
    (copy / last).unlink()
    COMMANDS[command].main(["--resume", str(copy)])
    assert (copy / last).exists()
    # A finished run has no state.pt any more, and is trained anew, in other seconds.
    assert without_times(copy / table) == without_times(folder / table)


# ---------------------------------------------------------------- diagnose.py's own flags


def effect(folder):
    """Return {(labels, seed): (n_images, n_wrong)} of a diagnosis."""
    rows = read_csv(folder / "effect.csv")
    return {(row["labelling"], row["seed"]): (row["n_images"], row["n_wrong"]) for row in rows}


def actions(folder):
    return [(row["action"], row["id"]) for row in read_csv(folder / "top_losses.csv")]


@law("diagnose", "--remove")
def so_many_images_are_removed_the_worst_first_of_those_that_are_contradicted(run, command):
    for n_removed in (2, 5):
        folder = run("diagnose", f"--remove {n_removed}")
        rows = read_csv(folder / "top_losses.csv")
        contradicted = [row["id"] for row in rows if row["given"] != row["predicted"]]
        removed = [row["id"] for row in rows if row["action"] == "remove"]
        assert len(contradicted) > 2
        assert removed == contradicted[:n_removed]
        assert effect(folder)["cleaned", "0"][0] == str(24 - len(removed))


@law("diagnose", "--mislabelled")
def so_many_labels_are_made_wrong(run, command):
    assert effect(run("diagnose"))["imperfect", "0"] == ("24", "0")
    assert effect(run("diagnose", "--mislabelled 5"))["imperfect", "0"] == ("24", "5")


@law("diagnose", "--seeds")
def so_many_networks_rank_the_images(run, command):
    folder = run("diagnose", "--seeds 2")
    assert set(effect(folder)) == set(itertools.product(("clean", "imperfect", "cleaned"), "01"))
    for seed in (0, 1):
        (file,) = folder.glob(f"imperfect-*-{seed}/metrics.csv")
        assert without_times(file) == results("train", run("train", f"--seed {seed}"))
    one, two, other = (
        {
            row["id"]: [float(row[f"p({name})"]) for name in ("row0", "row2", "row4")]
            for row in read_csv(run("diagnose", flags) / "top_losses.csv")
        }
        for flags in ("", "--seeds 2", "--seed 1")
    )
    for name in one:
        geometric = [math.sqrt(p * q) for p, q in zip(one[name], other[name], strict=True)]
        assert two[name] == pytest.approx([p / sum(geometric) for p in geometric], abs=1e-3)


@law("diagnose", "--decisions")
def what_the_file_says_is_done(run, command):
    rows = read_csv(run("diagnose") / "top_losses.csv")
    names = [row["id"] for row in rows]
    decided = [row | {"action": "keep"} for row in rows]
    decided[3] |= {"action": "remove"}
    decided[4] |= {"action": "relabel", "predicted": "row0" if rows[4]["given"] != "row0" else "row2"}
    write_csv("mine.csv", decided)
    folder = run("diagnose", "--decisions mine.csv", f"{BASE} --no-augment --seeds 1")
    expected = {name: "keep" for name in names} | {names[3]: "remove", names[4]: "relabel"}
    assert {name: action for action, name in actions(folder)} == expected
    assert effect(folder)["cleaned", "0"] == ("23", "1")  # the new label is a wrong one


@law("diagnose", "--write-clean")
def the_images_that_are_kept_are_in_a_new_folder(run, command):
    folder = run("diagnose", "--write-clean clean")
    kept = {name for action, name in actions(folder) if action == "keep"}
    clean = folder.parent / "clean"
    assert len(kept) == 22
    assert {file.relative_to(clean).as_posix() for file in clean.glob("train/*/*")} == kept


# ---------------------------------------------------------------- search.py's own flags


def validated(folder):
    """Return the rows of a search's trials that were judged by the images held out."""
    return [row for row in read_csv(folder / "results.csv") if row["judged_on"] == "validation"]


NETWORK = dict(zip(Architecture._fields, ("resnet", "1", "4", "5", "8", "7"), strict=True))  # as in BASES


def just_the_architectures_that_are_named_are_tried(flag, name, run, command):
    """Check it for one value and for two, and that the networks are train.py's."""
    other = NETWORK | {name: CHANGES[flag][0].split()[1]}
    for flags, networks in (("", (NETWORK,)), (f"{flag} {NETWORK[name]} {other[name]}", (NETWORK, other))):
        rows = validated(run("search", flags))
        tried = {tuple(row[column] for column in (*NETWORK, "n_parameters")) for row in rows}
        configs = [read_json(run("train", f"{flag} {each[name]}") / "config.json") for each in networks]
        sizes = [str(config["n_parameters"]) for config in configs]
        assert tried == {(*each.values(), size) for each, size in zip(networks, sizes, strict=True)}
        (winner,) = winners(run("search", flags))
        expected = results("train", run("train", f"{flag} {winner[name]}"))
        assert winner["loss"] == expected[-1]["test_loss"]


for name in NETWORK:
    flag = f"--{name.replace('_', '-')}"
    law("search", flag)(partial(just_the_architectures_that_are_named_are_tried, flag, name))


@law("search", "--grid", "--epochs")
def every_length_is_trained_from_three_seeds(run, command):
    lengths = {(float(row["passes"]), row["seed"]) for row in validated(run("search", "--grid"))}
    assert lengths == set(itertools.product((2 / 9, 2 / 3, 2.0), "012"))
    assert len(validated(run("search"))) == 3


@law("search", "--minutes")
def what_there_is_no_time_for_is_refused(run, command):
    with pytest.raises(UserError, match="too short"):
        run("search", "--minutes 0.0001")
    assert results("search", run("search", "--minutes 9")) == results("search", run("search"))


@pytest.mark.parametrize(("command", "flag"), LAWS)
def test_a_flag_has_its_effect(run, command, flag):
    for check in LAWS[command, flag]:
        check(run, command)
