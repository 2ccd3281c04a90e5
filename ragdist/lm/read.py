"""How likely a model in this process finds given answers.

Axes: B rows (right-padded), T tokens, N answer tokens of all rows in a line, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ragdist.algo.losses import Answers, token_logprobs
from ragdist.algo.tokens import IGNORED
from ragdist.lm.batches import by_length
from ragdist.lm.head import logits_at
from ragdist.lm.memory import enough
from ragdist.records import Example

CPU_TOKENS = 1024
"""Of a batch on a CPU: more do not make it faster."""

LEAST_SHARED = 8
"""Tokens at the beginning of all prompts that are worth a pass of their own."""
Layers = list[tuple[Tensor, Tensor]]


def room(tokens_per_batch: int, on_cpu: bool) -> int:
    """Padded tokens of a batch."""
    return min(tokens_per_batch, CPU_TOKENS) if on_cpu else tokens_per_batch


def beginning(examples: Sequence[Example]) -> tuple[int, ...]:
    """The tokens that all prompts begin with (instructions); none where it is not worth to read them once."""
    rows = [example.tokens[: example.prompt_tokens - 1] for example in examples]
    # What the first and the last of the sorted rows have in common, all of them have.
    same = [one == other for one, other in zip(min(rows), max(rows), strict=False)] if rows else []
    count = (*same, False).index(False)
    return rows[0][:count] if len(rows) > 1 and count >= LEAST_SHARED else ()


class ModelReader:
    """Implements Reader on a causal language model; logits are made where answers are, nowhere else."""

    def __init__(self, model: PreTrainedModel, tokens_per_batch: int) -> None:
        self.model: Any = model
        self.model.train(False)
        self.tokens_per_batch = room(tokens_per_batch, on_cpu=self.model.device.type == "cpu")
        self._shared: tuple[int, ...] = ()
        self._begun: Layers = []

    def read(
        self, examples: Sequence[Example], shared: tuple[int, ...] | None = None
    ) -> Iterator[list[tuple[str, list[float]]]]:
        """(example id, log-probability in nats of each token after the prompt), the longest examples first.

        Args:
            examples: each with an id of its own.
            shared: tokens that all of them begin with, to be read once; None takes `beginning(examples)`.
        """
        if (shared := beginning(examples) if shared is None else shared) != self._shared:
            self._shared, self._begun = shared, self._begin(shared)
        for batch in by_length(examples, self.tokens_per_batch):
            yield list(zip([example.id for example in batch], self._logprobs(batch, self._begun), strict=True))

    @enough("lower evaluation.tokens_per_batch")
    @torch.inference_mode()
    def _begin(self, shared: tuple[int, ...]) -> Layers:
        """Keys and values of these tokens."""
        cache: Any = DynamicCache(config=self.model.config)
        if not shared or not all(type(layer) is DynamicLayer for layer in cache.layers):
            return []
        ids_BT = torch.tensor([shared], device=self.model.device)
        self.model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [(layer.keys, layer.values) for layer in cache.layers]

    @enough("lower evaluation.tokens_per_batch")
    @torch.inference_mode()
    def _logprobs(self, batch: Sequence[Example], begun: Layers) -> list[list[float]]:
        device, longest = self.model.device, len(batch[0].tokens)
        # No attention mask: padding on the right is behind everything that a causal model looks at.
        ids_BT = torch.tensor([[*row.tokens, *[0] * (longest - len(row.tokens))] for row in batch], device=device)
        labels_BT = torch.tensor([row.labels + [IGNORED] * (longest - len(row.tokens)) for row in batch], device=device)
        mask_BT, cache, start = labels_BT[:, 1:] != IGNORED, None, 0
        if begun:
            start = begun[0][0].shape[-2]
            cache = DynamicCache([tuple(part.expand(len(batch), -1, -1, -1) for part in layer) for layer in begun])
        rows_N, at_N = mask_BT.nonzero().unbind(1)
        shown = {"input_ids": ids_BT[:, start:], "past_key_values": cache, "use_cache": bool(begun)}
        logits_NV = logits_at(self.model, rows_N, at_N - start, **shown)
        logprobs_N = token_logprobs(Answers(logits_NV, labels_BT[:, 1:], mask_BT))
        return [row.tolist() for row in torch.split(logprobs_N, mask_BT.sum(1).tolist())]
