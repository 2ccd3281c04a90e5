"""Rendered bundles of all jobs, and the folder of KubeRay's schemas, which is beside the checkout or not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragdist.config import loader
from ragdist.kube import pods, render
from ragdist.plan import layout
from ragdist.sweeps import trials

ROOT = Path(__file__).parents[2]
CRDS = ROOT.parent / "shared" / "crds"
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's schemas are not at {CRDS}")
JOBS = ("raft", "duet", "atm", "sweep-raft", "sweep-atm")
GPU = {
    "atm": ("attacker.gpus_per_worker=1", "generator.gpus_per_worker=1"),
    "raft": ("cluster.gpus_per_worker=1",),
}
SWEPT = {"sweep-raft": ("contexts.oracle_fraction=0,0.5",), "sweep-atm": ("atm.kl_weight=0,0.2",)}
MODEL = ("model.source=meta-llama/Llama-2-7b-hf", "kube.memory_gib=40", "model.dtype=bfloat16")
GENERATOR = ("generator.workers=2", "generator.cpus_per_worker=3", "sweep.concurrent=2", "run.name=night")


def settings_of(job: str, hardware: str = "cpu", storage: str = "claim", *more: str):
    """Settings of a job on a model that is not here."""
    arguments = [*MODEL, *GENERATOR, *SWEPT.get(job, ()), f"kube.storage={storage}", *more]
    if hardware == "gpu":
        arguments += GPU["atm" if job.endswith("atm") else "raft"]
    return (trials.load if job.startswith("sweep") else loader.load)(arguments)


def rendered(job: str, settings: Any, standing: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The manifests, as `planning.render` writes them."""
    plan = layout.make(settings, pods.system(job), None)
    return render.render(settings, job, plan, standing)


def plant(body: Any, path: str, value: Any = None) -> None:
    """Sets what lies at a path such as `spec.containers[0].image`; removes it where the value is `...`."""
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path.replace("\\.", "\0"))]
    *owners, last = [key.replace("\0", ".") if isinstance(key, str) else key for key in keys]
    for key in owners:
        body = body[key] if isinstance(body, list) else body.setdefault(key, {})
    if value is ...:
        del body[last]
    elif isinstance(body, list) and last == len(body):
        body.append(value)
    else:
        body[last] = value


def load(path: Path) -> list[dict[str, Any]]:
    """All documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))
