"""Diagnosis: confusion matrices, rankings, suspects, printed results, interrupted and resumed commands."""

import os
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import started
from conftest import FLAGS, contents, stripes, without_times, write_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data
import diagnose
from diagnose import confusion_matrix, losses_of, print_confusion, rank_labels, top_losses, with_suspects
from support import label_errors, review
from support.run_folder import read_csv, read_tensors

SHORT = f"{FLAGS} --no-augment --seeds 1 --epochs 4 --batch-size 24 --lr 0.03"
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)


@given(pairs)
def test_every_cell_is_a_count_and_every_row_sum_a_class_count(pairs):
    labels, predicted = torch.tensor(pairs).unbind(dim=1)
    matrix = confusion_matrix(labels, predicted, 5)
    counted = Counter(pairs)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[counted[i, j] for j in range(5)] for i in range(5)]


@given(st.lists(st.floats(-9, 9).map(lambda number: round(number, 1)), min_size=1))
def test_top_losses_is_pythons_sort(losses):
    order = sorted(range(len(losses)), key=lambda index: -losses[index])  # equal ones in their order
    assert top_losses(torch.tensor(losses)).tolist() == order


def test_losses_are_cross_entropies_and_never_minus_zero():
    logits, labels = torch.tensor([[1.0, 2.0, 0.5], [300, 0, 0]]), torch.tensor([1, 0])
    losses = losses_of(labels, logits.log_softmax(1))
    assert torch.allclose(losses, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
    assert f"{losses[1]:.2f}" == "0.00"


# ---------------------------------------------------------------- the ranking and the suspects


def outputs_for(split, predicted, seed=0):
    """Return the log-probabilities of two networks that predict `predicted` of the ImageData `split`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, len(split), len(split.classes), generator=generator)
    return (3 * torch.eye(len(split.classes))[predicted] + noise).log_softmax(2)


@pytest.mark.parametrize("seed", range(4))
def test_the_ranking_sorts_by_the_score_whatever_the_order_of_the_images(seed):
    split = stripes(60)
    outputs = outputs_for(split, split.labels.roll(seed), seed)
    view = rank_labels(split, outputs)
    together = label_errors.ensemble(outputs)
    assert torch.equal(view.scores, label_errors.error_scores(split.labels, together))
    assert torch.equal(view.order, top_losses(view.scores))
    assert view.ranks[view.order].tolist() == list(range(1, 61))
    assert torch.equal(view.losses, losses_of(split.labels, together))
    assert torch.equal(view.predicted, view.probabilities.argmax(1))
    assert view.n_wrong == label_errors.count_errors(split.labels, together)
    mixed = data.random_order(60, seed)
    of_mixed = rank_labels(split.subset(mixed), outputs[:, mixed])
    assert torch.allclose(of_mixed.scores, view.scores[mixed], atol=1e-4)


def test_the_contradicted_one_of_two_copies_comes_first():
    split = stripes(12)
    images, labels = split.images.clone(), split.labels.clone()
    images[8], labels[8] = images[5], 0
    outputs = torch.eye(3)[(labels + 1) % 3].mul(9).log_softmax(1)
    outputs[[5, 8]] = torch.tensor([[0.2, 0.3, 0.5]]).log()
    view = rank_labels(data.replace(split, images=images, labels=labels), outputs[None])
    assert view.order[0] == 8
    assert sorted(view.order.tolist()) == list(range(12))


def test_as_many_suspects_as_asked_for_are_added_to_a_persons_decisions():
    split, places, no = stripes(60), torch.arange(60), torch.zeros(60, dtype=torch.bool)
    predicted = (split.labels + (places < 20)) % 3
    view = rank_labels(split, outputs_for(split, predicted))
    view.n_wrong, top = (7, 11), view.order[:20].tolist()
    assert set(top) == set(range(20))  # the contradicted ones
    nothing = review.Decisions(~no, split.labels, no)

    def removed(decisions, n):
        return set((~with_suspects(view, decisions, n).kept).nonzero().flatten().tolist())

    for n, n_removed in ((5, 5), (None, 11), (50, 20)):
        assert removed(nothing, n) == set(top[:n_removed])
    own = nothing._replace(decided=places == top[0])
    assert removed(own, 5) == set(top[1:6])
    assert removed(own, None) == set(top[1:12])
    changed = {"kept": places != 40, "new_labels": predicted.where(places == top[1], split.labels)}
    own = review.Decisions(**changed, decided=torch.isin(places, torch.tensor([*top[:2], 40])))
    assert removed(own, 2) == {*top[2:4], 40}
    assert removed(own, None) == {40}
    assert own.kept.sum() == 59  # the person's own decisions are as they were
    own = nothing._replace(kept=(split.labels != 0) | (places == 0))  # one image of the class is left
    assert 0 not in removed(own, 50)
    view.n_wrong = None
    assert removed(nothing, None) == set()


# ---------------------------------------------------------------- what is printed


@pytest.mark.parametrize(("n", "name"), [(2, "cat"), (10, "a long name of a class"), (20, "7"), (9, "\x1b")])
def test_a_confusion_matrix_is_printed_within_80_columns(n, name, capsys):
    matrix = torch.arange(n * n).view(n, n)
    print_confusion(matrix, [f"{index}{name}" for index in range(n)])
    header, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, [header, *lines])) <= 80
    if n < 20:
        assert [line.split()[-n:] for line in lines] == [list(map(str, row)) for row in matrix.tolist()]
        assert all(str(index) in header for index in range(n))


def test_with_many_classes_the_ten_most_confused_pairs_are_printed(capsys):
    matrix = 1000 * torch.eye(30, dtype=torch.int64)
    for number in range(12):
        matrix[number, number + 10] = 20 - number
    print_confusion(matrix, [f"class{index}" for index in range(30)])
    pairs = capsys.readouterr().out.replace("\n", " ").split(": ", 1)[1].split(", ")
    assert [pair.strip() for pair in pairs] == [f"class{n} → class{n + 10}: {20 - n}" for n in range(10)]


def rows_of(labelling, *accuracies):
    row = {"labelling": labelling, "train_loss": 0.5, "train_accuracy": 0.5, "test_loss": 0.1}
    return [row | {"test_accuracy": accuracy} for accuracy in accuracies]


def test_the_effect_has_its_interval_and_the_verdict_of_the_corrected_test(capsys):
    diagnose.print_effect("effect", rows_of("noisy", 0.9, 0.8, 0.7), rows_of("cleaned", 0.912, 0.82, 0.708))
    line = capsys.readouterr().out.splitlines()[-1]
    # differences 1.2, 2, 0.8 points: mean 4/3, sd 0.611, t = 3.78 and p = 0.063 before the correction
    assert line.split()[:7] == ["test", "accuracy", "80.00%", "81.33%", "+1.33%", "-0.18%", "to"]
    assert line.endswith("no significant difference")
    cleaned = rows_of("cleaned", 0.91, 0.92, 0.93, 0.92, 0.92)
    diagnose.print_effect("effect", rows_of("noisy", *[0.9] * 5), cleaned)
    *others, line = capsys.readouterr().out.splitlines()[-4:]
    assert line.endswith("  significant")  # p = 0.003, times the four tests 0.013
    assert all(other.endswith("no significant difference") for other in others)


def test_a_chi_square_test_detects_an_uneven_spread_of_suspects(capsys):
    truth, even = torch.arange(10).repeat(200), "no significant difference"

    def said(labels, suspects):
        split = data.ImageData(torch.empty(2000), labels, tuple("0123456789"), (), "numbers")
        diagnose.print_suspects(diagnose.Namespace(split=split, predicted=truth), suspects)
        out = capsys.readouterr().out
        return out, dict(re.findall(r"their (\w+) .* the classes: (.*?);", out))

    for classes, verdict in ((None, even), ([4, 9], "significant")):
        labels, changed = data.make_wrong(truth, 10, 100, 3, classes)
        suspects = torch.isin(torch.arange(2000), changed)
        out, verdicts = said(labels, suspects)
        assert verdicts == {"labels": verdict, "predictions": verdict}
        few = suspects & (suspects.cumsum(0) <= 20)  # two expected in each class are too few
        assert said(labels, few)[1] == {}
    assert f"4 → 9: {(labels[suspects] == 4).sum()}" in out
    suspects = (truth != 3) & (torch.arange(2000) < 110)  # eleven of each other class are labelled 3
    assert said(truth.where(~suspects, 3), suspects)[1] == {"labels": "significant", "predictions": even}


# ---------------------------------------------------------------- the command


@pytest.fixture
def wrong(type_in):
    """The folder wrong_mislabelled, with 12 wrong labels in 120, beside its clean folder."""
    write_folder(Path("wrong"), n_train=120, n_test=30)
    data.mislabel("wrong", "wrong_mislabelled", 12)
    return Path("wrong_mislabelled")


def test_a_diagnosis_finds_wrong_labels_measures_the_effect_and_leaves_the_images_alone(type_in, wrong):
    before = contents(Path())
    ended = type_in(f"diagnose.py {SHORT} --data {wrong} --remove 9 --seeds 2 --out run")
    out, after = ended.out, contents(Path())
    assert {name: after[name] for name in after if not name.startswith("run/")} == before
    steps = "noisy labels, seed 1", "review.html", "cleaned labels, seed", "true labels, seed"
    assert sorted(steps, key=out.index) == list(steps)
    assert "the networks that follow" in out
    assert Path("run/review.html").resolve().as_uri() in out
    rows = read_csv("run/effect.csv")
    names = [row["labelling"] + row["seed"] for row in rows]
    assert names == ["noisy0", "noisy1", "cleaned0", "cleaned1", "true0", "true1"]
    table = read_csv("run/top_losses.csv")
    truth = {Path(file).name: Path(file).parts[-2] for file in map(str, Path("wrong/train").rglob("*.png"))}
    removed = [row for row in table if row["action"] == "remove"]
    n_found = sum(truth[Path(row["id"]).name] != row["given"] for row in removed)
    assert len(removed) == 9
    assert n_found >= 7  # a random choice has 1
    assert f"{n_found} of them are really wrong, of 12 wrong labels" in out
    assert [int(row["n_images"]) for row in rows] == [120, 120, 111, 111, 120, 120]
    assert [int(row["n_wrong"]) for row in rows] == [12, 12, 12 - n_found, 12 - n_found, 0, 0]
    for name in ("confusion_train", "confusion_test", "top_losses", "top_losses_test", "missed"):
        Image.open(f"run/{name}.png").verify()
    assert len(read_csv("run/top_losses_test.csv")) == 30
    assert "finished" in type_in("diagnose.py --resume run").out
    type_in(f"train.py --data {wrong} --init xavier {SHORT.replace('--seeds 1', '--seed 1')} --out other")
    expected, got = read_csv("other/metrics.csv")[-1], rows[1]
    assert without_times([{name: got[name] for name in expected}]) == without_times([expected])


@pytest.mark.parametrize(("moment", "signal_"), [("noisy-1", signal.SIGKILL), ("cleaned-0", signal.SIGINT)])
def test_an_interrupted_diagnosis_resumes_with_the_same_results(type_in, wrong, tmp_path, moment, signal_):
    type_in(f"diagnose.py {SHORT} --data {wrong} --remove 12 --seeds 2 --out whole")
    process = started("diagnose", f"{SHORT} --data {wrong} --remove 12 --seeds 2 --out run", tmp_path)
    while not Path("run", moment, "metrics.csv").exists() and process.is_alive():
        time.sleep(0.002)
    os.kill(process.pid, signal_)
    process.join()
    finished = {file: file.stat().st_mtime_ns for file in Path("run").rglob("result.pt")}
    if signal_ == signal.SIGINT:
        assert process.exitcode == 2
        assert Path("stderr").read_text().endswith("diagnose.py --resume run\n")
        assert Path("run/review.html").exists()
        Path("run/top_losses.csv").write_text("a person was here")
    ended = type_in("diagnose.py --resume run --data wrong", 2)  # the same images with other labels
    assert "images of this run" in ended.err
    type_in(f"diagnose.py --resume run --data {wrong}")
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert without_times(read_csv("run/effect.csv")) == without_times(read_csv("whole/effect.csv"))
    same = Path("run/top_losses.csv").read_bytes() == Path("whole/top_losses.csv").read_bytes()
    assert same == (signal_ == signal.SIGKILL)


def test_decisions_are_applied_without_training_and_no_other_file_is_lost(type_in, wrong):
    type_in(f"diagnose.py {SHORT} --data {wrong} --remove 12 --out first")
    suspects = [row for row in read_csv("first/top_losses.csv") if row["action"] == "remove"]
    actions = 5 * ["keep"] + 3 * ["remove"] + 2 * ["relabel"]
    lines = [f"{row['id']},{each},{row['predicted']}" for row, each in zip(suspects, actions, strict=False)]
    Path("decided.csv").write_text("\n".join(["id,action,predicted", *lines]))
    shutil.rmtree("wrong")
    files = contents(wrong)
    Path(wrong, "train/row0/notes.txt").write_text("mine")  # no image, and a damaged one
    Path(wrong, "test/row0/000.png").write_bytes(b"\x89PNG and so on")
    ended = type_in(f"diagnose.py --data {wrong} --decisions decided.csv --write-clean cleaned")
    assert not Path("runs").exists()
    assert "151 files in, 148 out; images removed: 3, relabelled: 2" in ended.out
    assert "train.py --init xavier --data cleaned" in ended.out
    copied = contents(Path("cleaned"))
    assert Counter(copied.values()) - Counter(files.values()) == Counter([b"mine", b"\x89PNG and so on"])
    gone = {row["id"] for row in suspects[5:10]}
    assert gone.isdisjoint(copied)
    for row in suspects[8:10]:
        assert files[row["id"]] in [copied[name] for name in copied if f"/{row['predicted']}/" in name]


def test_decisions_replace_suspects_and_are_kept_if_their_file_disappears(type_in, folder):
    decided = {"train/row0/000.png": "remove", "train/row2/001.png": "relabel", "train/row4/002.png": "keep"}
    lines = [f"{name},{action},row4" for name, action in decided.items()]
    Path("decided.csv").write_text("\n".join(["id,action,predicted", *lines]))
    ended = type_in(f"diagnose.py {SHORT} --data images --decisions decided.csv --out run")
    assert {row["id"]: row["action"] for row in read_csv("run/top_losses.csv") if row["action"]} == decided
    assert [row["n_images"] for row in read_csv("run/effect.csv")] == ["24", "23"]
    effect = ended.out.split("effect of the cleaning")[1]
    assert not re.search("interval|significant|nan", effect)  # one seed has no spread
    for name in ("effect.csv", "review.html"):
        Path("run", name).unlink()
    Path("decided.csv").unlink()
    shutil.rmtree("run/cleaned-0")
    type_in("diagnose.py --resume run")
    assert {row["id"]: row["action"] for row in read_csv("run/top_losses.csv") if row["action"]} == decided


def test_seeds_of_a_frozen_network_differ_although_the_features_are_shared(type_in, folder):
    type_in(f"train.py --data images --epochs 2 {FLAGS} --out source")
    frozen = f"--data images --epochs 3 --init transfer --weights source/model.pt --freeze {FLAGS}"
    ended = type_in(f"diagnose.py {frozen} --seeds 2 --remove 2 --out run")
    assert ended.out.count("noisy labels, seed") == 2
    assert "true labels, seed" not in ended.out  # no folder has them
    assert {row["n_wrong"] for row in read_csv("run/effect.csv")} == {""}
    one, other = (read_tensors(f"run/noisy-{seed}/result.pt") for seed in (0, 1))
    assert one["logits"][0].shape == (24, 3)
    assert not torch.equal(one["logits"][0], other["logits"][0])


def test_networks_that_fit_badly_train_longer_even_if_resumed(type_in):
    """The images are noise, so their labels cannot be predicted."""
    rng = np.random.default_rng(0)
    for file in sorted(write_folder(Path("images"), n_train=30, n_test=30).rglob("*.png")):
        Image.fromarray(rng.integers(256, size=(12, 12), dtype=np.uint8)).save(file)
    command = f"diagnose.py {FLAGS} --batch-size 32 --no-augment --seeds 1 --data images --remove 1 --lr 1e-4"
    type_in(f"{command} --out run")
    rows = read_csv("run/effect.csv")
    assert {row["epoch"] for row in rows} == {"35"}
    for name in ("effect.csv", "review.html", "longer/noisy-0/result.pt"):
        Path("run", name).unlink()
    type_in("diagnose.py --resume run")
    assert without_times(read_csv("run/effect.csv")) == without_times(rows)
    ended = type_in(f"{command.replace('--remove 1', '')} --epochs 2 --out typed")
    assert [(row["epoch"], row["labelling"]) for row in read_csv("typed/effect.csv")] == [("2", "noisy")]
    assert "estimated to be wrong: unknown" in ended.out  # so nothing is removed, and nothing follows
    assert "the networks that follow" not in ended.out


# ---------------------------------------------------------------- the data


def test_noisy_data_are_made_once_from_the_sheets_folder_and_their_truth_is_known(type_in):
    write_folder(Path("data/mnist_png"), n_train=40)
    ended = type_in(f"diagnose.py {SHORT} --mislabelled 4 --remove 4 --out run")
    assert "4 of the 40 training labels are not those in ./data/mnist_png" in ended.out
    made = contents(Path("data/mnist_png_mislabelled_4"))
    assert diagnose.find_noisy("auto", 4) == ("data/mnist_png_mislabelled_4", "./data/mnist_png")
    assert contents(Path("data/mnist_png_mislabelled_4")) == made
    shutil.rmtree("data/mnist_png")
    Path("data/mnist_png_mislabelled").mkdir()  # the sheet's folder alone
    assert diagnose.find_noisy("auto", 100) == ("data/mnist_png_mislabelled", None)


def test_true_labels_are_found_beside_a_users_folder(type_in):
    write_folder(Path("digits"))
    write_folder(Path("digits_mislabelled_by_hand"))
    for slash in ("", "/"):
        assert diagnose.find_noisy(f"./digits{slash}", 100) == (f"./digits{slash}", None)
        assert diagnose.find_noisy(f"digits_mislabelled_by_hand{slash}", 100)[1] == "./digits"
    assert diagnose.find_noisy("digits_mislabelled_by_hand/train", 100)[1] is None


def test_true_labels_are_unknown_if_the_clean_folder_lacks_images(folder, capsys):
    images = stripes(24)
    assert torch.equal(diagnose.find_truth(images, str(folder)), images.labels)
    other = data.replace(images, classes=("row4", "row2", "row0"), labels=torch.zeros(24, dtype=torch.int64))
    assert torch.equal(diagnose.find_truth(other, str(folder)), 2 - images.labels)
    capsys.readouterr()
    assert diagnose.find_truth(stripes(30), str(folder)) is None
    assert "lacks 6 of the images" in capsys.readouterr().out
    assert diagnose.find_truth(images, None) is None


@pytest.mark.parametrize(
    ("flags", "fact"),
    [
        ("--data images --mislabelled 3", "--mislabelled"),
        ("--data images --remove 0", "--remove"),
        ("--data images --write-clean images", "images: already exists"),
        ("--data images --decisions no.csv --write-clean copy", "no.csv"),
        ("--data digits --write-clean copy", "data.py export"),
        ("--data MNIST --write-clean copy", "data.py export"),
        ("--data images --out images", "--out images"),
    ],
)
def test_invalid_commands_are_refused(refused, folder, flags, fact):
    Path("MNIST/raw").mkdir(parents=True)
    Path("MNIST/raw/train-images-idx3-ubyte").touch()  # as torchvision keeps it, not in class folders
    assert fact in refused(f"diagnose.py {flags}")
    assert not Path("copy").exists()
