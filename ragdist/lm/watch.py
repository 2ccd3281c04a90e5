"""What happens beside each step of a training run: metrics, checkpoints made whole, requests to stop."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ragdist.config import TrainConfig
from ragdist.errors import TrainError
from ragdist.lm import checkpoints
from ragdist.lm.checkpoints import CHECKPOINTS, STOP
from ragdist.lm.rows import RowSchedule
from ragdist.tracking.run import append_metrics


class Watch(TrainerCallback):
    """Notes each step in metrics.jsonl, completes checkpoints, and heeds a request to stop."""

    def __init__(self, plan: RowSchedule, folder: Path, config: TrainConfig) -> None:
        self.plan, self.folder, self.train = plan, folder, config
        self.first = dist.get_rank() == 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.noted, self.time = state.global_step, time.monotonic()
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
        useful, padded = (sum(tokens[self.noted : step]) for tokens in (self.plan.useful, self.plan.padded))
        values = {
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "epoch": round(step / state.max_steps * self.train.epochs, 4),
            "seconds": round(now - self.time, 3),
            "useful_tokens_per_s": round(useful / (now - self.time), 2),
            "useful_share": round(useful / padded, 4),
        }
        if logs.get("grad_norm") is not None:  # ZeRO 0 in float32 keeps none
            values["grad_norm"] = logs["grad_norm"]
        self.noted, self.time = step, now
        if self.first:
            append_metrics(self.folder, "train", step=step, steps=state.max_steps, **values)
        if not math.isfinite(values["loss"]):
            raise TrainError(f"the loss is {values['loss']} at step {step}; lower train.learning_rate")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        dist.barrier()
        if self.first:
            checkpoints.finish(
                self.folder / CHECKPOINTS / f"checkpoint-{state.global_step}", self.train.keep_checkpoints
            )
        dist.barrier()
