"""Each line of the log for machines says where in the run it was written."""

import json
import logging

import pytest

from ragdist.config import loader
from ragdist.tracking import logs
from ragdist.tracking.run import open_run, span


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
