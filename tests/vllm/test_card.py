"""The card's program for vLLM, as printed, with what the card says that a CPU needs."""

import subprocess
import sys
from pathlib import Path

import pytest

import ragdist
from tests import tiny
from tests.test_card import python_blocks, tuned, written

pytest.importorskip("vllm", reason="no vLLM here: `make test-vllm`")


def test_program_of_the_card_gives_the_text_of_evaluate(tmp_path):
    settings = tuned(tmp_path / "model", tiny.TEMPLATE, {}, head_dim=32)
    first, second, *_ = python_blocks(Path(settings.model.source))
    lines = [line for line in first.splitlines() if not line.startswith("model")]
    end = next(number for number, line in enumerate(lines) if line.startswith("text = ")) + 1
    on_cpu = 'LLM(MODEL, dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**30, '
    program = tmp_path / "program.py"
    program.write_text("\n".join(lines[:end]) + "\n" + second.replace("LLM(MODEL, ", on_cpu))
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=settings.model.source, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    example = [("A title", "A text."), ("Another title", "Another text.")]
    assert written(settings, ragdist.prompt("What is ...?", example, settings)) in done.stdout.splitlines()
