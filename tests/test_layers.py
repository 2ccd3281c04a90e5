"""Imports run downwards only: the table below is the architecture, held against every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {"errors", "records", "draws", "logs"}
SHARED = BASE | {"config", "loader", "track", "store"}
MAY = {
    "errors": set(),
    "draws": set(),
    "logs": set(),
    "records": {"errors"},
    "algo": {"errors"},
    "roles": BASE,
    "config": BASE,
    "loader": BASE | {"config"},
    "store": BASE | {"config"},
    "steps": set(),
    "parquet": BASE | {"config", "roles", "store"},
    "track": BASE | {"config", "loader", "store"},
    "timeline": BASE | {"config", "store", "track"},
    "live": SHARED | {"timeline"},
    "journal": SHARED | {"roles"},
    "data": SHARED | {"roles"},
    "plan": SHARED,
    "kube": SHARED | {"plan"},
    "lm": BASE | {"algo", "roles", "config", "track", "plan"},
    "trials": SHARED,
    "evaluation": SHARED | {"roles", "data", "parquet", "trials"},
    "systems": SHARED | {"roles", "journal", "live", "data", "algo", "evaluation", "features"},
    "signals": {"track"},
    "ledger": SHARED | {"signals"},
    "completions": BASE | {"config"},
    "endpoint": SHARED | {"roles", "ledger", "completions"},
    "features": BASE | {"roles", "store", "track"},
    "local": SHARED | {"roles", "lm", "parquet", "steps", "ledger"},
    "cluster": SHARED | {"roles", "lm", "parquet", "steps", "signals", "trials"},
    "doctor": {"track"},
    "players": SHARED
    | {"roles", "data", "lm", "local", "cluster", "endpoint", "features", "signals", "systems", "live", "timeline"}
    | {"plan"},
    "sweeping": SHARED | {"players", "trials", "journal", "evaluation", "systems", "cluster"},
    "results": {"track", "evaluation", "systems", "timeline"},
    "runs": SHARED
    | {"results", "players", "parquet", "timeline", "live", "data", "evaluation", "systems", "cluster"}
    | {"export", "trackers", "plan", "sweeping", "kube"},
    "export": SHARED | {"roles", "data", "lm"},
    "trackers": SHARED,
    "terminal": {"results", "evaluation"},
    "cli": SHARED | {"results", "terminal", "runs", "doctor", "data", "evaluation", "plan", "trials", "cli_k8s"},
    "cli_k8s": {"errors", "loader", "runs", "trials", "kube", "terminal"},
    "__main__": {"cli"},
    "jobs": {"cli", "runs", "config", "errors"},
}
NEVER = {
    "data": {"torch", "ray", "transformers"},
    "plan": {"torch", "ray", "transformers", "deepspeed"},
    "kube": {"torch", "ray", "transformers", "deepspeed"},
    "algo": {"ray"},
    "lm": {"ray"},
    "systems": {"ray", "torch"},
}
FILES = sorted([*(ROOT / "ragdist").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])


def part(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "jobs" if relative.parts[0] == "jobs" else relative.parts[1].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules imported anywhere in the file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    here = part(path)
    if here == "__init__":
        return  # the package's front door: it only forwards to runs
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root == "ragdist":
            other = rest.split(".")[0]
            if other not in ("__version__", here):
                assert other in MAY[here], f"{path.name} ({here}) must not import ragdist.{other}"
        else:
            assert root not in NEVER.get(here, set()), f"{path.name} ({here}) must not import {root}"
            if root == "ray":
                assert here in ("cluster", "jobs"), f"{path.name} says ray outside cluster/"


def test_table_names_every_part():
    assert {part(path) for path in FILES} - {"__init__"} <= set(MAY)


def test_help_loads_neither_torch_nor_ray():
    code = """
import sys
from ragdist import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
heavy = {"torch", "ray", "transformers", "datasets", "deepspeed", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
