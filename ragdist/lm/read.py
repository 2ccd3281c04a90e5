"""How likely a model in this process finds given answers.

Axes: B rows (right-padded), T tokens, P positions that predict an answer token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ragdist.algo.tokens import IGNORED, answer_logprobs, predicting
from ragdist.lm.batches import by_length
from ragdist.records import Example

CPU_TOKENS = 1024
"""Of a batch on a CPU: more do not make it faster, and rows of many lengths want logits at many positions."""


class ModelReader:
    """Plays Reader on a causal language model; logits are made where answers are, nowhere else."""

    def __init__(self, model: PreTrainedModel, tokens_per_batch: int) -> None:
        self.model: Any = model
        self.model.train(False)
        on_cpu = self.model.device.type == "cpu"
        self.tokens_per_batch = min(tokens_per_batch, CPU_TOKENS) if on_cpu else tokens_per_batch

    def read(self, examples: Sequence[Example]) -> Iterator[list[tuple[str, list[float]]]]:
        """(example id, log-probability in nats of each token after the prompt), the longest examples first."""
        for batch in by_length(examples, self.tokens_per_batch):
            yield list(zip([example.id for example in batch], self._logprobs(batch), strict=True))

    @torch.inference_mode()
    def _logprobs(self, batch: Sequence[Example]) -> list[list[float]]:
        device, longest = self.model.device, len(batch[0].tokens)
        # No attention mask: padding on the right is behind everything that a causal model looks at.
        ids_BT = torch.tensor([[*row.tokens, *[0] * (longest - len(row.tokens))] for row in batch], device=device)
        labels_BT = torch.tensor([row.labels + [IGNORED] * (longest - len(row.tokens)) for row in batch], device=device)
        positions_P = predicting(labels_BT)
        logits_BPV = self.model(input_ids=ids_BT, use_cache=False, logits_to_keep=positions_P).logits
        logprobs_BP, mask_BP = answer_logprobs(logits_BPV, positions_P, labels_BT)
        return [row[mask].tolist() for row, mask in zip(logprobs_BP, mask_BP, strict=True)]
