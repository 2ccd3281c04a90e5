"""How likely the models find two answers with and without the documents: what evidence is made of.

    direct     log p_reciter(a | q)            as the one who answers from memory has it
    closed     log p_discoverer(a | q)         the other one without documents
    evidence   log p_discoverer(a | q, D)
    passages   log p_discoverer(a | D)         the question left empty, as TrustMargin has it (arXiv 2606.08397)
    alone      log p_discoverer(a | q, D_i)    each document by itself

What the prompts of a group begin with is computed once; so a number depends on its own dispute, on no other question,
batch or worker.
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


Asked = tuple[Example, ...]
"""Rows whose prompts begin alike, the reciter's answer and the discoverer's in turn."""
Read = Callable[[Side, Sequence[Asked]], list[list[Sequence[float]]]]
"""Reads with the model of that side: log-probabilities of each row's answer, in order."""


def gather(disputes: Sequence[Dispute], read: Read, tokenizer: Tokenizer, settings: Settings) -> list[Readings]:
    """The readings of each dispute, in order; all that one model is asked is asked together.

    Raises:
        DataError: a question does not fit into `model.max_tokens`.
    """
    asked = [prompts_of(dispute, tokenizer, settings) for dispute in disputes]
    direct = read("reciter", [closed for closed, *_ in asked])
    found = iter(read("discoverer", [group for groups in asked for group in groups]))
    out = []
    for groups, first in zip(asked, direct, strict=True):
        closed, listed, *alone = (next(found) for _ in groups)
        evidence, passages = Log(*listed[:2]), Log(*listed[2:])
        out.append(Readings(Log(*first), Log(*closed), evidence, passages, tuple(Log(*rows) for rows in alone)))
    return out


def prompts_of(dispute: Dispute, tokenizer: Tokenizer, settings: Settings) -> list[Asked]:
    """closed, which the reciter is asked too; evidence and passages, whose documents are read once; each document."""
    begun = tuple(tokenizer.encode(TAG).ids) if settings.prompts.answer == "reasoned" else ()
    # An answer that is nothing is its end token.
    both = [tuple(tokenizer.encode(said).ids) or (tokenizer.end,) for said in (dispute.reciter, dispute.discoverer)]
    room = len(begun) + max(settings.answer_tokens, *map(len, both))
    limit = settings.model.max_tokens

    def examples(question: str, listed: Sequence[Showable]) -> Asked:
        asked = prompts.prompt(question, listed, tokenizer, settings.prompts, id="", max_tokens=limit, room=room)
        prompt = (*asked.tokens, *begun)
        return tuple(Example(id="", tokens=prompt + said, prompt_tokens=len(prompt)) for said in both)

    documents = dispute.documents
    listed = examples(dispute.question, documents) + examples("", documents)
    return [examples(dispute.question, ()), listed, *(examples(dispute.question, (one,)) for one in documents)]


def name_of(asked: Asked) -> str:
    """Names what is read by what it is."""
    return content_id(str([(row.tokens, row.prompt_tokens) for row in asked]))


def mean(logprobs: Iterable[float]) -> float:
    """Mean log-probability of a token, in nats."""
    found = list(logprobs)
    return sum(found) / len(found)
