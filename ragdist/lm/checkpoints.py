"""Checkpoints of a training run: complete or as if never written.

A checkpoint is a folder `checkpoint-STEP` that every rank writes its own part of. The mark comes last, when all
ranks are done; a folder without it is what a killed run left half-written.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ragdist.track import write_json

MODEL, CHECKPOINTS, STOP = "model", "checkpoints", "stop"
"""Names in a run's folder: the tuned model, the checkpoints, the request to stop."""
MARK = "complete.json"


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done when the checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints below `folder`, oldest first."""
    return sorted((mark.parent for mark in folder.glob(f"checkpoint-*/{MARK}")), key=step_of)


def finish(checkpoint: Path, keep: int) -> None:
    """Marks the checkpoint as complete, then removes all but the newest `keep`."""
    write_json(checkpoint / MARK, {"step": step_of(checkpoint)})
    for old in complete(checkpoint.parent)[:-keep]:
        (old / MARK).unlink()  # first, so that a kill here leaves no half-removed checkpoint that looks complete
        shutil.rmtree(old)


def newest(folder: Path) -> Path | None:
    """The newest finished checkpoint, or None; half-written ones are removed."""
    found = complete(folder)
    for half in set(folder.glob("checkpoint-*")) - set(found):
        shutil.rmtree(half)
    return found[-1] if found else None
