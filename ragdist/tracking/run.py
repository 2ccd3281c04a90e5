"""What a run leaves behind and what a person sees of it: settings, versions, metrics, spans, log, progress.

    with open_run(settings, job="raft") as run:      # locked: one process a run folder
        with span("train"): ...
        metrics("train", step=3, loss=0.41)

Progress goes to stderr: bars on a terminal, a line every ten seconds elsewhere. Results never pass through here.
Without an open run (in tests, in workers) metrics are dropped and progress is shown all the same.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import reduce
from importlib import metadata
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

from ragdist.config import GridConfig, KubeConfig, RunConfig, Settings
from ragdist.config.block import digest
from ragdist.config.loader import dump, flatten, load_kept
from ragdist.errors import ConfigError, PartError, RagdistError, Stopped, StorageError
from ragdist.storage.append import append_row, whole_lines
from ragdist.storage.atomic import atomic_file, make_folder, read_texts, translate_errors, write_json
from ragdist.storage.locks import is_locked, locked
from ragdist.tracking import logs
from ragdist.tracking.progress import say

Item = TypeVar("Item")
log = logging.getLogger("ragdist")
STATE, LOCK = "state.json", ".lock"
PATIENCE_S = 1.0
"""How long the lock of a run may be held by who only looks whether it is."""
BEFORE_WORK = {STATE, LOCK, "settings.yaml", "versions.json", "metrics.jsonl", "log.txt", "log.jsonl"}
BEFORE_WORK |= {"logs", "trackers"}
"""What lies in a run's folder before the run has made anything."""
listeners: list[Callable[[Path, str, Mapping[str, Any]], None]] = []
"""Each is told folder, phase and values of every line that this process adds to a metrics.jsonl."""
PLACES = ("workers", "cpus_per_worker", "gpus_per_worker", "labels", "resources")
HOW = ("run.", "cluster.", "kube.", "serve.", "sweep.", "engines.")
ATM_MAY_CHANGE = (
    *HOW,
    *("evaluation.answerers.", "atm.layout"),
    *(f"{side}.{place}" for side in ("attacker", "generator") for place in (*PLACES, "writers.")),
)
MAY_CHANGE = {
    "raft": (*HOW, "evaluation.", "parts.metric"),
    "evaluate": (*HOW, "evaluation.", "parts.metric"),
    "duet": (*HOW, "evaluation.", "duet.arbiter", "parts.metric"),
    "atm": ATM_MAY_CHANGE,
    "sweep-raft": (*HOW, "evaluation.answerers."),
    "sweep-atm": ATM_MAY_CHANGE,
}
"""What a run may resume with differently: where and how it runs. ATM's rounds are judged as they go."""
KUBE_LATER = (
    *("clients", "env", "labels", "annotations", "priority_class", "user", "resources", "group_node_labels"),
    *("group_taints", "submitter_retries", "dns_namespace", "dns_addresses", "metadata_servers"),
    *("prometheus_namespace", "start_timeout_s"),
)
"""Of `kube`, all of which is counted in at its defaults."""
NAMES_NOTHING = (
    *("serve", "engines", *(f"kube.{name}" for name in KUBE_LATER), "run.keep_checkpoints", "evaluation.answerers"),
    *("attacker.writers", "generator.writers"),
)
"""Settings of later versions that say where and how a job runs."""
LATER: Mapping[str, Sequence[Any]] = {
    "evaluation.oracle_share": [None],
    "evaluation.attacks": [[]],
    "evaluation.defences": [[]],
    "evaluation.grid": [GridConfig().model_dump(mode="json")],
    "duet.evidence_from": [["retrieved", "attacked", "absent"]],
    "duet.abstain_below": [0.0],
    "atm.layout": ["separate"],
    **{f"{block}.engine": ["auto", "transformers"] for block in ("attacker", "generator", "evaluation", "teacher")},
    **{f"{block}.tokens_per_pass": [0] for block in Settings().training},
}
"""Settings of later versions, and the values at which they name nothing."""
LIBRARIES = (
    *("ray", "torch", "transformers", "deepspeed", "trl", "accelerate", "peft", "datasets", "bm25s", "griffe"),
    *("regex", "scikit-learn"),
)
OPTIONAL = ("sentence-transformers", "faiss-cpu")
"""Noted where they are installed."""


@dataclass
class RunFolder:
    """A run's folder: settings.yaml, versions.json, state.json, metrics.jsonl, log.txt, log.jsonl; a job adds more."""

    folder: Path
    settings: Settings
    job: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each finished span, in seconds, summed by name."""

    def write_json(self, name: str, value: Any) -> Path:
        """Writes `value` as JSON below the run's folder, replacing the file in one step."""
        return write_json(self.folder / name, value)

    def set_state(self, state: str, **more: Any) -> None:
        """Writes state.json: running, finished, stopped or failed."""
        self.write_json(STATE, {"job": self.job, "state": state, "time": time.time(), "pid": os.getpid(), **more})


_open: list[RunFolder] = []


def run_folder(settings: Settings, job: str) -> Path:
    """The run's folder: by its name, else by job and settings, so that the same command finds it again.

    Where it runs and who is told of it (`run.*`, `kube.*`) make no other run.
    """
    return Path(settings.run.folder) / (settings.run.name or f"{job}-{digest(_naming(settings))}")


