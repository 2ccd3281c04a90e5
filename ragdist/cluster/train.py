"""Tuning as a Ray Train job: N workers, replaced when they die, stopped when asked.

The workers run `lm.tune`, which writes into the run's folder; every machine needs to see it. Ray places and
restarts them and is told of each checkpoint, but copies none.

    folder/logs/rank-N.log    all that worker N said
    folder/began.json         rows and workers that the run goes on with
    folder/failure.json       an error that no restart can mend, left by the worker that met it
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ragdist import errors, track
from ragdist.cluster import session
from ragdist.cluster.workers import environment, last_line, log_to
from ragdist.config import Settings
from ragdist.lm.checkpoints import CHECKPOINTS, MODEL, STOP
from ragdist.lm.order import training_steps
from ragdist.lm.tune import request_stop, tune
from ragdist.roles import Lesson
from ragdist.signals import stop_on_signal
from ragdist.store import make_folder

FAILURE, LOGS, BEGAN = "failure.json", "logs", "began.json"
POLL_S = 0.2
COLLECTIVE_TIMEOUT_S = 1800
"""A rank that waits longer than this for the others takes the run down, and Ray restarts it."""


class RayTuner:
    """Plays Tuner: fine-tunes on `cluster.workers` Ray workers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def tune(self, lessons: Sequence[Lesson]) -> list[Path]:
        """See `roles.Tuner`; in turn."""
        return [self._tune(lesson.rows, lesson.folder) for lesson in lessons]

    def _tune(self, examples: Path, folder: Path) -> Path:
        """The tuned model's folder; at once where it is already there.

        Args:
            examples: JSONL of Example, seen by all workers.
            folder: the run's folder, seen by all workers; what an earlier call left there is gone on with.

        Raises:
            ConfigError: too few rows for a step, no cluster with enough room, or another number of workers than before.
            DataError: the rows are not those that the run began with.
            ModelError, DataError, StorageError: as a worker met it.
            Stopped: SIGINT or SIGTERM; the state is saved and the same call goes on.
            TrainError: workers died more than `cluster.max_failures` times, or did not start in time.
        """
        examples, folder = examples.resolve(), make_folder(folder).resolve()
        _begin(examples, folder, self.settings.cluster.workers)
        if (folder / MODEL).exists():
            return folder / MODEL
        with examples.open() as lines:
            rows = sum(1 for _ in lines)
        train = self.settings.train
        steps = training_steps(rows, epochs=train.epochs, examples_per_step=train.examples_per_step)
        for left in (STOP, FAILURE):
            (folder / left).unlink(missing_ok=True)
        with session.connect(self.settings.cluster), stop_on_signal(lambda: request_stop(folder)) as stop:
            job = _Job(_trainer(examples, folder, self.settings))
            _watch(job, folder, steps, self.settings.cluster.start_timeout_s, stop)
        return _outcome(job, folder)


def _begin(examples: Path, folder: Path, workers: int) -> None:
    """Notes what the run is begun with, and refuses to go on with anything else.

    Raises:
        DataError: the rows are not those that the run began with.
        ConfigError: its checkpoints are shards of another number of workers.
    """
    with examples.open("rb") as file:
        now = {"rows": hashlib.file_digest(file, "sha256").hexdigest(), "workers": workers}
    if not (folder / BEGAN).exists():
        track.write_json(folder / BEGAN, now)
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


