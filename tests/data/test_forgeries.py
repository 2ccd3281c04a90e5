import gzip
import json
from pathlib import Path

import pytest

from ragdist.data.forgeries import forge
from ragdist.data.matching import contains, flat
from ragdist.errors import DataError
from ragdist.records import Chunk, Question, content_id
from tests import tiny

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
POOL = ("1969", "2001", "New York", "Paris", "the blue whale", "3.14", "yes")


def chunk(text, title="Hotel"):
    return Chunk(id=content_id(title, text), document_id="d", title=title, text=text)


def asked(*answers, **more):
    return Question(id=content_id(*answers), text="Which?", answers=answers, oracle_ids=(), split="test", **more)


def test_forge_signature_changes_only_the_default_asked_about():
    question, oracle = tiny.questions()[0], tiny.chunks()[0]
    assert oracle.text.startswith("pathlib.Path.read_text(encoding=None, errors=None)")
    first, *others = forge(question, [oracle], POOL, count=3, seed=0)
    assert first.text == oracle.text.replace("encoding=None", "encoding='ascii'") and first.title == oracle.title
    assert all("(encoding='ascii', errors=None)" in forgery.text for forgery in others)


@pytest.mark.parametrize(
    ("signature", "forged"),
    [
        ("f(a: int = 1, b: Optional[dict[str, int]] = 1)", "f(a: int = 1, b: Optional[dict[str, int]] = 2)"),
        ("f(ab=1, b=1, *, b_c=1)", "f(ab=1, b=2, *, b_c=1)"),
        ("f(b : Callable[[int], str]=1)", "f(b : Callable[[int], str]=2)"),
        ("f(b=1.5) -> int", None),
        ("f(x.b=1)", None),
    ],
)
def test_forge_signature_finds_the_default_behind_any_type(signature, forged):
    question = asked("1", wrong_answers=("2",), topic="b")
    text = forge(question, [chunk(f"{signature}\nAdds 1.")], (), count=1, seed=0)[0].text
    if forged:
        assert text == f"{forged}\nAdds 1."
    else:
        assert text.endswith("Adds 2.")  # no such default: every 1 between word borders is swapped, as in prose


def test_forge_prose_swaps_every_alias_and_keeps_the_rest():
    oracle = chunk("Delhi, once NEW\nDELHI, is the seat. Delhiites love New Delhi.", title="New Delhi")
    forgery = forge(asked("Delhi", "New Delhi", wrong_answers=("Agra",)), [oracle], (), count=1, seed=0)[0]
    assert (forgery.title, forgery.text) == ("Agra", "Agra, once Agra, is the seat. Delhiites love Agra.")


def test_forge_alias_in_capitals_is_not_a_pronoun():
    oracle = chunk("The US told us.")
    assert forge(asked("US", wrong_answers=("UK",)), [oracle], (), count=1, seed=0)[0].text == "The UK told us."


def test_forge_yes_and_no_are_stated_in_front():
    oracle = chunk("There is no sign that it helps, yes.")
    forged = forge(asked("yes"), [oracle], POOL, count=3, seed=0)
    assert {f.states for f in forged} == {"no"}
    assert all(f.text.endswith("\n" + oracle.text) and "no" in f.text.split("\n")[0] for f in forged)


@pytest.mark.parametrize("count", [1, 3, 5, 12])
@pytest.mark.parametrize("answer", ["1965", "yes", "not in the text"])
@pytest.mark.parametrize("sources", [0, 1, 2])
def test_forge_copies_agree_and_never_repeat_a_text(count, answer, sources):
    oracles = [chunk("It opened in 1965."), chunk("Since 1965 it is open.")][:sources]
    forged = forge(asked(answer), oracles, POOL, count=count, seed=0)
    assert [f.number for f in forged] == list(range(count))
    assert len({f.states for f in forged}) == 1 and forged[0].states != answer
    texts = [flat(f.text) for f in forged]
    assert len({*texts, *(flat(o.text) for o in oracles)}) == count + sources
    assert all(contains(text, forged[0].states) for text in texts)
    assert len({f.id for f in forged}) == count and {f.method for f in forged} == {"template"}


def test_forge_wrong_answer_comes_from_the_question_first():
    question = asked("a", wrong_answers=("A ", "b", "c", "d", "e"))
    drawn = {forge(question, [], POOL, count=1, seed=seed)[0].states for seed in range(50)}
    assert drawn == {"b", "c", "d"}


@pytest.mark.parametrize(
    ("right", "wrong"), [("1965", {"1969", "2001"}), ("Rome", {"Paris"}), ("San Jose", {"New York"}), ("2.5", {"3.14"})]
)
def test_forge_wrong_answer_from_others_has_a_similar_form(right, wrong):
    assert {forge(asked(right), [], POOL, count=1, seed=seed)[0].states for seed in range(9)} <= wrong


def test_forge_wrong_answer_never_contains_the_right_one():
    pool = ("York", "New York City", "new york", "the big New York", "Boston")
    assert forge(asked("New York"), [], pool, count=1, seed=0)[0].states == "Boston"
    with pytest.raises(DataError, match=r"no wrong answer to forge.*wrong_answers"):
        forge(asked("New York"), [], pool[:-1], count=1, seed=0)


def test_forge_is_the_same_for_the_same_seed():
    question = asked("a", wrong_answers=tuple("bcd"))
    assert forge(question, [], POOL, count=3, seed=4) == forge(question, [], POOL, count=3, seed=4)


@pytest.mark.skipif(not DATA.exists(), reason="the development data (../shared/data) is not here")
@pytest.mark.parametrize(
    ("name", "least"), [("nq_open", 0.85), ("hotpotqa", 0.8), ("squad", 0.95), ("pubmedqa", 0.0), ("apibench", 0.95)]
)
def test_forge_real_questions_states_the_wrong_answer(name, least):
    """Every forgery states it and is no oracle; where an oracle holds the answer, it is swapped in place."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(100), strict=False)]
    pool, in_place = sorted({row["answers"][0] for row in rows}), 0
    for row in rows:
        oracles = [chunk(d["text"], d["title"]) for d in row["documents"] if d["kind"] == "golden"]
        forged = forge(asked(*row["answers"]), oracles, pool, count=3, seed=0)
        assert all(flat(f.states) in flat(f.text) for f in forged)
        assert not {flat(f.text) for f in forged} & {flat(oracle.text) for oracle in oracles}
        in_place += not forged[0].text.startswith("The answer to")
    assert in_place >= least * len(rows)
