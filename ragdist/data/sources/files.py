"""Rows of tables with the file and line of each, and what becomes of input that cannot be used."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from ragdist.data.sources import encodings, saved, sheets, values
from ragdist.data.sources.columns import NoColumn
from ragdist.data.sources.places import BUFFER, FileAddress, at
from ragdist.data.sources.unpacking import Unpacked, excess
from ragdist.data.sources.values import Number
from ragdist.errors import DataError
from ragdist.tracking.progress import say_once

NumberedRows = Iterator[tuple[str, dict[str, Any]]]
"""Each row with where it stands: `path, line 3`."""
LARGEST = 2 << 30
"""Bytes of a file that is read as a whole."""
LINE = 256 << 20
"""Bytes of a line of JSONL; what is longer is no JSON."""
csv.field_size_limit(LINE)
READ_ERRORS = (OSError, EOFError, zlib.error)
"""What a missing, forbidden or torn file raises."""


class Broken:
    """What becomes of a file or row that cannot be used: the run stops, or it is named (as `where: why`) and left out.
    Before the run stops `at_once` problems are gathered, for `check` to name together."""

    def __init__(self, policy: Literal["stop", "skip"], named: list[str], *, at_once: int = 1) -> None:
        self.policy, self.named, self._at_once = policy, named, at_once
        self._problems: list[str] = []

    def add(self, where: str, why: object) -> None:
        """Notes one, as `where: why`. A DataError if the policy is to stop, and so many problems were to be named at
        once."""
        self.named.append(f"{where}: {why}")
        if self.policy == "stop":
            self._problems.append(f"{where}: {why}")
            if isinstance(why, NoColumn):
                raise DataError(self._problems[-1])
            if len(self._problems) == self._at_once:
                self.check()

    def check(self) -> None:
        """Raises what was gathered, as a DataError."""
        if self._problems:
            count = f"{len(self._problems)} files or rows cannot be used: " * (len(self._problems) > 1)
            raise DataError(
                f"{count}{'; '.join(self._problems)}; fix them, or set corpus.broken=skip to leave such input out"
            )


def rows(place: FileAddress, broken: Broken, columns: Sequence[str] = ()) -> NumberedRows:
    """The rows of a table, by what its name says that it is.

    An object or a list of them (.json), parquet, a table with a header (.csv, .tsv, the first sheet of .xlsx), a folder
    that `datasets.save_to_disk` wrote, else JSONL; the text formats may be packed (.gz, .zst). `columns` are those of
    documents, the first of which must be there, and of parquet nothing else is read; empty for questions. A row with
    half a character in it, or with values deep in one another, cannot be used.
    """
    yield from fit(_rows(place, broken, columns), broken)


def fit(found: Iterable[tuple[str, dict[str, Any]]], broken: Broken) -> NumberedRows:
    """The rows that can be used, as far as `values.unfit` tells."""
    for where, row in found:
        if problem := values.unfit(row):
            broken.add(where, problem)
        else:
            yield where, row


def _rows(place: FileAddress, broken: Broken, columns: Sequence[str]) -> NumberedRows:
    try:
        if place.is_folder:
            yield from saved.rows(place)
        elif (suffix := suffixes(place.inside)[0]) == ".json":
            yield from _json(place, broken)
        elif suffix == ".parquet":
            yield from _parquet(place, columns)
        elif suffix in (".csv", ".tsv"):
            yield from _separated(place, broken)
        elif suffix in sheets.SUFFIXES:
            yield from _sheets(place, broken, every=bool(columns))
        else:
            yield from json_lines(place, broken)
    except (*READ_ERRORS, ValueError, csv.Error, pa.ArrowException) as error:
        broken.add(place.address, f"cannot be read ({why(error)})")


def suffixes(name: str) -> tuple[str, str]:
    """What a file is and how it is packed, in small letters: `.jsonl` and `.gz`; empty where its name does not say."""
    path = PurePosixPath(name.casefold())
    packed = path.suffix if path.suffix in (".gz", ".zst") else ""
    return (path.with_suffix("") if packed else path).suffix, packed


@contextmanager
def unpacked(place: FileAddress) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file as they were before it was packed, if it was; an OSError once they are out of proportion."""
    packed = suffixes(place.inside)[1]
    with place.open() as opened:
        if packed == ".gz":
            with gzip.open(opened) as file:
                yield io.BufferedReader(Unpacked(file, opened), BUFFER)  # type: ignore[arg-type]
        elif packed == ".zst":
            with pa.CompressedInputStream(opened, "zstd") as stream:
                yield io.BufferedReader(Unpacked(stream, opened), BUFFER)
        else:
            yield opened  # type: ignore[misc]


