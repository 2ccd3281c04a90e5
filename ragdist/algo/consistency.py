"""MITO, what ATM's generator learns by (arXiv 2405.18111).

    L    = SFT + kl_weight * KL
    SFT  = - sum_{t=1}^{|a|} log G(a_t | a_<t, q, D')
    KL   =   sum_{t=1}^{|a|} KL[ G(. | a_<t, q, D) || G(. | a_<t, q, D') ]

D is the clean list of documents, D' the attacked one: D with forgeries, permuted. Both sequences end in the same
answer; in a row slot 0 is the clean one and slot 1 the attacked one. The paper's alpha and its reduction over t were
not read: here both terms are means per answer token, or sums over each row's tokens (mean over rows).

The official code computes CE(prompt) + beta * KL[adv_prompt || prompt]. Read with prompt = D' and adv_prompt = D that
is the formula above; read by its names it is `sft_on="clean", direction="attacked_to_clean"`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from ragdist.algo.losses import Answers, Batch, Forward, Loss, Totals, token_logprobs

Direction = Literal["clean_to_attacked", "attacked_to_clean"]


def mito(
    forward: Forward,
    batch: Batch,
    *,
    total: Totals,
    kl_weight: float,
    direction: Direction = "clean_to_attacked",
    detach_clean: bool = False,
    reduction: Literal["mean", "sum"] = "mean",
    sft_on: Literal["clean", "attacked"] = "attacked",
) -> Loss:
    """Answer loss plus attack shift; with `kl_weight=0` the answer loss alone, and one forward pass for each row.

    Args:
        forward: slot 0 is the clean sequence, slot 1 the attacked one.
        batch: nothing extra.
        total: of the step.
        kl_weight: of the attack shift.
        direction: KL(clean || attacked), or the other way round.
        detach_clean: the shift gives the clean side no gradient.
        reduction: both terms per answer token, or summed over each row's tokens and averaged over rows.
        sft_on: which side the answer loss is on.

    Raises:
        ValueError: the two sequences of a row end in different answers.
    """
    share = total.tokens if reduction == "mean" else total.rows
    learned = ("clean", "attacked").index(sft_on)
    if not kl_weight:
        (answers,) = forward(batch, (learned,))
        loss = -token_logprobs(answers).sum() / share
        return Loss(loss, {"answer_loss": loss.detach()})
    clean, attacked = _both(forward, batch, frozen=detach_clean and sft_on == "attacked")
    answer_loss = -token_logprobs((clean, attacked)[learned]).sum() / share
    shift_N = attack_shift(clean, attacked, direction=direction, detach_clean=detach_clean)
    shift = shift_N.sum() / share
    return Loss(
        answer_loss + kl_weight * shift,
        {"answer_loss": answer_loss.detach(), "kl": shift.detach()},
    )


def attack_shift(
    clean: Answers,
    attacked: Answers,
    *,
    direction: Direction = "clean_to_attacked",
    detach_clean: bool = False,
) -> Tensor:
    """[N] float32 nats: how far the attack moves the distribution of each answer token, row after row.

    Raises:
        ValueError: the two sequences of a row end in different answers.
    """
    if not (
        torch.equal(clean.mask_BA.sum(1), attacked.mask_BA.sum(1))
        and torch.equal(clean.labels_BA[clean.mask_BA], attacked.labels_BA[attacked.mask_BA])
    ):
        raise ValueError("clean and attacked sequences of a row must end in the same answer tokens")
    clean_NV = clean.logits_BAV[clean.mask_BA].float().log_softmax(-1)
    attacked_NV = attacked.logits_BAV[attacked.mask_BA].float().log_softmax(-1)
    if detach_clean:
        clean_NV = clean_NV.detach()
    to_NV, from_NV = (attacked_NV, clean_NV) if direction == "clean_to_attacked" else (clean_NV, attacked_NV)
    return kl_div(to_NV, from_NV, reduction="none", log_target=True).sum(-1)


def _both(forward: Forward, batch: Batch, *, frozen: bool) -> tuple[Answers, Answers]:
    """Clean and attacked answers; a frozen clean side keeps nothing for a backward pass."""
    if not frozen:
        clean, attacked = forward(batch)
        return clean, attacked
    with torch.no_grad():
        (clean,) = forward(batch, (0,))
    (attacked,) = forward(batch, (1,))
    return clean, attacked
