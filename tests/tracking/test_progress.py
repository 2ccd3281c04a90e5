"""What comes from outside is shown, and never steers a terminal nor is read as markup."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from ragdist import asking, results
from ragdist.cluster import submit
from ragdist.config import loader
from ragdist.errors import DataError
from ragdist.serving.service import Answer, Shown
from ragdist.tracking import progress
from ragdist.tracking.run import open_run
from tests.test_cli import ragdist as command

STEERING = {
    "colour": "\x1b[31m",
    "title of the window": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;aGk=\x1b\\",
    "8-bit": "\x9b2J",
    "backspace": "a\x08b",
    "return": "good\rbad",
    "right to left": "\u202egnp.exe",
    "isolate": "\u2066x\u2069",
    "arabic mark": "\u061c",
    "line separator": "a\u2028b",
    "no UTF-8": "caf\udce9",
    "letters that nobody sees": "\U000e0041\U000e0042",
    "delete": "\x7f",
}
MARKUP = ["None [/INST]", "[a-z]+", "[/]", "[bold]x[/bold]", "[link=file:///etc/passwd]x[/link]", ":smile:", "a\\[b]"]


def is_harmless(text):
    steering = {*map(chr, range(32)), *map(chr, range(127, 160)), *"\u202e\u2066\u2069\u061c\u2028"} - {"\t", "\n"}
    return not steering & set(text)


def row(text):
    return {"name": text, "job": text, "state": "failed", "time": 1.0, "scores": [], "error": text}


@pytest.mark.parametrize("text", STEERING.values(), ids=STEERING)
def test_S2_what_steers_a_terminal_is_written_out(text):
    shown = progress.visible(text)
    assert is_harmless(shown) and shown.encode() and "\\" in shown


def test_S2_what_people_write_is_as_it_was():
    for text in ("naïve café", "서울입니다", "नमस्ते क्‍ष", "שלום", "👩‍👩‍👧 🏴", "a\tb\nc", "\u00adsoft"):
        assert progress.visible(text) == text
    assert progress.visible("a\r\nb") == "a\nb"
    assert progress.relayed("\x1b[36m(pid=7)\x1b[0m 10%\r20%\x1b[2K") == "(pid=7) 10%\n20%\\u001b[2K"


@given(st.text(st.characters(exclude_categories=())))
def test_S2_whatever_is_shown_is_harmless_text(text):
    assert is_harmless(progress.visible(text)) and bool(text) == bool(progress.visible(text).encode())


@pytest.mark.parametrize("text", [*MARKUP, *STEERING.values()])
def test_S1_S2_tables_show_texts_as_they_are(text, capsys):
    table = Table("column", title="t")
    table.add_row(text)
    table.add_row(Text(text))
    results.show(table)
    out = capsys.readouterr().out
    assert is_harmless(out) and out.count(progress.visible(text)) >= 1  # a Text leaves some out by itself


@pytest.mark.parametrize("text", [*MARKUP, *STEERING.values()])
def test_S1_S2_runs_shows_errors_and_names_as_they_are(text, capsys, monkeypatch):
    monkeypatch.setattr(results, "list_runs", lambda folder: [row(text)])
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = command(capsys, "runs")
    assert code == 0 and is_harmless(out) and out.count(progress.visible(" ".join(text.split()))) >= 1
    code, out, _ = command(capsys, "runs", "--json")
    assert code == 0 and is_harmless(out) and json.loads(out)[0]["name"] == text


@pytest.mark.parametrize("text", [*MARKUP, *STEERING.values()])
def test_S1_S2_answer_shows_what_the_model_and_the_documents_say(text, capsys, monkeypatch):
    shown = (Shown(text, text), Shown("", text))
    monkeypatch.setattr(asking, "answer", lambda *_: Answer(question="?", text=text, answer=text, documents=shown))
    code, out, err = command(capsys, "answer", "?")
    assert code == 0 and out == f"{progress.visible(text)}\n" and is_harmless(err) and progress.visible(text) in err
    code, out, _ = command(capsys, "answer", "?", "--json")
    assert code == 0 and is_harmless(out) and json.loads(out)["text"] == text


def test_S2_logs_of_a_run_and_of_a_job_steer_nothing(tmp_path, capsys):
    settings = loader.load([f"run.folder={tmp_path}", "run.name=one"])
    with pytest.raises(DataError), open_run(settings, "raft") as run:
        logging.getLogger("ragdist").warning("%s", "".join(STEERING.values()))
        raise DataError("cannot read \x1b[31m\udce9")
    assert is_harmless((run.folder / "log.txt").read_text()) and "owned" in (run.folder / "log.txt").read_text()

    class Client:
        async def tail_job_logs(self, name):
            yield "rank 0: \x1b[36mhello\x1b[0m\x1b]0;owned\x07\n"

    import asyncio

    out = io.StringIO()
    asyncio.run(submit._Log(Client(), "job", out).relay())
    assert out.getvalue() == "rank 0: hello\\u001b]0;owned\\u0007\n"


def test_R7_a_broken_file_whose_name_is_not_utf8_is_named_and_the_run_has_failed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"documents/caf\xe9.pdf")
    Path("documents").mkdir()
    Path("documents/good.md").write_text("The kiln is hot.")
    Path(name).write_text("no PDF")
    code, _, err = command(capsys, "init", "documents")
    assert code == 2 and r"caf\udce9.pdf" in err and "Traceback" not in err
    settings = loader.load(["run.folder=runs", "run.name=one"])
    with pytest.raises(DataError), open_run(settings, "raft") as run:
        progress.say(f"reading {name}")
        raise DataError(f"{name} is broken")
    state = json.loads((run.folder / "state.json").read_text())
    assert state["state"] == "failed" and name in state["error"]
    assert r"caf\udce9.pdf" in (run.folder / "log.txt").read_text()
    assert r"caf\udce9.pdf" in json.loads((run.folder / "log.jsonl").read_text().splitlines()[0])["message"]
    assert name in results.list_runs(Path("runs"))[0]["error"]
    assert command(capsys, "runs")[0] == 0


def test_R7_standard_error_of_any_encoding_takes_what_is_said():
    code = "from ragdist.tracking.progress import say; say('caf\\udce9 서울 \\x1b[1m')"
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60)
    assert done.returncode == 0 and b"\\udce9" in done.stderr and b"\x1b" not in done.stderr
