"""Documents as people have them, written by the tests: pdf with pages and bookmarks, docx with styles and tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import docx
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject


def pdf(pages: Sequence[str], bookmarks: Sequence[tuple[int, int, str]] = (), **encrypted: str) -> bytes:
    """A pdf with these texts in Helvetica, a line for each line.

    Args:
        pages: the pages' texts, Latin-1; an empty one gives a page without text, as a scan is.
        bookmarks: (page from 1, level from 1, title), in order.
        encrypted: arguments of pypdf's `encrypt`; none leaves it open.
    """
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
            NameObject("/Encoding"): NameObject("/WinAnsiEncoding"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(612, 792)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        drawn = DecodedStreamObject()
        drawn.set_data(_drawn(text))
        page[NameObject("/Contents")] = writer._add_object(drawn)
    parents: dict[int, object] = {}
    for number, level, title in bookmarks:
        parents[level] = writer.add_outline_item(title, number - 1, parent=parents.get(level - 1))
    if encrypted:
        writer.encrypt(**encrypted)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _drawn(text: str) -> bytes:
    escaped = text.translate(str.maketrans({"\\": "\\\\", "(": "\\(", ")": "\\)"}))
    lines = " T* ".join(f"({line}) Tj" for line in escaped.split("\n")) if text else ""
    return f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET".encode("latin-1")


def word(blocks: Sequence[str | list[list[str]]]) -> bytes:
    """A docx: `# ` and `## ` begin a heading of the first and second level, `- ` a line of a list; a list of rows is a
    table."""
    document = docx.Document()
    for block in blocks:
        if isinstance(block, list):
            table = document.add_table(len(block), len(block[0]))
            for row, cells in zip(table.rows, block, strict=True):
                for cell, text in zip(row.cells, cells, strict=True):
                    cell.text = text
        elif block.startswith("#"):
            marks, _, title = block.partition(" ")
            document.add_heading(title, len(marks))
        else:
            document.add_paragraph(block.removeprefix("- "), "List Bullet" if block.startswith("- ") else None)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """The folder, with these files by their paths below it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
