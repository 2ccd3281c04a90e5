"""What a teacher was paid for: a line for each reply, on disk before anyone sees it, so that no call is paid twice.

    {"key": "9c1f...", "id": "77...", "text": "What is ...?", "ended": true, "read": 310, "written": 24, "failed": ""}

The file is only appended to, by one process at a time. Memory holds where each reply stands, not its text.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ragdist.config import TeacherConfig
from ragdist.errors import Stopped
from ragdist.records import Reply, Request, as_row
from ragdist.storage.atomic import make_folder, translate_errors
from ragdist.tracking.progress import say
from ragdist.tracking.signals import stop_on_signal

SAY_EVERY_S = 30.0
STOPPED = "stopped; what the teacher wrote so far is kept, the same command goes on from here"


class ReplyPosition(NamedTuple):
    """Where a reply's line stands in the file, in bytes."""

    start: int
    size: int


def key_of(request: Request, fingerprint: str) -> str:
    """32 hexadecimal digits; equal for the same request, by id and by all that is sent, to the same teacher."""
    return hashlib.sha256(json.dumps([fingerprint, as_row(request)], sort_keys=True).encode()).hexdigest()[:32]


class ReplyCache:
    """Replies by the key of their request, and what they cost. Use it inside `held`.

    Args:
        path: the file; made when it is first held.
        config: budgets and prices.
    """

    def __init__(self, path: Path, config: TeacherConfig) -> None:
        self.path, self.config = path, config
        self._places: dict[bytes, ReplyPosition] = {}
        self._inode = self._end = self._synced = 0
        self.read = self.written = 0
        self.answered = 0
        """Replies that have a text."""
        self._file: BinaryIO
        self._holders, self._holding = 0, ExitStack()
        self._stop = threading.Event()
        self._writing, self._syncing = threading.Lock(), threading.Lock()

    @contextmanager
    def held(self) -> Iterator[threading.Event]:
        """Keeps the file to this process; waits for another that has it. Blocks may overlap, within one thread.

        Yields:
            An event: the first SIGINT or SIGTERM meanwhile sets it, and only the second interrupts.

        Raises:
            Stopped: a stop was requested while it waited.
            StorageError: the file cannot be written.
        """
        if not self._holders:
            with ExitStack() as stack:
                waited_for = "no new call begins, those under way are awaited"
                self._stop = stack.enter_context(stop_on_signal(what=waited_for))
                with translate_errors(self.path.parent):
                    make_folder(self.path.parent)
                    self._file = stack.enter_context(self.path.open("ab+", buffering=0))
                    self._lock()
                    self._take_in()
                self._holding = stack.pop_all()
        self._holders += 1
        try:
            yield self._stop
        finally:
            self._holders -= 1
            if not self._holders:
                self._holding.close()

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def reply(self, key: str) -> Reply:
        """The reply that was kept under this key.

        Raises:
            KeyError: there is none.
        """
        place = self._places[bytes.fromhex(key)]
        row = json.loads(os.pread(self._file.fileno(), place.size, place.start))
        del row["key"]
        return Reply(**row)

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply: it outlives this process, and after `sync` the machine. May be called from several threads.

        Raises:
            StorageError: the disk is full.
        """
        line = json.dumps({"key": key, **as_row(reply)}).encode() + b"\n"
        with translate_errors(self.path.parent), self._writing:
            self._append(line)
            self._note(key, reply.read, reply.written, not reply.failed, len(line))

    def sync(self) -> None:
        """When this returns, all that was added before is on the disk. May be called from several threads."""
        wanted = self._end
        with translate_errors(self.path.parent), self._syncing:  # whoever comes first syncs for all that wrote before
            if self._synced < wanted:
                written = self._end
                os.fsync(self._file.fileno())
                self._synced = written

    @property
    def cost_usd(self) -> float:
        """Of all calls in the file, by the two prices."""
        config = self.config
        return (self.read * config.usd_per_million_read + self.written * config.usd_per_million_written) / 1e6

    @property
    def note(self) -> str:
        """What was spent so far, for people."""
        tokens = f"{self.read:,} tokens read, {self.written:,} written"
        priced = self.config.usd_per_million_read or self.config.usd_per_million_written
        return f"{tokens}, ${self.cost_usd:.4f}" if priced else tokens

    def check(self) -> None:
        """Passes as long as another call may begin.

        Raises:
            Stopped: a stop was requested, or a budget is spent.
        """
        if self._stop.is_set():
            raise Stopped(STOPPED)
        tokens, config = self.read + self.written, self.config
        for knob, limit, spent in (
            ("budget_tokens", config.budget_tokens, tokens),
            ("budget_usd", config.budget_usd, self.cost_usd),
        ):
            if limit and spent >= limit:
                raise Stopped(
                    f"teacher.{knob}={limit:g} is spent: {self.note}, {len(self._places):,} calls, all kept; "
                    f"raise teacher.{knob} and the same command goes on from here"
                )

    def _lock(self) -> None:
        began = said = time.monotonic()
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._stop.wait(0.1):
                    raise Stopped(STOPPED) from None
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    say(f"waiting for another process that asks this teacher ({self.path}), {said - began:.0f} s")

    def _take_in(self) -> None:
        """Reads what another process, or an earlier one, added; cuts off a line that was not finished."""
        found = os.fstat(self._file.fileno())
        if found.st_ino != self._inode or found.st_size < self._end:
            self._places.clear()
            self._end = self.read = self.written = self.answered = 0
            self._inode = found.st_ino
        self._file.seek(self._end)
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file.fileno(), self._end)
                    break
                try:
                    row = json.loads(line)
                    self._note(row["key"], row["read"], row["written"], not row["failed"], len(line))
                except (ValueError, LookupError, TypeError):
                    say(f"{self.path}: the line at byte {self._end} cannot be read and is left out")
                    self._end += len(line)
        self._synced = self._end

    def _note(self, key: str, read: int, written: int, answered: bool, size: int) -> None:
        self._places[bytes.fromhex(key)] = ReplyPosition(self._end, size)
        self._end += size
        self.read += read
        self.written += written
        self.answered += answered

    def _append(self, line: bytes) -> None:
        if self._file.write(line) != len(line):  # a full disk takes half of a line, and says so only to the next
            os.ftruncate(self._file.fileno(), self._end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
