"""The same questions under friendly and hostile retrieval: what each model is shown, and what it answers.

closed_book  no documents
oracle       the oracles and distractors, `contexts.documents` in all
absent       distractors only, as many
retrieved    the best `retrieval.count` by `retrieval.kind`, in their order
permuted     the list of `oracle` in another order: the control of the next, as moving documents changes answers too
attacked     the list of `permuted` with forgeries strewn in; nothing of it is removed, altered or moved
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ragdist.config import Condition, Settings
from ragdist.data import contexts, prompts
from ragdist.data.contexts import permuted
from ragdist.errors import DataError
from ragdist.evaluation import answers
from ragdist.records import Candidates, Chunk, Forgery, Hit, Prompt, Question
from ragdist.roles import Codec, Retriever


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question under one condition, ready to be asked.

    Example: Case(id="attacked/77...", condition="attacked", question_id="77...", documents=(d7, forged, oracle, d2),
    oracle_ids=("03...",), wrong=("'ascii'",), prompt=Prompt(...), answer=(60, 2))
    """

    id: str
    """Also the prompt's."""
    condition: Condition
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


def by_question(forgeries: Iterable[Forgery]) -> dict[str, list[Forgery]]:
    """Forgeries by the question that they mislead about, in their order."""
    found: dict[str, list[Forgery]] = {}
    for forgery in forgeries:
        found.setdefault(forgery.question_id, []).append(forgery)
    return found


class Listed(NamedTuple):
    """What a question is shown under one condition. Example: Listed(q, "attacked", (d7, forged, d2), (forged,))."""

    question: Question
    condition: Condition
    documents: tuple[Chunk | Forgery, ...]
    """In the order they are shown."""
    forgeries: tuple[Forgery, ...]
    """The question's, shown or not."""


def make_cases(
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    candidates: Mapping[str, Candidates],
    forgeries: Mapping[str, Sequence[Forgery]],
    retriever: Retriever,
    codec: Codec,
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
    allowed = False
    for listed in lists(questions, chunks, candidates, forgeries, retriever, settings):
        allowed = True
        yield _case(listed, codec, settings)
    conditions = settings.evaluation.conditions
    if conditions and not allowed:
        raise DataError(
            f"none of {len(questions)} test questions can be asked under {', '.join(conditions)}; raise "
            "questions.test_fraction or questions.test_rows, or add closed_book to evaluation.conditions"
        )


def lists(
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    candidates: Mapping[str, Candidates],
    forgeries: Mapping[str, Sequence[Forgery]],
    retriever: Retriever,
    settings: Settings,
) -> Iterator[Listed]:
    """What `make_cases` shows, without the prompts."""
    conditions, count = settings.evaluation.conditions, settings.retrieval.count
    found = retriever.search([q.text for q in questions], count) if "retrieved" in conditions else [()] * len(questions)
    for condition in conditions:
        for question, hits in zip(questions, found, strict=True):
            forged = tuple(forgeries.get(question.id, ()))[: settings.evaluation.forgeries]
            if not _allowed(condition, question, forged):
                continue
            ids = _shown_ids(question, condition, hits, candidates, settings)
            shown: list[Chunk | Forgery] = [chunks[chunk_id] for chunk_id in ids]
            if condition in ("permuted", "attacked"):
                strewn = forged if condition == "attacked" else ()
                shown = permuted(shown, strewn, f"attacked/{question.id}", settings.seed)
            yield Listed(question, condition, tuple(shown), forged)


def _allowed(condition: Condition, question: Question, forged: Sequence[Forgery]) -> bool:
    if condition in ("permuted", "attacked"):
        return bool(question.oracle_ids and forged)
    return condition != "oracle" or bool(question.oracle_ids)


def _shown_ids(
    question: Question,
    condition: Condition,
    hits: Sequence[Hit],
    candidates: Mapping[str, Candidates],
    settings: Settings,
) -> Sequence[str]:
    if condition == "closed_book":
        return ()
    if condition == "retrieved":
        return [hit.chunk_id for hit in hits]
    keep = condition != "absent"
    return contexts.assemble(question, candidates[question.id], keep, settings.contexts, settings.seed).chunk_ids


def _case(listed: Listed, codec: Codec, settings: Settings) -> Case:
    question, condition, shown, forged = listed
    answer = (*codec.encode(prompts.target(replace(question, reasoning=""), settings.prompts)).ids, codec.end)
    name = f"{condition}/{question.id}"
    prompt = prompts.prompt(
        question.text,
        shown,
        codec,
        settings.prompts,
        id=name,
        max_tokens=settings.model.max_tokens,
        room=max(settings.answer_tokens, len(answer)),
        golden=prompts.golden_of(
            replace(question, reasoning=""),
            (at for at, document in enumerate(shown) if document.id in question.oracle_ids),
        ),
    )
    return Case(
        id=name,
        condition=condition,
        question_id=question.id,
        documents=shown,
        oracle_ids=tuple(document.id for document in shown if document.id in question.oracle_ids),
        wrong=tuple(dict.fromkeys(forgery.states for forgery in forged)),
        prompt=prompt,
        answer=answer,
    )
