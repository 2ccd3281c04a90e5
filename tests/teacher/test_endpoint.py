"""Every reply once, in order, paid once, whatever the endpoint and the machine do meanwhile."""

import gzip
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from ragdist.config import TeacherConfig
from ragdist.errors import Stopped, TeacherError
from ragdist.records import Request
from ragdist.teacher.endpoint import Endpoint
from ragdist.teacher.local import LocalTeacher
from tests import faults, tiny

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
from pathlib import Path
from ragdist.config import TeacherConfig
from ragdist.teacher.endpoint import Endpoint
from ragdist.errors import Stopped
from tests import faults
url, folder, count, in_flight = sys.argv[1:]
teacher = Endpoint(TeacherConfig(url=url, model="m", in_flight=int(in_flight)), Path(folder))
try:
    for reply in teacher.ask(faults.requests(int(count)), what="replies"):
        pass
except Stopped as error:
    print(error, file=sys.stderr)
    sys.exit(130)
"""


@pytest.fixture
def endpoint(tmp_path):
    """Endpoints that are closed at the end, all with one ledger for each address."""
    opened = []

    def make(proxy, **settings):
        config = TeacherConfig(url=proxy.url, model="m", **{"in_flight": 4, "deadline_s": 5, **settings})
        opened.append(Endpoint(config, tmp_path))
        return opened[-1]

    yield make
    for teacher in opened:
        teacher.close()


def texts(replies):
    return [reply.text for reply in replies]


def heard(requests):
    return [faults.answer_to(request.text) for request in requests]


def child(proxy, folder, count, in_flight=4):
    command = [sys.executable, "-c", CHILD, proxy.url, str(folder), str(count), str(in_flight)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def kept(folder):
    """How many replies are on disk."""
    return sum(path.read_text().count("\n") for path in folder.glob("teacher-*.jsonl"))


def test_replies_come_in_the_order_of_requests_from_many_calls_at_once(endpoint):
    """Call n takes longer than call n+1, so they end in another order than they began."""
    asked = faults.requests(16)
    slow_first = {request.text: 0.3 - 0.08 * (n % 4) for n, request in enumerate(asked)}
    with faults.Proxy(delay_s=slow_first.get) as proxy:
        replies = list(endpoint(proxy).ask(asked, what="replies"))
    assert [reply.id for reply in replies] == [request.id for request in asked]
    assert texts(replies) == heard(asked)
    assert proxy.most_under_way == 4


def test_a_stream_is_taken_as_calls_have_room(endpoint):
    """check 74: of an endless stream no more is taken than has a reply, a call, or waits to be called."""
    ahead = []

    def stream():
        for number in itertools.count():
            ahead.append(number - teacher.cache.answered)
            yield Request(id=str(number), text=f"question {number}", max_new_tokens=8)

    with faults.Proxy() as proxy:
        teacher = endpoint(proxy)
        replies = teacher.ask(stream(), what="replies")
        assert [next(replies).id for _ in range(10)] == [str(number) for number in range(10)]
        replies.close()
        assert max(ahead) <= 2 * 4
        assert sum(proxy.delivered.values()) <= len(ahead)


def test_streams_of_one_teacher_share_its_calls(endpoint):
    """Answers are asked for as questions come in: together no more than teacher.in_flight."""
    with faults.Proxy(delay_s=0.05) as proxy:
        teacher = endpoint(proxy)
        questions = teacher.ask(faults.requests(12), what="questions")
        follow = (Request(id=f"{q.id}-a", text=q.text, max_new_tokens=8) for q in questions)
        replies = list(teacher.ask(follow, what="answers"))
    assert texts(replies) == [faults.answer_to(text) for text in heard(faults.requests(12))]
    assert proxy.most_under_way == 4
    assert len(proxy.calls) == 24


@pytest.mark.parametrize("name", faults.PASSING)
def test_passing_fault_is_outlived(endpoint, name):
    """Each request meets the fault once; each is delivered, and paid for, once."""
    asked = faults.requests(3)
    with faults.Proxy(fault=lambda _, tries: faults.PASSING[name] if tries == 0 else None) as proxy:
        replies = list(endpoint(proxy, deadline_s=1).ask(asked, what="replies"))
    assert texts(replies) == heard(asked)
    assert sorted(proxy.delivered.values()) == [1, 1, 1]
    assert len(proxy.calls) == 6


@pytest.mark.parametrize(
    ("fault", "seconds"), [(faults.PASSING["busy"], 1.0), (lambda: faults.busy_until_date(2), 1.0)], ids=["s", "date"]
)
def test_retry_after_is_honoured(endpoint, fault, seconds):
    """A date has whole seconds: two from now is more than one from now."""
    made = fault if callable(fault) else lambda: fault  # when it is asked: a date is of that moment
    with faults.Proxy(fault=lambda _, tries: made() if tries == 0 else None) as proxy:
        list(endpoint(proxy).ask(faults.requests(1), what="replies"))
    (first, *_), (second, *_) = proxy.calls
    assert seconds <= second - first < seconds + 2


def test_wait_beyond_the_deadline_ends_the_run(endpoint):
    fault = faults.refusal(429, "come back tomorrow", Retry_After="86400")
    with faults.Proxy(fault=lambda *_: fault) as proxy, pytest.raises(TeacherError, match=r"86400 s.*deadline_s=5"):
        list(endpoint(proxy).ask(faults.requests(1), what="replies"))


def test_what_came_before_a_lasting_failure_is_kept(endpoint):
    """check 18: call 5 never succeeds; the same command asks only for what is missing."""
    asked = faults.requests(8)
    broken = {"now": True}
    with faults.Proxy() as proxy:
        proxy.fault = lambda number, _: (
            faults.PASSING["failing"]
            if broken["now"] and proxy.calls[number - 1][2]["messages"][0]["content"] == "question 5"
            else None
        )
        with pytest.raises(TeacherError, match=r"failed 2 times on 'r5'.*says 500.*kept.*teacher.attempts"):
            list(endpoint(proxy, in_flight=1, attempts=2).ask(asked, what="replies"))
        assert sum(proxy.delivered.values()) == 5
        broken["now"] = False
        assert texts(endpoint(proxy).ask(asked, what="replies")) == heard(asked)
    assert sorted(proxy.delivered.values()) == [1] * 8


@pytest.mark.parametrize(("status", "named"), [(401, "environment variable SECRET"), (404, "teacher.model='m'")])
def test_wrong_key_or_model_ends_at_once_and_says_what_to_set(endpoint, monkeypatch, status, named):
    monkeypatch.setenv("SECRET", "sk-1234567890")
    with faults.Proxy(fault=lambda *_: faults.refusal(status, "no")) as proxy:
        with pytest.raises(TeacherError, match=named):
            list(endpoint(proxy, key_variable="SECRET", in_flight=1).ask(faults.requests(5), what="replies"))
        assert len(proxy.calls) == 1


def test_key_is_sent_and_nowhere_to_be_found(endpoint, monkeypatch, tmp_path, caplog, capsys):
    """The endpoint repeats the key in its error, as some do."""
    monkeypatch.setenv("SECRET", "sk-1234567890\n")
    said = []

    def repeat(*_):
        return faults.refusal(401, f"Incorrect key: {said[0]}")

    with faults.Proxy(fault=repeat) as proxy, caplog.at_level(logging.DEBUG):
        proxy.on_headers = lambda headers: said.append(headers["Authorization"])
        with pytest.raises(TeacherError) as error:
            list(endpoint(proxy, key_variable="SECRET", in_flight=1).ask(faults.requests(1), what="replies"))
    assert said == ["Bearer sk-1234567890"]
    everywhere = [str(error.value), caplog.text, *capsys.readouterr()]
    everywhere += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in everywhere if "1234567890" in text]


def test_no_key_is_fine(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with faults.Proxy() as proxy:
        assert len(list(endpoint(proxy).ask(faults.requests(1), what="replies"))) == 1


def test_request_that_is_refused_for_good_is_remembered(endpoint):
    """check 18: an empty result is remembered, not tried again."""
    asked = faults.requests(3)
    with faults.Proxy() as proxy:
        proxy.fault = lambda number, _: (
            faults.refusal(400, "maximum context length is 10 tokens")
            if proxy.calls[number - 1][2]["messages"][0]["content"] == "question 1"
            else None
        )
        first = list(endpoint(proxy).ask(asked, what="replies"))
        again = list(endpoint(proxy).ask(asked, what="replies"))
        assert len(proxy.calls) == 3
    assert first == again
    assert [bool(reply.failed) for reply in first] == [False, True, False]
    assert "maximum context length" in first[1].failed


def test_refusal_of_the_first_request_is_more_likely_a_wrong_setting(endpoint):
    """Or a typo would be remembered as the fate of every chunk."""
    fault = faults.refusal(400, "who are you")
    with faults.Proxy(fault=lambda *_: fault) as proxy:
        with pytest.raises(TeacherError, match=r"who are you.*check teacher.url"):
            list(endpoint(proxy, in_flight=1).ask(faults.requests(3), what="replies"))
        proxy.fault = lambda number, _: fault if number == 4 else None
        replies = list(endpoint(proxy, in_flight=1).ask(faults.requests(3), what="replies"))
        assert [bool(reply.failed) for reply in replies] == [False, False, True]


def test_model_that_takes_no_temperature_is_asked_without(endpoint):
    """As OpenAI's reasoning models: neither max_tokens nor a temperature."""
    message = "Unsupported {}: '{}' is not supported with this model."

    def picky(number, _):
        sent = proxy.calls[number - 1][2]
        refused = [name for name in ("max_tokens", "temperature") if name in sent]
        return faults.refusal(400, message.format("parameter", refused[0])) if refused else None

    with faults.Proxy() as proxy:
        proxy.fault = picky
        replies = list(endpoint(proxy, attempts=1).ask(faults.requests(6), what="replies"))
        assert not [reply for reply in replies if reply.failed]
        last = proxy.calls[-1][2]
        assert last["max_completion_tokens"] == 8
        assert last["seed"] == 0
        assert "temperature" not in last


