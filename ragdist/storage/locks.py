"""Locks between processes: a file that one of them holds at a time, and no longer than it lives."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.1


@contextmanager
def locked(path: Path, busy: Callable[[float], object] = lambda waited_s: None) -> Iterator[None]:
    """Holds a lock while the block runs.

    Args:
        path: the lock file; made where it is missing, and left there.
        busy: told the seconds waited so far, every `POLL_S` while another holds the lock; gives up by an error.

    Raises:
        OSError: the file cannot be written, or its file system knows no locks.
    """
    lock, began = _lock(path), time.monotonic()
    while not _acquired(lock):
        busy(time.monotonic() - began)
        time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether anyone holds the lock, or may, as the file cannot be read; writes nothing. For the moment of the look
    nobody else can take it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    return False


def _lock(path: Path) -> FileLock:
    """Let go of by any thread; never a file whose mere presence locks, for that outlives a killed process."""
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
