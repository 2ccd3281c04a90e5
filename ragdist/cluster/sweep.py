"""Trials on a Ray cluster. Ray Tune says which are run and when; each is a process that runs the ordinary job.

That process takes no seat of its own (but `sweep.gpus_per_trial`): the job's workers have theirs in placement groups
of the job. It reports between rungs only, when the job has given all seats back, so a trial that the scheduler stops
holds none. A trial whose process dies leaves those of its job behind: Ray removes a placement group when both its
creator and the whole sweep are gone, and its own cleaner needs a dashboard. `tidy` gives them back at once.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.util.placement_group import PlacementGroup, remove_placement_group

from ragdist import track, trials
from ragdist.cluster import place, session
from ragdist.cluster.crew import cause_of
from ragdist.cluster.workers import last_line, log_to
from ragdist.config import Settings
from ragdist.errors import RagdistError, Stopped, TrainError
from ragdist.signals import stop_on_signal
from ragdist.store import make_folder
from ragdist.trials import Point, Range, Scores, Trial

POLL_S = 0.5
LEAVE_S = 30.0
"""Longest wait, in seconds, for the processes of the last trials to end."""
NO_SEAT = {"memory": 1}
"""One byte: Ray has no request for nothing, and a processor less would leave the workers none."""
OBJECTIVES = {"clean": ["clean"], "attacked": ["attacked"], "both": ["clean", "attacked"]}


@dataclass(frozen=True, slots=True)
class Plan:
    """What all trials share."""

    settings: Settings
    """Those of the sweep, with the name and the absolute folder of its run."""
    folder: Path
    """The sweep's; seen by all machines."""
    play: Callable[[Settings, float], Scores]
    """Runs the job of a trial's settings on a budget, in the trial's process; pickles by name."""
    budgets: tuple[float, ...]
    points: tuple[Point, ...]
    """What is tried; empty where Optuna draws."""
    here: str = ""
    """The driver's working directory, which paths in settings start from."""


def run(plan: Plan) -> list[Trial]:
    """All trials as they ended; those that are finished already are not run again.

    Raises:
        ConfigError: the cluster cannot be reached.
        Stopped: SIGINT or SIGTERM; what trials kept stays, and the same call goes on.
        TrainError: Tune itself failed.
    """
    plan = replace(plan, here=os.getcwd())
    with session.connect(plan.settings.cluster), stop_on_signal(what="trials under way are ended") as stop:
        plan = replace(plan, settings=_shared_out(plan.settings))
        watch = _Watch(plan)
        if watch.waiting or not plan.points:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are told of by `watch`
            fit = _Fit(_tuner(plan, watch, stop))
            while fit.is_alive():
                fit.join(POLL_S)
                tidy()
            _await_leaving()
            if stop.is_set():
                raise Stopped("stopped; the same command goes on, finished trials are not run again")
            if fit.error:
                raise TrainError(f"the sweep failed: {last_line(cause_of(fit.error))}")
    return watch.ended()


def tidy() -> list[str]:
    """Gives back the placement groups of this session whose creator, an actor, is dead. Returns their ids."""
    left = [group for group in _groups() if group.creator_actor_dead]
    for group in left:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    if left:
        track.say(f"gave back {len(left)} placement groups that a trial left behind")
    return [group.placement_group_id.hex() for group in left]


def _groups() -> list[Any]:
    """The placement groups that actors of this session made and that hold or want seats.

    Ray's public table does not tell who made a group.
    """
    tables = state._connect_and_get_accessor().get_placement_group_table()
    job = ray.get_runtime_context().get_job_id()
    removed = gcs_pb2.PlacementGroupTableData.PlacementGroupState.Value("REMOVED")
    return [
        group
        for group in map(gcs_pb2.PlacementGroupTableData.FromString, tables)
        if group.state != removed
        and group.creator_job_id.hex() == job
        and not ray.ActorID(group.creator_actor_id).is_nil()
        and not group.is_detached
    ]


def _await_leaving() -> None:
    """Returns when no trial holds a seat.

    Raises:
        TrainError: one still does after `LEAVE_S`.
    """
    end = time.monotonic() + LEAVE_S
    while left := _groups():
        tidy()
        if time.monotonic() > end:
            raise TrainError(f"{len(left)} placement groups of trials are still there {LEAVE_S:.0f} s after the last")
        time.sleep(POLL_S)


