"""All four trackers at work in a job's own process, each keeping its files here, read back by other means."""

import json

import pytest

from tests.tracking import world

ALL = "run.trackers=[tensorboard,wandb,mlflow,trackio]"
SECRET, PERSON = "hunter2-planted", "planted-person"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was stopped after step 2, had 2 and 3 done again, and finished with step 4."""
    folder = tmp_path_factory.mktemp("tracked")
    environment = world.home(folder, SECRET_TOKEN=SECRET, OPENAI_API_KEY=SECRET, HF_TOKEN=SECRET, USER=PERSON)
    environment |= dict.fromkeys(("MLFLOW_TRACKING_PASSWORD", "TRACKIO_WRITE_TOKEN", "ANTHROPIC_API_KEY"), SECRET)
    environment |= {"WANDB_API_KEY": SECRET.ljust(40, "0")}
    environment |= {"AWS_SECRET_ACCESS_KEY": SECRET, "USERNAME": PERSON, "LOGNAME": PERSON}
    stopped = world.play(folder, 1, 2, ALL, finish="no", environment=environment)
    assert stopped.returncode == 1 and stopped.stdout == "" and "fails" not in stopped.stderr, stopped.stderr
    finished = world.play(folder, 2, 4, ALL, environment=environment)
    assert finished.returncode == 0 and (finished.stdout, finished.stderr) == ("", "")
    return folder


WANTED = [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)]


def test_tensorboard_has_each_step_once_and_the_result(folder):
    assert world.tensorboard(folder / "one" / "tensorboard") == [
        *(("train/loss", step, loss) for step, loss in WANTED),
        ("result/minutes/train", 0, 1.5),
        ("result/RAFT/oracle/em", 0, 0.75),
    ]


def test_mlflow_has_one_run_that_was_resumed(folder):
    metrics, meta, params = world.mlflow(folder / "mlruns")
    assert [(step, loss) for name, step, loss in metrics if name == "train/loss"] == WANTED
    assert ("result/RAFT/oracle/em", 0, 0.75) in metrics
    assert "status: 3" in meta and "name: one" in meta  # finished
    assert params["contexts.oracle_fraction"] == "0.6"
    assert list((folder / "mlruns").rglob("artifacts/report.png"))


def test_trackio_has_one_run_that_was_resumed(folder):
    rows = world.trackio(folder / "trackio")
    assert {name for name, *_ in rows} == {"one"}
    assert [(step, round(numbers["train/loss"], 4)) for _, step, numbers in rows if "train/loss" in numbers] == WANTED
    assert rows[-1][2]["result/RAFT/oracle/em"] == 0.75 and "result/picture" in rows[-1][2]


def test_wandb_has_one_run_in_two_pieces_whose_steps_go_on(folder):
    records = world.wandb(folder / "one")
    runs = [record.run for record in records if record.HasField("run")]
    assert len({run.run_id for run in runs}) == 1 and {run.project for run in runs} == {"ragdist"}
    rows = [
        {(*item.nested_key, item.key)[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    losses = [row for row in rows if "train/loss" in row]
    assert [(row["train/step"], round(row["train/loss"], 4)) for row in losses] == WANTED
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
    assert "result/picture" in rows[-1]
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [130, 0]


def test_nothing_of_the_environment_or_the_person_is_in_any_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 200
    for path in files:
        held = path.read_bytes()
        assert SECRET.encode() not in held and PERSON.encode() not in held, path


def test_wandb_is_told_no_host_code_or_packages(folder):
    runs = [record.run for record in world.wandb(folder / "one") if record.HasField("run")]
    assert {(run.host, run.git.commit, run.git.remote_url) for run in runs} == {("", "", "")}
    names = {path.name for path in (folder / "one" / "wandb").rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".py", ".json", ".txt")) or name == "output.log"}
    assert not any(record.HasField("stats") for record in world.wandb(folder / "one"))


def test_tensorboard_needs_no_torch(tmp_path):
    code = """
import sys
from pathlib import Path
from ragdist.tracking.clients import TensorBoard, TrackedRun
board = TensorBoard(TrackedRun("1", False, 0, "ragdist", "one", "raft", Path(sys.argv[1]), {"seed": 0}))
board.add("train", 1, {"loss": 0.5})
board.close("finished")
assert not {"torch", "tensorflow"} & set(sys.modules)
"""
    world.run_code(code, tmp_path)
    assert world.tensorboard(tmp_path / "tensorboard") == [("train/loss", 1, 0.5)]
