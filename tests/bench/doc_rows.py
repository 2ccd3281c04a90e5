"""Training rows like RAFT's on API documentation: docstrings of the standard library, 200 to 510 tokens a row."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

from ragdist.config import ModelConfig
from ragdist.draws import rng_for
from ragdist.lm.load import load_tokenizer
from ragdist.records import Example, as_row

MODULES = ("argparse", "asyncio", "collections", "datetime", "difflib", "email.message", "fractions", "functools")
MODULES += (
    "heapq",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "random",
    "shutil",
    "statistics",
    "subprocess",
    "tempfile",
)
SHORTEST, LONGEST, TARGET = 200, 510, 24
"""Tokens of the shortest and the longest row, and of each row's target."""


def docstrings() -> Iterator[str]:
    """The documentation of all public members of `MODULES`, members of classes included."""
    for module in map(importlib.import_module, MODULES):
        for name, member in sorted(vars(module).items()):
            if not name.startswith("_"):
                yield inspect.getdoc(member) or ""
                if inspect.isclass(member):
                    public = (attribute for key, attribute in sorted(vars(member).items()) if not key.startswith("_"))
                    yield from (inspect.getdoc(attribute) or "" for attribute in public)


def write(path: Path, model: ModelConfig, count: int) -> list[Example]:
    """`count` rows, also written as the JSONL that a Tuner reads: running text cut at drawn lengths."""
    tokenizer = load_tokenizer(model)
    tokens = tokenizer.encode("\n\n".join(text for text in docstrings() if text)).ids
    rng, rows, at = rng_for(0, "bench", "rows"), [], 0
    for number in range(count):
        length = rng.randint(SHORTEST, LONGEST)
        text = (*tokens[at : at + length - 1], tokenizer.end)
        if len(text) < length:
            raise ValueError(f"{len(tokens)} tokens of documentation are too few for {count} rows; add modules")
        rows.append(Example(id=f"row-{number}", tokens=text, prompt_tokens=length - TARGET))
        at += length - 1
    path.write_text("".join(json.dumps(as_row(row)) + "\n" for row in rows))
    return rows
