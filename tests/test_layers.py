"""Imports run downwards only: the table below is the architecture, held against every file."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = {"errors", "records", "draws", "roles", "config", "parts"}
GROUND = WORDS | {"storage", "tracking"}
MAY = {
    # words
    "errors": set(),
    "draws": set(),
    "records": {"errors"},
    "roles": {"records"},
    "config": {"errors"},
    "parts": {"config", "errors", "records"},
    # ground
    "storage": WORDS,
    "tracking": WORDS | {"storage"},
    # shared
    "algo": {"errors"},
    "data": GROUND,
    "plan": GROUND,
    "kube": GROUND | {"plan"},
    "lm": GROUND | {"algo"},
    "teacher": GROUND,
    "local": GROUND | {"lm"},
    "evaluation": GROUND | {"data"},
    "sweeps": GROUND | {"evaluation"},
    "serving": GROUND | {"data"},
    "cluster": GROUND | {"lm", "sweeps"},
    # papers
    "systems": GROUND | {"data", "algo", "evaluation", "serving"},
    # doors
    "doctor": {"tracking"},
    "players": GROUND | {"data", "lm", "local", "cluster", "teacher", "systems", "plan", "serving"},
    "sweeping": GROUND | {"players", "sweeps", "evaluation", "systems", "cluster"},
    "results": GROUND | {"evaluation", "systems", "sweeps", "lm"},
    "reproducing": GROUND | {"results", "evaluation"},
    "asking": GROUND | {"results", "players", "data", "serving", "cluster"},
    "planning": GROUND | {"asking", "data", "evaluation", "systems", "cluster", "plan", "kube"},
    "runs": GROUND
    | {"results", "players", "planning", "serving", "data", "evaluation", "systems", "cluster", "export"}
    | {"plan", "sweeping", "reproducing"},
    "export": GROUND | {"data", "lm"},
    "cli": GROUND
    | {"results", "runs", "asking", "planning", "doctor", "data", "evaluation", "plan", "sweeps", "serving", "cli_k8s"},
    "cli_k8s": GROUND | {"results", "planning", "sweeps", "kube"},
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
DOORS = {
    "cli",
    "cli_k8s",
    "runs",
    "asking",
    "planning",
    "sweeping",
    "reproducing",
    "players",
    "results",
    "export",
    "doctor",
}
LOOSE = DOORS | {"records", "roles", "draws", "errors", "parts", "local", "__init__", "__main__"}
"""Rule 1: a loose file is a door, a word, or `local.py`."""
BELOW = {"raft": set(), "atm": set(), "duet": {"raft"}}
"""Papers that a paper builds on: DuetRAG asks its discoverer as RAFT asks."""
APPENDS = {"ragdist/cluster/workers.py": {"appends"}}
"""Outside of storage: a rank's own stdout and stderr, which are a stream and no rows."""
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


def changes_files(tree: ast.AST) -> set[str]:
    """What renames, links, locks or appends in a file; the handlers of `logging`, which append too, are not seen."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None)} | {alias.name for alias in node.names}
            found |= {"locks"} if names & {"fcntl", "filelock"} else set()
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.rename", "os.replace", "os.link"):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            modes = [value.value for value in values if isinstance(value, ast.Constant)]
            if name in ("open", "fdopen") and any(re.fullmatch(r"a[bt+]*", str(mode)) for mode in modes):
                found.add("appends")
            if isinstance(node.func, ast.Attribute) and len(node.args) == 1 and not node.keywords:
                found |= {name} & {"rename", "replace", "hardlink_to"}  # text.replace takes two
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import fcntl",
        "from filelock import FileLock",
        "os.replace(a, b)",
        "shutil.copytree(a, b, copy_function=os.link)",
        "half.rename(path)",
        "half.replace(path)",
        "path.open('a', buffering=1)",
        "open(path, mode='ab+')",
    ],
)
def test_scan_finds_what_changes_files(code):
    assert changes_files(ast.parse(code))
    assert not changes_files(ast.parse("'a'.replace('a', 'b'); replace(record, a=1); open('a.txt', 'w')"))


def test_only_storage_renames_locks_and_appends():
    """Rule 3."""
    found = {str(path.relative_to(ROOT)): changes_files(ast.parse(path.read_text())) for path in FILES}
    outside = {path: what for path, what in found.items() if what and not path.startswith("ragdist/storage/")}
    assert outside == APPENDS


ASKS = {
    "serving/service.py": "one question at a time, at any time; nothing is kept",
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
