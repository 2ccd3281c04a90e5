"""Questions and reasoned answers from a teacher that answers by rules, with faults that are known beforehand."""

import pytest

from ragdist.config import TeacherConfig
from ragdist.data.prompts import quotes_hold
from ragdist.data.teaching import asking
from ragdist.records import Chunk, Question
from ragdist.storage.stages import CountedRows
from tests.scripted_teacher import ScriptedTeacher, kind, reply


def chunk(name, text, document=None):
    return Chunk(id=name, document_id=document or name, title=name, text=text)


def question(text, split="train", oracle="a", answers=(), **more):
    return Question(id=text, text=text, answers=answers, oracle_ids=(oracle,) * bool(oracle), split=split, **more)


CHUNKS = {
    "a": chunk("a", "The port is 8443. The owner is Ida. The colour is red."),
    "b": chunk("b", "The kiln is hot. The glaze is blue."),
    "c": chunk("c", "Nothing is said here"),
}


def sources(row):
    return [CHUNKS[i] for i in row.oracle_ids]


def test_no_document_is_in_both_splits_and_both_have_some():
    """check 19: whatever the draw, over 40 seeds and 2 to 8 documents of five chunks each."""
    for documents in (2, 3, 8):
        chunks = [chunk(f"{d}-{n}", "", str(d)) for d in range(documents) for n in range(5)]
        for seed in range(40):
            found = asking.choose(chunks, TeacherConfig(), test_fraction=0.2, seed=seed)
            assert len(found) == len(chunks) and set(found.values()) == {"train", "test"}
            assert all(len({found[f"{d}-{n}"] for n in range(5)}) == 1 for d in range(documents))


