"""A run's folder: one process at a time, and a state that says how it ended."""

import json
import os
import stat
import subprocess
import sys

import pytest

from ragdist import results
from ragdist.config import loader
from ragdist.errors import ConfigError, Stopped, StorageError, TrainError
from ragdist.storage.stages import Store
from ragdist.tracking.progress import say
from ragdist.tracking.run import is_held, metrics, open_run, run_folder, span


def settings(tmp_path, *more):
    return loader.load([f"run.folder={tmp_path}", "run.name=one", *more])


def test_run_leaves_settings_versions_metrics_and_state(tmp_path):
    with open_run(settings(tmp_path), "raft") as run, span("train"):
        metrics("train", step=1, loss=0.5)
    assert loader.load([str(run.folder / "settings.yaml")]) == run.settings
    assert json.loads((run.folder / "versions.json").read_text())["torch"].startswith("2.")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert (lines[0]["loss"], lines[1]["name"]) == (0.5, "train")
    assert json.loads((run.folder / "state.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("given", "job", "name"),
    [
        ([], "raft", "raft-f88fa7bea719"),
        (["cluster.in_flight=3", "cluster.deadline_s=60", "seed=4"], "atm", "atm-d081031f70df"),
    ],
)
def test_a_run_without_a_name_is_found_by_later_versions(given, job, name):
    """The names that they had when these settings were atm.in_flight and atm.deadline_s, and nobody had answerers."""
    assert run_folder(loader.load([*given, "evaluation.answerers.workers=2"]), job).name == name


@pytest.mark.parametrize(("error", "state"), [(Stopped("later"), "stopped"), (TrainError("rank 1"), "failed")])
def test_state_says_how_the_run_ended(tmp_path, error, state):
    with pytest.raises(type(error)), open_run(settings(tmp_path), "raft"):
        raise error
    assert json.loads((tmp_path / "one" / "state.json").read_text())["state"] == state


def test_run_folder_is_locked_against_another_process(tmp_path):
    code = f"""
from ragdist.config import loader
from ragdist.tracking.run import open_run
with open_run(loader.load(["run.folder={tmp_path}", "run.name=one"]), "raft"):
    pass
"""
    with open_run(settings(tmp_path), "raft"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert is_held(tmp_path / "one")
    assert not is_held(tmp_path / "one")
    assert "StorageError" in done.stderr and "run.name" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_same_settings_find_the_same_folder_again():
    one, other = loader.load([]), loader.load(["seed=1"])
    assert run_folder(one, "raft") == run_folder(loader.load([]), "raft")
    assert run_folder(one, "raft") != run_folder(other, "raft")
    assert run_folder(one, "raft") == run_folder(loader.load(["run.trackers=[wandb]"]), "raft")


def test_versions_hold_nothing_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-planted")
    with open_run(settings(tmp_path), "raft"):
        say("hello")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "hunter2-planted" in p.read_text()]


def test_unwritable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"run\.folder"), open_run(settings(tmp_path / "file"), "raft"):
        pass


def test_a_named_run_refuses_other_settings_but_may_move(tmp_path):
    with open_run(settings(tmp_path), "raft"):
        pass
    other = settings(tmp_path, "contexts.documents=3")
    wanted = r"contexts\.documents=5, now 3.*run\.name"
    with pytest.raises(ConfigError, match=wanted), open_run(other, "raft"):
        pass
    with open_run(settings(tmp_path, "cluster.workers=2", "evaluation.forgeries=1"), "raft"):
        pass


def test_a_killed_run_is_listed_as_killed_and_goes_on(tmp_path):
    code = f"""
import os, signal
from ragdist.config import loader
from ragdist.tracking.run import open_run
with open_run(loader.load(["run.folder={tmp_path}", "run.name=one"]), "raft"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert [row["state"] for row in results.list_runs(tmp_path)] == ["killed"]
    with open_run(settings(tmp_path), "raft"):
        assert [row["state"] for row in results.list_runs(tmp_path)] == ["running"]


def test_S6_a_new_run_is_its_owners_alone_and_one_that_was_opened_stays_open(tmp_path):
    before = os.umask(0o022)
    try:
        with open_run(settings(tmp_path), "raft") as run:
            assert stat.S_IMODE(run.folder.stat().st_mode) == 0o700
        run.folder.chmod(0o755)
        with open_run(settings(tmp_path), "raft") as run:
            assert stat.S_IMODE(run.folder.stat().st_mode) == 0o755
        assert stat.S_IMODE(Store(tmp_path / "data").folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)
