"""Rows of JSON that a file gets one after another, and what a killed process left of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragdist.storage.atomic import make_folder, translate_errors


class AppendLog:
    """Rows of JSON appended as they come; the same fingerprint finds them again after a kill, another starts anew.

    The first line holds the fingerprint. A torn last line is dropped.

    Raises:
        StorageError: the folder cannot be written, or its disk is full.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        make_folder(path.parent)
        header = {"fingerprint": fingerprint}
        with translate_errors(path.parent):
            lines, good = _whole_lines(path)
            if lines[:1] != [header]:
                lines, good = [], 0
            self._file = path.open("ab")
            self._file.truncate(good)
            if not good:
                self._write([header])
        self.rows: list[dict[str, Any]] = lines[1:]
        """What an earlier process left."""

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows and hands them to the operating system, so that a killed process loses none."""
        with translate_errors(self._path.parent):
            self._write(rows)

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        self._file.flush()


def kept_rows(path: Path, fingerprint: str) -> list[dict[str, Any]]:
    """The rows of an AppendLog of this fingerprint; none where there is another, or no file."""
    head, *rows = _whole_lines(path)[0] or [{}]
    return rows if head == {"fingerprint": fingerprint} else []


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows up to the first torn line, and the bytes that they fill."""
    rows: list[dict[str, Any]] = []
    good = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    break
                rows.append(row)
                good += len(line)
    return rows, good
