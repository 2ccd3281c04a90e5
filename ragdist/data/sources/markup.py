"""Text of a web page as its reader sees it, block by block: paragraphs, headings, lists, tables."""

from __future__ import annotations

import re
import warnings
from typing import Any

from ragdist.data.matching import flat
from ragdist.data.sources import encodings, equations, hidden, tables
from ragdist.data.sources.sections import Text, TextBlock, joined, one_line, visible
from ragdist.data.sources.tables import TableCell

UNREAD = frozenset(
    {"title", "script", "style", "nav", "template", "noscript", "noframes", "svg", "iframe", "object", "canvas"}
    | {"audio", "video", "button", "select", "datalist", "rp", "rt", "rtc", "del"}
)
"""Not shown, or not as text of the page: what stands in for pictures and sound, controls, readings beside characters
(ruby), text that was deleted. Not all of `head`: where a page has no `body`, its first elements lie there for lxml."""
PARAGRAPHS = frozenset(
    {"address", "article", "aside", "blockquote", "body", "caption", "details", "dialog", "div", "dl", "fieldset"}
    | {"figcaption", "figure", "footer", "form", "head", "header", "hr", "main", "ol", "p", "section", "summary"}
    | {"table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul"}
)
ANCHOR = "headerlink"
"""Class of the sign beside a heading that links to it, in pages made by Sphinx or MkDocs."""
DOUBLED = ".katex-mathml ~ .katex-html"
"""Formulas that KaTeX draws beside their MathML."""
LINES = frozenset({"dd", "dt", "li"})
BREAK = "\v"
HEADING = re.compile(r"h([1-6])")
LAYS_OUT = ["table", "pre", re.compile("^h[1-6]$")]
"""What stands in the cells of a table that lays out a page, rather than in those of one that holds data."""


def html(data: bytes) -> Text:
    """What a reader sees of the page, less navigation; text in `pre` keeps its lines. A DataError if its bytes are no
    text in the encoding that it names, or none at all."""
    from bs4 import BeautifulSoup

    text, note = encodings.decoded(data, encodings.declared_in_page(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it looks like XML, or like an address
        soup = BeautifulSoup(text, "lxml")
    hidden.remove(soup)
    for tag in [*soup(list(UNREAD)), *soup(class_=ANCHOR), *soup.select(DOUBLED)]:
        if not tag.decomposed:
            tag.decompose()
    return joined(_blocks(soup), note)


def _blocks(parent: Any, style: tables.Style = tables.ROWS) -> list[TextBlock]:
    page = _Page(style)
    page.walk(parent)
    page.end()
    return page.blocks


class _Page:
    """Blocks of an html page, gathered in the order of the text; its tables are written in this style."""

    def __init__(self, style: tables.Style) -> None:
        self.blocks: list[TextBlock] = []
        self._style = style
        self._pieces: list[str] = []

    def walk(self, parent: Any) -> None:
        """Gathers what stands in this element."""
        from bs4.element import NavigableString, PreformattedString, Tag

        for node in parent.children:
            if isinstance(node, Tag):
                self._tag(node)
            elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
                self._pieces.append(visible(str(node)).replace(BREAK, " "))

    def end(self, level: int = 0, *, tight: bool = False) -> None:
        """Ends the block that is being gathered, if there is any."""
        lines = map(flat, "".join(self._pieces).split(BREAK))
        self._pieces.clear()
        if text := "\n".join(line for line in lines if line):
            self.blocks.append(TextBlock(text, level, tight))

    def _tag(self, tag: Any) -> None:
        if tag.name == "pre":
            self.end()
            self.blocks.append(TextBlock(_as_written(tag)))
        elif tag.name == "table" and _holds_data(tag):
            self.end()
            self._table(tag)
        elif tag.name == "tr" and not tag.find([*LAYS_OUT, "p", "ul", "ol"]):
            self.end(tight=True)
            self.blocks.append(TextBlock(tables.text([_cells(tag)], self._style), tight=True))
        elif heading := HEADING.fullmatch(tag.name):
            self.end()
            self._pieces = [one_line(_blocks(tag))]
            self.end(int(heading[1]))
        elif tag.name in PARAGRAPHS or tag.name in LINES:
            self.end(tight=tag.name in LINES)
            self.walk(tag)
            self.end(tight=tag.name in LINES)
        else:
            self._inline(tag)

    def _inline(self, tag: Any) -> None:
        from lxml.html import fragment_fromstring

        if tag.name == "br":
            self._pieces.append(BREAK)
        elif tag.name == "math":
            self._pieces.append(equations.linear(fragment_fromstring(str(tag))))
        elif tag.name == "sup" and (raised := equations.raised(tag.get_text())) != tag.get_text():
            self._pieces.append(raised)
        elif tag.name == "q":
            self._pieces.append("\u201c")
            self.walk(tag)
            self._pieces.append("\u201d")
        else:
            self.walk(tag)

    def _table(self, table: Any) -> None:
        """Its caption, then a line for each of its own rows."""
        for caption in table.find_all("caption", recursive=False):
            self.walk(caption)
            self.end()
        rows = [row for row in table.find_all("tr") if row.find_parent("table") is table]
        self.blocks.append(TextBlock(tables.text(map(_cells, rows), self._style)))


def _holds_data(table: Any) -> bool:
    """Whether it has rows of data, as one with headings of its own has, and does not lay out a page."""
    if table.get("role") in ("presentation", "none"):
        return False
    rows = [row for row in table.find_all("tr") if row.find_parent("table") is table]
    if any(row.find("th", recursive=False) for row in rows):
        return True
    return not table.find(LAYS_OUT) and len(rows) > 1 and max(map(len, map(_own_cells, rows))) > 1


def _own_cells(row: Any) -> list[Any]:
    return list(row.find_all(["td", "th"], recursive=False))


def _cells(row: Any) -> list[TableCell]:
    return [
        TableCell(one_line(_blocks(cell, tables.INSIDE)), _span(cell, "colspan") or 1, _span(cell, "rowspan"))
        for cell in _own_cells(row)
    ]


def _span(cell: Any, name: str) -> int:
    number = re.match(r"\s*(\d{1,6})", str(cell.get(name, "1")))
    return int(number[1]) if number else 1


def _as_written(tag: Any) -> str:
    """The lines of a `pre`."""
    for line in tag.find_all("br"):
        line.replace_with("\n")
    return visible(tag.get_text().strip("\n").rstrip())
