"""A training run laid out in rows: what each step trains on, and how much of it is padding."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ragdist.config import Settings
from ragdist.errors import DataError
from ragdist.lm.order import training_order
from ragdist.records import Example, from_row


@dataclass(frozen=True, slots=True)
class Plan:
    """The run laid out in rows: what is trained on, when, and how much of it is padding."""

    table: pa.Table
    """Columns tokens and prompt_tokens, one row an example."""
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
    with examples.open() as lines:
        rows = [from_row(Example, json.loads(line)) for line in lines]
    for row in rows:
        if not 0 < row.prompt_tokens < len(row.tokens):
            raise DataError(
                f"row {row.id!r} of {examples} has {len(row.tokens)} tokens, {row.prompt_tokens} of them prompt; "
                "wanted a prompt and a target"
            )
    lengths = [len(row.tokens) for row in rows]
    train = settings.train
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
    table = pa.table(
        {
            "tokens": pa.array([row.tokens for row in rows], pa.list_(pa.int32())),
            "prompt_tokens": pa.array([row.prompt_tokens for row in rows], pa.int32()),
        }
    )
    return Plan(table, order, useful, useful if packs(settings) else padded)


def features(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
    """What a trainer wants of a batch of rows: ids, and labels that are -100 on the prompt."""
    pairs = zip(rows["tokens"], rows["prompt_tokens"], strict=True)
    return {"input_ids": rows["tokens"], "labels": [[-100] * start + tokens[start:] for tokens, start in pairs]}


def packs(settings: Settings) -> bool:
    """Whether rows go through the model end to end, without padding: the flash kernels can tell them apart."""
    return settings.model.attention.startswith("flash")
