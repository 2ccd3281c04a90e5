"""What lies in the folder that a command of each surface runs in."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

QUESTIONS = [
    {"id": f"q{n}", "question": f"How hot is kiln {n}?", "answers": [f"{900 + n} degrees"]}
    | {"split": "test" if n < 4 else "train"}
    | {"documents": [{"title": f"kiln {n}", "text": f"Kiln {n} is {900 + n} degrees hot.", "kind": "golden"}]}
    for n in range(12)
]


def _with_libraries() -> None:
    """Has what asks a model imported now: on a busy machine that takes more than a command's time."""
    import ragdist.lm.continuous  # noqa: F401


def documents(folder: Path) -> None:
    """Three documents, question files of every common form, a settings file."""
    (folder / "documents").mkdir()
    for name in ("kiln", "shop", "relay"):
        (folder / "documents" / f"{name}.md").write_text(f"# The {name}\n\nThe {name} is number {len(name)}.\n")
    for name, content in question_files().items():
        (folder / name).write_bytes(content)
    (folder / "s.yaml").write_text("corpus: {folder: documents, questions: [q.csv]}\nseed: 1\n")


def question_files() -> dict[str, bytes]:
    """The same questions as JSONL, JSON, CSV, TSV and parquet."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = "".join(f"{row['id']},{row['question']},{row['answers'][0]}\n" for row in QUESTIONS)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(QUESTIONS), sink)
    return {
        "q.jsonl": "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode(),
        "q.json": json.dumps(QUESTIONS).encode(),
        "q.csv": f"id,question,answer\n{rows}".encode(),
        "q.tsv": f"id\tquestion\tanswer\n{rows}".replace(",", "\t").encode(),
        "q.parquet": sink.getvalue(),
    }


def runs(folder: Path) -> None:
    """Two finished runs without their models, and one that failed."""
    from ragdist import results
    from ragdist.config import loader
    from ragdist.errors import TrainError
    from ragdist.tracking.run import metrics, open_run, span
    from tests.evaluation import test_kept_answers, test_report

    _with_libraries()
    report = test_report.build(folder / "asked", "oracle", base=test_report.stubborn, RAFT=test_report.majority)
    for name in ("one", "two"):
        settings = loader.load([f"run.folder={folder / 'runs'}", f"run.name={name}", "model.source=no/model/here"])
        with open_run(settings, "raft") as run, span("train"):
            metrics("train", step=1, loss=0.5)
            results.conclude(run, report, [test_kept_answers.answer()])
    try:
        with open_run(loader.load([f"run.folder={folder / 'runs'}", "run.name=bad"]), "atm"):
            raise TrainError("rank 1")
    except TrainError:
        pass


def models(folder: Path) -> None:
    """A finished run whose model can be asked, and an adapter of that model."""
    import peft
    from transformers import AutoModelForCausalLM

    from tests.serving.finished import raft_run

    _with_libraries()
    with contextlib.chdir(folder):
        model = AutoModelForCausalLM.from_pretrained(raft_run(Path()) / "model")
        peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained("adapter")


def teacher(folder: Path) -> None:
    """Documents, a model, and settings that ask a server which replies what lies in the file `reply`, byte for byte."""
    from tests import tiny

    _with_libraries()
    documents(folder)
    tiny.model_folder(folder).rename(folder / "model")
    (folder / "teacher.yaml").write_text(
        "corpus: {folder: documents}\nmodel: {source: model, max_tokens: 512}\n"
        f"teacher: {{url: 'http://127.0.0.1:{replying()}/v1', model: m, attempts: 1, deadline_s: 5}}\n"
    )


def manifests(folder: Path) -> None:
    """The bundle of an ATM job, and a kubeconfig of a cluster where nothing is yet and everything is taken."""
    import kubernetes  # noqa: F401  # takes seconds, which are no command's
    import kubernetes_validate  # noqa: F401

    from ragdist.kube import render
    from tests.kube.bundles import rendered, settings_of
    from tests.kube.server import kubeconfig

    render.write(rendered("atm", settings_of("atm")), folder / "bundle")  # type: ignore[arg-type]
    kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{_taking()}")


class _Reply(socketserver.StreamRequestHandler):
    """A request is read, `reply` is sent, the connection is closed."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client went away, or its folder
            head = b"".join(iter(self.rfile.readline, b"\r\n")).lower()
            self.rfile.read(int(head.partition(b"content-length:")[2].split(b"\r")[0]))
            self.wfile.write(Path("reply").read_bytes())


class _Take(BaseHTTPRequestHandler):
    """An API server that holds nothing, and gives back what it is sent."""

    def do_GET(self) -> None:
        self._say(404, b'{"kind": "Status", "code": 404}')

    def do_POST(self) -> None:
        self._say(201, self.rfile.read(int(self.headers["Content-Length"])))

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@cache
def replying() -> int:
    """The port of a server that says to everybody what lies in the file `reply`."""
    return _serve(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Reply))


@cache
def _taking() -> int:
    return _serve(ThreadingHTTPServer(("127.0.0.1", 0), _Take))


def _serve(server: socketserver.ThreadingTCPServer) -> int:
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return int(server.server_address[1])


BASES = {
    "settings": documents,
    "suite": teacher,
    "overrides": documents,
    "arguments": documents,
    "questions": documents,
    "corpus": documents,
    "runs": runs,
    "models": models,
    "asked": models,
    "teacher": teacher,
    "manifests": manifests,
}
