"""Several lessons of one call: side by side where there is room, else in turn; stopped together, failed together."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ragdist.cluster import job
from ragdist.cluster.train import RayTuner, turns
from ragdist.config.loader import dump
from ragdist.errors import DataError, Stopped
from ragdist.lm.checkpoints import MODEL, complete
from ragdist.lm.score import load_scorer
from ragdist.lm.tune import tune
from ragdist.records import as_row
from ragdist.storage.atomic import write_json
from ragdist.tracking.run import append_metrics, open_run
from tests.cluster.test_train import REPOSITORY, wait_for_step
from tests.training import lesson, losses, noted, rated, settings, write_rated

DRIVER = """
import sys
from pathlib import Path
from ragdist.cluster.train import RayTuner
from ragdist.config.loader import load
from ragdist.errors import RagdistError
from tests.training import lesson

made, root = load([sys.argv[1]]), Path(sys.argv[2])
lessons = [
    lesson(root / "rows.jsonl", root / "reciter", made, "reciter"),
    lesson(root / "rated.jsonl", root / "alignment", made, "alignment", "scorer"),
]
try:
    RayTuner(made).tune(lessons)
except RagdistError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(error.exit_code)
"""
NAMES = ("reciter", "alignment")


@pytest.mark.parametrize(
    ("lessons", "workers", "seats", "at_once"),
    [
        (1, 1, 1, [1]),
        (1, 2, 2, [1]),
        (2, 1, 2, [2]),
        (2, 2, 4, [2]),
        (2, 2, 3, [1, 1]),
        (2, 1, 1, [1, 1]),
        (3, 1, 2, [1, 1, 1]),
        (3, 1, 8, [3]),
    ],
)
def test_all_lessons_at_once_where_every_worker_has_a_seat_else_one_each(lessons, workers, seats, at_once):
    made = [str(number) for number in range(lessons)]
    found = turns(made, workers, seats)
    assert [len(turn) for turn in found] == at_once
    assert [name for turn in found for name in turn] == made


def test_two_lessons_train_side_by_side_and_one_signal_saves_both_check_64(model, examples, tmp_path):
    write_rated(tmp_path / "rated.jsonl")
    (tmp_path / "rows.jsonl").write_text(examples.read_text())
    made = settings(model, cluster={"cpus_per_worker": 1}, epochs=200, checkpoint_every=1000)
    (tmp_path / "settings.yaml").write_text(dump(made))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "settings.yaml"), str(tmp_path)],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for name in NAMES:
        wait_for_step(tmp_path / name, 3)
    driver.send_signal(signal.SIGINT)
    said, progress = driver.communicate(timeout=120)
    assert driver.returncode == 130, progress
    assert "reciter, alignment are tuned side by side: 2 x 1 workers with 1 CPUs and 0 GPUs each" in progress
    assert said.startswith("Stopped: reciter: stopped after step") and "; alignment: stopped after step" in said
    assert "Traceback" not in progress
    began, ended = {}, {}
    for name in NAMES:
        steps = noted(tmp_path / name)
        began[name], ended[name] = steps[0]["time"], steps[-1]["time"]
        assert steps[-1]["step"] < 600
        assert complete(tmp_path / name / "checkpoints")[-1].name == f"checkpoint-{steps[-1]['step']}"
    assert max(began.values()) < min(ended.values())


@pytest.mark.again  # side by side is the harder way; the choice between the two is under test above
def test_lessons_without_room_are_trained_in_turn_and_the_runs_curves_show_both(
    ray_here, model, examples, tmp_path, capfd
):
    made = settings(model, workers=2, epochs=1)
    made = made.model_copy(update={"run": made.run.model_copy(update={"folder": str(tmp_path)})})
    rows = write_rated(tmp_path / "rated.jsonl")
    with open_run(made, "raft") as run:
        lessons = [
            lesson(examples, run.folder / "reciter", made, "reciter"),
            lesson(rows, run.folder / "alignment", made, "alignment", "scorer"),
        ]
        tuned = RayTuner(made).tune(lessons)
    assert tuned == [run.folder / name / MODEL for name in NAMES]
    assert "are tuned in turn: 2 x 2 workers with 1 CPUs and 0 GPUs each, room for 2" in capfd.readouterr().err
    assert noted(tuned[0].parent)[-1]["time"] < noted(tuned[1].parent, "workers_started")[0]["time"]
    for name in NAMES:
        assert [line["loss"] for line in noted(run.folder, f"train {name}")] == losses(run.folder / name)
    assert "The alignment model" in (tuned[1] / "README.md").read_text()
    load_scorer(made.model, tuned[1])
    (tmp_path / "alone").mkdir()
    tune(rows, tmp_path / "alone", settings(model, epochs=1), kind="scorer")
    assert losses(tuned[1].parent) == pytest.approx(losses(tmp_path / "alone"), abs=1e-4)
    assert RayTuner(made).tune(lessons) == tuned


def test_failure_of_one_lesson_lets_the_other_save_and_ends_the_call(ray_here, model, examples, tmp_path, monkeypatch):
    """The jobs run in threads of this process, not on Ray; what they train, note and heed is real."""

    class Here:
        def __init__(self, given, made):
            self.given, self.made = given, made

        def fit(self):
            append_metrics(self.given.folder, "workers_started", workers=1)
            if self.given.kind == "scorer":
                wait_for_step(tmp_path / "reciter", 3)
            try:
                tune(self.given.rows, self.given.folder, self.made, kind=self.given.kind)
            except Stopped as stopped:
                return SimpleNamespace(return_value={"stopped": str(stopped)})
            except DataError as error:
                write_json(self.given.folder / job.FAILURE, {"kind": "DataError", "message": str(error)})
            return SimpleNamespace(return_value={})

    monkeypatch.setattr(job, "_trainer", Here)
    rows = tmp_path / "rated.jsonl"
    rows.write_text("".join(json.dumps({**as_row(row), "right": True}) + "\n" for row in rated(24)))
    made = settings(model, cluster={"cpus_per_worker": 1}, epochs=500)
    lessons = [
        lesson(examples, tmp_path / "reciter", made, "reciter"),
        lesson(rows, tmp_path / "alignment", made, "alignment", "scorer"),
    ]
    with pytest.raises(DataError, match=r"alignment: all 24 answers in .* are right"):
        RayTuner(made).tune(lessons)
    last = noted(tmp_path / "reciter")[-1]["step"]
    assert 3 <= last < 1500
    assert complete(tmp_path / "reciter" / "checkpoints")[-1].name == f"checkpoint-{last}"
    assert not (tmp_path / "reciter" / MODEL).exists()
