"""Seconds from `ragdist submit` to the first training step, by whose they are; ours against all.

SmolLM2-135M on a head of this machine with its job server, one worker. The training rows are there already, as for
every start but the first, and the untuned model is not asked. Whose a stretch is follows from the marks on its two
sides; any run leaves them in metrics.jsonl and its logs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.bench.raft_useful_tokens import MODEL
from tests.cluster import heads

LIMIT_S = 300.0
IMPORTS = "import time; t = time.time(); import ray.train, torch, transformers, deepspeed, ragdist.cluster.train"


def run() -> dict[str, Any]:
    """{"startup": our share of the seconds}."""
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        settings = [
            *(f"run.folder={home}/runs", "run.name=bench", f"model.source={MODEL}", "model.dtype=float32"),
            *(
                "corpus.source=apidocs",
                "corpus.packages=[stdlib]",
                "contexts.documents=2",
                "questions.train_rows=16",
                "questions.test_rows=4",
            ),
            *("train.examples_per_step=8", "train.microbatch=4", "evaluation.before=false", "run.trackers=[]"),
            "evaluation.conditions=[closed_book]",
        ]
        command = [sys.executable, "-m", "ragdist"]
        subprocess.run([*command, "build", *settings], check=True, capture_output=True)
        with heads.started(home, {}) as head:
            warm = subprocess.run([sys.executable, "-c", f"{IMPORTS}; print(time.time() - t)"], capture_output=True)
            begun, born = time.time(), Born()
            send = [*command, "submit", "raft", *settings, "--no-follow", "--address", head.address]
            subprocess.run(send, check=True, env=head.env)
            stretches = whose(home / "runs" / "bench", begun, born.wait(), float(warm.stdout.split()[-1]))
    total, ours = sum(stretches.values()), stretches["ours"]
    return {
        "startup": {
            "ratio": round(ours / total, 3),
            "ours": round(ours, 2),
            "theirs": round(total - ours, 2),
            "unit": "s",
            "seconds": {name: round(seconds, 2) for name, seconds in stretches.items()},
            "note": ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stretches.items()),
        }
    }


class Born(threading.Thread):
    """Waits for the job's process and notes when it was made."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.at = 0.0
        self.start()

    def run(self) -> None:
        end = time.monotonic() + LIMIT_S
        while not self.at and time.monotonic() < end:
            for process in psutil.process_iter(["cmdline", "create_time"]):
                if (process.info["cmdline"] or [])[1:4] == ["-m", "ragdist", "train"]:
                    self.at = process.info["create_time"]
            time.sleep(0.05)

    def wait(self) -> float:
        """When, in seconds since 1970."""
        self.join(LIMIT_S)
        assert self.at, "the job never began"
        return self.at


def whose(run: Path, begun: float, born: float, imports_s: float) -> dict[str, float]:
    """Seconds of each stretch of the start, by whose it is; waits for the first step."""
    end = time.monotonic() + LIMIT_S
    while "train" not in (marks := _metrics(run)) and time.monotonic() < end:
        time.sleep(0.2)
    said = {line["message"]: _seconds(line["time"]) for line in _lines(run / "log.jsonl")}
    rank = {line["message"].split(" ")[0]: _seconds(line["time"]) for line in _lines(run / "logs" / "rank-0.jsonl")}
    pipeline, train = said["data ..."], said["train ..."]
    loaded = min(imports_s, pipeline - born)
    return {
        "Ray": (born - begun) + (marks["workers_started"] - train),
        "libraries and model": loaded + (rank["the"] - rank["16"]),
        "DeepSpeed": marks["train_start"] - rank["the"],
        "ours": (pipeline - born - loaded) + (train - pipeline) + (rank["16"] - marks["workers_started"]),
    }


def _metrics(run: Path) -> dict[str, float]:
    """When each phase first noted a line."""
    found: dict[str, float] = {}
    for line in _lines(run / "metrics.jsonl"):
        found.setdefault(line["phase"], line["time"])
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


if __name__ == "__main__":
    print(json.dumps(run()))
