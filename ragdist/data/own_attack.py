"""Forged documents by an attack of the user's own, in place of the template attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragdist import parts
from ragdist.data import template_attack
from ragdist.data.retrieval.own import document, several
from ragdist.records import Chunk, Forgery, Question, content_id
from ragdist.storage.calls import KeptCalls


class OwnAttack:
    """Forges by a function of the user's; what it wrote is kept.

    Args:
        part: `parts.Attack`.
        path: keeps what it wrote; named by the part.
    """

    def __init__(self, part: parts.Attack, path: Path) -> None:
        self.part, self._calls = part, KeptCalls(path)

    def forge(self, question: Question, documents: Sequence[Chunk], count: int) -> list[Forgery]:
        """At most `count` documents that mislead about the question; none where the attack gives none.

        Raises:
            PartError: the attack raised, or gave no documents.
        """
        key = content_id(question.id, question.text, *question.answers, *(document.id for document in documents))

        def ask(_: int) -> list[tuple[str, str, str]]:
            return parts.call("attack", self.part, question.text, _read, question, documents)

        (written,) = self._calls.get([key], ask)
        return [self._forgery(question, number, *one) for number, one in enumerate(written[:count])]

    def _forgery(self, question: Question, number: int, title: str, text: str, states: str) -> Forgery:
        forgery = Forgery(
            id=content_id("own", question.id, str(number), title, text),
            question_id=question.id,
            number=number,
            title=title,
            text=text,
            states=states,
            method="own",
        )
        return template_attack.checked(question, [forgery])[0]


def _read(given: Any) -> list[tuple[str, str, str]]:
    """Title, text and wrong answer of each document. Unusable if it gave something else."""
    return [(*document(one), _states(one)) for one in several(given)]


def _states(given: Any) -> str:
    states = given.get("states", "") if isinstance(given, Mapping) else ""
    if not isinstance(states, str):
        raise parts.Unusable(f"states={states!r:.80}, wanted the wrong answer as a text")
    return states
