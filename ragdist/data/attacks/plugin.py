"""What an attack is, what it is told, and what it gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from ragdist.data import template_attack
from ragdist.data.matching import shows
from ragdist.data.prompts import Showable
from ragdist.records import OpenQuestion, Question

Purpose: TypeAlias = Literal["training", "judging"]
Place: TypeAlias = Literal["drawn", "first", "last", "edges"]
"""Where forgeries stand in a list: anywhere, before all documents, behind them, or around them."""
WRONG_ANSWERS = 3


class Lie(NamedTuple):
    """One document that misleads. Example: Lie("Eiffel Tower", "It was finished in 1890.", "1890")."""

    title: str
    text: str
    states: str = ""
    """The wrong answer that it argues for; empty where it argues for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A question to mislead about, and what there is to do it with."""

    question: Question | OpenQuestion
    golden: Sequence[Showable]
    """Documents that hold the right answer; may be empty."""
    others: Sequence[Showable]
    """Documents that hold none, no two of one text."""
    wrong: str
    """THE wrong answer of this question, for all attacks that argue for one alone."""
    wrongs: Sequence[str]
    """Several, best first."""
    count: int
    """Documents that are shown at most."""
    seed: int
    taught: bool = False
    """Whether a teacher was asked."""
    replies: Sequence[str] = ()
    """What it wrote."""

    @property
    def sources(self) -> Sequence[Showable]:
        """Documents whose form a forgery may take: the golden ones, else others."""
        return self.golden or self.others

    def copies(self, wrong: str, count: int) -> list[Lie]:
        """At most `count` copies of the sources, no two alike, with this wrong answer wherever a right one stands."""
        about = replace(self.question, wrong_answers=(wrong,))
        forged, _ = template_attack.forge(about, self.sources, (), count=count, seed=self.seed, others=self.others)
        return [Lie(one.title, one.text, wrong) for one in forged]

    def is_right(self, answer: str) -> bool:
        """Whether whoever says this gives a right answer, or what may be taken for one."""
        return any(shows(answer, one) for one in self.question.answers)


def aim(
    question: Question | OpenQuestion,
    golden: Sequence[Showable],
    others: Sequence[Showable],
    pool: Sequence[str],
    *,
    count: int,
    seed: int,
) -> Target:
    """The target that a question is, with each other document once; arguments as of `template_attack.forge`, raises
    likewise."""
    told = {one.text for one in golden}
    honest = {one.text: one for one in others if one.text not in told}.values()
    return Target(
        question=question,
        golden=golden,
        others=[one for one in honest if not template_attack.says_right(question, one.title, one.text)],
        wrong=template_attack.wrong_answer(question, pool, seed),
        wrongs=template_attack.wrong_answers(question, pool, count=WRONG_ANSWERS, seed=seed),
        count=count,
        seed=seed,
    )


Write: TypeAlias = Callable[[Target, random.Random], Iterable[Lie]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A way to mislead. Example: see `ragdist.data.attacks`."""

    name: str
    """Lower case, digits and hyphens; the name of its condition in reports."""
    source: str
    """The paper that it comes from."""
    purpose: Purpose
    """training: models may learn from it; judging: held out, no model ever learns from it."""
    write: Write
    """Gives documents, the best first, all of whose draws come from the generator that it is handed."""
    about: str
    """What it does, in a sentence."""
    place: Place = "drawn"
    asks: Callable[[Target], str] | None = None
    """What a teacher is asked for each document, where one is set (`teacher.url`, `teacher.model`)."""
    version: str = "1"
    """Changes whenever it would write something else."""
