"""Bootstrap against exact distributions, against scipy, and against its own invariances."""

import time

import numpy as np
import pytest
from scipy import stats

from ragdist.evaluation.intervals import Interval, difference, interval, verdict


def test_interval_of_two_values_spans_both():
    assert interval([0.0, 1.0], 1000, seed=0) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_interval_of_a_score_that_never_varied_is_wilsons(score):
    theirs = stats.binomtest(int(100 * score), 100).proportion_ci(0.95, "wilson")
    assert interval([score] * 100, 1000, seed=0) == pytest.approx((score, theirs.low, theirs.high), abs=1e-6)


def test_interval_of_equal_values_has_no_width():
    assert interval([0.25] * 7, 1000, seed=0) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("right", "rows"), [(50, 100), (83, 100), (3, 100), (700, 1000)])
def test_interval_of_right_and_wrong_answers_is_the_binomial_one(right, rows):
    found = interval([1.0] * right + [0.0] * (rows - right), 50_000, seed=1)
    exact = stats.binom.ppf([0.025, 0.975], rows, right / rows) / rows
    assert found.mean == right / rows
    assert found[1:] == pytest.approx(exact, abs=1 / rows)


def test_interval_of_many_distinct_values_agrees_with_scipy():
    values = np.random.default_rng(3).random(120) ** 2
    found = interval(values, 20_000, seed=0)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert found[1:] == pytest.approx([theirs.low, theirs.high], abs=0.004)


def test_interval_depends_on_the_seed_and_not_on_the_order():
    values = np.random.default_rng(0).random(50)
    assert interval(values, 1000, seed=0) == interval(values[::-1], 1000, seed=0)
    assert interval(values, 1000, seed=0) != interval(values, 1000, seed=1)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        found = interval((rng.random(200) < 0.3).astype(float), 400, seed=int(rng.integers(1 << 30)))
        inside += found.low <= 0.3 <= found.high
    assert 0.91 <= inside / 400 <= 0.985


def test_interval_without_values_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        interval([], 100, seed=0)


def test_difference_is_paired():
    before = np.random.default_rng(0).random(200)
    found = difference(before, before + 0.1, 1000, seed=0)
    assert found == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="same questions"):
        difference([0.0], [0.0, 1.0], 100, seed=0)


def test_difference_of_swapped_sides_is_the_mirror():
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 2, 150).astype(float) for _ in range(2))
    there, back = difference(a, b, 20_000, seed=0), difference(b, a, 20_000, seed=0)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low), abs=0.01)


def test_interval_is_quick_for_many_questions():
    values = np.random.default_rng(0).integers(0, 2, 10_000).astype(float)
    start = time.perf_counter()
    interval(values, 10_000, seed=0)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("change", "rows", "words"),
    [
        (Interval(0.42, 0.33, 0.51), 100, "+0.42 [+0.33, +0.51]"),
        (Interval(-0.2, -0.3, -0.1), 250, "-0.20 [-0.30, -0.10]"),
        (Interval(0.01, -0.03, 0.05), 100, "no difference shown, +0.01 [-0.03, +0.05]"),
        (Interval(0, 0, 0), 100, "no difference shown, +0.00 [+0.00, +0.00]"),
        (Interval(0.42, 0.33, 0.51), 99, "+0.42 [+0.33, +0.51], fewer than 100 questions: not called a difference"),
    ],
)
def test_verdict_says_what_the_interval_allows(change, rows, words):
    assert verdict(change, rows) == words
