"""Logits that tests of losses hand out where a model would stand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ragdist.algo.losses import Answers, Batch


def batch(size: int, **extra: Tensor) -> Batch:
    """A microbatch of that many rows."""
    return Batch(size, extra)


def answers(logits: Tensor, labels: Sequence[Sequence[int]]) -> Answers:
    """Answers of rows of different lengths; labels behind an answer are nonsense."""
    longest = logits.shape[1]
    padded = torch.tensor([[*row, *[7] * (longest - len(row))] for row in labels]) % logits.shape[2]
    mask = torch.tensor([[at < len(row) for at in range(longest)] for row in labels])
    return Answers(logits[mask], padded, mask)


class Table:
    """Plays Forward on fixed answers and counts what is asked for."""

    def __init__(self, *slots: Answers) -> None:
        self.slots = slots
        self.asked: list[int] = []

    def __call__(self, batch: Batch, slots: Sequence[int] | None = None) -> tuple[Answers, ...]:
        wanted = list(range(len(self.slots)) if slots is None else slots)
        self.asked += wanted
        return tuple(self.slots[slot] for slot in wanted)
