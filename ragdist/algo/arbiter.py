"""DuetRAG's arbiter: what it learns from, and which of two answers it picks.

c(q, a) = sigmoid(z(q, a)) is the confidence that answer a to question q is right (section 3 of arXiv 2405.13002; its
formulas could not be read, `docs/duet.md` says what is ours).

Axes: B rows of a microbatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def judgement_loss(scores_B: Tensor, right_B: Tensor, weights_B: Tensor, *, total_weight: float) -> Tensor:
    """Binary cross-entropy in nats, each row by its weight, divided by the weight of the whole step.

    - sum_b w_b [y_b log c_b + (1 - y_b) log(1 - c_b)] / total_weight,   c = sigmoid(score)

    Args:
        scores_B: [B] logits.
        right_B: [B] bool, whether the answer is right.
        weights_B: [B] weights, >= 0.
        total_weight: of all rows of the step, over every worker and microbatch, > 0; the sum over workers is then the
            weighted mean.
    """
    loss_B = torch.nn.functional.binary_cross_entropy_with_logits(scores_B.float(), right_B.float(), reduction="none")
    return (loss_B * weights_B).sum() / total_weight


def prefers_reciter(reciter: float, discoverer: float, margin: float) -> bool:
    """Whether the reciter's confidence is higher by more than the margin; when they are close the discoverer has it."""
    return reciter - discoverer > margin


def best_margin(gaps: Sequence[float], reciter_right: Sequence[bool], discoverer_right: Sequence[bool]) -> float:
    """The margin >= 0 under which most questions are answered right.

    Which answer wins only changes where the margin passes a gap, so every outcome is looked at once. Of equally good
    margins the middle of the widest stretch is taken, of equally wide ones the largest: near the limit is the
    discoverer's.

    Args:
        gaps: the reciter's confidence less the discoverer's, a row for each validation question.
        reciter_right: whether the reciter's answer is right.
        discoverer_right: whether the discoverer's is.

    Returns:
        A margin in [0, 1]; 1 never picks the reciter.
    """
    edges = [*sorted({0.0, 1.0, *(gap for gap in gaps if 0.0 < gap < 1.0)}), 1.0]  # 1 is a margin of its own
    rows = list(zip(gaps, reciter_right, discoverer_right, strict=True))
    best: tuple[int, float, float] | None = None
    start = 0.0
    last = -1
    for low, high in pairwise(edges):  # a margin in [low, high) gives one and the same outcome
        right = sum(r if prefers_reciter(gap, 0.0, low) else d for gap, r, d in rows)
        start = start if right == last else low
        last = right
        found = (right, high - start, (start + high) / 2)
        best = found if best is None or found >= best else best
    assert best is not None
    return best[2]
