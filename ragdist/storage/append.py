"""Files of lines that are only appended to, and what a killed process left of them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Self

from ragdist.storage.atomic import make_folder, tighten, translate_errors


def whole_lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """The lines from byte `start` on, each with its end; none where there is no file.

    A last line that is half written is left out: whoever adds up the lengths finds it from there the next time.
    """
    if path.exists():
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # its other half may come before the next read, and is no line
                yield line


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a line of JSON; several processes may."""
    with path.open("ab", buffering=0) as file:
        _write(file, json.dumps(row).encode() + b"\n")


class LineFile:
    """A file that one process at a time appends lines to, as a context; what is added outlives the process. A `private`
    one is its owner's alone. A StorageError if the folder cannot be written, or its disk is full."""

    def __init__(self, path: Path, *, private: bool = False) -> None:
        self._folder = make_folder(path.parent)
        with translate_errors(self._folder):
            self._file = path.open("ab+", buffering=0)
            if private:
                tighten(path)

    def write(self, lines: bytes) -> None:
        """Adds whole lines, all of them or none."""
        with translate_errors(self._folder):
            _write(self._file, lines)

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from byte `start` on; from any thread."""
        return os.pread(self._file.fileno(), size, start)

    def cut(self, size: int) -> None:
        """Keeps the first `size` bytes."""
        with translate_errors(self._folder):
            self._file.truncate(size)

    def sync(self) -> None:
        """What was added outlives the machine too."""
        with translate_errors(self._folder):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is added any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AppendLog(LineFile):
    """Rows of JSON appended as they come; the next process finds them again, without a torn last one. A file whose
    first line has another fingerprint is begun again; with None there is no such line."""

    def __init__(self, path: Path, fingerprint: str | None = None) -> None:
        super().__init__(path)
        header = [] if fingerprint is None else [{"fingerprint": fingerprint}]
        rows, good = _rows(path)
        if rows[: len(header)] != header:
            rows, good = [], 0
        self.cut(good)
        if not good:
            self.add(header)
        self.rows: list[Any] = rows[len(header) :]
        """What an earlier process left."""

    def add(self, rows: Sequence[Any]) -> None:
        """Appends rows and hands them to the operating system, so that a killed process loses none."""
        self.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def kept_rows(path: Path, fingerprint: str) -> list[dict[str, Any]]:
    """The rows of an AppendLog of this fingerprint; none where there is another, or no file."""
    head, *rows = _rows(path)[0] or [{}]
    return rows if head == {"fingerprint": fingerprint} else []


def _rows(path: Path) -> tuple[list[Any], int]:
    """The rows up to the first that cannot be read, and the bytes that they fill."""
    rows: list[Any] = []
    good = 0
    for line in whole_lines(path):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
        good += len(line)
    return rows, good


def _write(file: FileIO, lines: bytes) -> None:
    written = file.write(lines)
    if written != len(lines):  # a full disk takes half of a line, and says so only to the next
        file.truncate(file.tell() - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
