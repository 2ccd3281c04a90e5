"""Tuning on Ray: each lesson is a Ray Train job (`cluster/job.py`), side by side where there is room for all.

`began.json` in a lesson's folder names the rows and the workers that it goes on with.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ragdist import errors
from ragdist.cluster import session
from ragdist.cluster.job import TrainingThread
from ragdist.config import ClusterConfig, Settings
from ragdist.lm.checkpoints import CHECKPOINTS, MODEL
from ragdist.lm.order import training_steps
from ragdist.roles import TrainingJob
from ragdist.storage.atomic import make_folder, write_json
from ragdist.tracking.progress import Bar, say
from ragdist.tracking.signals import stop_on_signal

BEGAN = "began.json"
POLL_S = 0.2


class RayTuner:
    """Implements Tuner: fine-tunes on `cluster.workers` Ray workers for each lesson."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def tune(self, lessons: Sequence[TrainingJob]) -> list[Path]:
        """The tuned models' folders; at once where they are already there.

        A signal to stop, or a job that fails, lets every job save after the step that it is in.

        Args:
            lessons: each with a name and a folder of its own. Rows and folder are seen by all workers; what an earlier
                call left in a folder is resumed.

        Raises:
            ConfigError: no row to train on, no cluster with enough room, or another number of workers than before.
            DataError: the rows are not those that the run began with.
            ModelError, DataError, StorageError: as a worker met it.
            Stopped: SIGINT or SIGTERM; the state is saved and the same call goes on.
            TrainError: workers died more than `cluster.max_failures` times, or did not start in time.
        """
        given = [
            replace(lesson, rows=lesson.rows.resolve(), folder=make_folder(lesson.folder).resolve())
            for lesson in lessons
        ]
        for lesson in given:
            _begin(lesson, self.settings.cluster.workers)
        todo = [lesson for lesson in given if not (lesson.folder / MODEL).exists()]
        if todo:
            self._train(todo, {lesson.name: _steps(lesson) for lesson in todo})
        return [lesson.folder / MODEL for lesson in given]

    def _train(self, lessons: Sequence[TrainingJob], steps: Mapping[str, int]) -> None:
        cluster = self.settings.cluster
        jobs: list[TrainingThread] = []

        def ask() -> None:
            for job in jobs:
                job.ask_to_stop()

        with session.connect(cluster), stop_on_signal(ask) as stop:
            rounds = turns(lessons, cluster.workers, session.seats(cluster))
            if len(lessons) > 1:
                say(_plan(rounds, cluster))
            with Bar("train", sum(steps.values()), "steps") as bar:
                for lessons_at_once in rounds:
                    if stop.is_set():
                        raise errors.Stopped("stopped between two lessons; the same command goes on")
                    jobs[:] = [TrainingThread(lesson, self.settings, steps[lesson.name]) for lesson in lessons_at_once]
                    _watch(jobs, bar, stop)
                    for job in jobs:
                        job.forget_the_request()
                    _raise_what_went_wrong(jobs)


def turns(lessons: Sequence[TrainingJob], workers: int, room: int) -> list[list[TrainingJob]]:
    """The lessons that are tuned at once, turn by turn: all, where there is room for every worker, else one each.

    Args:
        lessons: to be tuned.
        workers: of each.
        room: workers that the cluster has room for.
    """
    return [list(lessons)] if workers * len(lessons) <= room else [[lesson] for lesson in lessons]


def _plan(rounds: Sequence[Sequence[TrainingJob]], cluster: ClusterConfig) -> str:
    names = [lesson.name for lessons in rounds for lesson in lessons]
    takes = f"{session.worker_cpus(cluster):g} CPUs and {cluster.gpus_per_worker:g} GPUs"
    why = f"{len(names)} x {cluster.workers} workers with {takes} each, room for {session.seats(cluster)}"
    if len(rounds) == 1:
        return f"{', '.join(names)} are tuned side by side: {why} ({session.room()})"
    return (
        f"{', '.join(names)} are tuned in turn: {why} ({session.room()}); add machines, or ask for less with "
        "cluster.cpus_per_worker or cluster.gpus_per_worker, to have them side by side"
    )


def _steps(lesson: TrainingJob) -> int:
    """Optimizer steps of the whole lesson."""
    with lesson.rows.open() as lines:
        rows = sum(1 for _ in lines)
    try:
        return training_steps(rows, lesson.train, lesson.block)
    except errors.ConfigError as error:
        raise errors.ConfigError(f"{lesson.name}: {error}") from None


def _begin(lesson: TrainingJob, workers: int) -> None:
    """Notes what the run is begun with, and refuses to go on with anything else.

    Raises:
        DataError: the rows are not those that the run began with.
        ConfigError: its checkpoints are shards of another number of workers.
    """
    folder = lesson.folder
    with lesson.rows.open("rb") as file:
        now = {"rows": hashlib.file_digest(file, "sha256").hexdigest(), "workers": workers}
    if not (folder / BEGAN).exists():
        write_json(folder / BEGAN, now)
    began = json.loads((folder / BEGAN).read_text())
    if began["rows"] != now["rows"]:
        raise errors.DataError(
            f"the training rows changed since {folder} was begun (other documents, questions or package versions); "
            "set run.name=... for a run of its own, or remove the folder"
        )
    unfinished = (folder / CHECKPOINTS).exists() and not (folder / MODEL).exists()
    if unfinished and began["workers"] != workers:
        raise errors.ConfigError(
            f"{folder} has checkpoints of {began['workers']} workers, cluster.workers={workers}; "
            f"set cluster.workers={began['workers']}, or run.name=... for a run of its own"
        )


def _watch(jobs: Sequence[TrainingThread], bar: Bar, stop: threading.Event) -> None:
    """Shows how the jobs get on until none is waited for any more.

    When one fails the others save and end. Those whose workers are not at work when it is time to stop are left alone.
    """
    before, asked = bar.done, False
    while True:
        going = [job for job in jobs if job.going]
        for job in jobs:  # what ended before this look has noted its last step
            job.look()
        if (done := before + sum(job.done for job in jobs)) > bar.done:
            bar.advance(done - bar.done, _note(jobs))
        if not going:
            return
        failed = any(job.failed for job in jobs)
        if failed and not asked:
            asked = True
            for job in going:
                job.ask_to_stop()
        for job in going:
            job.give_up_waiting(failed or stop.is_set())
        going[0].join(POLL_S)


def _note(jobs: Sequence[TrainingThread]) -> str:
    """What stands beside the bar."""
    alone = len(jobs) == 1
    return "; ".join(
        ("" if alone else f"{job.lesson.name} {job.done}/{job.steps} ")
        + f"loss {job.latest['loss']:.3f}, {job.latest['useful_tokens_per_s']:.0f} tokens/s"
        for job in jobs
        if job.latest
    )


def _raise_what_went_wrong(jobs: Sequence[TrainingThread]) -> None:
    """Raises the first failure, else that jobs were stopped."""

    def said(job: TrainingThread) -> str:
        return f"{job.error}" if len(jobs) == 1 else f"{job.lesson.name}: {job.error}"

    for job in jobs:
        if job.error and job.failed:
            raise type(job.error)(said(job))
    if stopped := [said(job) for job in jobs if job.error]:
        raise errors.Stopped(f"{'; '.join(stopped)}; the same command goes on")
