"""A run's folder: one process at a time, and a state that says how it ended."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from ragdist import results
from ragdist.config import loader
from ragdist.errors import ConfigError, DataError, Stopped, StorageError, TrainError
from ragdist.storage.locks import locked
from ragdist.storage.stages import Store
from ragdist.tracking.progress import say
from ragdist.tracking.run import PATIENCE_S, is_held, metrics, open_run, run_folder, span
from tests.test_cli import ragdist as command


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


TORN = {
    "empty": b"",
    "cut": b'{"job": "raft", "sta',
    "zeros": b"\0" * 200,
    "no object": b"[1]",
    "no UTF-8": b'{"job": "\xff"}',
}
TORN |= {"no state": b'{"job": "raft"}', "other kinds": b'{"job": 1, "state": null}', "deep": b"[" * 100_000}


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
@pytest.mark.parametrize("name", ["state.json", "summary.json"])
def test_R11_a_torn_file_of_one_run_is_named_and_the_others_are_listed(tmp_path, name, content, capsys):
    for run in ("good", "torn"):
        with open_run(settings(tmp_path, f"run.name={run}"), "raft") as made:
            made.write_json("summary.json", {"scores": [{"model": "RAFT", "condition": "oracle", "em": {"mean": 0.5}}]})
    (tmp_path / "torn" / name).write_bytes(content)
    found = {row["name"]: row for row in results.list_runs(tmp_path)}
    assert found["good"]["state"] == "finished" and found["good"]["scores"] and not found["good"]["error"]
    assert f"torn/{name} is broken" in found["torn"]["error"] and found["torn"]["scores"] == []
    assert found["torn"]["state"] == ("broken" if name == "state.json" else "finished")
    code, out, err = command(capsys, "runs", str(tmp_path))
    assert code == 0 and "good" in out and "is broken" in out.replace("\n", "") and not err


@pytest.mark.parametrize("key", ["time", "error", "pid"])
@pytest.mark.parametrize("value", ["x", None, [1], {"a": 1}, -1e300, 1e300, 10**400])
def test_R11_a_state_of_another_hand_is_listed(tmp_path, key, value, capsys):
    with open_run(settings(tmp_path), "raft") as run:
        pass
    run.write_json("state.json", {"job": "raft", "state": "failed", key: value})
    assert command(capsys, "runs", str(tmp_path))[0] == 0


def test_R11_files_of_a_run_are_on_the_disk_before_they_take_their_place(tmp_path, monkeypatch):
    synced, before = set(), os.fsync

    def fsync(file):
        synced.add(os.readlink(f"/proc/self/fd/{file}").rpartition("/")[2].split(".")[0])
        before(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with open_run(settings(tmp_path), "raft") as run:
        run.write_json("summary.json", {})
    assert {"settings", "versions", "state", "summary"} <= synced


def test_R11_a_run_whose_state_is_torn_goes_on(tmp_path):
    for _ in range(2):
        with open_run(settings(tmp_path), "raft") as run:
            (run.folder / "model").mkdir(exist_ok=True)
        assert json.loads((run.folder / "state.json").read_text())["state"] == "finished"
        (run.folder / "state.json").write_text("")
    with pytest.raises(ConfigError, match="was begun with"), open_run(settings(tmp_path, "seed=3"), "raft"):
        pass


@pytest.mark.parametrize("error", [DataError("no such file"), Stopped("later"), TrainError("rank 1"), ValueError("x")])
def test_R21_a_run_that_ended_before_it_made_anything_is_begun_again_with_other_settings(tmp_path, error):
    with pytest.raises(type(error)), open_run(settings(tmp_path), "raft"), span("data"):
        raise error
    with open_run(settings(tmp_path, "contexts.documents=3", "seed=2"), "raft") as run:
        (run.folder / "examples.jsonl").touch()
    assert loader.load([str(run.folder / "settings.yaml")]).seed == 2


@pytest.mark.parametrize(
    "made", ["model/config.json", "checkpoints/step-1/mark.json", "atm/phase.json", "tokenized.jsonl"]
)
def test_R21_one_that_made_something_is_not(tmp_path, made):
    with pytest.raises(TrainError), open_run(settings(tmp_path), "raft") as run:
        (run.folder / made).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / made).touch()
        raise TrainError("rank 1")
    with pytest.raises(ConfigError, match="was begun with"), open_run(settings(tmp_path, "seed=2"), "raft"):
        pass


def test_R22_runs_are_listed_while_others_start(tmp_path):
    """Whoever looks takes the lock for no moment that a start does not outlast."""
    done, path = threading.Event(), tmp_path / "one" / ".lock"

    def look():
        while not done.is_set():
            is_held(tmp_path / "one")

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(30):
            with locked(path.parent.mkdir(exist_ok=True) or path, _only_for_a_moment):
                pass
        with open_run(settings(tmp_path), "raft"):
            assert is_held(tmp_path / "one")
    finally:
        done.set()
        for looker in lookers:
            looker.join()


def _only_for_a_moment(waited_s):
    assert waited_s < PATIENCE_S


def test_R22_two_who_look_do_not_see_each_other(tmp_path):
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not is_held(tmp_path)
        fcntl.flock(other, fcntl.LOCK_EX)
        assert is_held(tmp_path)


def test_R22_a_lock_that_cannot_be_written_is_looked_at(tmp_path, monkeypatch):
    """As on a read-only mount, where every opening for writing fails."""
    with open_run(settings(tmp_path), "raft") as run:
        pass
    run.set_state("running")
    before = os.open

    def read_only(path, flags, *more, **named):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return before(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    assert [row["state"] for row in results.list_runs(tmp_path)] == ["killed"]
