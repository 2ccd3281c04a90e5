"""The numbers of metrics.jsonl as Ray's own metrics, for Prometheus at every node's metrics port.

    ragdist_loss{run="mine",job="atm",round="0",phase="attacker"} 0.41
    ragdist_span_seconds{run="mine",job="raft",round="",phase="train"} 92.1

Whichever process of the cluster writes a line sets the gauges too; a process outside Ray sets none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.metrics import Gauge

from ragdist.tracking import logs
from ragdist.tracking.run import listeners, owner

TAGS = ("run", "job", "round", "phase")
_gauges: dict[str, Gauge] = {}


@contextmanager
def kept() -> Iterator[None]:
    """Lines that this process notes in the block are gauges as well."""
    if _set in listeners:
        yield
        return
    listeners.append(_set)
    try:
        yield
    finally:
        listeners.remove(_set)


def _set(folder: Path, phase: str, values: Mapping[str, Any]) -> None:
    if not ray.is_initialized():
        return
    prefix = "ragdist_"
    if phase == "span":
        phase, values, prefix = str(values["name"]), {"seconds": values["seconds"]}, "ragdist_span_"
    run, job = owner(folder)
    where = logs.phase(phase)
    tags = {"run": run, "job": job, "round": "" if where["round"] is None else str(where["round"])}
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _gauge(prefix + re.sub(r"\W", "_", name)).set(value, tags | {"phase": where["phase"]})


def _gauge(name: str) -> Gauge:
    if name not in _gauges:
        _gauges[name] = Gauge(name, "See docs/clusters.md of ragdist.", TAGS)
    return _gauges[name]
