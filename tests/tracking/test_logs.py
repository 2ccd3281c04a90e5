"""Each line of the log for machines says where in the run it was written."""

import json
import logging

import pytest

from ragdist.config import loader
from ragdist.errors import StorageError
from ragdist.tracking import logs
from ragdist.tracking.progress import say
from ragdist.tracking.run import metrics, open_run, span


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("round-0/forged", {"round": 0, "phase": "forged"}),
        ("round 12, forge", {"round": 12, "phase": "forge"}),
        ("train", {"round": None, "phase": "train"}),
    ],
)
def test_phase_of_a_round(name, where):
    assert logs.phase(name) == where


def test_lines_of_a_run_say_run_job_and_phase_and_errors_their_traceback(tmp_path):
    settings = loader.load([f"run.folder={tmp_path}", "run.name=mine"])
    with pytest.raises(ZeroDivisionError), open_run(settings, "raft"):
        with span("round-1/forged"), logs.at(rank=3):
            logging.getLogger("ragdist.lm").warning("%d rows", 7)
        raise ZeroDivisionError
    begun, warned, done, failed = map(json.loads, (tmp_path / "mine" / "log.jsonl").read_text().splitlines())
    inside = {"run": "mine", "job": "raft", "round": 1, "phase": "forged"}
    assert inside.items() <= begun.items() and "rank" not in begun
    assert ({"rank": 3, "level": "WARNING", "message": "7 rows"} | inside).items() <= warned.items()
    assert done["message"].startswith("round-1/forged: ") and done["time"].endswith("Z")
    assert (failed["level"], failed["run"]) == ("ERROR", "mine")
    assert "ZeroDivisionError" in failed["traceback"] and "phase" not in failed


def test_a_run_that_says_nothing_has_no_file(tmp_path):
    with open_run(loader.load([f"run.folder={tmp_path}", "run.name=mine"]), "raft"):
        pass
    assert not (tmp_path / "mine" / "log.jsonl").exists()


def test_R20_a_full_disk_is_one_line_and_no_traceback_of_the_log(tmp_path, capsys):
    """/dev/full takes nothing, as a full disk."""
    settings = loader.load([f"run.folder={tmp_path}", "run.name=mine"])
    (tmp_path / "mine").mkdir()
    for name in ("log.txt", "log.jsonl"):
        (tmp_path / "mine" / name).symlink_to("/dev/full")
    with open_run(settings, "raft"):
        say("hello")
        logging.getLogger("ragdist").error("and more")
    (tmp_path / "mine" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device; free space"), open_run(settings, "raft"):
        metrics("train", loss=1)
    err = capsys.readouterr().err
    assert "hello" in err and "Traceback" not in err and "Logging error" not in err


def test_a_mistake_in_a_line_of_the_log_is_still_seen(tmp_path, capsys):
    wrong = logging.LogRecord("ragdist", logging.ERROR, __file__, 1, "%d", ("no number",), None)
    for kind in (logs.Log, logs.Lines):
        kind(tmp_path / "log").handle(wrong)
        assert "Logging error" in capsys.readouterr().err
