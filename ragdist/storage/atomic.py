"""Files that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragdist.errors import StorageError
from ragdist.records import as_row

UNWRITABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
}


# JSONEncoder.encode builds this very function anew for every row, at half of the cost of the row.
_pieces = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, json.encoder.encode_basestring, None, ": ", ", ", False, False, True
)


def encode(row: dict[str, object]) -> str:
    """The row as one line of JSON."""
    return "".join(_pieces(row, 0))


def write_rows(path: Path, records: Iterable[object]) -> Path:
    """Writes records as JSONL, replacing the file in one step.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    half = path.with_name(f"{path.name}.tmp")
    with translate_errors(path.parent):
        half.write_text("".join(encode(as_row(record)) + "\n" for record in records))
        half.replace(path)
    return path


def make_folder(folder: Path) -> Path:
    """The folder, made with its parents.

    Raises:
        StorageError: it cannot be made or written.
    """
    with translate_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as /proc says of folders that it will not have
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


@contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise StorageError(
            f"cannot write below {folder}: {os.strerror(error.errno)}; "
            "free space there or set run.folder=... to another place"
        ) from None


def write_json(path: Path, value: Any) -> Path:
    """Writes `value` as JSON, replacing the file in one step."""
    half = path.with_name(path.name + ".tmp")
    half.write_text(json.dumps(value, indent=1, ensure_ascii=False))
    half.replace(path)
    return path


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text())
