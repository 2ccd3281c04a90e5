"""Judgements -> a classifier of one label, the arbiter's scorer: transformers' Trainer, run by `lm.fit`.

    loss of a step = - sum_b w_b [y_b log c_b + (1 - y_b) log(1 - c_b)] / sum_b w_b     `algo/arbiter.judgement_loss`

over all rows b of the step, whichever worker and microbatch they are in; c = sigmoid(score at the row's last token).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from ragdist.algo.arbiter import judgement_loss
from ragdist.config import ModelConfig, Settings
from ragdist.errors import DataError
from ragdist.lm.fit import CheckpointMixin, TrainerSpec
from ragdist.lm.load import load_tokenizer
from ragdist.lm.rows import RowSchedule, plan_of, rows_of
from ragdist.lm.score import load_classifier, pad
from ragdist.records import Rated


def lay_out(judgements: Path, settings: Settings) -> RowSchedule:
    """The plan of a run over the rows of `judgements`.

    Raises:
        ConfigError: there is no row to train on.
        DataError: a row is empty or weighs nothing, or all answers are right, or all wrong.
    """
    rows = rows_of(Rated, judgements)
    for row in rows:
        if not row.tokens or not row.weight > 0:
            raise DataError(
                f"row {row.id!r} of {judgements} has {len(row.tokens)} tokens and weight {row.weight:g}; "
                "wanted some tokens and a weight above 0"
            )
    if len({row.right for row in rows}) == 1:
        raise DataError(
            f"all {len(rows)} answers in {judgements} are {'right' if rows[0].right else 'wrong'}, and a scorer learns "
            "from both kinds; set duet.gold_pairs=true, give the arbiter more questions (lower "
            "duet.answerers_fraction), or take alignment out of duet.arbiters"
        )
    columns = {
        "tokens": pa.array([row.tokens for row in rows], pa.list_(pa.int32())),
        "right": pa.array([row.right for row in rows], pa.bool_()),
        "weight": pa.array([row.weight for row in rows], pa.float64()),
    }
    blank = {"tokens": rows[0].tokens[:1], "right": False, "weight": 0.0} if rows else {}
    return plan_of(pa.table(columns), blank, settings.train, settings.seed, settings.cluster.workers)


class Judged(Dataset[dict[str, Any]]):
    """The lines of a plan in the order of training, each with the weight of all rows of its step."""

    def __init__(self, plan: RowSchedule) -> None:
        self.plan = plan
        weights = plan.table["weight"].to_pylist()
        each = len(plan.batches) // len(plan.steps)
        self.totals: list[float] = []
        for at in range(0, len(plan.batches), each):
            places = range(plan.batches[at].start, plan.batches[at + each - 1].stop)
            self.totals += [sum(weights[plan.order[place]] for place in places)] * len(places)

    def __len__(self) -> int:
        return len(self.plan.order)

    def __getitem__(self, at: int) -> dict[str, Any]:
        tokens, right, weight = (column[self.plan.order[at]].as_py() for column in self.plan.table.columns)
        return {"input_ids": tokens, "right": right, "weight": weight, "total_weight": self.totals[at]}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A microbatch: all of its rows are of one step."""
    return {
        **pad([row["input_ids"] for row in rows]),
        "right": torch.tensor([row["right"] for row in rows]),
        "weights": torch.tensor([row["weight"] for row in rows]),
        "total_weight": rows[0]["total_weight"],
    }


def _base(config: ModelConfig, seed: int) -> Any:
    return load_classifier(config, training=True, seed=seed)


def _arguments(shared: dict[str, Any], _: ModelConfig) -> TrainingArguments:
    return TrainingArguments(**shared)


def _trainer(model: Any, arguments: TrainingArguments, plan: RowSchedule, settings: Settings) -> Any:
    from transformers import Trainer  # here, because it imports deepspeed, which `lm.zero.prepare` makes ready

    class Judging(CheckpointMixin, Trainer):
        loss_is_scaled_for_ga = True

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """The microbatch's part of the step's loss."""
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            loss = judgement_loss(
                outputs.logits[:, 0], inputs["right"], inputs["weights"], total_weight=inputs["total_weight"]
            )
            loss = loss * self.accelerator.num_processes  # ranks are averaged
            return (loss, outputs) if return_outputs else loss

    return Judging(
        model,
        arguments,
        data_collator=collate,
        train_dataset=Judged(plan),
        processing_class=load_tokenizer(settings.model).backend,
    )


SCORER = TrainerSpec("SEQ_CLS", lay_out, _base, _arguments, _trainer)
