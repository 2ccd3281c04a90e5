"""A folder of documents and a teacher by rules: what is asked for again, and what is not."""

import json
import re

import pytest

from ragdist.config import (
    ChunksConfig,
    ContextsConfig,
    CorpusConfig,
    PromptsConfig,
    QuestionsConfig,
    RunConfig,
    Settings,
    TeacherConfig,
)
from ragdist.data import audit
from ragdist.data.pipeline import Pipeline
from ragdist.data.prompts import quotes_hold
from ragdist.errors import ConfigError, DataError, Stopped
from ragdist.local import SerialMapper
from ragdist.storage.stages import Store
from tests import tiny
from tests.scripted_teacher import ScriptedTeacher, kind, reply

THINGS = ("port", "owner", "colour", "height", "weight", "price")
TEACHER = TeacherConfig(questions_per_chunk=2)


@pytest.fixture
def folder(tmp_path):
    """Twelve documents of two facts each, one of them without any."""
    documents = tmp_path / "documents"
    documents.mkdir()
    for n in range(12):
        facts = [f"The {thing} of house {n} is {thing}-{n}." for thing in (THINGS[n % 6], THINGS[(n + 1) % 6])]
        text = " ".join(facts) if n else "Empty."
        (documents / f"house-{n}.md").write_text(f"# House {n}\n\n{text}\n")
    return tmp_path


def settings(folder, **blocks):
    defaults = {
        "run": RunConfig(folder=str(folder / "runs")),
        "corpus": CorpusConfig(source="folder", folder=str(folder / "documents")),
        "chunks": ChunksConfig(tokens=128),
        "teacher": TEACHER,
        "contexts": ContextsConfig(documents=3, oracle_fraction=0.6),
        "prompts": PromptsConfig(answer="reasoned"),
        "questions": QuestionsConfig(test_fraction=0.3),
    }
    return Settings(**{**defaults, **blocks})


def pipeline(made, teacher, runs="runs"):
    store = Store(f"{made.run.folder}/../{runs}/data")
    return Pipeline(made, store, tiny.tokenizer(), SerialMapper(), teacher=teacher)


def test_folder_becomes_a_data_set_that_the_audit_passes(folder):
    """checks 12, 13, 19; no question file is needed."""
    teacher, made = ScriptedTeacher(), settings(folder)
    found = pipeline(made, teacher)
    names = [name for name, _ in found.make("examples")]
    assert names[:4] == ["chunks", "asked", "taught", "questions"] and teacher.closed == 1
    rows = list(found.questions)
    assert len(rows) == 22 and {row.split for row in rows} == {"train", "test"}
    for row in rows:
        oracle = found.chunk_by_id[row.oracle_ids[0]]
        assert quotes_hold(row.reasoning, [oracle.text]) and row.answers[0] in oracle.text
    by_split = {split: {row.oracle_ids for row in rows if row.split == split} for split in ("train", "test")}
    documents = {s: {found.chunk_by_id[i].document_id for (i,) in ids} for s, ids in by_split.items()}
    assert not documents["train"] & documents["test"]
    report = audit.audit(found.questions, found.contexts, found.chunk_by_id, found.examples, made)
    assert report.problems == () and report.quoting == sum(row.split == "train" for row in rows)
    assert found.taught.card["counts"]["taught"] == 22 and found.asked.card["counts"]["without_question"] == 1


def test_other_fraction_and_other_contexts_ask_the_teacher_nothing(folder):
    """check 17, also with the ledger gone: the stages themselves are found again."""
    pipeline(settings(folder), ScriptedTeacher()).make("examples")
    silent = ScriptedTeacher(stops_after=0)
    for contexts in (ContextsConfig(documents=3, oracle_fraction=1), ContextsConfig(documents=4, distractors="hard")):
        pipeline(settings(folder, contexts=contexts), silent).make("examples")
    assert silent.calls == []


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({"answer": TEACHER.answer + " Be brief."}, {"answer"}),
        ({"invalid": "keep"}, set()),
        ({"questions_per_chunk": 1}, {"ask"}),
        ({"chunks": 6}, set()),
        ({"judge": True}, {"verdict"}),
    ],
)
def test_what_changes_is_asked_and_nothing_else(folder, changed, kinds):
    """check 17: a reply that was paid for is used wherever the same is asked."""
    teacher = ScriptedTeacher()
    pipeline(settings(folder), teacher).make("taught")
    paid = len(teacher.calls)
    pipeline(settings(folder, teacher=TEACHER.model_copy(update=changed)), teacher).make("taught")
    assert {kind(call) for call in teacher.calls[paid:]} == kinds


def test_stopped_after_any_call_and_gone_on_gives_the_same_rows(folder):
    """check 18: empty replies too are remembered; no call is made twice."""
    whole = ScriptedTeacher()
    expected = pipeline(settings(folder), whole).make("examples")
    for calls in range(0, len(whole.calls), 5):
        teacher, runs = ScriptedTeacher(stops_after=calls), f"runs-{calls}"
        with pytest.raises(Stopped):
            pipeline(settings(folder), teacher, runs).make("examples")
        teacher.stops_after = len(whole.calls)
        found = pipeline(settings(folder), teacher, runs).make("examples")
        assert sorted(map(repr, teacher.calls)) == sorted(map(repr, whole.calls))
        assert [rows.path.read_bytes() for _, rows in found] == [rows.path.read_bytes() for _, rows in expected]


