"""What a person sees of work that goes on: bars on a terminal, a line every ten seconds elsewhere; all on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

Item = TypeVar("Item")
log = logging.getLogger("ragdist")
LINE_EVERY_S = 10.0
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb"  # direction and ends of lines, no width
    "\ud800-\udfff\U000e0000-\U000e007f]"  # names of files that are not UTF-8; letters that nobody sees
)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def visible(text: str) -> str:
    """The text with what steers terminals, turns the direction of writing, is not seen or is no character, as the
    escapes of JSON. All that comes from outside goes through here on its way to a terminal or a log."""
    return _HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text.replace("\r\n", "\n"))


def relayed(text: str) -> str:
    """A piece of another program's log: as `visible`, its colours left out and its progress bars below each other."""
    return visible(_COLOUR.sub("", text).replace("\r", "\n"))


def say(text: str) -> None:
    """One line on stderr and in the log, with what steers a terminal written out."""
    text = visible(text)
    log.info(text)
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@cache
def say_once(text: str) -> None:
    """Says it once in the life of a process: a file is read by several stages."""
    say(text)


class Bar:
    """Progress of one phase on stderr. Use `progress` for loops; this one where work arrives in lumps."""

    def __init__(self, what: str, total: int | None = None, unit: str = "") -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(visible(what), total=total)
            self._bar.start()

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more items are done; `note` stands beside the bar (a loss, a rate)."""
        self.done += count
        if self._bar:
            self._bar.update(self._task, advance=count, description=visible(f"{self.what} {note}".strip()))
        elif time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            of = f" of {self.total}" if self.total else ""
            left = ""
            if self.total and self.done:
                left = f", {(self._last - self._start) * (self.total - self.done) / self.done:.0f} s left"
            say(f"{self.what}: {self.done}{of} {self.unit}{left} {note}".rstrip())

    def close(self) -> None:
        """Takes the bar off the screen."""
        if self._bar:
            self._bar.stop()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, with progress on stderr while they are consumed."""
    with Bar(what, total if total is not None else (len(items) if hasattr(items, "__len__") else None)) as bar:  # type: ignore[arg-type]
        for item in items:
            yield item
            bar.advance()
