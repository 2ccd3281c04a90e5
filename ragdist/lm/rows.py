"""A training run laid out in rows: what each step trains on, and how much of it is padding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ragdist.config import ModelConfig, Settings, TrainConfig
from ragdist.errors import DataError
from ragdist.lm.order import training_blocks, training_steps
from ragdist.records import Example, Record, from_row


@dataclass(frozen=True, slots=True)
class RowSchedule:
    """The run laid out in rows: what is trained on, when, and how much of it is padding."""

    table: pa.Table
    """A line a row: its tokens, and what else is to be known of it. After the last row stands the blank one, if any."""
    rows: int
    """Rows to train on, the blank one not among them."""
    order: list[int]
    """Lines of the table, `examples_per_step` after another for each step; a last step that has fewer rows is filled
    up with the blank one, of which nothing is learned."""
    useful: list[int]
    """Tokens of each step, padding left out."""
    padded: list[int]
    """Tokens of each step, rows of a microbatch padded to the longest; as `useful` when rows are packed."""


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
    return plan_of(pa.table(columns), blank, settings.train, settings.seed, packed=packs(settings.model))


def rows_of(kind: type[Record], path: Path) -> list[Record]:
    """The records in a file of JSONL."""
    with path.open() as lines:
        return [from_row(kind, json.loads(line)) for line in lines]


def plan_of(
    table: pa.Table, blank: Mapping[str, Any], config: TrainConfig, seed: int, *, packed: bool = False
) -> RowSchedule:
    """The plan of a run over a table with a column `tokens`.

    A last step that is not full is filled up with a blank row, so that every worker has as many microbatches as in any
    other step: it takes part in the forward and the backward pass, and neither in the loss nor in what that is divided
    by, so that the step is that of its real rows.

    Args:
        table: one line a row.
        blank: a line more, of few tokens, that adds nothing to the loss.
        config: how rows make steps and microbatches.
        seed: of their order.
        packed: rows of a microbatch are laid end to end, without padding.

    Raises:
        ConfigError: there is no row to train on.
    """
    rows = len(table)
    training_steps(rows, config)
    lengths = pc.list_value_length(table["tokens"]).to_pylist()
    steps = training_blocks(lengths, config, seed)
    useful = [sum(lengths[row] for row in step) for step in steps]
    if missing := config.examples_per_step - len(steps[-1]):
        table = pa.concat_tables([table, pa.Table.from_pylist([dict(blank)], table.schema)])
        lengths.append(len(blank["tokens"]))
        steps[-1] += [rows] * missing
    padded = [
        sum(lengths[step[at]] * config.microbatch for at in range(0, len(step), config.microbatch)) for step in steps
    ]
    return RowSchedule(table, rows, [row for step in steps for row in step], useful, useful if packed else padded)


def features(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
    """What a trainer wants of a batch of rows: ids, and labels that are -100 on the prompt."""
    pairs = zip(rows["tokens"], rows["prompt_tokens"], strict=True)
    return {"input_ids": rows["tokens"], "labels": [[-100] * start + tokens[start:] for tokens, start in pairs]}


def packs(config: ModelConfig) -> bool:
    """Whether rows go through the model end to end, without padding: the flash kernels can distinguish them."""
    return config.attention.startswith("flash")
