"""What a teacher was paid for: a line for each reply, on disk before anyone sees it, so that no call is paid twice.

    {"key": "9c1f...", "id": "77...", "text": "What is ...?", "ended": true, "read": 310, "written": 24, "failed": ""}

The file is only appended to, by one process at a time. Memory holds where each reply stands, not its text.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ragdist.config import TeacherConfig
from ragdist.errors import Stopped
from ragdist.records import Reply, Request, as_row
from ragdist.storage.append import LineFile, whole_lines
from ragdist.storage.atomic import make_folder, translate_errors
from ragdist.storage.locks import locked
from ragdist.tracking.progress import say
from ragdist.tracking.signals import stop_on_signal

SAY_EVERY_S = 30.0
STOPPED = "stopped; what the teacher wrote so far is kept, the same command resumes from here"


class ReplyPosition(NamedTuple):
    """Where a reply's line stands in the file, in bytes."""

    start: int
    size: int


def key_of(request: Request, fingerprint: str) -> str:
    """32 hexadecimal digits; equal for the same request, by id and by all that is sent, to the same teacher."""
    asked = {name: value for name, value in as_row(request).items() if name != "system" or value}  # once there was none
    return hashlib.sha256(json.dumps([fingerprint, asked], sort_keys=True).encode()).hexdigest()[:32]


def _reply_of(row: dict[str, Any]) -> Reply:
    """The reply of a line, without fields of a later version; halves of characters joined, or marked as unknown.

    Raises:
        LookupError, TypeError: a field is missing, or of another kind.
    """
    texts = {name: row[name] for name in ("id", "text", "failed")}
    counts = {name: row[name] for name in ("read", "written")}
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(row["ended"], bool):
        raise TypeError
    if not all(type(count) is int for count in counts.values()):
        raise TypeError
    whole = {name: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for name, text in texts.items()}
    return Reply(**whole, ended=row["ended"], **{name: max(0, count) for name, count in counts.items()})


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
        self._file: LineFile
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
                lock = make_folder(self.path.parent, private=True) / f".{self.path.name}.lock"
                with translate_errors(self.path.parent):
                    stack.enter_context(locked(lock, self._waiting()))
                self._file = stack.enter_context(LineFile(self.path, private=True))
                self._take_in()
                self._holding = stack.pop_all()
        self._holders += 1
        try:
            yield self._stop
        finally:
            self._holders -= 1
            if not self._holders:
                self._holding.__exit__(*sys.exc_info())  # a stop that was told is not told again

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def reply(self, key: str) -> Reply:
        """The reply that was kept under this key.

        Raises:
            KeyError: there is none.
        """
        return _reply_of(json.loads(self._file.read(*self._places[bytes.fromhex(key)])))

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply: it outlives this process, and after `sync` the machine. May be called from several threads.

        Raises:
            StorageError: the disk is full.
        """
        line = json.dumps({"key": key, **as_row(reply)}).encode() + b"\n"
        with self._writing:
            self._file.write(line)
            self._note(key, reply.read, reply.written, not reply.failed, len(line))

    def sync(self) -> None:
        """When this returns, all that was added before is on the disk. May be called from several threads."""
        wanted = self._end
        with self._syncing:  # whoever comes first syncs for all that wrote before
            if self._synced < wanted:
                written = self._end
                self._file.sync()
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
                    f"raise teacher.{knob} and the same command resumes from here"
                )

    def _waiting(self) -> Callable[[float], None]:
        """What is done while another process holds the file; told the seconds so far."""
        said_s = 0.0

        def waiting(waited_s: float) -> None:
            nonlocal said_s
            if self._stop.is_set():
                raise Stopped(STOPPED)
            if waited_s - said_s > SAY_EVERY_S:
                said_s = waited_s
                say(f"waiting for another process that asks this teacher ({self.path}), {said_s:.0f} s")

        return waiting

    def _take_in(self) -> None:
        """Reads what another process, or an earlier one, added; cuts off a line that was not finished."""
        found = self.path.stat()
        if found.st_ino != self._inode or found.st_size < self._end:
            self._places.clear()
            self._end = self.read = self.written = self.answered = 0
            self._inode = found.st_ino
        for line in whole_lines(self.path, self._end):
            try:
                row = json.loads(line)
                reply = _reply_of(row)
                self._note(row["key"], reply.read, reply.written, not reply.failed, len(line))
            except (ValueError, LookupError, TypeError, RecursionError):
                say(f"{self.path}: the line at byte {self._end} cannot be read and is left out")
                self._end += len(line)
        self._file.cut(self._end)
        self._synced = self._end

    def _note(self, key: str, read: int, written: int, answered: bool, size: int) -> None:
        self._places[bytes.fromhex(key)] = ReplyPosition(self._end, size)
        self._end += size
        self.read += read
        self.written += written
        self.answered += answered
