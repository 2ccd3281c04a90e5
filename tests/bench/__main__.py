"""`make bench [ONLY=name]`: runs the benchmarks, writes docs/results/bench.json and the page made from it.

Each compares with what a user would run instead, in one run on one machine; the ratio is the result.
"""

import importlib
import json
import platform
import sys
import time
from pathlib import Path

from ragdist.tracking.run import versions

RESULTS = Path(__file__).parents[2] / "docs" / "results"
WANTED = {
    "assembly": ("at most", 5.0, "100,000 contexts from 20,000 chunks / the same rows written as JSONL"),
    "raft_useful_tokens": ("at least", 1.3, "useful tokens per second / TRL's SFTTrainer on padded batches of 8"),
    "train_overhead": ("at most", 1.05, "a step under Ray Train + DeepSpeed, one worker / the step in a bare loop"),
    "atm_round": ("at least", 1.5, "a round of ATM on two groups / the round as seven programs with files between"),
    "atm_forge_grade": ("at least", 2.5, "forging and grading of that round / their two programs"),
    "grade_rows": ("at least", 2.0, "rows graded per second / padded batches with the logits of every position"),
    "mito_step": ("at least", 1.5, "a MITO step / with reference model, full logits, padding; equal gradients"),
    "overlap": ("at most", 1.2, "forging and grading as a stream / the longer of the two alone, a core for each group"),
    "controller": ("at most", 5.0, "an `each` of one microbatch on 64 ranks / a bare Ray actor call"),
    "corpus_stream": ("at most", 1.2, "peak memory of reading and cutting 10,000 files / of 1,000"),
    "teacher_overlap": (
        "at least",
        0.9,
        "replies per second, 32 calls of 200 ms under way / with a client that costs 0",
    ),
    "plan_memory": (
        "at most",
        1.15,
        "planned / measured peak memory of a rank, or the other way round: the worst case",
    ),
    "sweep_data": ("at most", 2.0, "rows tokenized for six values of P / for one; teacher calls and searches once"),
    "resume_cost": ("at most", 1.0, "calls paid for by a run killed three times and resumed / by an undisturbed one"),
    "busy_share": ("at least", 0.95, "busy share of 64 ranks, 256 rows of mixed lengths dealt by tokens / in turn"),
    "startup": ("at most", 0.1, "our seconds between `ragdist submit` and the first step / all of them"),
    "joint_answer": ("at most", 1.3, "reciter and discoverer at once, a core for each / the slower alone on its core"),
    "answerers": ("at least", 1.8, "answers per second of two ranks, a core each / of one"),
    "serve_latency": ("at most", 1.1, "`ragdist serve`, one client / a server over transformers' `generate`"),
    "serve_throughput": ("at least", 3.0, "the same with 16 clients, answers per second"),
    "shared_base_memory": (
        "at most",
        0.6,
        "memory of ATM's two sides over one base / in two processes, after a phase each",
    ),
    "paged_forge": ("at least", 0.0, "forging by `attacker.engine=paged`, tokens per second / by our loop, on a CPU"),
    "vllm_forge": ("at least", 0.0, "forging by `attacker.engine=vllm`, tokens per second / by our loop, on a CPU"),
    "adapter_sync": ("at most", 3.0, "seconds until vLLM writes with the next version of an adapter"),
    "trio_memory": ("at most", 1.15, "memory of base, reciter, discoverer and scorer / of one base, after answers"),
}
KEPT = ("ragdist", "torch", "ray", "deepspeed", "trl", "transformers")


def main(only: list[str]) -> None:
    """Runs all benchmarks, or those named; results of the others stay as they are."""
    path = RESULTS / "bench.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    measured: dict[str, dict] = {}  # some are measured by one run together
    for name in only or WANTED:
        if name not in measured:
            measured |= importlib.import_module(f"tests.bench.{name}").run()
        if name not in measured:
            print(f"{name}: skipped, there is nothing here to measure; `make test-vllm` makes the environment")
            continue
        found, packages = measured[name], versions()
        found |= {"machine": f"{packages['machine']}, {_processor()}", "date": time.strftime("%Y-%m-%d")}
        results[name] = found | {"versions": {key: packages[key] for key in KEPT}}
        print(json.dumps({name: found}))
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "bench.md").write_text(page(results))


def page(results: dict) -> str:
    """The page made from bench.json."""
    lines = ["# Benchmarks", "", "Made by `make bench`. Both sides run one after the other on one machine;", ""]
    lines[2] += " only the ratio means anything."
    lines += ["| what | wanted | ratio | ours | theirs | unit |", "|---|---|---|---|---|---|"]
    for name, found in results.items():
        bound, limit, what = WANTED[name]
        met = found["ratio"] <= limit if bound == "at most" else found["ratio"] >= limit
        verdict = "" if met else " **missed**"
        numbers = f"{found['ratio']:.2f}{verdict} | {found['ours']:.4g} | {found['theirs']:.4g} | {found['unit']}"
        lines.append(f"| `{name}`: {what} | {bound} {limit} | {numbers} |")
    lines += [""] + [f"`{name}`: {found['note']}\n" for name, found in results.items() if found.get("note")]
    machines = sorted({f"{found['machine']}, {found['date']}" for found in results.values()})
    return "\n".join([*lines, *machines]) + "\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main(sys.argv[1:])
