"""Rows graded per second: `lm.read` against a padded forward pass with the logits of every position.

python -m tests.bench.grade_rows

The same rows, the same model object, one process, both cores. A row is a document alone in the QA prompt, then the
right answer. Documents are as long as forgeries are: 15 to 200 tokens, evenly spread, here drawn by seed (of 36 that
SmolLM2 wrote with a limit of 200, 12 were below 50, 6 more below 100, 6 more below 195, 12 were cut off). Ours:
batches by length, logits at answer positions. Theirs: `today.Today.read`, batches of 32 in file order.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ragdist.data.prompts import Shortened, prompt
from ragdist.draws import rng_for
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.read import ModelReader
from ragdist.records import Example
from tests.bench import atm_rows
from tests.bench.raft_useful_tokens import alone
from tests.bench.today import SCORE_BATCH, Today

SHORTEST, LONGEST, TURNS, WARM_UP = 15, 200, 2, 4


def run() -> dict[str, Any]:
    """{"grade_rows": ratio of rows per second, the better of two turns each}."""
    with tempfile.TemporaryDirectory() as made:
        return {"grade_rows": alone("tests.bench.grade_rows", "both", Path(made))}


def both(folder: Path) -> dict[str, Any]:
    """Ours and theirs in turn."""
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    made = atm_rows.settings()
    model = load_model(made.model)
    ours = ModelReader(model, made.evaluation.tokens_per_batch)
    theirs = Today(model, load_tokenizer(made.model))
    graded = rows(folder)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    read: dict[str, dict[str, list[float]]] = {}
    for reader in (ours, theirs):
        list(reader.read(graded[:WARM_UP]))
    for _ in range(TURNS):
        for name, reader in (("ours", ours), ("theirs", theirs)):
            began = time.monotonic()
            read[name] = dict(pair for batch in reader.read(graded) for pair in batch)
            seconds[name].append(time.monotonic() - began)
    apart = max(
        (torch.tensor(read["ours"][row.id]) - torch.tensor(read["theirs"][row.id])).abs().max().item() for row in graded
    )
    lengths = sorted(len(row.tokens) for row in graded)
    work = {name: _flops(reader, graded) for name, reader in (("ours", ours), ("theirs", theirs))}
    mine, other = (len(graded) / min(seconds[name]) for name in ("ours", "theirs"))
    return {
        "ratio": round(mine / other, 3),
        "ours": round(mine, 2),
        "theirs": round(other, 2),
        "unit": "rows/s",
        "note": f"{len(graded)} rows of {lengths[0]} to {lengths[-1]} tokens (median {lengths[len(lengths) // 2]}), "
        f"float32, their batches {SCORE_BATCH} rows; log-probabilities at most {apart:.1g} apart; "
        f"theirs takes {work['theirs'] / work['ours']:.2f} times the FLOPs",
    }


def _flops(reader: Any, graded: list[Example]) -> int:
    with FlopCounterMode(display=False) as counted:
        list(reader.read(graded))
    return counted.get_total_flops()


def rows(folder: Path) -> list[Example]:
    """Three documents of each question, each alone and cut to a drawn length, in file order."""
    made = atm_rows.settings()
    tokenizer, found, rng = load_tokenizer(made.model), [], rng_for(0, "bench", "grade")
    for question in atm_rows.questions(folder, made):
        answer = (*tokenizer.encode(question.target).ids, tokenizer.end)
        for number in range(atm_rows.SAMPLES):
            page, longer = question.documents[number : number + 2]
            text = tokenizer.decode(
                tokenizer.encode(f"{page.text} {longer.text}").ids[: rng.randint(SHORTEST, LONGEST)]
            )
            id = f"{question.id}/{number}"
            shown = [Shortened(page.title, text)]
            limit = made.model.max_tokens
            asked = prompt(question.text, shown, tokenizer, made.prompts, id=id, max_tokens=limit, room=len(answer))
            found.append(Example(id=id, tokens=(*asked.tokens, *answer), prompt_tokens=len(asked.tokens)))
    return found


if __name__ == "__main__":
    print(json.dumps(both(Path(sys.argv[2])) if len(sys.argv) > 1 else run(), indent=None if sys.argv[1:] else 1))
