"""Texts by continuous batching are those of the loop, and leave no trace in the model."""

import threading
from dataclasses import replace
from itertools import chain

import pytest
import torch
from transformers.generation.continuous_batching.requests import RequestState

from ragdist.config import EnginesConfig, LoraConfig, ModelConfig
from ragdist.errors import EngineError
from ragdist.lm.load import add_lora, load_model, load_tokenizer
from ragdist.lm.paged import PagedWriter
from ragdist.lm.read import ModelReader
from ragdist.lm.write import ModelWriter
from tests import tiny

DRAWN = {"samples": 3, "temperature": 0.9, "top_p": 0.8, "seed": 4}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return ModelConfig(source=str(tiny.model_folder(tmp_path_factory.mktemp("model"))), dtype="float32")


@pytest.fixture(scope="module")
def model(config):
    return load_model(config)


@pytest.fixture(scope="module")
def tokenizer(config):
    return load_tokenizer(config)


class Shared(PagedWriter):
    """On pages as a GPU has them: several a text, shared by texts that begin alike."""

    pages = 500

    def _fit(self, longest):
        self._page = 32

    def _pages(self):
        return self.pages


@pytest.fixture
def paged(model, tokenizer):
    writer = PagedWriter(model, tokenizer, EnginesConfig(max_sequences=16), 4096)
    yield writer
    writer.close()


def write(writer, prompts, **how):
    how = {"max_new_tokens": 12, **how}
    return {(text.prompt_id, text.sample): text for batch in writer.write(prompts, **how) for text in batch}


@pytest.mark.parametrize("how", [{}, DRAWN, {"samples": 2, "temperature": 1.0}, {**DRAWN, "max_new_tokens": 36}])
@pytest.mark.parametrize(("kind", "sequences"), [(PagedWriter, 64), (Shared, 3)])
def test_texts_are_those_of_the_loop_in_any_split_and_order(model, tokenizer, how, kind, sequences):
    """A text a page, or page after page, with fewer places than texts, where pages of the first call are met again."""
    prompts = tiny.prompts()
    wanted = write(ModelWriter(model, tokenizer, 100_000), prompts, **how)
    writer = kind(model, tokenizer, EnginesConfig(max_sequences=sequences), 4096)
    assert write(writer, prompts, **how) == wanted
    assert write(writer, prompts[::-1], **how) == wanted
    assert {**write(writer, prompts[5:], **how), **write(writer, prompts[:5], **how)} == wanted
    writer.close()


def test_prompts_of_one_token_and_steps_smaller_than_a_prompt(model, tokenizer):
    prompts = [replace(prompt, tokens=prompt.tokens[: 1 + 40 * at]) for at, prompt in enumerate(tiny.prompts(4))]
    writer = PagedWriter(model, tokenizer, EnginesConfig(max_sequences=4), 16)
    assert write(writer, prompts, **DRAWN) == write(ModelWriter(model, tokenizer, 4096), prompts, **DRAWN)
    writer.close()


def test_texts_that_had_to_make_room_go_on_as_they_would_have(model, tokenizer, monkeypatch):
    """Pages for a part of the texts alone: some are read again with what was written to them."""
    again, begun = [], RequestState.create_equivalent_initial_request
    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", lambda one: again.append(one) or begun(one))
    monkeypatch.setattr(Shared, "pages", 16)
    prompts, how = tiny.prompts(), {**DRAWN, "max_new_tokens": 60}
    writer = Shared(model, tokenizer, EnginesConfig(max_sequences=16), 4096)
    assert write(writer, prompts, **how) == write(ModelWriter(model, tokenizer, 4096), prompts, **how)
    assert any(one.generated_tokens for one in again)
    writer.close()


def test_a_text_ends_where_the_loop_ends_it(model, tokenizer, paged):
    first = write(ModelWriter(model, tokenizer, 4096), tiny.prompts())
    ending = replace(tokenizer, end=first["prompt-5", 0].ids[4])
    writer = PagedWriter(model, ending, EnginesConfig(), 4096)
    found = write(writer, tiny.prompts())
    assert found == write(ModelWriter(model, ending, 4096), tiny.prompts())
    assert found["prompt-5", 0].ended and not all(text.ended for text in found.values())
    writer.close()


def test_texts_come_as_they_are_finished_all_of_a_prompt_together(paged):
    batches = list(paged.write(tiny.prompts(), max_new_tokens=8, samples=3, temperature=1.0))
    assert len(batches) == 8
    assert all([text.sample for text in batch] == [0, 1, 2] for batch in batches)


def test_scored_says_what_the_model_itself_says(model, paged):
    prompts = tiny.prompts(3)
    found = paged.scored(prompts, 9)
    for prompt, (tokens, logprobs) in zip(prompts, found, strict=True):
        ids = torch.tensor([[*prompt.tokens, *tokens]])
        with torch.no_grad():
            known = model(ids).logits[0, len(prompt.tokens) - 1 : -1].log_softmax(-1)
        assert tokens == known.argmax(-1).tolist()
        assert logprobs == pytest.approx(known.max(-1).values.tolist(), abs=1e-4)


