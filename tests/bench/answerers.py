"""Answers per second of two answerers against one; each rank has one core to itself.

python -m tests.bench.answerers

SmolLM2-135M answers closed book and with the documents that BM25 finds, on ranks of a small Ray. The texts are equal.
RAGDIST_BENCH_QUESTIONS=4 makes a smoke run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ragdist.cluster import session
from ragdist.cluster.answerers import RankAnswerers
from ragdist.config import Settings
from ragdist.records import Prompt
from tests.bench.joint_answer import NEW_TOKENS, QUESTIONS, prompts, settings
from tests.bench.raft_useful_tokens import alone


def run() -> dict[str, Any]:
    """{"answerers": answers per second of two / of one}."""
    with tempfile.TemporaryDirectory() as made:
        return {"answerers": alone("tests.bench.answerers", "all", Path(made))}


def measure(folder: Path) -> dict[str, Any]:
    """Both numbers of ranks on the same prompts."""
    made = settings().replaced("evaluation.tokens_per_batch", 2048)  # batches enough for both
    closed, opened = prompts(folder, made)
    asked = [*closed, *opened]
    found = {workers: answered(made, asked, workers, folder) for workers in (1, 2)}
    assert found[1][0] == found[2][0]
    one, two = (len(asked) / seconds for _, seconds in found.values())
    return {
        "ratio": two / one,
        "ours": two,
        "theirs": one,
        "unit": "answers/s",
        "note": f"{QUESTIONS} questions closed book and with documents, at most {NEW_TOKENS} new tokens, float32; "
        "the same texts",
    }


def answered(made: Settings, asked: list[Prompt], workers: int, folder: Path) -> tuple[dict[str, str], float]:
    """What so many ranks write, by prompt, and the seconds that it took once they were warm."""
    config = made.evaluation.answerers.model_copy(update={"workers": workers, "cpus_per_worker": 1})
    made = made.replaced("evaluation.answerers", config)
    cores = sorted(os.sched_getaffinity(0))
    with session.connect(made.cluster), RankAnswerers(made, folder).open(made.model.source) as group:
        for core, pid in zip(cores, group.pids, strict=False):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {core})
        list(group.write(asked[: 2 * workers], max_new_tokens=2))
        began = time.monotonic()
        texts = {text.prompt_id: text.text for batch in group.write(asked, max_new_tokens=NEW_TOKENS) for text in batch}
        return texts, time.monotonic() - began


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[2])) if len(sys.argv) > 2 else run()))
