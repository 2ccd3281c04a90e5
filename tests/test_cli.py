"""The command line: exit codes, one clear message for a person's mistake, results on stdout."""

import json
import shutil
import subprocess
import sys

import pytest

from ragdist import cli
from tests import tiny


def ragdist(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with three questions and their documents."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"question": f"Colour of ball {n}?", "answers": [f"shade{n}"], "split": "test" if n == 2 else "train"}
        | {"documents": [{"title": f"ball {n}", "text": f"Ball {n} is shade{n}.", "kind": "golden"}]}
        for n in range(3)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lost.jsonl").write_text('{"question": "Who?", "answers": ["Nobody"], "split": "train"}\n')
    (tmp_path / "broken.jsonl").write_text('{"question": "Who?"\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "ball.md").write_text("Ball 1 is shade1.")
    return tmp_path


RECORDS = ("corpus.source=records", "corpus.questions=[q.jsonl]", "contexts.distractors=random")
LOST = ("corpus.source=records", "corpus.questions=[lost.jsonl]")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["train", "raft", "contexts.oracle_fracton=1"], "contexts.oracle_fraction"),
        (["train", "raft", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "rft"], "raft"),
        (["demo", "trio"], "demo duet"),
        (["train", "atm", "atm.sample=3"], "atm.samples"),
        (["train", "atm", "atm.samples=1"], "atm.samples"),
        (["train", "atm", "atm.variant=released_code"], "raise atm.samples"),
        (["train", "atm", "attacker.train.examples_per_step=3"], "attacker.workers"),
        (["build", "--until", "nothing"], "examples"),
        (["build", "corpus.source=records"], "corpus.questions"),
        (["build", "corpus.source=folder", "corpus.folder=texts", "corpus.questions=[none.jsonl]"], "none.jsonl"),
        (["build", "corpus.source=records", "corpus.questions=[broken.jsonl]"], "broken.jsonl"),
        (["build", "corpus.source=folder", "corpus.folder=empty", "corpus.questions=[q.jsonl]"], "corpus.folder"),
        (["build", *RECORDS], "contexts.documents"),  # three chunks, five documents asked for
        (["build", *LOST], "oracle"),
        (["build", *LOST, "questions.missing_oracle=error"], "questions.missing_oracle"),
        (["build", *RECORDS, "model.source=/no/such/folder"], "model.source"),
        (["train", "raft", *RECORDS, "model.source=bare"], "model.source"),
        (["train", "raft", "run.folder=q.jsonl"], "run.folder"),
        (["runs", "nowhere"], "nowhere"),
        (["evaluate"], "--model"),
        (["export", "nowhere", "--to", "out"], "nowhere"),
        (["export", "bare"], "--hub"),
        (["export", "bare", "--to", "texts"], "--to"),
        (["export", "bare", "--to", "out", "--form", "merge"], "merged"),
        (["export-data", "--to", "out", "--form", "csv"], "completion"),
        (["export-data", *LOST], "--hub"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_code_2(arguments, wanted, here, model, capsys):
    if not any("model.source" in argument for argument in arguments) and arguments[0] in ("build", "train"):
        arguments = [*arguments, f"model.source={model}"]
    code, out, err = ragdist(capsys, *arguments)
    assert (code, out) == (2, "") and wanted in err and "Traceback" not in err, err


def test_a_model_without_weights_stops_training_and_leaves_finished_stages(here, model, capsys):
    shutil.copytree(model, here / "bare", dirs_exist_ok=True)
    (here / "bare" / "model.safetensors").unlink()
    arguments = ["train", "raft", *RECORDS, "contexts.documents=2", "train.examples_per_step=4"]
    code, _, err = ragdist(capsys, *arguments, "model.source=bare")
    assert code == 2 and "bare" in err and "Traceback" not in err
    done = [path.name.split("-")[0] for path in (here / "runs" / "data").iterdir() if (path / "stage.json").exists()]
    assert not [path for path in (here / "runs" / "data").iterdir() if path.suffix == ".tmp"], done


def test_a_full_disk_is_one_clear_message_and_earlier_stages_stay(here, model):
    """A real limit on file size, in a process of its own; questions and chunks are small, examples are not."""
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))
from ragdist.cli import main
main(sys.argv[1:])
"""
    arguments = ["build", *RECORDS, "contexts.documents=2", f"model.source={model}"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "run.folder" in done.stderr and "Traceback" not in done.stderr, done.stderr
    left = {path.name.split("-")[0] for path in (here / "runs" / "data").iterdir() if path.is_dir()}
    assert "chunks" in left and "examples" not in left


def test_build_tells_stages_and_rows_as_json(here, model, capsys):
    code, out, _ = ragdist(capsys, "build", *RECORDS, "contexts.documents=2", f"model.source={model}", "--json")
    made = {row["stage"]: row["rows"] for row in json.loads(out)}
    assert code == 0 and made == {
        **{"chunks": 3, "questions": 3, "forgeries": 3},
        **{"candidates": 3, "contexts": 2, "examples": 2},
    }


def test_audit_prints_what_the_rows_are_and_draws_it(here, model, capsys):
    arguments = ["audit", *RECORDS, "contexts.documents=2", "contexts.oracle_fraction=0.5", f"model.source={model}"]
    code, out, _ = ragdist(capsys, *arguments, "--json", "--picture", "audit.png")
    assert code == 0 and json.loads(out)["oracle_fraction"] == 0.5
    assert (here / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert "50.0%" in ragdist(capsys, *arguments)[1]


def test_settings_print_as_json_and_as_resolved_yaml(capsys):
    rows = json.loads(ragdist(capsys, "settings", "--json")[1])
    assert {"key", "type", "default", "help"} == set(rows[0])
    assert "oracle_fraction: 0.25" in ragdist(capsys, "settings", "contexts.oracle_fraction=0.25")[1]


def test_doctor_examines_this_machine(capsys):
    code, out, _ = ragdist(capsys, "doctor", "--json")
    assert {check["name"] for check in json.loads(out)} >= {"python", "packages", "memory", "gpu"}
    assert code == (0 if all(check["good"] for check in json.loads(out)) else 1)


def test_help_fits_a_screen(capsys):
    commands = (["train", "raft"], *([name] for name in ("build", "evaluate", "export", "export-data")))
    for command in (["--help"], *([*command, "--help"] for command in commands)):
        code, out, _ = ragdist(capsys, *command)
        assert code == 0 and len(out.splitlines()) <= 40


def test_ctrl_c_ends_with_130_and_no_traceback(here):
    code = """
import os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell begins without
from ragdist import cli, runs
def slow(*_):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(30)
runs.build = slow
cli.main(["build"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and "goes on" in done.stderr and "Traceback" not in done.stderr
