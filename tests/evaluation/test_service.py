"""A RAG service by a rule that is known: it answers as most of the documents that it was given say."""

import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import ragdist
from ragdist import cli
from ragdist.config import loader
from ragdist.errors import ConfigError, PartError, TeacherError
from ragdist.evaluation import kept_answers
from ragdist.evaluation.service import HookedService, RagService
from tests import faults, tiny
from tests.evaluation.test_suite_run import ROWS


class Majority(faults.Proxy):
    """Looks into the folder `index`."""

    index: Path

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)["messages"]
        (title,) = re.findall(r"ball \d+", asked[-1]["content"])
        texts = [file.read_text().partition("\n")[::2] for file in sorted(self.index.glob("*.txt"))]
        about = (text for name, text in texts if name == title and text.startswith(f"B{title[1:]} is "))
        votes = Counter(text.partition(" is ")[2].partition(".")[0] for text in about)
        assert len(asked) == 1
        return 200, faults.completion(votes.most_common(1)[0][0] if votes else "unknown")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return loader.load(
        [
            *(f"run.folder={folder}/runs", f"model.source={tiny.model_folder(folder)}", "model.max_tokens=1024"),
            *("corpus.source=records", f"corpus.questions=[{folder}/q.jsonl]", "contexts.documents=3"),
            *("contexts.distractors=random", "contexts.filter_answers=false", "evaluation.forgeries=2"),
            *("evaluation.attacks=[flood,irrelevant]", "teacher.attempts=1", "teacher.in_flight=1"),
        ]
    )


