"""Jobs on `machines`: the entry points as they are shipped, started on the head."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragdist.config import Settings, loader
from ragdist.config.loader import resolve
from tests import game
from tests.multinode.machines import ROOT, Machine, wait_until

ATTACKER, GENERATOR = "group=attacker", "group=generator"
FINISH_S = 240.0
"""Longest wait, in seconds, for a job to end."""


@dataclass
class Driver:
    """A job that runs."""

    run: Path
    """Its run folder."""
    log: Path
    process: subprocess.Popen[bytes]

    def wait_until(self, true: Any, what: str, longest_s: float = 150.0) -> None:
        """As `machines.wait_until`; a driver that ended is not waited for."""

        def so() -> bool:
            if true():
                return True
            assert self.process.poll() is None, f"{what}: the driver ended before, {self.said()}"
            return False

        wait_until(so, f"{what} ({self.said()})", longest_s)

    def finish(self) -> None:
        """Returns when the job has ended well."""
        try:
            code = self.process.wait(FINISH_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.run.name} is not done after {FINISH_S:g} s: {self.said()}") from None
        assert code == 0, self.said()

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-4000:]


def start(job: str, settings: Settings, head: Machine, folder: Path, **variables: str) -> Driver:
    """`python jobs/JOB.py settings.yaml` on the head."""
    name = settings.run.name
    yaml, log = folder / f"{name}.yaml", folder / f"{name}.log"
    yaml.write_text(loader.dump(settings))
    process = head.run([sys.executable, str(ROOT / "jobs" / f"{job}.py"), str(yaml)], log, **variables)
    return Driver(Path(settings.run.folder) / name, log, process)


def cluster(head: Machine, workers: int = 1) -> dict[str, Any]:
    """The settings that name the cluster; the hosts' own name is 127.0.0.1 to themselves, as Debian has it."""
    joined = {"address": f"{head.address}:6379", "network_interface": "eth0", "start_timeout_s": 180}
    return joined | {"workers": workers}


def raft(folder: Path, model: Path, name: str, head: Machine) -> Settings:
    """RAFT with two workers, ZeRO 2, 60 steps of 4 rows, a checkpoint every 5."""
    few = {"examples_per_step": 4, "microbatch": 1, "epochs": 12, "checkpoint_every": 5, "learning_rate": 1e-3}
    return resolve(
        {
            "run": {"folder": str(folder / "runs"), "name": name},
            "model": {"source": str(model), "dtype": "float32", "max_tokens": 512},
            "corpus": {"source": "records", "questions": [str(_questions(folder))]},
            "contexts": {"oracle_fraction": 1.0, "documents": 3, "distractors": "given"},
            "evaluation": {"conditions": ["closed_book"], "before": False, "max_new_tokens": 4, "resamples": 200},
            "train": {**few, "zero_stage": 2},
            "cluster": cluster(head, workers=2),
        }
    )


def atm(folder: Path, model: Path, name: str, head: Machine) -> Settings:
    """A round of ATM, each group on the machine with its label."""
    learn = {"epochs": 2, "microbatch": 1, "zero_stage": 1}
    found = game.settings(
        folder,
        model,
        run={"name": name},
        corpus={"questions": [str(_questions(folder))]},
        atm={"rounds": 1, "samples": 3, "max_new_tokens": 24, "questions_per_microbatch": 1},
        attacker={"labels": dict([ATTACKER.split("=")]), "train": learn},
        generator={"labels": dict([GENERATOR.split("=")]), "train": learn},
        cluster=cluster(head),
    )
    return found


def _questions(folder: Path) -> Path:
    path = folder / "asked.jsonl"
    return path if path.exists() else game.write_questions(path, train=20, test=2)


def steps(run: Path) -> int:
    """Optimizer steps that a RAFT run noted."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return max((line["step"] for line in map(json.loads, lines) if line["phase"] == "train"), default=0)
