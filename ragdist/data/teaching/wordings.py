"""Questions that say nearly the same, by the triples of their words."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from ragdist.data.matching import words

NEAR = 0.7
"""Jaccard similarity of word triples from which two wordings are near, as with one word more at the end."""


class Wordings:
    """Texts that others may be near to. Exact: what `near` finds is what comparing with each would find.

    Two sets that are similar enough share one of their rarest triples (Chaudhuri's prefix filter), so that only texts
    with one of those are compared.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._sets = list({(triples(text), numerals(text)) for text in texts})
        self._often = Counter(triple for found, _ in self._sets for triple in found)
        self._holders: defaultdict[str, list[int]] = defaultdict(list)
        for number, (found, _) in enumerate(self._sets):
            for triple in self._rarest(found):
                self._holders[triple].append(number)

    def near(self, text: str) -> bool:
        """Whether a text here is near to this one, or equal to it but for case, accents and punctuation.

        Texts with other numerals are not: `... in version 3?` asks for something else than `... in version 4?`.
        """
        found, numbers = triples(text), numerals(text)
        holders = {holder for triple in self._rarest(found) for holder in self._holders.get(triple, ())}
        others = (self._sets[holder] for holder in holders)
        return any(numbers == theirs and similarity(found, other) >= NEAR for other, theirs in others)

    def _rarest(self, found: frozenset[str]) -> list[str]:
        ordered = sorted(found, key=lambda triple: (self._often[triple], triple))
        return ordered[: len(ordered) - math.ceil(NEAR * len(ordered) - 1e-9) + 1]


def triples(text: str) -> frozenset[str]:
    """Every three words in a row; a shorter text as one."""
    said = words(text).split()
    return frozenset(" ".join(said[at : at + 3]) for at in range(max(1, len(said) - 2)))


def numerals(text: str) -> frozenset[str]:
    """The words with a digit in them."""
    return frozenset(word for word in words(text).split() if any(map(str.isdigit, word)))


def similarity(one: frozenset[str], two: frozenset[str]) -> float:
    """Jaccard's: shared over all."""
    return len(one & two) / len(one | two)
