"""Rows of tables with the file and line of each, and what becomes of input that cannot be used."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from ragdist.data.sources import encodings
from ragdist.data.sources.places import FileAddress, at
from ragdist.data.sources.values import Number
from ragdist.errors import DataError
from ragdist.tracking.progress import say

NumberedRows = Iterator[tuple[str, dict[str, Any]]]
"""Each row with where it stands: `path, line 3`."""
READ_ERRORS = (OSError, EOFError, zlib.error)
"""What a missing, forbidden or torn file raises."""


class Broken:
    """What becomes of a file or row that cannot be used: the run stops, or it is named and left out."""

    def __init__(self, policy: Literal["stop", "skip"], named: list[str]) -> None:
        self.policy, self.named = policy, named

    def add(self, where: str, why: object) -> None:
        """Notes one, as `where: why`.

        Raises:
            DataError: the policy is to stop.
        """
        if self.policy == "stop":
            raise DataError(f"{where}: {why}; mend it, or set corpus.broken=skip to leave such input out")
        self.named.append(f"{where}: {why}")


def rows(place: FileAddress, broken: Broken, columns: Sequence[str] = ()) -> NumberedRows:
    """The rows of a file: an object or a list of them (.json), parquet, a table with a header (.csv, .tsv), else JSONL.

    Args:
        place: the file; its name says what it is.
        broken: what becomes of a file or row that cannot be read.
        columns: of parquet those that are read, the first of which must be there; empty reads all.
    """
    try:
        if (suffix := PurePosixPath(place.inside.casefold()).suffix) == ".json":
            yield from _json(place, broken)
        elif suffix == ".parquet":
            yield from _parquet(place, columns)
        elif suffix in (".csv", ".tsv"):
            yield from _separated(place, broken)
        else:
            yield from json_lines(place, broken)
    except (*READ_ERRORS, ValueError, csv.Error, pa.ArrowException) as error:
        broken.add(place.address, f"cannot be read ({why(error)})")


def json_lines(file: FileAddress | Path, broken: Broken) -> NumberedRows:
    """(`path, line n`, object) for each line of a JSONL file, gzipped if its name ends in .gz; blank lines are no rows.

    Raises:
        DataError: a line is not a JSON object, or the file cannot be read (and the policy is to stop).
        StorageError: object storage cannot be reached.
    """
    place = at(str(file)) if isinstance(file, Path) else file
    gzipped = place.inside.casefold().endswith(".gz")
    try:
        with place.open() as opened, gzip.open(opened) if gzipped else nullcontext(opened) as unzipped:
            for number, line in enumerate(_lines(unzipped), start=1):
                if not line.strip():
                    continue
                where = f"{place.address}, line {number}"
                try:
                    row = as_json(line)
                except ValueError as error:
                    broken.add(where, f"is not JSON ({why(error)})")
                    continue
                if isinstance(row, dict):
                    yield where, row
                else:
                    broken.add(where, f"holds a JSON {type(row).__name__}, wanted an object")
    except (*READ_ERRORS, UnicodeError) as error:
        broken.add(place.address, f"cannot be read ({why(error)})")


def as_json(text: str | bytes) -> Any:
    """The value of a JSON text, with numbers as they are written.

    Raises:
        ValueError: it is none, or in no encoding that JSON may be in; see `why`.
    """
    return json.loads(text, parse_float=Number)


def why(error: Exception) -> str:
    """What an error of reading says, with the way out where bytes are in another encoding than JSON's."""
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"JSON is UTF-8 by its standard, and byte {byte:#04x} at {error.start} is not; save it as UTF-8"
    return str(error)


def _lines(file: Any) -> Iterable[str | bytes]:
    """The lines of a file in any encoding that JSON may be in: UTF-8, UTF-16 or UTF-32, with its mark or without."""
    encoding = json.detect_encoding(file.peek(4)[:4])
    return file if encoding.startswith("utf-8") else io.TextIOWrapper(file, encoding)


def _json(place: FileAddress, broken: Broken) -> NumberedRows:
    value = as_json(place.read())
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        where = f"{place.address}, item {number}" if isinstance(value, list) else place.address
        if isinstance(row, dict):
            yield where, row
        else:
            broken.add(where, f"holds a JSON {type(row).__name__}, wanted an object")


def _parquet(place: FileAddress, wanted: Sequence[str]) -> NumberedRows:
    with place.open() as opened, parquet.ParquetFile(opened) as file:
        there = file.schema_arrow.names
        if wanted and wanted[0] not in there:
            raise ValueError(f"no column `{wanted[0]}`, only {', '.join(there)}")
        columns = [name for name in wanted or there if name in there]
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{place.address}, row {number}", row


def _separated(place: FileAddress, broken: Broken) -> NumberedRows:
    """Rows of a table with commas, semicolons or tabs; an empty cell is nothing, one that is a JSON list or object its
    value."""
    text, note = encodings.decoded(place.read())
    if note:
        say(f"{place.address} {note}")
    header = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    for cells in table:
        where = f"{place.address}, line {table.line_num}"
        if None in cells:
            broken.add(where, f"has more than the {len(table.fieldnames or ())} cells of the first line")
        else:
            yield where, {name: _cell(cell) for name, cell in cells.items() if cell}


def _cell(text: str) -> Any:
    try:
        return as_json(text) if text.lstrip()[:1] in ("[", "{") else text
    except ValueError:
        return text
