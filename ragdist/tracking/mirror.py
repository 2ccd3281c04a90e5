"""Trackers: what a run notes in its folder, shown elsewhere while it goes.

    with open_run(settings, "raft") as run, follow(run):     # run.trackers=[tensorboard, wandb]
        ...

The run's folder is the truth and a tracker its mirror. Each is told the resolved settings, every number of
metrics.jsonl that has a step, and at a good end the scores of summary.json and report.png; nothing of the environment,
the machine or the code. Lines come from whoever writes the file (workers on other machines too). A thread for each
tracker reads and sends, so one that is dead or slow costs a warning and its curve, never the run.

A callback of the user's own is told the same way what is new in this call, and phases that end; it may fail likewise.

    run folder/trackers/NAME.json      the tracked run's id, how far metrics.jsonl is sent: a resumed run goes on there
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from ragdist.config import Settings
from ragdist.config.loader import flatten
from ragdist.errors import ConfigError, Stopped, first_line
from ragdist.parts import Callback, Event, short_name
from ragdist.storage.append import whole_lines
from ragdist.storage.atomic import make_folder, read_json, translate_broken, write_json
from ragdist.tracking import clients
from ragdist.tracking.clients import EndState, TrackedRun, Tracker
from ragdist.tracking.progress import say
from ragdist.tracking.run import RunFolder, log

POLL_S = 1.0
CLOSE_S = 30.0
"""Longest wait, in seconds, for all trackers together at the end of a run."""
NOT_NUMBERS = {"time", "phase", "step", "steps"}
NOT_CURVES = {"train_start"}


class Point(NamedTuple):
    """Numbers of one step. Example: Point("train", 12, {"loss": 0.41})."""

    group: str
    step: int
    numbers: dict[str, float]


@dataclass
class SentPosition:
    """What a tracker has been told, kept in the run's folder."""

    id: str = ""
    """The tracker's own name of the run; a resumed run continues under it."""
    read: int = 0
    """Bytes of metrics.jsonl that are dealt with."""
    points: int = 0
    """Steps sent, of all groups."""
    steps: dict[str, int] = field(default_factory=dict)
    """The last step of each group: steps done again after a kill are not sent again."""


@contextmanager
def follow(run: RunFolder, callbacks: Iterable[Callback] = ()) -> Iterator[None]:
    """Every tracker of `run.trackers` mirrors the run's folder until the block ends, then is told how it ended; so is
    every callback. A ConfigError if a tracker's client is not installed."""
    for name in run.settings.run.trackers:
        if not importlib.util.find_spec(name):
            raise ConfigError(
                f"run.trackers has {name}, whose client is not installed; `pip install ragdist[{name}]`, or take it "
                "out of run.trackers"
            )
    mirrors: list[_Mirror | _Teller] = [_Mirror(name, run) for name in run.settings.run.trackers]
    mirrors += [_Teller(callback, run) for callback in callbacks]
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        _end(mirrors, "stopped")
        raise
    except BaseException:  # survives nothing: the trackers are told, then it is raised
        _end(mirrors, "failed")
        raise
    _end(mirrors, "finished")


def points(lines: str) -> Iterator[Point]:
    """The lines of metrics.jsonl that have a step: `round-1/attacker` is the group `attacker`, its steps counted on."""
    for line in lines.splitlines():
        row = json.loads(line)
        numbers = {name: value for name, value in row.items() if name not in NOT_NUMBERS and _is_number(value)}
        if "step" not in row or not numbers or row["phase"] in NOT_CURVES:
            continue
        match = re.fullmatch(r"round-(\d+)/(\w+)", row["phase"])
        group, before = (match[2], int(match[1]) * row.get("steps", 0)) if match else (row["phase"], 0)
        yield Point(group, before + row["step"], numbers)


def results(folder: Path) -> dict[str, float]:
    """The numbers of summary.json worth a column: each score's mean by model and condition, minutes by phase."""
    if not (folder / "summary.json").exists():
        return {}
    summary = read_json(folder / "summary.json")
    found = {f"minutes/{name}": float(value) for name, value in summary.get("minutes", {}).items()}
    for row in summary.get("scores", []):
        scores = {name: value["mean"] for name, value in row.items() if isinstance(value, dict) and "mean" in value}
        found |= {f"{row['model']}/{row['condition']}/{name}": float(value) for name, value in scores.items()}
    return found


def presentable(settings: Settings) -> dict[str, Any]:
    """Every setting by its dotted key, without what a URL may carry: user, password, query."""
    return {key: _harmless(value) for key, value in flatten(settings).items()}


