"""Rows -> a tuned model, on DeepSpeed ZeRO, in the process group that this process is in.

Every rank calls `tune` with the same arguments. The rows of a step and the loss do not depend on how many ranks there
are, nor do the microbatches they form, unless those are cut by `train.tokens_per_pass`; a run that was killed resumes
from its newest checkpoint and ends with the same bits.

    answers     Example -> a model that writes the target: TRL's SFTTrainer, below
    scorer      Rated -> a classifier with one label, the confidence: transformers' Trainer, `lm/classify.py`

    folder/checkpoints/checkpoint-N     each rank's part of the optimizer and the weights
    folder/model                        the tuned model, a plain transformers folder
    folder/metrics.jsonl                loss, learning rate, gradient norm, tokens per second, how busy ranks are
    folder/stop                         made by `request_stop`: the run saves after the step it is in, and ends
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback, TrainingArguments

from ragdist.algo.tokens import answer_logprobs, predicting
from ragdist.config import ModelConfig, Settings
from ragdist.errors import ConfigError
from ragdist.lm.checkpoints import STOP
from ragdist.lm.classify import SCORER
from ragdist.lm.fit import CheckpointMixin, TrainerSpec, fit
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.rows import RowSchedule, features, lay_out, packs


def request_stop(folder: Path) -> None:
    """Asks the run in `folder` to save after the step it is in, and to end."""
    (folder / STOP).touch()


def tune(
    rows: Path,
    folder: Path,
    settings: Settings,
    *,
    kind: Literal["answers", "scorer"] = "answers",
    name: str = "RAFT",
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """The folder of the tuned model, `folder/model`.

    Args:
        rows: JSONL of Example, for a scorer of Rated; every rank reads it.
        folder: the run's folder, shared by all ranks.
        settings: `train`, `model`, `seed` and `cluster.workers`, which is the size of the process group.
        kind: what is learned from the rows.
        name: what the model's card calls it.
        callbacks: more transformers callbacks, told of every step and save after ours.

    Raises:
        ConfigError, DataError, ModelError: the settings, the rows or the model cannot be trained.
        Stopped: `request_stop` was called; the state is saved and the same call goes on.
        TrainError: the loss is not a number any more.
    """
    return fit(ANSWERS if kind == "answers" else SCORER, rows, folder, settings, name, callbacks)


def _base(config: ModelConfig, _: int) -> Any:
    return load_model(config, training=True)


def _arguments(shared: dict[str, Any], config: ModelConfig) -> TrainingArguments:
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        **shared, max_length=None, padding_free=packs(config), dataset_kwargs={"skip_prepare_dataset": True}
    )


def _trainer(model: Any, arguments: TrainingArguments, plan: RowSchedule, settings: Settings) -> Any:
    """TRL's trainer over the plan."""
    from datasets import Dataset
    from peft.tuners.tuners_utils import BaseTunerLayer
    from trl.trainer.sft_trainer import SFTTrainer

    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise ConfigError(
            f"train.lora.targets={list(settings.train.lora.targets)} names the output head, and TRL's trainer reads "
            "its weight past an adapter; take it out, or tune all weights (train.lora.rank=0)"
        )

    class Trainer(CheckpointMixin, SFTTrainer):
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

    return Trainer(
        model,
        arguments,
        train_dataset=Dataset(plan.table).with_transform(features).select(plan.order),
        processing_class=load_tokenizer(settings.model).backend,
    )


ANSWERS = TrainerSpec("CAUSAL_LM", lay_out, _base, _arguments, _trainer)
