"""Memory of three roles over one base, against that of the base alone; both have answered the same prompts.

python -m tests.bench.trio_memory

Each in a fresh process: resident memory at the end, less that after the imports, with what is freed given back to the
kernel on both sides. Not given back, spent activations outweigh the weights, and more so for the base, which puts both
kinds of prompts into one batch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForSequenceClassification

from ragdist.lm.beside import ConcurrentWriters
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.memory import give_back_freed_memory
from ragdist.lm.shared import SharedBase
from ragdist.lm.source import resolve
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt, as_row, from_row
from ragdist.roles import Writer
from tests.bench.joint_answer import NEW_TOKENS, RANK, adapter, prompts, settings
from tests.bench.raft_useful_tokens import alone

ASKED = 4
"""Questions, each put closed book and with documents."""


def run() -> dict[str, Any]:
    """{"trio_memory": resident MB of base, reciter, discoverer and scorer / of one base}."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder)
        ones, threes = (alone("tests.bench.trio_memory", who, folder) for who in ("one", "trio"))
    return {
        "trio_memory": {
            "ratio": round(threes["kept_mb"] / ones["kept_mb"], 3),
            "ours": round(threes["kept_mb"], 1),
            "theirs": round(ones["kept_mb"], 1),
            "unit": "MB",
            "note": f"float32, three adapters of rank {RANK} on all linear layers; loaded, before any answer: "
            f"{threes['loaded_mb']:.0f} / {ones['loaded_mb']:.0f} MB; with what is freed kept: "
            f"{threes['mb']:.0f} / {ones['mb']:.0f} MB; {ASKED} questions closed book and with documents",
        }
    }


def prepare(folder: Path) -> None:
    """Leaves the prompts and three adapters."""
    made = settings()
    closed, opened = prompts(folder, made)
    (folder / "prompts.json").write_text(json.dumps([as_row(row) for row in closed[:ASKED] + opened[:ASKED]]))
    for name in ("reciter", "discoverer"):
        adapter(folder / name, made, seed=0)
    base = AutoModelForSequenceClassification.from_pretrained(resolve(made.model), num_labels=1, dtype=torch.float32)
    shape = peft.LoraConfig(task_type="SEQ_CLS", r=RANK, target_modules="all-linear")
    peft.get_peft_model(base, shape).save_pretrained(folder / "scorer")


def one(folder: Path) -> dict[str, float]:
    """The base answers everything."""
    made, before = settings(), resident_mb()
    writer = ModelWriter(load_model(made.model), load_tokenizer(made.model), made.evaluation.tokens_per_batch)
    loaded = resident_mb()
    answer(writer, asked(folder))
    return used(before, loaded)


def trio(folder: Path) -> dict[str, float]:
    """Reciter and discoverer answer, at once, and the scorer scores."""
    made, before = settings(), resident_mb()
    base, tokenizer = SharedBase(made.model), load_tokenizer(made.model)
    room = made.evaluation.tokens_per_batch
    writers = [ModelWriter(base.answers(folder / name), tokenizer, room) for name in ("reciter", "discoverer")]
    scorer = base.classifier(folder / "scorer")
    loaded = resident_mb()
    rows = asked(folder)
    answer(ConcurrentWriters(writers), rows)
    with torch.inference_mode():
        for row in rows[:ASKED]:
            tokens = torch.tensor([row.tokens])
            scorer(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    return used(before, loaded)


def asked(folder: Path) -> list[Prompt]:
    """What `prepare` left."""
    return [from_row(Prompt, row) for row in json.loads((folder / "prompts.json").read_text())]


def answer(writer: Writer, rows: Sequence[Prompt]) -> None:
    """Both kinds of prompts, answered."""
    for _ in writer.write(rows, max_new_tokens=NEW_TOKENS):
        pass


def used(before: float, loaded: float) -> dict[str, float]:
    """Resident MB beyond `before`: as loaded, now, and less what is free."""
    now = resident_mb()
    give_back_freed_memory()
    return {"loaded_mb": loaded - before, "mb": now - before, "kept_mb": resident_mb() - before}


def resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    measured = {"one": one, "trio": trio}[sys.argv[1]](Path(sys.argv[2])) if len(sys.argv) > 1 else run()
    print(json.dumps(measured, indent=None if sys.argv[1:] else 1))
