"""What the driver adds to a piece of work: an `each` on a group of many ranks against a bare Ray actor call.

python -m tests.bench.controller             # RAGDIST_BENCH_RANKS=8 for a smoke run

The ranks hold an empty object, the work gives back the row that it got. A microbatch is more than a call: the rank
reads its rows, and keeps the result as a Parquet file on the disk (fsync, rename) before anyone hears of it. How long
that takes is noted by the rank itself.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.records import Question

RANKS, CALLS, CPUS = int(os.environ.get("RAGDIST_BENCH_RANKS", "64")), 300, 0.01


class Empty:
    """The plain object of a rank that has no model."""

    version = 0

    def __init__(self, *_: Any) -> None: ...

    def open_phase(self) -> None:
        """Before work beside it."""

    def nothing(self) -> int:
        """What the bare actor does."""
        return 0


def give_back(_: Any, rows: Sequence[Any]) -> tuple[Sequence[Any], dict[str, float]]:
    """Trivial work."""
    return rows, {}


def run() -> dict[str, Any]:
    """{"controller": median seconds of an `each` of one microbatch / of a bare call}."""
    from tests.bench.raft_useful_tokens import alone  # loads torch, which no rank of this module needs

    with tempfile.TemporaryDirectory() as made:
        return {"controller": alone("tests.bench.controller", "both", Path(made))}


def both(folder: Path) -> dict[str, Any]:
    """Both while all ranks live: one call at a time, so that nobody waits for a core."""
    import ray

    from ragdist.cluster.group import WorkerGroup
    from ragdist.cluster.ranks import GroupSpec
    from ragdist.cluster.session import connect
    from ragdist.storage.stages import Stage, Store
    from ragdist.storage.tables import split

    side = {"workers": RANKS, "cpus_per_worker": CPUS, "train": {"examples_per_step": RANKS, "microbatch": 1}}
    made: Settings = resolve({"attacker": side, "cluster": {"start_timeout_s": 600}})
    asked = (Question(id=f"q{n}", text="?", answers=("a",), oracle_ids=(), split="train") for n in range(CALLS + RANKS))
    parts = split(Store(folder).make(Stage("questions"), Question, lambda: asked), 1)
    spans: list[dict[str, Any]] = []
    began = time.monotonic()
    with (
        connect(made.cluster),
        WorkerGroup(
            GroupSpec("attacker", made, made.attacker, Empty, folder, meet=False), "", 0, on_span=spans.append
        ) as group,
    ):
        start_s = time.monotonic() - began
        actor = ray.remote(Empty).options(num_cpus=CPUS).remote()

        def each(inputs: Any) -> list[Any]:
            return list(group.each(give_back, ((part,) for part in inputs), folder=folder / "out", phase="bench"))

        wave_s = seconds(lambda: each(parts[CALLS:]))  # every rank once, which warms it up
        ray.get(actor.nothing.remote())
        spans.clear()
        ours, bare = [], []
        for part in parts[:CALLS]:  # in turn, so that a machine that gets slower does so for both
            bare.append(seconds(lambda: ray.get(actor.nothing.remote())))
            ours.append(seconds(lambda part=part: each([part])))  # type: ignore[misc]
    rank_s = statistics.median(span["end"] - span["start"] for span in spans)
    mine, other = statistics.median(ours), statistics.median(bare)
    return {
        "ratio": round(mine / other, 2),
        "ours": round(1000 * mine, 3),
        "theirs": round(1000 * other, 3),
        "unit": "ms",
        "note": f"median of {CALLS} calls each, in turn, {RANKS} ranks alive; {1000 * rank_s:.2f} ms of ours are the "
        f"rank's own (rows in, Parquet file out), without them the ratio were {(mine - rank_s) / other:.2f}; a first "
        f"microbatch for each of {RANKS} ranks at once took {wave_s:.2f} s, starting the group {start_s:.0f} s",
    }


def seconds(what: Any) -> float:
    """How long it takes."""
    began = time.monotonic()
    what()
    return time.monotonic() - began


if __name__ == "__main__":
    from tests.bench import (
        controller as module,
    )  # functions of __main__ travel to ranks whole, those of a module by name

    print(
        json.dumps(module.both(Path(sys.argv[2])) if len(sys.argv) > 1 else run(), indent=None if sys.argv[1:] else 1)
    )
