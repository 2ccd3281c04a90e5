"""What an arbiter is worth that answers only where it is sure: risk at every coverage (El-Yaniv and Wiener 2010)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ragdist.evaluation.intervals import Interval, interval

COVERAGES = tuple(step / 10 for step in range(1, 11))


class Sure(NamedTuple):
    """One answer that was taken. Example: Sure(question_id="77...", confidence=0.7, right=True)."""

    question_id: str
    confidence: float
    right: bool


class Point(NamedTuple):
    """Of the risk-coverage curve. Example: Point(coverage=0.8, answers=64, risk=0.25)."""

    coverage: float
    """Share of the answers that are given, the surest first."""
    answers: int
    risk: float
    """Share of those that are wrong."""


@dataclass(frozen=True, slots=True)
class Selective:
    """Answers that an arbiter took, by how sure it was: where the two answers differ, as else nobody is asked."""

    answers: int
    auroc: float | None
    """Chance that a right answer has a higher confidence than a wrong one, a tie counting half; None where all are
    right or all wrong."""
    at_80: Interval
    """Share right among the surest 80%."""
    curve: tuple[Point, ...]
    """At `COVERAGES`."""
    threshold: float
    """`duet.abstain_below`."""
    answered: int
    """Answers whose confidence is not below it."""
    answered_right: int


def selective(taken: Sequence[Sure], threshold: float, resamples: int, seed: int) -> Selective | None:
    """The figures of these answers; None where there are none. Equally sure ones are in the order of their ids."""
    if not taken:
        return None
    rows = sorted(taken, key=lambda one: (-one.confidence, one.question_id))
    right = [float(one.right) for one in rows]
    counts = [math.ceil(round(coverage * len(rows), 9)) for coverage in COVERAGES]
    points = zip(COVERAGES, counts, strict=True)
    answered = [one.right for one in rows if one.confidence >= threshold]
    return Selective(
        answers=len(rows),
        auroc=_auroc(rows),
        at_80=interval(right[: counts[COVERAGES.index(0.8)]], resamples, seed),
        curve=tuple(Point(coverage, count, 1 - sum(right[:count]) / count) for coverage, count in points),
        threshold=threshold,
        answered=len(answered),
        answered_right=sum(answered),
    )


def _auroc(rows: Sequence[Sure]) -> float | None:
    from sklearn.metrics import roc_auc_score

    right = [one.right for one in rows]
    return float(roc_auc_score(right, [one.confidence for one in rows])) if len(set(right)) == 2 else None
