"""The one gate for what attacks write: an attack that raises, writes nothing or states the truth is counted and named,
and the question is left out of its lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from ragdist.data import template_attack
from ragdist.data.attacks.plugin import Attack, Lie, Target
from ragdist.draws import rng_for
from ragdist.errors import RagdistError, first_line
from ragdist.records import Forgery, content_id

NAMED = 5
"""Questions that are named of those that are left out."""
WHY = {"raised": "raised", "wrote_nothing": "wrote nothing", "stated_truth": "stated the truth"}


class LeftOut(Exception):
    """Why a question has no forgeries of an attack. Example: LeftOut("raised", "ValueError: no number")."""

    def __init__(self, kind: str, more: str = "") -> None:
        super().__init__(kind, more)
        self.kind, self.more = kind, more


class Tally:
    """What is counted of the questions that an attack misses."""

    def __init__(self) -> None:
        self._counts, self._named = Counter[str](), list[str]()

    def add(self, question_id: str, why: LeftOut) -> None:
        """One question more."""
        self._counts[why.kind] += 1
        if len(self._named) < NAMED:
            self._named.append(f"{question_id}: {WHY[why.kind]}{f' ({why.more})' * bool(why.more)}")

    @property
    def counts(self) -> dict[str, int | list[str]]:
        """By why, and the first questions with theirs."""
        counts: dict[str, int | list[str]] = {"raised": 0, "wrote_nothing": 0, "stated_truth": 0}
        return counts | self._counts | {"left_out_named": self._named}


def forge(attack: Attack, target: Target, name: str = "") -> list[Forgery]:
    """What the attack writes about the question, at most `target.count` documents.

    Args:
        attack: who writes.
        target: about what.
        name: of the draws, which belong to (seed, attack, name); the question's id where there is none.

    Raises:
        LeftOut: there is nothing that may be used.
        PartError: an attack of the user's own raised (`parts.call`).
    """
    rng = rng_for(target.seed, attack.name, name or target.question.id)
    try:
        written = [*islice(attack.write(target, rng), target.count)]
        found = [_forgery(attack, target, number, *_read(lie)) for number, lie in enumerate(written)]
    except (RagdistError, LeftOut):
        raise
    except Exception as error:  # of code that is not ours, which must not end a run of hours
        raise LeftOut("raised", f"{type(error).__name__}: {first_line(error)}") from error
    if not found:
        raise LeftOut("wrote_nothing")
    if any(forgery.truthful for forgery in found):
        raise LeftOut("stated_truth")
    return found


def forge_all(attack: Attack, targets: Iterator[Target], tally: Tally) -> Iterator[Forgery]:
    """Likewise for many questions; those that are left out are counted."""
    for target in targets:
        try:
            yield from forge(attack, target)
        except LeftOut as why:
            tally.add(target.question.id, why)


def told(name: str, asked: int, counts: dict[str, int | list[str]]) -> str:
    """The same in words; empty where no question is left out."""
    whys = [f"{counts[kind]} as it {said}" for kind, said in WHY.items() if counts[kind]]
    first: Sequence[str] = counts["left_out_named"] or ("",)  # type: ignore[assignment]
    return f"{name}: left out of {asked} questions {', '.join(whys)}; the first is {first[0]}." if whys else ""


def _read(lie: object) -> Lie:
    """What an attack gave, if it is a document with a text."""
    if not (isinstance(lie, tuple) and len(lie) == len(Lie._fields) and all(isinstance(one, str) for one in lie)):
        raise LeftOut("raised", f"gave {lie!r:.80}, wanted Lie(title, text, states)")
    if not lie[1].strip():
        raise LeftOut("wrote_nothing")
    return Lie(*lie)


def _forgery(attack: Attack, target: Target, number: int, title: str, text: str, states: str) -> Forgery:
    question = target.question
    forgery = Forgery(
        id=content_id("forgery" if attack.name == "template" else attack.name, question.id, str(number), title, text),
        question_id=question.id,
        number=number,
        title=title,
        text=text,
        states=states,
        method=attack.name,
    )
    return template_attack.checked(question, [forgery])[0]
