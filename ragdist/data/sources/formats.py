"""Text of one file with the characters at which its pages and sections begin: pdf, docx, html, Markdown, plain, and
pptx, and what pandoc reads (epub, odt, rtf).

Each parser is a module-level function of the file's bytes, so files are read side by side by a Mapper.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from ragdist.data.matching import flat
from ragdist.data.sources import encodings, office
from ragdist.data.sources.markup import html
from ragdist.data.sources.places import FileAddress
from ragdist.data.sources.sections import BETWEEN, Marks, Text, visible
from ragdist.data.sources.slides import pptx
from ragdist.data.sources.word import docx
from ragdist.errors import DataError, StorageError

SOFT = "\u00ad"
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BROKEN = re.compile(rf"([^\W\d_]+)([-\u2010{SOFT}])[ \t]*\n[ \t]*([^\W\d_]+)")


def suffix_of(name: str) -> str:
    """What tells the kind of a file, in small letters: `.md`, `.jsonl.gz`."""
    path = PurePosixPath(name.casefold())
    return "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".zst") else path.suffix


def read(place: FileAddress) -> Text | None:
    """The one document that a file holds; None for a file of another kind, whose name says so.

    A file that its parser cannot read, that is encrypted, or that has no text has a `problem` instead. A StorageError
    if object storage cannot be reached.
    """
    parser = PARSERS.get(suffix_of(place.inside))
    if parser is None:
        return None
    try:
        found = parser(place.read())
    except (StorageError, MemoryError):
        raise
    except DataError as error:
        return Text(problem=str(error))
    except Exception as error:  # a broken file makes its parser raise anything; the file is named with it
        return Text(problem=f"cannot be read ({type(error).__name__}: {flat(str(error))[:200]})")
    return found if found.text.strip() else Text(problem="has no text")


def plain(data: bytes) -> Text:
    """The file as it is written, line ends as newlines."""
    text, note = _decoded(data)
    return Text(text, note=note)


def markdown(data: bytes) -> Text:
    """The file as it is written; its headings are those of CommonMark, none in code, quotes or front matter."""
    from markdown_it import MarkdownIt

    text, note = _decoded(data)
    lines = text.split("\n")
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    tokens = MarkdownIt("commonmark").parse("\n".join(_without_front_matter(lines)))
    marks = Marks()
    for token, inside in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            marks.heading(offsets[token.map[0]], int(token.tag[1:]), inside.content)
    return replace(marks.on(text), note=note)


def pdf(data: bytes) -> Text:
    """The pages' texts with a blank line between; headings are the bookmarks', found again in the page's text. A
    DataError if it is encrypted with a password, or no page has text."""
    from pypdf import PdfReader
    from pypdf.errors import FileNotDecryptedError, WrongPasswordError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of every flaw that it can live with
    try:
        reader = PdfReader(io.BytesIO(data))
        texts = _unbroken([_whole_characters(page.extract_text()) for page in reader.pages])
    except (FileNotDecryptedError, WrongPasswordError):
        raise DataError("is encrypted; save it without its password (`qpdf --decrypt --password=... IN OUT`)") from None
    if not any(texts):
        raise DataError(f"has {len(texts)} pages and no text, as scans have; recognise it first (`ocrmypdf IN OUT`)")
    bookmarks, marks, whole = _bookmarks(reader), Marks(), ""
    for number, text in enumerate(texts, start=1):
        here = bookmarks.get(number, [])
        if text:
            whole += BETWEEN if whole else ""
            marks.page(len(whole), number)
        at = 0
        for level, title in here:
            match = re.compile(r"\s*".join(map(re.escape, "".join(title.split())))).search(text, at)
            at = match.start() if match else at
            marks.heading(len(whole) + at, level, title)
        whole += text
    return marks.on(whole)


def _decoded(data: bytes) -> tuple[str, str]:
    text, note = encodings.decoded(data)
    return text.replace("\r\n", "\n").replace("\r", "\n"), note


def _without_front_matter(lines: list[str]) -> list[str]:
    """The lines with those of a leading `---` block empty, which CommonMark would take for a heading."""
    if lines[0].rstrip() == "---" and "---" in (rest := [line.rstrip() for line in lines[1:]]) and ":" in rest[0]:
        last = rest.index("---") + 1
        return [""] * (last + 1) + lines[last + 1 :]
    return lines


def _whole_characters(text: str) -> str:
    """Halves of characters joined where both are there, else marked as unknown."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "")


def _unbroken(texts: list[str]) -> list[str]:
    """The pages' texts with words whole that were broken at a line's end: where the sign says that it is none, or the
    document has the word elsewhere, without the hyphen or with it. Other hyphens stay, as nothing tells what they are.
    """
    known = {word.casefold() for text in texts for word in _WORD.findall(text)}

    def whole(found: re.Match[str]) -> str:
        before, sign, after = found.groups()
        if sign == SOFT or f"{before}{after}".casefold() in known:
            return f"{before}{after}"
        return f"{before}-{after}" if f"{before}-{after}".casefold() in known else found[0]

    return [visible(_BROKEN.sub(whole, text)).strip() for text in texts]


def _bookmarks(reader: Any) -> dict[int, list[tuple[int, str]]]:
    """(level, title) of the bookmarks of each page, from 1 on; those that lead nowhere are left out."""
    found: dict[int, list[tuple[int, str]]] = {}

    def gather(entries: list[Any], level: int) -> None:
        for entry in entries:
            if isinstance(entry, list):
                gather(entry, level + 1)
            elif (
                (page := reader.get_destination_page_number(entry)) is not None
                and page >= 0
                and flat(str(entry.title or ""))
            ):
                found.setdefault(page + 1, []).append((level, visible(_whole_characters(str(entry.title)))))

    try:
        gather(reader.outline, 1)
    except Exception as error:  # the text is there; bookmarks that cannot be read are as none
        logging.getLogger("ragdist").info("bookmarks of a pdf cannot be read: %s", error)
        return {}
    return found


PARSERS: dict[str, Callable[[bytes], Text]] = {
    **dict.fromkeys((".txt", ".rst", ".adoc"), plain),
    **dict.fromkeys((".md", ".markdown"), markdown),
    ".pdf": pdf,
    ".docx": docx,
    **dict.fromkeys((".html", ".htm"), html),
    ".pptx": pptx,
    **office.PARSERS,
}
