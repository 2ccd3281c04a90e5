"""What transformers' continuous batching is handed for a step: how its texts are drawn, and on a CPU how they attend.

Axes: R texts of a step, Q their new tokens, K all tokens that those see, H query heads, G key and value heads, D size
of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ragdist.algo.sampling import COLDEST, choose, choose_all
from ragdist.errors import EngineError
from ragdist.lm import decode

NAME = "ragdist_paged"


class Draws(NamedTuple):
    """How a text is drawn."""

    key: int
    temperature: float
    top_p: float


class _Slot(ContinuousBatchingLogitsProcessor):
    """A number of 32 bits for each text that gets a token."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012  transformers declares it so
    ignored_kwargs = ()

    def __init__(self, dtype: torch.dtype, value: Callable[[Any], float]) -> None:
        self.dtype, self.value = dtype, value
        self.held_R = torch.zeros(0)

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Zeros: of a text that is not there."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """See transformers."""
        values = [self.value(request.state) for request in requests_with_new_token]
        return torch.tensor(values, dtype=self.dtype).view(torch.int32)

    def __call__(self, scores: Any, tensor_arg: Tensor) -> Any:
        """Keeps where the numbers are, for the last in the list."""
        self.held_R = tensor_arg[: scores.shape[0]].view(self.dtype)
        return scores


class _Drawing(_Slot):
    """The last: leaves what is drawn of a text to be drawn as the only token that is possible."""

    def __init__(self, before: Sequence[_Slot], top_p: Callable[[Any], float]) -> None:
        super().__init__(torch.float32, top_p)
        self.high, self.low, self.place, self.temperature = before

    def __call__(self, scores: Any, tensor_arg: Tensor) -> Any:
        """[R, V] scores; as they are where the temperature is 0."""
        super().__call__(scores, tensor_arg)
        keys_R = (self.high.held_R.long() << 32) | (self.low.held_R.long() & 0xFFFFFFFF)
        about = keys_R, self.place.held_R.long(), self.temperature.held_R, self.held_R
        warm_R1 = (about[2] >= COLDEST)[:, None]
        if scores.device.type == "cpu":
            if not warm_R1.any():
                return scores
            chosen_R = _chosen(scores, *about)
        else:
            chosen_R = choose_all(scores, *about)
        alone_RV = torch.full_like(scores, -torch.inf).scatter(1, chosen_R[:, None], 0.0)
        return torch.where(warm_R1, alone_RV, scores)


def _chosen(logits_RV: Tensor, keys_R: Tensor, places_R: Tensor, temperature_R: Tensor, top_p_R: Tensor) -> Tensor:
    """[R] as `choose_all`, without noise for tokens that nobody can draw."""
    chosen_R = torch.zeros_like(keys_R)
    for temperature, top_p in {*zip(temperature_R.tolist(), top_p_R.tolist(), strict=True)}:
        rows = ((temperature_R == temperature) & (top_p_R == top_p)).nonzero()[:, 0]
        how = {"temperature": temperature, "top_p": top_p}
        chosen_R[rows] = choose(logits_RV[rows], keys_R[rows], places_R[rows], **how)
    return chosen_R


def processors(draws: dict[str, Draws]) -> ContinuousBatchingLogitsProcessorList:
    """What stands between logits and the largest of them; `draws` by the names of requests."""

    def of(state: Any) -> Draws:
        return draws[state.request_id]

    def place(state: Any) -> int:
        # A request that made room for others comes back with its text as part of its prompt.
        return int(state.position_offset - (state._true_initial_tokens or len(state.initial_tokens)))

    high = _Slot(torch.int32, lambda state: of(state).key >> 32)
    low = _Slot(torch.int32, lambda state: (of(state).key & 0xFFFFFFFF) - ((of(state).key & 0x80000000) << 1))
    numbers = (high, low, _Slot(torch.int32, place), _Slot(torch.float32, lambda state: of(state).temperature))
    every = [*numbers, _Drawing(numbers, lambda state: of(state).top_p)]
    made = ContinuousBatchingLogitsProcessorList(LogitsProcessorList(every))
    made.tensors_required = len(every)
    return made


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cache: Any = None,
    cu_seq_lens_q: Tensor | None = None,
    **about: Any,
) -> tuple[Tensor, None]:
    """Attention of several texts in one line, [1, H, Q, D] to [1, Q, H, D]: each sees its own keys and no other's."""
    if cache is None or cu_seq_lens_q is None:
        raise EngineError("the model was asked by another while paged writes with it; wait for the texts")
    scaling, out_1QHD = about.get("scaling"), query.new_empty(query.transpose(1, 2).shape)
    seen = _seen(cache, module.layer_idx, key, value, about)
    for (start, end), (keys_1GKD, values_1GKD) in zip(pairwise(cu_seq_lens_q.tolist()), seen, strict=True):
        new, held = end - start, keys_1GKD.shape[2]
        part = query[:, :, start:end], keys_1GKD, values_1GKD
        if new == 1:
            out_1QHD[:, start:end], _ = decode.attend(module, *part, None, scaling=scaling)
        elif new:
            mask_QK = None if new == held else torch.ones(new, held, dtype=torch.bool).tril(held - new)
            out_1QHD[:, start:end], _ = sdpa_attention_forward(module, *part, mask_QK, scaling=scaling)
    return out_1QHD, None


def _seen(cache: Any, layer: int, key: Tensor, value: Tensor, about: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Keeps new keys and values, [1, G, Q, D], and gives all that each text sees, [1, G, K, D]; where they lie in one
    page, as they lie there: copying them is half of a step."""
    allocator = cache.layer_to_allocator[layer]
    kept = allocator._kv_token_views[layer]
    news = [states[0].transpose(0, 1) for states in (key, value)]
    for states, new in zip(kept, news, strict=True):
        states.index_copy_(0, about["write_index"][allocator.index], new)
    places_K, ends = about["read_index"][allocator.index], about["cu_seq_lens_k"][allocator.layer_type].tolist()
    if not len(places_K):  # all of them have just begun
        for start, end in pairwise(ends):
            keys, values = (new[start:end].transpose(0, 1)[None] for new in news)
            yield keys, values
        return
    first = places_K[torch.tensor(ends[:-1])].tolist()
    for (start, end), low in zip(pairwise(ends), first, strict=True):
        here = end - start <= allocator.tokens_per_page
        where = slice(low, low + end - start) if here else places_K[start:end]
        yield tuple(states[where].transpose(0, 1)[None] for states in kept)


AttentionInterface.register(NAME, attend)
