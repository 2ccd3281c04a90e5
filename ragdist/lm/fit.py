"""The course of a tuning run, whatever is learned: rows laid out, steps, checkpoints, the model saved.

A TrainerSpec brings what differs: how its rows are read, the model that it begins with, and a trainer whose loss is
divided by a total of the whole step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from ragdist.config import ModelConfig, Settings
from ragdist.errors import Stopped
from ragdist.lm import checkpoints, zero
from ragdist.lm.checkpoints import CHECKPOINTS, MODEL, STOP
from ragdist.lm.load import ModelHead, add_lora, dtype_of
from ragdist.lm.memory import enough
from ragdist.lm.rows import RowSchedule
from ragdist.lm.save import card, save
from ragdist.lm.source import resolve
from ragdist.lm.watch import Watch

log = logging.getLogger("ragdist")


class TrainerSpec(NamedTuple):
    """What is learned."""

    task: ModelHead
    """The model's, in peft's words."""
    lay_out: Callable[[Path, Settings], RowSchedule]
    base: Callable[[ModelConfig, int], Any]
    """The model that training begins with, without adapters; a new head is drawn by the seed."""
    arguments: Callable[[dict[str, Any], ModelConfig], TrainingArguments]
    """Given those that all trainers share."""
    trainer: Callable[[Any, TrainingArguments, RowSchedule, Settings], Any]
    """Given the model to train."""


class CheckpointMixin:
    """For trainers: takes the plan's batches, and writes no second copy of the weights beside DeepSpeed's, and no card,
    into a checkpoint."""

    args: Any
    optimizer: Any
    train_dataset: Any
    data_collator: Any
    batches: Sequence[Sequence[int]] = ()
    """Places in the data set that this rank takes together; where there are none, microbatches of one size."""
    clip: float | None = None
    """Largest gradient norm (0 does not clip) at stage 0, where DeepSpeed measures none itself."""

    def get_train_dataloader(self) -> Any:
        """The trainer's own, or one of `batches`."""
        if not self.batches:
            return super().get_train_dataloader()  # type: ignore[misc]
        return DataLoader(
            self.train_dataset, batch_sampler=[list(batch) for batch in self.batches], collate_fn=self.data_collator
        )

    def create_optimizer(self, *about: Any) -> torch.optim.Optimizer:
        """The trainer's own, which is asked for again and again; made ready to clip."""
        fresh = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*about)  # type: ignore[misc]
        if fresh and self.clip is not None:
            zero.clip_before_steps(optimizer, self.clip)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Makes the folder."""
        Path(output_dir or str(self.args.output_dir)).mkdir(parents=True, exist_ok=True)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Leaves it to `lm.save`."""


class _Alone(TrainerCallback):
    """Tells the trainer's engine, once it is there, that it has nobody to average with, where that is so."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        zero.average_nothing(self.trainer.deepspeed)


def fit(
    subject: TrainerSpec, rows: Path, folder: Path, settings: Settings, name: str, callbacks: Sequence[TrainerCallback]
) -> Path:
    """See `lm.tune.tune`."""
    if (folder / MODEL).exists():
        return folder / MODEL
    plan = subject.lay_out(rows, settings)
    log.info("%d rows are laid out in %d steps", plan.rows, len(plan.steps))
    zero.prepare()
    with zero.process_group(), zero.quiet(), checkpoints.alone(folder):
        trainer, resume = _trainer(subject, plan, folder, settings)
        log.info("the model is loaded on %s", trainer.args.device)
        for callback in (_Alone(trainer), Watch(plan, folder, settings.train), *callbacks):
            trainer.add_callback(callback)
        with enough(f"lower this training's {settings.train.cut_by}, or set its gradient_checkpointing=true"):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if dist.get_rank() == 0:
            (folder / STOP).unlink(missing_ok=True)
        if trainer.state.global_step < trainer.state.max_steps:
            raise Stopped(f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, state saved")
        save(trainer, folder, settings, subject.base, card(name, trainer, plan, rows, settings))
    return folder / MODEL


def _trainer(subject: TrainerSpec, plan: RowSchedule, folder: Path, settings: Settings) -> tuple[Any, Path | None]:
    """The subject's trainer, and the checkpoint that it resumes from."""
    resolve(settings.model)  # a GGUF file is converted whole, before sharding is switched on
    arguments = subject.arguments(_arguments(folder, settings, plan), settings.model)
    resume = checkpoints.agreed(folder / CHECKPOINTS)
    # after the arguments: they tell transformers to shard at loading
    model = add_lora(subject.base(settings.model, settings.seed), settings.train.lora, settings.seed, subject.task)
    trainer = subject.trainer(model, arguments, plan, settings)
    if settings.train.tokens_per_pass:
        trainer.batches = plan.batches[dist.get_rank() :: dist.get_world_size()]
    if not settings.train.stage(settings.cluster.workers, dtype_of(settings.model).itemsize):
        trainer.clip = settings.train.gradient_clip
    trainer.remove_callback(PrinterCallback)
    return trainer, resume


def _arguments(folder: Path, settings: Settings, plan: RowSchedule) -> dict[str, Any]:
    train, passes = settings.train, plan.passes(settings.cluster.workers)
    dtype = dtype_of(settings.model)
    config = zero.zero_config(train, settings.cluster.workers, dtype) | {"gradient_accumulation_steps": passes}
    return {
        "output_dir": str(folder / CHECKPOINTS),
        "deepspeed": config,
        "bf16": dtype == torch.bfloat16,
        "use_cpu": not torch.cuda.is_available(),
        "num_train_epochs": 1,  # the plan holds all epochs
        "per_device_train_batch_size": train.microbatch,
        "gradient_accumulation_steps": passes,
        "train_sampling_strategy": "sequential",
        "accelerator_config": {"even_batches": False},
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.schedule,
        "warmup_steps": int(train.warmup * len(plan.steps)),  # rounded down: the first of them has learning rate 0
        "weight_decay": train.weight_decay,
        "max_grad_norm": config["gradient_clipping"],  # anything else is refused
        "gradient_checkpointing": train.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if train.gradient_checkpointing else None,
        "seed": settings.seed,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": train.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_steps": train.checkpoint_every,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
    }
