"""RAFT's contexts: which questions keep their oracle, and what each is shown with, in which order."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ragdist.config import ContextsConfig
from ragdist.draws import draw, draws, order_for
from ragdist.errors import ConfigError, DataError
from ragdist.records import Candidates, Context, Question
from ragdist.storage.stages import Counted

One = TypeVar("One")
Other = TypeVar("Other")


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
    kept = math.floor(round(config.oracle_fraction * len(draws), 9) + 0.5)  # 0.35 * 90 is 31.4999...
    return Keep(seed, draws[kept] if kept < len(draws) else math.inf)


def showable(questions: Iterable[Question], config: ContextsConfig) -> Counted[Question]:
    """The questions whose oracles can all be shown at once, and how many others there were. A ConfigError for
    another one if `contexts.too_many_oracles` is error."""
    others = 0
    for question in questions:
        if len(question.oracle_ids) <= config.documents:
            yield question
        elif config.too_many_oracles == "error":
            raise _too_many(question, config)
        else:
            others += 1
    return {"too_many_oracles": others}


def check_left(trained: Sequence[str], counts: Mapping[str, int]) -> None:
    """Sees to it that a question is left to train on; `counts` are those of the stage, else it is a DataError."""
    quotes, cut = counts["invalid_quotes_dropped"], counts["cut_answers_dropped"]
    if not trained:
        raise DataError(
            f"no training row is left of {quotes + cut}: {quotes} with a quote that no oracle holds "
            f"(prompts.invalid_quotes=keep keeps them), {cut} whose answer is cut off "
            "(raise model.max_tokens, or prompts.cut_answers=keep)"
        )


def assemble(question: Question, candidates: Candidates, keep: bool, config: ContextsConfig, seed: int) -> Context:
    """The question with its oracles and distractors, or with distractors only, in a seeded order.

    Both have the same number of documents, and differ in nothing but the oracles' places, which other distractors take:
    the order is drawn for places, whatever stands in them. With too few distractors (`contexts.too_few`) both are
    equally shorter. A ConfigError if there are more oracles than documents to show.
    """
    oracles, distractors = question.oracle_ids, candidates.chunk_ids
    if keep and len(oracles) > config.documents:
        raise _too_many(question, config)
    total = min(config.documents, max(len(distractors), len(oracles)))
    others = max(0, total - len(oracles))
    places = (oracles if keep else distractors[others:total]) + distractors[:others]
    order = order_for(seed, "order", question.id, len(places))
    return Context(
        question_id=question.id,
        chunk_ids=tuple(map(places.__getitem__, order)),
        oracle_positions=tuple(sorted(map(order.index, range(len(oracles))))) if keep else (),
    )


def _too_many(question: Question, config: ContextsConfig) -> ConfigError:
    return ConfigError(
        f"contexts.documents={config.documents} cannot show the {len(question.oracle_ids)} oracles of question "
        f"{question.id!r}; raise contexts.documents to {len(question.oracle_ids)} at least, "
        "or set contexts.too_many_oracles=drop"
    )


def permuted(documents: Iterable[One], forgeries: Iterable[Other], name: str, seed: int) -> list[One | Other]:
    """Documents and forgeries, each once, in an order that belongs to (seed, name); every one is equally likely.

    Each has a draw of its own, so that the documents follow one another as they do without the forgeries: what an
    attacked list shows beside its permuted control is the forgeries alone.
    """
    shown: list[One | Other] = [*documents, *forgeries]
    drawn = draws(seed, "lists", name, len(shown))
    return [shown[place] for place in sorted(range(len(shown)), key=drawn.__getitem__)]
