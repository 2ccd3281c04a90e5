"""Stages on disk: named by what made them, finished by one rename, reused when they are there.

runs/data/contexts-3f9a1c02d4e5/rows.jsonl      one record a line
runs/data/contexts-3f9a1c02d4e5/stage.json      what made it; rows, bytes and digest; counts worth knowing

Rows are held to their card: by size whenever the stage is opened, by count and digest whenever all are read, at their
end. A folder whose card is missing or torn, as after a power failure, is made again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar

from ragdist.config.block import digest
from ragdist.errors import StorageError
from ragdist.records import as_row, from_row
from ragdist.storage.atomic import atomic_folder, encode, make_folder, translate_errors
from ragdist.storage.locks import locked

Record = TypeVar("Record")
log = logging.getLogger("ragdist")
ROWS, CARD = "rows.jsonl", "stage.json"
StageCounts = dict[str, Any]
"""Numbers and names for a stage's card, such as how many rows were left out."""
Counted = Generator[Record, None, StageCounts]
"""Rows, and at their end what was counted meanwhile."""


class CountedRows(Generic[Record]):
    """The rows of a generator, to be read once; `counts` is what it returned, when they have been read.

    Example: list(rows := CountedRows(corpus.read(files, config, mapper))); rows.counts["copies"]
    """

    def __init__(self, rows: Iterable[Record]) -> None:
        self._rows = rows
        self.counts: StageCounts = {}

    def __iter__(self) -> Iterator[Record]:
        if isinstance(self._rows, Generator):
            self.counts = (yield from self._rows) or {}
        else:
            yield from self._rows


@dataclass(frozen=True, slots=True)
class Stage:
    """What makes a stage's output: its name, the fingerprints of its inputs, and the settings that it reads.

    Example: Stage("contexts", {"candidates": rows.fingerprint}, {"oracle_fraction": 0.6, "seed": 0})
    """

    name: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    """Raised by hand whenever the stage's code gives other rows for the same inputs."""

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits; equal inputs, settings and code version give the same."""
        return digest([self.name, dict(self.inputs), dict(self.settings), self.version])


@dataclass(frozen=True, slots=True)
class Rows(Generic[Record]):
    """A finished stage: iterate over it as often as you like, one row in memory at a time."""

    folder: Path
    kind: type[Record]

    @property
    def card(self) -> dict[str, Any]:
        """What made it, `rows`, and the counts that its stage left. A StorageError if it is missing or torn."""
        if (found := card_of(self.folder)) is None:
            raise StorageError(f"{self.folder / CARD} is missing or torn; remove {self.folder}, and it is made again")
        return found

    @property
    def fingerprint(self) -> str:
        """The stage's fingerprint."""
        return self.folder.name.rpartition("-")[2]

    @property
    def path(self) -> Path:
        """The JSONL file."""
        return self.folder / ROWS

    def __iter__(self) -> Iterator[Record]:
        count, said = 0, sha256()
        with self.path.open("rb") as lines:
            for line in lines:
                said.update(line)
                count += 1
                yield self._record(line, count)
        card = self.card
        if (count, said.hexdigest()) != (card["rows"], card.get("digest", said.hexdigest())):
            raise self._changed(f"{count} rows of another digest than its card says, {card['rows']} rows")

    def check(self) -> Self:
        """Itself, if the file has the bytes that its card says; cards of earlier versions do not. A StorageError if it
        has not."""
        wanted, got = self.card.get("bytes"), self.path.stat().st_size if self.path.exists() else None
        if got is None or wanted not in (None, got):
            raise self._changed(f"{got if got is not None else 'no'} bytes, its card says {wanted}")
        return self

    def _record(self, line: bytes, number: int) -> Record:
        try:
            return from_row(self.kind, json.loads(line.decode()))
        except (ValueError, AttributeError, StorageError) as error:
            why = f"line {number} that is no {self.kind.__name__} of this version of ragdist ({error})"
            raise self._changed(why) from None

    def _changed(self, what: str) -> StorageError:
        return StorageError(
            f"{self.path} has {what}: it was changed or torn; remove {self.folder}, and it is made again"
        )

    def __len__(self) -> int:
        return int(self.card["rows"])


def card_of(folder: Path) -> dict[str, Any] | None:
    """The card of a finished stage; None where there is none that can be read."""
    try:
        found = json.loads((folder / CARD).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("rows"), int) and {"inputs", "settings"} <= found.keys()
    return found if whole else None


class Output:
    """Where a stage puts its rows while it is being written."""

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder = folder
        """For more files than the rows; renamed with them."""
        self._file, self._said = file, sha256()
        self.rows = self.bytes = 0
        self.counts: StageCounts = {}

    def add(self, record: object) -> None:
        """Writes one record as a line of JSON."""
        line = encode(as_row(record)).encode() + b"\n"
        self._file.write(line)
        self._said.update(line)
        self.rows += 1
        self.bytes += len(line)

    @property
    def about(self) -> dict[str, Any]:
        """What the card says of the rows."""
        return {"rows": self.rows, "bytes": self.bytes, "digest": self._said.hexdigest()}


class Store:
    """A folder of stages. Two processes that want the same stage: one makes it, the other waits and reads."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        make_folder(self.folder, private=True)

    def path(self, stage: Stage) -> Path:
        """Where the stage's output lies, or will."""
        return self.folder / f"{stage.name}-{stage.fingerprint}"

    def find(self, stage: Stage, kind: type[Record]) -> Rows[Record] | None:
        """The finished stage, or None. A StorageError if its rows are not those that it was finished with."""
        return Rows(self.path(stage), kind).check() if card_of(self.path(stage)) else None

    @contextmanager
    def writing(self, stage: Stage) -> Iterator[Output]:
        """Rows go to a folder beside; leaving without an error renames it into place, an error leaves nothing. A
        StorageError if the disk is full or the folder cannot be written."""
        self._clear(self.path(stage))
        with translate_errors(self.folder), atomic_folder(self.path(stage)) as half:
            with (half / ROWS).open("wb") as file:
                out = Output(half, file)
                yield out
                _sync(file)
            card = {"name": stage.name, "version": stage.version, "inputs": dict(stage.inputs)}
            card |= {"settings": dict(stage.settings), **out.about, "counts": out.counts}
            with (half / CARD).open("wb") as file:
                file.write(json.dumps(card, indent=1).encode())
                _sync(file)

    def _clear(self, path: Path) -> None:
        """Removes what lies in a stage's place and is none, or lacks a file, so that no hand has to."""
        if path.exists():
            log.warning("%s is not whole, as after a power failure; it is made again", path)
            shutil.rmtree(path)

    def make(self, stage: Stage, kind: type[Record], produce: Callable[[], Iterable[Record]]) -> Rows[Record]:
        """The stage's rows: those that are there, else what `produce` yields; what it returns as a generator are counts
        that belong on the stage's card."""
        with self.holding(stage):
            if (found := self.find(stage, kind)) is None:
                with self.writing(stage) as out:
                    rows = CountedRows(produce())
                    for record in rows:
                        out.add(record)
                    out.counts = rows.counts
                found = Rows(self.path(stage), kind)
        return found

    @contextmanager
    def holding(self, stage: Stage) -> Iterator[None]:
        """Keeps other processes from making the same stage; waits for one that does."""
        with translate_errors(self.folder), locked(self.folder / f".{self.path(stage).name}.lock"):
            yield


def _sync(file: BinaryIO) -> None:
    """So that the rename never names a file whose data is not there."""
    file.flush()
    os.fsync(file.fileno())