def test_budget_stops_and_more_of_it_goes_on(endpoint):
    """15 tokens a call, one at a time: the seventh call would begin at 90 tokens."""
    asked = faults.requests(10)
    with faults.Proxy() as proxy:
        with pytest.raises(Stopped, match=r"teacher.budget_tokens=90 is spent"):
            list(endpoint(proxy, in_flight=1, budget_tokens=90).ask(asked, what="replies"))
        assert len(proxy.calls) == 6
        with pytest.raises(Stopped, match=r"teacher.budget_usd=0.00013 is spent.*\$0.0001"):
            prices = {"usd_per_million_read": 1, "usd_per_million_written": 1}
            list(endpoint(proxy, in_flight=1, budget_usd=0.00013, **prices).ask(asked, what="replies"))
        assert len(proxy.calls) == 9
        assert texts(endpoint(proxy).ask(asked, what="replies")) == heard(asked)
        list(endpoint(proxy, budget_tokens=1).ask(asked, what="replies"))  # costs nothing, so no budget is in its way
        assert len(proxy.calls) == 10


def test_endpoint_that_hides_its_price_cannot_be_held_to_a_budget(endpoint):
    with faults.Proxy(usage=False) as proxy:
        with pytest.raises(TeacherError, match=r"teacher.budget_tokens=0"):
            list(endpoint(proxy, budget_tokens=90).ask(faults.requests(10), what="replies"))
        assert len(list(endpoint(proxy).ask(faults.requests(10), what="replies"))) == 10
        assert sorted(proxy.delivered.values()) == [1] * 10


