"""Plain fine-tuning on answers.

L = - sum_{t=1}^{|a|} log p(a_t | a_<t, prompt), over all rows of a step, divided by their answer tokens
"""

from __future__ import annotations

from ragdist.algo.losses import Batch, Forward, Loss, Totals, token_logprobs


def answer_loss(forward: Forward, batch: Batch, *, total: Totals) -> Loss:
    """The mean negative log-probability of an answer token after its prompt, slot 0 of each row."""
    (answers,) = forward(batch, (0,))
    return Loss(-token_logprobs(answers).sum() / total.tokens, {})
