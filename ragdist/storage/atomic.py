"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ragdist.errors import StorageError, first_line
from ragdist.records import as_row

UNWRITABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}

ELSEWHERE = "set run.folder=... to another place"


# JSONEncoder.encode builds this very function again for every row, at half of the cost of the row.
_pieces = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, json.encoder.encode_basestring, None, ": ", ", ", False, False, True
)


@contextmanager
def atomic_file(path: Path, sync: bool = False) -> Iterator[Path]:
    """A name beside `path` to write a file at; it takes the place of `path` when the block ends well, else it goes. Of
    several processes that write it at once, the last one wins; `sync` flushes it to the disk first, so that a machine
    that loses its power keeps it whole."""
    if path.exists() and not path.is_file():  # a device would be renamed away
        raise StorageError(f"{path} is there already and is no file; name another place")
    half = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")  # two machines may have a process of one number
    try:
        yield half
        if sync:
            with half.open("rb") as file:
                os.fsync(file.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, first_wins: bool = False) -> Iterator[Path]:
    """An empty folder beside `path`, which is not there yet or empty; it takes that name when the block ends well, else
    it goes.

    One process at a time: what a killed one left beside is removed first. With `first_wins`, where another was faster
    all the same, its folder stays and this one goes.
    """
    half = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        yield half
        if not (first_wins and path.exists()):
            half.rename(path)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """Gives all that is in a folder to those who may read the folder: safetensors writes for its owner alone. Whether
    they come there is decided above."""
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def tighten(path: Path) -> bool:
    """Makes a file its owner's alone, if that is this user; whether others could read it until now. What cannot be
    changed, such as a secret that Kubernetes mounts, is as whoever put it there wants it."""
    found = path.stat()
    if found.st_uid != os.geteuid() or not found.st_mode & 0o077:
        return False
    with suppress(OSError):
        path.chmod(found.st_mode & 0o700)
        return True
    return False


def copy_linked(source: Path, target: Path) -> None:
    """Copies a folder; its files are shared with the source where the disk can."""
    shutil.copytree(source, target, copy_function=_linked, dirs_exist_ok=True)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def encode(row: dict[str, object]) -> str:
    """The row as one line of JSON."""
    return "".join(_pieces(row, 0))


def write_rows(path: Path, records: Iterable[object]) -> Path:
    """Writes records as JSONL, replacing the file in one step. A StorageError if the disk is full or the folder cannot
    be written."""
    with translate_errors(path.parent), atomic_file(path) as half:
        half.write_text("".join(encode(as_row(record)) + "\n" for record in records))
    return path


def make_folder(folder: Path, fix: str = ELSEWHERE, *, private: bool = False) -> Path:
    """The folder, made with its parents; a `private` one that is new is its owner's alone, until they open it. A
    StorageError if it cannot be made or written."""
    with translate_errors(folder, fix):
        try:
            folder.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as /proc says of folders that it will not have
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


@contextmanager
def translate_errors(folder: Path, fix: str = ELSEWHERE, what: str = "") -> Iterator[None]:
    """Turns a full disk or a forbidden folder into one clear error, a StorageError; `fix` is what helps apart from free
    space, `what` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        reason = f"{what} below {folder}: {os.strerror(error.errno)}".lstrip()
        raise StorageError(f"cannot write {reason}; free space there or {fix}") from None


@contextmanager
def translate_broken(path: Path) -> Iterator[None]:
    """Turns what goes wrong where a file, or one of a folder, holds other things than a run wrote, as after a power
    failure or by another hand, into one clear error, a StorageError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise StorageError(f"{path} is broken ({why}); copy it again, or remove it to have it made anew") from error


@contextmanager
def named_file(path: Path, fix: str) -> Iterator[Path]:
    """As `atomic_file`, for a place that a person names: its folder is made first. A StorageError, with `fix` in it, if
    nothing can be written there."""
    make_folder(path.parent, fix)
    with translate_errors(path.parent, fix), atomic_file(path) as half:
        yield half


def write_json(path: Path, value: Any) -> Path:
    """Writes `value` as JSON, replacing the file in one step that outlives the machine."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    with atomic_file(path, sync=True) as half:
        half.write_bytes(text.encode(errors="backslashreplace"))  # a half character becomes its escape in JSON
    return path


def read_json(path: Path) -> Any:
    """What `write_json` wrote. A StorageError if it is no JSON."""
    with translate_broken(path):
        return json.loads(path.read_bytes())


def read_texts(path: Path, *names: str) -> dict[str, str]:
    """These texts of an object that `write_json` wrote. A StorageError if the file holds something else, as after a
    power failure or by another hand."""
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        raise StorageError(
            f"{path} is broken: wanted a JSON object with {', '.join(names)}; copy it again, or make the run again"
        )
    return {name: found[name] for name in names}
