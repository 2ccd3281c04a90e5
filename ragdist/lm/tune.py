"""Examples -> a tuned model: TRL's SFTTrainer on DeepSpeed ZeRO, in the process group that this process is in.

Every rank calls `tune` with the same arguments. The rows of a step, the microbatches they form and the loss per
answer token do not depend on how many ranks there are; a run that was killed goes on from its newest checkpoint
and ends with the same bits.

    folder/checkpoints/checkpoint-N     each rank's part of the optimizer and the weights
    folder/model                        the tuned model, a plain transformers folder
    folder/metrics.jsonl, tensorboard/  loss, learning rate, gradient norm, useful tokens per second
    folder/stop                         made by `request_stop`: the run saves after the step it is in, and ends
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
import yaml
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ragdist import track
from ragdist.config import Settings
from ragdist.errors import DataError, StorageError, Stopped, TrainError
from ragdist.lm import checkpoints, zero
from ragdist.lm.load import add_lora, dtype_of, load_codec, load_model
from ragdist.lm.order import training_order
from ragdist.records import Example, from_row

MODEL, CHECKPOINTS, STOP = "model", "checkpoints", "stop"
ORPHANS_S = 60
"""Longest wait, in seconds, for ranks of an earlier call to notice that their driver is gone."""


def request_stop(folder: Path) -> None:
    """Asks the run in `folder` to save after the step it is in, and to end."""
    (folder / STOP).touch()


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
        padded.append(sum(max(step[at : at + train.microbatch]) * train.microbatch for at in range(0, len(step), train.microbatch)))
    table = pa.table(
        {
            "tokens": pa.array([row.tokens for row in rows], pa.list_(pa.int32())),
            "prompt_tokens": pa.array([row.prompt_tokens for row in rows], pa.int32()),
        }
    )
    return Plan(table, order, useful, useful if _packs(settings) else padded)


def tune(examples: Path, folder: Path, settings: Settings, *, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """The folder of the tuned model, `folder/model`.

    Args:
        examples: JSONL of Example; every rank reads it.
        folder: the run's folder, shared by all ranks.
        settings: `train`, `model`, `seed` and `cluster.workers`, which is the size of the process group.
        callbacks: more transformers callbacks, told of every step and save after ours.

    Raises:
        ConfigError, DataError, ModelError: the settings, the rows or the model cannot be trained.
        Stopped: `request_stop` was called; the state is saved and the same call goes on.
        TrainError: the loss is not a number any more.
    """
    if (folder / MODEL).exists():
        return folder / MODEL
    plan = lay_out(examples, settings)
    zero.prepare()
    with zero.process_group(), zero.quiet(), _alone(folder):
        trainer, resume = _trainer(plan, folder, settings, callbacks)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if trainer.state.global_step < trainer.state.max_steps:
            if dist.get_rank() == 0:
                (folder / STOP).unlink(missing_ok=True)
            raise Stopped(f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, state saved")
        _save(trainer, folder, settings, _card(trainer, plan, examples, settings))
    return folder / MODEL


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Rank 0 waits until ranks of an earlier call, whose driver was killed, are gone; the others wait for rank 0."""
    with (folder / ".training").open("w") as lock:
        if dist.get_rank() == 0:
            for _ in range(ORPHANS_S):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(1)
            else:
                raise StorageError(
                    f"workers of another run still write into {folder} after {ORPHANS_S} s; end them, or set run.name"
                )
        dist.barrier()
        yield


