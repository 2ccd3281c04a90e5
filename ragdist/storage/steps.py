"""Metrics of optimizer steps beside the model that they made, so that a run which goes on knows those before it."""

from __future__ import annotations

import json
from pathlib import Path

STEPS = "steps.jsonl"


def noted(folder: Path) -> list[dict[str, float]]:
    """The metrics of all steps so far, in order."""
    path = folder / STEPS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def note(folder: Path, metrics: dict[str, float]) -> None:
    """Adds a step."""
    with (folder / STEPS).open("a") as file:
        file.write(json.dumps(metrics) + "\n")


def cut(folder: Path, count: int, last: dict[str, float] | None = None) -> None:
    """Keeps the first `count` steps; those after the newest checkpoint are done again.

    Args:
        folder: of the model.
        count: steps that the checkpoint holds.
        last: metrics of the last of them, for whoever took it may have been lost before it could say so.
    """
    kept = noted(folder)[:count]
    if last and len(kept) == count - 1:
        kept.append(last)
    (folder / STEPS).write_text("".join(json.dumps(line) + "\n" for line in kept))
