"""Draws are named by (seed, stage, record), uniform, and the same on every machine."""

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


def _digest(text):
    import hashlib

    return hashlib.blake2b(text.encode(), digest_size=8).digest()
