"""DuetRAG's stages of data: who learns from which questions, and the rows that reciter and discoverer learn from.

questions -> answerers        tune reciter (no documents) and discoverer (retrieved documents)
          -> arbiter          answered by both, then the arbiter learns who was right
          -> validation       answered by both, the margin is chosen
test questions are none of these
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from ragdist.config import DuetConfig
from ragdist.data import examples
from ragdist.data.pipeline import Pipeline
from ragdist.draws import draw
from ragdist.errors import ConfigError
from ragdist.records import Chunk, Context, Example, Forgery, Question
from ragdist.storage.stages import Counted, Rows, Stage
from ragdist.tracking.progress import progress


class Shares(NamedTuple):
    """Training questions by what they are for; no question is in two."""

    answerers: list[Question]
    arbiter: list[Question]
    validation: list[Question]


def answerers_count(questions: int, config: DuetConfig) -> int:
    """Of so many training questions, those that reciter and discoverer learn from; halves are rounded up."""
    return math.floor(config.answerers_fraction * questions + 0.5)


def share(questions: Sequence[Question], config: DuetConfig, seed: int) -> Shares:
    """Splits the training questions, each by its own draw: exactly the shares of the settings, halves rounded up.

    Raises:
        ConfigError: a share has no question.
    """
    ranked = sorted(questions, key=lambda question: (draw(seed, "duet/share", question.id), question.id))
    first = answerers_count(len(ranked), config)
    held = len(ranked) - first
    kept = math.floor(config.validation_fraction * held + 0.5)
    shares = Shares(ranked[:first], ranked[first : len(ranked) - kept], ranked[len(ranked) - kept :])
    if not all(shares):
        raise ConfigError(
            f"{len(ranked)} training questions give {len(shares.answerers)} to reciter and discoverer, "
            f"{len(shares.arbiter)} to the arbiter and {len(shares.validation)} to choose its margin; each needs one: "
            f"change duet.answerers_fraction (now {config.answerers_fraction:g}) or duet.validation_fraction "
            f"(now {config.validation_fraction:g}), or raise questions.train_rows"
        )
    return shares


class Trio:
    """The stages of one settings file that only DuetRAG has."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.settings = pipeline, pipeline.settings

    @cached_property
    def shares(self) -> Shares:
        """Who learns from which training question."""
        train = [question for question in self.pipeline.questions if question.split == "train"]
        return share(train, self.settings.duet, self.settings.seed)

    @cached_property
    def retrieved(self) -> Rows[Context]:
        """The best `retrieval.count` chunks for each training question, best first."""
        pipeline, config = self.pipeline, self.settings.retrieval
        inputs = {"questions": pipeline.questions.fingerprint, "chunks": pipeline.chunks.fingerprint}
        settings = {"count": config.count, **pipeline.found_by}

        def produce() -> Counted[Context]:
            asked = [question for question in pipeline.questions if question.split == "train"]
            found = pipeline.finder.search([question.text for question in asked], config.count)
            with_oracle = 0
            for question, hits in zip(asked, found, strict=True):
                ids = tuple(hit.chunk_id for hit in hits)
                places = tuple(place for place, chunk_id in enumerate(ids) if chunk_id in question.oracle_ids)
                with_oracle += bool(places)
                yield Context(question_id=question.id, chunk_ids=ids, oracle_positions=places)
            return {"with_oracle": with_oracle}

        return pipeline.store.make(Stage("retrieved", inputs, settings), Context, produce)

    @cached_property
    def forgeries(self) -> Rows[Forgery]:
        """Forged documents for the questions that neither side is tuned on."""
        duet = self.settings.duet
        shares = {"answerers": duet.answerers_fraction, "validation": duet.validation_fraction}
        return self.pipeline.forged("forgeries-held", [*self.shares.arbiter, *self.shares.validation], **shares)

    @cached_property
    def recited(self) -> Rows[Example]:
        """What the reciter learns from: the answerers' questions without documents."""
        return self._rows("recited", self.shares.answerers, lambda _: ())

    @cached_property
    def recited_all(self) -> Rows[Example]:
        """What DSF learns from: all training questions without documents."""
        return self._rows("recited-all", [q for share in self.shares for q in share], lambda _: ())

    @cached_property
    def discovered(self) -> Rows[Example]:
        """What the discoverer learns from: the answerers' questions with what is retrieved for them."""
        by_id = {found.question_id: found.chunk_ids for found in self.retrieved}
        chunks = self.pipeline.chunk_by_id
        return self._rows(
            "discovered",
            self.shares.answerers,
            lambda question: tuple(chunks[chunk_id] for chunk_id in by_id[question.id]),
            retrieved=self.retrieved.fingerprint,
        )

    def _rows(
        self,
        name: str,
        questions: Sequence[Question],
        shown: Callable[[Question], tuple[Chunk, ...]],
        **more: str,
    ) -> Rows[Example]:
        pipeline, settings = self.pipeline, self.settings
        config, limit = settings.prompts, settings.model.max_tokens
        duet = settings.duet
        made_by = {
            **config.named(),
            "max_tokens": limit,
            "codec": pipeline.tokenizer.fingerprint,
            "seed": settings.seed,
            "fractions": [duet.answerers_fraction, duet.validation_fraction],
        }
        stage = Stage(name, {"questions": pipeline.questions.fingerprint, **more}, made_by, version=2)

        def produce() -> Iterator[Example]:
            pairs = ((question, shown(question)) for question in questions)
            rows = pipeline.mapper.map(examples.from_row, pairs, pipeline.tokenizer, config, limit)
            yield from progress(rows, f"{name} rows", total=len(questions))

        return pipeline.store.make(stage, Example, produce)
