"""Can a confidence be believed? Of the answers that are given 0.8, eight in ten should be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidence lies in one stretch, as sums. Example: Bin(answers=4, confidence=2.6, right=3)."""

    answers: int = 0
    confidence: float = 0.0
    """Sum of the confidences."""
    right: int = 0

    def __add__(self, other: Bin) -> Bin:
        return Bin(self.answers + other.answers, self.confidence + other.confidence, self.right + other.right)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidences against how often they were right, as sums, so that shards merge by `+`."""

    bins: tuple[Bin, ...]
    """Of equal width: the b-th of B holds confidences in [b / B, (b + 1) / B)."""
    squares: float
    """Sum of (confidence - right)^2."""

    @staticmethod
    def of(points: Iterable[tuple[float, bool]]) -> Calibration:
        """The sums over (confidence, whether the answer was right)."""
        bins, squares = [Bin()] * BINS, 0.0
        for confidence, right in points:
            at = min(int(confidence * BINS), BINS - 1)
            bins[at] += Bin(1, confidence, int(right))
            squares += (confidence - right) ** 2
        return Calibration(tuple(bins), squares)

    def __add__(self, other: Calibration) -> Calibration:
        bins = (one + two for one, two in zip(self.bins, other.bins, strict=True))
        return Calibration(tuple(bins), self.squares + other.squares)

    @property
    def total(self) -> Bin:
        """All answers together."""
        return sum(self.bins, Bin())

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean over answers of |mean confidence - share right| of the answer's bin.

        sum_b n_b / n |conf_b - acc_b|, where bin b holds n_b of n answers.
        """
        return sum(abs(one.confidence - one.right) for one in self.bins) / max(self.total.answers, 1)

    @property
    def brier(self) -> float:
        """Mean over answers of (confidence - right)^2; 0.25 is what a constant one half earns."""
        return self.squares / max(self.total.answers, 1)

    @property
    def curve(self) -> list[tuple[float, float, int]]:
        """(mean confidence, share right, answers) of each bin that has any, by rising confidence."""
        return [
            (one.confidence / one.answers, one.right / one.answers, one.answers) for one in self.bins if one.answers
        ]