class _Job(threading.Thread):
    """`TorchTrainer.fit` in a thread, so that the signals stay ours; it dies with the process."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self.trainer = trainer
        self.told: dict[str, str] = {}
        """What rank 0 returned."""
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            result: Any = self.trainer.fit()
            self.told = result.return_value
        except Exception as error:  # handed to the thread that waits: `_outcome` raises it
            self.error = error


def _trainer(examples: Path, folder: Path, settings: Settings) -> TorchTrainer:
    cluster = settings.cluster
    cpus = session.worker_cpus(cluster)
    resources = {"CPU": cpus} | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})
    return TorchTrainer(
        _work,
        train_loop_config={"examples": str(examples), "folder": str(folder), "settings": settings.model_dump()},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=bool(cluster.gpus_per_worker), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            callbacks=[_Note(folder)],
            worker_runtime_env={"env_vars": environment(cluster, cpus, cluster.gpus_per_worker)},
        ),
    )


def _work(job: dict[str, Any]) -> dict[str, str]:
    """What every worker runs; returns why it stopped, if it did."""
    folder, settings = Path(job["folder"]), Settings.model_validate(job["settings"])
    if (folder / FAILURE).exists():
        return {}  # Ray restarts workers after any error; this one would only come again
    rank = ray.train.get_context().get_world_rank()
    with log_to(make_folder(folder / LOGS) / f"rank-{rank}.log"):
        if rank == 0:
            track.append_metrics(folder, "workers_started", workers=settings.cluster.workers)
        try:
            tune(Path(job["examples"]), folder, settings, callbacks=[Report()])
        except errors.Stopped as stopped:
            return {"stopped": str(stopped)}
        except errors.RagdistError as error:
            track.write_json(folder / FAILURE, {"kind": type(error).__name__, "message": str(error)})
            raise
    return {}


class Report(TrainerCallback):
    """Tells Ray of each checkpoint, once all ranks have written their part.

    Ray is not handed the checkpoint itself: it would copy it once a rank, or keep a list of its own, which a
    killed driver's controller still writes to while the next one starts. The marks in the folders are the list.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        path = Path(args.output_dir or "") / f"checkpoint-{state.global_step}"
        ray.train.report({"step": state.global_step, "saved": str(path)})


class _Note(UserCallback):
    """Notes in metrics.jsonl that workers were lost, for the driver to say so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ranks = {str(rank): last_line(error) for rank, error in worker_exceptions.items()}
        track.append_metrics(self.folder, "workers_lost", ranks=ranks)


def _watch(job: _Job, folder: Path, steps: int, start_timeout_s: float, stop: threading.Event) -> None:
    """Shows what the workers note in metrics.jsonl until the job ends.

    Raises:
        Stopped: a stop was asked for while no worker was at work; nothing is lost.
        TrainError: workers did not start within `start_timeout_s`.
    """
    waiting: float | None = time.monotonic()
    with track.Bar("train", steps, "steps") as bar, _tail(folder / "metrics.jsonl") as new_lines:
        while job.is_alive():
            job.join(POLL_S)
            for line in new_lines():
                if line["phase"] == "workers_started":
                    waiting = None
                elif line["phase"] == "workers_lost":
                    waiting = time.monotonic()
                    track.say("; ".join(f"worker {rank}: {why}" for rank, why in line["ranks"].items()))
                elif line["phase"] in {"train_start", "train"} and line["step"] > bar.done:
                    note = (
                        f"loss {line['loss']:.3f}, {line['useful_tokens_per_s']:.0f} tokens/s" if "loss" in line else ""
                    )
                    bar.advance(line["step"] - bar.done, note)
            if waiting is not None and stop.is_set():
                raise errors.Stopped("stopped before the workers were at work; the same command goes on")
            if waiting is not None and time.monotonic() - waiting > start_timeout_s:
                raise errors.TrainError(
                    f"no workers after {start_timeout_s:.0f} s on a cluster of {session.room()}; "
                    "free machines that others use, or raise cluster.start_timeout_s"
                )


@contextmanager
def _tail(path: Path) -> Iterator[Any]:
    """A function that gives the JSON lines written to `path` since it was last called."""
    path.touch()
    with path.open() as file:
        file.seek(0, 2)
        half = ""

        def new_lines() -> list[dict[str, Any]]:
            nonlocal half
            *whole, half = (half + file.read()).split("\n")
            return [json.loads(line) for line in whole]

        yield new_lines


def _outcome(job: _Job, folder: Path) -> Path:
    """The model's folder, or the error that the job ended with."""
    failure = folder / FAILURE
    if failure.exists():
        found = json.loads(failure.read_text())
        raise getattr(errors, found["kind"])(found["message"])
    if job.error is None and "stopped" in job.told:
        raise errors.Stopped(f"{job.told['stopped']}; the same command goes on")
    if job.error is None:
        return folder / MODEL
    ranks = job.error.worker_failures if isinstance(job.error, ray.train.WorkerGroupError) else {}
    why = "; ".join(f"worker {rank}: {last_line(error)}" for rank, error in ranks.items()) or last_line(job.error)
    raise errors.TrainError(f"training failed: {why}; the whole story is in {folder / LOGS}")
