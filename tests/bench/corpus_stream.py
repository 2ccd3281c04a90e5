"""Peak memory of reading and cutting 10,000 files, beside that of 1,000: what the number of files costs.

python -m tests.bench.corpus_stream             # RAGDIST_BENCH_FILES=1000 for a smoke run

Each is a process of its own that makes the stages `documents` and `chunks` from the same kinds of files: pdf, docx,
html, Markdown, plain text, with near duplicates among them. The peak is the kernel's for that process (VmHWM), the
interpreter and all libraries included. Later stages hold all chunks, as retrieval needs them; they are not measured.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import documents

FILES, SHARE = int(os.environ.get("RAGDIST_BENCH_FILES", "10000")), 10
WORDS, LENGTH, NEAR = [f"word{n}" for n in range(5000)], 150, 20
CHUNK_TOKENS = 512


def run() -> dict[str, Any]:
    """{"corpus_stream": peak MB for all files / for a tenth of them}."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write(folder / "all", FILES)
        (folder / "few").mkdir()
        for path in sorted((folder / "all").iterdir())[: FILES // SHARE]:
            (folder / "few" / path.name).hardlink_to(path)
        few, many = (alone(folder, name) for name in ("few", "all"))
    return {
        "corpus_stream": {
            "ratio": round(many["mb"] / few["mb"], 3),
            "ours": many["mb"],
            "theirs": few["mb"],
            "unit": "MB",
            "note": f"{many['documents']} documents, {many['near']} of them nearly like an earlier one, "
            f"{many['chunks']} chunks, {many['seconds']:.0f} s; of {few['documents']} documents {few['seconds']:.0f} s",
        }
    }


def write(folder: Path, count: int) -> None:
    """Files of 150 words: of twenty two are pdf with two pages, one is docx, four html, six Markdown, seven text. One
    of twenty is the one before it with three other words."""
    folder.mkdir()
    draw, text = random.Random(0), ""
    for number in range(count):
        if text and number % NEAR == NEAR - 1:
            spoken = text.split()
            spoken[25], spoken[75], spoken[125] = "other", "new", "changed"
        else:
            spoken = draw.choices(WORDS, k=LENGTH)
        text = " ".join(spoken)
        suffix, content = file_of(number, [" ".join(spoken[i : i + 25]) for i in range(0, LENGTH, 25)])
        (folder / f"{number:06}{suffix}").write_bytes(content)


def file_of(number: int, paragraphs: list[str]) -> tuple[str, bytes]:
    """Suffix and content of a file with these paragraphs, the first three under a heading, the rest under another."""
    kind, half = number % 20, len(paragraphs) // 2
    if kind < 2:
        pages = ["\n".join(paragraphs[:half]), "\n".join(paragraphs[half:])]
        return ".pdf", documents.pdf(pages, [(1, 1, "Start"), (2, 1, "End")])
    if kind < 3:
        return ".docx", documents.word(["# Start", *paragraphs[:half], "# End", *paragraphs[half:]])
    if kind < 7:
        inside = "".join(f"<p>{text}</p>" for text in paragraphs)
        return ".html", f"<html><head><title>{number}</title></head><body><h1>Start</h1>{inside}</body></html>".encode()
    if kind < 13:
        return ".md", "\n\n".join(["# Start", *paragraphs[:half], "# End", *paragraphs[half:]]).encode()
    return ".txt", "\n\n".join(paragraphs).encode()


def alone(folder: Path, name: str) -> dict[str, Any]:
    """What `read` finds in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.corpus_stream", str(folder / name), str(folder / f"{name}-stages")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def read(folder: str, stages: str) -> dict[str, Any]:
    """Makes both stages; the process's peak in MB, rows and seconds."""
    from ragdist.config import Settings
    from ragdist.config.loader import resolve
    from ragdist.data.pipeline import Pipeline
    from ragdist.local import SerialMapper
    from ragdist.storage.stages import Store
    from tests.tiny import tokenizer

    corpus = {"source": "folder", "folder": folder, "near_duplicates": "report"}
    settings: Settings = resolve({"corpus": corpus, "chunks": {"tokens": CHUNK_TOKENS}})
    pipeline, began = Pipeline(settings, Store(stages), tokenizer(), SerialMapper()), time.monotonic()
    chunks = pipeline.chunks
    return {
        "mb": round(peak_kb() / 1024, 1),
        "seconds": time.monotonic() - began,
        "documents": len(pipeline.documents),
        "chunks": len(chunks),
        "near": pipeline.documents.card["counts"]["near_duplicates"],
    }


def peak_kb() -> int:
    """The largest that this process's memory was; `getrusage` would also count the one that it was started from."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read(*sys.argv[1:]) if sys.argv[1:] else run()) + "\n")
