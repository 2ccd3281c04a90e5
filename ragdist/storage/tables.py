"""Rows of a microbatch: records <-> Arrow tables <-> Parquet files, and work that makes one from others.

forge/00003.parquet    the rows; in the file's metadata the record's name, `digest`, `notes`
"""

from __future__ import annotations

import hashlib
import json
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ragdist import records
from ragdist.errors import DataError, EngineError
from ragdist.records import as_row, from_row
from ragdist.roles import MicrobatchRef, Model
from ragdist.storage.atomic import atomic_file, translate_errors
from ragdist.storage.stages import Rows

KIND, DIGEST, NOTES = b"ragdist.kind", b"ragdist.digest", b"ragdist.notes"
KEPT_TABLES = 4
"""Of how many times the microbatches under way the tables stay in memory; older ones are read from their files."""
SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
Work = Callable[..., tuple[Sequence[Any], Mapping[str, float]]]


def digest(rows: Sequence[object]) -> str:
    """16 hexadecimal digits that name the content of these records, in this order."""
    said = hashlib.sha256()
    for row in rows:
        said.update(json.dumps(as_row(row), sort_keys=True).encode() + b"\n")
    return said.hexdigest()[:16]


def to_table(rows: Sequence[object], kind: type | None = None) -> pa.Table:
    """The records as a table whose metadata names their kind (where None, that of the first row) and digest. No rows of
    no kind are a table without columns; half a surrogate pair in a text is a DataError."""
    kind = kind or (type(rows[0]) if rows else None)
    schema = _schema(kind) if kind else pa.schema([])
    schema = schema.with_metadata({KIND: kind.__name__ if kind else "", DIGEST: digest(rows)})
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    try:
        return pa.table(columns, schema=schema)
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise DataError(f"{len(rows)} rows of {kind} do not fit their columns: {error}") from None


