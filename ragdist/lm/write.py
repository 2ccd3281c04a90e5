"""Texts from a model in this process.

Axes: B prompts (left-padded), R = B * samples texts that are not finished, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ragdist.algo.sampling import choose
from ragdist.draws import rng_for
from ragdist.lm.batches import by_length
from ragdist.lm.decode import by_group, cache_with_room
from ragdist.lm.memory import enough
from ragdist.records import Prompt, Written
from ragdist.roles import Tokenizer


def writing_batches(
    prompts: Sequence[Prompt], tokens_per_batch: int, max_new_tokens: int, samples: int = 1
) -> Iterator[list[Prompt]]:
    """The prompts as `ModelWriter` writes them: longest first, the same whatever order they came in."""
    return by_length(prompts, tokens_per_batch, lambda length: samples * (length + max_new_tokens))


def key_of(seed: int, prompt_id: str, sample: int) -> int:
    """63 bits that a text's draws belong to."""
    return rng_for(seed, "write", f"{prompt_id}\x1f{sample}").getrandbits(63)


def ends_of(model: Any, tokenizer: Tokenizer) -> set[int]:
    """Tokens that end a text."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    return {tokenizer.end, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}


def written(tokenizer: Tokenizer, ends: Collection[int], prompt_id: str, sample: int, tokens: Sequence[int]) -> Written:
    """The record of a text of these tokens, which may end with one of `ends`."""
    ended = tokens[-1] in ends
    text = tokenizer.decode(tokens[:-1] if ended else tokens)
    ids = tuple(tokens)
    return Written(prompt_id=prompt_id, sample=sample, text=text, tokens=len(ids), ended=ended, ids=ids)


class ModelWriter:
    """Implements Writer on a causal language model.

    In float32 a text does not depend on the batch that it is written in. In bfloat16 rounding does, and can turn
    a near tie of two tokens; there the same prompts with the same `tokens_per_batch` give the same texts, in any order.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, tokens_per_batch: int) -> None:
        self.model: Any = model
        self.model.train(False)
        self.tokenizer = tokenizer
        self.tokens_per_batch = tokens_per_batch
        self.ends = ends_of(model, tokenizer)

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[Written]]:
        """One list for each finished microbatch, the longest prompts first.

        Args:
            prompts: each with an id of its own.
            max_new_tokens: longest text, the end token included.
            samples: texts for each prompt; they share its prefill.
            temperature: 0 takes the most likely token, and all samples are equal.
            top_p: share of the probability that is sampled from.
            seed: draws belong to (seed, prompt id, sample).
        """
        for batch in writing_batches(prompts, self.tokens_per_batch, max_new_tokens, samples):
            names = [(prompt.id, sample) for prompt in batch for sample in range(samples)]
            keys_R = torch.tensor([key_of(seed, *name) for name in names], device=self.model.device)
            with by_group(self.model):
                texts = self._continue([prompt.tokens for prompt in batch], keys_R, max_new_tokens, temperature, top_p)
            yield [written(self.tokenizer, self.ends, *name, tokens) for name, tokens in zip(names, texts, strict=True)]

    @enough("lower evaluation.tokens_per_batch")
    @torch.inference_mode()
    def _continue(
        self, prompts: Sequence[Sequence[int]], keys_R: Tensor, max_new_tokens: int, temperature: float, top_p: float
    ) -> list[list[int]]:
        """New tokens of each text, in the order of `keys_R`; its texts divide evenly among the prompts."""
        longest, samples = max(map(len, prompts)), len(keys_R) // len(prompts)
        padding = [longest - len(tokens) for tokens in prompts]
        ids_BT = self._tensor(
            [[self.tokenizer.end] * gap + list(tokens) for gap, tokens in zip(padding, prompts, strict=True)]
        )
        mask_RT = self._tensor([[0] * gap + [1] * (longest - gap) for gap in padding])
        cache = cache_with_room(self.model.config, max_new_tokens)
        logits_RV = self.logits(ids_BT, mask_RT, (mask_RT.cumsum(1) - 1).clamp(min=0), cache)
        if samples > 1:
            cache.batch_repeat_interleave(samples)
            logits_RV, mask_RT = (tensor.repeat_interleave(samples, 0) for tensor in (logits_RV, mask_RT))
        texts: list[list[int]] = [[] for _ in keys_R]
        unfinished = list(range(len(texts)))
        for position in range(max_new_tokens):
            chosen = choose(logits_RV, keys_R, position, temperature=temperature, top_p=top_p).tolist()
            for row, token in zip(unfinished, chosen, strict=True):
                texts[row].append(token)
            going = _close_up([token not in self.ends for token in chosen])
            if not going or position == max_new_tokens - 1:
                break
            if len(going) < len(chosen):  # a finished text costs nothing more
                kept = self._tensor(going)
                cache.batch_select_indices(kept)
                mask_RT, keys_R = mask_RT[kept], keys_R[kept]
                unfinished = [unfinished[at] for at in going]
            mask_RT = torch.cat([mask_RT, mask_RT.new_ones(len(going), 1)], 1)
            last_R1 = self._tensor([[chosen[at]] for at in going])
            logits_RV = self.logits(last_R1, mask_RT, mask_RT.sum(1, keepdim=True) - 1, cache)
        return texts

    def logits(self, ids_RT: Tensor, mask: Tensor | None, positions_RT: Tensor, cache: DynamicCache) -> Tensor:
        """[R, V] logits of the token after the last; `mask` is [R, T], or [R, 1, 1, T], or None where all is seen."""
        out = self.model(
            input_ids=ids_RT,
            attention_mask=mask,
            position_ids=positions_RT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_RV: Tensor = out.logits[:, -1]
        return logits_RV

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, device=self.model.device)


def _close_up(going: Sequence[bool]) -> list[int]:
    """Which of the texts that go on takes each place: gaps are filled from the end, so that few have to move."""
    count = sum(going)
    last = (at for at in range(len(going) - 1, count - 1, -1) if going[at])
    return [at if going[at] else next(last) for at in range(count)]
