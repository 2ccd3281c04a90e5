"""What an endpoint says, and what it means."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ragdist.config import TeacherConfig
from ragdist.errors import TeacherError
from ragdist.records import Reply, Request
from ragdist.teacher.completions import Again, NotTaken, Refused, judge, options, parse, retry_after
from tests import faults

REQUEST = Request(id="r", text="Why?", max_new_tokens=8, temperature=0.5, seed=3)
CONFIG = TeacherConfig(url="http://host/v1", model="m", deadline_s=60)
ASKED = options(REQUEST, ())
TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"  # vLLM
TOO_LONG_LLAMA = "the request exceeds the available context size, try increasing it"  # llama.cpp
FILTERED = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
LIMIT = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
WARM = "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported."


def test_completion_is_a_reply():
    expected = Reply(id="r", text="Because.", ended=True, read=10, written=5)
    assert parse(REQUEST, json.loads(faults.completion("Because."))) == expected


@pytest.mark.parametrize(
    ("message", "reason", "expected"),
    [
        ({"content": "Becau"}, "length", ("Becau", False, "")),
        ({"content": ""}, "stop", ("", True, "")),
        ({"content": None}, "stop", ("", True, "")),
        ({"content": None, "refusal": "I cannot."}, "stop", ("", True, "refused by the model")),
        ({"content": "Beca"}, "content_filter", ("", True, "content filter")),
    ],
)
def test_reply_says_whether_it_ended_and_why_there_is_none(message, reason, expected):
    found = parse(REQUEST, {"choices": [{"message": message, "finish_reason": reason}]})
    assert (found.text, found.ended, found.failed) == expected


@pytest.mark.parametrize(
    "said", ["", "<html>", [], {}, None, {"choices": []}, {"choices": [{"message": None}]}, {"choices": {"0": 1}}]
)
def test_anything_else_is_tried_again(said):
    with pytest.raises(Again, match="no chat completion"):
        parse(REQUEST, said)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after_in_seconds(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date():
    then = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after({"retry-after": format_datetime(then, usegmt=True)}) == pytest.approx(90, abs=2)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (408, "timeout", Again),
        (429, "slow down", Again),
        (429, "You exceeded your current quota (insufficient_quota)", TeacherError),
        (500, "oops", Again),
        (503, "", Again),
        (529, "overloaded", Again),
        (401, "no such key", TeacherError),
        (403, "not your project", TeacherError),
        (404, "no such model", TeacherError),
        (402, "no money", TeacherError),
        (400, TOO_LONG, Refused),
        (413, "request too large", Refused),
        (400, FILTERED, Refused),
        (422, "bad thing", Refused),
        (400, LIMIT, NotTaken),
        (400, WARM, NotTaken),
    ],
)
def test_errors_mean(status, said, kind):
    assert type(judge(status, {}, said, ASKED, CONFIG)) is kind


@pytest.mark.parametrize(
    ("said", "certain"), [(TOO_LONG, True), (TOO_LONG_LLAMA, True), (FILTERED, True), ("bad thing", False)]
)
def test_refusals_that_are_the_requests_own_fault_are_told_apart(said, certain):
    assert judge(400, {}, said, ASKED, CONFIG).certain is certain


@pytest.mark.parametrize(("said", "option"), [(LIMIT, "max_tokens"), (WARM, "temperature")])
def test_option_that_a_model_does_not_take_is_left_out(said, option):
    found = judge(400, {}, said, ASKED, CONFIG)
    assert str(found) == option
    assert option not in options(REQUEST, [option])


def test_limit_of_tokens_is_never_left_out():
    assert options(REQUEST, ()) == {"max_tokens": 8, "temperature": 0.5, "seed": 3}
    assert options(REQUEST, ["max_tokens", "seed"]) == {"max_completion_tokens": 8, "temperature": 0.5}


def test_wait_within_the_deadline_is_honoured_and_a_longer_one_ends():
    assert judge(429, {"retry-after": "60"}, "busy", ASKED, CONFIG).after_s == 60
    longer = judge(429, {"retry-after": "61"}, "busy", ASKED, CONFIG)
    assert type(longer) is TeacherError
    assert "teacher.deadline_s=60" in str(longer)


@pytest.mark.parametrize("status", [401, 404])
def test_end_names_the_knob(status):
    said = str(judge(status, {}, "no", ASKED, CONFIG))
    assert {401: "OPENAI_API_KEY", 404: "teacher.model='m'"}[status] in said


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"prompt_tokens": 50, "completion_tokens": 20}, (50, 20)),
        ({"prompt_tokens": "50", "completion_tokens": 20.0}, (50, 20)),
        ({"prompt_tokens": -50, "completion_tokens": 20}, (0, 0)),
        ({"prompt_tokens": 50, "completion_tokens": -1}, (0, 0)),
        ({"prompt_tokens": 10**18, "completion_tokens": 1}, (0, 0)),
        ({"prompt_tokens": None}, (0, 0)),
    ],
)
def test_R15_usage_that_cannot_be_is_none(usage, cost):
    said = json.loads(faults.completion("Because.")) | {"usage": usage}
    found = parse(REQUEST, said)
    assert (found.read, found.written) == cost


@pytest.mark.parametrize("count", [float("inf"), float("nan"), [], {}, "many"])
def test_R15_usage_that_is_no_number_is_tried_again(count):
    with pytest.raises(Again):
        parse(REQUEST, json.loads(faults.completion("Because.")) | {"usage": {"prompt_tokens": count or [1]}})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Be"}, {"type": "text", "text": "cause"}], "Because"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "So"}], "So"),
        ([{"type": "output_text", "text": "So"}, {"text": "!"}, " Yes"], "So! Yes"),
        ([], ""),
    ],
)
def test_R16_content_in_parts_is_its_text(content, text):
    assert parse(REQUEST, {"choices": [{"message": {"content": content}}]}).text == text


@pytest.mark.parametrize("content", [{"text": "So"}, 7, True])
def test_R16_content_of_no_known_form_is_tried_again_and_not_paid_as_an_empty_reply(content):
    with pytest.raises(Again, match="no chat completion"):
        parse(REQUEST, {"choices": [{"message": {"content": content}}]})


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("invalid temperature: only 1 is allowed for this model", "temperature"),
        ("temperature may only be set to 1 when thinking is enabled", "temperature"),
        ("'temperature' must be 1", "temperature"),
        ("This model doesn't support seed", "seed"),
        ('{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}', "seed"),
    ],
)
def test_R16_option_is_left_out_in_whatever_words_it_is_refused(said, option):
    assert str(judge(400, {}, said, ASKED, CONFIG)) == option
    assert type(judge(400, {}, said, ASKED, CONFIG)) is NotTaken


@pytest.mark.parametrize(
    "said", [TOO_LONG, "max_tokens is too large: 5000. This model supports at most 4096", "your prompt must be safe"]
)
def test_R16_what_is_no_option_is_not_left_out(said):
    assert type(judge(400, {}, said, ASKED, CONFIG)) is Refused


def test_R16_what_is_shown_is_not_what_is_judged():
    def shown(said):
        return said.replace("token", "***")

    assert str(judge(400, {}, LIMIT, ASKED, CONFIG, shown)) == "max_tokens"
    assert "4096 ***s" in str(judge(400, {}, TOO_LONG, ASKED, CONFIG, shown))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_S5_redirect_ends_with_the_place_it_points_to(status):
    headers = {"location": "https://user:pw@other.example/v1/chat/completions?key=sk-1"}
    said = str(judge(status, headers, "", ASKED, CONFIG))
    assert "points to https://other.example/v1," in said and "teacher.url" in said
    assert "sk-1" not in said and "pw" not in said
