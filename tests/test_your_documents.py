"""docs/your-documents.md, executed: its files are written, its commands run, on a folder of pdf, docx, html and md."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ragdist.data.matching import contains
from tests import handbook

PAGE = (Path(__file__).parents[1] / "docs" / "your-documents.md").read_text()
COMMAND = Path(sys.executable).with_name("ragdist")


def blocks(language):
    """The page's code blocks in this language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(line, folder):
    """What a command of the page prints on stdout."""
    program, *arguments = shlex.split(line)
    assert program == "ragdist"
    done = subprocess.run([str(COMMAND), *arguments], cwd=folder, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, f"{line}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder where the page's files are, and its commands have run."""
    here = tmp_path_factory.mktemp("page")
    handbook.write(here / "documents")
    (here / "questions.jsonl").write_text(blocks("jsonl")[0])
    for text in blocks("yaml"):
        (here / re.match(r"# (\S+)", text)[1]).write_text(text)
    (commands,) = blocks("sh")
    for line in commands.splitlines():  # the last one a step of training long
        short = " train.epochs=0.25 evaluation.before=false" * line.startswith("ragdist train")
        (here / f"{line.split()[1]}.out").write_text(run(line + short, here))
    return here


def rows(folder, stage):
    """The rows of the one stage of this name."""
    (path,) = (folder / "runs" / "data").glob(f"{stage}-*/rows.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_documents_become_a_data_set_that_the_audit_passes(folder):
    """What the issue asks for: pdf, docx, html and md, a local teacher, a data set that `ragdist audit` passes."""
    assert {Path(row["source"]).suffix for row in rows(folder, "documents")} == {".pdf", ".docx", ".html", ".md"}
    taught, own = rows(folder, "taught"), [json.loads(line)["question"] for line in blocks("jsonl")[0].splitlines()]
    texts = {row["id"]: row["text"] for row in rows(folder, "chunks")}
    assert taught and all(contains(texts[row["oracle_ids"][0]], row["answers"][0]) for row in taught)
    asked = rows(folder, "questions")
    assert {row["text"] for row in asked} == {row["text"] for row in taught} | set(own)
    assert all(row["oracle_ids"] for row in asked)
    assert len(rows(folder, "examples")) == sum(row["split"] == "train" for row in asked) > 2
    assert re.search(r"problems\W+none", (folder / "audit.out").read_text())


def test_a_training_run_starts_from_it_and_ends(folder):
    model = folder / "runs" / "first" / "model"
    assert (model / "model.safetensors").exists() and "present" in (folder / "train.out").read_text().split()


def test_same_command_again_asks_the_teacher_nothing(folder):
    (ledger,) = (folder / "runs" / "data").glob("teacher-*.jsonl")
    before = ledger.read_bytes()
    (command,) = (line for block in blocks("sh") for line in block.splitlines() if " build " in line)
    assert "taught" in run(f"{command} contexts.oracle_fraction=1.0", folder)
    assert ledger.read_bytes() == before
