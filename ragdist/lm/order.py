"""Which rows each optimizer step trains on: a function of data, settings and seed, blind to the number of workers."""

from __future__ import annotations

from collections.abc import Sequence

from ragdist.config import TrainConfig
from ragdist.draws import rng_for
from ragdist.errors import ConfigError


def training_steps(rows: int, train: TrainConfig, block: str = "train") -> int:
    """Optimizer steps of a run over `rows` rows, one at least: `train.steps`.

    `block` is the one of the settings that `train` is, for the error.

    Raises:
        ConfigError: there is not even one row to train on.
    """
    steps = train.steps(rows)
    if not steps:
        raise ConfigError(
            f"{rows} training rows and {block}.epochs={train.epochs:g} give no row to train on, wanted one at least; "
            f"raise {block}.epochs, or make more rows"
        )
    return steps


def training_blocks(lengths: Sequence[int], train: TrainConfig, seed: int) -> list[list[int]]:
    """Row indexes of each step of the whole run; what is left over makes a smaller last step.

    Every epoch is a permutation of its own, and what an epoch leaves over begins the next one's first step. Inside
    a step the longest rows come first, so that rows of a microbatch, and microbatches that run side by side on
    several workers, are of about one length.

    Args:
        lengths: tokens of each row.
        train: passes over the rows (the fraction of a last one takes the beginning of its permutation, one row at
            least), and rows of one step, over all workers.
        seed: with the epoch's number it decides the permutation.
    """
    count, size = max(1, round(len(lengths) * train.epochs)), train.examples_per_step
    stream: list[int] = []
    epoch = 0
    while len(stream) < count:
        rows = list(range(len(lengths)))
        rng_for(seed, "train/order", str(epoch)).shuffle(rows)
        stream += rows
        epoch += 1
    blocks = (stream[start : min(start + size, count)] for start in range(0, count, size))
    return [sorted(block, key=lambda row: (-lengths[row], row)) for block in blocks]
