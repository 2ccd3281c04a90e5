"""Optimizer steps on rows of Bundle, blind to what the loss is about.

Which rows a step has does not depend on the number of ranks, nor, where `train.tokens_per_pass` is 0, does which of
them make a microbatch. Losses are divided by totals of the whole step, so that uneven shares weigh right.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ragdist.algo.losses import Batch, Loss, Totals
from ragdist.config import TrainConfig
from ragdist.errors import DataError, TrainError
from ragdist.lm import flops
from ragdist.lm.forward import Sequences, shares_prompt
from ragdist.lm.order import Passes, passes, training_blocks
from ragdist.records import Bundle

COUNTED = ("useful", "padded", "worth", "done")
"""Sums over a step beside the loss's own: as `lm.flops.counted` has them."""
LossOf = Callable[..., Loss]
"""loss(forward, batch, *, total) -> Loss"""
Prepare = Callable[..., Mapping[str, Tensor]]
"""prepare(forward, batch) -> {name: [B]}"""


class LearningTask(NamedTuple):
    """What is learned, from what, how."""

    loss: LossOf
    prepare: Prepare | None
    rows: Sequence[Bundle]
    train: TrainConfig
    seed: int


def lay_out(
    rows: Sequence[Bundle], train: TrainConfig, seed: int, ranks: int = 1, *, shared: bool = False
) -> list[Passes]:
    """Row indexes of each step, by rank and pass; the last step takes what is left over.

    Args:
        rows: to learn from.
        train: how rows make steps and passes.
        seed: of their order.
        ranks: that learn together.
        shared: a row's prompt is computed once for all its sequences.

    Raises:
        DataError: there is no row, or a row has no prompt, nothing to learn, or another number of sequences.
    """
    if not rows:
        raise DataError("there is no row to learn from; wanted one or more")
    for row in rows:
        starts = zip(row.tokens, row.prompt_tokens, strict=True)
        if len(row.tokens) != len(rows[0].tokens) or not all(0 < start < len(tokens) for tokens, start in starts):
            raise DataError(
                f"row {row.id!r} has sequences of {[len(tokens) for tokens in row.tokens]} tokens, "
                f"{list(row.prompt_tokens)} of them prompt; wanted {len(rows[0].tokens)}, each a prompt and a target"
            )
    lengths = [sum(map(len, row.tokens)) for row in rows]
    blocks = training_blocks(lengths, train, seed)
    if shared:
        lengths = [length - sum(row.prompt_tokens[1:]) for length, row in zip(lengths, rows, strict=True)]
    return [passes(block, lengths, train, ranks) for block in blocks]


