"""Reciter and discoverer at once, against the slower of the two alone; each has one core to itself.

python -m tests.bench.joint_answer

Both are adapters over one SmolLM2-135M in one process, a thread each. The reciter is asked closed book, the discoverer
with the documents that BM25 finds, on questions about the API documentation of this machine. Adapters are fresh: what
they say does not matter here, and they cost what tuned ones do. RAGDIST_BENCH_QUESTIONS=4 makes a smoke run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ragdist.config import LoraConfig, Settings
from ragdist.config.loader import resolve
from ragdist.data.pipeline import Pipeline
from ragdist.evaluation.cases import make_cases
from ragdist.lm.beside import ConcurrentWriters
from ragdist.lm.load import add_lora, load_model, load_tokenizer
from ragdist.lm.shared import SharedBase
from ragdist.lm.write import ModelWriter
from ragdist.local import SerialMapper
from ragdist.records import Prompt, Written
from ragdist.roles import Writer
from ragdist.storage.stages import Store
from tests.bench.raft_useful_tokens import MODEL, alone

QUESTIONS, NEW_TOKENS, RANK = int(os.environ.get("RAGDIST_BENCH_QUESTIONS", "48")), 32, 16


def run() -> dict[str, Any]:
    """{"joint_answer": seconds of both at once / seconds of the slower alone}."""
    with tempfile.TemporaryDirectory() as made:
        return {"joint_answer": alone("tests.bench.joint_answer", "all", Path(made))}


class Pinned:
    """Plays Writer on one core; `torch.set_num_threads(1)` holds already."""

    def __init__(self, writer: Writer, core: int) -> None:
        self.writer, self.core = writer, core

    def write(self, prompts: Sequence[Prompt], **how: Any) -> Iterator[list[Written]]:
        """Pins the thread that asks for microbatches, and no other."""
        os.sched_setaffinity(0, {self.core})
        yield from self.writer.write(prompts, **how)


def measure(folder: Path) -> dict[str, Any]:
    """Each alone, both at once, on a core each; then both at once and in turn, free on all cores."""
    made = settings()
    closed, opened = prompts(folder, made)
    base, tokenizer = SharedBase(made.model), load_tokenizer(made.model)
    roles = [
        ModelWriter(base.answers(adapter(folder / str(seed), made, seed)), tokenizer, made.evaluation.tokens_per_batch)
        for seed in range(2)
    ]
    cores = sorted(os.sched_getaffinity(0))[:2]
    pinned = ConcurrentWriters([Pinned(role, core) for role, core in zip(roles, cores, strict=True)])
    free, threads = ConcurrentWriters(roles), torch.get_num_threads()
    timed(pinned, [*closed[:2], *opened[:2]])
    torch.set_num_threads(1)
    reciter, reciter_s = timed(pinned, closed)
    discoverer, discoverer_s = timed(pinned, opened)
    both, both_s = timed(pinned, [*closed, *opened])
    assert both == reciter | discoverer  # texts and all
    torch.set_num_threads(threads)
    _, in_turn_s = timed(free, closed)
    in_turn_s += timed(free, opened)[1]
    _, free_s = timed(free, [*closed, *opened])
    longer = max(reciter_s, discoverer_s)
    return {
        "ratio": round(both_s / longer, 3),
        "ours": round(both_s, 2),
        "theirs": round(longer, 2),
        "unit": "s",
        "note": f"reciter alone {reciter_s:.1f} s, discoverer alone {discoverer_s:.1f} s; the same texts; {QUESTIONS} "
        f"questions, prompts of {tokens(closed)} and {tokens(opened)} tokens, at most {NEW_TOKENS} new ones, float32, "
        f"rank {RANK}; not pinned, {threads} threads: in turn {in_turn_s:.1f} s, at once {free_s:.1f} s",
    }


def settings() -> Settings:
    """As for `ragdist demo`, with what is asked here."""
    return resolve(
        {
            "model": {"source": MODEL, "dtype": "float32", "max_tokens": 1024},
            "corpus": {"source": "apidocs", "packages": ["stdlib"]},
            "questions": {"test_fraction": 0.3, "train_rows": 1, "test_rows": QUESTIONS},
            "contexts": {"documents": 4, "distractors": "given"},
            "evaluation": {"conditions": ["closed_book", "retrieved"], "max_new_tokens": NEW_TOKENS},
        }
    )


def prompts(folder: Path, made: Settings) -> tuple[list[Prompt], list[Prompt]]:
    """Of the reciter and of the discoverer, by ragdist's data pipeline."""
    pipeline = Pipeline(made, Store(folder / "data"), load_tokenizer(made.model), SerialMapper())
    questions = [question for question in pipeline.selected if question.split == "test"]
    found = [
        case.prompt
        for case in make_cases(questions, pipeline.chunk_by_id, {}, {}, pipeline.retriever, pipeline.tokenizer, made)
    ]
    return found[: len(questions)], [replace(prompt, model=1) for prompt in found[len(questions) :]]


def adapter(folder: Path, made: Settings, seed: int) -> Path:
    """A folder with a fresh adapter."""
    add_lora(load_model(made.model, training=True), LoraConfig(rank=RANK, merge=False), seed).save_pretrained(folder)
    return folder


def timed(writer: Writer, asked: Sequence[Prompt]) -> tuple[dict[str, Written], float]:
    """What is written, by prompt, and the seconds that it took."""
    began = time.monotonic()
    batches = writer.write(asked, max_new_tokens=NEW_TOKENS)
    return {text.prompt_id: text for batch in batches for text in batch}, time.monotonic() - began


def tokens(asked: Sequence[Prompt]) -> str:
    """Shortest and longest, for the note."""
    lengths = sorted(len(prompt.tokens) for prompt in asked)
    return f"{lengths[0]}-{lengths[-1]}"


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[2])) if len(sys.argv) > 1 else run(), indent=None if sys.argv[1:] else 1))
