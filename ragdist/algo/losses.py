"""What a loss sees and gives, whichever paper it belongs to.

    loss(forward, batch, *, total) -> Loss

Axes: B rows of a microbatch, A answer tokens (right-padded), V vocabulary, N answer tokens of all rows in a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Answers(NamedTuple):
    """What a model makes of one sequence of each row, at the answer's tokens and nowhere else."""

    logits_NV: Tensor
    """Row [n] predicts answer token n of those in a line, row after row: where `mask_BA` is True, in its order."""
    labels_BA: Tensor
    """int64 answer tokens, the end token included; anything where the mask is False."""
    mask_BA: Tensor
    """bool, True on answer tokens."""


class Batch(NamedTuple):
    """A microbatch as a loss sees it."""

    size: int
    """B."""
    extra: Mapping[str, Tensor]
    """[B] numbers that `prepare` computed before the first step."""


class Totals(NamedTuple):
    """What the whole optimizer step holds, over all ranks and microbatches; losses are divided by it."""

    tokens: int
    """Answer tokens of the first sequence of each row."""
    rows: int


class Loss(NamedTuple):
    """A loss of one microbatch, so divided that the sum over microbatches and ranks is the step's."""

    scalar: Tensor
    metrics: Mapping[str, Tensor]
    """Scalars without gradient, divided likewise."""


class Forward(Protocol):
    """The model on sequences of the batch."""

    def __call__(self, batch: Batch, slots: Sequence[int] | None = None) -> tuple[Answers, ...]:
        """One Answers for each sequence slot (clean and attacked, say), or for those of `slots` alone, in their order.

        What is not asked for is not computed; all that is asked for at once may share work.
        """


def token_logprobs(answers: Answers) -> Tensor:
    """[N] float32 log-probability, in nats, of each answer token, row after row."""
    answer_NV = answers.logits_NV.float()
    labels_N1 = answers.labels_BA[answers.mask_BA].unsqueeze(1)
    picked_N: Tensor = answer_NV.gather(1, labels_N1).squeeze(1) - answer_NV.logsumexp(1)
    return picked_N


def row_logprobs(answers: Answers) -> Tensor:
    """[B] float32 log-probability of each row's whole answer."""
    logprobs_N = token_logprobs(answers)
    logprobs_BA = logprobs_N.new_zeros(answers.mask_BA.shape).masked_scatter(answers.mask_BA, logprobs_N)
    return logprobs_BA.sum(1)
