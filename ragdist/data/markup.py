"""Text of docx and html, block by block: paragraphs, headings, lists, tables."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

from ragdist.data.matching import flat
from ragdist.data.sections import Block, Text, joined
from ragdist.errors import DataError

UNREAD = frozenset({"head", "script", "style", "nav", "template", "noscript", "svg", "iframe", "button", "select"})
PARAGRAPHS = frozenset(
    {"address", "article", "aside", "blockquote", "body", "caption", "details", "dialog", "div", "dl", "fieldset"}
    | {"figcaption", "figure", "footer", "form", "header", "hr", "main", "ol", "p", "section", "summary", "table"}
    | {"tbody", "td", "tfoot", "th", "thead", "tr", "ul"}
)
ANCHOR = "headerlink"
"""Class of the sign beside a heading that links to it, in pages made by Sphinx or MkDocs."""
LINES = frozenset({"dd", "dt", "li"})
BREAK = "\v"
HEADING = re.compile(r"h([1-6])")

WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
PARAGRAPH = f"{WORD}p"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
SIGNS = {f"{WORD}tab": "\t", f"{WORD}br": "\n", f"{WORD}cr": "\n", f"{WORD}noBreakHyphen": "-"}
DELETED = frozenset({f"{WORD}del", f"{WORD}moveFrom", FALLBACK})


def html(data: bytes) -> Text:
    """What a reader sees of the page, less scripts, styles and navigation; text in `pre` keeps its lines.

    Raises:
        DataError: its bytes are no text in the encoding that it names, nor in UTF-8 or Windows-1252.
    """
    from bs4 import BeautifulSoup, UnicodeDammit

    decoded = UnicodeDammit(data, is_html=True)
    if decoded.unicode_markup is None or decoded.contains_replacement_characters:
        raise DataError("holds bytes that are no characters in the encoding it names; save it as UTF-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it looks like XML, or like an address
        soup = BeautifulSoup(decoded.unicode_markup, "lxml")
    for tag in [*soup(list(UNREAD)), *soup(class_=ANCHOR)]:
        if not tag.decomposed:
            tag.decompose()
    page = _Page()
    page.walk(soup)
    page.end()
    return joined(page.blocks)


class _Page:
    """Blocks of an html page, gathered in the order of the text."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._pieces: list[str] = []

    def walk(self, parent: Any) -> None:
        from bs4.element import NavigableString, PreformattedString, Tag

        for node in parent.children:
            if isinstance(node, Tag):
                self._tag(node)
            elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
                self._pieces.append(str(node))

    def end(self, level: int = 0, *, tight: bool = False) -> None:
        """Ends the block that is being gathered, if there is any."""
        lines = map(flat, "".join(self._pieces).split(BREAK))
        self._pieces.clear()
        if text := "\n".join(line for line in lines if line):
            self.blocks.append(Block(text, level, tight))

    def _tag(self, tag: Any) -> None:
        if tag.name == "pre":
            self.end()
            self.blocks.append(Block(tag.get_text().strip("\n").rstrip()))
        elif tag.name == "tr" and (cells := _data_cells(tag)):
            self.end(tight=True)
            self._pieces = [" | ".join(cells)]
            self.end(tight=True)
        elif heading := HEADING.fullmatch(tag.name):
            self.end()
            self._pieces = [tag.get_text(" " if tag.find([*PARAGRAPHS, *LINES]) else "")]
            self.end(int(heading[1]))
        elif tag.name in PARAGRAPHS or tag.name in LINES:
            self.end(tight=tag.name in LINES)
            self.walk(tag)
            self.end(tight=tag.name in LINES)
        else:
            self._pieces += [BREAK] * (tag.name == "br")
            self.walk(tag)


def _data_cells(row: Any) -> list[str]:
    """The cells' texts, if this is a row of data and not one that lays out a page."""
    if row.find(["table", "pre", "p", "ul", "ol", re.compile("^h[1-6]$")]):
        return []
    return [flat(cell.get_text(" ")) for cell in row.find_all(["td", "th"])]


def docx(data: bytes) -> Text:
    """Paragraphs and tables in their order, also those in content controls and tracked insertions.

    Not: headers, footers, foot notes, comments, deleted text. A docx does not say where its pages end.

    Raises:
        DataError: it is encrypted or in the format before docx.
    """
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.opc.pkgreader import PackageReader
    from docx.oxml.parser import parse_xml

    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise DataError("is encrypted or an old .doc; save it as .docx without a password")
    # Not docx.Document: its parts refer to one another, and folders of them fill the memory until a garbage collection.
    parts: dict[str, bytes] = {}
    for _, _, relation, blob in PackageReader.from_file(io.BytesIO(data)).iter_sparts():  # type: ignore[no-untyped-call]
        parts.setdefault(relation, blob)
    body = parse_xml(parts[RELATIONSHIP_TYPE.OFFICE_DOCUMENT]).find(f"{WORD}body")
    styles: dict[str, tuple[int, bool]] = {}
    if RELATIONSHIP_TYPE.STYLES in parts:
        for style in parse_xml(parts[RELATIONSHIP_TYPE.STYLES]).iter(f"{WORD}style"):
            name = style.find(f"{WORD}name")
            styles[style.get(f"{WORD}styleId")] = _kind(name.get(f"{WORD}val") if name is not None else "")
    return joined(_docx_blocks(body, styles))


def _kind(style: str) -> tuple[int, bool]:
    """Level of a heading of this style, or 0; whether a paragraph of it is a line of a list."""
    style = style.casefold()
    heading = re.fullmatch(r"heading (\d)", style)
    return int(heading[1]) + 1 if heading else int(style == "title"), style.startswith("list ")


def _docx_blocks(parent: Any, styles: dict[str, tuple[int, bool]]) -> Iterator[Block]:
    for node in parent:
        if node.tag == PARAGRAPH:
            style = node.find(f"{WORD}pPr/{WORD}pStyle")
            level, listed = styles.get(style.get(f"{WORD}val"), (0, False)) if style is not None else (0, False)
            numbered = node.find(f"{WORD}pPr/{WORD}numPr") is not None
            yield Block(_docx_text(node).strip(), level, not level and (listed or numbered))
        elif node.tag == f"{WORD}tbl":
            rows = (" | ".join(_docx_cells(row)) for row in _own(node, "tr", "tbl"))
            yield Block("\n".join(row for row in rows if row.strip(" |")))
        elif node.tag not in DELETED:
            yield from _docx_blocks(node, styles)


def _docx_cells(row: Any) -> list[str]:
    return [flat(" ".join(map(_docx_text, cell.iter(PARAGRAPH)))) for cell in _own(row, "tc", "tr")]


def _own(parent: Any, kind: str, parents: str) -> list[Any]:
    """The rows of a table or cells of a row, less those of tables inside."""
    return [node for node in parent.iter(WORD + kind) if next(node.iterancestors(WORD + parents)) is parent]


def _docx_text(node: Any) -> str:
    """The text of a paragraph; text boxes inside end with a new line."""
    if node.tag == f"{WORD}t":
        return node.text or ""
    if node.tag in DELETED or not isinstance(node.tag, str):
        return ""
    return SIGNS.get(node.tag) or "".join(map(_docx_text, node)) + "\n" * (node.tag == PARAGRAPH)
