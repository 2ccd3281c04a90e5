"""Which rows each optimizer step trains on: a function of data, settings and seed, blind to the number of workers.

And how a step's rows are cut into forward passes and dealt to ranks, which changes rounding and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace

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


Passes = list[list[list[int]]]
"""[rank][pass] -> rows. Example: [[[0], [3, 5]], [[1], [2, 4]]] is two ranks with two passes each."""


def passes(
    step: Sequence[int], lengths: Sequence[int], train: TrainConfig, ranks: int, *, packed: bool = False
) -> Passes:
    """The rows of a step, cut and dealt as `train` says; every rank has as many passes, missing ones are empty.

    Args:
        step: row indexes, the longest first.
        lengths: tokens of each row there is.
        train: `tokens_per_pass`; where that is 0 microbatches of `microbatch` rows, dealt in turn.
        ranks: that learn together.
        packed: rows of a pass are laid end to end, without padding.
    """
    if train.tokens_per_pass:
        dealt = deal([lengths[row] for row in step], ranks, train.tokens_per_pass, packed=packed)
        hands = [[[step[at] for at in one] for one in hand] for hand in dealt]
    else:
        cut = [list(step[at : at + train.microbatch]) for at in range(0, len(step), train.microbatch)]
        hands = [cut[rank::ranks] for rank in range(ranks)]
    most = max(map(len, hands))
    return [hand + [[]] * (most - len(hand)) for hand in hands]


def deal(lengths: Sequence[int], ranks: int, budget: int, *, packed: bool = False) -> Passes:
    """Rows to ranks, the longest first and each to the rank that has the fewest tokens; a rank's rows in passes.

    Example: `deal([9, 7, 6, 5, 4, 2], ranks=2, budget=12)` is `[[[0], [3, 5]], [[1], [2, 4]]]`

    Args:
        lengths: tokens of each row.
        ranks: that share the rows.
        budget: tokens of a pass at most, padding included; a longer row has a pass of its own.
        packed: there is no padding.
    """
    hands: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        load, rank = loads[0]
        hands[rank].append(row)
        heapreplace(loads, (load + lengths[row], rank))
    return [_cut(hand, lengths, budget, packed) for hand in hands]


def _cut(rows: Sequence[int], lengths: Sequence[int], budget: int, packed: bool) -> list[list[int]]:
    """Rows, the longest first, in passes within the budget."""
    cut: list[list[int]] = []
    tokens = budget
    for row in rows:
        width = lengths[row] if packed or not cut else lengths[cut[-1][0]]
        if tokens + width > budget:
            cut.append([])
            tokens, width = 0, lengths[row]
        cut[-1].append(row)
        tokens += width
    return cut


def busy_share(loads: Sequence[float]) -> float:
    """The part of all ranks' time that has work in it, where a rank works as long as its tokens are many and then
    waits for the one that has the most. Example: `busy_share([16, 17])` is 33 / 34."""
    return sum(loads) / (len(loads) * max(loads))
