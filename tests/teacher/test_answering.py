"""A model behind an endpoint answers: what is sent, what is paid for once, what a person is told."""

import hashlib
import json

import pytest

from ragdist.config import TeacherConfig
from ragdist.config.address import Address, address_of
from ragdist.errors import ConfigError, TeacherError
from ragdist.records import ChatPrompt, Request
from ragdist.teacher.answering import AnswerersAnywhere
from ragdist.teacher.reply_cache import key_of
from tests import faults

CONFIG = TeacherConfig(attempts=1, deadline_s=5)
PROMPTS = [ChatPrompt(id=f"c/{n}", tokens=(n,), system="Be short.", user=f"question {n % 3}") for n in range(4)]


def ask(proxy, folder, prompts=PROMPTS, model="#m", config=CONFIG, **how):
    with AnswerersAnywhere(config, folder, lambda: pytest.fail("nobody else is asked")).open(proxy.url + model) as one:
        batches = one.write(prompts, max_new_tokens=7, **how)
        return {text.prompt_id: text.text for batch in batches for text in batch}


def test_messages_are_sent_greedily_and_equal_ones_once(tmp_path):
    with faults.Proxy() as proxy:
        found = ask(proxy, tmp_path)
        assert found == {prompt.id: faults.answer_to(prompt.user) for prompt in PROMPTS}
        assert ask(proxy, tmp_path, [ChatPrompt(id="other", tokens=(), system="Be short.", user="question 1")])
        assert ask(proxy, tmp_path, done={"c/0"}).keys() == {"c/1", "c/2", "c/3"}
    bodies = [body for _, _, body in proxy.calls]
    assert len(bodies) == 3
    said = [[("system", "Be short."), ("user", f"question {n}")] for n in range(3)]
    assert sorted([(one["role"], one["content"]) for one in body["messages"]] for body in bodies) == said
    assert {(body["model"], body["max_tokens"], body["temperature"]) for body in bodies} == {("m", 7, 0.0)}


def test_without_a_name_the_endpoint_takes_the_model_that_it_has(tmp_path):
    with faults.Proxy() as proxy:
        ask(proxy, tmp_path, PROMPTS[:1], model="")
        ask(proxy, tmp_path, [ChatPrompt(id="c", tokens=(), system="", user="question 0")], model="")
    assert [sorted(body) for _, _, body in proxy.calls] == [["max_tokens", "messages", "seed", "temperature"]] * 2
    assert [len(body["messages"]) for _, _, body in proxy.calls] == [2, 1]


BAD = {
    "dies": (faults.Fault(how="reset"), "failed 1 times"),
    "asks for patience": (faults.refusal(429, "slow down", Retry_After="99999"), "asks to wait 99999 s"),
    "another form": (faults.Fault(body=b'{"answer": "x"}'), "no chat completion"),
    "a page": (faults.Fault(body=b"<html>sign in</html>"), "failed 1 times"),
    "empty": (faults.Fault(body=faults.completion("")), "gave no text to any of 4 prompts (the first: empty content)"),
    "blank": (faults.Fault(body=faults.completion(" \n")), "gave no text to any of 4 prompts"),
    "another model": (faults.refusal(404, "no such model"), "check the address of --model and its #MODEL='m'"),
    "another key": (faults.refusal(401, "who are you?"), "OPENAI_API_KEY"),
    "a redirect": (faults.Fault(307, {"Location": "https://other.example/v1"}), "set the address of --model to"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_an_endpoint_does_wrong_is_one_line_with_the_knobs_of_here(tmp_path, name):
    fault, wanted = BAD[name]
    with faults.Proxy(fault=lambda *_: fault) as proxy, pytest.raises(TeacherError) as raised:
        ask(proxy, tmp_path)
    said = str(raised.value)
    assert wanted in said and "\n" not in said and "teacher.url" not in said and "teacher.model" not in said


def test_after_an_end_in_the_middle_what_is_kept_is_not_asked_again(tmp_path):
    one = CONFIG.replaced("in_flight", 1)
    with faults.Proxy(fault=lambda number, _: faults.Fault(how="reset") if number == 3 else None) as proxy:
        with pytest.raises(TeacherError, match="replies so far are kept"):
            ask(proxy, tmp_path, config=one)
        assert len(ask(proxy, tmp_path, config=one)) == 4
    assert len(proxy.calls) == 4 and sorted(proxy.delivered.values()) == [1, 1, 1]


def test_some_without_text_are_told_and_count_as_empty(tmp_path, capsys):
    long = faults.refusal(400, "maximum context length is 10 tokens")
    with faults.Proxy(fault=lambda number, _: long if number == 1 else None) as proxy:
        found = ask(proxy, tmp_path, config=CONFIG.replaced("in_flight", 1))
    assert found["c/0"] == found["c/3"] == "" and found["c/1"]
    assert "m: 2 of 4 prompts got no text, which counts as wrong (the first:" in capsys.readouterr().err


def test_where_there_were_texts_before_no_text_at_all_is_an_answer(tmp_path):
    """A service that says nothing under an attack is wrong, not broken."""
    empty, said = faults.Fault(body=faults.completion("")), list[str]()
    others = AnswerersAnywhere(CONFIG, tmp_path, lambda: pytest.fail("nobody else"))
    with faults.Proxy(fault=lambda number, _: empty if number > 1 else None) as proxy, others.open(proxy.url) as one:
        for prompt in PROMPTS[:2]:
            said += [text.text for batch in one.write([prompt], max_new_tokens=7) for text in batch]
    assert said[0] and said[1] == ""


def test_the_name_of_a_paid_reply_is_what_it_was_before_there_were_system_messages():
    request = Request(id="r", text="Why?", max_new_tokens=8, temperature=0.5, seed=3)
    sent = {"id": "r", "text": "Why?", "max_new_tokens": 8, "temperature": 0.5, "seed": 3}
    assert key_of(request, "f") == hashlib.sha256(json.dumps(["f", sent], sort_keys=True).encode()).hexdigest()[:32]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("https://host/v1#org/m", Address("https://host/v1", "org/m")),
        ("http://127.0.0.1:8000/v1", Address("http://127.0.0.1:8000/v1", "")),
        ("https://host/v1?api-version=1#m", Address("https://host/v1?api-version=1", "m")),
        ("org/model", None),
        ("httpmodel", None),
        ("runs/mine/model", None),
    ],
)
def test_address_of(source, found):
    assert address_of(source) == found


@pytest.mark.parametrize(
    "source",
    ["https://user:sk-1@host/v1", "https://host/v1?api-key=sk-1", "http:/host", "HTTP://host/v1", "http://h/v1#a b"],
)
def test_an_address_that_is_none_or_tells_a_key_is_refused_without_it(source):
    with pytest.raises(ConfigError, match=r"must be http\(s\)") as raised:
        address_of(source)
    assert "sk-1" not in str(raised.value)


def test_probabilities_are_not_there(tmp_path):
    opened = AnswerersAnywhere(CONFIG, tmp_path, lambda: pytest.fail("nobody else")).open("http://127.0.0.1:1/v1")
    with opened as one, pytest.raises(ConfigError, match=r"evaluation\.perplexity=false"):
        one.read([])
