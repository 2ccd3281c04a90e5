"""Trials on a Ray cluster. Ray Tune says which are run and when; each is a process that runs the ordinary job.

That process takes no seat of its own (but `sweep.gpus_per_trial`): the job's workers have theirs in placement groups
of the job. It reports between rungs only, when the job has given all seats back, so a trial that the scheduler stops
holds none. A trial whose process dies leaves those of its job behind: Ray removes a placement group when both its
creator and the whole sweep are gone, and its own cleaner needs a dashboard. `place.tidy` gives them back at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler

from ragdist.cluster import place, pool, session
from ragdist.cluster.ranks import cause_of
from ragdist.cluster.trial import SweepSpec, point_of, work
from ragdist.cluster.workers import last_line
from ragdist.config import Settings
from ragdist.errors import Stopped, TrainError
from ragdist.sweeps import trials
from ragdist.sweeps.trials import OBJECTIVES, Point, Range, Trial
from ragdist.tracking.progress import say
from ragdist.tracking.signals import stop_on_signal

POLL_S = 0.5
DIED = "its process died"
NO_SEAT = {"memory": 1.0}
"""One byte: Ray has no request for nothing, and a processor less would leave the workers none."""


def run(plan: SweepSpec) -> list[Trial]:
    """All trials as they ended; those that are finished already are not run again.

    Raises:
        ConfigError: the cluster cannot be reached.
        Stopped: SIGINT or SIGTERM; what trials kept stays, and the same call goes on.
        TrainError: Tune itself failed.
    """
    plan = replace(plan, here=os.getcwd())
    with session.connect(plan.settings.cluster), stop_on_signal(what="trials under way are ended") as stop:
        plan = replace(plan, settings=shared_out(plan.settings))
        asked = _StopRequested(stop)
        watch = _Watch(plan, asked)
        if watch.waiting or not plan.points:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are told of by `watch`
            with pool.opened(plan.settings, plan.groups, plan.folder) as answering:
                fit = _Fit(_tuner(replace(plan, pool=answering), watch, asked))
                while fit.is_alive():
                    fit.join(POLL_S)
                    place.tidy()
            place.await_leaving()
            if stop.is_set():
                raise Stopped("stopped; the same command goes on, finished trials are not run again")
            if fit.error:
                raise TrainError(f"the sweep failed: {last_line(cause_of(fit.error))}")
    return watch.ended()


def shared_out(settings: Settings) -> Settings:
    """Settings whose workers take their share of the processors, where several trials run at once."""
    trials_at_once = settings.sweep.concurrent
    if trials_at_once == 1:
        return settings

    def share(cpus: float) -> float:
        return int(10_000 * cpus / trials_at_once) / 10_000

    found = settings
    for block in (name for together in settings.groups for name in together):
        if settings.group(block).workers and not settings.group(block).cpus_per_worker:
            found = found.unchecked(f"{block}.cpus_per_worker", share(place.rank_cpus(settings, block)))
    return found


def _tuner(plan: SweepSpec, watch: _Watch, asked: _StopRequested) -> tune.Tuner:
    config, metrics = plan.settings.sweep, list(OBJECTIVES[plan.settings.sweep.objective])
    scheduler: Any = None
    if config.scheduler == "asha":
        scheduler = ASHAScheduler(
            "budget",
            metric=metrics[0],
            mode="max",
            max_t=plan.rungs[-1].budget,
            grace_period=plan.rungs[0].budget,
            reduction_factor=config.halving,
        )
    space: dict[str, Any] = {"number": tune.grid_search(watch.waiting)}
    if not plan.points:
        space = {key: _domain(given) for key, given in trials.dimensions(config).items()}
    seat = {"GPU": config.gpus_per_trial} if config.gpus_per_trial else NO_SEAT
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(work, plan=plan), seat),
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
            stop=asked,
            verbose=0,
        ),
    )


def _optuna(plan: SweepSpec, metrics: list[str]) -> Any:
    """Optuna's sampler, told of all trials that are there: those that are finished tell again what they told."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    over = trials.dimensions(plan.settings.sweep)
    known = [point for trial in trials.known(plan.folder) if (point := _encoded(trial.values, over)) is not None]
    seed = plan.settings.seed + len(known)  # else it would draw those again
    return OptunaSearch(
        metric=metrics if len(metrics) > 1 else metrics[0],
        mode=["max"] * len(metrics) if len(metrics) > 1 else "max",
        points_to_evaluate=known[: plan.settings.sweep.samples],
        sampler=optuna.samplers.TPESampler(seed=seed),
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


class _StopRequested(tune.Stopper):
    """Ends all trials when a stop was asked for."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether it was."""
        return self.stop.is_set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps itself to be restored, which we do from the trials' folders


class _Watch(TrialProgressCallback):
    """Says how each trial went, and writes down what its own process cannot.

    Tune's own callback of this kind prints to stdout, and stays away where there is another.
    """

    def __init__(self, plan: SweepSpec, asked: _StopRequested) -> None:
        super().__init__()
        self.plan, self.asked = plan, asked
        compared = plan.settings.sweep.scheduler != "none"  # then those that are over tell the scheduler again
        self.waiting = [n for n, p in enumerate(plan.points) if compared or not trials.is_over(plan.folder, p)]
        self.done = len(plan.points) - len(self.waiting)
        self.total = len(plan.points) or plan.settings.sweep.samples

    def ended(self) -> list[Trial]:
        """All trials of the plan; where Optuna drew, all in the folder."""
        if not self.plan.points:
            return trials.known(self.plan.folder)
        return [trials.read(self.plan.folder, trials.name_of(point), point) for point in self.plan.points]

    def on_trial_start(self, *_: Any, **info: Any) -> None:
        """Says so."""
        say(f"trial {trials.label(point_of(info['trial'].config, self.plan))} ...")

    def on_trial_result(self, *_: Any, **info: Any) -> None:
        """Nothing: what a rung scored is in the trial's folder."""

    def on_trial_recover(self, *_: Any, **info: Any) -> None:
        """A trial failed and is tried again."""
        found = self._read(info["trial"])
        say(f"trial {trials.label(found.values)} failed and is tried again: {found.error or DIED}")

    def on_trial_complete(self, *_: Any, **info: Any) -> None:
        """A trial came to its end, or the scheduler stopped it, or all were ended."""
        found = self._read(info["trial"])
        if found.state == "begun" and found.rungs and not self.asked.stop_all():
            found = replace(found, state="stopped")
            trials.note(self.plan.folder, found)
        self._tell(found)

    def on_trial_error(self, *_: Any, **info: Any) -> None:
        """A trial failed for good."""
        found = self._read(info["trial"])
        found = replace(found, state="failed", error=found.error or DIED)
        trials.note(self.plan.folder, found)
        self._tell(found)

    def _read(self, trial: Any) -> Trial:
        point = point_of(trial.config, self.plan)
        return trials.read(self.plan.folder, trials.name_of(point), point)

    def _tell(self, trial: Trial) -> None:
        self.done += 1
        metric = self.plan.settings.sweep.metric
        own = {shown: scores for shown, scores in trial.scores.items() if not shown.startswith("base_")}
        said = ", ".join(f"{shown} {scores[metric][0]:.2f}" for shown, scores in own.items())
        said = {"failed": trial.error, "stopped": f"stopped early, {said}"}.get(trial.state, said)
        say(f"{self.done} of {self.total} trials: {trials.label(trial.values)}: {said}; {trial.seconds:.0f} s")
