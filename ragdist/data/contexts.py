"""RAFT's contexts: which questions keep their oracle, and what each is shown with, in which order."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from ragdist.config import ContextsConfig
from ragdist.draws import draw, order_for
from ragdist.errors import ConfigError
from ragdist.records import Candidates, Context, Question


@dataclass(frozen=True, slots=True)
class Keep:
    """Says of each question whether its context keeps the oracle. Example: `Keep(seed=0, below=0.6)("77...")`."""

    seed: int
    below: float
    """Questions whose own draw is below it keep the oracle; a higher P keeps all that a lower one kept."""

    def __call__(self, question_id: str) -> bool:
        return draw(self.seed, "oracle", question_id) < self.below


def keep_oracle(question_ids: Iterable[str], config: ContextsConfig, seed: int) -> Keep:
    """Which of these questions keep their oracle: round(P * N) of them, or each by its own coin.

    Halves are rounded up. Eight bytes a question are held meanwhile, and nothing after.
    """
    if config.draw == "bernoulli":
        return Keep(seed, config.oracle_fraction)
    draws = sorted(array("d", (draw(seed, "oracle", i) for i in question_ids)))
    kept = math.floor(config.oracle_fraction * len(draws) + 0.5)
    return Keep(seed, draws[kept] if kept < len(draws) else math.inf)


def assemble(question: Question, candidates: Candidates, keep: bool, config: ContextsConfig, seed: int) -> Context:
    """The question with its oracles and distractors, or with distractors only, in a seeded order.

    Both have the same number of documents, and differ in nothing but the oracles' places, which other distractors
    take: the order is drawn for places, whatever stands in them. With too few distractors (`contexts.too_few`) both
    are equally shorter.

    Raises:
        ConfigError: there are more oracles than documents to show.
    """
    oracles, distractors = question.oracle_ids, candidates.chunk_ids
    if keep and len(oracles) > config.documents:
        raise ConfigError(
            f"contexts.documents={config.documents} cannot show the {len(oracles)} oracles of question "
            f"{question.id!r}; raise contexts.documents to {len(oracles)} at least"
        )
    total = min(config.documents, max(len(distractors), len(oracles)))
    others = max(0, total - len(oracles))
    places = (oracles if keep else distractors[others:total]) + distractors[:others]
    order = order_for(seed, "order", question.id, len(places))
    return Context(
        question_id=question.id,
        chunk_ids=tuple([places[place] for place in order]),
        oracle_positions=tuple([at for at, place in enumerate(order) if place < len(oracles)]) if keep else (),
    )
