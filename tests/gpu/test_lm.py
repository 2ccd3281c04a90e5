"""One process with a GPU makes what one without makes, and keeps its promises there. `make test-gpu`"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ragdist.lm.load import load_model, load_tokenizer, release
from ragdist.lm.read import ModelReader
from ragdist.lm.write import ModelWriter
from tests import tiny, training

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def both(model, tmp_path_factory):
    """What a process on the GPU found, and what one that sees none found."""
    folders = {device: tmp_path_factory.mktemp(device) for device in ("cuda", "cpu")}
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.parity", str(model), str(folder)],
            env=hidden if device == "cpu" else None,
            cwd=Path(__file__).parents[2],
        )
        for device, folder in folders.items()
    ]
    assert [one.wait(timeout=300) for one in running] == [0, 0]
    return [json.loads((folder / "found.json").read_text()) for folder in folders.values()]


@pytest.mark.parametrize("name", ["tuned", "checkpointed", "sharded", "adapter"])
def test_every_step_has_the_loss_and_gradient_of_a_cpu_check_20_21(both, name):
    """On the GPU the loss is TRL's, on the CPU ours."""
    here, there = (found[name] for found in both)
    for (loss, norm), (expected, expected_norm) in zip(here, there, strict=True):
        assert loss == pytest.approx(expected, rel=1e-4)
        if norm and expected_norm:
            assert norm == pytest.approx(expected_norm, rel=1e-3)


@pytest.mark.parametrize("name", ["scored", "confidences", "mito", "dpo"])
def test_numbers_are_those_of_a_cpu(both, name):
    here, there = (found[name] for found in both)
    assert here == pytest.approx(there, rel=1e-3)


def test_log_probabilities_are_those_of_a_cpu(both):
    here, there = (found["read"] for found in both)
    assert here.keys() == there.keys()
    for name in here:
        assert here[name] == pytest.approx(there[name], abs=1e-4)


@pytest.mark.parametrize("name", ["greedy", "sampled"])
def test_texts_are_those_of_a_cpu_draws_included(both, name):
    """Rounding may turn a near tie: nine of ten must agree to the letter."""
    here, there = (found[name] for found in both)
    assert here.keys() == there.keys()
    assert sum(here[key] == there[key] for key in here) >= 0.9 * len(here)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_order_of_prompts_changes_no_text_and_no_number(model, dtype):
    config = training.settings(model).model.model_copy(update={"dtype": dtype})
    loaded, tokenizer = load_model(config), load_tokenizer(config)
    prompts, examples = tiny.prompts(12), tiny.examples(12)

    def texts(asked):
        batches = ModelWriter(loaded, tokenizer, 1024).write(
            asked, max_new_tokens=16, samples=2, temperature=1.0, seed=3
        )
        return {(text.prompt_id, text.sample): text.text for batch in batches for text in batch}

    def numbers(asked):
        return dict(row for batch in ModelReader(loaded, 1024).read(asked) for row in batch)

    assert loaded.device.type == "cuda"
    assert texts(prompts) == texts(prompts[::-1])
    assert numbers(examples) == numbers(examples[::-1])


def test_released_model_leaves_the_card(model):
    gc.collect()
    before = torch.cuda.memory_allocated()
    loaded = load_model(training.settings(model).model)
    assert torch.cuda.memory_allocated() > before
    release(loaded)
    assert torch.cuda.memory_allocated() == before
