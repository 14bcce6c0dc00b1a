"""Random orders and seeds: every place of every run has its own."""

from support import randomness

from hypothesis import given
from hypothesis import strategies as st


def test_mix_gives_every_place_of_every_run_its_own_seed():
    places = [(seed, epoch, step) for seed in range(8) for epoch in range(8) for step in range(1, 65)]
    places += [(seed, epoch) for seed in range(8) for epoch in range(8)]
    assert len({randomness.mix(*place) for place in places}) == len(places)


@given(st.integers(0, 50), st.integers(0, 1000))
def test_a_random_order_has_every_index_once(n, seed):
    assert sorted(randomness.random_order(n, seed).tolist()) == list(range(n))


def test_seeds_and_epochs_have_different_orders():
    orders = {
        tuple(randomness.random_order(20, seed, epoch).tolist()) for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400