def test_same_request_twice_is_one_call(endpoint):
    with faults.Proxy(delay_s=0.1) as proxy:
        replies = list(endpoint(proxy).ask(faults.requests(2) * 3, what="replies"))
        assert [reply.id for reply in replies] == ["r0", "r1"] * 3
        assert len(proxy.calls) == 2


def test_error_of_whoever_asks_keeps_what_is_under_way(endpoint):
    with faults.Proxy(delay_s=0.3) as proxy:
        with pytest.raises(ZeroDivisionError):
            for _ in endpoint(proxy).ask(faults.requests(20), what="replies"):
                raise ZeroDivisionError
        paid = sum(proxy.delivered.values())
        assert 4 <= paid <= 8
        list(endpoint(proxy).ask(faults.requests(20), what="replies"))
        assert sorted(proxy.delivered.values()) == [1] * 20


def test_closed_endpoint_opens_again(endpoint):
    with faults.Proxy(delay_s=0.02) as proxy:
        teacher = endpoint(proxy)
        for seed in range(3):
            assert len(list(teacher.ask(faults.requests(12, seed=seed), what="replies"))) == 12
            teacher.close()
    assert proxy.most_under_way == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_awaits_what_is_under_way_and_begins_nothing(tmp_path, number):
    """All calls that the server answered are on disk, and the rest is made by the same command."""
    with faults.Proxy(delay_s=0.4) as proxy:
        running = child(proxy, tmp_path, 16)
        proxy.on_call = lambda count: running.send_signal(number) if count == 6 else None
        said = running.communicate(timeout=60)[1]
        assert running.returncode == 130
        assert "the same command resumes" in said
        assert len(proxy.calls) <= 9
        assert kept(tmp_path) == sum(proxy.delivered.values()) == len(proxy.calls)
        assert child(proxy, tmp_path, 16).wait(60) == 0
    assert sorted(proxy.delivered.values()) == [1] * 16


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_call_no_reply_on_disk_is_asked_for_again(tmp_path, seed):
    """check 18: kill -9 with calls under way; at most those under way are lost with it."""
    at = random.Random(seed).randrange(5, 30)
    with faults.Proxy(delay_s=0.05) as proxy:
        running = child(proxy, tmp_path, 40)
        proxy.on_call = lambda count: os.kill(running.pid, signal.SIGKILL) if count == at else None
        assert running.wait(60) == -signal.SIGKILL
        running.stderr.close()
        paid = {json.loads(line)["key"] for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()}
        before = len(proxy.calls)
        assert at - 4 <= len(paid) <= at
        assert child(proxy, tmp_path, 40).wait(60) == 0
        asked_again = [key for _, key, _ in proxy.calls[before:]]
    assert not paid & set(asked_again)
    assert len(paid) + len(asked_again) == 40


