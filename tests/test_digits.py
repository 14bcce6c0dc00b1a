"""The built-in digits: deterministic, and in MNIST's format."""

import torch

from support.digits import N_CONTROLS, N_POINTS, SHAPES, digits, pen_path


def test_the_same_seed_draws_the_same_images():
    images, labels = digits(700, seed=3)
    again, labels_again = digits(700, seed=3)
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(images, digits(700, seed=4)[0])


def test_the_digits_have_mnists_format_centre_and_brightness():
    images, labels = digits(1000, seed=0)
    assert images.shape == (1000, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.bincount(minlength=10).min() > 60  # evenly drawn: 100 ± 9.5
    ink = images[:, 0].double()
    places = torch.arange(28.0, dtype=torch.float64)
    for axis in (1, 2):  # centred by the centre of mass
        centre = (ink.sum(dim=3 - axis) * places).sum(dim=1) / ink.sum(dim=(1, 2))
        assert (centre - 13.5).abs().max() < 1
    assert ink.amax(dim=(1, 2)).min() == 255
    assert 0.08 < ink.mean() / 255 < 0.18  # MNIST's is 0.13


def test_a_label_is_the_drawn_digit():
    images, labels = digits(2000, seed=0)
    pixels = images.flatten(1).float()
    centroids = torch.stack([pixels[:1500][labels[:1500] == digit].mean(dim=0) for digit in range(10)])
    nearest = torch.cdist(pixels[1500:], centroids).argmin(dim=1)
    assert (nearest == labels[1500:]).float().mean() > 0.6  # guessing gives 0.1


def test_paths_run_through_their_control_points():
    for shape in [shape for shapes in SHAPES.values() for shape in shapes]:
        weights, controls = pen_path(shape)
        assert weights.shape == (N_POINTS, N_CONTROLS)
        assert torch.allclose(weights.sum(dim=1), torch.ones(N_POINTS))  # moved with its control points
        path, n = weights @ controls, len(shape.replace("|", " ").split())
        distances = torch.cdist(controls[:n], path).min(dim=1).values
        assert distances.max() < 0.08
