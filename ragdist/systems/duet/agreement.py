"""Which of two answers independent documents give, each read by itself: isolate, then count (arXiv 2405.15556).

The discoverer answers from each document alone. An answer has a vote for each document that gives it; near duplicates
of each other have one together, so that copies of a forgery do not outvote a document (arXiv 2212.10002, 2509.23519).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragdist.config import Settings
from ragdist.data import prompts
from ragdist.data.sources.duplicates import distinct
from ragdist.evaluation.ask import ask_prompts
from ragdist.evaluation.predictions import engine, weights
from ragdist.records import Prompt, Verdict, content_id
from ragdist.roles import Answerer, Tokenizer
from ragdist.systems.duet.arbiters import Same, both, chosen
from ragdist.systems.duet.disputes import Dispute
from ragdist.systems.duet.evidence import SIMILAR, Choice

Alone = Callable[[Sequence[Dispute]], list[list[str]]]
"""What the discoverer answers from each document of each dispute."""


@dataclass(frozen=True)
class AgreementArbiter:
    """Implements Arbiter: the reciter's answer where more independent documents give it than the discoverer's."""

    alone: Alone
    same: Same

    def judge(self, disputes: Sequence[Dispute]) -> list[Verdict]:
        """See `arbiters.Arbiter`; the answer is one of the two, letter by letter."""
        said = iter(self.alone([one for one in disputes if not self.same(one)]))
        return [both(one) if self.same(one) else self._verdict(one, next(said)) for one in disputes]

    def _verdict(self, dispute: Dispute, said: Sequence[str]) -> Verdict:
        reciter, discoverer = (self._votes(dispute, said, answer) for answer in (dispute.reciter, dispute.discoverer))
        return chosen(dispute, Choice(reciter > discoverer, None))

    def _votes(self, dispute: Dispute, said: Sequence[str], answer: str) -> int:
        """Documents that give this answer, near duplicates once."""
        giving = [
            f"{document.title}\n{document.text}"
            for document, text in zip(dispute.documents, said, strict=True)
            if self.same(dispute._replace(reciter=answer, discoverer=text))
        ]
        return distinct(giving, SIMILAR)


def by_answerer(answerer: Answerer, tokenizer: Tokenizer, folder: Path, source: str, settings: Settings) -> Alone:
    """Asks the model at `source`; what it wrote is kept in `folder`; equal prompts are asked once."""

    def prompt(dispute: Dispute, document: prompts.Showable) -> Prompt:
        room, limit = settings.answer_tokens, settings.model.max_tokens
        shown = (dispute.question, (document,), tokenizer, settings.prompts)
        tokens = prompts.prompt(*shown, id="", max_tokens=limit, room=room).tokens
        return Prompt(id=content_id(str(tokens)), tokens=tokens)

    def alone(disputes: Sequence[Dispute]) -> list[list[str]]:
        asked = [[prompt(one, document) for document in one.documents] for one in disputes]
        each = {row.id: row for rows in asked for row in rows}
        limit, seed = settings.answer_tokens, settings.seed
        made_by = json.dumps([list(each), limit, seed, weights([source], settings.model), *engine(settings)])
        name = content_id(made_by)
        path = folder / f"{name}.jsonl"
        texts = ask_prompts("documents alone", answerer, list(each.values()), path, name, limit, seed)
        said = {
            key: prompts.extract(text, settings.prompts.answer).answer for key, text in zip(each, texts, strict=True)
        }
        return [[said[row.id] for row in rows] for rows in asked]

    return alone
