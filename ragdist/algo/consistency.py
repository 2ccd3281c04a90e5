"""MITO, what ATM's generator learns by (arXiv 2405.18111).

    L    = SFT + kl_weight * KL
    SFT  = - sum_{t=1}^{|a|} log G(a_t | a_<t, q, D')
    KL   =   sum_{t=1}^{|a|} KL[ G(. | a_<t, q, D) || G(. | a_<t, q, D') ]

D is the clean list of documents, D' the attacked one: D with forgeries, permuted. Both sequences end in the same
answer; in a row slot 0 is the clean one and slot 1 the attacked one. The paper's alpha and its reduction over t were
not read: here both terms are means per answer token, or sums over each row's tokens (mean over rows).

Beyond the paper: `clean_weight` adds the answer loss on D, which MITO lacks, so that robustness need not be paid for on
clean lists (arXiv 2606.11627); `preference_weight` adds DPO between the right and the forged answer, both after D'
(slots 1 and 2; arXiv 2501.13726).

The official code computes CE(prompt) + beta * KL[adv_prompt || prompt]. Read with prompt = D' and adv_prompt = D that
is the formula above; read by its names it is `sft_on="clean", direction="attacked_to_clean"`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from ragdist.algo import preference
from ragdist.algo.losses import Answers, Batch, Forward, Loss, Totals, token_logprobs

Direction = Literal["clean_to_attacked", "attacked_to_clean"]


def mito(
    forward: Forward,
    batch: Batch,
    *,
    total: Totals,
    kl_weight: float,
    clean_weight: float = 0.0,
    preference_weight: float = 0.0,
    beta: float = 0.2,
    direction: Direction = "clean_to_attacked",
    detach_clean: bool = False,
    reduction: Literal["mean", "sum"] = "mean",
    sft_on: Literal["clean", "attacked"] = "attacked",
) -> Loss:
    """Answer loss plus attack shift; a side that no term asks for is not computed.

    Args:
        forward: slot 0 is the clean sequence, slot 1 the attacked one, slot 2 (where preferences are learned) the
            attacked list with the forged answer.
        batch: with `reference` in `extra` where preferences are learned.
        total: of the step.
        kl_weight: of the attack shift.
        clean_weight: of the answer loss on the clean list; beside `sft_on="clean"` it adds to that.
        preference_weight: of -log sigmoid(beta * margin) per row, see `preference.dpo`.
        beta: of the preference.
        direction: KL(clean || attacked), or the other way round.
        detach_clean: the shift gives the clean side no gradient.
        reduction: answer losses and shift per answer token, or summed over each row's tokens and averaged over rows.
        sft_on: which side the answer loss is on.

    Raises:
        ValueError: the two sequences of a row end in different answers.
    """
    share = total.tokens if reduction == "mean" else total.rows
    learned = ("clean", "attacked").index(sft_on)
    wanted = {learned} | ({0, 1} if kl_weight else set()) | ({0} if clean_weight else set())
    wanted |= {1, 2} if preference_weight else set()
    frozen = 0 in wanted and detach_clean and not clean_weight and sft_on == "attacked"
    sides = _sides(forward, batch, wanted, frozen=frozen)
    answer_loss = -token_logprobs(sides[learned]).sum() / share
    scalar, metrics = answer_loss, {"answer_loss": answer_loss.detach()}
    if clean_weight:
        clean_loss = -token_logprobs(sides[0]).sum() / share
        scalar, metrics["clean_loss"] = scalar + clean_weight * clean_loss, clean_loss.detach()
    if kl_weight:
        shift_N = attack_shift(sides[0], sides[1], direction=direction, detach_clean=detach_clean)
        shift = shift_N.sum() / share
        scalar, metrics["kl"] = scalar + kl_weight * shift, shift.detach()
    if preference_weight:
        pair = preference.loss(sides[1], sides[2], batch, total=total, beta=beta)
        scalar, metrics["preference"] = scalar + preference_weight * pair.scalar, pair.scalar.detach()
        metrics["accuracy"] = pair.metrics["accuracy"]
    return Loss(scalar, metrics)


@torch.no_grad()
def reference(forward: Forward, batch: Batch) -> dict[str, Tensor]:
    """What `preference_weight` wants to know of the model at the start of the phase: {"reference": [B]}."""
    right, forged = forward(batch, (1, 2))
    return {preference.REFERENCE: preference.lead(right, forged)}


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
    clean_NV = clean.logits_NV.float().log_softmax(-1)
    attacked_NV = attacked.logits_NV.float().log_softmax(-1)
    if detach_clean:
        clean_NV = clean_NV.detach()
    to_NV, from_NV = (attacked_NV, clean_NV) if direction == "clean_to_attacked" else (clean_NV, attacked_NV)
    return kl_div(to_NV, from_NV, reduction="none", log_target=True).sum(-1)


def _sides(forward: Forward, batch: Batch, wanted: set[int], *, frozen: bool) -> dict[int, Answers]:
    """The answers of these slots; a frozen clean side keeps nothing for a backward pass."""
    if not frozen:
        slots = sorted(wanted)
        return dict(zip(slots, forward(batch, slots), strict=True))
    with torch.no_grad():
        (clean,) = forward(batch, (0,))
    return {0: clean} | _sides(forward, batch, wanted - {0}, frozen=False)
