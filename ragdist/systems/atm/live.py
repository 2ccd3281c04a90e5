"""How a game of two models goes, while it goes: a panel on a terminal, elsewhere a line every ten seconds.

    with Board(rounds=2, timeline=timeline) as board:
        board.phase("round-0/forged", total=32)
        board.advance(1, forged=24, stated=15)            # sums of a finished microbatch
        board.step("round-0/attacker", 3, 40, {"loss": 0.41, "kl": 0.02})

Both go to stderr; results never pass through here. A terminal shows one Board at a time and no `Bar` beside it.
"""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ragdist.tracking import logs
from ragdist.tracking.progress import LINE_EVERY_S, say
from ragdist.tracking.run import metrics as note_metrics
from ragdist.tracking.timeline import Timeline

IDLE_WINDOW_S = 120.0
IDLE_EVERY_S = 5.0
WANTED = (
    *("forged", "graded", "mean perplexity", "attack success", "states the wrong answer", "kl"),
    *("right", "loss", "margin"),
)
"""Rows of the panel that stand there from the beginning, in this order."""
RATES = ("forged", "graded")
HIDDEN = {"questions", "tokens", "rows", "seconds", "step", "time"}


class Board:
    """The live view.

    Args:
        rounds: how many the game has.
        timeline: where idle shares come from; None shows none.
    """

    def __init__(self, rounds: int, timeline: Timeline | None = None) -> None:
        self.rounds, self.timeline = rounds, timeline
        self._lock = threading.Lock()  # the panel is drawn by a thread of its own
        self._phase = self._name = ""
        self._unit, self._total, self._done = "microbatches", 0, 0
        self._sums: dict[str, float] = {}
        self._values: dict[str, float] = {}
        self._seen: dict[str, str] = {}
        self._idle, self._idle_at = "", -math.inf
        self._start = self._said = time.monotonic()
        self._live: Any = None

    def phase(self, name: str, total: int = 0) -> None:
        """Another phase begins, with sums and rates of its own; the last one's sums go to metrics.jsonl.

        Args:
            name: `round-0/forged` and `round 1, forge` are shown as of round 1.
            total: microbatches; 0 where it is not known.
        """
        self._note_sums()
        logs.note(**logs.phase(name))
        with self._lock:
            self._phase, self._name = name, spelled(name, self.rounds)
            self._unit, self._total, self._done = "microbatches", total, 0
            self._sums, self._values = {}, {}
            self._start = time.monotonic()

    def advance(self, count: int = 1, **sums: float) -> None:
        """`count` more microbatches are done, which noted these sums; names without a row get one."""
        with self._lock:
            self._done += count
            for name, value in sums.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._changed()

    def step(self, phase: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """An optimizer step is done: a line in metrics.jsonl."""
        with self._lock:
            self._name, self._unit, self._total, self._done = spelled(phase, self.rounds), "steps", total, done
            self._values.update(metrics)
        note_metrics(phase, **{"step": done, "steps": total, **metrics})
        self._changed()

    def result(self, round: int, **numbers: float) -> None:
        """Numbers of a whole round: they stay on the panel, and are a line of `rounds` in metrics.jsonl."""
        with self._lock:
            self._seen.update((name.replace("_", " "), _number(value)) for name, value in numbers.items())
        note_metrics("rounds", **{"step": round, **numbers})

    def line(self) -> str:
        """Phase, progress, and the numbers that this phase has."""
        with self._lock:
            of = f" of {self._total}" if self._total else ""
            parts = [f"{self._name}: {self._done}{of} {self._unit}"]
            parts += [f"{value} {name}/s" if name in RATES else f"{name} {value}" for name, value in self._numbers()]
        idle = self._idle_shares()
        return ", ".join([*parts, *([f"idle {idle}"] if idle else [])])

    def _note_sums(self) -> None:
        if self._sums:
            seconds = round(time.monotonic() - self._start, 3)
            note_metrics(self._phase, **{**self._sums, "seconds": seconds})

    def _numbers(self) -> list[tuple[str, str]]:
        """(name, value) of what this phase has, in the order of WANTED, then by name."""
        sums = dict(self._sums)
        elapsed = max(time.monotonic() - self._start, 1e-3)
        out = {name: f"{sums[name] / elapsed:.1f}" for name in RATES if name in sums}
        for share in SHARES:
            if share.top in sums and (of := sums.get(share.bottom, 0) - sums.get(share.less, 0)):
                out[share.name] = format(sums[share.top] / of, share.form)
        used = {*RATES, *HIDDEN, "asked", "right_clean", *(share.top for share in SHARES)}
        more = {name: value for name, value in sums.items() if value and name not in used}
        more |= {name: value for name, value in self._values.items() if name not in HIDDEN}
        out |= {name.replace("_", " "): _number(value) for name, value in sorted(more.items())}
        self._seen |= out
        return sorted(out.items(), key=lambda item: WANTED.index(item[0]) if item[0] in WANTED else len(WANTED))

    def _idle_shares(self) -> str:
        if self.timeline and time.monotonic() - self._idle_at >= IDLE_EVERY_S:
            self._idle_at = time.monotonic()
            shares = {group: self.timeline.idle_share(group, IDLE_WINDOW_S) for group in self.timeline.groups}
            self._idle = " ".join(f"{group} {share:.0%}" for group, share in shares.items())
        return self._idle

    def _changed(self) -> None:
        if not self._live and time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            say(self.line())

    def _panel(self) -> Any:
        from rich.panel import Panel
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        with self._lock:
            self._numbers()
            seen = {name: self._seen.get(name, "-") for name in WANTED} | self._seen
            progress = f"{self._done} of {self._total}" if self._total else str(self._done)
            grid.add_row("phase", self._name)
            grid.add_row("done", f"{progress} {self._unit}, {time.monotonic() - self._start:.0f} s")
        for name, value in seen.items():
            grid.add_row(f"{name} per second" if name in RATES else name, value)
        grid.add_row("idle", self._idle_shares() or "-")
        return Panel(grid, title="ragdist", title_align="left", width=78)

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._live = Live(get_renderable=self._panel, console=console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._note_sums()
        logs.note(round=None, phase=None)
        if self._live:
            self._live.stop()
            self._live = None


def spelled(phase: str, rounds: int) -> str:
    """A phase as a person reads it. Example: `round-0/forged-again` of 2 is `round 1 of 2, forged again`."""
    name = re.sub(r"\bround-(\d+)/", lambda found: f"round {int(found[1]) + 1}, ", phase)
    return re.sub(r"\bround (\d+)(?! of)", rf"round \1 of {rounds}", name).replace("-", " ").replace("/", ", ")


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.3g}"


class Share(NamedTuple):
    """A number that is one sum over others."""

    name: str
    top: str
    bottom: str
    less: str = ""
    """A sum that is taken off the lower one."""
    form: str = ".0%"


SHARES = (
    Share("mean perplexity", "perplexity_sum", "graded", less="broken", form=".1f"),
    Share("attack success", "lost", "right_clean"),
    Share("states the wrong answer", "stated", "forged"),
    Share("holds a right answer", "truthful", "forged"),
    Share("right", "right", "asked"),
    Share("repeats a forged answer", "repeats", "asked"),
)
