"""What assembling contexts costs, beside writing the finished rows as JSONL and doing nothing else.

python -m tests.bench.assembly
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ragdist.config import ContextsConfig
from ragdist.data.contexts import Keep, assemble, keep_oracle
from ragdist.data.retrieval import Pool, find
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.records import Chunk, Context, Question, content_id
from ragdist.store import Stage, Store

CHUNKS, CONTEXTS, REPEATS = 20_000, 100_000, 3
CONFIG = ContextsConfig(distractors="random")
WORDS = [f"word{n}" for n in range(5000)]


def corpus() -> dict[str, Chunk]:
    """Chunks of 70 words each."""
    rng, chunks = random.Random(0), {}
    for number in range(CHUNKS):
        text = " ".join(rng.choices(WORDS, k=70))
        chunk_id = content_id(text)
        chunks[chunk_id] = Chunk(id=chunk_id, document_id="d", title=f"text {number}", text=text)
    return chunks


def questions(chunk_ids: list[str], count: int) -> Iterator[Question]:
    """Questions with one oracle and one two-word answer each."""
    for number in range(count):
        yield Question(
            id=content_id("question", str(number)),
            text=f"What is number {number}?",
            answers=(f"value {number}",),
            oracle_ids=(chunk_ids[number % len(chunk_ids)],),
            split="train",
        )


def context(question: Question, pool: Pool, keep: Keep) -> Context:
    """The road's own work on one question: distractors, then the context."""
    distractors, _ = find(question, pool, None, CONFIG, 0)
    return assemble(question, distractors, keep(question.id), CONFIG, 0)


def write(folder: Path, asked: Any, pool: Pool, keep: Keep, workers: int = 0) -> Path:
    """The contexts of `asked` as a stage of a store."""
    mapper = ProcessMapper(workers) if workers else SerialMapper()
    stage = Stage("contexts", {}, {"folder": folder.name})
    return Store(folder).make(stage, Context, lambda _: mapper.map(context, asked, pool, keep)).path


def write_only(path: Path, rows: list[Context]) -> None:
    """The same rows, ready made, as anyone writes JSONL; flushed to the disk as the store does."""
    with path.open("w") as file:
        for row in rows:
            line = {
                "question_id": row.question_id,
                "chunk_ids": row.chunk_ids,
                "oracle_positions": row.oracle_positions,
            }
            file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def peak_bytes(count: int) -> int:
    """Largest resident memory of a process of its own that assembles `count` contexts."""
    code = f"from tests.bench import assembly; print(assembly.assemble_and_measure({count}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def assemble_and_measure(count: int) -> int:
    """Assembles `count` contexts from a stream of questions; the process's peak in bytes."""
    chunks = corpus()
    ids, pool = list(chunks), Pool(chunks)
    keep = keep_oracle((question.id for question in questions(ids, count)), CONFIG, 0)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), questions(ids, count), pool, keep)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run() -> dict[str, dict[str, Any]]:
    """Seconds for 100,000 contexts, ours and of writing alone, best of three, in turn under the same load."""
    chunks = corpus()
    ids = list(chunks)
    start = time.perf_counter()
    pool = Pool(chunks)
    pool_s = time.perf_counter() - start
    asked = list(questions(ids, CONTEXTS))
    keep = keep_oracle((question.id for question in asked), CONFIG, 0)
    rows = [context(question, pool, keep) for question in asked]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        for turn in range(REPEATS):
            start = time.perf_counter()
            path = write(folder / f"ours{turn}", asked, pool, keep)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            write_only(folder / f"theirs{turn}.jsonl", rows)
            theirs.append(time.perf_counter() - start)
        same_rows = path.read_bytes() == (folder / "theirs0.jsonl").read_bytes()
        split = write(folder / "split", asked, pool, keep, workers=2)
        equal = hashlib.sha256(split.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()
    small, large = peak_bytes(CONTEXTS // 10), peak_bytes(CONTEXTS)
    return {
        "assembly": {
            "ratio": min(ours) / min(theirs),
            "ours": min(ours),
            "theirs": min(theirs),
            "unit": "s",
            "rows": CONTEXTS,
            "index_s": pool_s,
            "same_bytes_as_theirs": same_rows,
            "two_workers_byte_equal": equal,
            "peak_mib_10k": small / 2**20,
            "peak_mib_100k": large / 2**20,
        }
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
