"""How surprised a model is by an answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean negative log-probability per token: 1 for a certain answer, the vocabulary's size for a guess.

    Args:
        logprobs: nats, one for each answer token, the end token included; a 0 counts like any other.

    Raises:
        ValueError: there is no token.
    """
    if not len(logprobs):
        raise ValueError("perplexity of an answer without tokens; an answer has at least its end token")
    return float(torch.tensor(logprobs, dtype=torch.float64).neg().mean().exp())
