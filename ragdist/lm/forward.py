"""The model on the sequences of a microbatch, with logits where answers are and nowhere else.

Axes: B rows (right-padded), T tokens, A answer tokens (right-padded), N those of all rows in a line, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ragdist.algo.losses import Answers, Batch
from ragdist.lm.head import logits_at
from ragdist.records import Bundle

KERNELS = ("sdpa", "eager")
"""Attention that heeds a mask of our own."""


def shares_prompt(rows: Sequence[Bundle], shape: Any) -> bool:
    """Whether all sequences of every row follow one prompt, and the model can be made to read that prompt once.

    Args:
        rows: all rows of a phase, so that every rank decides alike.
        shape: the model's configuration; its positions must be rotary and its attention full.
    """
    layers = set(getattr(shape, "layer_types", None) or ["full_attention"])
    if (
        shape._attn_implementation not in KERNELS
        or layers != {"full_attention"}
        or getattr(shape, "sliding_window", None)
        or not getattr(shape, "rope_parameters", None)
    ):
        return False
    return all(
        len({tokens[:start] for tokens, start in zip(row.tokens, row.prompt_tokens, strict=True)}) == 1
        and len(row.tokens) > 1
        for row in rows
    )


class Pass(NamedTuple):
    """One forward pass."""

    lines: Sequence[int]
    """Tokens of each line, padding left out; all are padded to the longest."""
    kept: int
    """Positions that logits were made at."""
    learns: bool
    """A backward pass follows."""

    @property
    def useful(self) -> int:
        """Tokens, padding left out."""
        return sum(self.lines)

    @property
    def padded(self) -> int:
        """Tokens that were computed."""
        return max(self.lines) * len(self.lines)


class Sequences:
    """Implements `algo.losses.Forward` on the rows of one microbatch.

    Args:
        model: called as a causal language model of transformers is.
        rows: of one number of sequences each.
        shared: all sequences of a row follow one prompt, which is computed once.
        place: a tensor of the device and number format that the model works in.
    """

    def __init__(self, model: Callable[..., Any], rows: Sequence[Bundle], shared: bool, place: Tensor) -> None:
        self.model, self.rows, self.shared, self.place = model, rows, shared, place
        self.passes: list[Pass] = []
        """Those taken so far."""

    def __call__(self, batch: Batch, slots: Sequence[int] | None = None) -> tuple[Answers, ...]:
        """See `algo.losses.Forward`."""
        wanted = tuple(range(len(self.rows[0].tokens))) if slots is None else tuple(slots)
        if self.shared and len(wanted) > 1:
            return self._together(wanted)
        return tuple(self._alone(slot) for slot in wanted)

    def _alone(self, slot: int) -> Answers:
        """Without attention mask: padding on the right is behind everything that a causal model looks at."""
        lines = [list(row.tokens[slot]) for row in self.rows]
        before = [list(range(row.prompt_tokens[slot] - 1, len(row.tokens[slot]) - 1)) for row in self.rows]
        return self._answers(lines, [before], (slot,))[0]

    def _together(self, slots: tuple[int, ...]) -> tuple[Answers, ...]:
        """Each row is its prompt and all its answers in a line; an answer sees the prompt and itself.

        Positions are counted as if each answer stood behind the prompt alone.
        """
        lines, places, parts = [], [], []
        before: list[list[list[int]]] = [[] for _ in slots]
        for row in self.rows:
            start = row.prompt_tokens[slots[0]]
            line, place, part = list(row.tokens[slots[0]][:start]), list(range(start)), [-1] * start
            for number, slot in enumerate(slots):
                answer = row.tokens[slot][start:]
                before[number].append([start - 1, *range(len(line), len(line) + len(answer) - 1)])
                line += answer
                place += range(start, start + len(answer))
                part += [number] * len(answer)
            lines.append(line)
            places.append(place)
            parts.append(part)
        longest = max(map(len, lines))
        part_BT = self._tensor([part + [-2] * (longest - len(part)) for part in parts])
        places_BT = self._tensor([place + [0] * (longest - len(place)) for place in places])
        ahead_TT = torch.ones(longest, longest, dtype=torch.bool, device=self.place.device).triu(1)
        other_BTT = (part_BT.unsqueeze(2) != part_BT.unsqueeze(1)) & (part_BT.unsqueeze(1) != -1)
        mask_BTT = torch.zeros(other_BTT.shape, dtype=self.place.dtype, device=self.place.device)
        mask_BTT.masked_fill_(other_BTT | ahead_TT, torch.finfo(self.place.dtype).min)
        return self._answers(lines, before, slots, attention_mask=mask_BTT.unsqueeze(1), position_ids=places_BT)

    def _answers(
        self, lines: list[list[int]], before: list[list[list[int]]], slots: tuple[int, ...], **more: Tensor
    ) -> tuple[Answers, ...]:
        """Answers of these slots by one pass over `lines`; `before[s][b]` are the positions in line b that predict the
        answer tokens of slot s."""
        longest = max(map(len, lines))
        ids_BT = self._tensor([line + [0] * (longest - len(line)) for line in lines])
        wanted_N2 = self._tensor([(row, at) for rows in before for row, places in enumerate(rows) for at in places])
        self.passes.append(Pass([len(line) for line in lines], len(wanted_N2), torch.is_grad_enabled()))
        logits_NV = logits_at(self.model, *wanted_N2.unbind(1), input_ids=ids_BT, use_cache=False, **more)
        parts = torch.split(logits_NV, [sum(map(len, rows)) for rows in before])
        return tuple(Answers(part_NV, *self._labels(slot)) for part_NV, slot in zip(parts, slots, strict=True))

    def _labels(self, slot: int) -> tuple[Tensor, Tensor]:
        """[B, A] answer tokens of a slot, and where they are."""
        answers = [row.tokens[slot][row.prompt_tokens[slot] :] for row in self.rows]
        longest = max(map(len, answers))
        labels_BA = self._tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers])
        return labels_BA, self._tensor([[at < len(answer) for at in range(longest)] for answer in answers])

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, device=self.place.device)
