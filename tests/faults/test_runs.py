"""Folders of runs, of which files were cut, emptied, edited or taken away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.bases import runs
from tests.faults.calls import Case, Surface, share, spoiled

COMMANDS = st.sampled_from(
    [
        *("runs", "runs --json", "report runs/one", "report runs/one runs/two", "export runs/one --to out"),
        *("chat runs/one", "plan raft run.folder=runs", "answer ? --run runs/one", "settings runs/one/settings.yaml"),
    ]
)


@pytest.fixture(scope="module")
def surface():
    with Surface("runs", 0.13, runs) as made:
        yield made


@pytest.fixture(scope="module")
def whole(surface):
    found = (path for path in sorted((surface.base / "runs").rglob("*")) if path.is_file())
    return {str(path.relative_to(surface.base)): path.read_bytes() for path in found}


@given(st.data(), COMMANDS)
@share(0.04)
def test_run_folders(surface, whole, data, command):
    names = data.draw(st.lists(st.sampled_from(sorted(whole)), min_size=1, max_size=2, unique=True))
    surface.run(Case(command.split(), {name: data.draw(spoiled(whole[name])) for name in names}))
