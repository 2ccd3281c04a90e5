"""How sure a classifier in this process is that an answer is right: the arbiter's scorer.

The score is read off the last token of a row, told by the row's length: the pad token of a chat model also ends its
turns, and stands inside every prompt.

Axes: B rows (right-padded), T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from ragdist.config import ModelConfig
from ragdist.draws import rng_for
from ragdist.errors import ModelError
from ragdist.lm.batches import by_length
from ragdist.lm.load import ADAPTER_ALONE, named, read, with_adapter
from ragdist.lm.memory import enough
from ragdist.lm.read import room
from ragdist.lm.source import adapter_base, refuse_other_base, resolve
from ragdist.records import Prompt
from ragdist.roles import Pair

HEAD = "score"
"""What transformers calls the layer from the last hidden state to the score."""


def score_last(backbone: Callable[..., Any], head: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Any:
    """[B, 1] scores (logits), in the number format of the head.

    Args:
        backbone: a causal transformer without output head; gives `last_hidden_state`.
        head: [B, H] -> [B, 1].
        input_ids: [B, T] tokens, padded on the right with any token: it is behind all that the last one looks at.
        attention_mask: [B, T], 1 on tokens and 0 on padding.
    """
    hidden_BTH = backbone(input_ids=input_ids, use_cache=False).last_hidden_state
    last_B = attention_mask.sum(1) - 1
    hidden_BH = hidden_BTH[torch.arange(len(last_B), device=last_B.device), last_B]
    return head(hidden_BH.to(next(head.parameters()).dtype))


def pad(rows: Sequence[Sequence[int]], device: Any = None) -> dict[str, Tensor]:
    """The rows as a classifier takes them: `input_ids` and `attention_mask`, [B, T], padded on the right."""
    longest = max(map(len, rows))
    ids = [[*row, *[0] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def scoring_batches(rows: Iterable[tuple[int, ...]], tokens_per_batch: int) -> Iterator[list[tuple[int, ...]]]:
    """Each of the rows once, the longest first."""
    items = [Prompt(id=str(tokens), tokens=tokens) for tokens in set(rows)]
    return ([item.tokens for item in batch] for batch in by_length(items, tokens_per_batch))


class ModelScorer:
    """Implements Scorer on a sequence classifier.

    In float32 a confidence does not depend on the pairs beside it, nor do its bits on the order of the pairs.

    Args:
        model: called with what `pad` makes, gives `.logits`, [B, 1].
        render: tokens of a pair, the same that the model was tuned on.
        tokens_per_batch: padded tokens of one forward pass.
    """

    def __init__(self, model: Any, render: Callable[[Pair], Sequence[int]], tokens_per_batch: int) -> None:
        self.model, self.render = model, render
        self.tokens_per_batch = room(tokens_per_batch, on_cpu=model.device.type == "cpu")

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """A number in (0, 1) for each pair, in order."""
        asked = [tuple(self.render(pair)) for pair in pairs]
        batches = scoring_batches(asked, self.tokens_per_batch)
        found = dict(pair for batch in batches for pair in self.scored(batch))
        return [found[tokens] for tokens in asked]

    def scored(self, rows: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], float]]:
        """Each row of one batch with its confidence."""
        return list(zip(rows, self._confidences(rows), strict=True))

    @enough("lower evaluation.tokens_per_batch")
    @torch.inference_mode()
    def _confidences(self, rows: Sequence[Sequence[int]]) -> list[float]:
        confidences_B = self.model(**pad(rows, self.model.device)).logits[:, 0].float().sigmoid()
        number = torch.finfo(torch.float32)
        sure: list[float] = confidences_B.clamp(number.tiny, 1 - number.eps / 2).tolist()  # (0, 1), never its ends
        return sure


def load_classifier(config: ModelConfig, *, training: bool = False, seed: int = 0) -> Any:
    """The model with a fresh score head in place of its output head; else as `lm.load.load_model`.

    Args:
        config: which model, and how it is held.
        training: no device is chosen, so that DeepSpeed may shard while it loads.
        seed: decides the head's first weights.

    Raises:
        ModelError: there is no such model, it is an adapter, or transformers has no score head for it.
    """
    folder = resolve(config)
    if adapter_base(folder):
        raise ModelError(ADAPTER_ALONE.format(config.source))
    wanted = "a causal language model that transformers can classify with, or take alignment out of duet.arbiters"
    with named(config, wanted), torch.random.fork_rng():
        torch.manual_seed(rng_for(seed, "score", "").getrandbits(63))
        model, _ = read(AutoModelForSequenceClassification, config, folder, training=training, num_labels=1)
        return reading_last(model)


def load_scorer(config: ModelConfig, folder: Path) -> Any:
    """The classifier that was tuned from `model.source` into `folder`: an adapter with its head, or a whole model.

    The head works in float32, whatever the rest does: confidences that are close are distinguished.

    Raises:
        ModelError: it is no scorer, was tuned from another model, or does not load.
    """
    own = config.at(folder)
    if adapter_base(resolve(own)):
        refuse_other_base(config, resolve(config), folder)
        base = load_classifier(config)
        with named(own, "what was tuned as a scorer"):
            from peft import PeftConfig

            kind = PeftConfig.from_pretrained(str(folder)).task_type
            if kind != "SEQ_CLS":
                raise ValueError(f"it is an adapter for {kind}, without a score head")
            model = with_adapter(base, folder)
    else:
        with named(own, "what was tuned as a scorer"):
            model, missing = read(AutoModelForSequenceClassification, config, folder, training=False, num_labels=1)
            if missing:
                raise ValueError(f"there are no weights of {', '.join(sorted(missing))}")
            model = reading_last(model)
    model.get_submodule(HEAD).float()
    return model.eval()


def reading_last(model: Any) -> Any:
    """The classifier with a forward pass of our own: transformers' looks for the last token unlike the pad token."""
    backbone = getattr(model, model.base_model_prefix)
    if not isinstance(getattr(model, HEAD, None), nn.Linear):
        raise ValueError(f"{type(model).__name__} has no linear layer named {HEAD} at its end")

    def forward(input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
        head = getattr(model, HEAD)  # peft has put its own in place by now
        return SequenceClassifierOutput(logits=score_last(backbone, head, input_ids, attention_mask))

    model.forward = forward
    return model
