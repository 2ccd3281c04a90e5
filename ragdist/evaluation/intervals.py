"""95% intervals by bootstrap over questions, paired differences, and when one may be called a difference.

A table that compares many things finds differences by chance. So each of its comparisons has a p value, by paired sign
flips, and all of a table's p values are corrected together, by Holm's step-down, which holds however they depend on
each other. Intervals are each one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ragdist.draws import rng_for

ENOUGH = 100
"""Questions below which a difference is not called one."""
ALPHA = 0.05
"""Chance that a table calls any difference where there is none, at most."""
FLIPS = 10_000
"""Draws of signs where there are too many ways to count them all; the least p is then 1 in 10,001."""
WILSON = 1.959964**2
"""Square of the normal distribution's 97.5 percentile."""
_CELLS = 1 << 22
"""Counts held at once, so that memory stays below about 50 MB."""


class Interval(NamedTuple):
    """A mean with its 95% interval. Example: Interval(mean=0.82, low=0.74, high=0.89)."""

    mean: float
    low: float
    high: float


Bounds = Callable[[Sequence[float]], Interval]
"""`interval` with its resamples and its seed."""


def interval(values: Sequence[float] | np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean of one value per question, with the 2.5 and 97.5 percentiles of the means of resampled questions.

    Of a score that was 0 in all questions, or 1 in all, resampling knows nothing: its interval is Wilson's. Other equal
    values give no width.

    Raises:
        ValueError: there are no values.
    """
    found = _bootstrap(values, resamples, seed)
    if found.low < found.high or found.mean not in (0.0, 1.0):
        return found
    far = WILSON / (len(values) + WILSON)
    return Interval(0.0, 0.0, far) if not found.mean else Interval(1.0, 1.0 - far, 1.0)


def _bootstrap(values: Sequence[float] | np.ndarray, resamples: int, seed: int) -> Interval:
    """A resample is drawn as how often each distinct value occurs (multinomial), which has the same distribution as
    drawing questions, costs little for 0/1 values, and does not depend on their order."""
    if not len(values):
        raise ValueError("an interval needs at least one value, got none")
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    share = counts / counts.sum()
    mean = float(share @ distinct)
    if len(distinct) == 1:
        return Interval(mean, mean, mean)
    rng = np.random.default_rng(rng_for(seed, "bootstrap", "").getrandbits(64))
    step = max(1, _CELLS // len(distinct))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = np.concatenate([rng.multinomial(len(values), share, size) @ distinct for size in sizes]) / len(values)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high))


def difference(before: Sequence[float], after: Sequence[float], resamples: int, seed: int) -> Interval:
    """Interval of `after - before`, paired: row i of both is the same question.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values must be of the same questions, got {len(before)} and {len(after)}")
    return _bootstrap(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64), resamples, seed)


