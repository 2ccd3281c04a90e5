import pytest
import torch

from ragdist.algo.perplexity import perplexity
from ragdist.config import ModelConfig
from ragdist.lm.load import load_model
from ragdist.lm.read import ModelReader
from ragdist.records import Example
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    source = str(tiny.model_folder(tmp_path_factory.mktemp("model")))
    return load_model(ModelConfig(source=source, dtype="float32"))


def read(model, examples, tokens_per_batch):
    return {id: logprobs for batch in ModelReader(model, tokens_per_batch).read(examples) for id, logprobs in batch}


def test_read_equals_the_loss_of_transformers_check_21(model):
    examples = tiny.examples()
    found = read(model, examples, 1024)
    for example in examples:
        ids, labels = torch.tensor([example.tokens]), torch.tensor([example.labels])
        with torch.inference_mode():
            loss = model(input_ids=ids, labels=labels).loss.item()
        assert len(found[example.id]) == len(example.tokens) - example.prompt_tokens
        assert -sum(found[example.id]) / len(found[example.id]) == pytest.approx(loss, rel=1e-5)


def test_read_does_not_depend_on_batch_padding_or_order_checks_22_and_31(model):
    """check 22 and check 31, to 1e-5 relative in float32."""
    examples = tiny.examples(16)
    alone = read(model, examples, 1)
    for other in (read(model, examples, 100_000), read(model, examples[::-1], 700)):
        for id, logprobs in alone.items():
            assert other[id] == pytest.approx(logprobs, rel=1e-5)
            assert perplexity(other[id]) == pytest.approx(perplexity(logprobs), rel=1e-5)


def test_read_reads_what_all_prompts_begin_with_once(model):
    """And finds what it finds for each example alone, which shares its beginning with nobody."""
    first = tuple(range(3, 33))
    examples = [
        Example(id=row.id, tokens=(*first, *row.tokens), prompt_tokens=30 + row.prompt_tokens)
        for row in tiny.examples(6)
    ]
    alone = dict(pair for example in examples for pair in read(model, [example], 1024).items())
    seen = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _module, inputs, _: seen.append(inputs[0].tolist()))
    try:
        found = read(model, examples, 400)
    finally:
        hook.remove()
    assert len(seen[0]) == 1 and seen[0][0][:30] == list(first) and len(seen) > 2
    assert sum(map(len, seen[1:])) == 6 and not any(row[:30] == list(first) for batch in seen[1:] for row in batch)
    for id, logprobs in alone.items():
        assert found[id] == pytest.approx(logprobs, rel=1e-5)


def test_read_ignores_what_the_prompts_labels_are_check_20(model):
    example = tiny.examples(1)[0]
    permuted = Example(
        id="other", tokens=example.tokens[:10][::-1] + example.tokens[10:], prompt_tokens=example.prompt_tokens
    )
    assert example.labels == permuted.labels  # the prompt is context, never a target
    found = read(model, [example, permuted], 1024)
    assert len(found["other"]) == len(found[example.id]) and found["other"] != found[example.id]


def test_read_in_microbatches_adds_up_to_one_batch_check_24(model):
    """check 24: weighted by tokens, microbatches of any size give the loss of one batch."""
    examples = tiny.examples(12)

    def loss(found):
        return -sum(map(sum, found.values())) / sum(map(len, found.values()))

    assert loss(read(model, examples, 400)) == pytest.approx(loss(read(model, examples, 100_000)), rel=1e-5)


def test_read_makes_logits_at_answers_only(model):
    asked = []
    hook = model.lm_head.register_forward_hook(lambda _module, _inputs, logits: asked.append(logits.shape[1]))
    try:
        read(model, tiny.examples(1), 1024)
    finally:
        hook.remove()
    answer = len(tiny.examples(1)[0].tokens) - tiny.examples(1)[0].prompt_tokens
    assert asked == [answer]
