"""The command line: exit codes, one clear line for a person's mistake, results on stdout."""

import json
import subprocess
import sys

import pytest


def ragdist(*arguments, cwd=None):
    code = "import sys; from ragdist.cli import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["train", "raft", "contexts.oracle_fracton=1"], "contexts.oracle_fraction"),
        (["train", "raft", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "rft"], "raft"),
        (["build", "corpus.source=records"], "corpus.questions"),
        (["build", "corpus.source=folder", "corpus.questions=[q.jsonl]"], "q.jsonl"),
        (["build", "model.source=/no/such/folder"], "model.source"),
        (["build", "--until", "nothing"], "examples"),
        (["runs", "nowhere"], "nowhere"),
        (["evaluate"], "--model"),
        (["train", "raft", "run.folder=/proc/none"], "run.folder"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_code_2(arguments, wanted, tmp_path):
    done = ragdist(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert wanted in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_settings_print_as_json_and_as_resolved_yaml():
    rows = json.loads(ragdist("settings", "--json").stdout)
    assert {"key", "type", "default", "help"} == set(rows[0])
    assert "oracle_fraction: 0.25" in ragdist("settings", "contexts.oracle_fraction=0.25").stdout


def test_doctor_examines_this_machine():
    done = ragdist("doctor", "--json")
    assert {check["name"] for check in json.loads(done.stdout)} >= {"python", "packages", "memory", "gpu"}
    assert done.returncode == (0 if all(check["good"] for check in json.loads(done.stdout)) else 1)


def test_every_command_has_help_that_fits_a_screen():
    for command in (["--help"], ["build", "--help"], ["train", "raft", "--help"], ["evaluate", "--help"]):
        done = ragdist(*command)
        assert done.returncode == 0 and len(done.stdout.splitlines()) <= 40