def learning_rate(train: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of step `step` of `steps`, counted from 0; as transformers' schedules have it.

    Warm-up is rounded down to whole steps, and the first of them has learning rate 0.
    """
    warm = int(train.warmup * steps)
    if step < warm:
        return train.learning_rate * step / warm
    done = (step - warm) / max(1, steps - warm)
    shares = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant_with_warmup": 1.0}
    return train.learning_rate * shares[train.schedule]


class Learning:
    """One phase of learning on a DeepSpeed engine; every rank makes one and takes the same steps.

    Args:
        engine: of this rank; in the state that the phase begins with.
        task: what to learn, the same on all ranks.

    Raises:
        DataError: rows that cannot be learned from.
    """

    def __init__(self, engine: Any, task: LearningTask) -> None:
        self.engine, self.task = engine, task
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.shared = shares_prompt(task.rows, engine.module.config)
        self.plan = lay_out(task.rows, task.train, task.seed, self.world, shared=self.shared)
        self.cost = flops.cost_of(engine.module)
        self.place = torch.empty(0, device=engine.device, dtype=engine.module.dtype)
        self.prepared: dict[str, Tensor] = {}
        """[rows] numbers for the loss, on the CPU; `prepare` or a checkpoint fills it in."""
        slots = len(task.rows[0].tokens)
        self.blank = Bundle(id="", tokens=((0, 0),) * slots, prompt_tokens=(1,) * slots)

    def prepare(self) -> None:
        """Computes what the loss wants to know of the model as it is now, once for each row.

        In the microbatches of the first steps, so that rounding is theirs too.
        """
        if self.task.prepare is None:
            return
        seen: set[int] = set()
        wanted: list[list[int]] = []
        for microbatch in chain.from_iterable(side for step in self.plan for side in zip(*step, strict=True)):
            if not seen.issuperset(microbatch):
                seen.update(microbatch)
                wanted.append(microbatch)
        mine: dict[str, list[tuple[int, float]]] = {}
        wanted += [[]] * (-len(wanted) % self.world)
        for microbatch in wanted[self.rank :: self.world]:
            rows = [self.task.rows[row] for row in microbatch] or [self.blank]
            found = self.task.prepare(Sequences(self.engine, rows, self.shared, self.place), Batch(len(rows), {}))
            for name, values in found.items():
                mine.setdefault(name, []).extend(zip(microbatch, values.tolist(), strict=False))
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, mine)
        for name in parts[0]:
            values = torch.zeros(len(self.task.rows))
            known: dict[int, float] = {}
            for row, value in (pair for part in parts for pair in part[name]):
                known.setdefault(row, value)  # of the earliest microbatch... the same row may stand in two epochs
            values[list(known)] = torch.tensor(list(known.values()))
            self.prepared[name] = values

    def step(self, number: int) -> dict[str, float]:
        """Takes step `number`, counted from 0.

        Raises:
            TrainError: the loss is not a number any more.
        """
        began = time.monotonic()
        rate = learning_rate(self.task.train, number, len(self.plan))
        for group in self.engine.basic_optimizer.param_groups:
            group["lr"] = rate
        rows = [self.task.rows[row] for hand in self.plan[number] for microbatch in hand for row in microbatch]
        total = Totals(sum(row.target_tokens for row in rows), len(rows))
        mine, sums = self.plan[number][self.rank], Counter[str]()
        for at, microbatch in enumerate(mine, 1):
            self.engine.set_gradient_accumulation_boundary(at == len(mine))
            sums.update(self._backward(microbatch, total))
        found, most = self._over_ranks(sums)
        if not math.isfinite(found["loss"]):
            raise TrainError(f"the loss is {found['loss']} at step {number + 1}; lower this side's train.learning_rate")
        useful, padded, *done = (found.pop(name) for name in COUNTED)
        norm, seconds = self.engine.get_global_grad_norm(), time.monotonic() - began
        return {
            "step": number + 1,
            **found,
            "learning_rate": rate,
            **({} if norm is None else {"grad_norm": float(norm)}),  # ZeRO 0 in float32 keeps none
            "tokens": useful,
            "padded_share": round(1 - useful / padded, 4),
            "busy_share": round(useful / (self.world * most), 4),
            "rank_tokens_per_s": round(useful / self.world / seconds, 2),
            **flops.utilization([each / self.world / seconds for each in done], self.place),
            "seconds": round(seconds, 3),
        }

    def _over_ranks(self, sums: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """Sums over all ranks, and the useful tokens of the rank that has most of them."""
        names = sorted(sums)
        summed = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=self.place.device)
        most = summed[names.index("useful")].clone()
        dist.all_reduce(summed)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return dict(zip(names, summed.tolist(), strict=True)), most.item()

    def _backward(self, microbatch: list[int], total: Totals) -> dict[str, float]:
        """The microbatch's part of the step's gradient and numbers.

        An empty one runs the loss on a blank row and weighs it with 0: every rank has to take part in each forward
        and each backward pass, where weights or gradients are sharded.
        """
        rows = [self.task.rows[row] for row in microbatch] or [self.blank]
        picked = {
            name: (values[microbatch] if microbatch else torch.zeros(1)).to(self.place.device)
            for name, values in self.prepared.items()
        }
        forward = Sequences(self.engine, rows, self.shared, self.place)
        loss = self.task.loss(forward, Batch(len(rows), picked), total=total)
        weight = 1.0 if microbatch else 0.0
        # DeepSpeed averages over ranks and, unless told not to, over microbatches; ours are parts of one sum.
        self.engine.backward(loss.scalar * (weight * self.world), scale_wrt_gas=False)
        self.engine.step()
        numbers = {"loss": loss.scalar.detach(), **loss.metrics}
        said = {name: weight * float(value) for name, value in numbers.items()}
        taken = [flops.counted(one, self.cost, self.task.train.gradient_checkpointing) for one in forward.passes]
        counts = zip(COUNTED, map(sum, zip(*taken, strict=True)), strict=True)
        return said | {name: weight * float(count) for name, count in counts}