def _shared_out(settings: Settings) -> Settings:
    """Settings whose workers take their share of the processors, where several trials run at once."""
    trials_at_once = settings.sweep.concurrent
    if trials_at_once == 1:
        return settings

    def share(cpus: float) -> float:
        return int(10_000 * cpus / trials_at_once) / 10_000

    changed: dict[str, Any] = {}
    if not settings.cluster.cpus_per_worker:
        cpus = share(session.worker_cpus(settings.cluster))
        changed["cluster"] = settings.cluster.model_copy(update={"cpus_per_worker": cpus})
    for name, side in (("attacker", settings.attacker), ("generator", settings.generator)):
        if not side.cpus_per_worker:
            cpus = share(place.rank_cpus(settings, side))
            changed[name] = side.model_copy(update={"cpus_per_worker": cpus})
    return settings.model_copy(update=changed)


def _tuner(plan: Plan, watch: _Watch, stop: threading.Event) -> tune.Tuner:
    config, metrics = plan.settings.sweep, OBJECTIVES[plan.settings.sweep.objective]
    scheduler = FIFOScheduler()
    if config.scheduler == "asha":
        scheduler = ASHAScheduler(
            "budget",
            metric=metrics[0],
            mode="max",
            max_t=int(plan.budgets[-1]),
            grace_period=int(plan.budgets[0]),
            reduction_factor=config.halving,
        )
    space: dict[str, Any] = {"number": tune.grid_search(watch.waiting)}
    if not plan.points:
        space = {key: _domain(given) for key, given in trials.dimensions(config).items()}
    seat = {"GPU": config.gpus_per_trial} if config.gpus_per_trial else NO_SEAT
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, plan=plan), seat),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=None if plan.points else _optuna(plan, metrics),
            num_samples=1 if plan.points else config.samples,
            max_concurrent_trials=config.concurrent,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",  # what to go on from is in the trials' folders, not in Tune's
            storage_path=str(plan.folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[watch],
            stop=_Asked(stop),
            verbose=0,
        ),
    )


def _optuna(plan: Plan, metrics: list[str]) -> Any:
    """Optuna's sampler, told of all trials that are there: those that are finished tell again what they told."""
    from optuna.samplers import TPESampler
    from ray.tune.search.optuna import OptunaSearch

    over = trials.dimensions(plan.settings.sweep)
    known = [point for trial in trials.known(plan.folder) if (point := _encoded(trial.values, over)) is not None]
    seed = plan.settings.seed + len(known)  # else it would draw those again
    return OptunaSearch(
        metric=metrics if len(metrics) > 1 else metrics[0],
        mode=["max"] * len(metrics) if len(metrics) > 1 else "max",
        points_to_evaluate=known[: plan.settings.sweep.samples],
        sampler=TPESampler(seed=seed),
    )


def _domain(given: tuple[Any, ...] | Range) -> Any:
    """A list by its indexes, because Optuna takes no lists or mappings for values."""
    if not isinstance(given, Range):
        return tune.choice(list(range(len(given))))
    return (tune.loguniform if given.log else tune.uniform)(given.low, given.high)


def _encoded(point: Point, over: dict[str, tuple[Any, ...] | Range]) -> Point | None:
    """The point as Optuna has it; None where the sweep has it no longer."""
    found: Point = {}
    for key, given in over.items():
        value = point.get(key)
        if isinstance(given, Range):
            if not isinstance(value, int | float) or not given.low <= value <= given.high:
                return None
            found[key] = float(value)
        elif value in given:
            found[key] = given.index(value)
        else:
            return None
    return found


def _point(config: dict[str, Any], plan: Plan) -> Point:
    """What Tune's configuration of a trial stands for."""
    if plan.points:
        return plan.points[config["number"]]
    over = trials.dimensions(plan.settings.sweep)
    drawn = {key: given if isinstance(over[key], Range) else over[key][given] for key, given in config.items()}
    return trials.canonical(plan.settings, drawn)


