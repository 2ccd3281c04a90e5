"""A whole round of ATM, and its first half, against the flow that people have today (`today.py`).

python -m tests.bench.atm_round            # both results, `atm_round` and `atm_forge_grade`, from one run

Ours is the round of `ragdist train atm` (`atm.run.Game`) on two groups of a Ray of this machine, in a process of
its own; the questions it is played on, and nothing else, are ready made. Theirs is seven programs, one after another.
Seconds are of the wall, from the start of a process to its end; loading is part of it: theirs for every program,
ours once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ragdist.config import RunConfig, Settings
from ragdist.lm.load import dtype_of
from tests.bench import atm_rows
from tests.bench.raft_useful_tokens import alone

DTYPE = os.environ.get("RAGDIST_BENCH_DTYPE", "auto")
"""Of both sides; auto is the machine's. In float32 all texts are the same, elsewhere rounding turns some."""
FORGE_GRADE = "round-0/forged and graded"
PHASES = {
    FORGE_GRADE: ("forge", "score"),
    "round-0/pairs": ("pairs",),
    "round-0/attacker": ("dpo",),
    "round-0/forged-again": ("forge-again",),
    "round-0/lists": ("lists",),
    "round-0/generator": ("mito",),
}
"""Ours, as the run names its spans, and which of their programs do the same."""


def run() -> dict[str, Any]:
    """{"atm_round": ..., "atm_forge_grade": ...}: ratio of wall seconds, loads included, and without them."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        settings = atm_rows.settings(DTYPE)
        atm_rows.prepare(folder, settings)
        theirs = {stage: timed("tests.bench.today", stage, folder) for stages in PHASES.values() for stage in stages}
        ours = timed("tests.bench.atm_round", "round", folder)
        texts = same_texts(folder)
    table = "; ".join(
        f"{phase} {ours[phase]:.1f} / {sum(theirs[stage]['wall_s'] for stage in stages):.1f}"
        for phase, stages in PHASES.items()
    )
    rows = about(settings)
    return {
        "atm_round": compare(ours, theirs, list(PHASES), f"{rows}; seconds ours / theirs: {table}"),
        "atm_forge_grade": compare(ours, theirs, [FORGE_GRADE], f"{rows}; {texts}"),
    }


def forge_grade() -> dict[str, Any]:
    """{"atm_forge_grade": ...} from a run that ends there."""
    with tempfile.TemporaryDirectory() as made:
        folder, settings = Path(made), atm_rows.settings(DTYPE)
        atm_rows.prepare(folder, settings)
        theirs = {stage: timed("tests.bench.today", stage, folder) for stage in PHASES[FORGE_GRADE]}
        ours = timed("tests.bench.atm_round", "half", folder)
        note = f"{about(settings)}; {same_texts(folder)}"
    return {"atm_forge_grade": compare(ours, theirs, [FORGE_GRADE], note)}


def about(settings: Settings) -> str:
    """What is forged, in words."""
    kind = str(dtype_of(settings.model)).removeprefix("torch.")
    return f"{atm_rows.QUESTIONS} questions, {atm_rows.SAMPLES} samples of at most {atm_rows.NEW_TOKENS} tokens, {kind}"


def compare(
    ours: dict[str, float], theirs: dict[str, dict[str, float]], phases: list[str], note: str
) -> dict[str, Any]:
    """One result: all that these phases took, each process's start and loads included."""
    stages = [theirs[stage] for phase in phases for stage in PHASES[phase]]
    mine = sum(ours[phase] for phase in phases)
    work, wall = (sum(stage[key] for stage in stages) for key in ("work_s", "wall_s"))
    loads = ours["wall_s"] - sum(ours.get(phase, 0.0) for phase in PHASES)
    return {
        "ratio": round(wall / (mine + loads), 3),
        "ours": round(mine + loads, 2),
        "theirs": round(wall, 2),
        "unit": "s",
        "ratio_without_loads": round(work / mine, 3),
        "note": f"without any start or load {work / mine:.2f} ({mine:.1f} and {work:.1f} s); starts and loads took "
        f"ours {loads:.1f} s, once a run, theirs {wall - work:.1f} s, in {len(stages)} programs; {note}",
    }


def timed(module: str, who: str, folder: Path) -> dict[str, float]:
    """What `who` says of itself, and the seconds of its process."""
    began = time.monotonic()
    said = alone(module, who, folder)
    wall_s = time.monotonic() - began
    print(f"{who}: {wall_s:.1f} s", file=sys.stderr)
    return said | {"wall_s": wall_s}


def same_texts(folder: Path) -> str:
    """How many forgeries of both flows agree, in words."""
    from ragdist.records import Forgery
    from ragdist.storage.tables import rows_at
    from tests.bench.today import Folder

    theirs = {row.id: row for row in Folder(folder).rows("forged-0.csv", Forgery)}
    ours = [row for path in sorted((folder / "atm/round-0/forged").glob("*.parquet")) for row in rows_at(path)]
    same = sum((row.title, row.text) == (theirs[row.id].title, theirs[row.id].text) for row in ours)
    return f"{same} of {len(theirs)} texts are the same on both sides"


class NoBoard:
    """Stands where a run's Board stands; nobody looks."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def ours(folder: Path, half: bool) -> dict[str, float]:
    """Seconds of each phase, or of the first alone."""
    from ragdist.storage.phases import PhaseCheckpoint
    from ragdist.systems.atm.run import Game
    from ragdist.tracking.run import open_run

    made = Settings.model_validate_json((folder / "settings.json").read_text())
    made = made.model_copy(update={"run": RunConfig(folder=str(folder), name="run")})
    board: Any = NoBoard()
    with open_run(made, "atm") as run, atm_rows.groups(folder, made) as (attacker, generator):
        parts = atm_rows.parts(folder, made)
        game = Game(attacker, generator, parts, [], "", PhaseCheckpoint(folder / "atm"), made, board)
        game.prepare()
        if half:
            game.forge_and_grade(0)
        else:
            game.play(0)
    return {name: run.seconds[name] for name in PHASES if name in run.seconds}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(ours(Path(sys.argv[2]), sys.argv[1] == "half")))
    else:
        print(json.dumps(run(), indent=1))
