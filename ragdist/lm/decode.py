"""Writing one token after another on a CPU without waste: keys and values with room ahead, attention by head group.

A step of transformers copies all keys and values to append one to each, and copies them again for every query head
that shares them; in bfloat16 torch's attention then packs them again. For SmolLM2 that was more than half of a step.

Axes: R texts, H query heads, G key and value heads, T tokens so far, D size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "ragdist_by_group"


class Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer, in tensors with room for more texts' worth of tokens than they hold.

    Args:
        room: tokens that will follow the prompts.
    """

    keys: Any
    values: Any

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self.held: tuple[Tensor, ...] = ()
        """[R, G, T + room, D] each; `keys` and `values` are their beginnings."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends; see `DynamicLayer.update`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        start, rows = self.keys.shape[-2], self.keys.shape[0]
        end = start + key_states.shape[-2]
        if not self.held or self.held[0].shape[-2] < end:
            self._hold(1, max(self.room, end - start))
        for held, new in zip(self.held, (key_states, value_states), strict=True):
            held[:rows, :, start:end] = new
        self.keys, self.values = (held[:rows, :, :end] for held in self.held)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each text `repeats` times, side by side."""
        self._hold(repeats, self.room)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these texts, in this order; one that stays in its place costs nothing."""
        count, length = len(indices), self.keys.shape[-2]
        moved = (indices != torch.arange(count, device=indices.device)).nonzero().squeeze(1)
        for held in self.held:
            held[moved, :, :length] = held[indices[moved], :, :length]
        self.keys, self.values = (held[:count, :, :length] for held in self.held)

    def _hold(self, repeats: int, room: int) -> None:
        """Moves what is there to tensors with room for so many tokens more."""
        rows, length = self.keys.shape[0], self.keys.shape[-2]
        held = []
        for states in (self.keys, self.values):
            new = states.new_empty(rows, repeats, states.shape[1], length + room, states.shape[3])
            new[..., :length, :] = states.unsqueeze(1)
            held.append(new.flatten(0, 1))
        self.held = tuple(held)
        self.keys, self.values = (new[:, :, :length] for new in held)


def cache_with_room(config: Any, room: int) -> DynamicCache:
    """An empty cache for a model of this shape; layers with a window stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [Roomy(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@contextmanager
def by_group(model: Any) -> Iterator[None]:
    """For the block, the model attends from single tokens by `attend`, where it is on a CPU and has sdpa attention."""
    before = model.config._attn_implementation
    if before == "sdpa" and model.device.type == "cpu":
        model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **about: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention of one token a text: query heads that share keys are rows of one product. Else transformers' own.

    As transformers' eager attention: scores in the model's format, their softmax in float32.
    """
    rows, heads, tokens, size = query.shape
    if tokens > 1 or about.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **about)
    query_RGHD = query.view(rows, key.shape[1], -1, size)
    scores_RGHT = (query_RGHD @ key.transpose(-1, -2)).float() * (about.get("scaling") or size**-0.5)
    if attention_mask is not None:
        scores_RGHT = scores_RGHT.masked_fill(~attention_mask, -torch.inf)
    out_RGHD = scores_RGHT.softmax(-1).to(value.dtype) @ value
    return out_RGHD.reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