def test_share_of_test_documents_is_the_fraction_and_a_document_keeps_its_side():
    chunks = [chunk(str(n), "") for n in range(2000)]
    found = asking.choose(chunks, TeacherConfig(), test_fraction=0.2, seed=0)
    assert abs(list(found.values()).count("test") - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5
    fewer = asking.choose(chunks[:1000], TeacherConfig(), test_fraction=0.2, seed=0)
    assert fewer.items() <= found.items()


def test_single_document_is_divided_by_its_chunks_and_a_single_chunk_is_trained_on():
    chunks = [chunk(str(n), "", "book") for n in range(5)]
    found = asking.choose(chunks, TeacherConfig(), test_fraction=0.2, seed=0)
    assert set(found.values()) == {"train", "test"}
    assert asking.choose(chunks[:1], TeacherConfig(), test_fraction=0.9, seed=0) == {"0": "train"}


def test_so_many_chunks_are_drawn_by_seed():
    chunks = [chunk(str(n), "") for n in range(50)]
    few = [set(asking.choose(chunks, TeacherConfig(chunks=7), test_fraction=0.2, seed=seed)) for seed in (0, 0, 1)]
    assert len(few[0]) == len(few[2]) == 7 and few[0] == few[1] != few[2]
    more = asking.choose(chunks[::-1], TeacherConfig(chunks=9), test_fraction=0.2, seed=0)
    assert few[0] < set(more)


def ask(manner=lambda _: None, **settings):
    teacher = ScriptedTeacher(manner)
    config = TeacherConfig(**({"questions_per_chunk": 2} | settings))
    splits = {"a": "train", "b": "test", "c": "train"}
    rows = CountedRows(asking.ask(CHUNKS.values(), splits, teacher, config, seed=3))
    found = [(row.text, row.oracle_ids, row.split) for row in rows]
    return found, rows.counts, teacher


def test_questions_are_asked_of_each_chunk_and_carry_no_numbering():
    """check 13."""
    found, counts, teacher = ask()
    assert found == [
        ("What is the port?", ("a",), "train"),
        ("What is the owner?", ("a",), "train"),
        ("What is the kiln?", ("b",), "test"),
        ("What is the glaze?", ("b",), "test"),
    ]
    assert counts == {"chunks": 3, "refused": 0, "without_question": 1, "no_question": 3, "names_document": 0}
    assert {(call.temperature, call.seed) for call in teacher.calls} == {(0.7, 3)}


def test_questions_that_name_their_document_and_refused_chunks_are_counted():
    said = {"a": reply("What does the text say?\nWhat is the port?"), "b": reply("", failed="filtered")}
    found, counts, _ = ask(lambda request: said.get(request.id))
    assert [text for text, *_ in found] == ["What is the port?"]
    assert counts == {"chunks": 3, "refused": 1, "without_question": 1, "no_question": 1, "names_document": 1}


def test_chunk_is_shown_under_its_heading():
    _, _, teacher = ask()
    assert "a\n\nThe port is 8443." in teacher.calls[0].text
    shown = Chunk(id="d", document_id="d", title="t", text="The x is y.", heading="Manual > Relay")
    list(asking.ask([shown], {"d": "train"}, teacher, TeacherConfig(questions_per_chunk=1), seed=0))
    assert "Manual > Relay\n\nThe x is y." in teacher.calls[-1].text


def test_questions_of_the_other_split_and_of_several_chunks_are_not_asked_twice():
    """check 19: of two near wordings the test question stays; the user's own questions all stay."""
    long = "what is the default port of the relay"
    asked = [
        question(f"{long}?"),
        question(f"{long} SERVER?", "test", "b"),
        question("What is it?"),
        question("what is  it", oracle="b"),
        question("Who wrote the manual of the relay?"),
        question("Who paints the wall in the hall?", "test"),
        question("Who cleans the wall in the hall?"),
    ]
    own = [question("who wrote the manual of the relay", "test"), question("Who paints the wall in the hall?", "train")]
    kept, counts = asking.asked_once(asked, own)
    assert [row.text for row in kept] == [f"{long} SERVER?", "Who cleans the wall in the hall?"]
    assert counts == {"asked_of_several": 2, "near_own": 2, "near_test": 1}


def answered(manner, *asked, **settings):
    teacher = ScriptedTeacher(manner)
    rows = asked or (question("What is the port?"), question("What is the kiln?", "test", "b"))
    answers = CountedRows(asking.answer(rows, sources, teacher, TeacherConfig(**settings)))
    return list(answers), answers.counts, teacher


def test_answers_are_short_and_their_quotes_stand_in_the_oracle():
    """check 12."""
    found, counts, teacher = answered(lambda _: None)
    assert [row.answers for row in found] == [("8443",), ("hot",)]
    assert all(quotes_hold(row.reasoning, [CHUNKS[row.oracle_ids[0]].text]) and row.reasoning for row in found)
    assert not any(counts.values()) and len(teacher.calls) == 2
    assert all(call.temperature == 0 for call in teacher.calls)


BAD = "##begin_quote## The port is 8444. ##end_quote##\n<ANSWER>: 8444"


def test_answer_that_does_not_hold_is_repaired_once():
    """The second prompt says what was wrong with the first reply."""
    found, counts, teacher = answered(lambda request: BAD if kind(request) == "answer" else None)
    assert [row.answers for row in found] == [("8443",), ("hot",)] and counts["repaired"] == 2
    assert [kind(call) for call in teacher.calls] == ["answer", "answer", "repair", "repair"]
    assert "The port is 8444.' does not stand" in teacher.calls[2].text and BAD in teacher.calls[2].text


@pytest.mark.parametrize(("invalid", "answers"), [("drop", []), ("keep", [("8444",), ("8444",)])])
def test_answer_that_never_holds_is_left_out_or_kept_and_counted(invalid, answers):
    found, counts, teacher = answered(lambda _: BAD, invalid=invalid)
    assert [row.answers for row in found] == answers and len(teacher.calls) == 4
    assert (counts["invalid"], counts["invalid_kept"]) == (2, len(answers))


def test_nothing_is_kept_of_a_reply_without_an_answer():
    found, counts, _ = answered(lambda _: "It is hard to say what that would be", invalid="keep")
    assert (found, counts["invalid"], counts["invalid_kept"]) == ([], 2, 0)


def test_unanswerable_and_refused_questions_are_not_repaired():
    asked = [question("What is the moon?"), question("What is the port?"), question("What is the kiln?", oracle="b")]
    failed = reply("", failed="filtered")
    found, counts, teacher = answered(lambda request: failed if "the kiln?" in request.text else None, *asked)
    assert [row.text for row in found] == ["What is the port?"] and len(teacher.calls) == 3
    assert (counts["unanswerable"], counts["refused"], counts["repaired"]) == (1, 1, 0)


def reason(manner=lambda _: None, **settings):
    teacher = ScriptedTeacher(manner)
    rows = [
        question("What is the port?", answers=("8443",)),
        question("What is the owner?", answers=("Otto",)),
        question("What is the colour?", answers=("red",), reasoning="It is so."),
        question("What is the glaze?", oracle="", answers=("blue",)),
        question("What is the kiln?", "test", "b", answers=("hot",)),
    ]
    reasoned = CountedRows(asking.reason(rows, sources, teacher, TeacherConfig(**settings)))
    return rows, list(reasoned), reasoned.counts, teacher


def test_reasoning_is_written_for_training_questions_that_have_none():
    """The owner's known answer is not what the text says: no reasoning leads to it, and the row goes."""
    rows, found, counts, teacher = reason()
    assert [row.id for row in found] == [rows[0].id, *(row.id for row in rows[2:])]
    assert found[0].reasoning == "It says ##begin_quote## The port is 8443. ##end_quote##"
    assert found[0].answers == ("8443",) and found[1:] == rows[2:]
    assert counts["reasoned"] == 1 and counts["invalid"] == 1 and len(teacher.calls) == 3
    assert "The right answer is: 8443\n" in teacher.calls[0].text
    assert "'Otto', which is right" in teacher.calls[2].text


def test_question_without_valid_reasoning_stays_as_it_was_when_kept():
    rows, found, counts, _ = reason(invalid="keep")
    assert [row.id for row in found] == [row.id for row in rows] and found[1] == rows[1] and found[0].reasoning
    assert (counts["reasoned"], counts["invalid_kept"]) == (1, 1)
