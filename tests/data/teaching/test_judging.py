"""Whether other chunks answer a question: by words, and by a teacher that answers by rules."""

from collections import Counter
from collections.abc import Sequence

from ragdist.config import ContextsConfig, RetrievalConfig, TeacherConfig
from ragdist.data import distractors
from ragdist.data.retrieval.bm25 import Bm25
from ragdist.data.teaching import judging
from ragdist.records import Candidates, Chunk, Question
from ragdist.storage.stages import CountedRows
from tests.scripted_teacher import ScriptedTeacher

TEXTS = (
    "The port of the relay is 8443. The owner is Ida.",
    "The port of the relay is 8443.",
    "The port of the printer is 8443.",
    "The relay is old.",
    "The lunch is soup.",
    "The tea is green.",
    "The hall is cold.",
)
CHUNKS = {str(n): Chunk(id=str(n), document_id=str(n), title="", text=text) for n, text in enumerate(TEXTS)}


def question(text="What is the port of the relay?", answer="8443", oracle="0", **more):
    return Question(id=text, text=text, answers=(answer,), oracle_ids=(oracle,), split="train", **more)


def test_other_chunk_answers_when_it_has_the_answer_and_no_fewer_of_the_questions_words():
    asked, oracle = question(), CHUNKS["0"]
    assert [i for i, chunk in CHUNKS.items() if i != "0" and judging.also_answers(chunk, asked, oracle)] == ["1"]


def test_yes_tells_nothing_unless_the_texts_are_the_same():
    asked = question("Is the relay old?", "yes", "3")
    again = Chunk(id="x", document_id="x", title="", text="The  relay is old.\n")
    assert judging.also_answers(again, asked, CHUNKS["3"])
    assert not judging.also_answers(Chunk(id="x", document_id="x", title="", text="yes"), asked, CHUNKS["3"])


def unique(teacher=None, **settings):
    retriever = Bm25(CHUNKS.values(), RetrievalConfig())
    asked = [question(), question("What is the owner?", "Ida"), question("What is the lunch?", "soup", "4")]
    found = CountedRows(judging.unique(asked, CHUNKS, retriever, teacher, TeacherConfig(**settings)))
    return [row.text for row in found], found.counts


def test_questions_that_several_chunks_answer_are_left_out():
    assert unique() == (["What is the owner?", "What is the lunch?"], {"several_chunks": 1})


def test_teacher_is_asked_about_the_best_of_the_others():
    teacher = ScriptedTeacher(lambda request: "Yes" if "soup" in request.text and "green" in request.text else "No")
    found, counts = unique(teacher, judge=True)
    assert (found, counts) == (["What is the owner?"], {"several_chunks": 1, "judged_several": 1})
    asked = Counter(request.id.rpartition("-")[0] for request in teacher.calls)
    assert asked == {"What is the owner?": judging.JUDGED, "What is the lunch?": judging.JUDGED}


def test_verdicts_belong_to_their_questions_also_where_there_is_nothing_to_ask():
    one, none, two = question("What is the port of the relay?"), question("None"), question("What is the owner?", "Ida")
    asked = [(none, []), (one, [CHUNKS["1"], CHUNKS["4"]]), (none, []), (none, []), (two, [CHUNKS["0"]]), (none, [])]
    said = list(judging.verdicts(asked, ScriptedTeacher(), TeacherConfig()))
    assert [found for _, found in said] == [{}, {"1": True, "4": False}, {}, {}, {"0": True}, {}]
    assert [row for row, _ in said] == [row for row, _ in asked]


def test_what_takes_the_place_of_a_rejected_distractor_is_asked_about_too():
    """By hand: 1 and 2 are shown first; 1 is rejected, 3 comes; 3 is rejected, 4 comes; each is asked about once."""
    order, shown = ["1", "2", "3", "4", "5"], 2

    def find(questions: Sequence[Question], rejected):
        for row in questions:
            left = [i for i in order if i not in rejected.get(row.id, ())]
            yield Candidates(question_id=row.id, chunk_ids=tuple(left[:shown]))

    teacher = ScriptedTeacher(lambda request: "yes" if request.id[-1] in "13" else "no")
    found = judging.rejected([question()], CHUNKS, find, teacher, TeacherConfig())
    assert found == {question().id: {"1", "3"}}
    assert [request.id[-1] for request in teacher.calls] == ["1", "2", "3", "4"]


def test_rejected_chunks_and_their_copies_are_no_distractors():
    config = ContextsConfig(documents=3, distractors="hard")
    chunks = CHUNKS | {"copy": Chunk(id="copy", document_id="copy", title="again", text=TEXTS[3])}
    asked, retriever = [question("What is the lunch?", "soup", "4")], Bm25(chunks.values(), RetrievalConfig())
    for rejected in ({}, {asked[0].id: {"3", "6"}}):
        (found,) = distractors.candidates(asked, chunks, retriever, config, seed=0, rejected=rejected)
        assert len(found.chunk_ids) == 3
    assert not {"3", "6", "copy"} & set(found.chunk_ids)
