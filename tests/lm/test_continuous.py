"""Texts that are asked for at any time: those of the plain writer, whoever is under way beside them."""

import math
import threading
import time

import pytest
import torch

from ragdist.config import ModelConfig
from ragdist.errors import ModelError, TrainError
from ragdist.lm.continuous import ContinuousWriter
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt
from tests import tiny

WAIT_S = 60


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    config = ModelConfig(source=str(tiny.model_folder(tmp_path_factory.mktemp("model"))), dtype="float32")
    return ModelWriter(load_model(config), load_tokenizer(config), 8192)


@pytest.fixture
def writer(plain):
    made = ContinuousWriter(plain, slots=3)
    yield made
    made.close()


def wanted(plain, prompts, limit):
    return {text.prompt_id: text.text for batch in plain.write(prompts, max_new_tokens=limit) for text in batch}


def test_texts_are_the_plain_writers_whoever_is_under_way(plain, writer):
    prompts = tiny.prompts(12)
    limits = [3 + 5 * (number % 4) for number in range(12)]
    asked = []
    for prompt, limit in zip(prompts, limits, strict=True):
        asked.append(writer.write(prompt, max_new_tokens=limit))
        time.sleep(0.004)  # so that some join while others are under way
    found = [one.result(WAIT_S) for one in asked]
    for prompt, limit, text in zip(prompts, limits, found, strict=True):
        assert text.text == wanted(plain, [prompt], limit)[prompt.id]
        assert text.tokens == limit or text.ended
    assert writer.load == (0, 0)


def test_what_a_slot_holds_of_a_prompt_is_not_read_again(plain, writer, monkeypatch):
    read = []
    logits = writer._logits

    def counted(ids_RT, *about):
        read.append(ids_RT.shape[1])
        return logits(ids_RT, *about)

    monkeypatch.setattr(writer, "_logits", counted)
    first, *_, last = tiny.prompts(8)
    longer = Prompt(id="longer", tokens=(*last.tokens[:-5], *first.tokens[:9]))
    for prompt, fresh in ((last, len(last.tokens)), (last, 1), (longer, 9), (first, None)):
        read.clear()
        found = writer.write(prompt, max_new_tokens=6).result(WAIT_S)
        assert found.text == wanted(plain, [prompt], 6)[prompt.id]
        assert fresh is None or read[0] == fresh, prompt.id


def test_draws_belong_to_seed_and_prompt(writer):
    prompts, how = tiny.prompts(6), {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9}
    alone = writer.write(prompts[0], seed=3, **how).result(WAIT_S).text
    together = [writer.write(prompt, seed=3, **how) for prompt in prompts]
    assert together[0].result(WAIT_S).text == alone
    assert writer.write(prompts[0], seed=4, **how).result(WAIT_S).text != alone


def test_confidence_is_the_geometric_mean_of_the_probabilities(plain, writer):
    (prompt,) = tiny.prompts(1)
    (written,) = next(plain.write([prompt], max_new_tokens=7))
    ids = torch.tensor([[*prompt.tokens, *written.ids]])
    with torch.inference_mode():
        logs = plain.model(ids).logits[0, len(prompt.tokens) - 1 : -1].log_softmax(-1)
    expected = math.exp(logs.gather(1, torch.tensor(written.ids)[:, None]).mean())
    assert writer.write(prompt, max_new_tokens=7).result(WAIT_S).confidence == pytest.approx(expected, rel=1e-5)


def test_pieces_make_the_text_and_a_stop_ends_it_before_itself(plain, writer):
    (prompt,) = tiny.prompts(1)
    whole = wanted(plain, [prompt], 24)[prompt.id]
    pieces: list[str] = []
    found = writer.write(prompt, max_new_tokens=24, heard=pieces.append).result(WAIT_S)
    assert "".join(pieces) == found.text == whole and len(pieces) > 3 and not found.ended
    stop = whole[len(whole) // 2 :][:3]
    pieces.clear()
    found = writer.write(prompt, max_new_tokens=24, stop=("never there", stop), heard=pieces.append).result(WAIT_S)
    assert found.text == "".join(pieces) == whole[: whole.index(stop)] and found.ended


def test_a_text_that_nobody_wants_makes_room_at_once(writer):
    heard = threading.Event()
    first, second = tiny.prompts(2)
    many = [writer.write(first, max_new_tokens=7000, heard=lambda _: heard.set()) for _ in range(3)]
    waiting = writer.write(second, max_new_tokens=4)
    assert heard.wait(WAIT_S) and not waiting.done()
    for one in many:
        one.cancel()
    assert waiting.result(WAIT_S).tokens <= 4


def test_an_error_strikes_the_text_that_cannot_be_begun_and_no_other(plain, writer):
    (prompt,) = tiny.prompts(1)
    good = writer.write(prompt, max_new_tokens=30)
    bad = writer.write(Prompt(id="bad", tokens=(1, 100_000)), max_new_tokens=4)  # no such token
    with pytest.raises(IndexError):
        bad.result(WAIT_S)
    assert good.result(WAIT_S).text == wanted(plain, [prompt], 30)[prompt.id]
    assert writer.write(prompt, max_new_tokens=5).result(WAIT_S).text == wanted(plain, [prompt], 5)[prompt.id]


def test_closing_ends_what_is_not_finished(plain):
    writer = ContinuousWriter(plain, slots=1)
    asked = [writer.write(prompt, max_new_tokens=7000) for prompt in tiny.prompts(3)]
    writer.close()
    for one in asked:
        with pytest.raises(TrainError, match="closed"):
            one.result(WAIT_S)
    with pytest.raises(TrainError, match="closed"):
        writer.write(tiny.prompts(1)[0], max_new_tokens=1)


def test_a_model_with_a_window_is_refused(plain):
    from transformers import MistralConfig, MistralForCausalLM

    shape = MistralConfig(
        **{"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 16},
    )
    windowed = ModelWriter(MistralForCausalLM(shape), plain.tokenizer, 8192)
    with pytest.raises(ModelError, match=r"mistral.*vLLM"):
        ContinuousWriter(windowed, slots=2)
