"""What a run of many phases has finished: one file a phase, committed by a rename, the same whatever was killed.

    folder/round-0/forged/00003.parquet     rows of a microbatch, kept by the rank that made them
    folder/round-0/forged.json              the phase is done: name, rows and digest of each microbatch, in order
    folder/round-0/attacker/model           a model that learned
    folder/round-0/attacker.json            it is done: version, and the metrics of each step

Times and machines are not in it, so a run that was killed and went on leaves the bytes of one that was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragdist.errors import StorageError
from ragdist.roles import MicrobatchRef
from ragdist.storage.atomic import atomic_folder, copy_linked, make_folder, read_json, translate_errors, write_json

MODEL = "model"
SPEED = {"seconds", "busy_share", "rank_tokens_per_s", "mfu", "hfu"}
"""What is noted of a step that depends on machines and on how many ranks took it."""


class PhaseCheckpoint:
    """The finished phases below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)

    def shards(self, phase: str, make: Callable[[Path], Iterable[MicrobatchRef]]) -> list[MicrobatchRef]:
        """The phase's shards by name: those that are noted, else what `make(folder of the phase)` yields in any order,
        each kept there before, then noted."""
        if (noted := self.read(phase)) is not None:
            with self._legible(phase):
                if not isinstance(noted, list):
                    raise TypeError
                paths = [str(self.folder / phase / f"{row['name']}.parquet") for row in noted]
                return [MicrobatchRef(**row, at=path, path=path) for row, path in zip(noted, paths, strict=True)]
        made = sorted(make(self.folder / phase), key=lambda shard: shard.name)
        self.note(phase, [_row(shard) for shard in made])
        return made

    def learned(self, phase: str, learn: Callable[[Path], list[dict[str, float]]]) -> list[dict[str, float]]:
        """The metrics of each step of a phase that learned: those noted, else what `learn` gives, then noted."""
        if (noted := self.read(phase)) is not None:
            with self._legible(phase):
                return [dict(step) for step in noted["steps"]]
        steps = learn(self.folder / phase)
        self.note(phase, {"steps": [{k: v for k, v in step.items() if k not in SPEED} for step in steps]})
        return steps

    def done(self, phase: str) -> bool:
        """Whether the phase is finished."""
        return (self.folder / f"{phase}.json").exists()

    def model(self, phase: str) -> str:
        """Where the model that learned in this phase lies."""
        return str(self.folder / phase / MODEL)

    def read(self, phase: str) -> Any:
        """What the phase's file holds, or None."""
        path = self.folder / f"{phase}.json"
        with self._legible(phase):
            return read_json(path) if path.exists() else None

    def adopt(self, other: Path) -> None:
        """Takes over the finished phases of another run's folder that this one does not have; files are shared.

        For runs whose settings differ in nothing that these phases depend on.
        """
        for noted in sorted(other.glob("*/*.json")):
            phase = noted.relative_to(other).with_suffix("")
            if self.done(str(phase)):
                continue
            shutil.rmtree(self.folder / phase, ignore_errors=True)  # of a run that was killed in it
            if (other / phase).is_dir():
                with atomic_folder(self.folder / phase) as half:
                    copy_linked(other / phase, half)
            self.note(str(phase), read_json(noted))

    def note(self, phase: str, value: Any) -> None:
        """Commits the phase. A StorageError if the folder cannot be written."""
        path = self.folder / f"{phase}.json"
        make_folder(path.parent)
        with translate_errors(path.parent):
            write_json(path, value)

    @contextmanager
    def _legible(self, phase: str) -> Iterator[None]:
        try:
            yield
        except (StorageError, TypeError, LookupError, ValueError):
            raise StorageError(
                f"{self.folder / phase}.json is not what a finished phase is noted by; remove it, and the phase is "
                "done again"
            ) from None


def _row(shard: MicrobatchRef) -> dict[str, Any]:
    return {"name": shard.name, "rows": shard.rows, "digest": shard.digest, "notes": dict(shard.notes)}
