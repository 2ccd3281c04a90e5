"""Logits where they are wanted, and nowhere else.

Axes: B rows, T tokens, N wanted positions of all rows in a line, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def logits_at(model: Any, rows_N: Tensor, at_N: Tensor, **inputs: Any) -> Tensor:
    """[N, V] logits at position at_N[n] of row rows_N[n].

    The output head is handed the hidden states of these positions alone. A model that says nothing of its head makes
    logits at every position that any row wants.

    Args:
        model: called as a causal language model of transformers is; or a DeepSpeed engine around one.
        rows_N: int64, which row.
        at_N: int64, which position of `inputs`.
        inputs: what the model is called with.
    """
    head = getattr(model, "module", model).get_output_embeddings()
    if head is None:
        wanted_P, number_N = at_N.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        everywhere_BPV: Tensor = model(**inputs, logits_to_keep=wanted_P).logits
        return everywhere_BPV[rows_N, number_N]

    def pick(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_BTH, *more = given
        return (hidden_BTH[rows_N, at_N].unsqueeze(0), *more)

    with head.register_forward_pre_hook(pick):
        logits_1NV: Tensor = model(**inputs).logits
    return logits_1NV.squeeze(0)
