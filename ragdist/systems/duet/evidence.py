"""What speaks for each of two answers: numbers from the models' probabilities and from the documents.

Two of them decide by themselves, without training: TrustMargin (arXiv 2606.08397) and how sure each side is of its own
answer. All together are what the evidence arbiter learns from (`evidence_model.py`).

Left out: retrieval scores, which only retrieved lists have, and how many documents there are, which a list under attack
has more of: both would tell the arbiter how the test was made, not who is right. Entropy: a Reader gives none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ragdist.config import Settings
from ragdist.data.prompts import Showable
from ragdist.data.sources.duplicates import distinct
from ragdist.evaluation import answers
from ragdist.evaluation.ask import read_groups
from ragdist.evaluation.predictions import weights
from ragdist.records import content_id
from ragdist.roles import Answerers, Tokenizer
from ragdist.systems.duet.disputes import Dispute
from ragdist.systems.duet.readings import Asked, Log, Readings, Side, gather, mean, name_of

Values = dict[str, float]
"""Numbers by name, the same names for every dispute."""
BINDING, TAU = 0.5, -1.5
"""TrustMargin's weight of the second term and its threshold, as its authors' code has them."""
SIMILAR = 0.5
"""Jaccard similarity of word triples from which two documents that give one answer are one witness."""
READ = ("direct", "closed", "evidence", "passages")
DOCUMENT = ("passages", "evidence", "support", "held", "copies")
"""Names of values that come from the documents begin with these: what tells how a list was made."""


class Choice(NamedTuple):
    """Whose answer it is to be. Example: Choice(reciter=False, confidences=(0.21, 0.64))."""

    reciter: bool
    confidences: tuple[float, float] | None
    """The reciter's and the discoverer's, each in (0, 1); None where the rule gives none."""


Rule = Callable[[Values], Choice]


def values(dispute: Dispute, read: Readings) -> Values:
    """The numbers of one dispute.

    Log-probabilities are means over the tokens of an answer, in nats. `held` counts the documents that contain an
    answer, near duplicates once; `copies` are the others of those. `support` is the log-probability of an answer with
    each document alone, the largest and the mean.
    """
    alone = read.alone or (read.closed,)
    found: Values = {"trust_margin": trust_margin(read)}
    for at, (side, answer) in enumerate((("reciter", dispute.reciter), ("discoverer", dispute.discoverer))):
        found |= {f"{name}_{side}": mean(getattr(read, name)[at]) for name in READ}
        found |= {f"least_direct_{side}": min(read.direct[at]), f"least_evidence_{side}": min(read.evidence[at])}
        support = [mean(pair[at]) for pair in alone]
        found |= {f"support_max_{side}": max(support), f"support_mean_{side}": mean(support)}
        holding = _holding(dispute.documents, answer, answers.metric_of(dispute.dataset))
        witnesses = distinct([f"{one.title}\n{one.text}" for one in holding], SIMILAR)
        found |= {f"held_{side}": float(witnesses), f"copies_{side}": float(len(holding) - witnesses)}
        found |= {f"held_any_{side}": float(bool(holding))}
    return found


def trust_margin(read: Readings) -> float:
    """How much the probabilities speak for the answer from documents, in nats a token (arXiv 2606.08397).

    M = [direct(d) - direct(r)] + 1/2 {[evidence(d) - passages(d)] - [evidence(r) - passages(r)]}

    for the reciter's answer r and the discoverer's d: what memory says of both, and which of them the documents support
    because of the question. Sign, weight and threshold are those of its authors' code (mojixu/TrustMargin). The paper
    has one model; here `direct` is the reciter's, the others the discoverer's.
    """

    def lead(pair: Log) -> float:
        return mean(pair.discoverer) - mean(pair.reciter)

    return lead(read.direct) + BINDING * (lead(read.evidence) - lead(read.passages))


def by_trust_margin(found: Values) -> Choice:
    """The discoverer's answer where M > TAU."""
    return Choice(not found["trust_margin"] > TAU, None)


def by_sequence_confidence(found: Values) -> Choice:
    """The answer whose own side finds it likelier, by the geometric mean of its tokens' probabilities; the discoverer's
    where both are equal."""
    reciter, discoverer = math.exp(found["direct_reciter"]), math.exp(found["evidence_discoverer"])
    return Choice(reciter > discoverer, (reciter, discoverer))


def _holding(documents: Sequence[Showable], answer: str, metric: answers.Metric) -> list[Showable]:
    return [one for one in documents if answers.states(f"{one.title}\n{one.text}", answer, metric)]


@dataclass(frozen=True)
class DisputeReader:
    """Reads the answers of disputes with both sides' models; what was read is kept.

    Args:
        folder: the run's, with the tuned reciter and discoverer.
        answerers: opens them, one after the other.
        tokenizer: of both.
        settings: all settings.
        kept: where what was read is kept.
    """

    folder: Path
    answerers: Answerers
    tokenizer: Tokenizer
    settings: Settings
    kept: Path

    def numbers(self, disputes: Sequence[Dispute]) -> list[Values]:
        """The values of each dispute, in order; they do not depend on the others."""
        read = gather(disputes, self._read, self.tokenizer, self.settings)
        return [values(one, found) for one, found in zip(disputes, read, strict=True)]

    def _read(self, side: Side, asked: Sequence[Asked]) -> list[list[Sequence[float]]]:
        source = str(self.folder / side / "model")
        groups = {name_of(rows): rows for rows in asked}
        path = self.kept / "read" / f"{side}.jsonl"
        made_by = content_id(json.dumps(weights([source], self.settings.model)))
        found = read_groups(f"{side} reads", partial(self.answerers.open, source), groups, path, made_by)
        return [list(found[name_of(rows)]) for rows in asked]
