"""Trials of seconds for tests of sweeps: what a trial scores follows from its values, and some of them go wrong."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group

from ragdist.cluster.trial import SweepSpec
from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.errors import DataError, TrainError
from ragdist.sweeps import trials
from ragdist.sweeps.trials import Point, Scores


class Holder:
    """Takes all processors of the machine in a placement group of its own, as Ray Train's controller does."""

    def hold(self) -> None:
        """Returns when it has them."""
        ray.get(placement_group([{"CPU": 2}]).ready())


def play(seen: Path, settings: Settings, point: Point, share: float) -> Scores:
    """Better with a lower `atm.kl_weight` and a longer training; the learning rate says what goes wrong.

    Every call leaves a line in `seen`.
    """
    with seen.open("a") as file:
        file.write(f"{settings.atm.kl_weight} {share} {point.get('questions.train_rows')}\n")
    tries = seen.read_text().count(f" {point.get('questions.train_rows')}\n")
    if point.get("questions.train_rows") == 1:
        raise DataError("no rows")
    if point.get("questions.train_rows") == 2:
        raise TrainError(f"gone wrong {tries} times")
    if point.get("questions.train_rows") == 3 and tries == 1:
        holder: Any = ray.remote(Holder).options(num_cpus=0).remote()
        ray.get(holder.hold.remote())
        os.kill(os.getpid(), signal.SIGKILL)
    if point.get("questions.train_rows") == 4:
        ray.get(placement_group([{"CPU": 2}]).ready())
    if point.get("questions.train_rows") == 5 and tries == 1:
        os.kill(int((seen.parent / "driver").read_text()), signal.SIGINT)
        threading.Event().wait()  # until it is ended
    score = share * (1 - settings.atm.kl_weight)
    both = dict.fromkeys(("em", "f1", "subspan"), (score, score, score))
    return {"clean": both, "attacked": dict.fromkeys(both, (1 - score, 0.0, 1.0))}


def plan(folder: Path, job: str = "raft", **sweep: Any) -> SweepSpec:
    """A plan whose trials play the above; `folder/seen` tells of each."""
    settings = resolve({"run": {"folder": str(folder), "name": "sweep"}, "sweep": sweep})
    (folder / "sweep").mkdir(parents=True, exist_ok=True)
    points = tuple(trials.points(settings))
    return SweepSpec(
        settings,
        folder / "sweep",
        partial(play, folder / "seen"),
        trials.rungs(job, settings.sweep, settings.atm.rounds),
        points,
    )


def seen(folder: Path) -> list[tuple[float, float]]:
    """(kl_weight, share) of every call of `play`."""
    lines = (folder / "seen").read_text().splitlines() if (folder / "seen").exists() else []
    return [(float(weight), float(share)) for weight, share, _ in (line.split() for line in lines)]
