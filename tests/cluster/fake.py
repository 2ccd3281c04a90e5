"""A plain object of a rank that is quick to start, and work beside it that can be told to go wrong.

Its weights are one number; a step adds the numbers of all ranks by gloo. Real in all but the mathematics.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ragdist.config import Settings, SideConfig
from ragdist.config.loader import resolve
from ragdist.errors import DataError, ModelError
from ragdist.records import Bundle, Forgery, Grade, Question
from ragdist.roles import MicrobatchRef
from ragdist.storage.atomic import make_folder, write_json
from ragdist.storage.stages import Stage, Store
from ragdist.storage.tables import split

WEIGHTS = "weights.json"


def settings(*, workers: int = 1, start_timeout_s: float = 60, **cluster: Any) -> Settings:
    """Groups of half a core a rank."""
    side = {"workers": workers, "cpus_per_worker": 0.5, "train": {"examples_per_step": 4, "microbatch": 1}}
    return resolve({"attacker": side, "generator": side, "cluster": {"start_timeout_s": start_timeout_s, **cluster}})


def questions(folder: Path, count: int, size: int = 1) -> list[MicrobatchRef]:
    """A stage of that many questions, `size` a shard."""
    rows = (Question(id=f"q{n}", text=f"{n}?\n", answers=("a",), oracle_ids=(), split="train") for n in range(count))
    return split(Store(folder).make(Stage("questions"), Question, lambda: rows), size)


class Fuse:
    """Blows once, whoever comes first: a file that is there until then."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self) -> Fuse:
        """Puts it in."""
        self.path.touch()
        return self

    def blows(self) -> bool:
        """True once."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True


def die() -> None:
    """What the kernel does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


class Fake:
    """Plays what `lm.resident.Resident` plays."""

    def __init__(self, source: str, settings: Settings, side: SideConfig, version: int) -> None:
        import torch.distributed as dist

        if source == "broken":
            raise ModelError("model.source=broken is no model; set another")
        self.dist, self.version, self.opened = dist, version, False
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.weights = json.loads((Path(source) / WEIGHTS).read_text()) if source else 0

    def total(self, number: int) -> int:
        """The sum over all ranks."""
        import torch

        box = torch.tensor([number])
        if self.world > 1:
            self.dist.all_reduce(box)
        return int(box)

    def open_phase(self) -> None:
        self.total(0)
        self.opened = True

    def close_phase(self) -> None:
        self.total(0)
        self.opened = False

    def begin(self, loss: Any, rows: list[Bundle], prepare: Any, folder: Path) -> tuple[int, int]:
        assert not self.opened
        self.loss, self.rows, self.folder, self.step = loss, rows, folder, 0
        if (folder / "checkpoint.json").exists():
            saved = json.loads((folder / "checkpoint.json").read_text())
            self.step, self.weights = saved["step"], saved["weights"]
        return len(rows), self.step

    def steps(self, count: int) -> list[dict[str, float]]:
        said = []
        for _ in range(count):
            numbers = self.rows[self.step].tokens[0]
            gain = self.total(sum(self.loss(self, number) for number in numbers[self.rank :: self.world]))
            self.weights, self.step = self.weights + gain, self.step + 1
            said.append({"step": self.step, "loss": float(self.weights)})
            if self.step % 2 == 0:
                self.checkpoint()
                about = self.folder / "checkpoints" / f"checkpoint-{self.step}" / "about.json"
                if self.rank == 0:
                    write_json(make_folder(about.parent) / about.name, {"said": said[-1]})
                if self.step == 4 and self.rank == 0 and Fuse(self.folder / "unheard").blows():
                    die()
        return said

    def checkpoint(self) -> None:
        if self.rank == 0:
            write_json(self.folder / "checkpoint.json", {"step": self.step, "weights": self.weights})
        self.total(0)

    def finish(self) -> Path:
        if self.rank == 0:
            half = self.folder / "half"
            half.mkdir()
            write_json(half / WEIGHTS, self.weights)
            half.rename(self.folder / "model")
            if Fuse(self.folder / "late").blows():
                die()
        self.total(0)
        self.version += 1
        return self.folder / "model"


class Light:
    """Needs nobody and nothing."""

    version = 0

    def __init__(self, *_: Any) -> None: ...

    def open_phase(self) -> None:
        """Before work beside it."""


def loaded(model: Light, rows: list[Question], name: str) -> Any:
    """Whether this process has loaded that package."""
    return rows, {name: float(name in sys.modules)}


def forge(model: Fake, rows: list[Question], note: Path, what: dict[str, str]) -> Any:
    """Two forgeries a question; the note gets a line for each microbatch that was begun."""
    assert model.opened
    first = rows[0].id
    with note.open("a") as file:
        file.write(f"{first} {model.rank}\n")
    if first in what:
        _go_wrong(what[first], note)
    found = [
        Forgery(
            id=f"{row.id}-{n}",
            question_id=row.id,
            number=n,
            title="",
            text=f"{row.text} {n} v{model.version} w{model.weights}",
            states="b",
            method="attacker",
        )
        for row in rows
        for n in range(2)
    ]
    return found, {"forged": float(len(found))}


def _go_wrong(how: str, note: Path) -> None:
    if how == "die always" or (how == "die" and Fuse(note.with_suffix(".fuse")).blows()):
        die()
    elif how == "sleep":
        time.sleep(60)
    elif how == "nap":
        time.sleep(0.3)
    elif how == "data":
        raise DataError("row 3 is broken; see corpus.broken")
    elif how == "runtime":
        raise RuntimeError("shapes do not fit, a mistake in the work")
    elif how == "bug":
        raise KeyError("a mistake in the work")


def grade(model: Fake, rows: list[Question], forged: list[Forgery]) -> Any:
    """A grade each."""
    assert model.opened and {row.id for row in rows} == {row.question_id for row in forged}
    time.sleep(0.03)
    grades = [
        Grade(forgery_id=row.id, question_id=row.question_id, sample=row.number, perplexity=len(row.text) / 2, tokens=1)
        for row in forged
    ]
    return grades, {}


def bundles(model: Fake, rows: list[Question]) -> Any:
    """A row to learn from for each question."""
    return [Bundle(id=row.id, tokens=((int(row.id[1:]), 1, 2),), prompt_tokens=(0,)) for row in rows], {}


def big(model: Fake, rows: list[Question]) -> Any:
    """A megabyte."""
    return [Bundle(id="x" * 1_000_000, tokens=(), prompt_tokens=()) for _ in rows], {}


def plain_loss(model: Fake, number: int) -> int:
    """The number."""
    return number


def deadly_loss(model: Fake, number: int) -> int:
    """Kills rank 1, or the only one, in the fourth step, once."""
    fuse = Fuse(model.folder / "fuse")
    if model.step == 3 and model.rank == model.world - 1 and fuse.blows():
        die()
    return number


def slow_loss(model: Fake, number: int) -> int:
    """Rank 0 never comes back from the second step."""
    if model.step == 1 and model.rank == 0:
        time.sleep(60)
    return number


def weigh(model: Fake, rows: list[Question], texts: list[Bundle]) -> Any:
    """What `big` made."""
    return [], {"bytes": float(sum(len(text.id) for text in texts))}


def broken_loss(model: Fake, number: int) -> float:
    """Breaks in the fourth step."""
    return number if model.step < 3 else number / 0
