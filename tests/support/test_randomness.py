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


@given(st.integers(0, 50), st.integers(1, 60))
def test_a_part_is_ascending_and_the_same_each_time_and_the_smaller_is_in_the_larger(n, limit):
    part = randomness.random_part(n, limit).tolist()
    assert part == sorted(set(part)) == randomness.random_part(n, limit).tolist()
    assert len(part) == min(n, limit)
    assert set(part) <= set(randomness.random_part(n, limit + 1).tolist()) <= set(range(n))


def test_streams_are_apart_from_each_other_and_from_any_epoch():
    streams = {randomness.WRONG_LABELS, randomness.HALVES, randomness.CANDIDATES}
    assert len(streams) == 3
    assert all(2**31 < stream < 2**32 for stream in streams)


def test_seeds_and_epochs_have_different_orders():
    orders = {
        tuple(randomness.random_order(20, seed, epoch).tolist()) for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400