def test_own_questions_and_the_teachers_are_both_there(folder):
    own = [{"question": "What is the height of house 3?", "answers": ["height-3"], "split": "test"}]
    own += [{"question": "Which house has owner-1 for an owner?", "answers": ["house 1"], "split": "train"}]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    corpus = CorpusConfig(source="folder", folder=str(folder / "documents"), questions=(str(folder / "own.jsonl"),))
    found = pipeline(settings(folder, corpus=corpus), ScriptedTeacher())
    texts = [row.text for row in found.questions]
    assert all(row["question"] in texts for row in own) and len(texts) == len(set(texts)) >= 20


def test_reasoning_is_written_for_the_users_own_questions(folder):
    own = [
        {"question": f"What is the {THINGS[n % 6]} of house {n}?", "answers": [f"{THINGS[n % 6]}-{n}"]}
        for n in range(1, 12)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    corpus = CorpusConfig(source="folder", folder=str(folder / "documents"), questions=(str(folder / "own.jsonl"),))
    made, teacher = settings(folder, corpus=corpus, teacher=TeacherConfig(reasoning=True)), ScriptedTeacher()
    found = pipeline(made, teacher)
    names = [name for name, _ in found.make("examples")]
    assert names[:3] == ["chunks", "selected", "questions"]
    assert all(bool(row.reasoning) == (row.split == "train") for row in found.questions)
    assert [row.id for row in found.questions] == [row.id for row in found.selected]
    assert len(teacher.calls) == sum(row.split == "train" for row in found.questions)


def test_judged_distractors_are_not_shown(folder):
    """A teacher that says yes to one house: it is nobody's distractor, other rows are as before."""
    shown = ContextsConfig(documents=3, distractors="hard")
    plain = pipeline(settings(folder, contexts=shown), ScriptedTeacher())
    plain.make("candidates")

    def manner(request):
        return "Yes." if kind(request) == "verdict" and "of house 5 is" in request.text.split("Question:")[0] else None

    judge = TEACHER.model_copy(update={"judge": True})
    taught = pipeline(settings(folder, contexts=shown, teacher=judge), ScriptedTeacher(manner))
    taught.make("candidates")
    five = {chunk.id for chunk in taught.chunks if "of house 5 is" in chunk.text}
    assert any(five & set(row.chunk_ids) for row in plain.candidates)
    assert not any(five & set(row.chunk_ids) for row in taught.candidates)
    assert all(len(row.chunk_ids) == 3 for row in taught.candidates)
    before = {row.question_id: row.chunk_ids for row in plain.candidates}
    kept = {row.question_id for row in taught.candidates}
    assert kept and all(
        row.chunk_ids == before[row.question_id] for row in taught.candidates if not five & set(before[row.question_id])
    )


def test_teacher_of_no_use_is_an_error_that_says_why(folder):
    found = pipeline(
        settings(folder), ScriptedTeacher(lambda request: "I am sorry." if kind(request) != "ask" else None)
    )
    with pytest.raises(DataError, match=r"none is left: without question 1, invalid 22.*teacher\.answer"):
        found.make("taught")


def test_stages_that_are_not_asked_for_have_no_name(folder):
    found = pipeline(settings(folder, teacher=TeacherConfig(reasoning=True)), ScriptedTeacher())
    with pytest.raises(ConfigError, match="no stage 'taught'"):
        found.make("taught")
    with pytest.raises(ConfigError, match=r"needs question files.*teacher\.questions_per_chunk"):
        found.make("questions")
    with pytest.raises(ConfigError, match="given none"):
        pipeline(settings(folder), None).make("asked")


def test_questions_per_chunk_are_for_a_folder():
    with pytest.raises(ValueError, match=r"questions_per_chunk=2 .*corpus\.source=folder"):
        Settings(teacher=TEACHER)
    with pytest.raises(ValueError, match=r"teacher\.answer has no \{documents\}"):
        TeacherConfig(answer="{question}")


def test_R17_every_question_that_is_left_out_is_listed(folder, capsys):
    """Four chunks are refused; two others have their two questions in common."""

    def manner(request):
        house = kind(request) == "ask" and (found := re.search(r"of house (\d+) is", request.text)) and int(found[1])
        if house in (1, 2, 3, 4):
            return reply("", failed="content filter")
        return "1. What is the thing of all houses?\n2. What is the other thing here?" if house in (5, 6) else None

    pipeline(settings(folder), ScriptedTeacher(manner)).make("taught")
    said = next(line for line in capsys.readouterr().err.splitlines() if " hold; " in line)
    assert "refused 4" in said and "asked of several 4" in said and "none left out" not in said
