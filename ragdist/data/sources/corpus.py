"""Documents of a folder, in the order of their paths, with ids that are hashes of title and text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from ragdist.config import CorpusConfig
from ragdist.data.matching import flat, words
from ragdist.data.sources import duplicates, formats, office, places, values
from ragdist.data.sources.files import Broken, rows
from ragdist.data.sources.places import FileAddress
from ragdist.data.sources.sections import Text
from ragdist.errors import DataError
from ragdist.records import Document, content_id
from ragdist.roles import Mapper
from ragdist.storage.stages import Counted, CountedRows
from ragdist.tracking.progress import say_once

LINES = (".json", ".jsonl", ".csv", ".tsv")
TABLES = (*LINES, *(f"{kind}{packed}" for kind in LINES for packed in (".gz", ".zst")), ".parquet", ".xlsx", ".xlsm")
SUFFIXES = (*formats.PARSERS, *TABLES)
VERSION = 3
"""Of the documents that the same files give."""
SAYS_LITTLE = 8
"""Words below which a row's own title is part of what it says: "Is parking free?" and "Yes."."""
LATER = frozenset({*office.PARSERS, ".pptx", ".rst", ".adoc", *TABLES} - {".json", ".jsonl", ".jsonl.gz", ".parquet"})
"""Kinds that were not read in version 3: a folder that holds one is another stage."""
SHEETS = (".csv", ".tsv", ".xlsx", ".xlsm")
"""Tables that are one document where they have no column of texts."""
LONGEST = 64 << 20
"""Characters of a table that is one document."""
AT_ONCE = 50
"""Broken files and rows that are named together."""
COLUMNS = ("text", "title")
"""Of a table of documents; the first must be there."""


def found(config: CorpusConfig) -> list[FileAddress]:
    """The files of `corpus.folder`, less those that hold its questions. A ConfigError if there is no such folder, or it
    cannot be read."""
    asked = {_whole(places.at(name).address) for name in config.questions}
    return [place for place in places.files(config.folder) if _whole(place.address) not in asked]


def _whole(address: str) -> str:
    return address if "://" in address else os.path.realpath(address)


def later(files: Sequence[FileAddress]) -> list[str]:
    """Which kinds of LATER are there."""
    return sorted({formats.suffix_of(place.inside) for place in files} & LATER)


def tell_others(kinds: Mapping[str, int]) -> None:
    """Says once which files are of kinds that are not read, how many by suffix."""
    if kinds:
        named = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(kinds.items()))
        say_once(f"not read, as files of other kinds: {named}")


def read(files: Sequence[FileAddress], config: CorpusConfig, mapper: Mapper) -> Counted[Document]:
    """The documents of these files. A copy of an earlier one, whitespace and name aside, is left out; a nearly equal
    one is treated as `config` says.

    A pdf, docx, html, md, txt, pptx, epub, odt or rtf file is one document, titled by its path without the suffix. A
    json file holds one object or a list of them, jsonl one a line, parquet, csv and xlsx one a row: `text` is the text,
    `title` the title where there is one. A csv or a sheet of an xlsx without a `text` is one document, each row a line
    (`Product: cup | Price: 3`). Nothing is kept of a document that has been read but its id and its MinHash.

    Args:
        files: the files, in order.
        config: what to do with a file or row that cannot be read (`broken`), and with near duplicates.
        mapper: reads the files that are one document; the documents do not depend on it.

    Returns:
        `broken`, the list of `where: why` of what was skipped; `guesses`, likewise of what was read by a guess;
        `copies`, their number, `copies_named`, the first 20 as `that, like this`, and `copied`, for each its source,
        its title and the id of what it repeats; `other_files`, those of no known kind by suffix; and what
        `duplicates.sift` tells.

    Raises:
        DataError: a file or row cannot be read or has no text (and `broken` is stop), or there is no document at all.
        StorageError: object storage cannot be reached.
    """
    policy = Broken(config.broken, [], at_once=AT_ONCE)
    documents = CountedRows(_documents(files, mapper, policy))
    copies_named, copied = list[str](), list[tuple[str, str, str]]()
    seen = dict[bytes, tuple[str, str]]()

    def each_once() -> Iterator[Document]:
        for document in documents:
            text, with_title = _keys(document)
            name = duplicates.name_of(document)
            if first := seen.get(with_title if _is_titled(document) else text):
                copied.append((document.source, document.title, first[0]))
                copies_named.extend([f"{name}, like {first[1]}"] * (len(copied) <= duplicates.NAMED))
            else:
                seen.setdefault(text, (document.id, name))
                seen.setdefault(with_title, (document.id, name))
                yield document

    near = yield from duplicates.sift(each_once(), config)
    policy.check()
    if not seen:
        skipped = f", {len(policy.named)} skipped" if policy.named else ""
        raise DataError(
            f"corpus.folder={config.folder!r} has no documents{skipped}; wanted {', '.join(SUFFIXES)} files"
        )
    guesses, others = documents.counts["guesses"], documents.counts["other_files"]
    copies = {"copies": len(copied), "copies_named": copies_named, "copied": copied}
    return {"broken": policy.named, "guesses": guesses, **copies, "other_files": others, **near}


