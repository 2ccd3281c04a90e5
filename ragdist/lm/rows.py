"""A training run laid out in rows: what each step trains on, and how much of it is padding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ragdist.config import ModelConfig, Settings, TrainConfig
from ragdist.errors import DataError
from ragdist.lm.forward import Pass
from ragdist.lm.order import Passes, passes, training_blocks, training_steps
from ragdist.lm.zero import accumulation
from ragdist.records import Example, Record, from_row


class Step(NamedTuple):
    """What one optimizer step takes."""

    useful: int
    """Tokens, padding left out."""
    padded: int
    """Tokens that are computed: rows of a pass are padded to the longest; as `useful` where they are packed."""
    most: int
    """Useful tokens of the rank that has most of them."""
    passes: list[Pass]
    """Without those that are blank; where rows are packed, each row is one."""


@dataclass(frozen=True, slots=True)
class RowSchedule:
    """The run laid out in rows: what is trained on, when, and how much of it is padding."""

    table: pa.Table
    """A line a row: its tokens, and what else is to be known of it. After the last row stands the blank one, if any."""
    rows: int
    """Rows to train on, the blank one not among them."""
    order: list[int]
    """Lines of the table, pass after pass, those that ranks take side by side next to one another. A last step of
    microbatches that has fewer rows is filled up with the blank one, of which nothing is learned; so is a rank that has
    no rows for a pass."""
    batches: list[range]
    """Places in `order` of each pass: of N ranks, rank R takes every Nth, beginning with the Rth."""
    steps: list[Step]

    def passes(self, ranks: int) -> int:
        """Of each rank in each step."""
        return len(self.batches) // len(self.steps) // ranks


def lay_out(examples: Path, settings: Settings) -> RowSchedule:
    """The plan of a run over the rows of `examples`.

    Raises:
        ConfigError: there is no row to train on.
        DataError: a row has no token to learn.
    """
    rows = rows_of(Example, examples)
    for row in rows:
        if not 0 < row.prompt_tokens < len(row.tokens):
            raise DataError(
                f"row {row.id!r} of {examples} has {len(row.tokens)} tokens, {row.prompt_tokens} of them prompt; "
                "wanted a prompt and a target"
            )
    columns = {
        "tokens": pa.array([row.tokens for row in rows], pa.list_(pa.int32())),
        "prompt_tokens": pa.array([row.prompt_tokens for row in rows], pa.int32()),
    }
    blank = {"tokens": rows[0].tokens[:2], "prompt_tokens": 2} if rows else {}
    ranks, packed = settings.cluster.workers, packs(settings.model)
    return plan_of(pa.table(columns), blank, settings.train, settings.seed, ranks, packed=packed)


def rows_of(kind: type[Record], path: Path) -> list[Record]:
    """The records in a file of JSONL."""
    with path.open() as lines:
        return [from_row(kind, json.loads(line)) for line in lines]


def plan_of(
    table: pa.Table, blank: Mapping[str, Any], config: TrainConfig, seed: int, ranks: int, *, packed: bool = False
) -> RowSchedule:
    """The plan of a run over a table with a column `tokens`.

    Where there are too few rows there is a blank one, so that every worker has as many passes as any other and in any
    other step: it takes part in the forward and the backward pass, and neither in the loss nor in what that is divided
    by, so that the step is that of its real rows.

    Args:
        table: one line a row.
        blank: a line more, of few tokens, that adds nothing to the loss.
        config: how rows make steps and passes.
        seed: of their order.
        ranks: that learn together.
        packed: rows of a pass are laid end to end, without padding.

    Raises:
        ConfigError: there is no row to train on.
    """
    rows = len(table)
    training_steps(rows, config)
    lengths = pc.list_value_length(table["tokens"]).to_pylist()
    starts = table["prompt_tokens"].to_pylist() if "prompt_tokens" in table.column_names else list(lengths)
    steps = [passes(step, lengths, config, ranks, packed=packed) for step in training_blocks(lengths, config, seed)]
    count = max(accumulation(config, ranks), max(len(hands[0]) for hands in steps))
    cut = [_side_by_side(hands, count, rows, 0 if config.tokens_per_pass else config.microbatch) for hands in steps]
    table = pa.concat_tables([table, pa.Table.from_pylist([dict(blank)], table.schema)])
    lengths.append(len(blank["tokens"]))
    starts.append(lengths[-1])
    ends = list(accumulate(len(one) for one in chain.from_iterable(cut)))
    return RowSchedule(
        table,
        rows,
        [row for one in chain.from_iterable(cut) for row in one],
        [range(start, end) for start, end in zip([0, *ends], ends, strict=False)],
        [_step(hands, taken, lengths, starts, packed) for hands, taken in zip(steps, cut, strict=True)],
    )


def _side_by_side(hands: Passes, count: int, blank: int, size: int) -> list[list[int]]:
    """All passes of a step, `count` of each rank, in the order of `RowSchedule.order`; each has `size` rows or more."""
    even = [hand + [[]] * (count - len(hand)) for hand in hands]
    return [one + [blank] * (max(size, 1) - len(one)) for side in zip(*even, strict=True) for one in side]


def _step(hands: Passes, taken: Sequence[list[int]], lengths: list[int], starts: list[int], packed: bool) -> Step:
    rows = [[row for one in hand for row in one] for hand in hands]
    loads = [sum(lengths[row] for row in hand) for hand in rows]
    padded = sum(max(lengths[row] for row in one) * len(one) for one in taken)
    cut = [[row] for hand in rows for row in hand] if packed else [one for hand in hands for one in hand if one]
    counted = [Pass([lengths[row] for row in one], sum(lengths[row] - starts[row] for row in one), True) for one in cut]
    return Step(sum(loads), sum(loads) if packed else padded, max(loads), counted)


def features(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
    """What a trainer wants of a batch of rows: ids, and labels that are -100 on the prompt."""
    pairs = zip(rows["tokens"], rows["prompt_tokens"], strict=True)
    return {"input_ids": rows["tokens"], "labels": [[-100] * start + tokens[start:] for tokens, start in pairs]}


def packs(config: ModelConfig) -> bool:
    """Whether rows go through the model end to end, without padding: the flash kernels can distinguish them."""
    return config.attention.startswith("flash")