def _trainer(plan: Plan, folder: Path, settings: Settings, callbacks: Sequence[TrainerCallback]) -> tuple[Any, Path | None]:
    """TRL's trainer over the plan, and the checkpoint that it goes on from."""
    from datasets import Dataset
    from trl import SFTTrainer

    class Trainer(SFTTrainer):
        """Writes no second copy of the weights beside DeepSpeed's, and no card, into a checkpoint."""

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            return

    arguments = _arguments(folder, settings, len(plan.useful))  # first: it tells transformers to shard at loading
    found = [checkpoints.newest(folder / CHECKPOINTS) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)  # one rank decides: a shared folder may look older on another machine
    model = add_lora(load_model(settings.model, training=True), settings.train.lora, settings.seed)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Dataset(plan.table).with_transform(_features).select(plan.order),
        processing_class=load_codec(settings.model).tokenizer,
        callbacks=[Watch(plan, folder, settings), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, found[0]


def _features(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
    """What a trainer wants of a batch of rows: ids, and labels that are -100 on the prompt."""
    pairs = zip(rows["tokens"], rows["prompt_tokens"], strict=True)
    return {"input_ids": rows["tokens"], "labels": [[-100] * start + tokens[start:] for tokens, start in pairs]}


def _packs(settings: Settings) -> bool:
    return settings.model.attention.startswith("flash")


def _arguments(folder: Path, settings: Settings, steps: int) -> TrainingArguments:
    from trl import SFTConfig

    train = settings.train
    dtype = dtype_of(settings.model)
    return SFTConfig(
        output_dir=str(folder / CHECKPOINTS),
        deepspeed=zero.zero_config(settings, dtype),
        bf16=dtype == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        num_train_epochs=1,  # the plan holds all epochs
        per_device_train_batch_size=train.microbatch,
        gradient_accumulation_steps=zero.accumulation(settings),
        train_sampling_strategy="sequential",
        accelerator_config={"even_batches": False},
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=int(train.warmup * steps),  # rounded down: the first of them has learning rate 0
        weight_decay=train.weight_decay,
        max_grad_norm=train.gradient_clip,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        seed=settings.seed,
        max_length=None,
        padding_free=_packs(settings),
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=train.log_every,
        logging_nan_inf_filter=False,
        save_steps=train.checkpoint_every,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
    )


class Watch(TrainerCallback):
    """Notes each step in metrics.jsonl and TensorBoard, completes checkpoints, and heeds a request to stop."""

    def __init__(self, plan: Plan, folder: Path, settings: Settings) -> None:
        self.plan, self.folder, self.train = plan, folder, settings.train
        self.first = dist.get_rank() == 0
        self.board: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.noted, self.time = state.global_step, time.monotonic()
        if self.first:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=state.global_step + 1)
            track.append_metrics(
                self.folder,
                "train_start",
                step=state.global_step,
                steps=state.max_steps,
                rows_left_out=round(len(self.plan.table) * self.train.epochs) - len(self.plan.order),
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        asked = torch.tensor(int(self.first and (self.folder / STOP).exists()), device=args.device)
        dist.all_reduce(asked)
        if asked.item():
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if "loss" not in logs:
            return  # the summary at the end
        step, now = state.global_step, time.monotonic()
        useful, padded = (sum(tokens[self.noted : step]) for tokens in (self.plan.useful, self.plan.padded))
        values = {
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            **{"grad_norm": logs[key] for key in ("grad_norm",) if logs.get(key) is not None},  # ZeRO 0 in fp32 keeps none
            "epoch": round(step / state.max_steps * self.train.epochs, 4),
            "seconds": round(now - self.time, 3),
            "useful_tokens_per_s": round(useful / (now - self.time), 2),
            "useful_share": round(useful / padded, 4),
        }
        self.noted, self.time = step, now
        if self.first:
            track.append_metrics(self.folder, "train", step=step, steps=state.max_steps, **values)
            for name, value in values.items():
                self.board.add_scalar(f"train/{name}", value, step)
        if not math.isfinite(values["loss"]):
            raise TrainError(f"the loss is {values['loss']} at step {step}; lower train.learning_rate")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        dist.barrier()
        if self.first:
            checkpoints.finish(self.folder / CHECKPOINTS / f"checkpoint-{state.global_step}", self.train.keep_checkpoints)
        dist.barrier()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.board:
            self.board.close()


def _save(trainer: Any, folder: Path, settings: Settings, card: str) -> None:
    """Rank 0 writes the model beside its final name and renames it; the others help to gather the shards."""
    state = trainer.accelerator.get_state_dict(trainer.deepspeed)
    if dist.get_rank() == 0:
        half = folder / f"{MODEL}.tmp"
        shutil.rmtree(half, ignore_errors=True)
        model = trainer.accelerator.unwrap_model(trainer.deepspeed)
        model.save_pretrained(half, state_dict=state)
        if settings.train.lora.rank and settings.train.lora.merge:
            _merge(half, settings)
        trainer.processing_class.save_pretrained(half)
        (half / "README.md").write_text(card)
        half.rename(folder / MODEL)
    dist.barrier()


def _merge(adapter: Path, settings: Settings) -> None:
    """Replaces the adapter in this folder by its base model with the adapter merged in."""
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # the base is loaded whole, by this rank alone
    merged = PeftModel.from_pretrained(load_model(settings.model, training=True), adapter).merge_and_unload()
    shutil.rmtree(adapter)
    merged.save_pretrained(adapter)


def _card(trainer: Any, plan: Plan, examples: Path, settings: Settings) -> str:
    """The model card: what was tuned, on what, how, with which versions."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    made_by = {key: settings.model_dump(mode="json")[key] for key in ("model", "train", "seed")}
    versions = "\n".join(f"- {name} {version}" for name, version in track.versions().items())
    return f"""---
base_model: {settings.model.source}
library_name: transformers
tags: [ragdist, raft]
---

Tuned by ragdist from `{settings.model.source}` on {len(plan.table)} rows of `{examples}`,
{trainer.state.global_step} steps of {settings.train.examples_per_step} rows; loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last.

## Settings

```yaml
{yaml.safe_dump(made_by, sort_keys=False).strip()}
```

## Versions

{versions}
"""
