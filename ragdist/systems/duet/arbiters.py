"""DuetRAG's arbiters: two answers in, a verdict out.

    alignment, features     c_i = c(q, a_i), c_e = c(q, a_e); a_i where c_i - c_e > margin, else a_e
    evidence and its kin    numbers from the models' probabilities and the documents, and a rule on them
    summarizers             a language model reads q, a_i and a_e and writes the final answer

Where the two answers are one, that is the verdict and nobody is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ragdist.algo.arbiter import prefers_reciter
from ragdist.config import Settings
from ragdist.data import prompts
from ragdist.data.thoughts import without_thoughts
from ragdist.evaluation.ask import ask_prompts
from ragdist.evaluation.predictions import engine, weights
from ragdist.records import Request, Verdict, content_id
from ragdist.roles import Answerer, Pair, Scorer, Teacher, Tokenizer
from ragdist.systems.duet import disputes
from ragdist.systems.duet.disputes import Dispute, is_flipped
from ragdist.systems.duet.evidence import Choice, Rule, Values

Same = Callable[[Dispute], bool]
"""Whether the two answers of a dispute are one."""
Ask = Callable[[Sequence[tuple[Dispute, bool]]], list[str]]
"""The final texts for disputes, each with whether the answer from documents is shown first."""


class Arbiter(Protocol):
    """Who decides."""

    def judge(self, disputes: Sequence[Dispute]) -> list[Verdict]:
        """A verdict on each dispute, in order; it does not depend on the other disputes."""
        ...


@dataclass(frozen=True)
class ScorerArbiter:
    """Implements Arbiter by the two confidences of a scorer; each answer is scored by itself, so slots mean nothing."""

    scorer: Scorer
    margin: float
    same: Same

    def judge(self, disputes: Sequence[Dispute]) -> list[Verdict]:
        """See `Arbiter`; the answer is one of the two, letter by letter."""
        open_ = [dispute for dispute in disputes if not self.same(dispute)]
        found = confidences(self.scorer, open_)
        verdicts = {}
        for dispute, (reciter, discoverer) in zip(open_, found, strict=True):
            mine = prefers_reciter(reciter, discoverer, self.margin)
            verdicts[dispute.question_id] = chosen(dispute, Choice(mine, (reciter, discoverer)))
        return [verdicts.get(dispute.question_id) or both(dispute) for dispute in disputes]


@dataclass(frozen=True)
class EvidenceArbiter:
    """Implements Arbiter by a rule on numbers of each dispute, see `evidence.py`; it needs the documents."""

    numbers: Callable[[Sequence[Dispute]], list[Values]]
    rule: Rule
    same: Same

    def judge(self, disputes: Sequence[Dispute]) -> list[Verdict]:
        """See `Arbiter`; the answer is one of the two, letter by letter."""
        open_ = [dispute for dispute in disputes if not self.same(dispute)]
        found = iter(self.numbers(open_))
        return [both(one) if self.same(one) else chosen(one, self.rule(next(found))) for one in disputes]


@dataclass(frozen=True)
class Discoverer:
    """Implements Arbiter where none could be trained: the answer from documents is taken."""

    same: Same

    def judge(self, disputes: Sequence[Dispute]) -> list[Verdict]:
        """See `Arbiter`."""
        return [replace(both(one), chosen="both" if self.same(one) else "discoverer") for one in disputes]


@dataclass(frozen=True)
class Summarizer:
    """Implements Arbiter with a language model that writes the final answer, greedily.

    Args:
        ask: texts for prompts of disputes, see `by_answerer` and `by_teacher`.
        same: whether two answers of a dispute are one.
        seed: decides which answer is shown first.
        flip: shows them the other way round, to measure what the order does.
    """

    ask: Ask
    same: Same
    seed: int
    flip: bool = False

    def judge(self, disputes: Sequence[Dispute]) -> list[Verdict]:
        """See `Arbiter`; a model that writes nothing leaves the discoverer's answer."""
        open_ = [dispute for dispute in disputes if not self.same(dispute)]
        shown = [(one, is_flipped(one.question_id, self.seed) != self.flip) for one in open_]
        said = dict(zip([one.question_id for one in open_], self.ask(shown), strict=True))
        return [self._verdict(one, said[one.question_id]) if one.question_id in said else both(one) for one in disputes]

    def _verdict(self, dispute: Dispute, text: str) -> Verdict:
        answer = prompts.extract(text).answer or dispute.discoverer
        is_reciters = self.same(dispute._replace(discoverer=answer))
        is_discoverers = self.same(dispute._replace(reciter=answer))
        return Verdict(
            question_id=dispute.question_id,
            answer=answer,
            chosen="discoverer" if is_discoverers else "reciter" if is_reciters else "neither",
            reciter_confidence=None,
            discoverer_confidence=None,
        )


def confidences(scorer: Scorer, open_disputes: Sequence[Dispute]) -> list[tuple[float, float]]:
    """(reciter's, discoverer's) confidence for each dispute."""
    pairs = [Pair(one.question, answer) for one in open_disputes for answer in (one.reciter, one.discoverer)]
    found = scorer.score(pairs) if pairs else []
    return list(zip(found[::2], found[1::2], strict=True))


def by_answerer(answerer: Answerer, tokenizer: Tokenizer, folder: Path, source: str, settings: Settings) -> Ask:
    """Asks a model; what it wrote is kept in `folder`, batch by batch."""

    def ask(shown: Sequence[tuple[Dispute, bool]]) -> list[str]:
        config, limit = settings.prompts, settings.answer_tokens
        asked = [disputes.summary_prompt(dispute, tokenizer, config, flipped=flipped) for dispute, flipped in shown]
        model = weights([source], settings.model)
        made_by = json.dumps([[row.tokens for row in asked], limit, settings.seed, model, *engine(settings)])
        name = content_id(made_by)
        return ask_prompts("summaries", answerer, asked, folder / f"{name}.jsonl", name, limit, settings.seed)

    return ask


def by_teacher(teacher: Teacher, limit: int, seed: int) -> Ask:
    """Asks the teacher, each dispute paid for once; what it refuses to answer is an empty text."""

    def requests(shown: Sequence[tuple[Dispute, bool]]) -> Iterator[Request]:
        for dispute, flipped in shown:
            text = disputes.summary_text(dispute, flipped=flipped)
            yield Request(id=f"{dispute.question_id}/{flipped}", text=text, max_new_tokens=limit, seed=seed)

    def ask(shown: Sequence[tuple[Dispute, bool]]) -> list[str]:
        return [without_thoughts(reply.text).text for reply in teacher.ask(requests(shown), what="summaries")]

    return ask


def chosen(dispute: Dispute, choice: Choice) -> Verdict:
    """The verdict that this choice is."""
    reciter, discoverer = choice.confidences or (None, None)
    return Verdict(
        question_id=dispute.question_id,
        answer=dispute.reciter if choice.reciter else dispute.discoverer,
        chosen="reciter" if choice.reciter else "discoverer",
        reciter_confidence=reciter,
        discoverer_confidence=discoverer,
    )


def both(dispute: Dispute) -> Verdict:
    """The verdict where the two answers are one: the discoverer's, letter by letter."""
    return Verdict(
        question_id=dispute.question_id,
        answer=dispute.discoverer,
        chosen="both",
        reciter_confidence=None,
        discoverer_confidence=None,
    )
