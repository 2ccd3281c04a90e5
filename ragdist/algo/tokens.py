"""Log-probabilities of answer tokens, and of nothing else.

Axes: B rows, T tokens (right-padded), P kept positions, V vocabulary. Log-probabilities are in nats.
A label of -100 is no answer token: prompt and padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100


def predicting(labels_BT: Tensor) -> Tensor:
    """[P] positions whose logits predict an answer token in at least one row; the others need no logits."""
    return (labels_BT[:, 1:] != IGNORED).any(0).nonzero().squeeze(1)


def answer_logprobs(logits_BPV: Tensor, positions_P: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """[B, P] float32 log-probability of the token after each kept position, and [B, P] bool: it is an answer token.

    The logits at position p predict the label at p + 1. Where the mask is False the log-probability is 0.

    Args:
        logits_BPV: logits at the kept positions.
        positions_P: the kept positions, as `predicting` gives them.
        labels_BT: answer token ids, -100 elsewhere.

    Raises:
        ValueError: logits, positions and labels disagree on B or P.
    """
    if logits_BPV.shape[:2] != (len(labels_BT), len(positions_P)):
        raise ValueError(
            f"logits {tuple(logits_BPV.shape)} must begin with [rows, kept positions] = "
            f"[{len(labels_BT)}, {len(positions_P)}]"
        )
    labels_BP = labels_BT[:, positions_P + 1]
    mask_BP = labels_BP != IGNORED
    answer_NV = logits_BPV[mask_BP].float()  # N answer tokens: padding costs no softmax
    picked_N = answer_NV.gather(1, labels_BP[mask_BP].unsqueeze(1)).squeeze(1) - answer_NV.logsumexp(1)
    logprobs_BP = torch.zeros(labels_BP.shape, dtype=torch.float32, device=logits_BPV.device)
    return logprobs_BP.masked_scatter(mask_BP, picked_N), mask_BP