def from_table(table: pa.Table) -> list[Any]:
    """The records that `to_table` was given. A DataError if the table holds none, or forged documents that are not
    marked as such."""
    kind = _kind(table.schema)
    if kind is None:
        return []
    shapes = [field for field in _schema(kind) if field.name in table.column_names]  # a field may be newer
    columns = [_tuples(table.column(field.name).to_pylist(), field.type) for field in shapes]
    names = [field.name for field in shapes]
    found = [kind(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]
    if kind is records.Forgery and not all(row.is_forged is True for row in found):
        raise DataError("a table of forged documents has rows with is_forged=False; it was changed by hand, remove it")
    return found


def write(path: Path, table: pa.Table, notes: Mapping[str, float]) -> None:
    """Writes the table beside, flushes it to the disk and renames it into place: complete, or not there. A StorageError
    if the disk is full or the folder cannot be written."""
    noted = table.replace_schema_metadata({**(table.schema.metadata or {}), NOTES: json.dumps(dict(notes))})
    with translate_errors(path.parent), atomic_file(path, sync=True) as half:
        pq.write_table(noted, half)


def peek(path: Path) -> tuple[int, str, dict[str, float]]:
    """(rows, digest, notes) of a file, from its metadata alone."""
    found = pq.read_metadata(path)
    said = found.metadata or {}
    return found.num_rows, said.get(DIGEST, b"").decode(), json.loads(said.get(NOTES, b"{}"))


def read(path: Path) -> pa.Table:
    """The table of a file."""
    return pq.read_table(path, partitioning=None)


@dataclass(frozen=True, slots=True)
class FileRange:
    """Consecutive rows of a JSONL stage."""

    path: str
    offset: int
    """First byte."""
    size: int
    """Bytes."""
    kind: str
    """Name of the record in `ragdist.records`."""

    def read(self) -> list[Any]:
        """The records."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            lines = file.read(self.size).splitlines()
        kind = getattr(records, self.kind)
        return [from_row(kind, json.loads(line)) for line in lines]


def split(rows: Rows[Any], size: int) -> list[MicrobatchRef]:
    """A finished stage as shards 00000, 00001, ... of `size` consecutive rows, by one pass that keeps no row."""
    return [
        MicrobatchRef(
            name=f"{number:05d}",
            rows=count,
            digest=said,
            notes={},
            at=FileRange(str(rows.path.resolve()), offset, length, rows.kind.__name__),
        )
        for number, (offset, length, count, said) in enumerate(_parts(rows.path, size))
    ]


def _parts(path: Path, size: int) -> Iterator[tuple[int, int, int, str]]:
    """(first byte, bytes, rows, digest of the bytes) of each `size` lines."""
    offset = length = count = 0
    said = hashlib.sha256()
    with path.open("rb") as lines:
        for line in lines:
            said.update(line)
            length, count = length + len(line), count + 1
            if count == size:
                yield offset, length, count, said.hexdigest()[:16]
                offset, length, count, said = offset + length, 0, 0, hashlib.sha256()
    if count:
        yield offset, length, count, said.hexdigest()[:16]


def packed(table: pa.Table) -> pa.Buffer:
    """The table for its way to another process, ten times cheaper than what pickle makes of a small one."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def rows_at(place: pa.Table | pa.Buffer | FileRange | str | Path) -> list[Any]:
    """The records of a shard, wherever they are; a buffer is what `packed` made."""
    if isinstance(place, pa.Buffer):
        return from_table(pa.ipc.open_stream(place).read_all())
    if isinstance(place, pa.Table):
        return from_table(place)
    return place.read() if isinstance(place, FileRange) else from_table(read(Path(place)))


class MicrobatchTask(NamedTuple):
    """What is done beside a model for each microbatch of a phase."""

    work: Work
    shared: tuple[Any, ...]
    target: Path
    """File that keeps the rows."""
    name: str
    """The microbatch."""
    version: int
    """Of the model that is to do it."""


class Done(NamedTuple):
    """What is known of a finished microbatch without its rows; times in seconds since 1970."""

    rows: int
    digest: str
    notes: dict[str, float]
    start: float
    end: float


def run_microbatch(job: MicrobatchTask, model: Model, places: Sequence[Any]) -> tuple[Done, pa.Table]:
    """Reads the inputs, does the work, keeps its rows in the job's file. The same on every player of Side.

    Raises:
        EngineError: the model has another version than the job is for.
    """
    if model.version != job.version:
        raise EngineError(
            f"{job.target} is work for version {job.version} of the model, and this rank holds version "
            f"{model.version}; nothing was written. Type the same command again"
        )
    start = time.time()
    found, notes = job.work(model, *(rows_at(place) for place in places), *job.shared)
    table = to_table(found)
    write(job.target, table, notes)
    done = Done(len(found), table.schema.metadata[DIGEST].decode(), dict(notes), start, time.time())
    return done, table


def kept(name: str, target: Path) -> MicrobatchRef:
    """The shard in a file that an earlier call wrote."""
    rows, said, notes = peek(target)
    return MicrobatchRef(name=name, rows=rows, digest=said, notes=notes, at=str(target), path=str(target))


def _kind(schema: pa.Schema) -> type | None:
    """The record that the table holds; None for a table without rows of no kind."""
    name = (schema.metadata or {}).get(KIND)
    kind = (records.__dict__ | records.RENAMED).get(name.decode()) if name else None
    if name is None or (name and not hasattr(kind, "__dataclass_fields__")):
        raise DataError(f"a table holds {name!r}, wanted a record of ragdist; another version of ragdist wrote it")
    return kind


@cache
def _schema(kind: type) -> pa.Schema:
    """The record's columns, from its type hints and never from its values."""
    hints = typing.get_type_hints(kind)
    return pa.schema([pa.field(name, _arrow(hints[name])) for name in kind.__dataclass_fields__])  # type: ignore[attr-defined]


def _arrow(hint: Any) -> pa.DataType:
    """The column type of a field; token ids and positions inside tuples are 32 bits wide."""
    of = typing.get_origin(hint)
    if of is types.UnionType:  # with None
        return _arrow(typing.get_args(hint)[0])
    if of is tuple:
        inner = _arrow(typing.get_args(hint)[0])
        return pa.list_(pa.int32() if inner == pa.int64() else inner)
    return SCALARS[type(typing.get_args(hint)[0]) if of is typing.Literal else hint]


def _tuples(values: list[Any], shape: pa.DataType) -> list[Any]:
    """The column's lists as the tuples that records hold."""
    if not pa.types.is_list(shape):
        return values
    if pa.types.is_list(shape.value_type):
        return [tuple(tuple(inner) for inner in value) for value in values]
    return [tuple(value) for value in values]
