"""Logs for machines: a JSON object a line, each saying where in a run it was written.

    runs/NAME/log.jsonl                         the driver
    runs/NAME/logs/attacker-rank-0.jsonl        a rank, beside its log for people
    {"time": "2026-11-26T01:14:03.218Z", "level": "INFO", "run": "mine", "job": "atm", "group": "attacker", "rank": 0,
     "round": 0, "phase": "forged", "microbatch": "00003", "message": "done in 1.204 s"}

A process keeps what is true of all its lines (`note`), a block of work adds to it (`at`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragdist.tracking.progress import visible

_here: dict[str, Any] = {}


def note(**known: Any) -> None:
    """From now on every line of this process says so; None takes it out again."""
    _here.update(known)


@contextmanager
def at(**known: Any) -> Iterator[None]:
    """Lines of the block say so too."""
    before = dict(_here)
    _here.update(known)
    try:
        yield
    finally:
        _here.clear()
        _here.update(before)


def phase(name: str) -> dict[str, Any]:
    """Round and phase, as lines say them. Example: `round-0/forged` is {"round": 0, "phase": "forged"}."""
    match = re.fullmatch(r"round[- ](\d+)[/,] ?(.+)", name)
    return {"round": int(match[1]), "phase": match[2]} if match else {"round": None, "phase": name}


class Log(logging.FileHandler):
    """Appends each record to a file, for people. A full disk is silent here: what the run itself writes says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True, errors="backslashreplace")  # nothing said, no file
        self.setFormatter(_ForPeople("%(asctime)s %(levelname)s %(name)s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class Lines(Log):
    """Appends each record as a line of JSON, for machines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.setFormatter(_Json())


class _ForPeople(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname, "logger": record.name}
        line |= {key: value for key, value in _here.items() if value is not None}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
