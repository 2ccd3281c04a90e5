"""Stages on disk: named by what made them, finished by one rename, reused when they are there.

runs/data/contexts-3f9a1c02d4e5/rows.jsonl      one record a line
runs/data/contexts-3f9a1c02d4e5/stage.json      what made it, how many rows, counts worth knowing
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from ragdist.config.block import digest
from ragdist.records import as_row, from_row
from ragdist.storage.atomic import atomic_folder, encode, make_folder, translate_errors
from ragdist.storage.locks import locked

Record = TypeVar("Record")
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
        """What made it, `rows`, and the counts that its stage left."""
        found: dict[str, Any] = json.loads((self.folder / CARD).read_text())
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
        with self.path.open() as lines:
            for line in lines:
                yield from_row(self.kind, json.loads(line))

    def __len__(self) -> int:
        return int(self.card["rows"])


class Output:
    """Where a stage puts its rows while it is being written."""

    def __init__(self, folder: Path, file: TextIO) -> None:
        self.folder = folder
        """For more files than the rows; renamed with them."""
        self._file = file
        self.rows = 0
        self.counts: StageCounts = {}

    def add(self, record: object) -> None:
        """Writes one record as a line of JSON."""
        self._file.write(encode(as_row(record)) + "\n")
        self.rows += 1


class Store:
    """A folder of stages. Two processes that want the same stage: one makes it, the other waits and reads."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        make_folder(self.folder)

    def path(self, stage: Stage) -> Path:
        """Where the stage's output lies, or will."""
        return self.folder / f"{stage.name}-{stage.fingerprint}"

    def find(self, stage: Stage, kind: type[Record]) -> Rows[Record] | None:
        """The finished stage, or None."""
        return Rows(self.path(stage), kind) if (self.path(stage) / CARD).exists() else None

    @contextmanager
    def writing(self, stage: Stage) -> Iterator[Output]:
        """Rows go to a folder beside; leaving without an error renames it into place, an error leaves nothing. A
        StorageError if the disk is full or the folder cannot be written."""
        with translate_errors(self.folder), atomic_folder(self.path(stage)) as half:
            with (half / ROWS).open("w") as file:
                out = Output(half, file)
                yield out
                file.flush()
                os.fsync(file.fileno())  # so that the rename never names a file whose data is not there
            card = {"name": stage.name, "version": stage.version, "inputs": dict(stage.inputs)}
            card |= {"settings": dict(stage.settings), "rows": out.rows, "counts": out.counts}
            (half / CARD).write_text(json.dumps(card, indent=1))

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
