"""Replies of a teacher's server: any status, headers and body, and halves of them."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults import completion
from tests.faults.bases import teacher
from tests.faults.calls import HOSTILE, ODD, WORDS, Case, Surface, edited, share, spoiled

QUESTION = "Which number has the kiln?\n##begin_quote##The kiln is number 4.##end_quote##\n<ANSWER>: 4"
SAID = [
    QUESTION,
    "##begin_quote##Kiln 5 is 905 degrees hot.##end_quote##\n<ANSWER>: 905 degrees",
    "yes",
    "<think>",
    "a</think>b",
    "",
]
WHOLE = json.loads(completion(QUESTION))
ERROR = {"error": {"message": "no", "type": "error", "param": None, "code": "content_filter"}}
STATUSES = st.one_of(
    *3 * [st.just(200)],
    st.sampled_from([201, 204, 301, 304, 307, 400, 401, 403, 404, 408, 413, 422, 429, 500, 503, 599, 999]),
)
TEXTS = st.one_of(st.sampled_from(SAID), WORDS, HOSTILE)
COMPLETIONS = st.one_of(TEXTS.map(lambda text: json.loads(completion(text))), edited(WHOLE), edited(ERROR), ODD)
BODIES = st.one_of(
    COMPLETIONS.map(lambda said: json.dumps(said).encode()),
    spoiled(json.dumps(WHOLE).encode()),
    HOSTILE.map(lambda text: text.encode(errors="surrogateescape")),
    COMPLETIONS.map(lambda said: f"data: {json.dumps(said)}\n\ndata: [DONE]\n\n".encode()),
    st.just(b"[" * 100_000),
)
PACKED = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes, "br": bytes, "x": bytes, "zstd": bytes}
VALUES = st.one_of(
    HOSTILE.map(lambda text: text.replace("\n", " ").replace("\0", "")),
    st.sampled_from(["0", "1", "-1", "nan", "1e999", "99999999999", "Wed, 21 Oct 2099 07:28:00 GMT", "chunked"]),
    st.sampled_from(["application/json; charset=utf-7", "text/event-stream", "text/html; charset=x", "gzip, gzip"]),
)
NAMES = st.sampled_from(
    [
        *("Retry-After", "retry-after-ms", "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding"),
        *("Location", "Set-Cookie", "Date", "x-should-retry", "x\xe9"),
    ]
)
ASKED = ["teacher.questions_per_chunk=1"]
RECORDS = ["corpus.source=records", "corpus.questions=[q.jsonl]", "contexts.documents=3", "contexts.distractors=random"]
SERVICE = ["--service", "http://127.0.0.1:REPLYING/v1", "--corpus-to", "corpus", "--then", "true"]
ENDPOINT = ["--model", "m=http://127.0.0.1:REPLYING/v1#m"]
BUILDS = st.sampled_from(
    [
        [*ASKED, "--until", "questions"],
        [*ASKED, "--until", "questions", "teacher.budget_tokens=100"],
        [*RECORDS, "teacher.reasoning=true", "--until", "examples"],
        [*RECORDS, "teacher.reasoning=true", "teacher.invalid=keep"],
        [*ASKED, "teacher.judge=true", "--until", "questions"],
    ]
).map(lambda asked: ["build", "teacher.yaml", *asked])
ASKS = st.sampled_from([SERVICE, ENDPOINT]).map(
    lambda asked: ["evaluate", "teacher.yaml", *RECORDS, *asked, "--attack", "template"]
)


@st.composite
def replies(draw):
    """A reply as the server sends it, byte for byte."""
    body, packing = draw(BODIES), draw(st.sampled_from([*12 * ["identity"], *PACKED]))
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if packing != "identity":
        headers["Content-Encoding"], body = packing, draw(st.sampled_from([PACKED[packing], bytes]))(body)
    headers |= {"Content-Length": str(len(body))} | dict(draw(st.lists(st.tuples(NAMES, VALUES), max_size=2)))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    whole = f"HTTP/1.1 {draw(STATUSES)} x\r\n{head}\r\n".encode(errors="surrogateescape") + body
    return draw(st.one_of(st.just(whole), st.just(whole), spoiled(whole)))


@pytest.fixture(scope="module")
def surface():
    with Surface("teacher", 0.12, teacher) as made:
        yield made


@given(replies(), st.one_of(BUILDS, BUILDS, ASKS))
@share(0.06)
def test_replies(surface, reply, command):
    """Of a teacher, of a model behind an address, of a whole service."""
    surface.run(Case(command, {"reply": reply}))
