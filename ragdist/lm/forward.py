"""The model on the sequences of a microbatch, with logits where answers are and nowhere else.

Axes: B rows (right-padded), T tokens, P kept positions, A answer tokens (right-padded), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ragdist.algo.losses import Answers, Batch
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
        self.useful = 0
        """Tokens computed so far, padding left out."""
        self.padded = 0
        """Tokens computed so far."""

    def __call__(self, batch: Batch, slots: Sequence[int] | None = None) -> tuple[Answers, ...]:
        """See `algo.losses.Forward`."""
        wanted = tuple(range(len(self.rows[0].tokens))) if slots is None else tuple(slots)
        if self.shared and len(wanted) > 1:
            return self._together(wanted)
        return tuple(self._alone(slot) for slot in wanted)

    def _alone(self, slot: int) -> Answers:
        """Without attention mask: padding on the right is behind everything that a causal model looks at."""
        lines = [list(row.tokens[slot]) for row in self.rows]
        before = [[at - 1 for at in range(row.prompt_tokens[slot], len(row.tokens[slot]))] for row in self.rows]
        kept, logits_BPV = self._logits(lines, [before])
        return self._answers(logits_BPV, kept, before, slot)

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
        kept, logits_BPV = self._logits(lines, before, attention_mask=mask_BTT.unsqueeze(1), position_ids=places_BT)
        return tuple(self._answers(logits_BPV, kept, where, slot) for where, slot in zip(before, slots, strict=True))

    def _logits(
        self, lines: list[list[int]], before: list[list[list[int]]], **more: Tensor
    ) -> tuple[dict[int, int], Tensor]:
        """[B, P, V] logits, and where in P each kept position is; those are kept that any row wants."""
        longest = max(map(len, lines))
        self.useful += sum(map(len, lines))
        self.padded += longest * len(lines)
        ids_BT = self._tensor([line + [0] * (longest - len(line)) for line in lines])
        positions = sorted({at for rows in before for row in rows for at in row})
        out = self.model(input_ids=ids_BT, use_cache=False, logits_to_keep=self._tensor(positions), **more)
        logits_BPV: Tensor = out.logits
        return {at: number for number, at in enumerate(positions)}, logits_BPV

    def _answers(self, logits_BPV: Tensor, kept: dict[int, int], before: list[list[int]], slot: int) -> Answers:
        """The logits of one slot's answers, lined up by answer token."""
        longest = max(map(len, before))
        index_BA = self._tensor([[kept[at] for at in row] + [0] * (longest - len(row)) for row in before])
        labels_BA = self._tensor(
            [
                [*row.tokens[slot][row.prompt_tokens[slot] :], *[0] * (longest - len(where))]
                for row, where in zip(self.rows, before, strict=True)
            ]
        )
        mask_BA = self._tensor([[True] * len(row) + [False] * (longest - len(row)) for row in before])
        rows_B1 = torch.arange(len(before), device=self.place.device).unsqueeze(1)
        return Answers(logits_BPV[rows_B1, index_BA], labels_BA, mask_BA)

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, device=self.place.device)
