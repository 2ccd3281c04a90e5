"""Bootstrap and sign flips against exact distributions, against scipy, and against their own invariances."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from ragdist.evaluation.intervals import Interval, difference, holm, interval, note, p_value, shown, together, verdict


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
    assert verdict(change, rows, 0.01) == words


def test_verdict_goes_by_the_corrected_p():
    change = Interval(0.04, 0.01, 0.07)
    assert verdict(change, 100, 0.05, 7) == "+0.04 [+0.01, +0.07]"
    assert verdict(change, 100, 0.0621, 7) == (
        "no difference shown (p 0.062, corrected for 7 comparisons), +0.04 [+0.01, +0.07]"
    )
    assert [shown(change, 100, 0.05), shown(change, 100, 0.051), shown(change, 99, 0.01)] == [True, False, False]
    assert not shown(Interval(0.04, -0.01, 0.07), 100, 0.01)


@pytest.mark.parametrize(
    ("p_values", "wanted"),
    [
        # Worked by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 1 x 0.04, which may not fall below the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # 5 x 0.01; 4 x 0.02 and 3 x 0.02 tie at 0.08; 2 x 0.3; 0.9.
        ([0.3, 0.02, 0.9, 0.01, 0.02], [0.6, 0.08, 0.9, 0.05, 0.08]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.04], [0.04]),
        ([], []),
    ],
)
def test_holm_worked_by_hand(p_values, wanted):
    assert holm(p_values) == pytest.approx(wanted)


def test_holm_calls_anything_as_seldom_as_it_says_where_nothing_is():
    """Twenty comparisons of what is the same: uncorrected, two tables of three would call one."""
    rng = np.random.default_rng(0)
    tables = rng.random((2000, 20))
    assert np.mean([min(holm(table)) <= 0.05 for table in tables]) == pytest.approx(0.05, abs=0.015)
    assert np.mean(tables.min(axis=1) <= 0.05) > 0.6


@pytest.mark.parametrize("scale", [1, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_p_is_that_of_every_flip_of_signs(seed, scale):
    """Few questions: scipy goes through all 2^12 of them."""
    rng = np.random.default_rng(seed)
    before, after = np.round(rng.random(12), 1) * scale, np.round(rng.random(12) ** 0.6, 1) * scale
    theirs = stats.permutation_test(
        (after - before,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert p_value(before, after, seed=0) == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize(("better", "worse", "rows"), [(9, 2, 100), (60, 40, 250), (30, 30, 120), (700, 800, 4000)])
def test_p_of_right_and_wrong_answers_is_mcnemars_exact_one(better, worse, rows):
    before = [0.0] * better + [1.0] * worse + [1.0] * (rows - better - worse)
    after = [1.0] * better + [0.0] * worse + [1.0] * (rows - better - worse)
    exact = stats.binomtest(better, better + worse).pvalue
    assert p_value(before, after, seed=0) == pytest.approx(exact, rel=1e-9)


def test_p_of_many_distinct_values_is_near_scipys_and_seeded():
    rng = np.random.default_rng(2)
    before = rng.random(150)
    after = before + rng.normal(0.05, 0.2, 150)
    theirs = stats.permutation_test(
        (after - before,), lambda x, axis: np.mean(x, axis), permutation_type="samples", n_resamples=20_000, rng=0
    )
    found = p_value(before, after, seed=0)
    assert found == pytest.approx(theirs.pvalue, abs=0.015) and 0.005 < found < 0.5
    order = rng.permutation(150)
    assert p_value(before[order], after[order], seed=0) == found == p_value(after, before, seed=0)
    assert p_value(before, after, seed=1) != found
    assert p_value(before, before + 1 + before, seed=0) == pytest.approx(1 / 10_001)
    assert p_value(before, before, seed=0) == 1.0


@dataclass(frozen=True)
class Said:
    rows: int
    change: Interval
    p: float
    corrected: float = 0.0
    verdict: str = "as it was"


def test_a_table_is_corrected_for_the_comparisons_that_it_tests():
    """Three are; the one of few questions is none of them, and keeps what it said."""
    up = Interval(0.1, 0.02, 0.18)
    found = together([Said(100, up, 0.01), Said(99, up, 0.001), Said(200, up, 0.03), Said(100, up, 0.04)])
    assert [one.corrected for one in found] == pytest.approx([0.03, 0.0, 0.06, 0.06])
    assert [one.verdict for one in found] == [
        "+0.10 [+0.02, +0.18]",
        "as it was",
        *["no difference shown (p 0.06, corrected for 3 comparisons), +0.10 [+0.02, +0.18]"] * 2,
    ]
    assert note(found).startswith("3 comparisons were tested;") and note([found[1]]) == ""
