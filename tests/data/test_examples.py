from dataclasses import replace

import pytest

from ragdist.config import PromptsConfig
from ragdist.data.examples import example, from_row, quotes_valid
from ragdist.errors import DataError
from tests import tiny

CONFIG = PromptsConfig()
CODEC = tiny.tokenizer()
CHUNKS = tiny.chunks()
QUESTION = tiny.questions()[0]


def answer_of(row):
    return row.tokens[row.prompt_tokens :]


def test_example_target_does_not_depend_on_the_oracle_being_shown():
    """check 8: byte-identical targets for P=1 and P=0."""
    shown = example(QUESTION, CHUNKS[:2], CODEC, CONFIG, max_tokens=4096)
    hidden = example(QUESTION, CHUNKS[1:3], CODEC, CONFIG, max_tokens=4096)
    assert shown.tokens != hidden.tokens
    assert answer_of(shown) == answer_of(hidden) == (*CODEC.encode("None").ids, CODEC.end)


def test_example_labels_are_on_target_and_end_only():
    """check 20: -100 on all prompt positions, and the tokens themselves after it."""
    row = example(QUESTION, CHUNKS, CODEC, CONFIG, max_tokens=4096)
    assert row.labels == [-100] * row.prompt_tokens + list(answer_of(row))
    assert CODEC.decode(row.labels[row.prompt_tokens : -1]) == "None" and row.labels[-1] == CODEC.end


@pytest.mark.parametrize("limit", [150, 180, 210, 240])
def test_example_too_long_keeps_question_target_and_end(limit):
    """check 23: documents lose text, the end token of the target is always in the labels."""
    row = example(QUESTION, CHUNKS, CODEC, CONFIG, max_tokens=limit)
    assert len(row.tokens) <= limit and row.cut_tokens > 0
    assert answer_of(row) == (*CODEC.encode("None").ids, CODEC.end)
    assert QUESTION.text in CODEC.decode(row.tokens)


def test_example_target_alone_too_long_is_an_error():
    with pytest.raises(DataError, match=r"model\.max_tokens=128"):
        example(replace(QUESTION, answers=("x y " * 100,)), CHUNKS, CODEC, CONFIG, max_tokens=128)


def test_from_row_is_example():
    row = example(QUESTION, CHUNKS, CODEC, CONFIG, max_tokens=4096)
    assert from_row((QUESTION, tuple(CHUNKS)), CODEC, CONFIG, 4096) == row


def test_quotes_valid_looks_at_reasoned_answers_and_their_oracles():
    """check 12: a quote from another chunk than the oracle does not hold."""
    by_id = {chunk.id: chunk for chunk in CHUNKS}
    reasoned = PromptsConfig(answer="reasoned")
    said = "##begin_quote##{}##end_quote##"
    right = replace(QUESTION, reasoning=said.format("(encoding=None, errors=None)"))
    wrong = replace(QUESTION, reasoning=said.format("encoding='utf-8'"))
    assert quotes_valid(right, by_id, reasoned)
    assert not quotes_valid(wrong, by_id, reasoned)
    assert quotes_valid(wrong, by_id, CONFIG)
