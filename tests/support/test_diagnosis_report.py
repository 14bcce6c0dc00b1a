"""What a diagnosis tells: the suspects that are counted and drawn, those that are missed, the test images."""

import re

from support import diagnosis_report

import torch
from conftest import stripes

import diagnose


def test_suspects_that_are_predicted_as_labelled_are_counted(tmp_path, capsys):
    images, numbers = stripes(12), torch.arange(12.0)
    order = torch.arange(12)
    probabilities = torch.eye(3)[images.labels].roll(1, dims=1)
    probabilities[[4, 7, 10]] = probabilities[[4, 7, 10]].roll(-1, dims=1)
    for suspects, n_agreed in (([1, 4, 7, 9], 2), ([1, 9], 0), ([4, 7, 10], 3)):
        ranking = diagnose.Ranking(order, numbers, numbers, probabilities, 0)
        changed = torch.isin(order, torch.tensor(suspects))
        diagnosis_report.show_suspects(images, changed, ranking, tmp_path)
        out = capsys.readouterr().out
        assert (f"{n_agreed} of the suspects have the label that is predicted" in out) == (n_agreed > 0)
        assert ("of the suspects have" in out) == (n_agreed > 0)
        ranks = re.findall(r"^ +(\d+) .* train/(\d+)$", out, re.MULTILINE)
        assert ranks == [(str(index + 1), f"{index:05}") for index in suspects]  # as top_losses.csv has them
        n_pairs = sum(map(int, re.findall(r"row\d → row\d: (\d+)", out)))
        assert n_pairs == len(suspects) - n_agreed  # only those that disagree tell of the classes


def test_found_and_missed_wrong_labels_are_counted(tmp_path, capsys):
    images = stripes(30)
    truth = images.labels.clone()
    truth[[2, 5, 7]] = (truth[[2, 5, 7]] + 1) % 3
    order = torch.tensor([5, 9, 7, *(index for index in range(30) if index not in (5, 9, 7))])
    changed = torch.isin(torch.arange(30), order[:2])
    diagnosis_report.show_found(images, truth, order, changed, tmp_path)
    out = capsys.readouterr().out
    assert (
        "of the 2 suspects 1 labels are wrong (precision 50.0%), of 3 wrong labels in all (recall 33.3%)"
        in out
    )
    assert "the first wrong label that is missed has rank 3; see" in out
    assert (tmp_path / "missed.png").exists()
    diagnosis_report.show_found(images, images.labels, order, changed, tmp_path)
    assert "recall" not in capsys.readouterr().out


def test_the_test_images_are_drawn_from_the_highest_score(tmp_path, capsys, monkeypatch):
    test = stripes(130)
    log_probabilities = torch.randn(2, 130, 3, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    ranking = diagnose.top_losses(test, log_probabilities)
    losses = -log_probabilities.mean(dim=0).log_softmax(dim=1)[torch.arange(130), test.labels]
    drawn = []
    monkeypatch.setattr(diagnosis_report.pictures, "draw_sheet", lambda *arguments: drawn.append(arguments))
    diagnosis_report.show_test(test, 3, ranking, tmp_path)
    ((path, images, captions, _),) = drawn
    assert path == tmp_path / "top_losses_test.png"
    worst = sorted(range(130), key=lambda index: -ranking.scores[index])[:100]
    assert torch.equal(images, test.images[worst])
    assert [caption[2] for caption in captions] == [f"loss {losses[index]:.2f}" for index in worst]


def test_an_estimate_by_networks_that_often_err_is_said_to_be_no_good(capsys):
    test = stripes(40)
    numbers = torch.arange(40.0)
    for n_errors, text in (
        (10, "rather the\ntest labels' share, 7.5%; --remove N"),
        (11, "(do not rely on that: the networks contradict 28%"),
    ):
        predicted = test.labels.clone()
        predicted[:n_errors] = (predicted[:n_errors] + 1) % 3
        probabilities = torch.eye(3)[predicted]
        ranking = diagnose.Ranking(torch.arange(40), numbers, numbers, probabilities, (3, 3))
        diagnosis_report.show_estimates(2 * [test], [ranking._replace(n_wrong=None), ranking])
        said = capsys.readouterr().out
        assert "how many training labels are wrong cannot be said" in said
        assert (
            f"about 3 of the 40 test labels look wrong; the networks predict another class for {n_errors}\n"
            in said
        )
        assert text in said
    diagnosis_report.show_estimates(2 * [test], 2 * [ranking._replace(n_wrong=None)])
    assert "rely on that" not in capsys.readouterr().out  # where nothing is said
