"""What each test needs. Folders and modules in the table are marked whole; the rest needs neither torch nor a cluster.

make quick        what is in no line: no Ray, no model
make test         and `model`
make test-all     and `cluster`; then those of several machines
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # pytest-timeout bounds a test; a busy machine slows an example
settings.load_profile("patient")
TESTS = Path(__file__).parent
NEEDS = {
    "model": (
        *("algo", "lm", "gpu", "plan/test_memory.py", "plan/test_shape.py", "plan/test_measured.py"),
        *("data/test_thoughts.py", "data/sources/test_hub.py", "data/sources/test_hub_sets.py"),
        "data/sources/test_given.py",
        *("data/retrieval/test_dense.py", "data/test_pipeline_retrieval.py"),
        *("systems/atm/test_run.py", "systems/atm/test_mito.py", "systems/atm/test_training_rows.py"),
        *("systems/duet/test_arbiters.py", "systems/duet/test_run.py", "systems/test_settled.py"),
        *("teacher/test_local.py", "teacher/test_endpoint.py"),
        *("test_answer_tokens.py", "test_cli.py", "test_export.py", "test_sweeping.py"),
    ),
    "cluster": (
        *("cluster", "multinode", "parity", "kube/test_start.py", "lm/test_resident.py"),
        *("test_runs.py", "test_retrieval_runs.py", "test_sweeps.py", "test_your_documents.py", "test_wheel.py"),
    ),
}


def need(path: Path) -> str:
    """The marker of all tests in this file or folder, the longest line deciding; empty for the quick ones."""
    inside = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    found = {place: name for name, places in NEEDS.items() for place in places if f"{inside}/".startswith(f"{place}/")}
    return found[max(found, key=len)] if found else ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out files whose tests `-m` leaves out anyway: importing torch for nothing takes seconds."""
    name = need(collection_path)
    return True if name and re.search(rf"\bnot {name}\b", config.option.markexpr) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    if name := need(item.path):
        item.add_marker(name)
