"""One tuning job on Ray Train: N workers, replaced when they die, and what the driver sees of them.

The workers run `lm.tune`, which writes into the lesson's folder; every machine needs to see it. Ray places and
restarts them and is told of each checkpoint, but copies none.

    folder/logs/rank-N.log    all that worker N said; what it logged also as JSON, rank-N.jsonl
    folder/failure.json       an error that no restart can fix, left by the worker that met it
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ragdist import errors
from ragdist.cluster import gauges, session
from ragdist.cluster.workers import environment, last_line, log_to
from ragdist.config import Settings
from ragdist.lm.checkpoints import STOP
from ragdist.lm.tune import request_stop, tune
from ragdist.roles import TrainingJob
from ragdist.storage.append import whole_lines
from ragdist.storage.atomic import make_folder, write_json
from ragdist.tracking.progress import say
from ragdist.tracking.run import append_metrics, is_open, metrics, owner

FAILURE, LOGS, METRICS = "failure.json", "logs", "metrics.jsonl"
COLLECTIVE_TIMEOUT_S = 1800
"""A rank that waits longer than this for the others takes the job down, and Ray restarts it."""


class TrainingThread(threading.Thread):
    """`TorchTrainer.fit` in a thread, so that the signals stay ours; it dies with the process.

    Args:
        lesson: paths are absolute.
        settings: all settings.
        steps: optimizer steps of the whole lesson.
    """

    def __init__(self, lesson: TrainingJob, settings: Settings, steps: int) -> None:
        super().__init__(daemon=True)
        self.lesson, self.settings, self.steps = lesson, settings, steps
        self.done = 0
        """Steps done, as far as the workers noted."""
        self.latest: dict[str, Any] = {}
        """The last step's line in metrics.jsonl."""
        self.error: Exception | None = None
        """What ended it, or made the driver give it up; `Stopped` where it goes on later."""
        self.given_up = False
        """Nobody waits for it any more."""
        self._waits_since: float | None = time.monotonic()
        self._metrics = lesson.folder / METRICS
        self._read = self._metrics.stat().st_size if self._metrics.exists() else 0
        for left in (STOP, FAILURE):
            (lesson.folder / left).unlink(missing_ok=True)
        workers = settings.cluster.workers
        say(f"{lesson.name}: starting {workers} worker{'s' if workers > 1 else ''}")
        self.start()

    def run(self) -> None:
        told: dict[str, str] = {}
        error: Exception | None = None
        try:
            result: Any = _trainer(self.lesson, self.settings).fit()
            told = result.return_value
        except Exception as raised:  # handed to the thread that waits: `RayTuner` raises it
            error = raised
        if not self.given_up:
            self.error = self._verdict(told, error)

    @property
    def going(self) -> bool:
        """Whether it has not ended, and is waited for."""
        return self.is_alive() and not self.given_up

    @property
    def failed(self) -> bool:
        """Whether it ended without a model, and not because it was asked to."""
        return not self.going and self.error is not None and not isinstance(self.error, errors.Stopped)

    def ask_to_stop(self) -> None:
        """Lets the workers save after the step that they are in, and end."""
        if self.going:
            request_stop(self.lesson.folder)

    def forget_the_request(self) -> None:
        """For a request that came when the workers were past their last step; workers that may come yet keep it."""
        if not self.given_up:
            (self.lesson.folder / STOP).unlink(missing_ok=True)

    def look(self) -> None:
        """Takes notice of what the workers noted since the last look."""
        for raw in whole_lines(self._metrics, self._read):
            self._read, line = self._read + len(raw), json.loads(raw)
            if line["phase"] == "workers_started":
                self._waits_since = None
                say(f"{self.lesson.name}: workers are up; loading the model")
            elif line["phase"] == "workers_lost":
                self._waits_since = time.monotonic()
                lost = "; ".join(f"worker {rank}: {why}" for rank, why in line["ranks"].items())
                say(f"{self.lesson.name}: {lost}")
            elif line["phase"] in {"train_start", "train"}:
                if line["phase"] == "train_start":
                    say(f"{self.lesson.name}: the model is loaded; {line['step']} of {self.steps} steps are done")
                self.done = max(self.done, line["step"])
            if line["phase"] == "train":
                self.latest = line
                if not is_open(self.lesson.folder):
                    numbers = {name: value for name, value in line.items() if name not in ("time", "phase")}
                    metrics(f"train {self.lesson.name}", **numbers)

    def give_up_waiting(self, stopping: bool) -> None:
        """Waits no longer for workers that are not at work, when there is a reason; nothing is lost.

        Args:
            stopping: the job need not be done now.
        """
        if self._waits_since is None or not self.going:
            return
        limit_s = self.settings.cluster.start_timeout_s
        if stopping:
            self.error = errors.Stopped("stopped before the workers were at work")
        elif time.monotonic() - self._waits_since > limit_s:
            self.error = errors.TrainError(
                f"no workers after {limit_s:.0f} s on a cluster of {session.room()}; "
                "free machines that others use, or raise cluster.start_timeout_s"
            )
        else:
            return
        request_stop(self.lesson.folder)  # should they come after all
        self.given_up = True

    def _verdict(self, told: dict[str, str], error: Exception | None) -> Exception | None:
        """What the job ended with, in words; None where there is a model.

        Args:
            told: what rank 0 returned.
            error: what `fit` raised.
        """
        failure = self.lesson.folder / FAILURE
        if failure.exists():
            found = json.loads(failure.read_text())
            known: Exception = getattr(errors, found["kind"])(found["message"])
            return known
        if error is None:
            return errors.Stopped(told["stopped"]) if "stopped" in told else None
        ranks = error.worker_failures if isinstance(error, ray.train.WorkerGroupError) else {}
        why = "; ".join(f"worker {rank}: {last_line(one)}" for rank, one in ranks.items()) or last_line(error)
        return errors.TrainError(f"training failed: {why}; the whole story is in {self.lesson.folder / LOGS}")


