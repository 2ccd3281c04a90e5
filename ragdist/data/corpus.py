"""Documents of a folder, in the order of their paths, with ids that are hashes of title and text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ragdist.config import CorpusConfig
from ragdist.data import duplicates, formats
from ragdist.data.files import READ_ERRORS, Broken, json_lines
from ragdist.data.places import Place
from ragdist.data.sections import Text
from ragdist.errors import DataError
from ragdist.records import Document, content_id
from ragdist.roles import Mapper

TABLES = (".json", ".jsonl", ".jsonl.gz", ".parquet")
SUFFIXES = (*formats.PARSERS, *TABLES)
VERSION = 2
"""Of the documents that the same files give."""
Rows = Iterator[tuple[str, dict[str, Any]]]


def read(places: Sequence[Place], config: CorpusConfig, mapper: Mapper, counts: dict[str, Any]) -> Iterator[Document]:
    """The documents of these files; an exact copy of an earlier one is left out, a near one as `config` says.

    A pdf, docx, html, md or txt file is one document, titled by its path without the suffix. A json file holds one
    object or a list of them, jsonl one a line, parquet one a row: `text` is the text, `title` the title where there
    is one. Nothing is kept of a document that has been read but its id and its MinHash.

    Args:
        places: the files, in order.
        config: what to do with a file or row that cannot be read (`broken`), and with near duplicates.
        mapper: reads the files that are one document; the documents do not depend on it.
        counts: gets `broken`, the list of `where: why` of what was skipped; `copies`, exact ones; `other_files`, those
            of no known kind by suffix; and what `duplicates.sift` tells.

    Raises:
        DataError: a file or row cannot be read or has no text (and `broken` is stop), or there is no document at all.
        StorageError: object storage cannot be reached.
    """
    counts |= {"broken": [], "copies": 0, "other_files": {}}
    policy, seen = Broken(config.broken, counts["broken"]), set[str]()

    def each_once() -> Iterator[Document]:
        for document in _documents(places, mapper, policy, counts["other_files"]):
            if document.id in seen:
                counts["copies"] += 1
            else:
                seen.add(document.id)
                yield document

    yield from duplicates.sift(each_once(), config, counts)
    if not seen:
        skipped = f", {len(counts['broken'])} skipped" if counts["broken"] else ""
        raise DataError(
            f"corpus.folder={config.folder!r} has no documents{skipped}; wanted {', '.join(SUFFIXES)} files"
        )


def _documents(
    places: Sequence[Place], mapper: Mapper, broken: Broken, other_files: dict[str, int]
) -> Iterator[Document]:
    for place, found in zip(places, mapper.map(formats.read, places), strict=True):
        if found is not None and found.problem:
            broken.add(place.address, found.problem)
        elif found is not None:
            title = str(PurePosixPath(place.inside).with_suffix(""))
            if document := _document(place.address, title, found, place, broken):
                yield document
        elif (suffix := formats.suffix_of(place.inside)) in TABLES:
            for where, row in _rows(place, broken):
                text, title = row.get("text"), str(row.get("title") or "")
                if not isinstance(text, str) or not text.strip():
                    why = "has no `text`" if text is None else "has an empty `text` or one that is no string"
                    broken.add(where, why)
                elif document := _document(where, title, Text(text), place, broken):
                    yield document
        else:
            other_files[suffix] = other_files.get(suffix, 0) + 1


def _document(where: str, title: str, found: Text, place: Place, broken: Broken) -> Document | None:
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


def _rows(place: Place, broken: Broken) -> Rows:
    """(where, row with `text` and perhaps `title`) of one file of many documents."""
    try:
        if (suffix := formats.suffix_of(place.inside)) == ".json":
            yield from _json(place, broken)
        elif suffix == ".parquet":
            yield from _parquet(place)
        else:
            yield from json_lines(place, broken)
    except (*READ_ERRORS, ValueError, pa.ArrowException) as error:
        broken.add(place.address, f"cannot be read ({error})")


def _json(place: Place, broken: Broken) -> Rows:
    value = json.loads(place.read())
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        where = f"{place.address}, item {number}" if isinstance(value, list) else place.address
        if isinstance(row, dict):
            yield where, row
        else:
            broken.add(where, f"holds a JSON {type(row).__name__}, wanted an object")


def _parquet(place: Place) -> Rows:
    with place.open() as opened, parquet.ParquetFile(opened) as file:
        columns = [name for name in ("title", "text") if name in file.schema_arrow.names]
        if "text" not in columns:
            raise ValueError(f"no column `text`, only {', '.join(file.schema_arrow.names)}")
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{place.address}, row {number}", row
