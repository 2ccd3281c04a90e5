"""A question of anybody's to the trio of a finished DuetRAG run: `ragdist answer`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ragdist.config import Settings
from ragdist.data import prompts
from ragdist.data.pipeline import Pipeline
from ragdist.errors import ConfigError
from ragdist.evaluation.ask import write
from ragdist.records import Chunk, Question, Verdict, content_id
from ragdist.systems.duet.disputes import Dispute
from ragdist.systems.duet.opening import DISCOVERER, RECITER, DuetRoles
from ragdist.systems.duet.run import Duet, agreeing
from ragdist.systems.duet.training_rows import Trio


@dataclass(frozen=True, slots=True)
class Answer:
    """What the trio says to a question that somebody asks."""

    question: str
    verdict: Verdict
    reciter: str
    discoverer: str
    documents: tuple[Chunk, ...]
    """What the discoverer read, best first; empty where nothing was retrieved, and then the reciter's answer counts."""
    abstains: bool = False
    """Whether the arbiter is less sure of the answer than `duet.abstain_below`."""


def answer(pipeline: Pipeline, cast: DuetRoles, folder: Path, settings: Settings, text: str) -> Answer:
    """The trio's answer to a question of anybody's, by the arbiter of `duet.arbiter`.

    Args:
        pipeline: the corpus that is searched.
        cast: who answers and scores.
        folder: a finished run's.
        settings: that run's.
        text: the question.

    Raises:
        ConfigError: the run has no such arbiter.
    """
    duet = Duet(pipeline, Trio(pipeline), cast, folder, settings)
    if settings.duet.arbiter not in settings.duet.arbiters:
        raise ConfigError(
            f"duet.arbiter={settings.duet.arbiter} was not trained in {folder}, which has "
            f"{', '.join(settings.duet.arbiters)}; set duet.arbiter to one of these"
        )
    hits = [hit for hit in pipeline.finder.search([text], settings.retrieval.count)[0] if hit.score]
    documents = tuple(pipeline.chunk_by_id[hit.chunk_id] for hit in hits)
    question = Question(
        id=content_id(text),
        text=text,
        answers=(),
        oracle_ids=(),
        split="test",
        dataset=next(iter(pipeline.questions)).dataset,
    )
    asked = [
        replace(
            prompts.prompt(
                text,
                shown,
                pipeline.tokenizer,
                settings.prompts,
                id=f"{side}/{question.id}",
                max_tokens=settings.model.max_tokens,
                room=settings.answer_tokens,
            ),
            model=side,
        )
        for side, shown in enumerate(((), documents))
        if shown or not side
    ]
    models = [str(folder / role / "model") for role in (RECITER, DISCOVERER)]
    with cast.answerers.open(*models) as sides:
        written = {row.prompt_id: row.text for batch in write(sides, asked, settings.answer_tokens, 0) for row in batch}
        reciter, *more = (prompts.extract(written[prompt.id]).answer for prompt in asked)
        discoverer = more[0] if more else ""
        dispute = Dispute(question.id, text, reciter, discoverer, documents, question.dataset)
        if documents:
            same = agreeing([question], settings.evaluation.normalise)
            with duet.trained.arbiter(settings.duet.arbiter, same) as arbiter:
                (verdict,) = arbiter.judge([dispute])
        else:
            verdict = Verdict(
                question_id=question.id,
                answer=reciter,
                chosen="reciter",
                reciter_confidence=None,
                discoverer_confidence=None,
            )
    unsure = verdict.confidence is not None and verdict.confidence < settings.duet.abstain_below
    return Answer(text, verdict, reciter, discoverer, documents, unsure)
