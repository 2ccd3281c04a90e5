"""`ragdist serve` beside the server that a user would write: FastAPI over plain transformers' `generate`.

Both run SmolLM2-135M in float32 in a process of their own and get the same prompts: questions on API documentation with
the three best documents. One client asks 16 of them, each of both servers in turn; then 16 clients ask 48 at once.
Answers are `TOKENS` tokens long at most. Theirs is handed the whole prompt; ours retrieves and words it.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from ragdist import runs
from ragdist.config.loader import dump, load
from ragdist.data import prompts
from ragdist.lm.source import resolve
from ragdist.players import pipeline
from ragdist.serving import library
from ragdist.serving.service import Query

QUESTIONS, ALONE, CLIENTS, TOKENS = 66, 16, 16, 96
TOKEN = "bench"
THEIRS = """
import sys, threading, torch, uvicorn
from fastapi import FastAPI
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, port = sys.argv[1], int(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
app, alone = FastAPI(), threading.Lock()

@app.get("/health")
def health():
    return {}

@app.post("/generate")
def generate(body: dict):
    with alone, torch.inference_mode():
        given = tokenizer(body["prompt"], add_special_tokens=False, return_tensors="pt")
        said = model.generate(**given, max_new_tokens=body["tokens"], do_sample=False)
    return {"text": tokenizer.decode(said[0, given.input_ids.shape[1]:], skip_special_tokens=True)}

uvicorn.run(app, port=port, log_level="warning")
"""


def run() -> dict[str, dict]:
    """Both figures, on the same two servers; for the latency each question is asked of both in turn."""
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as until:
        folder, prompts = _run_folder(Path(made))
        ours, theirs = _free_port(), _free_port()
        model = str((folder / "model").resolve())
        environment = {**os.environ, "RAGDIST_TOKEN": TOKEN}
        command = [sys.executable, "-m", "ragdist", "serve", str(folder), f"serve.port={ours}"]
        until.enter_context(_server(command, ours, environment))
        until.enter_context(_server([sys.executable, "-c", THEIRS, model, str(theirs)], theirs, environment))
        asks = {ours: _ours, theirs: _theirs}
        for port, ask in asks.items():
            _timed(ask, port, prompts[:2], 1)
        alone = dict.fromkeys(asks, 0.0)
        for prompt in prompts[2 : 2 + ALONE]:
            for port, ask in asks.items():
                alone[port] += _timed(ask, port, [prompt], 1)[0] / ALONE
        crowd = prompts[2 + ALONE :]
        rates, texts = {}, {}
        for port, ask in asks.items():
            seconds, texts[port] = _timed(ask, port, crowd, CLIENTS)
            rates[port] = len(crowd) / seconds
    same = sum(one == two for one, two in zip(texts[ours], texts[theirs], strict=True))
    note = f"{same} of {len(crowd)} texts of {CLIENTS} clients equal theirs; answers of at most {TOKENS} tokens"
    return {
        name: {"ratio": found[ours] / found[theirs], "ours": found[ours], "theirs": found[theirs], "unit": unit}
        | {"note": note}
        for name, found, unit in (
            ("serve_latency", alone, "s an answer"),
            ("serve_throughput", rates, "answers/s"),
        )
    }


def _timed(ask, port: int, prompts: list[tuple[str, str]], clients: int) -> tuple[float, list[str]]:
    """Seconds, and the texts."""
    began = time.monotonic()
    texts = asyncio.run(_all(ask, [(port, *one) for one in prompts], clients))
    return time.monotonic() - began, texts


def _run_folder(folder: Path) -> tuple[Path, list[tuple[str, str]]]:
    """A run whose tuned model is SmolLM2 as it is; its questions with the whole prompt of each."""
    file = runs.settings_file("raft-demo.yaml")
    settings = load(
        [
            *(str(file), f"run.folder={folder}/runs", "run.name=bench", "model.dtype=float32", "retrieval.count=3"),
            *(f"evaluation.max_new_tokens={TOKENS}", f"questions.test_rows={QUESTIONS}"),
        ]
    )
    run = folder / "runs" / "bench"
    run.mkdir(parents=True)
    with pipeline(settings) as made:
        questions = [one.text for one in made.questions if one.split == "test"]
        library.note(run, made)
        tokenizer = made.tokenizer
    (run / "settings.yaml").write_text(dump(settings))
    (run / "state.json").write_text(json.dumps({"job": "raft", "state": "finished"}))
    (run / "model").symlink_to(resolve(settings.model).resolve())
    documents = library.open_library(library.read(run), folder / "runs" / "data", settings, None)
    found = []
    for question in questions:
        shown = documents.shown(Query(question=question))
        how = {"id": "", "max_tokens": settings.model.max_tokens, "room": TOKENS}
        prompt = prompts.prompt(question, shown, tokenizer, settings.prompts, **how)
        found.append((question, tokenizer.backend.decode(prompt.tokens)))
    return run, found


async def _all(ask, asked, clients: int) -> list[str]:
    """The texts, asked by so many clients, each of which asks when it has its answer."""
    turn, texts = iter(enumerate(asked)), [""] * len(asked)
    async with httpx.AsyncClient(timeout=600, headers={"Authorization": f"Bearer {TOKEN}"}) as client:

        async def one() -> None:
            for at, question in turn:
                texts[at] = await ask(client, *question)

        await asyncio.gather(*(one() for _ in range(clients)))
    return texts


async def _ours(client: httpx.AsyncClient, port: int, question: str, _: str) -> str:
    body = {"messages": [{"role": "user", "content": question}]}
    answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
    return answer.json()["choices"][0]["message"]["content"]


async def _theirs(client: httpx.AsyncClient, port: int, _: str, prompt: str) -> str:
    body = {"prompt": prompt, "tokens": TOKENS}
    return (await client.post(f"http://127.0.0.1:{port}/generate", json=body)).json()["text"]


@contextlib.contextmanager
def _server(command: list[str], port: int, environment: dict[str, str]):
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/health")
                break
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