def whole(place: FileAddress) -> bytes:
    """All bytes of a file, unpacked. A ValueError if there are more than LARGEST."""
    data = io.BytesIO()
    with unpacked(place) as file:
        while data.tell() <= LARGEST and (piece := file.read(BUFFER)):
            data.write(piece)
    if data.tell() > LARGEST:
        raise ValueError(f"holds more than {LARGEST >> 20} MiB; save it as JSONL or parquet, which are read by the row")
    return data.getvalue()


def json_lines(file: FileAddress | Path, broken: Broken) -> NumberedRows:
    """(`path, line n`, object) for each line of a JSONL file, packed if its name says so; blank lines are no rows.

    Raises:
        DataError: a line is not a JSON object, or the file cannot be read (and the policy is to stop).
        StorageError: object storage cannot be reached.
    """
    place = at(str(file)) if isinstance(file, Path) else file
    try:
        with unpacked(place) as opened:
            for number, line in enumerate(_lines(opened), start=1):
                if not line.strip():
                    continue
                where = f"{place.address}, line {number}"
                try:
                    row = as_json(line)
                except ValueError as error:
                    broken.add(where, f"is not JSON ({why(error)}){_kinds(place)}")
                else:
                    yield from _objects(where, row, broken)
    except (*READ_ERRORS, UnicodeError) as error:
        broken.add(place.address, f"cannot be read ({why(error)})")


def _kinds(place: FileAddress) -> str:
    known = suffixes(place.inside)[0] in (".jsonl", ".ndjson")
    return "" if known else "; what is not named .csv, .tsv, .json, .parquet or .xlsx is read as JSONL"


def as_json(text: str | bytes) -> Any:
    """The value of a JSON text, with numbers as they are written. A ValueError if it is none, or in no encoding that
    JSON may be in, see `why`."""
    try:
        return json.loads(text, parse_float=Number)
    except RecursionError:
        raise ValueError("its lists and objects lie too deep in one another") from None


def why(error: Exception) -> str:
    """What an error of reading says, with the way out where bytes are in another encoding than JSON's."""
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"JSON is UTF-8 by its standard, and byte {byte:#04x} at {error.start} is not; save it as UTF-8"
    return error.strerror.lower() if isinstance(error, FileNotFoundError) and error.strerror else str(error)


def _lines(file: Any) -> Iterable[str | bytes]:
    """The lines of a file in any encoding that JSON may be in: UTF-8, UTF-16 or UTF-32, with its mark or without."""
    encoding = json.detect_encoding(file.peek(4)[:4])
    lines = file if encoding.startswith("utf-8") else io.TextIOWrapper(file, encoding)
    return iter(partial(lines.readline, LINE), b"" if lines is file else "")


def _json(place: FileAddress, broken: Broken) -> NumberedRows:
    if not (text := whole(place)).strip():
        raise ValueError("it is empty")
    value = as_json(text)
    if isinstance(value, dict) and len(value) == 1 and isinstance(rows := next(iter(value.values())), list):
        value = rows  # `{"data": [...]}`
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        yield from _objects(
            f"{place.address}, item {number}" if isinstance(value, list) else place.address, row, broken
        )


def _objects(where: str, row: Any, broken: Broken) -> NumberedRows:
    if isinstance(row, dict):
        yield where, row
    else:
        broken.add(where, f"holds a JSON {type(row).__name__}, wanted an object")


def _parquet(place: FileAddress, wanted: Sequence[str]) -> NumberedRows:
    with place.open() as opened, parquet.ParquetFile(opened) as file:
        there = file.schema_arrow.names
        if wanted and wanted[0] not in there:
            raise ValueError(f"no column `{wanted[0]}`, only {', '.join(there)}")
        groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
        if said := excess(sum(group.total_byte_size for group in groups), opened.seek(0, io.SEEK_END)):
            raise ValueError(said)
        columns = [name for name in wanted or there if name in there]
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{place.address}, row {number}", row


def _sheets(place: FileAddress, broken: Broken, *, every: bool) -> NumberedRows:
    try:
        yield from sheets.rows(place, every=every)
    except DataError as error:
        broken.add(place.address, error)
    except (KeyError, AttributeError, TypeError, SyntaxError, zipfile.BadZipFile) as error:  # as a broken one makes
        broken.add(place.address, f"cannot be read ({type(error).__name__}: {error})")


def _separated(place: FileAddress, broken: Broken) -> NumberedRows:
    """Rows of a table with commas, semicolons, tabs or upright strokes; an empty cell is nothing, one that is a JSON
    list or object its value."""
    try:
        text, note = encodings.decoded(whole(place))
    except DataError as error:
        return broken.add(place.address, error)
    if note:
        say_once(f"{place.address} {note}")
    header = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=header.count))
    table.fieldnames = sheets.header(table.fieldnames or ())
    for cells in table:
        where = f"{place.address}, line {table.line_num}"
        if None in cells:
            broken.add(where, f"has more than the {len(table.fieldnames or ())} cells of the first line")
        else:
            yield where, {name: values.cell(cell) for name, cell in cells.items() if name}
