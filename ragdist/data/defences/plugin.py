"""What a defence is, what it is told, what it may ask, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ragdist.data.prompts import Shortened, Showable


class Ask(NamedTuple):
    """A prompt for the model; gives a Said. Example: Ask("When was it finished?", (document,))."""

    question: str
    documents: tuple[Shortened, ...] = ()
    instruction: str = ""
    """Stands behind the one on how to answer, where documents are shown."""


class Read(NamedTuple):
    """A document whose perplexity per token under the model is wanted; gives a number. Example: Read(document)."""

    document: Shortened


class Said(NamedTuple):
    """What the model said. Example: Said("Reason ... <ANSWER>: 1889", "1889")."""

    text: str
    answer: str
    """The final answer in it."""
    ended: bool = True
    """False when the limit of new tokens cut it off."""


Steps: TypeAlias = Generator[Sequence[Ask | Read], list[Any], Said]
"""Gives lists of what it asks, is sent what comes of each, in that order, and returns the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with the documents that are shown. No defence is told which of them are forged."""

    question: str
    documents: tuple[Shortened, ...]
    """In the order they are shown; never none."""
    honest: tuple[Shortened, ...]
    """Documents drawn from the corpus, the same for all questions."""
    same: Callable[[str, str], bool]
    """Whether two answers are one, as the question's are compared."""
    reply: str = ""
    """What a teacher wrote; empty where none was asked."""

    def ask(self, documents: Iterable[Showable], question: str = "", instruction: str = "") -> Ask:
        """A prompt with these documents, of the same question where there is no other."""
        shown = tuple(Shortened(one.title, one.text) for one in documents)
        return Ask(question or self.question, shown, instruction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defence:
    """A way to answer that forged documents mislead less. Example: see `ragdist.data.defences`."""

    name: str
    """Lower case, digits and hyphens; reports call a model under it `base + name`."""
    source: str
    """The paper that it comes from."""
    answer: Callable[[Asked], Steps]
    about: str
    """What it does, in a sentence."""
    reads: bool = False
    """Whether it asks for perplexities, which endpoints do not give."""
    asks: Callable[[str], str] | None = None
    """What a teacher is asked for a question, where one is set (`teacher.url`, `teacher.model`)."""
