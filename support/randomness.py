"""Seeds that are functions of where a run is, and what is drawn by them."""

import numpy as np
import torch

# Streams of random numbers beside those of the training, (seed, epoch). Labels are made wrong by (seed,
# WRONG_LABELS): by (seed, 0) they would all be in the first batch of that seed's training.
WRONG_LABELS, HALVES, CANDIDATES = 2**32 - 1, 2**32 - 2, 2**32 - 3


def mix(*numbers):
    """Return a 32-bit seed made of `numbers`, ints from 0 to 2³² - 1, by numpy's SeedSequence.

    It makes randomness a function of where a run is, such as (seed, epoch, step): a run that is resumed there
    goes on with the same random numbers, and no generator's state need be kept. Zeros at the end change
    nothing: (seed, epoch) and (seed, epoch, 0) are the same, so steps are counted from 1.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def random_order(n, *numbers):
    """Return the ints 0 … n - 1, int64, in the random order that belongs to `numbers`."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(*numbers)))


def random_part(n, limit):
    """Return the indices, ascending, of the at most `limit` of `n` samples that a run uses."""
    return random_order(n, 0)[:limit].sort().values
