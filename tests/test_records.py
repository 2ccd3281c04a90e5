"""Records survive JSON, and labels follow the prompt."""

import json

from ragdist.records import Example, Question, as_row, content_id, from_row
from tests import tiny


def test_rows_restore_records():
    for record in [*tiny.questions(), *tiny.chunks(), *tiny.examples(2)]:
        assert from_row(type(record), json.loads(json.dumps(as_row(record)))) == record


def test_labels_hide_the_prompt_and_show_the_end_token():
    """check 20"""
    assert Example(id="a", tokens=(5, 6, 7, 2), prompt_tokens=2).labels == [-100, -100, 7, 2]


def test_content_id_tells_parts_apart():
    assert content_id("ab", "c") != content_id("a", "bc") and len(content_id("x")) == 16


def test_question_fields_have_a_stable_order():
    assert list(as_row(tiny.questions()[0]))[:3] == ["id", "text", "answers"] == list(Question.__dataclass_fields__)[:3]