def _trial(config: dict[str, Any], plan: Plan) -> None:
    """What a trial's process runs: the job, rung by rung; reports what each scored."""
    point = _point(config, plan)
    name = trials.name_of(point)
    folder = make_folder(plan.folder / trials.TRIALS / name)
    if Path(plan.here).is_dir():
        os.chdir(plan.here)
    with _alone(folder), log_to(folder / "trial.log"), session.connect(plan.settings.cluster):
        torch.set_num_threads(_threads(plan.settings))
        trial = trials.read(plan.folder, name, point)
        if trial.state != "finished":
            trial = replace(trial, state="begun", error="")
            trials.note(plan.folder, trial)
        start = time.monotonic() - trial.seconds
        done = dict(trial.rungs)
        for budget in plan.budgets:
            if budget not in done:
                try:
                    done[budget] = plan.play(_settings_of(plan, trial), budget)
                except RagdistError as error:
                    if error.exit_code != 2:
                        raise
                    trials.note(plan.folder, replace(trial, state="failed", error=str(error)))
                    return  # bad input: it would only come again
                seconds = round(time.monotonic() - start, 1)
                trial = replace(trial, scores=done[budget], rungs=tuple(done.items()), seconds=seconds)
                trials.note(plan.folder, trial)
            if budget == plan.budgets[-1]:
                trials.note(plan.folder, replace(trial, state="finished", scores=done[budget]))
            means = {shown: scores[plan.settings.sweep.metric][0] for shown, scores in done[budget].items()}
            tune.report({**means, "budget": int(budget)})


def _settings_of(plan: Plan, trial: Trial) -> Settings:
    found = trials.at(plan.settings, trial.values)
    name = f"{plan.settings.run.name}/{trials.TRIALS}/{trial.name}"
    return found.model_copy(update={"run": found.run.model_copy(update={"name": name})})


def _threads(settings: Settings) -> int:
    """Processors that a trial may use in its own process, while its workers rest."""
    cluster = settings.cluster
    return max(1, int(session.worker_cpus(cluster) * cluster.workers))


@contextmanager
def _alone(folder: Path) -> Any:
    """One process a trial: a search may draw the same point twice, and the second then finds it finished."""
    with (folder / ".trial.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Fit(threading.Thread):
    """`Tuner.fit` in a thread, so that the signals stay ours."""

    def __init__(self, tuner: tune.Tuner) -> None:
        super().__init__(daemon=True)
        self.tuner = tuner
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.tuner.fit()
        except Exception as error:  # handed to the thread that waits, which raises it
            self.error = error


class _Asked(tune.Stopper):
    """Ends all trials when a stop was asked for."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.stop.is_set()


class _Watch(tune.Callback):
    """Says how each trial went, and writes down what its own process cannot."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        read = [trials.read(plan.folder, trials.name_of(point), point) for point in plan.points]
        compared = plan.settings.sweep.scheduler != "none"  # then finished ones tell the scheduler again
        self.waiting = [n for n, trial in enumerate(read) if compared or trial.state not in ("finished", "stopped")]
        self.names = [trial.name for trial in read]
        self.done = len(read) - len(self.waiting)
        self.total = len(read) or plan.settings.sweep.samples

    def ended(self) -> list[Trial]:
        """All trials of the plan; where Optuna drew, all in the folder."""
        if not self.plan.points:
            return trials.known(self.plan.folder)
        pairs = zip(self.names, self.plan.points, strict=True)
        return [trials.read(self.plan.folder, name, point) for name, point in pairs]

    def on_trial_start(self, *_: Any, **info: Any) -> None:
        """Says so."""
        track.say(f"trial {trials.label(_point(info['trial'].config, self.plan))} ...")

    def on_trial_recover(self, *_: Any, **info: Any) -> None:
        """A trial failed and is tried again."""
        track.say(f"trial {self._read(info['trial']).name} failed and is tried again: {_why(info['trial'])}")

    def on_trial_complete(self, *_: Any, **info: Any) -> None:
        """A trial came to its end, or the scheduler stopped it."""
        found = self._read(info["trial"])
        if found.state == "begun" and found.rungs:
            found = replace(found, state="stopped")
            trials.note(self.plan.folder, found)
        self._tell(found)

    def on_trial_error(self, *_: Any, **info: Any) -> None:
        """A trial failed for good."""
        found = replace(self._read(info["trial"]), state="failed", error=_why(info["trial"]))
        trials.note(self.plan.folder, found)
        self._tell(found)

    def _read(self, trial: Any) -> Trial:
        point = _point(trial.config, self.plan)
        return trials.read(self.plan.folder, trials.name_of(point), point)

    def _tell(self, trial: Trial) -> None:
        self.done += 1
        metric = self.plan.settings.sweep.metric
        said = ", ".join(f"{shown} {scores[metric][0]:.2f}" for shown, scores in trial.scores.items())
        said = {"failed": trial.error, "stopped": f"stopped early, {said}"}.get(trial.state, said)
        track.say(f"{self.done} of {self.total} trials: {trials.label(trial.values)}: {said}; {trial.seconds:.0f} s")


def _why(trial: Any) -> str:
    """What a trial died of, in a line."""
    error = trial.get_pickled_error()
    return last_line(cause_of(error)) if error else "its process ended"
