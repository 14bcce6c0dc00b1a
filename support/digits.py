"""The built-in data set, for a machine without a network: drawn digits that look handwritten.

A digit is a few pen strokes through control points. For each image, random numbers move the points a little,
bend, slant, rotate and stretch the strokes, and choose the width of the pen. As in MNIST (LeCun et al. 1998)
a digit fills a 20×20 box, and its centre of mass is in the middle of 28×28 pixels.
"""

import functools
import math

import torch

from support.console import progress

# The ways to write each digit: pen strokes through points x,y in percent, x to the right and y down. A stroke
# is smooth; at a corner one stroke ends and the next begins. A shape that is listed twice is drawn twice as
# often.
SHAPES = {
    0: [
        "50,0 16,18 5,50 16,84 50,100 84,82 95,50 84,16 50,0",
        "60,2 20,20 8,60 30,97 70,90 92,50 80,12 45,6",
    ],
    1: [
        "50,0 50,50 50,100",
        "50,0 50,50 50,100",
        "50,0 50,50 50,100",
        "32,20 50,0 | 50,0 50,50 50,100",
        "28,20 50,0 | 50,0 50,50 50,100 | 20,100 80,100",
    ],
    2: [
        "10,25 35,2 70,5 82,30 60,60 10,100 | 10,100 50,97 95,98",
        "12,20 40,0 75,10 75,40 45,75 15,95 5,83 25,75 60,92 98,95",
        "5,12 40,0 72,15 62,50 30,85 8,97 6,85 30,82 95,85",
    ],
    3: [
        "12,12 45,0 80,14 72,36 38,47 | 38,47 78,56 88,80 55,99 8,90",
        "10,3 50,4 85,3 | 85,3 42,42 | 42,42 82,52 88,80 50,100 8,90",
        "10,8 55,0 80,17 62,40 42,47 70,52 85,72 60,95 5,100",
    ],
    4: [
        "15,0 8,45 30,55 85,48 | 85,2 82,50 75,100",
        "20,3 5,50 | 5,50 50,52 98,50 | 75,0 70,50 68,100",
        "65,0 30,35 5,62 | 5,62 50,60 95,60 | 65,0 65,50 65,100",
        "22,5 10,35 30,50 60,45 85,25 | 88,0 80,50 70,100",
    ],
    5: [
        "25,4 20,42 | 20,42 55,36 88,58 78,88 42,100 6,90 | 25,4 85,1",
        "88,2 40,4 | 40,4 25,40 | 25,40 55,42 75,62 62,90 30,100 5,88",
        "95,0 50,6 32,30 55,48 68,70 50,95 20,98 5,85",
    ],
    6: [
        "68,0 30,25 10,62 20,92 50,100 82,85 78,62 50,53 15,75",
        "50,0 22,40 12,75 35,100 68,90 70,70 45,63 15,82",
        "40,0 12,40 12,80 45,100 85,85 85,60 50,50 14,70",
    ],
    7: [
        "5,8 50,6 92,3 | 92,3 62,50 42,100",
        "5,25 10,5 50,8 90,3 | 90,3 70,45 60,100",
        "5,6 50,5 92,3 | 92,3 60,50 40,100 | 30,52 85,48",
        "5,20 35,5 75,5 88,25 75,60 65,100",
    ],
    8: [
        "82,15 50,0 18,18 35,42 72,65 78,88 45,100 15,85 28,60 65,40 82,15",
        "50,0 20,10 25,38 50,47 78,35 80,10 50,0 | 50,47 15,65 20,93 50,100 82,90 82,62 50,47",
        "90,5 55,2 25,20 50,45 65,70 45,98 15,90 30,60 70,35 90,5",
    ],
    9: [
        "85,18 50,0 12,20 20,47 55,48 85,18 | 85,15 82,50 72,100",
        "82,20 50,0 15,20 25,47 60,42 82,18 82,60 60,97 25,95",
        "90,5 50,3 12,28 30,50 60,40 88,10 | 88,6 68,55 55,100",
    ],
}
N_CONTROLS, N_POINTS = 14, 72  # maximum number of control points of a shape; number of points along each path