def test_real_server_behind_a_bad_line_says_what_the_model_says_here(tmp_path):
    """`transformers serve`, half of the calls spoilt: greedy replies equal those of the same model in this process."""
    from ragdist.config import ModelConfig
    from ragdist.lm.load import load_model, load_tokenizer
    from ragdist.lm.write import ModelWriter

    model = ModelConfig(source=str(tiny.model_folder(tmp_path)), dtype="float32")
    asked = [Request(id=f"r{n}", text=q.text, max_new_tokens=12) for n, q in enumerate(tiny.questions() * 3)]
    passing = random.Random(0).choices(list(faults.PASSING.values()), k=6)
    with (
        faults.transformers_serve(Path(model.source), tmp_path) as server,
        faults.Proxy(server, lambda number, _: passing[number // 2] if number % 2 and number < 12 else None) as proxy,
    ):
        config = TeacherConfig(url=proxy.url, model=model.source, in_flight=3, deadline_s=4)
        teacher = Endpoint(config, tmp_path)
        replies = list(teacher.ask(asked, what="replies"))
        teacher.close()
        assert len(proxy.calls) == 18
    assert sorted(proxy.delivered.values()) == [1] * 12
    tokenizer = load_tokenizer(model)
    here = LocalTeacher(
        TeacherConfig(),
        tmp_path,
        model,
        lambda: nullcontext((ModelWriter(load_model(model), tokenizer, 512), tokenizer)),
    )
    assert [(r.text, r.read, r.ended) for r in replies] == [
        (r.text, r.read, r.ended) for r in here.ask(asked, what="local")
    ]


KEY = "sk-proj-1234567890abcdef"
TELLS = {
    "an error": faults.refusal(400, f"bad header Authorization: Bearer {KEY}"),
    "an error, cut within the key": faults.refusal(400, "x" * 260 + KEY * 3),
    "a body": faults.Fault(body=json.dumps({"echo": {"authorization": f"Bearer {KEY}"}}).encode()),
    "a body, cut within the key": faults.Fault(body=json.dumps({"e": "x" * 60 + KEY}).encode()),
    "a page": faults.Fault(body=f"<html>{KEY}</html>".encode()),
    "a redirect": faults.Fault(307, {"Location": f"https://other.example/{KEY}/x?k={KEY}"}),
    "a broken chunk": faults.Fault(headers={"Transfer-Encoding": "chunked"}, body=f"{KEY}\r\n".encode()),
    "a reply": faults.Fault(body=faults.completion(f"Your key is {KEY}.")),
    "a refusal": faults.refusal(400, f"too long: {KEY}"),
}


@pytest.mark.parametrize("name", TELLS)
def test_S3_no_key_that_an_endpoint_repeats_is_shown_or_kept(endpoint, monkeypatch, tmp_path, caplog, capsys, name):
    monkeypatch.setenv("SECRET", KEY)
    said = ""
    with faults.Proxy(fault=lambda *_: TELLS[name]) as proxy, caplog.at_level(logging.INFO):
        try:
            found = list(endpoint(proxy, key_variable="SECRET", attempts=1).ask(faults.requests(1), what="replies"))
            said = repr(found)
        except TeacherError as error:
            said = str(error)
    everywhere = [said, caplog.text, *capsys.readouterr()]
    everywhere += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert said and not [text for text in everywhere if KEY[:10] in text]


def test_R16_short_key_masks_no_message_that_is_judged(endpoint, monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    limit = "Unsupported parameter: 'max_tokens' is not supported with this model."

    def picky(number, _):
        return faults.refusal(400, limit) if "max_tokens" in proxy.calls[number - 1][2] else None

    with faults.Proxy() as proxy:
        proxy.fault = picky
        replies = list(endpoint(proxy, key_variable="SECRET", attempts=1).ask(faults.requests(2), what="replies"))
        assert texts(replies) == heard(faults.requests(2))


def test_S5_a_redirect_is_not_followed(endpoint):
    with faults.Proxy() as other, faults.Proxy() as proxy:
        proxy.fault = lambda *_: faults.Fault(307, {"Location": f"{other.url}/chat/completions"})
        with pytest.raises(TeacherError, match=r"says 307 and points to http://127\.0\.0\.1/v1, .*set teacher\.url"):
            list(endpoint(proxy).ask(faults.requests(1), what="replies"))
        assert not other.calls


def test_R16_parameters_of_the_address_stand_behind_the_path(endpoint):
    with faults.Proxy() as proxy:
        paths = []
        proxy.on_path = paths.append
        proxy.url += "/openai?api-version=2024-10-21"
        assert list(endpoint(proxy).ask(faults.requests(1), what="replies"))
    assert paths == ["/v1/openai/chat/completions?api-version=2024-10-21"]


def test_R14_half_a_character_of_a_reply_is_marked_and_a_pair_is_one(endpoint):
    said = {"choices": [{"message": {"content": "Port \ud83d\ude00 \ud800 8443."}}], "usage": {"prompt_tokens": 1}}
    body = json.dumps(said).encode()
    with faults.Proxy(fault=lambda *_: faults.Fault(body=body)) as proxy:
        for _ in range(2):  # paid, and as it was kept
            (reply,) = endpoint(proxy).ask(faults.requests(1), what="replies")
            assert reply.text == "Port \U0001f600 \ufffd 8443."
        assert len(proxy.calls) == 1


def test_R15_a_budget_is_held_against_an_endpoint_that_counts_backwards(endpoint):
    said = json.loads(faults.completion("Because.")) | {"usage": {"prompt_tokens": -1000, "completion_tokens": 5}}
    backwards = faults.Fault(body=json.dumps(said).encode())
    with (
        faults.Proxy(fault=lambda *_: backwards) as proxy,
        pytest.raises(TeacherError, match="does not say how many tokens"),
    ):
        list(endpoint(proxy, budget_tokens=90).ask(faults.requests(3), what="replies"))


def four_gigabytes(bits):
    """Zeros, packed by zlib to four megabytes: the same block again and again."""
    packer, zeros = zlib.compressobj(9, zlib.DEFLATED, bits), bytes(1 << 20)
    first, block = (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + 4095 * block


BOMBS = {
    "gzip": lambda: four_gigabytes(31),
    "deflate": lambda: four_gigabytes(15),
    "gzip, gzip": lambda: gzip.compress(four_gigabytes(31)),
    "identity": lambda: b" " * (20 << 20),
}


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("packing", BOMBS)
def test_R8_a_reply_that_unpacks_to_gigabytes_is_garbage_in_bounded_memory(endpoint, packing, status):
    fault = faults.Fault(status, {"Content-Encoding": packing}, BOMBS[packing]())
    with faults.Proxy(fault=lambda *_: fault) as proxy:
        teacher = endpoint(proxy, attempts=1, deadline_s=60)
        tracemalloc.start()
        try:
            with pytest.raises(TeacherError, match=r"at last by a body that unpacks to more than 16 MiB; .*kept"):
                list(teacher.ask(faults.requests(1), what="replies"))
            assert tracemalloc.get_traced_memory()[1] < 100 << 20
        finally:
            tracemalloc.stop()


def test_packed_replies_are_taken(endpoint):
    said = faults.completion("Because.")
    for number, (packing, pack) in enumerate({"gzip": gzip.compress, "deflate": zlib.compress}.items()):
        fault = faults.Fault(headers={"Content-Encoding": packing}, body=pack(said))
        with faults.Proxy(fault=lambda *_, fault=fault: fault) as proxy:
            (reply,) = endpoint(proxy).ask([Request(id=str(number), text="Why?", max_new_tokens=8)], what="replies")
        assert reply.text == "Because."
