"""How likely the models find two answers with and without the documents: what evidence is made of.

    direct     log p_reciter(a | q)            as the one who answers from memory has it
    closed     log p_discoverer(a | q)         the other one without documents
    evidence   log p_discoverer(a | q, D)
    passages   log p_discoverer(a | D)         the question left empty, as TrustMargin has it (arXiv 2606.08397)
    alone      log p_discoverer(a | q, D_i)    each document by itself

Both answers are read behind one prompt, which is computed once; so a number depends on its prompt and the two answers,
on no other question, batch or worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from ragdist.config import Settings
from ragdist.data import prompts
from ragdist.data.prompts import Showable
from ragdist.records import Example, content_id
from ragdist.roles import Tokenizer
from ragdist.systems.duet.disputes import Dispute

Side = Literal["reciter", "discoverer"]
TAG = "<ANSWER>: "
"""Stands before an answer that is to be reasoned, so that the answer alone is read."""


class Log(NamedTuple):
    """Log-probabilities in nats of the tokens of both answers. Example: Log((-0.1,), (-2.3, -0.4))."""

    reciter: Sequence[float]
    discoverer: Sequence[float]


class Readings(NamedTuple):
    """Of one dispute, see the top of this file."""

    direct: Log
    closed: Log
    evidence: Log
    passages: Log
    alone: tuple[Log, ...]
    """For each document, in their order."""


Asked = tuple[Example, Example]
"""One prompt, with the reciter's answer and with the discoverer's."""
Read = Callable[[Side, Sequence[Asked]], list[Log]]
"""Reads with the model of that side, in order."""


def gather(disputes: Sequence[Dispute], read: Read, tokenizer: Tokenizer, settings: Settings) -> list[Readings]:
    """The readings of each dispute, in order; all that one model is asked is asked together.

    Raises:
        DataError: a question does not fit into `model.max_tokens`.
    """
    asked = [prompts_of(dispute, tokenizer, settings) for dispute in disputes]
    direct = read("reciter", [one[0] for one in asked])
    found = iter(read("discoverer", [pair for one in asked for pair in one[1:]]))
    out = []
    for one, first in zip(asked, direct, strict=True):
        closed, evidence, passages, *alone = (next(found) for _ in one[1:])
        out.append(Readings(first, closed, evidence, passages, tuple(alone)))
    return out


def prompts_of(dispute: Dispute, tokenizer: Tokenizer, settings: Settings) -> list[Asked]:
    """direct, closed, evidence, passages, then each document alone; the first is for the reciter."""
    documents = dispute.documents
    shown: list[tuple[str, Sequence[Showable]]] = [(dispute.question, ()), (dispute.question, ())]
    shown += [(dispute.question, documents), ("", documents), *((dispute.question, (one,)) for one in documents)]
    reasoned = settings.prompts.answer == "reasoned"
    begun = tuple(tokenizer.encode(TAG).ids) if reasoned else ()
    # An answer that is nothing is its end token.
    first, second = (
        tuple(tokenizer.encode(said).ids) or (tokenizer.end,) for said in (dispute.reciter, dispute.discoverer)
    )
    room = len(begun) + max(settings.answer_tokens, len(first), len(second))
    limit = settings.model.max_tokens

    def example(question: str, listed: Sequence[Showable]) -> Asked:
        asked = prompts.prompt(question, listed, tokenizer, settings.prompts, id="", max_tokens=limit, room=room)
        prompt = (*asked.tokens, *begun)
        one, other = (Example(id="", tokens=prompt + said, prompt_tokens=len(prompt)) for said in (first, second))
        return one, other

    return [example(*one) for one in shown]


def name_of(asked: Asked) -> str:
    """Names what is read by what it is."""
    return content_id(str([(row.tokens, row.prompt_tokens) for row in asked]))


def mean(logprobs: Iterable[float]) -> float:
    """Mean log-probability of a token, in nats."""
    found = list(logprobs)
    return sum(found) / len(found)
