"""Forging with `attacker.engine=paged` against our own loop: tokens per second, texts of varied lengths.

python -m tests.bench.paged_forge

The same forging prompts, the same model object, one process, both cores, in turn; the texts must be equal. Ours: paged.
Theirs: `lm.write`, the loop of transformers' forward passes, at the default `evaluation.tokens_per_batch`. A third turn
is the loop without `lm/decode.py` (transformers' cache and attention): what that file buys.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from transformers import DynamicCache

from ragdist.lm import write
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.paged import PagedWriter
from ragdist.records import Prompt
from ragdist.systems.atm import forging
from tests.bench import atm_rows
from tests.bench.raft_useful_tokens import alone

LIMIT, QUESTIONS = 200, int(os.environ.get("RAGDIST_BENCH_QUESTIONS", "8"))
"""Of 36 texts by SmolLM2 with this limit a third ended before 50 tokens and a third was cut off."""


def run() -> dict[str, Any]:
    """{"paged_forge": ratio of tokens per second}."""
    with tempfile.TemporaryDirectory() as made:
        return {"paged_forge": alone("tests.bench.paged_forge", "both", Path(made))}


def both(folder: Path) -> dict[str, Any]:
    """The three in turn."""
    made = atm_rows.settings(max_new_tokens=LIMIT)
    model, tokenizer = load_model(made.model), load_tokenizer(made.model)
    loop = write.ModelWriter(model, tokenizer, made.evaluation.tokens_per_batch)
    paged = PagedWriter(model, tokenizer, made.engines, made.evaluation.tokens_per_batch)
    asked = prompts(folder, tokenizer)
    speed, texts = {}, {}
    for name, writer, how in (
        ("theirs", loop, nullcontext()),
        ("ours", paged, nullcontext()),
        ("plain", loop, without_decode()),
    ):
        with how:
            list(writer.write(asked[:1], max_new_tokens=4))
            began = time.monotonic()
            found = [text for batch in writer.write(asked, **manner(made)) for text in batch]
        speed[name] = sum(text.tokens for text in found) / (time.monotonic() - began)
        print(f"{name}: {speed[name]:.1f} tokens/s", file=sys.stderr)
        texts[name] = {(text.prompt_id, text.sample): text.ids for text in found}
    paged.close()
    same = sum(texts["ours"][key] == ids for key, ids in texts["theirs"].items())
    lengths = sorted(len(ids) for ids in texts["theirs"].values())
    return {
        "ratio": round(speed["ours"] / speed["theirs"], 3),
        "ours": round(speed["ours"], 1),
        "theirs": round(speed["theirs"], 1),
        "unit": "tokens/s",
        "note": f"{len(lengths)} texts of {lengths[0]} to {lengths[-1]} tokens (median {lengths[len(lengths) // 2]}), "
        f"prompts of {min(len(one.tokens) for one in asked)} to {max(len(one.tokens) for one in asked)}, float32, "
        f"{same} texts equal; the loop without `lm/decode.py`: {speed['plain']:.1f} tokens/s, so that file makes it "
        f"{speed['theirs'] / speed['plain']:.2f} times as fast",
    }


def manner(made: Any) -> dict[str, Any]:
    """As `forging.forge` asks."""
    atm = made.atm
    return {
        "max_new_tokens": atm.max_new_tokens,
        "samples": atm.samples,
        "temperature": atm.temperature,
        "top_p": atm.top_p,
        "seed": 0,
    }


def prompts(folder: Path, tokenizer: Any) -> list[Prompt]:
    """The forging prompts of the first questions."""
    made = atm_rows.settings()
    asked = list(atm_rows.questions(folder, made))[:QUESTIONS]
    return [task.prompt for one in asked for task in forging.assignments(one, 0, tokenizer, made)]


@contextmanager
def without_decode() -> Iterator[None]:
    """The loop on transformers' own cache and attention."""
    kept = write.by_group, write.cache_with_room
    write.by_group, write.cache_with_room = lambda _: nullcontext(), lambda config, _: DynamicCache(config=config)
    try:
        yield
    finally:
        write.by_group, write.cache_with_room = kept


if __name__ == "__main__":
    print(json.dumps(both(Path(sys.argv[2])) if len(sys.argv) > 1 else run(), indent=None if sys.argv[1:] else 1))
