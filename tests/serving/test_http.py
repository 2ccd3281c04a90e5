"""A real server and real clients: what comes in, what goes out, and what is not let in."""

import asyncio
import json
import re
import socket
import time
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from ragdist import asking
from tests.serving.finished import raft_run
from tests.serving.listening import listening

TOKEN = "a-token"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "Which colour has ball 2?"}]}
OVERRIDES = ("serve.concurrent=2", "serve.waiting=2", "serve.max_request_kib=16", "serve.max_new_tokens=400")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    run = raft_run(tmp_path_factory.mktemp("run"))
    with asking.served(run, OVERRIDES, TOKEN) as app, listening(app) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0, timeout=60)


def post(url, body, token=TOKEN, **headers):
    head = {"Authorization": f"Bearer {token}", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{url}/v1/chat/completions", content=content, headers=head, timeout=60)


def test_openais_client_gets_answer_usage_and_documents(client):
    assert [model.id for model in client.models.list().data] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    answer = client.chat.completions.create(**ASKED)
    about = answer.ragdist
    assert answer.choices[0].message.content.strip() and answer.choices[0].finish_reason in ("stop", "length")
    assert about["documents"][0]["title"] == "ball 2" and 0 < about["confidence"] < 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 100
    shown = client.chat.completions.create(
        **ASKED, extra_body={"documents": ["Ball 2 is red.", {"text": "x", "title": "y"}]}
    )
    assert [one["text"] for one in shown.ragdist["documents"]] == ["Ball 2 is red.", "x"]
    closed = client.chat.completions.create(**ASKED, extra_body={"documents": []})
    assert closed.ragdist["documents"] == [] and closed.usage.prompt_tokens < shown.usage.prompt_tokens


def test_a_stream_is_the_same_text(client):
    whole = client.chat.completions.create(**ASKED).choices[0].message.content
    parts = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    told = [part for part in parts if part.choices]
    assert "".join(part.choices[0].delta.content or "" for part in told) == whole and len(told) > 4
    assert told[-1].choices[0].finish_reason and told[-1].ragdist["documents"] and parts[-1].usage.completion_tokens


def test_messages_before_the_question_are_counted_not_shown(client):
    before = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Hello"}]
    before += [{"role": "assistant", "content": "Hello!"}]
    found = client.chat.completions.create(model="tiny", messages=[*before, *ASKED["messages"]])
    assert found.ragdist["messages_not_shown"] == 3
    assert found.choices[0].message.content == client.chat.completions.create(**ASKED).choices[0].message.content


@pytest.mark.parametrize(
    ("body", "status", "wanted"),
    [
        (b"not json", 400, "no JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[]", 400, "object"),
        (b"{}", 400, "messages"),
        ({**ASKED, "messages": []}, 400, "messages"),
        ({**ASKED, "messages": [{"role": "user", "content": ""}]}, 400, "content"),
        ({**ASKED, "messages": [{"role": "user", "content": " \n"}]}, 400, "question is empty"),
        ({**ASKED, "messages": [{"role": "user", "content": "a\x1b[31m"}]}, 400, "U\\+001B"),
        ({**ASKED, "messages": [{"role": "user", "content": "a\x00"}]}, 400, "U\\+0000"),
        ({**ASKED, "messages": [{"role": "tool", "content": "a"}]}, 400, "role"),
        ({**ASKED, "messages": [{"role": "assistant", "content": "a"}]}, 400, "last message"),
        ({**ASKED, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "type"),
        ({**ASKED, "messages": [{"role": "user", "content": "word " * 2000}]}, 400, "model.max_tokens"),
        ({**ASKED, "model": "gpt-4"}, 404, "gpt-4"),
        ({**ASKED, "n": 2}, 400, "n: "),
        ({**ASKED, "temperature": 3}, 400, "temperature"),
        ({**ASKED, "max_tokens": 0}, 400, "max_tokens"),
        ({**ASKED, "stop": ["a"] * 17}, 400, "^stop: .*16"),
        ({**ASKED, "documents": [1]}, 400, "^documents.0: "),
        ({**ASKED, "tools": []}, 400, "no such field here: tools"),
        ({**ASKED, "a\u2028\n\x1b[31m\u202eb": 1}, 400, r"^no such field here: a \\u001b\[31m\\u202eb$"),
        ({**ASKED, "documents": [{"txt": "a"}]}, 400, "documents"),
        ({**ASKED, "documents": ["\x08"]}, 400, "U\\+0008"),
        ({**ASKED, "documents": [""]}, 400, "document is empty"),
        ({**ASKED, "documents": ["a" * 20_000]}, 413, "serve.max_request_kib"),
    ],
)
def test_a_bad_body_is_one_clear_error(url, body, status, wanted):
    refused = post(url, body)
    error = refused.json()["error"]
    assert refused.status_code == status and re.search(wanted, error["message"]), error
    assert "Traceback" not in error["message"] and "\n" not in error["message"]


def test_a_temperature_next_to_nothing_is_none(client):
    cold = client.chat.completions.create(**ASKED, temperature=5e-324, top_p=0.5, timeout=20)
    assert cold.choices[0].message.content == client.chat.completions.create(**ASKED).choices[0].message.content


def test_a_client_that_leaves_within_its_body_is_no_error(url, capfd):
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\na"
    )
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as left:
        left.sendall(head.encode())
        time.sleep(0.3)
    known = {"Authorization": f"Bearer {TOKEN}"}
    end = time.monotonic() + 5
    while 'status="499"' not in httpx.get(f"{url}/metrics", headers=known).text and time.monotonic() < end:
        time.sleep(0.1)
    assert 'status="499"' in httpx.get(f"{url}/metrics", headers=known).text
    assert "Traceback" not in capfd.readouterr().err


def test_nobody_without_the_token_is_let_in(url):
    for token in ("none", "another", "a-tokens", "ä"):
        head = {"Authorization": f"Bearer {token}".encode()}
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("GET", "/x"),
        ):
            found = httpx.request(method, url + path, headers=head)
            assert found.status_code == 401 and TOKEN not in found.text
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "model": "tiny"}
    known = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{url}/x", headers=known).status_code == 404
    assert httpx.get(f"{url}/v1/chat/completions", headers=known).status_code == 405
    assert 'ragdist_requests_total{status="200"}' in httpx.get(f"{url}/metrics", headers=known).text


def test_more_than_may_wait_are_refused_and_the_others_answered(url):
    long = {**ASKED, "max_tokens": 120}

    async def crowd():
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
            return await asyncio.gather(*(client.post(f"{url}/v1/chat/completions", json=long) for _ in range(12)))

    found = asyncio.run(crowd())
    by_status = {status: [one for one in found if one.status_code == status] for status in (200, 503)}
    assert len(by_status[200]) >= 4 and by_status[503] and len(by_status[200]) + len(by_status[503]) == 12
    assert len({one.json()["choices"][0]["message"]["content"] for one in by_status[200]}) == 1
    assert by_status[503][0].headers["Retry-After"] == "1"


def test_who_goes_away_makes_room(url):
    body = {**ASKED, "max_tokens": 400, "stream": True}
    head = {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(6):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=head) as answer:
            next(answer.iter_lines())
    end = time.monotonic() + 30
    while "ragdist_texts_under_way 0.0" not in httpx.get(f"{url}/metrics", headers=head).text:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert post(url, ASKED).status_code == 200