def _keys(document: Document) -> tuple[bytes, bytes]:
    """What copies of a document have in common: 16 bytes of its text, and of its title and text."""
    text = flat(document.text)
    return tuple(sha256(key.encode()).digest()[:16] for key in (text, f"{document.title}\x1f{text}"))  # type: ignore[return-value]


def _is_titled(document: Document) -> bool:
    """Whether it is a row whose title says what its few words do not."""
    row = formats.suffix_of(document.source) in TABLES
    return row and bool(document.title) and len(words(document.text).split()) < SAYS_LITTLE


def _documents(files: Sequence[FileAddress], mapper: Mapper, broken: Broken) -> Counted[Document]:
    guesses, others = list[str](), dict[str, int]()
    for place, found in zip(files, mapper.map(formats.read, files), strict=True):
        if found is not None and found.problem:
            broken.add(place.address, found.problem)
        elif found is not None:
            if found.note:
                guesses.append(f"{place.inside} {found.note}")
            title = str(PurePosixPath(place.inside).with_suffix(""))
            if document := _document(place.address, title, found, place, broken):
                yield document
        elif (suffix := formats.suffix_of(place.inside)) in TABLES:
            yield from _of_table(place, suffix, broken)
        else:
            others[suffix] = others.get(suffix, 0) + 1
    return {"guesses": guesses, "other_files": others}


def _of_table(place: FileAddress, suffix: str, broken: Broken) -> Iterator[Document]:
    """A document for each row that has a `text`; one for a whole sheet whose rows have none."""
    is_sheet = suffix.startswith(SHEETS)
    sheets: dict[str, list[str]] = {}
    for where, row in rows(place, broken, COLUMNS):
        text, title = row.get("text"), values.written(row.get("title")) or ""
        if is_sheet and "text" not in row:
            sheet = where[len(place.address) :].rpartition(", ")[0].removeprefix(", sheet ").strip("'")
            cells = ((name, _cell(cell)) for name, cell in row.items())
            sheets.setdefault(sheet, []).append(" | ".join(f"{name}: {flat(cell)}" for name, cell in cells if cell))
        elif not isinstance(text, str) or not text.strip():
            why = "has no `text`" if text is None else "has an empty `text` or one that is no string"
            broken.add(where, why)
        elif document := _document(where, title, Text(text), place, broken):
            yield document
    for sheet, lines in sheets.items():
        title = "/".join(filter(None, (place.inside.removesuffix(suffix), sheet)))
        if sum(map(len, lines)) > LONGEST:
            broken.add(place.address, f"holds more than {LONGEST >> 20} million characters; split it")
        elif document := _document(place.address, title, Text("\n".join(lines)), place, broken):
            yield document


def _cell(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return values.written(value) or ""


def _document(where: str, title: str, found: Text, place: FileAddress, broken: Broken) -> Document | None:
    try:
        place.inside.encode()
        name = content_id(title, found.text)
    except UnicodeEncodeError:
        broken.add(where, "holds half of a character in its text, title or name, which UTF-8 cannot write")
        return None
    return Document(
        id=name,
        title=title,
        text=found.text,
        source=place.inside,
        starts=tuple(found.starts),
        pages=tuple(found.pages),
        headings=tuple(found.headings),
    )
