"""Examples -> a tuned model: TRL's SFTTrainer on DeepSpeed ZeRO, in the process group that this process is in.

Every rank calls `tune` with the same arguments. The rows of a step, the microbatches they form and the loss per
answer token do not depend on how many ranks there are; a run that was killed goes on from its newest checkpoint
and ends with the same bits.

    folder/checkpoints/checkpoint-N     each rank's part of the optimizer and the weights
    folder/model                        the tuned model, a plain transformers folder
    folder/metrics.jsonl                loss, learning rate, gradient norm, useful tokens per second
    folder/stop                         made by `request_stop`: the run saves after the step it is in, and ends
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from ragdist.algo.tokens import answer_logprobs, predicting
from ragdist.config import Settings
from ragdist.errors import Stopped
from ragdist.lm import checkpoints, zero
from ragdist.lm.checkpoints import CHECKPOINTS, MODEL, STOP
from ragdist.lm.load import add_lora, dtype_of, load_codec, load_model
from ragdist.lm.rows import Plan, features, lay_out, packs
from ragdist.lm.save import card, save
from ragdist.lm.source import resolve
from ragdist.lm.watch import Watch


def request_stop(folder: Path) -> None:
    """Asks the run in `folder` to save after the step it is in, and to end."""
    (folder / STOP).touch()


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
    with zero.process_group(), zero.quiet(), checkpoints.alone(folder):
        trainer, resume = _trainer(plan, folder, settings, callbacks)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if trainer.state.global_step < trainer.state.max_steps:
            if dist.get_rank() == 0:
                (folder / STOP).unlink(missing_ok=True)
            raise Stopped(f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, state saved")
        save(trainer, folder, settings, card(trainer, plan, examples, settings))
    return folder / MODEL


def _trainer(
    plan: Plan, folder: Path, settings: Settings, callbacks: Sequence[TrainerCallback]
) -> tuple[Any, Path | None]:
    """TRL's trainer over the plan, and the checkpoint that it goes on from."""
    from datasets import Dataset
    from trl.trainer.sft_trainer import SFTTrainer

    class Trainer(SFTTrainer):
        """Writes no second copy of the weights beside DeepSpeed's, and no card, into a checkpoint."""

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            Path(output_dir or str(self.args.output_dir)).mkdir(parents=True, exist_ok=True)

        def create_optimizer(self, *about: Any) -> torch.optim.Optimizer:
            fresh = self.optimizer is None  # it is asked for again and again
            optimizer: torch.optim.Optimizer = super().create_optimizer(*about)
            if fresh and not stage:
                zero.clip_before_steps(optimizer, settings.train.gradient_clip)
            return optimizer

        def create_model_card(self, *_: Any, **__: Any) -> None:
            return

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """TRL's loss; TRL's own head leaves out the prompt on GPUs alone, and on CPUs scores every position."""
            if not self.args.use_cpu:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
            positions_P = predicting(inputs["labels"])
            shown = {name: value for name, value in inputs.items() if name != "labels"}
            outputs = model(**shown, logits_to_keep=positions_P, use_cache=False)
            logprobs_BP, _ = answer_logprobs(outputs.logits, positions_P, inputs["labels"])
            loss = -logprobs_BP.sum() / num_items_in_batch * self.accelerator.num_processes  # ranks are averaged
            return (loss, outputs) if return_outputs else loss

    resolve(settings.model)  # a GGUF file is converted whole, before sharding is switched on
    arguments = _arguments(folder, settings, len(plan.useful))  # first: it tells transformers to shard at loading
    stage = zero.effective_stage(settings.train, settings.cluster.workers, dtype_of(settings.model))
    found = [checkpoints.newest(folder / CHECKPOINTS) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)  # one rank decides: a shared folder may look older on another machine
    model = add_lora(load_model(settings.model, training=True), settings.train.lora, settings.seed)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Dataset(plan.table).with_transform(features).select(plan.order),
        processing_class=load_codec(settings.model).tokenizer,
        callbacks=[Watch(plan, folder, settings), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, found[0]


def _arguments(folder: Path, settings: Settings, steps: int) -> TrainingArguments:
    from trl.trainer.sft_config import SFTConfig

    train = settings.train
    dtype = dtype_of(settings.model)
    config = zero.zero_config(train, settings.cluster.workers, dtype)
    return SFTConfig(
        output_dir=str(folder / CHECKPOINTS),
        deepspeed=config,
        bf16=dtype == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        num_train_epochs=1,  # the plan holds all epochs
        per_device_train_batch_size=train.microbatch,
        gradient_accumulation_steps=zero.accumulation(train, settings.cluster.workers),
        train_sampling_strategy="sequential",
        accelerator_config={"even_batches": False},
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=int(train.warmup * steps),  # rounded down: the first of them has learning rate 0
        weight_decay=train.weight_decay,
        max_grad_norm=config["gradient_clipping"],  # anything else is refused
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        seed=settings.seed,
        max_length=None,
        padding_free=packs(settings),
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=train.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=train.checkpoint_every,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
    )
