"""Forging and grading as one stream, against the longer of the two alone; each group has one core to itself.

python -m tests.bench.overlap

One rank a group, each pinned to a core of its own in all three runs: what the stream gains is overlap and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import atm_rows
from tests.bench.raft_useful_tokens import alone

QUESTIONS, NEW_TOKENS, MICROBATCHES = min(16, atm_rows.QUESTIONS), 48, 8


def run() -> dict[str, Any]:
    """{"overlap": seconds of the stream / seconds of the longer phase alone}."""
    with tempfile.TemporaryDirectory() as made:
        return {"overlap": alone("tests.bench.overlap", "all", Path(made))}


def pin(_: Any, rows: Sequence[Any], core: int) -> tuple[Sequence[Any], dict[str, float]]:
    """Keeps every thread of this rank on one core, from now on."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    return rows, {}


def measure(folder: Path) -> dict[str, Any]:
    """Forge alone, grade alone, both as a stream; models are loaded and warm."""
    from ragdist.storage.tables import split
    from ragdist.systems.atm import forging, training_rows

    made = atm_rows.settings(max_new_tokens=NEW_TOKENS)
    one = {"workers": 1, "cpus_per_worker": 1.0}
    made = made.model_copy(
        update={name: getattr(made, name).model_copy(update=one) for name in ("attacker", "generator")}
    )
    questions = atm_rows.questions(folder, made)
    parts = split(questions, max(1, QUESTIONS // MICROBATCHES))[:MICROBATCHES]
    by_name = {part.name: part for part in parts}
    cores = sorted(os.sched_getaffinity(0))[:2]
    with atm_rows.groups(folder, made) as sides:
        attacker, generator = sides
        for side, core in zip(sides, cores, strict=True):
            list(side.each(pin, [(parts[0],)], core, folder=folder / f"pin-{core}", phase="pin"))

        def forge(where: str, asked: Any) -> Any:
            inputs = ((part,) for part in asked)
            return attacker.each(forging.forge, inputs, 0, made, folder=folder / where / "forged", phase="forge")

        def grade(where: str, forged: Any) -> Any:
            inputs = ((by_name[shard.name], shard) for shard in forged)
            return generator.each(training_rows.grade, inputs, made, folder=folder / where / "graded", phase="grade")

        list(grade("warm-up", forge("warm-up", parts[:1])))
        forged, forge_s = timed(lambda: list(forge("alone", parts)))
        _, grade_s = timed(lambda: list(grade("alone", forged)))
        _, stream_s = timed(lambda: list(grade("stream", forge("stream", parts))))
    longer = max(forge_s, grade_s)
    return {
        "ratio": round(stream_s / longer, 3),
        "ours": round(stream_s, 2),
        "theirs": round(longer, 2),
        "unit": "s",
        "note": f"forging alone {forge_s:.1f} s, grading alone {grade_s:.1f} s, so without overlap it were "
        f"{(forge_s + grade_s) / longer:.2f}; {sum(part.rows for part in parts)} questions in {len(parts)} microbatches"
        f", {atm_rows.SAMPLES} samples of at most {NEW_TOKENS} tokens, float32, one rank a group on a core of its own",
    }


def timed(what: Any) -> tuple[Any, float]:
    """What it gives, and its seconds."""
    began = time.monotonic()
    return what(), time.monotonic() - began


if __name__ == "__main__":
    from tests.bench import overlap as module  # functions of __main__ travel to ranks whole, those of a module by name

    print(
        json.dumps(
            module.measure(Path(sys.argv[2])) if len(sys.argv) > 1 else run(), indent=None if sys.argv[1:] else 1
        )
    )
