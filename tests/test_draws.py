"""Draws are named by (seed, stage, record), uniform, and the same on every machine."""

from collections import Counter

import pytest
from scipy import stats

from ragdist import draws


def test_draw_is_the_same_everywhere():
    assert round(draws.draw(0, "oracle", "q1"), 12) == round(
        int.from_bytes(_digest("0\x1foracle\x1fq1"), "big") / 2**64, 12
    )
    assert draws.rng_for(1, "a", "b").random() == draws.rng_for(1, "a", "b").random()


def test_draw_differs_by_seed_stage_and_record():
    assert len({draws.draw(*name) for name in ((0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"))}) == 4


def test_draw_is_uniform():
    assert stats.kstest([draws.draw(3, "stage", str(n)) for n in range(5000)], "uniform").pvalue > 0.001


@pytest.mark.parametrize("size", [3, draws.LISTED + 1])
def test_order_is_every_permutation_equally_often(size):
    """Looked up or sorted: all places of the first one, and for three all six orders."""
    orders = [tuple(draws.order_for(0, "stage", str(n), size)) for n in range(6000)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    for seen in (Counter(order.index(0) for order in orders), Counter(order[:2] for order in orders)):
        assert stats.chisquare(list(seen.values())).pvalue > 0.001
    assert len(set(orders)) == 6 or size > 3


def _digest(text):
    import hashlib

    return hashlib.blake2b(text.encode(), digest_size=8).digest()
