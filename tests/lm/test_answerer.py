"""Batches are the same whoever computes them, and whatever was done before."""

from dataclasses import replace
from itertools import chain

import pytest

from ragdist.config import ModelConfig, Settings
from ragdist.lm import read
from ragdist.lm.answerer import ModelAnswerer, example_batches, load_answerer, prompt_batches
from ragdist.lm.write import writing_batches
from ragdist.records import Written
from tests import tiny


def ids(batches):
    return [[item.id for item in batch] for batch in batches]


@pytest.fixture(scope="module")
def answerer(tmp_path_factory):
    source = str(tiny.model_folder(tmp_path_factory.mktemp("model")))
    made = Settings(model=ModelConfig(source=source, dtype="float32"))
    return load_answerer(made.unchecked("evaluation.tokens_per_batch", 900), [source])


def test_batches_that_are_not_done_are_those_of_the_first_time():
    prompts = [replace(prompt, model=number % 2) for number, prompt in enumerate(tiny.prompts(16))]
    whole = prompt_batches(prompts, 900, 8, ())
    assert ids(prompt_batches(prompts[::-1], 900, 8, ())) == ids(whole)
    assert all(len({prompt.model for prompt in batch}) == 1 for batch in whole) and len(whole) > 4
    lengths = [len(batch[0].tokens) for batch in whole]
    assert lengths == sorted(lengths, reverse=True)
    done = {*ids(whole)[0], *ids(whole)[2], whole[1][0].id}  # of the second batch only a part
    left = prompt_batches(prompts, 900, 8, done)
    assert ids(left) == [ids(whole)[1], *ids(whole)[3:]]
    for model in (0, 1):  # cut again together, as a writer does, they stay whole
        mine = [batch for batch in left if batch[0].model == model]
        assert ids(writing_batches(list(chain(*mine)), 900, 8)) == ids(mine)
        assert all(ids(writing_batches(batch, 900, 8)) == ids([batch]) for batch in mine)


def test_examples_share_the_beginning_of_all_of_them():
    examples = tiny.examples(12)
    batches, shared = example_batches(examples, 700, True, {example.id for example in examples[1:]})
    assert shared == read.beginning(examples) and 0 < len(batches) < 12
    assert any(examples[0].id in batch for batch in ids(batches))


def test_a_batch_alone_is_the_batch_among_others_to_the_bit(answerer: ModelAnswerer):
    """What ranks do, and what a run does that goes on; texts and log-probabilities."""
    prompts, examples = tiny.prompts(9), tiny.examples(9)
    texts = list(chain.from_iterable(answerer.write(prompts, max_new_tokens=6)))
    alone: list[Written] = []
    for batch in prompt_batches(prompts, 900, 6, ()):
        alone += answerer.write_batch(batch, {"max_new_tokens": 6})
    assert alone == texts and len(texts) == 9
    logs = dict(chain.from_iterable(answerer.read(examples)))
    batches, shared = example_batches(examples, 900, True, ())
    assert dict(chain.from_iterable(answerer.read_batch(batch, shared) for batch in batches[::-1])) == logs
    part = dict(chain.from_iterable(answerer.read(examples, done=set(list(logs)[:4]))))
    assert part.items() <= logs.items() and len(part) >= 5
