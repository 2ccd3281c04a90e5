"""Checkpoints of a training run: complete or as if never written.

A checkpoint is a folder `checkpoint-STEP` that every rank writes its own part of. The mark comes last, when all
ranks are done; a folder without it is what a killed run left half-written.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ragdist.errors import StorageError
from ragdist.storage.atomic import atomic_folder, make_readable, read_json, write_json
from ragdist.storage.locks import locked

log = logging.getLogger("ragdist")

MODEL, CHECKPOINTS, STOP = "model", "checkpoints", "stop"
"""Names in a run's folder: the tuned model, the checkpoints, the request to stop."""
MARK = "complete.json"
ABOUT = "about.json"
"""In a checkpoint of a model that stays in memory: how many ranks wrote it, and the metrics of its last step."""
ORPHANS_S = 360
"""Longest wait, in seconds, for ranks of an earlier start to be gone.

Ranks on a machine that was cut off live until their Ray gives up its head: four minutes with Ray's own settings, two
with those of clusters/ray. A file server takes a lock from a client that fell silent sooner.
"""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Rank 0 waits until ranks of an earlier start are gone; the others wait for rank 0.

    Those of a driver that was killed are, or of a machine that was cut off and is taken for dead.

    Raises:
        StorageError: they are still there after `ORPHANS_S`.
    """
    import torch.distributed as dist  # not at the top: drivers, which never load torch, know the names above

    def give_up_late(waited_s: float) -> None:
        if waited_s > ORPHANS_S:
            raise StorageError(
                f"workers of another run still write into {folder} after {ORPHANS_S} s; end them, or set run.name"
            )

    with locked(folder / ".training", give_up_late) if dist.get_rank() == 0 else nullcontext():
        dist.barrier()
        yield


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


def last_said(folder: Path, step: int) -> dict[str, float] | None:
    """Metrics of the step that the checkpoint below `folder` was written after; None where there is none."""
    about = folder / CHECKPOINTS / f"checkpoint-{step}" / ABOUT
    return read_json(about).get("said") if about.exists() else None


@contextmanager
def new_model(folder: Path) -> Iterator[Path]:
    """A folder to write a whole model into, which becomes `folder/model`, for whoever may read the run's folder.

    Where that is there already, a rank that was taken for dead finished it after all, from the same state to the same
    bits.
    """
    with atomic_folder(folder / MODEL, first_wins=True) as half:
        yield half
        make_readable(half)


def forget(run: Path) -> None:
    """Removes the checkpoints of all models below a run's folder that are whole, and says so in the log."""
    for folder in [found for found in run.rglob(CHECKPOINTS) if (found.parent / MODEL).exists()]:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder)
        log.info("removed %s, %.1f GB: the run is finished (run.keep_checkpoints keeps them)", folder, size / 1e9)


def agreed(folder: Path) -> Path | None:
    """Collective: `newest` as rank 0 sees it, as a shared folder may look older on another machine."""
    import torch.distributed as dist

    chosen = [newest(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(chosen)
    return chosen[0]


def newest(folder: Path) -> Path | None:
    """The newest finished checkpoint, or None; half-written ones are removed."""
    found = complete(folder)
    for half in set(folder.glob("checkpoint-*")) - set(found):
        shutil.rmtree(half)
    return found[-1] if found else None
