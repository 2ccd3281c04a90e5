"""Who worked when: one span for each microbatch of each rank, kept while it happens and drawn when the run ends.

    timeline.jsonl      a line for each span, handed to the operating system at once, so that a kill loses none
    timeline.parquet    the same as a table: group, rank, phase, microbatch, start, end, session
    trace.json          the same for Perfetto (https://ui.perfetto.dev) and chrome://tracing: a process for each group,
                        a thread for each rank

A run that was killed and goes on appends; each process that opens the timeline is a session, and the time between
sessions counts neither as work nor as idleness.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ragdist.storage.append import AppendLog
from ragdist.storage.atomic import atomic_file, make_folder, translate_errors

LINES, TABLE, TRACE = "timeline.jsonl", "timeline.parquet", "trace.json"
Stretch = tuple[float, float]
"""From and to, in seconds since 1970."""


class Span(NamedTuple):
    """Work of one rank on one microbatch. Example: Span("attacker", 0, "round-0/forged", "00003", 12.0, 14.5)."""

    group: str
    rank: int
    phase: str
    microbatch: str
    start: float
    """Seconds since 1970."""
    end: float


class Timeline:
    """The spans of a run. About 200 bytes a span are held, so that shares and rates can be asked for at any time. A
    StorageError if the folder cannot be written, or its disk is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self._lock = threading.Lock()  # a live view asks from a thread of its own
        self._sessions: dict[int, list[Span]] = {}
        self._log = AppendLog(folder / LINES)
        for *span, session in self._log.rows:
            self._sessions.setdefault(session, []).append(Span(*span))
        self._log.rows.clear()  # held once, as spans
        self._session = max(self._sessions, default=-1) + 1
        self._sessions[self._session] = []

    def add(self, span: Span | Mapping[str, Any]) -> None:
        """Keeps a span that has ended; a mapping has Span's names."""
        span = span if isinstance(span, Span) else Span(**span)
        with self._lock:
            self._sessions[self._session].append(span)
            self._log.add([[*span, self._session]])

    @property
    def groups(self) -> list[str]:
        """Those that have worked, by name."""
        return sorted({span.group for span in self._all()})

    def idle_share(self, group: str, last_s: float | None = None) -> float:
        """Share of its ranks' time in which a group did nothing: 1 - busy / (ranks * wall), in [0, 1].

        Wall is the time from the first start to the last end of all groups, in each session, or of the newest `last_s`
        seconds. Ranks are those seen; a group that never worked was idle all the time. A span counts when it has ended,
        so work that is under way looks idle until then.
        """
        busy = available = 0.0
        for spans in self._copies()[-1:] if last_s is not None else self._copies():
            if not spans:
                continue
            end = max(span.end for span in spans)
            start = min(span.start for span in spans)
            if last_s is not None:
                start = max(start, end - last_s)
            ranks = {span.rank for span in spans if span.group == group}
            available += len(ranks) * (end - start)
            for rank in ranks:
                ours = (span for span in spans if (span.group, span.rank) == (group, rank))
                mine = [(max(span.start, start), min(span.end, end)) for span in ours]
                busy += sum(stop - begun for begun, stop in _merged(mine))
        return 1.0 - busy / available if available else 1.0

    def rate(self, phase: str) -> float:
        """Microbatches of a phase for each second from its first start to its last end; 0 where there are none."""
        spans = [span for span in self._all() if span.phase == phase]
        wall = max(span.end for span in spans) - min(span.start for span in spans) if spans else 0.0
        return len(spans) / wall if wall else 0.0

    def write(self) -> None:
        """Makes timeline.parquet and trace.json of all spans so far, each replaced in one step."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [(*span, number) for number, spans in enumerate(self._copies()) for span in spans]
        kinds = (pa.string(), pa.int32(), pa.string(), pa.string(), pa.float64(), pa.float64(), pa.int32())
        schema = pa.schema(list(zip((*Span._fields, "session"), kinds, strict=True)))
        columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
        table = pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)
        trace = json.dumps({"traceEvents": _events(self._all()), "displayTimeUnit": "ms"})
        with translate_errors(self.folder):
            with atomic_file(self.folder / TABLE) as half:
                pq.write_table(table, half)
            with atomic_file(self.folder / TRACE) as half:
                half.write_text(trace)

    def close(self) -> None:
        """Writes both files and lets go of the lines."""
        self.write()
        self._log.close()

    def __enter__(self) -> Timeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _copies(self) -> list[list[Span]]:
        with self._lock:
            return [list(self._sessions[number]) for number in sorted(self._sessions)]

    def _all(self) -> list[Span]:
        return [span for spans in self._copies() for span in spans]


def _merged(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The stretches in order, those that touch as one, empty ones left out."""
    out: list[Stretch] = []
    for start, end in sorted(stretches):
        if end <= start:
            continue
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return out


def _events(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Trace events: complete ones (X) in microseconds since the first start, and names of processes and threads (M).

    Process and thread ids count from 1: Perfetto takes 0 for the machine's idle task.
    """
    first = min((span.start for span in spans), default=0.0)
    pids = {group: number for number, group in enumerate(sorted({span.group for span in spans}), 1)}
    out: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": group}}
        for group, pid in pids.items()
    ]
    for group, rank in sorted({(span.group, span.rank) for span in spans}):
        name = {"name": f"rank {rank}"}
        out.append({"ph": "M", "name": "thread_name", "pid": pids[group], "tid": rank + 1, "args": name})
    for span in spans:
        place = {"pid": pids[span.group], "tid": span.rank + 1}
        when = {"ts": round((span.start - first) * 1e6), "dur": round((span.end - span.start) * 1e6)}
        out.append({"ph": "X", "name": span.phase, "cat": span.group, **place, **when, "args": {"of": span.microbatch}})
    return out
