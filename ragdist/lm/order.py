"""Which rows each optimizer step trains on: a function of data, settings and seed, blind to the number of workers."""

from __future__ import annotations

from collections.abc import Sequence

from ragdist.draws import rng_for
from ragdist.errors import ConfigError


def training_steps(rows: int, *, epochs: float, examples_per_step: int, block: str = "train") -> int:
    """Optimizer steps of a run over `rows` rows. What does not fill a last step is left out.

    `block` is the one of the settings that says so, for the error.

    Raises:
        ConfigError: not even one step can be filled.
    """
    steps = round(rows * epochs) // examples_per_step
    if not steps:
        raise ConfigError(
            f"{rows} training rows and {block}.epochs={epochs:g} give {round(rows * epochs)} rows, "
            f"{block}.examples_per_step={examples_per_step} wants more for one step; lower {block}.examples_per_step"
        )
    return steps


def training_order(lengths: Sequence[int], *, epochs: float, examples_per_step: int, seed: int) -> list[int]:
    """Row indexes of the whole run, `examples_per_step` after another for each step.

    Every epoch is a permutation of its own, and what an epoch leaves over begins the next one's first step. Inside
    a step the longest rows come first, so that rows of a microbatch, and microbatches that run side by side on
    several workers, are of about one length.

    Args:
        lengths: tokens of each row.
        epochs: passes over the rows; the fraction of a last one takes the beginning of its permutation.
        examples_per_step: rows of one step, over all workers.
        seed: with the epoch's number it decides the permutation.

    Raises:
        ConfigError: not even one step can be filled.
    """
    steps = training_steps(len(lengths), epochs=epochs, examples_per_step=examples_per_step)
    blocks = _blocks(lengths, steps * examples_per_step, examples_per_step, seed)
    return [row for block in blocks for row in block]


def training_blocks(lengths: Sequence[int], *, epochs: float, examples_per_step: int, seed: int) -> list[list[int]]:
    """Row indexes of each step, as `training_order` has them; what is left over makes a smaller last step."""
    return _blocks(lengths, max(1, round(len(lengths) * epochs)), examples_per_step, seed)


def _blocks(lengths: Sequence[int], count: int, examples_per_step: int, seed: int) -> list[list[int]]:
    stream: list[int] = []
    epoch = 0
    while len(stream) < count:
        rows = list(range(len(lengths)))
        rng_for(seed, "train/order", str(epoch)).shuffle(rows)
        stream += rows
        epoch += 1
    cuts = range(0, count, examples_per_step)
    blocks = (stream[start : min(start + examples_per_step, count)] for start in cuts)
    return [sorted(block, key=lambda row: (-lengths[row], row)) for block in blocks]
