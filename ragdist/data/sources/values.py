"""Values of question files as people write them: `4.0` is 4, `false` is an answer, NaN is none."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ragdist.records import HALVES

WHOLE = 10**15
"""Below it every whole number is exact as a float."""
DEEPEST = 100
"""Lists and objects in one another; Python itself ends at ten times as many, wherever it is by then."""
TRUTHS = ("False", "True")
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters that are drawn as nothing, and an empty Braille cell."""
_JOINERS = "\u200c\u200d"
_DRAWN = re.compile(
    "[\u200c\u200d\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U000e0020-\U000e007f]"
)
"""Format characters that are seen after all: joiners in a word, signs over Arabic numbers, tags in flags."""
LITERAL = 1 << 20
"""Characters of the longest cell that is read as a list in Python's way of writing."""
_JOINED = re.compile(r"""['"]\s+['"]""")
_VIRAMA = 9
"""Combining class of the sign after which a joiner is seen, as in Malayalam."""


class Number(float):
    """A number as it stands in a JSON file, `3.10` and not 3.1. Example: Number("3.10").literal == "3.10"."""

    literal: str

    def __new__(cls, literal: str) -> Number:
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


def unfit(row: Any) -> str:
    """Why no row may hold this: half a character in a text or a name, or values too deep in one another; else empty."""
    left = [(row, 0)]
    while left:
        value, depth = left.pop()
        if depth > DEEPEST:
            return f"its lists and objects lie more than {DEEPEST} deep in one another"
        if isinstance(value, str):
            if not value.isascii() and (half := HALVES.search(value)):
                return f"holds the half character U+{ord(half[0]):04X}, which UTF-8 cannot write; leave it out"
        elif isinstance(value, Mapping):
            left += ((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list | tuple):
            left += ((part, depth + 1) for part in value)
    return ""


def missing(value: object) -> bool:
    """Whether this is what files have where there is nothing: null, or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def written(value: Any, truths: tuple[str, str] = TRUTHS) -> str | None:
    """A string, number or truth value as a person writes it, nothing unseen at its ends; None for anything else.

    A number is written as it stands in the file, but a whole one without `.0`, which is what tables make of whole
    numbers; infinity and NaN are no numbers.
    """
    if isinstance(value, str):
        return trimmed(value)
    if isinstance(value, bool):
        return truths[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal | float) and math.isfinite(value):
        literal = value.literal if isinstance(value, Number) else str(value)
        return str(int(value)) if value == int(value) and abs(int(value)) < WHOLE else literal
    return None


def cell(text: str | None) -> Any:
    """What a table's cell holds: nothing, a JSON list or object, a list as Python writes it, or its text."""
    if not text:
        return None
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text, parse_float=Number)
    except (ValueError, RecursionError):
        return _literal(text)


def _literal(text: str) -> Any:
    """A list or dict as pandas writes it into a table, `['a', 'b']`; what is neither stays text. Nothing is run."""
    if len(text) > LITERAL or _JOINED.search(text):  # numpy's ['a' 'b'] would be one string
        return text
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, list | dict) else text


def trimmed(text: str) -> str:
    """The text without blanks, line ends and characters of no width at its ends; those inside stay."""
    start, end = 0, len(text)
    while start < end and (_unseen(text[start]) or text[start] in _JOINERS):
        start += 1
    while start < end and (_unseen(text[end - 1]) or (text[end - 1] in _JOINERS and not _joins(text, end - 1))):
        end -= 1
    return text[start:end]


def _unseen(character: str) -> bool:
    if character in _BLANKS or character.isspace():
        return True
    return unicodedata.category(character) in ("Cc", "Cf") and not _DRAWN.match(character)


def _joins(text: str, at: int) -> bool:
    return at > 0 and unicodedata.combining(text[at - 1]) == _VIRAMA
