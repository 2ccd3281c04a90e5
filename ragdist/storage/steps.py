"""Metrics of optimizer steps beside the model that they made, so that a run which goes on knows those before it."""

from __future__ import annotations

import json
from pathlib import Path

from ragdist.storage.append import append_row, whole_lines
from ragdist.storage.atomic import atomic_file

STEPS = "steps.jsonl"


def noted(folder: Path) -> list[dict[str, float]]:
    """The metrics of all steps so far, in order."""
    return [json.loads(line) for line in whole_lines(folder / STEPS)]


def note(folder: Path, metrics: dict[str, float]) -> None:
    """Adds a step."""
    append_row(folder / STEPS, metrics)


def cut(folder: Path, count: int, last: dict[str, float] | None = None) -> None:
    """Keeps the first `count` steps; those after the newest checkpoint are done again. `last` are the metrics of the
    last that the checkpoint holds, for whoever took it may have been lost before it could say so."""
    kept = noted(folder)[:count]
    if last and len(kept) == count - 1:
        kept.append(last)
    with atomic_file(folder / STEPS) as half:
        half.write_text("".join(json.dumps(line) + "\n" for line in kept))