@pytest.fixture
def world(made, tmp_path):
    """Settings with a run folder of its own name, a service, what it reads, and the attacks that it was told of."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "mine.txt").write_text("ball 1\nstays")
    index, told = tmp_path / "index", tmp_path / "told"
    copy = f'rm -rf {index}; mkdir {index}; cp "$RAGDIST_CORPUS"/* {index}/ 2>/dev/null'
    command = f'{copy}; echo "<$RAGDIST_ATTACK>" >> {told}'
    with Majority() as proxy:
        proxy.index = index
        settings = made.replaced("run.name", tmp_path.name)
        yield settings, proxy, RagService(f"rag={proxy.url}#m", tmp_path / "docs", command), told
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["mine.txt"]


def test_a_service_is_judged_over_each_corpus_and_left_clean(world):
    settings, proxy, service, told = world
    run = ragdist.evaluate(settings, service=service)
    found = {one.name: one for one in run.report.robustness.attacks}
    shares = {name: (one.rows, one.clean.mean, one.accuracy.mean, one.misled.mean) for name, one in found.items()}
    assert shares == {"flood": (4, 1.0, 0.0, 1.0), "irrelevant": (4, 1.0, 1.0, 0.0)}
    assert found["flood"].repeats.mean == 1.0 and run.report.cell("rag", "retrieved").retrieved_oracle is None
    assert told.read_text().split() == ["<retrieved>", "<flood>", "<irrelevant>", "<>"]
    assert list(proxy.index.iterdir()) == [] and len(proxy.calls) == 12
    rows = kept_answers.read(run.folder).to_pylist()
    assert len(rows) == 12 and not any(row["documents"] for row in rows)
    verdict = ragdist.gate(settings, max_misled=0.5, min_clean=0.9, service=service)
    assert verdict.why.startswith("rag, flood: misled 1.000") and len(verdict.failed) == 1
    assert len(told.read_text().split()) == 4 and len(proxy.calls) == 12  # nothing is asked or written again


class Hooked(Majority):
    """Takes its documents over HTTP, for who has the token."""

    def __init__(self):
        super().__init__()
        self.held, self.told, self.refuse = [], [], ()
        outer = self

        class Corpus(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
                known = self.headers["Authorization"] == "Bearer secret"
                outer.told.append(f"{self.command} {self.path} {self.headers['X-Ragdist-Attack']}".strip())
                if self.command == "DELETE":
                    outer.held.clear()
                outer.held += map(json.loads, body.splitlines())
                self.send_response(200 if known and outer.told[-1] not in outer.refuse else 403)
                self.end_headers()

            do_DELETE = do_POST

            def log_message(self, *_):
                pass

        self.hook = ThreadingHTTPServer(("127.0.0.1", 0), Corpus)
        threading.Thread(target=self.hook.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.hook.shutdown()
        self.hook.server_close()

    def answer(self, path, body):
        (title,) = re.findall(r"ball \d+", json.loads(body)["messages"][-1]["content"])
        about = (row["text"] for row in self.held if row["title"] == title and " is " in row["text"])
        votes = Counter(text.partition(" is ")[2].partition(".")[0] for text in about)
        return 200, faults.completion(votes.most_common(1)[0][0])


def test_a_service_that_takes_its_corpus_over_http_is_judged_and_forgets(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAGDIST_CORPUS_TOKEN", "secret")
    settings = made.replaced("run.name", tmp_path.name)
    (tmp_path / "s.yaml").write_text(loader.dump(settings))
    monkeypatch.setattr("ragdist.evaluation.service.AT_ONCE", 15)
    with Hooked() as proxy:
        corpus = f"http://127.0.0.1:{proxy.hook.server_port}/corpus?to=suite"
        command = ["matrix", str(tmp_path / "s.yaml"), "--attack", "flood"]
        with pytest.raises(SystemExit) as end:
            cli.main([*command, "--service", f"rag={proxy.url}#m", "--corpus-to", corpus, "--json"])
        assert not end.value.code
        (found,) = json.loads(capsys.readouterr().out)["robustness"]["attacks"]
        assert (found["clean"]["mean"], found["accuracy"]["mean"], found["rows"]) == (1.0, 0.0, 4)
        held = ["DELETE", "POST", "POST"]  # sixteen documents, 15 at once; with the forged ones 24
        named = [f"{method} /corpus?to=suite {name}" for name in ("retrieved", "flood") for method in held]
        assert proxy.told == [*named, "DELETE /corpus?to=suite"] and proxy.held == []
        proxy.refuse = ("POST /corpus?to=suite retrieved",)
        other = settings.replaced("run.name", f"{tmp_path.name}-2").replaced("evaluation.attacks", ("irrelevant",))
        proxy.told.clear()
        service = HookedService(f"rag2={proxy.url}#other", corpus)
        with pytest.raises(PartError, match=r"POST http://127.* was answered with 403, wanted 200"):
            ragdist.evaluate(other, service=service)
        assert proxy.told[-1] == "DELETE /corpus?to=suite"
    with pytest.raises(PartError, match=r"DELETE http://127.* failed \("):
        service.show("flood", [])


def test_after_a_death_nothing_stays_and_the_same_call_goes_on(world):
    settings, proxy, service, told = world
    proxy.fault = lambda number, _: faults.Fault(how="reset") if number == 6 else None
    with pytest.raises(TeacherError, match="failed 1 times"):
        ragdist.evaluate(settings, service=service)
    assert not service.ours.exists() and told.read_text().split() == ["<retrieved>", "<flood>", "<>"]
    ragdist.evaluate(settings, service=service)
    assert told.read_text().split()[3:] == ["<flood>", "<irrelevant>", "<>"] and len(proxy.calls) == 13


def test_a_command_that_fails_or_another_folder_in_the_place_is_one_line(world, tmp_path):
    settings, proxy, service, _ = world
    with pytest.raises(PartError, match="ended with 3 at the corpus of retrieved"):
        ragdist.evaluate(settings, service=RagService(service.source, service.folder, "exit 3"))
    with pytest.raises(ConfigError, match="give --then COMMAND"):
        ragdist.evaluate(settings, service=RagService(service.source, service.folder))
    other = tmp_path / "other"
    (other / "ragdist-suite").mkdir(parents=True)
    (other / "ragdist-suite" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not of ragdist"):
        ragdist.evaluate(settings, service=RagService(service.source, other, service.command))
    assert (other / "ragdist-suite" / "precious.txt").read_text() == "mine" and not proxy.calls


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--service", "http://h/v1"], "--corpus-to FOLDER go together"),
        (["--corpus-to", "x"], "--corpus-to FOLDER go together"),
        (["--service", "runs/mine", "--corpus-to", "x"], "http(s)://host/path"),
        (["--service", "http://h/v1", "--corpus-to", "x", "--model", "http://g/v1"], "no --model"),
        (["--service", "http://h/v1", "--corpus-to", "x", "--grid", "--then", "true"], "no --grid"),
        (
            ["--service", "http://h/v1", "--corpus-to", "http://h/c", "--then", "true"],
            "--then COMMAND goes with a folder",
        ),
        (["--service", "http://h/v1", "--corpus-to", "http://me:key@h/c"], "it goes in RAGDIST_CORPUS_TOKEN"),
    ],
)
def test_what_cannot_be_is_one_line(made, tmp_path, capsys, arguments, wanted):
    (tmp_path / "s.yaml").write_text(loader.dump(made.replaced("run.name", tmp_path.name)))
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", str(tmp_path / "s.yaml"), *arguments])
    assert end.value.code == 2 and wanted in capsys.readouterr().err.splitlines()[-1]