def _naming(settings: Settings) -> dict[str, Any]:
    """What names a run: settings in their places of the first version, so that earlier runs are found."""
    values = settings.unchecked("run", RunConfig()).unchecked("kube", KubeConfig()).model_dump(mode="json")
    values["prompts"] = settings.prompts.named()
    for key in NAMES_NOTHING:
        _taken_out(values, key)
    for key, unused in LATER.items():
        if (value := _taken_out(values, key)) not in unused:
            _block_of(values, key)[key.rpartition(".")[2]] = value
    moved = {name: values["cluster"].pop(name) for name in ("in_flight", "deadline_s")}
    values["atm"] |= {**moved, "max_failures": 3}
    values["kube"]["driver_gpu"] = True
    if (metric := values["sweep"]["metric"]) != "f1":  # the default was exact match
        values["sweep"]["metric"] = "em" if metric == "subspan" else "subspan"
    parts = values.pop("parts") | {"metric": ""}  # which judges what is there
    return values | ({"parts": parts} if any(parts.values()) else {})


def _block_of(values: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = reduce(getitem, key.split(".")[:-1], values)
    return found


def _taken_out(values: dict[str, Any], key: str) -> Any:
    return _block_of(values, key).pop(key.rpartition(".")[2])


def is_held(folder: Path) -> bool:
    """Whether a process works in this run folder now."""
    return is_locked(folder / LOCK)


@contextmanager
def open_run(settings: Settings, job: str) -> Iterator[RunFolder]:
    """The run's folder, locked until the block ends; its state says how the block ended. A StorageError if the folder
    cannot be written, or another process works in it."""
    run = RunFolder(make_folder(run_folder(settings, job), private=True).resolve(), settings, job)

    def refuse(waited_s: float) -> None:
        if waited_s > PATIENCE_S:
            raise StorageError(
                f"another process works in {run.folder}; wait for it, or set run.name=... to start a run of its own"
            )

    with translate_errors(run.folder), locked(run.folder / LOCK, refuse):
        _refuse_other_settings(run)
        with atomic_file(run.folder / "settings.yaml", sync=True) as half:
            half.write_text(dump(settings), "utf-8")
        run.write_json("versions.json", versions())
        run.set_state("running")
        handlers = [logs.Log(run.folder / "log.txt"), logs.Lines(run.folder / "log.jsonl")]
        for kept in handlers:
            log.addHandler(kept)
        log.setLevel(logging.INFO)
        _open.append(run)
        here = ExitStack()
        here.enter_context(logs.at(run=run.folder.name, job=job, round=None, phase=None))
        try:
            yield run
            run.set_state("finished")
        except (Stopped, KeyboardInterrupt) as error:
            run.set_state("stopped", error=str(error))
            raise
        except BaseException as error:  # survives nothing: noted in the run's folder, then raised
            run.set_state("failed", error=f"{type(error).__name__}: {error}")
            log.error("failed", exc_info=isinstance(error, PartError) or not isinstance(error, RagdistError))
            raise
        finally:
            here.close()
            _open.remove(run)
            for kept in handlers:
                log.removeHandler(kept)
                kept.close()


def _refuse_other_settings(run: RunFolder) -> None:
    """A run resumes with what it began with; where it runs and what is asked of it afterwards may change."""
    if not (run.folder / "settings.yaml").exists() or _made_nothing(run.folder):
        return
    began, asked = (
        {key: value for key, value in flatten(settings).items() if not key.startswith(MAY_CHANGE[run.job])}
        for settings in (load_kept(run.folder / "settings.yaml"), run.settings)
    )
    changed = [
        f"{key}={json.dumps(began[key])}, now {json.dumps(asked[key])}" for key in asked if asked[key] != began[key]
    ]
    if changed:
        raise ConfigError(
            f"{run.folder} was begun with {'; '.join(changed)}; "
            "set run.name=... for a run of its own, or remove the folder"
        )


def _made_nothing(folder: Path) -> bool:
    """Whether a run ended in this folder before it had made anything."""
    if {path.name for path in folder.iterdir()} - BEFORE_WORK:
        return False
    try:
        return read_texts(folder / STATE, "state")["state"] != "finished"
    except (StorageError, FileNotFoundError):
        return True


def owner(folder: Path) -> tuple[str, str]:
    """Name and job of the run that a folder is part of; its own name and no job where it is part of none."""
    for above in (folder, *folder.parents):
        if (above / STATE).exists():
            return above.name, read_texts(above / STATE, "job")["job"]
    return folder.name, ""


def is_open(folder: Path) -> bool:
    """Whether this is the open run's folder."""
    return bool(_open) and _open[-1].folder == folder


def metrics(phase: str, **values: Any) -> None:
    """Adds a line to the open run's metrics.jsonl."""
    if _open:
        append_metrics(_open[-1].folder, phase, **values)


def append_metrics(folder: Path, phase: str, **values: Any) -> None:
    """Adds a line to metrics.jsonl in a run's folder; for workers, that have no open run of their own."""
    append_row(folder / "metrics.jsonl", {"time": round(time.time(), 3), "phase": phase, **values})
    for tell in listeners:
        tell(folder, phase, values)


def steps_told(phase: str) -> set[int]:
    """The steps of this phase that the open run's metrics.jsonl has a line for."""
    lines = map(json.loads, whole_lines(_open[-1].folder / "metrics.jsonl")) if _open else ()
    return {line["step"] for line in lines if line["phase"] == phase and "step" in line}


@contextmanager
def span(name: str) -> Iterator[None]:
    """Times a phase, says on stderr that it began and how long it took, and notes it in the open run."""
    start = time.monotonic()
    with logs.at(**logs.phase(name)):
        say(f"{name} ...")
        yield
        seconds = time.monotonic() - start
        say(f"{name}: {seconds:.1f} s")
    metrics("span", name=name, seconds=round(seconds, 3))
    if _open:
        _open[-1].seconds[name] = _open[-1].seconds.get(name, 0.0) + seconds


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the packages that numbers depend on; nothing of the environment."""
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    for name in ("ragdist", *LIBRARIES, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name not in OPTIONAL:
                found[name] = "not installed"
    return found
