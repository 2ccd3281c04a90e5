"""What assembling contexts costs, beside writing the finished rows as JSONL and doing nothing else.

python -m tests.bench.assembly
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ragdist.config import ContextsConfig
from ragdist.data.contexts import Keep, assemble, keep_oracle
from ragdist.data.distractors import Pool, find
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.records import Chunk, Context, Question, content_id
from ragdist.storage.stages import Stage, Store

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
    """The data pipeline's own work on one question: distractors, then the context."""
    distractors, _ = find(question, pool, None, CONFIG, 0)
    return assemble(question, distractors, keep(question.id), CONFIG, 0)


def write(folder: Path, asked: Any, pool: Pool, keep: Keep, workers: int = 0) -> Path:
    """The contexts of `asked` as a stage of a store."""
    mapper = ProcessMapper(workers) if workers else SerialMapper()
    stage = Stage("contexts", {}, {"folder": folder.name})
    return Store(folder).make(stage, Context, lambda: mapper.map(context, asked, pool, keep)).path


def by_id(row: Context) -> dict[str, Any]:
    """The row as the store writes it."""
    return {"question_id": row.question_id, "chunk_ids": row.chunk_ids, "oracle_positions": row.oracle_positions}


def write_only(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Rows that are ready made, as anyone writes JSONL; flushed to the disk as the store does."""
    with path.open("w") as file:
        for line in lines:
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
    """CPU seconds for 100,000 contexts, ours and of writing them alone, best of three, in turn.

    `ratio` is against the rows that the store writes, which name chunks by id. `ratio_with_texts` is against the same
    contexts with their five texts in the row, as the files of RAFT's authors hold them.
    """
    chunks = corpus()
    ids, pool = list(chunks), Pool(chunks)
    asked = list(questions(ids, CONTEXTS))
    keep = keep_oracle((question.id for question in asked), CONFIG, 0)
    rows = [context(question, pool, keep) for question in asked]
    ours, theirs, with_texts = [], [], []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        for turn in range(REPEATS):
            start = time.process_time()
            path = write(folder / f"ours{turn}", asked, pool, keep)
            ours.append(time.process_time() - start)
            theirs.append(cpu_s(folder / "theirs.jsonl", map(by_id, rows)))
            same_rows = path.read_bytes() == (folder / "theirs.jsonl").read_bytes()
            texts = (
                {"question": question.text, "documents": [[chunks[i].title, chunks[i].text] for i in row.chunk_ids]}
                for question, row in zip(asked, rows, strict=True)
            )
            with_texts.append(cpu_s(folder / "texts.jsonl", texts))
        split = write(folder / "split", asked, pool, keep, workers=2)
        equal = split.read_bytes() == path.read_bytes()
    return {
        "assembly": {
            "ratio": min(ours) / min(theirs),
            "ours": min(ours),
            "theirs": min(theirs),
            "unit": "CPU s",
            "rows": CONTEXTS,
            "ratio_with_texts": min(ours) / min(with_texts),
            "theirs_with_texts": min(with_texts),
            "same_bytes_as_theirs": same_rows,
            "two_workers_byte_equal": equal,
            "peak_mib_10k": peak_bytes(CONTEXTS // 10) / 2**20,
            "peak_mib_100k": peak_bytes(CONTEXTS) / 2**20,
        }
    }


def cpu_s(path: Path, lines: Iterable[dict[str, Any]]) -> float:
    """CPU seconds of writing these rows and nothing else."""
    start = time.process_time()
    write_only(path, lines)
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
