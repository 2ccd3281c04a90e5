"""95% intervals by bootstrap over questions, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ragdist.draws import rng_for

ENOUGH = 100
"""Questions below which a difference is not called one."""
WILSON = 1.959964**2
"""Square of the normal distribution's 97.5 percentile."""
_CELLS = 1 << 22
"""Counts held at once, so that memory stays below about 50 MB."""


class Interval(NamedTuple):
    """A mean with its 95% interval. Example: Interval(mean=0.82, low=0.74, high=0.89)."""

    mean: float
    low: float
    high: float


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


def verdict(change: Interval, rows: int) -> str:
    """A paired difference in plain words: `+0.42 [0.33, 0.51]`, or that none was shown."""
    numbers = f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    if rows < ENOUGH:
        return f"{numbers}, fewer than {ENOUGH} questions: not called a difference"
    if change.low <= 0 <= change.high:
        return f"no difference shown, {numbers}"
    return numbers
