"""docs/what-is-shown.md and the code name the same counts."""

import ast
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ragdist.config.loader import resolve
from ragdist.data.audit import Audit
from ragdist.data.pipeline import STAGES, Pipeline
from ragdist.evaluation.intervals import Change
from ragdist.evaluation.report import Attack, Cell, Utilization
from ragdist.local import SerialMapper
from ragdist.records import Example, Forgery
from ragdist.storage.stages import Store
from ragdist.systems.atm.training_rows import open_questions
from ragdist.systems.duet.training_rows import Trio
from tests import tiny
from tests.scripted_teacher import ScriptedTeacher

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "what-is-shown.md").read_text()
NAMED = set(re.findall(r"`([\w-]+)`", PAGE))
COUNTING = {"counts", "notes"}
"""Names of what functions count into."""
NOTES = re.compile(r"Notes|dict\[str, float\]|StageCounts|Counted")
"""What stands beside what a function of a stage or of ATM's phases returns."""


def counted_in(path):
    """The names that a module's functions count under: keys of what is called `counts` or `notes`, and of the notes
    that stand beside what a function returns."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript) and _is_counting(node.value):
            found |= _texts(node.slice)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_is_counting(part) for target in targets for part in ast.walk(target)):
                found |= _keys(node.value)
        elif isinstance(node, ast.FunctionDef) and NOTES.search(ast.unparse(node.returns or ast.Constant(""))):
            for given in (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value):
                found |= _keys(given)
    return found


def _is_counting(node):
    return isinstance(node, ast.Name) and node.id in COUNTING


def _texts(node):
    """`"a" if x else "b"` is both."""
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def _keys(node):
    """Keys of the dictionaries in an expression, those of `dict.fromkeys(("a", "b"), 0)` too."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Dict):
            found |= {key.value for key in part.keys if isinstance(key, ast.Constant)}
        elif isinstance(part, ast.Call) and ast.unparse(part.func) == "dict.fromkeys":
            found |= _texts(part.args[0])
    return found


COUNTERS = [
    *sorted((ROOT / "ragdist" / "data").rglob("*.py")),
    *(ROOT / "ragdist" / "systems" / name for name in ("atm/asking.py", "atm/forging.py", "atm/mixing.py")),
    *(ROOT / "ragdist" / "systems" / name for name in ("atm/training_rows.py", "duet/training_rows.py")),
]
PRIVATE = {"audit.py", "signatures.py", "replies.py", "disputes.py", "export.py", "chunks.py"}
"""Modules whose `counts` is something else, or that read those of others; the findings of `audit` are its fields."""


def keys_of_the_code():
    found = set()
    for path in COUNTERS:
        if path.name not in PRIVATE:
            found |= {key for key in counted_in(path) if re.fullmatch(r"[a-z][a-z_]+", key)}
    return found


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """Counts of every stage of four small builds, by stage."""
    folder = tmp_path_factory.mktemp("shown")
    rows = [
        {
            "question": f"What is the colour of ball {n}?",
            "answers": [f"shade{n}"],
            "split": "test" if n < 4 else "train",
        }
        | {"documents": [{"title": f"ball {n}", "text": f"The colour of ball {n} is shade{n}.", "kind": "golden"}]}
        for n in range(20)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents = folder / "documents"
    documents.mkdir()
    for number in range(8):
        (documents / f"{number}.md").write_text(f"# Kiln {number}\n\nThe heat of kiln {number} is {900 + number} K.\n")
    common = {"model": {"max_tokens": 2048}, "contexts": {"documents": 3, "distractors": "random"}}
    own = {"corpus": {"source": "records", "questions": [str(folder / "q.jsonl")]}}
    asked = {"questions_per_chunk": 1, "judge": True, "chunks": 6}
    builds = [
        own,
        own | {"teacher": {"reasoning": True, "judge": True}, "prompts": {"answer": "reasoned"}},
        {
            "corpus": {"source": "folder", "folder": str(documents)},
            "teacher": asked,
            "questions": {"test_fraction": 0.3},
        },
    ]
    found = {}
    for number, more in enumerate(builds):
        store = Store(folder / f"data-{number}")
        pipeline = Pipeline(resolve(common | more), store, tiny.tokenizer(), SerialMapper(), teacher=ScriptedTeacher())
        pipeline.make("examples")
        _ = (pipeline.forgeries, open_questions(pipeline, "train"), open_questions(pipeline, "test"))
        if not number:
            trio = Trio(pipeline)
            _ = (trio.retrieved, trio.recited, trio.recited_all, trio.discovered, trio.forgeries)
        for card in store.folder.glob("*/stage.json"):
            said = json.loads(card.read_text())
            found.setdefault(said["name"], set()).update(said["counts"])
    return found


def test_every_count_of_a_stage_card_stands_on_the_page(cards):
    """Stages that were really built, and every key that they wrote."""
    assert set(STAGES) - {"documents"} <= cards.keys() | {"selected"} and "documents" in cards
    assert {"taught", "asked", "reasoned", "retrieved", "recited-all", "open-train", "forgeries-held"} <= cards.keys()
    assert sum(map(len, cards.values())) > 40
    assert {name for name in cards if name not in NAMED} == set()
    missing = {f"{stage}: {key}" for stage, keys in cards.items() for key in keys if key not in NAMED}
    assert not missing, "docs/what-is-shown.md says nothing of these counts"


def test_every_count_in_the_code_stands_on_the_page(cards):
    """Those too that no small build writes, and what ATM's phases count."""
    code = keys_of_the_code()
    assert {"near_test", "without_golden", "right_clean", "unusable", "judged_several", "perplexity_sum"} <= code
    assert code - NAMED == set(), "docs/what-is-shown.md says nothing of these counts"


def test_every_finding_of_audit_and_every_share_of_a_report_stands_on_the_page():
    assert {field.name for field in fields(Audit)} - NAMED == set()
    shares = {field.name for field in fields(Cell)} - {"model", "condition", "em", "f1", "subspan", "perplexity"}
    assert shares - {"three_way", "two_way", "api_calls"} - NAMED == set()


def test_the_page_names_no_count_that_is_gone(cards):
    """What stands in the last column of its tables is written somewhere."""
    known = keys_of_the_code() | {key for keys in cards.values() for key in keys}
    for kind in (Audit, Cell, Attack, Utilization, Change, Example, Forgery):
        known |= {field.name for field in fields(kind)}
    known |= {"attack_success", "utilization", "mixed", "differing", "steps"}  # of summary.json, and of `plan --json`
    last = [line.rstrip(" |").rpartition(" | ")[2] for line in PAGE.splitlines() if line.startswith("| ")]
    said = {name for cell in last for name in re.findall(r"`(\w+)`", cell)}
    assert len(said) > 80 and said - known == set()
