"""Whether a question is answered by other chunks than its own: by words, and by asking a teacher."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice

from ragdist.config import TeacherConfig
from ragdist.data.matching import contains, flat, words
from ragdist.data.prompts import block
from ragdist.data.questions import LABELS, LINK_DEPTH
from ragdist.data.teaching.replies import ask_each, fill, says_yes
from ragdist.records import Candidates, Chunk, Hit, Question, Request
from ragdist.roles import Retriever, Teacher
from ragdist.storage.stages import Counted

JUDGED = 5
"""Best-ranked other chunks that the teacher is asked about for each question that it wrote."""
TOGETHER = 256
"""Questions that are searched for at once."""

Find = Callable[[Sequence[Question], Mapping[str, AbstractSet[str]]], Iterable[Candidates]]
"""The distractors of each question, without the chunks that are named by its id."""


def unique(
    questions: Iterable[Question],
    chunks: Mapping[str, Chunk],
    retriever: Retriever,
    teacher: Teacher,
    config: TeacherConfig,
) -> Counted[Question]:
    """The answered questions that only their own chunk answers, in order; the retriever tells which others are looked
    at.

    Counted are `several_chunks`, questions that another chunk answers by its words, and with `teacher.judge`
    `judged_several`, those of which the teacher says so.
    """
    counts = {"several_chunks": 0} | ({"judged_several": 0} if config.judge else {})

    def told_by_words() -> Iterator[tuple[Question, list[Chunk]]]:
        for question, hits in _searched(questions, retriever):
            others = [chunks[hit.chunk_id] for hit in hits if hit.chunk_id not in question.oracle_ids]
            if any(also_answers(other, question, chunks[question.oracle_ids[0]]) for other in others):
                counts["several_chunks"] += 1
            else:
                yield question, others[:JUDGED]

    if not config.judge:
        yield from (question for question, _ in told_by_words())
        return counts
    # All of them first: two streams at once would write over each other's progress.
    for question, said in verdicts(list(told_by_words()), teacher, config):
        if any(said.values()):
            counts["judged_several"] += 1
        else:
            yield question
    return counts


def also_answers(other: Chunk, question: Question, oracle: Chunk) -> bool:
    """Whether another chunk answers the question as well as its own does, as far as words tell.

    It holds the answer, and no fewer of the question's words than the oracle. Yes, no and maybe tell nothing, unless
    the texts are the same.
    """
    if flat(other.text) == flat(oracle.text):
        return True
    telling = [answer for answer in question.answers if words(answer).strip() not in LABELS]
    if not any(contains(other.text, answer) for answer in telling):
        return False
    asked, here, there = (set(words(text).split()) for text in (question.text, _whole(other), _whole(oracle)))
    return len(asked & here) >= len(asked & there)


def verdicts(
    asked: Iterable[tuple[Question, Sequence[Chunk]]], teacher: Teacher, config: TeacherConfig
) -> Iterator[tuple[Question, dict[str, bool]]]:
    """For each question which of its chunks, by id, alone shows that its answer is right, as the teacher says."""
    owed: deque[tuple[Question, int]] = deque()

    def pairs() -> Iterator[tuple[Question, Chunk]]:
        for question, chunks in asked:
            owed.append((question, len(chunks)))
            yield from ((question, chunk) for chunk in chunks)

    said: dict[str, bool] = {}
    for (_, chunk), reply in ask_each(pairs(), lambda pair: _verdict(*pair, config), teacher, "verdicts"):
        while owed[0][1] == 0:
            yield owed.popleft()[0], {}
        said[chunk.id] = says_yes(reply)
        if len(said) == owed[0][1]:
            yield owed.popleft()[0], said
            said = {}
    yield from ((question, {}) for question, _ in owed)


def rejected(
    questions: Iterable[Question], chunks: Mapping[str, Chunk], find: Find, teacher: Teacher, config: TeacherConfig
) -> dict[str, set[str]]:
    """By question id the chunks that are no distractors because, as the teacher says, they show the answer.

    What takes the place of a rejected chunk is asked about too, until nothing new is rejected.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    asked: defaultdict[str, set[str]] = defaultdict(set)
    open_questions = list(questions)
    while open_questions:
        new = []
        for question, shown in zip(open_questions, find(open_questions, found), strict=True):
            new.append((question, [chunks[i] for i in shown.chunk_ids if i not in asked[question.id]]))
            asked[question.id].update(shown.chunk_ids)
        open_questions = []
        for question, said in verdicts(new, teacher, config):
            if any(said.values()):
                found[question.id] |= {chunk_id for chunk_id, yes in said.items() if yes}
                open_questions.append(question)
    return dict(found)


def _searched(questions: Iterable[Question], retriever: Retriever) -> Iterator[tuple[Question, list[Hit]]]:
    rest = iter(questions)
    while some := list(islice(rest, TOGETHER)):
        yield from zip(some, retriever.search([question.text for question in some], LINK_DEPTH), strict=True)


def _verdict(question: Question, chunk: Chunk, config: TeacherConfig) -> Request:
    answer = (", " if question.all_answers_required else " or ").join(question.answers)
    text = fill(config.verdict, documents=block(chunk), question=question.text, answer=answer)
    return Request(id=f"{question.id}-{chunk.id}", text=text, max_new_tokens=config.max_new_tokens)


def _whole(chunk: Chunk) -> str:
    return f"{chunk.title} {chunk.text}"