@functools.cache
def pen_path(shape):
    """Return (weights, controls) for one of SHAPES; `weights @ controls` are N_POINTS points along its path.

    `weights` is (N_POINTS, N_CONTROLS), `controls` (N_CONTROLS, 2). A Catmull-Rom spline (1974) is linear in
    its control points, so one batched matrix product gives the paths of many images.
    """
    strokes = [[[float(x) / 100 for x in point.split(",")] for point in s.split()] for s in shape.split("|")]
    lengths = torch.tensor([(torch.tensor(s).diff(dim=0)).norm(dim=1).sum() for s in strokes])
    ends = (lengths.cumsum(0) / lengths.sum() * N_POINTS).round().int().tolist()
    weights = torch.zeros(N_POINTS, N_CONTROLS)
    row = first = 0
    for stroke, end in zip(strokes, ends, strict=True):
        for position in torch.linspace(0, len(stroke) - 1, end - row).tolist():
            before = min(int(position), len(stroke) - 2)
            t = position - before  # from 0 to 1 between the control points `before` and `before + 1`
            spline = (
                -t / 2 + t**2 - t**3 / 2,
                1 - 5 * t**2 / 2 + 3 * t**3 / 2,
                t / 2 + 2 * t**2 - 3 * t**3 / 2,
                -(t**2) / 2 + t**3 / 2,
            )
            for control, weight in enumerate(spline, before - 1):
                weights[row, first + min(max(control, 0), len(stroke) - 1)] += weight
            row += 1
        first += len(stroke)
    controls = torch.zeros(N_CONTROLS, 2)
    controls[:first] = torch.tensor([point for stroke in strokes for point in stroke])
    return weights, controls


def write_digits(labels, generator):
    """Return a pen path for each digit in `labels` (N,): points (N, N_POINTS, 2), about 1 high."""

    def normal(*shape):
        return torch.randn(len(labels), *shape, generator=generator)

    paths = [(digit, *pen_path(shape)) for digit, shapes in SHAPES.items() for shape in shapes]
    digit_of_path = torch.tensor([digit for digit, _, _ in paths])
    same_digit = (labels[:, None] == digit_of_path).float()
    path_numbers = torch.multinomial(same_digit, 1, generator=generator).squeeze(1)
    weights = torch.stack([weights for _, weights, _ in paths])[path_numbers]
    controls = torch.stack([controls for _, _, controls in paths])[path_numbers]

    points = weights @ (controls + 0.05 * normal(N_CONTROLS, 2))
    points = points - points.mean(dim=1, keepdim=True)
    for wave in (3, 6):  # elastic deformation by a long and a short wave, in radians per digit height
        directions, phases = wave * normal(2, 2), math.pi * normal(1, 2)
        points = points + 0.15 / wave * torch.sin(points @ directions + phases)

    turn, slant, stretch = 0.12 * normal(), 0.15 + 0.25 * normal(), torch.exp(0.2 * normal() - 0.25)
    shear = torch.stack([stretch, 0 * slant, -slant, 0 * slant + 1], dim=1).view(-1, 2, 2)
    rotate = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], dim=1).view(-1, 2, 2)
    return points @ shear @ rotate


def draw(points, generator):
    """Return images of the paths `points` (N, N_POINTS, 2): uint8 (N, 1, 28, 28), white on black."""
    pen = 0.9 + 0.45 * torch.rand(len(points), 1, 1, generator=generator)  # σ of a Gaussian spot, pixels
    size = (points.amax(dim=1, keepdim=True) - points.amin(dim=1, keepdim=True)).amax(dim=2, keepdim=True)
    points = points * (20 - 2.4 * pen) / size  # fills the 20×20 box, the pen's width included
    middles = (points[:, 1:] + points[:, :-1]) / 2
    steps = points.diff(dim=1).norm(dim=2, keepdim=True)  # (N, N_POINTS - 1, 1)
    steps = steps * (steps < 2)  # a longer step leads to the next stroke and draws nothing
    middles = middles - (middles * steps).sum(dim=1, keepdim=True) / steps.sum(dim=1, keepdim=True)
    # The ink at a pixel is the integral of the pen's spot along the path. The spot is a factor in x times a
    # factor in y, so the sum over the path is one matrix product per image: (28, steps) @ (steps, 28).
    pixels = torch.arange(28) - 13.5
    spot_x = torch.exp(-((middles[:, :, :1] - pixels) ** 2) / (2 * pen**2))  # (N, N_POINTS - 1, 28)
    spot_y = torch.exp(-((middles[:, :, 1:] - pixels) ** 2) / (2 * pen**2))
    ink = spot_y.mT @ (spot_x * steps / (pen * math.sqrt(2 * math.pi)))  # (N, 28, 28), about 1 on the line
    return (255 * (2 * ink - 0.5).clamp(0, 1)).round().to(torch.uint8).unsqueeze(1)


def digits(n_images, seed):
    """Return images, uint8 (n_images, 1, 28, 28), and labels, int64 (n_images,), determined by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n_images,), generator=generator)
    batches = progress(labels.split(500), "drawing digits")
    return torch.cat([draw(write_digits(batch, generator), generator) for batch in batches]), labels
