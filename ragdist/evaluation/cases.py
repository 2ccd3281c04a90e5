"""The same questions under friendly and hostile retrieval: what each model is shown, and what it answers.

closed_book  no documents
oracle       the oracles and distractors, `contexts.documents` in all
absent       distractors only, as many
retrieved    the best `retrieval.count` by `retrieval.kind`, in their order
permuted     the list of `oracle` in another order: the control of the next, as moving documents changes answers too
attacked     the list of `permuted` with forgeries strewn in; nothing of it is removed, altered or moved
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ragdist.config import Condition, ContextsConfig, Settings
from ragdist.data import contexts, prompts
from ragdist.data.contexts import permuted
from ragdist.errors import DataError
from ragdist.evaluation import answers
from ragdist.records import Candidates, ChatPrompt, Chunk, Forgery, Hit, Prompt, Question
from ragdist.roles import Retriever, Tokenizer
from ragdist.storage.stages import Stage, Store
from ragdist.storage.tables import digest

VERSION = 1
"""Raised by hand whenever other cases are made of the same questions."""
ASKED = {"conditions", "forgeries", "normalise"}
"""Fields of `evaluation` that say what is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question under one condition, ready to be asked.

    Example: Case(id="attacked/77...", condition="attacked", question_id="77...", documents=(d7, forged, oracle, d2),
    oracle_ids=("03...",), wrong=("'ascii'",), prompt=Prompt(...), answer=(60, 2))
    """

    id: str
    """Also the prompt's."""
    condition: str
    """One of `config.Condition`, an attack's name, or that of a cell of the grid."""
    question_id: str
    documents: tuple[Chunk | Forgery, ...]
    """In the order they are shown."""
    oracle_ids: tuple[str, ...]
    """Those of `documents` that hold the answer."""
    wrong: tuple[str, ...]
    """What the question's forgeries state, in every condition, so that repeating it has a base rate."""
    prompt: Prompt
    answer: tuple[int, ...]
    """The right answer as tokens, with its tag if answers are reasoned, and the end token; what a Reader is asked."""

    @property
    def forged_ids(self) -> tuple[str, ...]:
        """Those of `documents` that were written to mislead."""
        return tuple(document.id for document in self.documents if isinstance(document, Forgery))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCase:
    """A Case as a stage holds it: its documents by id, its prompt as tokens."""

    id: str
    condition: str
    question_id: str
    document_ids: tuple[str, ...]
    oracle_ids: tuple[str, ...]
    wrong: tuple[str, ...]
    tokens: tuple[int, ...]
    cut_tokens: int
    cut_answer: bool
    answer: tuple[int, ...]


def kept_cases(
    store: Store,
    made_by: Mapping[str, Any],
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    forgeries: Iterable[Forgery],
    settings: Settings,
    make: Callable[[Mapping[str, Sequence[Forgery]]], Iterable[Case]],
) -> list[Case]:
    """The cases of these questions; made once, and found again by all who ask the same.

    Args:
        store: keeps them.
        made_by: what the documents and the tokens of prompts depend on beside settings, by name.
        questions: that are asked.
        chunks: those that may be shown, by id.
        forgeries: likewise.
        settings: as `make_cases` reads them.
        make: `make_cases` for these questions, given the forgeries by question.
    """
    forged = list(forgeries)
    inputs = {"questions": digest(questions), "forgeries": digest(forged)}
    asked = settings.evaluation.model_dump(mode="json", include=ASKED) | {"documents": settings.retrieval.count}
    read = {**named_by(settings), **asked, "made_by": dict(made_by)}
    stage = Stage("cases", inputs, read, version=VERSION + answers.VERSION)
    return found_again(store, stage, chunks, forged, lambda: make(by_question(forged)))


def found_again(
    store: Store,
    stage: Stage,
    chunks: Mapping[str, Chunk],
    forgeries: Iterable[Forgery],
    make: Callable[[], Iterable[Case]],
) -> list[Case]:
    """The cases of a stage, made now or found; they show these chunks and forgeries."""
    rows = store.make(stage, KeptCase, lambda: map(_kept, make()))
    by_id: dict[str, Chunk | Forgery] = {**chunks, **{forgery.id: forgery for forgery in forgeries}}
    return [_of_kept(row, by_id) for row in rows]


def named_by(settings: Settings) -> dict[str, Any]:
    """What of the settings every case depends on."""
    read: dict[str, Any] = {"contexts": settings.contexts.model_dump(mode="json"), "prompts": settings.prompts.named()}
    room = {"max_tokens": settings.model.max_tokens, "answer_tokens": settings.answer_tokens, "seed": settings.seed}
    return read | room


def _kept(case: Case) -> KeptCase:
    prompt = case.prompt
    return KeptCase(
        id=case.id,
        condition=case.condition,
        question_id=case.question_id,
        document_ids=tuple(document.id for document in case.documents),
        oracle_ids=case.oracle_ids,
        wrong=case.wrong,
        tokens=prompt.tokens,
        cut_tokens=prompt.cut_tokens,
        cut_answer=prompt.cut_answer,
        answer=case.answer,
    )


