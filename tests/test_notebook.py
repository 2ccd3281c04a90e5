"""docs/notebook.ipynb runs from top to bottom in a fresh kernel, and is kept without what it printed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)


def test_notebook_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def test_notebook_runs_in_a_fresh_kernel(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    *_, settings, run, scores, answer, prompt = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [cell.outputs[-1]["data"]["text/html"] for cell in (settings, run)]
    assert "contexts.oracle_fraction" in shown[0].split("<details>")[0]
    assert "short (your metric)" in (tmp_path / "runs" / "vases" / "report.md").read_text() and "RAFT" in shown[1]
    (printed,) = [one["text"] for one in scores.outputs if one.output_type == "stream" and one.name == "stdout"]
    assert len(printed.splitlines()) == 6 and "\nRAFT attacked" in printed
    for cell, said in ((answer, "Vase 5"), (prompt, "Vase 5 has a green glaze.")):
        assert said in "".join(one["text"] for one in cell.outputs if one.get("name") == "stdout")
