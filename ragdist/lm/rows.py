"""A training run laid out in rows: what each step trains on, and how much of it is padding."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ragdist.config import Settings
from ragdist.errors import DataError
from ragdist.lm.order import training_order
from ragdist.records import Example, Record, from_row


@dataclass(frozen=True, slots=True)
class Plan:
    """The run laid out in rows: what is trained on, when, and how much of it is padding."""

    table: pa.Table
    """A line a row: its tokens, and what else is to be known of it."""
    order: list[int]
    """Row indexes, `examples_per_step` after another for each step."""
    useful: list[int]
    """Tokens of each step, padding left out."""
    padded: list[int]
    """Tokens of each step, rows of a microbatch padded to the longest; as `useful` when rows are packed."""


def lay_out(examples: Path, settings: Settings) -> Plan:
    """The plan of a run over the rows of `examples`.

    Raises:
        ConfigError: fewer rows than `train.examples_per_step`.
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
    return plan_of(pa.table(columns), settings, packed=packs(settings))


def rows_of(kind: type[Record], path: Path) -> list[Record]:
    """The records in a file of JSONL."""
    with path.open() as lines:
        return [from_row(kind, json.loads(line)) for line in lines]


def plan_of(table: pa.Table, settings: Settings, *, packed: bool = False) -> Plan:
    """The plan of a run over a table with a column `tokens`.

    Args:
        table: one line a row.
        settings: seed, and how rows make steps and microbatches.
        packed: rows of a microbatch are laid end to end, without padding.

    Raises:
        ConfigError: fewer rows than `train.examples_per_step`.
    """
    lengths, train = pc.list_value_length(table["tokens"]).to_pylist(), settings.train
    order = training_order(lengths, epochs=train.epochs, examples_per_step=train.examples_per_step, seed=settings.seed)
    useful, padded = [], []
    for start in range(0, len(order), train.examples_per_step):
        step = [lengths[row] for row in order[start : start + train.examples_per_step]]
        useful.append(sum(step))
        padded.append(
            sum(
                max(step[at : at + train.microbatch]) * train.microbatch for at in range(0, len(step), train.microbatch)
            )
        )
    return Plan(table, order, useful, useful if packed else padded)


def features(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
    """What a trainer wants of a batch of rows: ids, and labels that are -100 on the prompt."""
    pairs = zip(rows["tokens"], rows["prompt_tokens"], strict=True)
    return {"input_ids": rows["tokens"], "labels": [[-100] * start + tokens[start:] for tokens, start in pairs]}


def packs(settings: Settings) -> bool:
    """Whether rows go through the model end to end, without padding: the flash kernels can tell them apart."""
    return settings.model.attention.startswith("flash")