def _trainer(lesson: TrainingJob, settings: Settings) -> TorchTrainer:
    cluster = settings.cluster
    cpus = session.worker_cpus(cluster)
    resources = {"CPU": cpus} | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})
    job = {"rows": str(lesson.rows), "folder": str(lesson.folder), "kind": lesson.kind, "name": lesson.name}
    return TorchTrainer(
        _work,
        train_loop_config=job | {"settings": settings.unchecked("train", lesson.train).model_dump()},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=bool(cluster.gpus_per_worker), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(lesson.folder / "ray"),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            callbacks=[_Note(lesson.folder)],
            worker_runtime_env={"env_vars": environment(cluster, cpus, cluster.gpus_per_worker)},
        ),
    )


def _work(job: dict[str, Any]) -> dict[str, str]:
    """What every worker runs; returns why it stopped, if it did."""
    folder, settings = Path(job["folder"]), Settings.model_validate(job["settings"])
    if (folder / FAILURE).exists():
        return {}  # Ray restarts workers after any error; this one would only come again
    rank = ray.train.get_context().get_world_rank()
    run, kind = owner(folder)
    where = {"run": run, "job": kind, "lesson": job["name"], "phase": "train", "rank": rank}
    with gauges.kept(), log_to(make_folder(folder / LOGS) / f"rank-{rank}.log", "train", **where):
        if rank == 0:
            append_metrics(folder, "workers_started", workers=settings.cluster.workers)
        try:
            tune(
                Path(job["rows"]), folder, settings, kind=job["kind"], name=job["name"], callbacks=[ProgressCallback()]
            )
        except errors.Stopped as stopped:
            return {"stopped": str(stopped)}
        except errors.RagdistError as error:
            write_json(folder / FAILURE, {"kind": type(error).__name__, "message": str(error)})
            raise
    return {}


class ProgressCallback(TrainerCallback):
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
        append_metrics(self.folder, "workers_lost", ranks=ranks)
