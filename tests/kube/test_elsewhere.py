"""What is rendered for other machines is the same on every machine, unless this one's runs are asked for."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from ragdist import cli
from ragdist.config.loader import load
from ragdist.data.pipeline import Pipeline
from ragdist.local import SerialMapper
from ragdist.plan import workload
from ragdist.storage.stages import Store
from ragdist.systems.atm.training_rows import open_questions
from tests import tiny
from tests.kube.bundles import SWEPT
from tests.plan import shapes

MODEL = ("model.source=owner/name", "model.dtype=bfloat16", "model.max_tokens=2048", "corpus.source=records")
RANKS = ("train.microbatch=8", "cluster.workers=2", "attacker.workers=2", "run.name=night")


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """A machine where nothing ran yet and no model is."""
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "bare")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "bare" / "hub"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def fetch_model(hub):
    """The model's config.json, as the hub's cache holds it."""
    repository = Path(hub) / "models--owner--name"
    shapes.folder(repository / "snapshots" / ("0" * 40), shapes.SMOLLM2_135M)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def go_elsewhere(tmp_path, monkeypatch):
    """A machine with many cores, little memory, eight cards, a cluster that is joined, and finished stages."""
    there = tmp_path / "there"
    (there / "bin").mkdir(parents=True)
    (there / "bin" / "nvidia-smi").write_text("#!/bin/sh\nyes 'Tesla T4, 15360, 7.5' | head -8\n")
    (there / "bin" / "nvidia-smi").chmod(0o755)
    asked = os.sysconf
    monkeypatch.chdir(there)
    monkeypatch.setenv("PATH", f"{there / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(there / "cache"))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(os, "sysconf", lambda name: 1000 if name == "SC_PHYS_PAGES" else asked(name))
    rows = [
        {"question": f"Colour of ball {n}?", "answers": [f"shade{n}"], "split": "test" if n < 4 else "train"}
        | {"documents": [{"title": f"ball {n}", "text": f"Ball {n} is shade{n}.", "kind": "golden"}]}
        for n in range(20)
    ]
    (there / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = load([*MODEL, *RANKS, f"corpus.questions=[{there / 'q.jsonl'}]"])
    pipeline = Pipeline(settings, Store(there / "runs" / "data"), tiny.tokenizer(), SerialMapper())
    pipeline.make("examples")
    open_questions(pipeline, "train")
    workload.note_tokenizer(there / "runs" / "data", settings.model, tiny.tokenizer().fingerprint)


def written(job, to, *more):
    arguments = [*MODEL, *RANKS, *SWEPT.get(job, ()), "corpus.questions=[/shared/q.jsonl]", *more, "--to", str(to)]
    cli.app(["k8s", "render", job, *arguments], standalone_mode=False)
    return {path.name: path.read_text() for path in to.iterdir()}


def planned(capsys, job, *more):
    capsys.readouterr()
    arguments = [job, *MODEL, *RANKS, "questions.train_rows=0", "corpus.questions=[/shared/q.jsonl]", *more, "--json"]
    cli.app(["plan", *arguments], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    found["model"].pop("source")  # the file that it was read from
    return found


def test_nothing_that_is_for_other_machines_depends_on_this_one(tmp_path, monkeypatch, capsys):
    """U16: stages in runs/data made the pods of the README's next command smaller than those in the repository."""
    fetch_model(constants.HF_HUB_CACHE)
    nodes = ("--nodes", "2x8xA100-80GB:128cpu:1024GB")
    jobs, plans = ("raft", "duet", "atm", "sweep-raft", "sweep-atm"), ("raft", "duet", "atm")
    before = {job: written(job, tmp_path / "before" / job) for job in jobs}
    planned_before = {job: planned(capsys, job, *nodes) for job in plans}
    go_elsewhere(tmp_path, monkeypatch)
    assert {job: written(job, tmp_path / "after" / job) for job in jobs} == before
    assert {job: planned(capsys, job, *nodes) for job in plans} == planned_before

    counted = written("raft", tmp_path / "counted", "--from-runs")
    changed = [name for name, text in counted.items() if text != before["raft"][name]]
    assert changed == ["job.yaml"]  # by less memory for shorter rows
    assert planned_before["raft"]["rows"]["rows"] is None
    assert planned(capsys, "raft", *nodes, "--from-runs")["rows"]["rows"] == 16
    assert planned(capsys, "raft", *nodes, "--from-runs")["training_seconds"] is None  # no speed of other machines
    assert planned(capsys, "raft")["rows"]["rows"] == 16  # the job of this machine counts what it finds


@pytest.mark.parametrize("job", ["raft", "duet", "sweep-raft"])
def test_memory_that_is_told_is_that_of_the_head_too_wherever_the_model_is(job, tmp_path):
    """U16: a head was smaller where the hub's cache held the model."""
    told = ("kube.memory_gib=24", "sweep.gpus_per_trial=0.5") if job == "sweep-raft" else ("kube.memory_gib=24",)
    before = written(job, tmp_path / "before", *told)
    fetch_model(constants.HF_HUB_CACHE)
    assert written(job, tmp_path / "after", *told) == before
