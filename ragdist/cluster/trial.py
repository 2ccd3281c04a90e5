"""One trial of a sweep, in a process of its own: the ordinary job, rung by rung.

What it scored is in its folder before Tune hears of it, so a trial that is done tells again and runs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune

from ragdist.cluster import pool, session
from ragdist.cluster.workers import last_line, log_to
from ragdist.config import ClusterConfig, Settings
from ragdist.errors import DataError, RagdistError
from ragdist.storage.atomic import make_folder
from ragdist.storage.locks import locked
from ragdist.sweeps import trials
from ragdist.sweeps.trials import Point, Range, Rung, Scores, Trial


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """What all trials share."""

    settings: Settings
    """Those of the sweep, with the name and the absolute folder of its run."""
    folder: Path
    """The sweep's; seen by all machines."""
    play: Callable[[Settings, Point, float], Scores]
    """`play(settings of the trial, its values, share of its training)` in the trial's process; pickles by name."""
    rungs: tuple[Rung, ...]
    points: tuple[Point, ...]
    """What is tried; empty where Optuna draws."""
    groups: tuple[str, ...] = ("cluster",)
    """Blocks of the worker groups that a trial holds at the same time."""
    pool: Any = None
    """`pool.Pool`, where the trials share one."""
    here: str = ""
    """The driver's working directory, which paths in settings start from."""


def point_of(config: dict[str, Any], plan: SweepSpec) -> Point:
    """What Tune's configuration of a trial stands for."""
    if plan.points:
        number: int = config["number"]
        return plan.points[number]
    over = trials.dimensions(plan.settings.sweep)
    drawn = {key: given if isinstance(over[key], Range) else over[key][given] for key, given in config.items()}
    return trials.canonical(plan.settings, drawn)


def work(config: dict[str, Any], plan: SweepSpec) -> None:
    """What a trial's process runs: the job, rung by rung; reports what each scored."""
    point = point_of(config, plan)
    name = trials.name_of(point)
    folder = make_folder(plan.folder / trials.TRIALS / name)
    if Path(plan.here).is_dir():
        os.chdir(plan.here)
    with (
        locked(folder / ".trial.lock"),  # a search may draw a point twice: the second process finds it finished
        log_to(folder / "trial.log"),
        session.connect(plan.settings.cluster),
    ):
        pool.use(plan.pool)
        torch.set_num_threads(_threads(plan.settings.cluster))
        trial = trials.read(plan.folder, name, point)
        if trial.state != "finished":
            trial = replace(trial, state="begun", error="")
            trials.note(plan.folder, trial)
        start = time.monotonic() - trial.seconds
        done = dict(trial.rungs)
        for rung in plan.rungs:
            if rung.share not in done:
                try:
                    done[rung.share] = _scored(plan, trial, rung)
                except Exception as error:  # survives bad input, which would only come again: Tune hears of no error
                    spent = round(time.monotonic() - start, 1)
                    trials.note(plan.folder, replace(trial, state="failed", error=_said(error), seconds=spent))
                    if isinstance(error, RagdistError) and error.exit_code == 2:
                        return
                    raise
                seconds = round(time.monotonic() - start, 1)
                trial = replace(trial, rungs=tuple(done.items()), seconds=seconds)
            state: trials.State = "finished" if rung.share == 1 else "begun"
            trials.note(plan.folder, replace(trial, state=state, scores=done[rung.share]))
            means = {shown: scores[plan.settings.sweep.metric][0] for shown, scores in done[rung.share].items()}
            tune.report({**means, "budget": rung.budget})


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, RagdistError) else f"{type(error).__name__}: {last_line(error)}"


def _scored(plan: SweepSpec, trial: Trial, rung: Rung) -> Scores:
    scores = plan.play(_settings_of(plan, trial), trial.values, rung.share)
    for name in trials.OBJECTIVES[plan.settings.sweep.objective]:
        if name not in scores:
            raise DataError(f"no question could be asked under the {name} list; set sweep.objective to the other")
    return scores


def _settings_of(plan: SweepSpec, trial: Trial) -> Settings:
    name = f"{plan.settings.run.name}/{trials.TRIALS}/{trial.name}"
    return trials.at(plan.settings, trial.values).unchecked("run.name", name)


def _threads(config: ClusterConfig) -> int:
    """Processors that a trial may use in its own process, while its workers rest."""
    return max(1, int(session.worker_cpus(config) * config.workers))
