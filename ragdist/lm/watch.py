"""What happens beside each step of a training run: metrics, checkpoints made whole, requests to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ragdist.config import TrainConfig
from ragdist.errors import TrainError
from ragdist.lm import checkpoints, flops
from ragdist.lm.checkpoints import CHECKPOINTS, STOP
from ragdist.lm.rows import RowSchedule, Step
from ragdist.tracking.run import append_metrics


class Watch(TrainerCallback):
    """Notes each step in metrics.jsonl, completes checkpoints, and heeds a request to stop."""

    def __init__(self, plan: RowSchedule, folder: Path, config: TrainConfig) -> None:
        self.plan, self.folder, self.train = plan, folder, config
        self.first, self.ranks = dist.get_rank() == 0, dist.get_world_size()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        self.noted, self.time = state.global_step, time.monotonic()
        self.cost, self.place = flops.cost_of(model), torch.empty(0, device=args.device, dtype=model.dtype)
        if self.first:
            append_metrics(self.folder, "train_start", step=state.global_step, steps=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        asked = torch.tensor(int(self.first and (self.folder / STOP).exists()), device=args.device)
        dist.all_reduce(asked)
        if asked.item():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return  # the summary at the end
        step, now = state.global_step, time.monotonic()
        taken, seconds = self.plan.steps[self.noted : step], now - self.time
        useful, padded, most = (sum(getattr(one, name) for one in taken) for name in ("useful", "padded", "most"))
        values = {
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "epoch": round(step / state.max_steps * self.train.epochs, 4),
            "seconds": round(seconds, 3),
            "useful_tokens_per_s": round(useful / seconds, 2),
            "rank_tokens_per_s": round(useful / self.ranks / seconds, 2),
            "padded_share": round(1 - useful / padded, 4),
            "busy_share": round(useful / (self.ranks * most), 4),
            **self._utilization(taken, seconds),
        }
        if logs.get("grad_norm") is not None:  # ZeRO 0 in float32 keeps none
            values["grad_norm"] = logs["grad_norm"]
        self.noted, self.time = step, now
        if self.first:
            append_metrics(self.folder, "train", step=step, steps=state.max_steps, **values)
        if not math.isfinite(values["loss"]):
            raise TrainError(f"the loss is {values['loss']} at step {step}; lower train.learning_rate")

    def _utilization(self, taken: Sequence[Step], seconds: float) -> dict[str, float]:
        again = self.train.gradient_checkpointing
        counted = [flops.counted(one, self.cost, again) for step in taken for one in step.passes]
        done = sum(one.worth for one in counted), sum(one.done for one in counted)
        return flops.utilization([each / self.ranks / seconds for each in done], self.place)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        dist.barrier()
        if self.first:
            checkpoints.finish(
                self.folder / CHECKPOINTS / f"checkpoint-{state.global_step}", self.train.keep_checkpoints
            )
        dist.barrier()
