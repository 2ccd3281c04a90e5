"""Text of a docx as its reader sees it, block by block: paragraphs, headings, lists, tables, text boxes, notes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ragdist.data.sources import equations, tables
from ragdist.data.sources.sections import Text, TextBlock, joined, one_line, visible
from ragdist.data.sources.tables import TableCell
from ragdist.data.sources.unpacking import check_zip

WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
PARAGRAPH, TABLE = f"{WORD}p", f"{WORD}tbl"
SIGNS = {f"{WORD}tab": "\t", f"{WORD}br": "\n", f"{WORD}cr": "\n", f"{WORD}noBreakHyphen": "-"}
UNSEEN = frozenset({f"{WORD}del", f"{WORD}moveFrom", f"{WORD}rt", FALLBACK})
"""Deleted or moved away, readings beside characters (ruby), what older programs show instead."""
NOTES = {f"{WORD}footnoteReference": "footnote", f"{WORD}endnoteReference": "endnote"}
OFF = frozenset({"0", "false", "off"})


@dataclass(frozen=True, slots=True)
class _Style:
    """What a style says. Example: _Style(level=1, listed=False, hidden=None)."""

    level: int = 0
    """Of a heading; 0 is none."""
    listed: bool = False
    hidden: bool | None = None
    """Whether its text is hidden; None where it says neither."""


def docx(data: bytes) -> Text:
    """Paragraphs and tables in their order, also those in content controls, text boxes and tracked insertions; foot and
    end notes after the paragraph that refers to them.

    Not: headers, footers, comments, deleted and hidden text, numbers of lists. A docx does not say where its pages end.
    A DataError if it is encrypted, in the format before docx, or unpacks to too much.
    """
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.opc.pkgreader import PackageReader
    from docx.oxml.parser import parse_xml

    check_zip(data)
    # Not docx.Document: its parts refer to one another, and folders of them fill the memory until a garbage collection.
    parts: dict[str, bytes] = {}
    for _, _, relation, blob in PackageReader.from_file(io.BytesIO(data)).iter_sparts():  # type: ignore[no-untyped-call]
        parts.setdefault(relation, blob)
    body = parse_xml(parts[RELATIONSHIP_TYPE.OFFICE_DOCUMENT]).find(f"{WORD}body")
    styles = _styles(parse_xml(parts[RELATIONSHIP_TYPE.STYLES])) if RELATIONSHIP_TYPE.STYLES in parts else {}
    notes = {
        (kind, note.get(f"{WORD}id")): note
        for relation, kind in ((RELATIONSHIP_TYPE.FOOTNOTES, "footnote"), (RELATIONSHIP_TYPE.ENDNOTES, "endnote"))
        if relation in parts
        for note in parse_xml(parts[relation]).iter(WORD + kind)
    }
    return joined(_Reader(styles, notes).blocks(body))


def _styles(root: Any) -> dict[str, _Style]:
    """The styles by their ids; whether text is hidden is inherited from the style that one is based on."""
    elements = {style.get(f"{WORD}styleId"): style for style in root.iter(f"{WORD}style")}
    found = {}
    for name, style in elements.items():
        hidden, seen, based = _hidden(style.find(f"{WORD}rPr")), {name}, name
        while hidden is None and (based := _value(elements[based], "basedOn")) in elements.keys() - seen:
            seen.add(based)
            hidden = _hidden(elements[based].find(f"{WORD}rPr"))
        called = _value(style, "name").casefold()
        heading = re.fullmatch(r"heading (\d)", called)
        level = int(heading[1]) + 1 if heading else int(called == "title")
        found[name] = _Style(level, called.startswith("list "), hidden)
    return found


def _value(parent: Any, path: str) -> str:
    """The `val` of the element at this path, part by part; empty if there is none."""
    found = parent.find("/".join(WORD + part for part in path.split("/")))
    return found.get(f"{WORD}val") or "" if found is not None else ""


def _hidden(properties: Any) -> bool | None:
    """Whether properties of text hide it; None where they say neither."""
    found = properties.find(f"{WORD}vanish") if properties is not None else None
    return None if found is None else found.get(f"{WORD}val") not in OFF


def _has(node: Any, path: str) -> bool:
    return node.find("/".join(WORD + part for part in path.split("/"))) is not None


@dataclass(slots=True)
class _Reader:
    """Reads a document's blocks."""

    styles: Mapping[str, _Style]
    notes: Mapping[tuple[str, str], Any]
    _beside: list[TextBlock] = field(default_factory=list)
    """Text boxes and notes of the paragraph that is being read; they follow it."""
    _style: _Style = _Style()
    """Of that paragraph."""

    def blocks(self, parent: Any, style: tables.Style = tables.ROWS) -> Iterator[TextBlock]:
        """The blocks of a body, cell, text box or note, what is beside a block after it; tables are in this style."""
        begun = ""
        for node in parent:
            outer, self._beside = self._beside, []
            if node.tag == PARAGRAPH:
                block = self._paragraph(node)
                if _has(node, "pPr/rPr/del"):  # its end was deleted: it goes on in the next one
                    begun += block.text
                else:
                    yield block._replace(text=(begun + block.text).strip())
                    begun = ""
            elif node.tag == TABLE:
                yield TextBlock(tables.text(self._rows(node), style))
            elif node.tag not in UNSEEN:
                yield from self.blocks(node, style)
            beside, self._beside = self._beside, outer
            yield from beside
        yield TextBlock(begun.strip())

    def _paragraph(self, node: Any) -> TextBlock:
        outer, self._style = self._style, self.styles.get(_value(node, "pPr/pStyle"), _Style())
        level, listed = self._style.level, self._style.listed or _has(node, "pPr/numPr")
        block = TextBlock(visible(self._text(node)), level, not level and listed)
        self._style = outer
        return block

    def _text(self, node: Any) -> str:
        """The text of a paragraph or a piece of one."""
        tag = node.tag
        if tag == f"{WORD}t":
            return node.text or ""
        if tag in UNSEEN or not isinstance(tag, str) or (tag == f"{WORD}r" and self._is_hidden(node)):
            return ""
        if tag == f"{MATH}oMath":
            return equations.linear(node)
        if tag in NOTES:
            note = self.notes.get((NOTES[tag], node.get(f"{WORD}id")))
            self._beside += self.blocks(note) if note is not None else ()
            return ""
        if tag == f"{WORD}txbxContent":
            self._beside += self.blocks(node)
            return ""
        inside = "".join(map(self._text, node))
        raised = tag == f"{WORD}r" and _value(node, "rPr/vertAlign") == "superscript"
        return SIGNS.get(tag) or (equations.raised(inside) if raised else inside)

    def _is_hidden(self, run: Any) -> bool:
        """By its own properties, else those of its style, else those of the paragraph's."""
        properties = run.find(f"{WORD}rPr")
        own = _hidden(properties)
        if own is None and properties is not None:
            own = self.styles.get(_value(properties, "rStyle"), _Style()).hidden
        return bool(self._style.hidden if own is None else own)

    def _rows(self, table: Any) -> Iterator[list[TableCell]]:
        """The rows' cells; one that goes on from above has its text again, rows that were deleted or are hidden go."""
        above: dict[int, str] = {}
        for row in _own(table, "tr", "tbl"):
            if _has(row, "trPr/del") or _has(row, "trPr/hidden"):
                continue
            cells, column = list[TableCell](), 0
            for cell in _own(row, "tc", "tr"):
                text = "" if _has(cell, "tcPr/cellDel") else one_line(self.blocks(cell, tables.INSIDE))
                merged = cell.find(f"{WORD}tcPr/{WORD}vMerge")
                if merged is not None and merged.get(f"{WORD}val") != "restart":
                    text = above.get(column, text)
                span = _value(cell, "tcPr/gridSpan")
                cells.append(TableCell(text, int(span) if span.isdecimal() else 1))
                above[column] = text
                column += cells[-1].across
            yield cells


def _own(parent: Any, kind: str, parents: str) -> list[Any]:
    """The rows of a table or cells of a row, less those of tables inside."""
    return [node for node in parent.iter(WORD + kind) if next(node.iterancestors(WORD + parents)) is parent]
