"""Forging with `attacker.engine=vllm` against our own loop, and how soon vLLM writes with the next adapter.

python -m tests.bench.vllm_forge

Runs in the environment of `make test-vllm`, where there is one. The prompts of `paged_forge`, in one process after the
other on both cores; each samples its own texts, so they differ in number of tokens. Ours: vLLM. Theirs: `lm.write` at
the default `evaluation.tokens_per_batch`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ragdist.config import LoraConfig
from ragdist.lm.load import add_lora, load_model, load_tokenizer, release
from ragdist.lm.vllm_writer import VllmWriter
from ragdist.lm.write import ModelWriter
from tests.bench import atm_rows
from tests.bench.paged_forge import LIMIT, manner, prompts
from tests.bench.raft_useful_tokens import REPOSITORY

PYTHON = REPOSITORY / ".venv-vllm" / "bin" / "python"
RANK, VERSIONS = 16, 3


def run() -> dict[str, Any]:
    """{"vllm_forge": ratio of tokens per second, "adapter_sync": seconds}; nothing where there is no vLLM."""
    if not PYTHON.exists():
        return {}
    with tempfile.TemporaryDirectory() as made:
        command = [PYTHON, "-m", "tests.bench.vllm_forge", made]
        ran = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def both(folder: Path) -> dict[str, Any]:
    """The loop, then vLLM, then adapters."""
    made = atm_rows.settings(max_new_tokens=LIMIT)
    model, tokenizer = load_model(made.model), load_tokenizer(made.model)
    loop = ModelWriter(model, tokenizer, made.evaluation.tokens_per_batch)
    asked, how = prompts(folder, tokenizer), manner(made)
    theirs, _ = speed(loop, asked, how)
    adapters = publish(model, folder)
    release(model)
    engine = VllmWriter(made.model, tokenizer, made.engines.replaced("memory_share", 0.2), rank=RANK)
    began = time.monotonic()
    engine.take_up(0, adapters[0])
    start = time.monotonic() - began
    took = []
    for version, adapter in enumerate(adapters[1:], 1):
        began = time.monotonic()
        engine.take_up(version, adapter)
        list(engine.write(asked[:1], max_new_tokens=1))
        took.append(time.monotonic() - began)
    engine.close()
    engine = VllmWriter(made.model, tokenizer, made.engines.replaced("memory_share", 0.2))
    ours, lengths = speed(engine, asked, how)
    engine.close()
    return {
        "vllm_forge": {
            "ratio": round(ours / theirs, 3),
            "ours": round(ours, 1),
            "theirs": round(theirs, 1),
            "unit": "tokens/s",
            "note": f"{len(lengths)} texts of {lengths[0]} to {lengths[-1]} tokens (median "
            f"{lengths[len(lengths) // 2]}), {engine.engine} on a CPU, the start left out",
        },
        "adapter_sync": {
            "ratio": round(max(took), 2),
            "ours": round(max(took), 2),
            "theirs": round(start, 1),
            "unit": "s",
            "note": f"rank {RANK} on every linear layer, the slowest of {len(took)}; theirs: a fresh engine",
        },
    }


def speed(writer: Any, asked: Any, how: dict[str, Any]) -> tuple[float, list[int]]:
    """New tokens per second, and of each text."""
    list(writer.write(asked[:2], max_new_tokens=4))
    began = time.monotonic()
    lengths = sorted(text.tokens for batch in writer.write(asked, **how) for text in batch)
    return sum(lengths) / (time.monotonic() - began), lengths


def publish(model: Any, folder: Path) -> list[Path]:
    """Adapters of several versions."""
    adapted = add_lora(model, LoraConfig(rank=RANK))
    found = [folder / f"adapter-{version}" for version in range(VERSIONS)]
    for path in found:
        adapted.save_pretrained(path)
    return found


if __name__ == "__main__":
    print(json.dumps(both(Path(sys.argv[1])) if len(sys.argv) > 1 else run(), indent=None if sys.argv[1:] else 1))