def p_value(before: Sequence[float], after: Sequence[float], seed: int) -> float:
    """Two-sided p of the paired sign-flip test: how often the mean difference would be as far from 0 if the two scores
    of each question might as well have changed places.

    Exact where what differs takes few values: for right or wrong it is McNemar's exact test. Else by draws. It does not
    depend on the order of the questions.

    Raises:
        ValueError: the two differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values must be of the same questions, got {len(before)} and {len(after)}")
    found = np.round(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64), 12)
    far = np.sort(np.abs(found[found != 0]))
    least = abs(found.sum()) - 1e-9 * far.sum()  # sums of floats: as far is within a hair
    sizes, counts = np.unique(far, return_counts=True)
    if math.prod(int(count) + 1 for count in counts) <= _CELLS:
        sums, chances = _all_flips(sizes, counts)
        return min(1.0, float(chances[np.abs(sums) >= least].sum()))
    rng = np.random.default_rng(rng_for(seed, "sign flips", "").getrandbits(64))
    step = max(1, _CELLS // len(far))
    steps = [min(step, FLIPS - start) for start in range(0, FLIPS, step)]
    flips = (2 * rng.integers(0, 2, (size, len(far)), dtype=np.int8) - 1 for size in steps)
    return float(1 + sum((np.abs(flip @ far) >= least).sum() for flip in flips)) / (1 + FLIPS)


def _all_flips(sizes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every sum that signs before `counts` numbers of each size can make, and its chance."""
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, map(int, counts), strict=True):
        chance = np.array([math.comb(count, plus) / 2**count for plus in range(count + 1)])
        sums = (sums[:, None] + size * (2 * np.arange(count + 1) - count)).ravel()
        chances = (chances[:, None] * chance).ravel()
    return sums, chances


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of one family corrected for their number, in their order (Holm 1979).

    Example: `holm([0.01, 0.04, 0.03, 0.005])` is [0.03, 0.06, 0.06, 0.02].
    """
    order = np.argsort(p_values, kind="stable")
    rising = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, rising)
    return [float(p) for p in corrected]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one model or stage has over another, the same questions paired.

    Example: Change(before="base", after="RAFT", condition="oracle", metric="em", ..., verdict="+0.42 [+0.33, +0.51]")
    """

    before: str
    after: str
    condition: str
    metric: str
    """em, f1, subspan; for a forgery alone perplexity and log_perplexity of the right answer."""
    rows: int
    change: Interval
    p: float
    """Of this comparison alone, by paired sign flips."""
    corrected: float
    """The same for all that the table tests (Holm)."""
    verdict: str

    @property
    def shown(self) -> bool:
        """Whether it may be called a difference."""
        return shown(self.change, self.rows, self.corrected)


def compare(old: Sequence[float], new: Sequence[float], resamples: int, seed: int, **names: str) -> Change:
    """The change from `old` to `new`, tested as the only one; `names` are before, after, condition and metric.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    change, p = difference(old, new, resamples, seed), p_value(old, new, seed)
    return Change(rows=len(old), change=change, p=p, corrected=p, verdict=verdict(change, len(old), p), **names)


def together(changes: Sequence[Change]) -> tuple[Change, ...]:
    """The comparisons of one table, with p values and verdicts corrected for those that have questions enough."""
    tested = [change for change in changes if change.rows >= ENOUGH]
    corrected = iter(holm([change.p for change in tested]))
    found = []
    for change in changes:
        if change.rows >= ENOUGH:
            p = next(corrected)
            said = verdict(change.change, change.rows, p, len(tested))
            change = replace(change, corrected=p, verdict=said)
        found.append(change)
    return tuple(found)


def shown(change: Interval, rows: int, p: float) -> bool:
    """Whether a paired difference may be called one: enough questions, an interval without 0, and p."""
    return rows >= ENOUGH and not change.low <= 0 <= change.high and p <= ALPHA


def verdict(change: Interval, rows: int, p: float, family: int = 1) -> str:
    """A paired difference in plain words: `+0.42 [0.33, 0.51]`, or that none was shown.

    Args:
        change: with its own interval.
        rows: questions.
        p: corrected for the family.
        family: comparisons that were tested together.
    """
    numbers = signed(change)
    if rows < ENOUGH:
        return f"{numbers}, fewer than {ENOUGH} questions: not called a difference"
    if shown(change, rows, p):
        return numbers
    if change.low <= 0 <= change.high:
        return f"no difference shown, {numbers}"
    return f"no difference shown (p {p:.2g}, corrected for {family} comparisons), {numbers}"


def signed(change: Interval) -> str:
    """Example: `+0.42 [+0.33, +0.51]`."""
    return f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"


def note(changes: Sequence[Change]) -> str:
    """How differences of this table are called; empty where none was tested."""
    family = sum(change.rows >= ENOUGH for change in changes)
    if not family:
        return ""
    return (
        f"{family} comparisons were tested; a difference is called one where its own 95% interval leaves out 0 and its "
        f"p (paired sign flips), corrected for all {family} by Holm's method, is at most {ALPHA}."
    )
