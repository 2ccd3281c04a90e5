"""An attack of the user's own, handed over in Python, in place of the template attack."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragdist import parts
from ragdist.data.attacks.plugin import Attack, Lie, Target
from ragdist.data.retrieval.own import document, several
from ragdist.records import content_id
from ragdist.storage.calls import KeptCalls


class OwnAttack:
    """Writes by a function of the user's; what it wrote is kept.

    Args:
        part: `parts.Attack`.
        path: keeps what it wrote; named by the part.
    """

    def __init__(self, part: parts.Attack, path: Path) -> None:
        self.part, self._calls = part, KeptCalls(path)

    @property
    def attack(self) -> Attack:
        """The same as a plug-in."""
        about = "A function of your own."
        return Attack(name="own", source="your own", purpose="training", write=self.write, about=about)

    def write(self, target: Target, _: random.Random) -> list[Lie]:
        """What the function gives, asked once.

        Raises:
            PartError: it raised, or gave no documents.
        """
        question, documents = target.question, target.sources
        shown = (getattr(document, "id", "") for document in documents)
        key = content_id(question.id, question.text, *question.answers, *shown)

        def ask(_: int) -> list[tuple[str, str, str]]:
            return parts.call("attack", self.part, question.text, _read, question, documents)

        (written,) = self._calls.get([key], ask)
        return [Lie(*one) for one in written]


def _read(given: Any) -> list[tuple[str, str, str]]:
    """Title, text and wrong answer of each document. Unusable if it gave something else."""
    return [(*document(one), _states(one)) for one in several(given)]


def _states(given: Any) -> str:
    states = given.get("states", "") if isinstance(given, Mapping) else ""
    if not isinstance(states, str):
        raise parts.Unusable(f"states={states!r:.80}, wanted the wrong answer as a text")
    return states
