"""DPO (arXiv 2305.18290) as ATM's attacker learns by it (arXiv 2405.18111).

    L = - log sigmoid( beta * [ log A(win|x) / A_ref(win|x) - log A(lose|x) / A_ref(lose|x) ] ), mean over pairs

x is the forging prompt, win the forgery under which the generator's right answer is most perplexing, lose the least,
A_ref the attacker at the start of the phase. In a row slot 0 is x and win, slot 1 is x and lose.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ragdist.algo.losses import Answers, Batch, Forward, Loss, Totals, row_logprobs

REFERENCE = "reference"
"""Name in `batch.extra` of log A_ref(win|x) - log A_ref(lose|x)."""


def dpo(forward: Forward, batch: Batch, *, total: Totals, beta: float) -> Loss:
    """The mean over pairs, with their margin and the share of pairs whose margin is above 0.

    Args:
        forward: slot 0 is the chosen text, slot 1 the rejected one.
        batch: with `reference` in `extra`.
        total: of the step.
        beta: how hard the model is held to the reference.
    """
    chosen, rejected = forward(batch)
    return loss(chosen, rejected, batch, total=total, beta=beta)


def loss(chosen: Answers, rejected: Answers, batch: Batch, *, total: Totals, beta: float) -> Loss:
    """`dpo` of answers that are computed already."""
    margin_B = beta * (lead(chosen, rejected) - batch.extra[REFERENCE])
    shown_B = margin_B.detach()
    return Loss(
        -logsigmoid(margin_B).sum() / total.rows,
        {"margin": shown_B.sum() / total.rows, "accuracy": (shown_B > 0).sum() / total.rows},
    )


@torch.no_grad()
def reference(forward: Forward, batch: Batch) -> dict[str, Tensor]:
    """What `dpo` wants to know of the model at the start of the phase: {"reference": [B]}."""
    chosen, rejected = forward(batch)
    return {REFERENCE: lead(chosen, rejected)}


def lead(chosen: Answers, rejected: Answers) -> Tensor:
    """[B] log-probability of the chosen text less that of the rejected one."""
    return row_logprobs(chosen) - row_logprobs(rejected)