class _Mirror(threading.Thread):
    """Reads what is new in metrics.jsonl once a second and hands it to one tracker."""

    def __init__(self, name: str, run: RunFolder) -> None:
        super().__init__(name=f"tracker-{name}", daemon=True)
        self.follower, self.folder, self.job, self.settings = name, run.folder, run.job, run.settings
        self.file = make_folder(run.folder / "trackers") / f"{name}.json"
        with translate_broken(self.file):
            self.sent = TypeAdapter(SentPosition).validate_python(read_json(self.file) if self.file.exists() else {})
        self.outcome: EndState = "failed"
        self._ended = threading.Event()
        self.start()

    def end(self, outcome: EndState) -> None:
        """The run is over: the rest is sent, then the tracker is told how it ended."""
        self.outcome = outcome
        self._ended.set()

    def run(self) -> None:
        try:
            self._mirror()
        except BaseException as error:  # whatever a client throws: a run is worth more than its picture
            reason = first_line(error)[:300]
            say(
                f"{self.follower} fails ({type(error).__name__}: {reason}); the run goes on without it, "
                f"all numbers are in {self.folder / 'metrics.jsonl'}"
            )

    def _mirror(self) -> None:
        begun = bool(self.sent.id)
        self.sent.id = self.sent.id or uuid.uuid4().hex
        sent, project, settings = self.sent, self.settings.run.project, presentable(self.settings)
        shown = TrackedRun(sent.id, begun, sent.points, project, self.folder.name, self.job, self.folder, settings)
        tracker = clients.open_tracker(self.follower, shown)
        self.sent.id = tracker.id
        self._note()
        while not self._ended.wait(POLL_S):
            self._forward(tracker)
        self._forward(tracker)
        if self.outcome == "finished":
            picture = self.folder / "report.png"
            tracker.conclude(results(self.folder), picture if picture.exists() else None)
        tracker.close(self.outcome)

    def _forward(self, tracker: Tracker) -> None:
        lines = b"".join(whole_lines(self.folder / "metrics.jsonl", self.sent.read))
        if not lines:
            return
        for point in points(lines.decode()):
            if point.step > self.sent.steps.get(point.group, -1):
                tracker.add(*point)
                self.sent.steps[point.group] = point.step
                self.sent.points += 1
        tracker.flush()
        self.sent.read += len(lines)
        self._note()

    def _note(self) -> None:
        write_json(self.file, asdict(self.sent))


class _Teller(threading.Thread):
    """Reads what is new in metrics.jsonl once a second and tells it one callback."""

    def __init__(self, callback: Callback, run: RunFolder) -> None:
        name = short_name(callback)
        super().__init__(name=f"callback-{name}", daemon=True)
        self.callback, self.folder, self.settings, self.follower = (
            callback,
            run.folder,
            run.settings,
            f"callback {name}",
        )
        self.read = sum(map(len, whole_lines(self._metrics)))
        self.outcome: EndState = "failed"
        self._ended = threading.Event()
        self.start()

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def end(self, outcome: EndState) -> None:
        """The run is over: the rest is told, then how it ended."""
        self.outcome = outcome
        self._ended.set()

    def run(self) -> None:
        try:
            self.callback(Event("begin", self.folder, values=presentable(self.settings)))
            while not self._ended.wait(POLL_S):
                self._tell()
            self._tell()
            scores = results(self.folder) if self.outcome == "finished" else {}
            self.callback(Event("end", self.folder, self.outcome, values=scores))
        except BaseException as error:  # of the user's code: a run is worth more than who watches it
            say(f"{self.follower} raised {type(error).__name__}: {first_line(error)[:300]}; the run goes on without it")
            log.error("%s", self.follower, exc_info=error)

    def _tell(self) -> None:
        lines = list(whole_lines(self._metrics, self.read))
        for event in events(self.folder, b"".join(lines).decode()):
            self.callback(event)
        self.read += sum(map(len, lines))


def events(folder: Path, lines: str) -> Iterator[Event]:
    """What callbacks are told of lines of metrics.jsonl."""
    for line in lines.splitlines():
        row = json.loads(line)
        if row["phase"] == "span":
            yield Event("phase", folder, row["name"], values={"seconds": row["seconds"]})
        for point in points(line):
            yield Event("step", folder, point.group, point.step, point.numbers)


def _end(mirrors: Iterable[_Mirror | _Teller], outcome: EndState) -> None:
    for mirror in mirrors:
        mirror.end(outcome)
    deadline = time.monotonic() + CLOSE_S
    for mirror in mirrors:
        mirror.join(max(0.0, deadline - time.monotonic()))
        if mirror.is_alive():
            say(
                f"{mirror.follower} has not taken everything after {CLOSE_S:.0f} s; the run ends without it, "
                f"all numbers are in {mirror.folder / 'metrics.jsonl'}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"(\w+://)(?:[^/?#\s]*@)?([^?#\s]*)(?:\?[^#\s]*)?", r"\1\2", value)
    if isinstance(value, Mapping):
        return {key: _harmless(one) for key, one in value.items()}
    return [_harmless(one) for one in value] if isinstance(value, (tuple, list)) else value
