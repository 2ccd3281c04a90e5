"""Imports run downwards only: the table below is the architecture, held against every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = {"errors", "records", "draws", "roles", "config"}
GROUND = WORDS | {"storage", "tracking"}
MAY = {
    # words
    "errors": set(),
    "draws": set(),
    "records": {"errors"},
    "roles": {"records"},
    "config": {"errors"},
    # ground
    "storage": WORDS,
    "tracking": WORDS | {"storage"},
    # shared
    "algo": {"errors"},
    "data": GROUND,
    "plan": GROUND,
    "kube": GROUND | {"plan"},
    "lm": GROUND | {"algo", "plan"},
    "teacher": GROUND,
    "local": GROUND | {"lm"},
    "evaluation": GROUND | {"data"},
    "sweeps": GROUND | {"evaluation"},
    "cluster": GROUND | {"lm", "sweeps"},
    # papers
    "systems": GROUND | {"data", "algo", "evaluation"},
    # doors
    "doctor": {"tracking"},
    "players": GROUND | {"data", "lm", "local", "cluster", "teacher", "systems", "plan"},
    "sweeping": GROUND | {"players", "sweeps", "evaluation", "systems", "cluster"},
    "results": GROUND | {"evaluation", "systems", "sweeps"},
    "runs": GROUND
    | {"results", "players", "data", "evaluation", "systems", "cluster", "export", "plan", "sweeping", "kube"},
    "export": GROUND | {"data", "lm"},
    "cli": GROUND | {"results", "runs", "doctor", "data", "evaluation", "plan", "sweeps", "cli_k8s"},
    "cli_k8s": GROUND | {"results", "runs", "sweeps", "kube"},
    "__main__": {"cli"},
    "jobs": {"cli", "runs", "config", "errors"},
}
NEVER = {
    "storage": {"torch", "ray", "transformers"},
    "data": {"torch", "ray", "transformers"},
    "plan": {"torch", "ray", "transformers", "deepspeed"},
    "kube": {"torch", "ray", "transformers", "deepspeed"},
    "teacher": {"torch", "ray", "transformers"},
    "algo": {"ray"},
    "lm": {"ray"},
    "systems": {"ray", "torch"},
}
DOORS = {"cli", "cli_k8s", "runs", "sweeping", "players", "results", "export", "doctor"}
LOOSE = DOORS | {"records", "roles", "draws", "errors", "local", "__init__", "__main__"}
"""Rule 1: a loose file is a door, a word, or `local.py`."""
BELOW = {"raft": set(), "atm": set(), "duet": {"raft"}}
"""Papers that a paper builds on: DuetRAG asks its discoverer as RAFT asks."""
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


def test_loose_files_are_doors_and_words():
    """Rule 1."""
    assert {path.stem for path in (ROOT / "ragdist").glob("*.py")} == LOOSE


def paper(path: Path) -> str:
    parts = path.relative_to(ROOT / "ragdist").with_suffix("").parts
    return parts[1] if parts[0] == "systems" and len(parts) > 1 else ""


def test_what_one_paper_alone_uses_lives_in_its_folder():
    """Rule 2: no paper uses another's folder, and no file of data or evaluation is used by one paper alone."""
    users: dict[str, set[str]] = {}
    for path in FILES:
        if path.is_relative_to(ROOT / "jobs"):
            continue
        here = path.relative_to(ROOT).with_suffix("").parts
        for name in imports(path):
            words = name.split(".")
            if words[:2] == ["ragdist", "systems"] and paper(path) and words[2] in BELOW and words[2] != paper(path):
                assert words[2] in BELOW[paper(path)], f"{path.name} of {paper(path)} uses {name}"
            if (
                len(words) > 2
                and words[1] in ("data", "evaluation")
                and (ROOT / Path(*words[:3])).with_suffix(".py").exists()
            ):
                users.setdefault(".".join(words[:3]), set()).add(paper(path) or ".".join(here[:2]))
    lonely = {name: who for name, who in users.items() if len(who) == 1 and who < set(BELOW)}
    assert not lonely, f"move these: {lonely}"


ASKS = {
    "evaluation/ask.py": "rule 4",
    "systems/atm/forging.py": "the attacker writes documents beside its ranks, no answers",
    "systems/atm/training_rows.py": "forgeries are graded beside the generator's ranks",
    "teacher/local.py": "keeps replies as an endpoint's are kept, each paid for once",
}
"""Rule 4: who may call `write` or `read` of a model, and why. `lm/` is the model."""
MODELS = {"model", "writer", "reader", "answerer", "sides"}
"""What a variable or an attribute with a Writer, a Reader or an Answerer is called."""


def asks(path: Path) -> bool:
    """Whether a Writer's `write` (it has a `max_new_tokens`) or a model's `read` or `write` is called in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        called, whose = node.func.attr, node.func.value
        name = getattr(whose, "id", "") or getattr(whose, "attr", "")
        if called == "write" and any(keyword.arg == "max_new_tokens" for keyword in node.keywords):
            return True
        if called in ("write", "read") and name.lstrip("_") in MODELS:
            return True
    return False


def test_a_model_is_asked_in_evaluation_ask_and_nowhere_else():
    """Rule 4."""
    package = ROOT / "ragdist"
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if asks(path) and part(path) != "lm"}
    assert found == set(ASKS)


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