def _of_kept(row: KeptCase, documents: Mapping[str, Chunk | Forgery]) -> Case:
    return Case(
        id=row.id,
        condition=row.condition,
        question_id=row.question_id,
        documents=tuple(documents[i] for i in row.document_ids),
        oracle_ids=row.oracle_ids,
        wrong=row.wrong,
        prompt=Prompt(id=row.id, tokens=row.tokens, cut_tokens=row.cut_tokens, cut_answer=row.cut_answer),
        answer=row.answer,
    )


def by_question(forgeries: Iterable[Forgery]) -> dict[str, list[Forgery]]:
    """Forgeries by the question that they mislead about, in their order."""
    found: dict[str, list[Forgery]] = {}
    for forgery in forgeries:
        found.setdefault(forgery.question_id, []).append(forgery)
    return found


def make_cases(
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    candidates: Mapping[str, Candidates],
    forgeries: Mapping[str, Sequence[Forgery]],
    retriever: Retriever,
    tokenizer: Tokenizer,
    settings: Settings,
) -> Iterator[Case]:
    """Every question under every condition of `evaluation.conditions` that it allows, condition by condition.

    `oracle`, `permuted` and `attacked` take questions whose oracle is known, the last two only those with forgeries.
    What a question is shown depends on the seed, the question and the condition, and on no other question.

    Raises:
        DataError: a question has no answer that can be scored, or does not fit into `model.max_tokens`; no question
            allows any of the conditions.
    """
    for question in questions:
        answers.usable(question, settings.evaluation.normalise)
    conditions, count = settings.evaluation.conditions, settings.retrieval.count
    found = retriever.search([q.text for q in questions], count) if "retrieved" in conditions else [()] * len(questions)
    allowed = False
    for condition in conditions:
        for question, hits in zip(questions, found, strict=True):
            forged = tuple(forgeries.get(question.id, ()))[: settings.evaluation.forgeries]
            if not _allowed(condition, question, forged):
                continue
            allowed = True
            ids = _shown_ids(question, condition, hits, candidates, settings.contexts, settings.seed)
            shown: list[Chunk | Forgery] = [chunks[chunk_id] for chunk_id in ids]
            if condition in ("permuted", "attacked"):
                strewn = forged if condition == "attacked" else ()
                shown = permuted(shown, strewn, f"attacked/{question.id}", settings.seed)
            yield make_case(question, condition, tuple(shown), forged, tokenizer, settings)
    if conditions and not allowed:
        raise DataError(
            f"none of {len(questions)} test questions can be asked under {', '.join(conditions)}; raise "
            "questions.test_fraction or questions.test_rows, or add closed_book to evaluation.conditions"
        )


def as_chats(
    cases: Iterable[Case], questions: Iterable[Question], tokenizer: Tokenizer, settings: Settings
) -> list[Case]:
    """The cases with their prompts as messages too; documents are cut as they are for `model.source`."""
    texts = {question.id: question.text for question in questions}

    def spoken(case: Case) -> ChatPrompt:
        room = max(settings.answer_tokens, len(case.answer))
        about = (texts[case.question_id], case.documents, tokenizer, settings.prompts)
        return prompts.chat(case.prompt, *about, max_tokens=settings.model.max_tokens, room=room)

    return [replace(case, prompt=spoken(case)) for case in cases]


def _allowed(condition: Condition, question: Question, forged: Sequence[Forgery]) -> bool:
    if condition in ("permuted", "attacked"):
        return bool(question.oracle_ids and forged)
    return condition != "oracle" or bool(question.oracle_ids)


def _shown_ids(
    question: Question,
    condition: Condition,
    hits: Sequence[Hit],
    candidates: Mapping[str, Candidates],
    config: ContextsConfig,
    seed: int,
) -> Sequence[str]:
    if condition == "closed_book":
        return ()
    if condition == "retrieved":
        return [hit.chunk_id for hit in hits]
    keep = condition != "absent"
    return contexts.assemble(question, candidates[question.id], keep, config, seed).chunk_ids


def make_case(
    question: Question,
    condition: str,
    shown: tuple[Chunk | Forgery, ...],
    forged: tuple[Forgery, ...],
    tokenizer: Tokenizer,
    settings: Settings,
) -> Case:
    """The question with these documents before it; `forged` are its forgeries, shown or not."""
    asked = replace(question, reasoning="")
    oracles = [at for at, document in enumerate(shown) if document.id in question.oracle_ids]
    answer = (*tokenizer.encode(prompts.target(asked, settings.prompts, oracles)).ids, tokenizer.end)
    name = f"{condition}/{question.id}"
    prompt = prompts.prompt(
        question.text,
        shown,
        tokenizer,
        settings.prompts,
        id=name,
        max_tokens=settings.model.max_tokens,
        room=max(settings.answer_tokens, len(answer)),
        golden=prompts.golden_of(asked, oracles),
    )
    return Case(
        id=name,
        condition=condition,
        question_id=question.id,
        documents=shown,
        oracle_ids=tuple(shown[at].id for at in oracles),
        wrong=tuple(dict.fromkeys(forgery.states for forgery in forged if forgery.states)),
        prompt=prompt,
        answer=answer,
    )
