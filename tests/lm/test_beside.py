import _thread
import signal
import threading
import time
from dataclasses import replace
from itertools import count

import pytest
import torch

from ragdist.config import ModelConfig
from ragdist.lm.beside import ConcurrentWriters
from ragdist.lm.load import load_tokenizer
from ragdist.lm.shared import SharedBase
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt
from tests import tiny
from tests.lm.test_shared import CAUSAL, made

ONE_PROMPT = 200
"""Tokens of a batch that hold no second prompt."""
SAMPLED = {"samples": 2, "temperature": 0.8, "top_p": 0.95, "seed": 3}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Reciter and discoverer over one base, and their tokenizer."""
    folder = tiny.model_folder(tmp_path_factory.mktemp("models"))
    config = ModelConfig(source=str(folder), dtype="float32")
    base = SharedBase(config)
    adapters = [made(CAUSAL, folder, folder.parent / name, seed=seed) for seed, name in enumerate(("re", "di"))]
    return [base.answers(adapter) for adapter in adapters], load_tokenizer(config)


@pytest.fixture
def writers(pair):
    """Fresh ones, so that hooks of one test are gone in the next."""
    models, tokenizer = pair
    yield [ModelWriter(model, tokenizer, ONE_PROMPT) for model in models]
    for model in models:
        model._forward_pre_hooks.clear()


@pytest.fixture(autouse=True)
def torch_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def asked(reciter=6, discoverer=6):
    """Prompts for the reciter and for the discoverer."""
    named = [(f"closed_book/{n}", prompt, 0) for n, prompt in enumerate(tiny.prompts(reciter))]
    named += [(f"oracle/{n}", prompt, 1) for n, prompt in enumerate(tiny.prompts(discoverer))]
    return [Prompt(id=id, tokens=prompt.tokens, model=model) for id, prompt, model in named]


def before_each(writer, function):
    """Calls `function` in the writer's thread before every forward pass."""

    def hook(*_):
        function()  # what a hook returns would replace the model's arguments

    writer.model.register_forward_pre_hook(hook)


def written(stream):
    return {(text.prompt_id, text.sample): text for batch in stream for text in batch}


def none_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("writer")]


class Noted:
    """Plays Writer, and notes when each microbatch was begun and finished."""

    def __init__(self, writer):
        self.writer, self.spans = writer, []

    def write(self, prompts, **how):
        stream = self.writer.write(prompts, **how)
        while True:
            began = time.monotonic()
            batch = next(stream, None)
            if batch is None:
                return
            self.spans.append((began, time.monotonic()))
            yield batch


@pytest.mark.parametrize("how", [{}, SAMPLED])
@pytest.mark.parametrize("threads", [1, 2])
def test_writers_side_by_side_write_what_they_write_in_turn(writers, how, threads):
    torch.set_num_threads(threads)
    prompts, how = asked(), {"max_new_tokens": 6, **how}
    in_turn = {}
    for number, writer in enumerate(writers):
        in_turn |= written(writer.write([prompt for prompt in prompts if prompt.model == number], **how))
    assert len({text.text for text in in_turn.values()}) > 6
    assert written(ConcurrentWriters(writers).write(prompts, **how)) == in_turn
    assert written(ConcurrentWriters(writers).write(prompts[::-1], **how)) == in_turn
    assert none_left()


def test_reciter_and_discoverer_write_at_the_same_time_check_64(writers):
    """check 64: each is in the midst of a microbatch until the other is, too; one after the other they never were."""
    noted, both = [Noted(writer) for writer in writers], threading.Barrier(2)
    for writer in writers:
        before_each(writer, lambda: both.wait(timeout=60))
    made = written(ConcurrentWriters(noted).write(asked(), max_new_tokens=1))
    assert len(made) == 12
    assert [len(writer.spans) for writer in noted] == [6, 6]
    for (began, ended), (other_began, other_ended) in zip(noted[0].spans, noted[1].spans, strict=True):
        assert max(began, other_began) < min(ended, other_ended)


def test_writers_without_prompts_have_no_part(writers):
    before_each(writers[0], lambda: pytest.fail("the reciter was not asked"))
    assert len(written(ConcurrentWriters(writers).write(asked(reciter=0), max_new_tokens=2))) == 6
    assert list(ConcurrentWriters(writers).write([], max_new_tokens=2)) == []


@pytest.mark.parametrize("failing", [0, 1])
def test_error_in_a_thread_arrives_as_itself_and_ends_the_other(writers, failing):
    prompts = asked(8, 8)
    bad = next(prompt for prompt in prompts if prompt.model == failing)
    broken = [replace(bad, tokens=(10**6,)) if prompt is bad else prompt for prompt in prompts]  # no such token
    noted = [Noted(writer) for writer in writers]
    held = threading.Event()
    before_each(writers[1 - failing], lambda: held.wait(timeout=60))
    before_each(writers[failing], lambda: None if len(noted[failing].spans) < 7 else held.set())
    kept = []
    with pytest.raises(IndexError, match="out of range"):
        kept += ConcurrentWriters(noted).write(broken, max_new_tokens=2)
    assert len(noted[failing].spans) == 7  # shortest last
    assert len(noted[1 - failing].spans) < 8
    assert none_left()


def test_caller_that_stops_early_ends_the_threads(writers):
    noted = [Noted(writer) for writer in writers]
    stream = ConcurrentWriters(noted).write(asked(8, 8), max_new_tokens=2)
    next(stream)
    stream.close()
    assert none_left()
    assert max(len(writer.spans) for writer in noted) <= 2  # what was taken, and one ahead


def test_ctrl_c_ends_the_threads(writers):
    passes = count(1)
    before_each(writers[1], lambda: next(passes) == 4 and _thread.interrupt_main())  # once, and all threads are known
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            list(ConcurrentWriters(writers).write(asked(8, 8), max_new_tokens=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert none_left()


def test_writers_share_the_threads_of_torch_and_the_last_has_all(writers):
    torch.set_num_threads(4)
    seen, ended = ([], []), threading.Event()
    for writer, counts in zip(writers, seen, strict=True):
        before_each(writer, lambda counts=counts: counts.append(torch.get_num_threads()))
    before_each(writers[1], lambda: ended.wait(timeout=60))

    class Short(Noted):
        def write(self, prompts, **how):
            yield from super().write(prompts, **how)
            ended.set()

    list(ConcurrentWriters([Short(writers[0]), writers[1]]).write(asked(2, 8), max_new_tokens=1))
    assert seen[0] == [2, 2]
    assert seen[1][0] == 2 and seen[1][-1] == 4 and len(seen[1]) == 8
    assert torch.get_num_threads() == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]
