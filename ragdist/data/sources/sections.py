"""A file's text with the characters at which its pages and sections begin, and how it is put together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ragdist.data.matching import flat

_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")
_JOINED = re.compile("[\ufb00-\ufb06\ufb13-\ufb17\ufb50-\ufdfb\ufe70-\ufefc]")
BETWEEN = "\n\n"
"""Between two pages, paragraphs or tables; the lines of a list or table follow one another."""


@dataclass(slots=True)
class Text:
    """A file's text. Example: Text(text="One\\n\\nTwo", starts=[0, 5], pages=[1, 2], headings=["", ""])."""

    text: str = ""
    starts: list[int] = field(default_factory=list)
    """Characters at which a page or a section begins, rising strictly."""
    pages: list[int] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    note: str = ""
    """What was guessed in reading it, as `problem` is written; else empty."""
    problem: str = ""
    """Why there is no text, as the end of a sentence that begins with the file's name; else empty."""


class TextBlock(NamedTuple):
    """A paragraph, a heading, or one line of a list or table."""

    text: str
    level: int = 0
    """1 for the highest heading, 0 for what is none."""
    tight: bool = False
    """One line of several: another such block follows on the next line."""


class Marks:
    """Where pages and headings begin, noted in the order of the text."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, str]] = {}
        self._page = 0
        self._open: list[tuple[int, str]] = []

    def page(self, at: int, number: int) -> None:
        """A page begins, under the headings that are open."""
        self._page = number
        self._note(at)

    def heading(self, at: int, level: int, title: str) -> None:
        """A heading begins, and ends those of its level and below."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, flat(title)))
        self._note(at)

    def _note(self, at: int) -> None:
        self._found[at] = self._page, " > ".join(title for _, title in self._open)

    def on(self, text: str) -> Text:
        """The text with all that was noted."""
        pages, headings = [page for page, _ in self._found.values()], [name for _, name in self._found.values()]
        return Text(text, list(self._found), pages, headings)


def visible(text: str) -> str:
    """The text without signs that only say where a word may be broken, ligatures and joined forms as their letters."""
    return _JOINED.sub(lambda found: unicodedata.normalize("NFKC", found[0]), _UNSEEN.sub("", text))


def one_line(blocks: Iterable[TextBlock]) -> str:
    """The blocks of a heading or of a table's cell on one line; a semicolon between the lines of a list."""
    line, last_is_tight = "", False
    for block in blocks:
        if block.text:
            line += (("; " if last_is_tight and block.tight else " ") if line else "") + flat(block.text)
            last_is_tight = block.tight
    return line


def joined(blocks: Iterable[TextBlock], note: str = "") -> Text:
    """The text of all blocks that have any, with the note."""
    marks, pieces, length, last_is_tight = Marks(), list[str](), 0, False
    for block in blocks:
        if not block.text:
            continue
        if pieces:
            pieces.append("\n" if last_is_tight and block.tight else BETWEEN)
            length += len(pieces[-1])
        if block.level:
            marks.heading(length, block.level, block.text)
        pieces.append(block.text)
        length, last_is_tight = length + len(block.text), block.tight
    return replace(marks.on("".join(pieces)), note=note)
