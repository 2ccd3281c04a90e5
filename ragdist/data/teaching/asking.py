"""Questions and reasoned answers from a teacher, for documents that have none.

    chunk -> questions -> without those of other splits -> reasoned answers -> without those that several chunks answer
             `ask`                `asked_once`                 `answer`                 `judging.unique`

The teacher pays for each reply once (a cache keeps them), so everything here may be made again at no cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest

from ragdist.config import TeacherConfig
from ragdist.data.prompts import block
from ragdist.data.questions import text_key
from ragdist.data.teaching.replies import (
    ReasonedAnswer,
    ask_each,
    fill,
    names_document,
    questions_in,
    read_answer,
    spoken,
)
from ragdist.data.teaching.wordings import Wordings
from ragdist.draws import draw
from ragdist.records import Chunk, Question, Reply, Request, Split, content_id
from ragdist.roles import Teacher
from ragdist.storage.stages import Counted, CountedRows, StageCounts

DATASET = "taught"
Sources = Callable[[Question], Sequence[Chunk]]
"""The oracles of a question."""


def choose(chunks: Iterable[Chunk], config: TeacherConfig, *, test_fraction: float, seed: int) -> dict[str, Split]:
    """The chunks to ask about, `teacher.chunks` at most, by id, each with the split of its questions.

    All chunks of a document have one split, by the document's own draw; a single document is divided by its chunks.
    Where the draws leave a split without any, what was drawn nearest to the border changes sides.
    """
    drawn = ((draw(seed, "teacher", chunk.id), chunk.id, chunk.document_id) for chunk in chunks)
    picked = nsmallest(config.chunks, drawn) if config.chunks else list(drawn)
    several = len({document for _, _, document in picked}) > 1
    units = {chunk_id: document if several else chunk_id for _, chunk_id, document in picked}
    ranked = sorted((draw(seed, "split", unit), unit) for unit in set(units.values()))
    border = sum(number < test_fraction for number, _ in ranked)
    tested = {unit for _, unit in ranked[: max(min(border, len(ranked) - 1), min(1, len(ranked) - 1))]}
    return {chunk_id: "test" if unit in tested else "train" for chunk_id, unit in units.items()}


def ask(
    chunks: Iterable[Chunk],
    splits: Mapping[str, Split],
    teacher: Teacher,
    config: TeacherConfig,
    *,
    seed: int,
) -> Counted[Question]:
    """Questions about those of the chunks that `choose` gave a split, not yet answered, in the order of the chunks.

    Counted are `chunks`, `refused` (chunks that the teacher refused), `without_question` (whose reply held none),
    `no_question` (lines of replies that are none) and `names_document`, questions that were left out because they point
    at a text.
    """
    counts = dict.fromkeys(("chunks", "refused", "without_question", "no_question", "names_document"), 0)

    def request(chunk: Chunk) -> Request:
        return Request(
            id=chunk.id,
            text=fill(config.ask, count=str(config.questions_per_chunk), chunk=_shown(chunk)),
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=seed,
        )

    wanted = (chunk for chunk in chunks if chunk.id in splits)
    for chunk, reply in ask_each(wanted, request, teacher, "questions"):
        found, other_lines = questions_in(reply, config.questions_per_chunk, chunk.text)
        failed = spoken(reply).failed
        counts["no_question"] += other_lines
        counts["chunks"] += 1
        counts["refused"] += bool(failed)
        counts["without_question"] += not found and not failed
        for text in found:
            if names_document(text):
                counts["names_document"] += 1
                continue
            yield Question(
                id=content_id(DATASET, chunk.id, text),
                text=text,
                answers=(),
                oracle_ids=(chunk.id,),
                split=splits[chunk.id],
                dataset=DATASET,
            )
    return counts


def asked_once(asked: Iterable[Question], own: Iterable[Question]) -> tuple[list[Question], StageCounts]:
    """The teacher's questions less those that say what another split asks, before anyone pays for their answers.

    Counted are `asked_of_several`, questions with the same words about several chunks, which none of them alone
    answers; `near_own`, those near to one of the user's own in the other split; and `near_test`, training questions
    near to a test question.
    """
    rows = list(asked)
    often = Counter(text_key(question) for question in rows)
    once = [question for question in rows if often[text_key(question)] == 1]
    theirs: dict[str, list[str]] = {"train": [], "test": []}
    for question in own:
        theirs[question.split].append(question.text)
    other = {"train": Wordings(theirs["test"]), "test": Wordings(theirs["train"])}
    apart = [question for question in once if not other[question.split].near(question.text)]
    tested = Wordings(question.text for question in apart if question.split == "test")
    kept = [question for question in apart if question.split == "test" or not tested.near(question.text)]
    counts = {"asked_of_several": len(rows) - len(once), "near_own": len(once) - len(apart)}
    return kept, {**counts, "near_test": len(apart) - len(kept)}


def answer(
    questions: Iterable[Question], sources: Sources, teacher: Teacher, config: TeacherConfig
) -> Counted[Question]:
    """The questions with a short answer and its reasoning: first those that hold at once, then the repaired ones. Where
    a question has answers already they are known, and only the reasoning is new.

    Counted are `unanswerable`, `refused`, `repaired` (held at the second attempt), `invalid` (did not) and
    `invalid_kept`, those of them that are there nevertheless.
    """
    counts = dict.fromkeys(("unanswerable", "refused", "repaired", "invalid", "invalid_kept"), 0)
    failing: list[tuple[Question, Reply, ReasonedAnswer]] = []

    def first(question: Question) -> Request:
        return _request(config.answer, question, sources, config)

    def again(failed: tuple[Question, Reply, ReasonedAnswer]) -> Request:
        question, reply, found = failed
        return _request(config.repair, question, sources, config, problem=found.problem, reply=spoken(reply).text)

    for question, reply in ask_each(questions, first, teacher, "answers"):
        found = _read(question, reply, sources)
        if reply.failed or found.declined:
            counts["refused" if reply.failed else "unanswerable"] += 1
        elif found.problem:
            failing.append((question, reply, found))
        else:
            yield _with(question, found)
    for (question, _, before), reply in ask_each(failing, again, teacher, "repairs"):
        found = _read(question, reply, sources)
        if found.declined:
            counts["unanswerable"] += 1
        elif not found.problem:
            counts["repaired"] += 1
            yield _with(question, found)
        else:
            counts["invalid"] += 1
            if config.invalid == "keep" and (kept := _least_bad(question, found, before)):
                counts["invalid_kept"] += 1
                yield kept
    return counts


def reason(
    questions: Iterable[Question], sources: Sources, teacher: Teacher, config: TeacherConfig
) -> Counted[Question]:
    """All questions in order, training questions that have an oracle and no reasoning with the teacher's.

    One whose reasoning does not hold is left out, or stays as it was where `teacher.invalid` is keep. Counted are
    `reasoned`, and what `answer` counts.
    """
    rows = list(questions)
    bare = [row for row in rows if row.split == "train" and row.oracle_ids and not row.reasoning.strip()]
    answers = CountedRows(answer(bare, sources, teacher, config))
    made = {question.id: question for question in answers}
    missing = {question.id for question in bare} - made.keys()
    for row in rows:
        if row.id not in missing:
            yield made.get(row.id, row)
        elif config.invalid == "keep":
            yield row
    return {**answers.counts, "reasoned": sum(bool(question.reasoning) for question in made.values())}


def _request(template: str, question: Question, sources: Sources, config: TeacherConfig, **more: str) -> Request:
    documents = "".join(map(block, sources(question)))
    right = (", " if question.all_answers_required else " or ").join(question.answers)
    known = f"The right answer is: {right}\n" if right else ""
    text = fill(template, documents=documents, question=question.text, known=known, **more)
    return Request(id=question.id, text=text, max_new_tokens=config.max_new_tokens)


def _read(question: Question, reply: Reply, sources: Sources) -> ReasonedAnswer:
    texts = [chunk.text for chunk in sources(question)]
    return read_answer(reply, texts, question.answers, all_known=question.all_answers_required)


def _with(question: Question, found: ReasonedAnswer) -> Question:
    return replace(question, answers=question.answers or (found.answer,), reasoning=found.reasoning)


def _least_bad(question: Question, *tried: ReasonedAnswer) -> Question | None:
    """The question with the first of these that can be trained on at all: it has an answer, or the answer is known."""
    if question.answers:
        return question
    return next((_with(question, found) for found in tried if found.answer and found.reasoning), None)


def _shown(chunk: Chunk) -> str:
    # The heading says what a piece cut out of a document is about, so that a question can name it.
    return f"{chunk.heading or chunk.title}\n\n{chunk.text}".strip()
