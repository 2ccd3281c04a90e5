"""Seconds of a training step under Ray Train, TRL and DeepSpeed, one worker, against a bare torch loop.

The bare loop runs the same microbatches through the same model with the same optimizer, and computes logits at
target positions only, as TRL does. The sides take turns, each time in a process of its own, so that a machine that
gets slower or busier does so for both. The first step of each turn is warm-up and not counted.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ragdist.config import ModelConfig
from ragdist.lm.load import load_model
from ragdist.lm.rows import lay_out
from ragdist.roles import TrainingJob
from tests.bench import doc_rows
from tests.bench.raft_useful_tokens import BATCH, MODEL, alone, settings

ROWS, TURNS = 32, 2
"""Rows of a turn, and turns of each side."""


def run() -> dict[str, Any]:
    """{"train_overhead": ratio of the median seconds per step}."""
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    with tempfile.TemporaryDirectory() as made:
        for turn in range(TURNS):
            folder = Path(made) / str(turn)
            folder.mkdir()
            doc_rows.write(folder / "rows.jsonl", ModelConfig(source=MODEL), ROWS)
            for who, found in seconds.items():
                found += alone("tests.bench.train_overhead", who, folder)["seconds"]
            shutil.rmtree(folder / "ours")  # a model each
    theirs, ours = (statistics.median(found) for found in seconds.values())
    return {
        "train_overhead": {
            "ratio": round(ours / theirs, 3),
            "ours": round(ours, 3),
            "theirs": round(theirs, 3),
            "unit": "s/step",
            "steps": seconds,
            "note": f"median step of {TURNS} turns each; {BATCH} rows a step, the same microbatches, float32, ZeRO 2, "
            "one worker, both cores",
        }
    }


def ours(folder: Path) -> dict[str, list[float]]:
    """Measured by the job itself, in its metrics.jsonl."""
    from ragdist.cluster.train import RayTuner

    made = settings(epochs=1)
    RayTuner(made).tune([TrainingJob("RAFT", folder / "rows.jsonl", folder / "ours", made.train)])
    lines = [json.loads(line) for line in (folder / "ours" / "metrics.jsonl").read_text().splitlines()]
    return {"seconds": [line["seconds"] for line in lines if line["phase"] == "train"][1:]}


def theirs(folder: Path) -> dict[str, list[float]]:
    """Forward, backward, clip, AdamW: what cannot be left out."""
    made = settings()
    plan, size = lay_out(folder / "rows.jsonl", made), made.train.microbatch
    tokens, prompts = (plan.table[name].to_pylist() for name in ("tokens", "prompt_tokens"))
    model = load_model(made.model, training=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=made.train.learning_rate, weight_decay=0.0, fused=True)
    seconds = []
    for start in range(0, len(plan.order), BATCH):
        began = time.monotonic()
        step = plan.order[start : start + BATCH]
        targets = sum(len(tokens[row]) - prompts[row] for row in step)
        for at in range(0, BATCH, size):
            batch = step[at : at + size]
            (nll(model, [tokens[row] for row in batch], [prompts[row] for row in batch]) / targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), made.train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - began)
    return {"seconds": seconds[1:]}


def nll(model: Any, rows: list[list[int]], prompts: list[int]) -> torch.Tensor:
    """Summed nats of the target tokens, rows padded on the right."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    at = torch.arange(ids.shape[1])
    lengths, starts = torch.tensor([[len(row)] for row in rows]), torch.tensor([[start] for start in prompts])
    hidden = model.model(ids, attention_mask=(at < lengths).long(), use_cache=False).last_hidden_state
    wanted = ((at >= starts) & (at < lengths))[:, 1:]
    logits = model.lm_head(hidden[:, :-1][wanted])
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="sum")


if __name__ == "__main__":
    print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]](Path(sys.argv[2]))))