def test_reading_and_learning_are_the_same_bits_before_between_and_after(model, paged):
    def told():
        reader = ModelReader(model, 4096)
        model.zero_grad()
        ids = torch.tensor([tiny.prompts(1)[0].tokens])
        model(ids, labels=ids).loss.backward()
        grads = torch.cat([part.grad.flatten() for part in model.parameters()])
        return dict(chain.from_iterable(reader.read(tiny.examples()))), grads.clone()

    before = told()
    texts = paged.write(tiny.prompts(), **{**DRAWN, "max_new_tokens": 20})
    next(texts)
    between = told()
    rest = list(texts)
    after = told()
    model.zero_grad()
    assert rest and model.config._attn_implementation == "sdpa"
    for later in (between, after):
        assert later[0] == before[0] and torch.equal(later[1], before[1])


def test_a_caller_that_stops_early_leaves_nothing_behind(model, tokenizer, paged):
    threads = set(threading.enumerate())
    texts = paged.write(tiny.prompts(), max_new_tokens=40, samples=2, temperature=1.0)
    next(texts)
    texts.close()
    assert set(threading.enumerate()) == threads
    assert not paged._processor.has_pending_requests() and not paged._draws
    assert write(paged, tiny.prompts(), **DRAWN) == write(ModelWriter(model, tokenizer, 4096), tiny.prompts(), **DRAWN)


def test_ctrl_c_in_a_step_arrives_as_itself_and_the_next_call_works(model, paged):
    def interrupt(*_):
        raise KeyboardInterrupt

    hook = model.lm_head.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(paged, tiny.prompts())
    hook.remove()
    assert len(write(paged, tiny.prompts())) == 8


def test_an_error_in_a_step_is_one_line_and_the_next_call_works(model, paged):
    def fail(*_):
        raise RuntimeError("shapes disagree\nand more")

    hook = model.lm_head.register_forward_hook(fail)
    with pytest.raises(EngineError, match=r"shapes disagree; .*engines.max_sequences.*transformers$"):
        write(paged, tiny.prompts())
    hook.remove()
    assert len(write(paged, tiny.prompts())) == 8


def test_no_text_within_the_deadline_is_an_error(model, tokenizer):
    writer = PagedWriter(model, tokenizer, EnginesConfig(deadline_s=1e-3), 4096)
    with pytest.raises(EngineError, match=r"engines.deadline_s"):
        write(writer, tiny.prompts())
    writer.close()


def test_weights_that_changed_write_other_texts_after_take_up_and_not_before(model, tokenizer, tmp_path):
    """Without it, keys and values of the old weights are met: what take_up is there for."""
    paged = Shared(model, tokenizer, EnginesConfig(), 4096)
    prompts, before = tiny.prompts(), [part.detach().clone() for part in model.parameters()]
    write(paged, prompts)
    try:
        with torch.no_grad():
            for part in model.parameters():
                part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        wanted = write(ModelWriter(model, tokenizer, 4096), prompts)
        assert write(paged, prompts) != wanted
        paged.take_up(1, tmp_path)
        assert write(paged, prompts) == wanted and paged.version == 1
    finally:
        with torch.no_grad():
            for part, old in zip(model.parameters(), before, strict=True):
                part.copy_(old)


def test_an_adapter_in_the_model_is_written_with(config, tokenizer):
    adapted = add_lora(load_model(config), LoraConfig(rank=4))
    with torch.no_grad():
        for name, part in adapted.named_parameters():
            if "lora_B" in name:
                part.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    writer = PagedWriter(adapted, tokenizer, EnginesConfig(), 4096)
    found = write(writer, tiny.prompts(), **DRAWN)
    assert found == write(ModelWriter(adapted, tokenizer, 4096), tiny.prompts(), **DRAWN)
    assert found != write(ModelWriter(load_model(config), tokenizer, 4096), tiny.prompts(), **DRAWN)
    writer.close()


def test_bfloat16_writes_the_same_texts_again(config, tokenizer):
    model = load_model(config.model_copy(update={"dtype": "bfloat16"}))
    writer = PagedWriter(model, tokenizer, EnginesConfig(), 4096)
    first = write(writer, tiny.prompts(), **DRAWN)
    writer.renew()
    assert write(writer, tiny.prompts(), **DRAWN) == first
    writer.close()


def test_a_model_whose_layers_it_does_not_know_is_refused(tokenizer):
    from transformers import MambaConfig, MambaForCausalLM

    shape = MambaConfig(vocab_size=512, hidden_size=16, state_size=4, num_hidden_layers=1)
    writer = PagedWriter(MambaForCausalLM(shape), tokenizer, EnginesConfig(), 4096)
    with pytest.raises(EngineError, match=r"mamba.*set the engine to transformers"):
        write(writer, tiny.prompts())


def test_too_little_memory_says_that_the_share_may_be_raised(model, tokenizer):
    writer = PagedWriter(model, tokenizer, EnginesConfig(memory_share=1e-9), 4096)
    with pytest.raises(EngineError, match=r"lower engines.max_sequences, or change engines.memory_share"):
        write(writer, tiny.prompts())
    writer.close()
