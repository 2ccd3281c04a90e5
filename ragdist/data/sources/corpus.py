"""Documents of a folder, in the order of their paths, with ids that are hashes of title and text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from ragdist.config import CorpusConfig
from ragdist.data.matching import flat, words
from ragdist.data.sources import duplicates, formats, values
from ragdist.data.sources.files import Broken, rows
from ragdist.data.sources.places import FileAddress
from ragdist.data.sources.sections import Text
from ragdist.errors import DataError
from ragdist.records import Document, content_id
from ragdist.roles import Mapper

TABLES = (".json", ".jsonl", ".jsonl.gz", ".parquet")
SUFFIXES = (*formats.PARSERS, *TABLES)
VERSION = 3
"""Of the documents that the same files give."""
SAYS_LITTLE = 8
"""Words below which a row's own title is part of what it says: "Is parking free?" and "Yes."."""
COLUMNS = ("text", "title")
"""Of a table of documents; the first must be there."""


def read(
    places: Sequence[FileAddress], config: CorpusConfig, mapper: Mapper, counts: dict[str, Any]
) -> Iterator[Document]:
    """The documents of these files. A copy of an earlier one, whitespace and name aside, is left out; a nearly equal
    one is treated as `config` says.

    A pdf, docx, html, md or txt file is one document, titled by its path without the suffix. A json file holds one
    object or a list of them, jsonl one a line, parquet one a row: `text` is the text, `title` the title where there
    is one. Nothing is kept of a document that has been read but its id and its MinHash.

    Args:
        places: the files, in order.
        config: what to do with a file or row that cannot be read (`broken`), and with near duplicates.
        mapper: reads the files that are one document; the documents do not depend on it.
        counts: gets `broken`, the list of `where: why` of what was skipped; `guesses`, likewise of what was read by a
            guess; `copies`, their number, `copies_named`, the first 20 as `that, like this`, and `copied`, for each its
            source, its title and the id of what it repeats; `other_files`, those of no known kind by suffix; and what
            `duplicates.sift` tells.

    Raises:
        DataError: a file or row cannot be read or has no text (and `broken` is stop), or there is no document at all.
        StorageError: object storage cannot be reached.
    """
    counts |= {"broken": [], "guesses": [], "copies": 0, "copies_named": [], "copied": [], "other_files": {}}
    policy, seen = Broken(config.broken, counts["broken"]), dict[bytes, tuple[str, str]]()

    def each_once() -> Iterator[Document]:
        for document in _documents(places, mapper, policy, counts):
            text, with_title = _keys(document)
            name = duplicates.name_of(document)
            if first := seen.get(with_title if _is_titled(document) else text):
                counts["copies"] += 1
                counts["copied"].append((document.source, document.title, first[0]))
                counts["copies_named"] += [f"{name}, like {first[1]}"] * (counts["copies"] <= duplicates.NAMED)
            else:
                seen.setdefault(text, (document.id, name))
                seen.setdefault(with_title, (document.id, name))
                yield document

    yield from duplicates.sift(each_once(), config, counts)
    if not seen:
        skipped = f", {len(counts['broken'])} skipped" if counts["broken"] else ""
        raise DataError(
            f"corpus.folder={config.folder!r} has no documents{skipped}; wanted {', '.join(SUFFIXES)} files"
        )


def _keys(document: Document) -> tuple[bytes, bytes]:
    """What copies of a document have in common: 16 bytes of its text, and of its title and text."""
    text = flat(document.text)
    return tuple(sha256(key.encode()).digest()[:16] for key in (text, f"{document.title}\x1f{text}"))  # type: ignore[return-value]


def _is_titled(document: Document) -> bool:
    """Whether it is a row whose title says what its few words do not."""
    row = formats.suffix_of(document.source) in TABLES
    return row and bool(document.title) and len(words(document.text).split()) < SAYS_LITTLE


def _documents(
    places: Sequence[FileAddress], mapper: Mapper, broken: Broken, counts: dict[str, Any]
) -> Iterator[Document]:
    for place, found in zip(places, mapper.map(formats.read, places), strict=True):
        if found is not None and found.problem:
            broken.add(place.address, found.problem)
        elif found is not None:
            if found.note:
                counts["guesses"].append(f"{place.inside} {found.note}")
            title = str(PurePosixPath(place.inside).with_suffix(""))
            if document := _document(place.address, title, found, place, broken):
                yield document
        elif (suffix := formats.suffix_of(place.inside)) in TABLES:
            for where, row in rows(place, broken, COLUMNS):
                text, title = row.get("text"), values.written(row.get("title")) or ""
                if not isinstance(text, str) or not text.strip():
                    why = "has no `text`" if text is None else "has an empty `text` or one that is no string"
                    broken.add(where, why)
                elif document := _document(where, title, Text(text), place, broken):
                    yield document
        else:
            counts["other_files"][suffix] = counts["other_files"].get(suffix, 0) + 1


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
