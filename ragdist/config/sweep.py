"""Settings of a sweep: which settings are tried, how, and by what they are judged."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ragdist.config.block import SettingsBlock


class SweepConfig(SettingsBlock):
    """Many runs of one job that differ in some settings (`ragdist sweep`)."""

    over: dict[str, Any] = Field(default_factory=dict)
    """What is tried: a list of values by setting, or {low, high} and perhaps {log: true} where values are drawn. On the
    command line `key=v1,v2,v3` and `key=low..high`."""
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sets of settings that are tried against each other, by name: `{paper: {}, clean: {atm.clean_weight: 1}}`,
    in place of `sweep.over`. The first is what the others are compared with, question by question."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: every combination; random: drawn by seed; optuna: drawn where it looks best (`pip install
    ragdist[sweeps]`)."""
    samples: int = Field(8, ge=1)
    """random, optuna: combinations that are tried."""
    seeds: int = Field(1, ge=1)
    """grid, random: each combination is run with so many seeds, `seed` and those after it."""
    objective: Literal["clean", "attacked", "both", "mixed"] = "both"
    """What best means: accuracy under the clean list, under the attacked one, or both, whose best is a Pareto front;
    RAFT: mixed, where the oracle is there for `evaluation.oracle_share` of the questions."""
    metric: Literal["em", "subspan", "f1"] = "subspan"
    """How accuracy is measured."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: stop trials early that are worse than others were after as many rounds (ATM), or after as short a training
    (RAFT)."""
    halving: int = Field(2, ge=2)
    """asha: of so many trials that come to a rung, one goes on."""
    rungs: int = Field(3, ge=2)
    """asha, RAFT: rung i of n trains on `train.epochs` / halving^(n-i); ATM's rungs are its rounds."""
    concurrent: int = Field(1, ge=1)
    """Trials at once; they share the cluster's processors evenly where `cpus_per_worker` is 0."""
    gpus_per_trial: float = Field(0, ge=0)
    """GPUs of a trial's own process, which asks the tuned model; its workers have theirs beside."""
    max_failures: int = Field(1, ge=0)
    """Times that a failed trial is tried again, before it is reported as failed."""
