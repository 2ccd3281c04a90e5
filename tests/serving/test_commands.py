"""`ragdist answer`, `chat` and `serve` as processes of their own."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.serving.finished import raft_run
from tests.serving.load import load

QUESTION = "Which colour has ball 2?"
WAIT_S = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return raft_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "RAGDIST_TOKEN": ""}


def ragdist(*arguments, **how):
    command = [sys.executable, "-m", "ragdist", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, **how)


def test_terminal_http_and_python_say_the_same_and_sigterm_finishes_what_is_under_way(run, environment, tmp_path):
    chat = ragdist("chat", run, input=f"{QUESTION}\n\n\x1b[2J\n" + "word " * 900 + f"\n{QUESTION}\n")
    assert chat.returncode == 0, chat.stderr
    first, second, *_ = chat.stdout.splitlines()
    assert first == second and "ball 2" in chat.stderr
    assert "U+001B" in chat.stderr and "model.max_tokens" in chat.stderr and "\x1b" not in chat.stderr
    asked = ragdist("chat", run, "--json", input=f"{QUESTION}\n")
    about = json.loads(asked.stdout)
    assert about["text"].strip() == first.strip() and about["documents"][0]["title"] == "ball 2"

    command = [sys.executable, "-m", "ragdist", "serve", str(run), "serve.port=0", "serve.max_new_tokens=300"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        address = process.stdout.readline().strip()
        token = tmp_path / "state" / "ragdist" / "serve_token"
        head = {"Authorization": f"Bearer {token.read_text()}"}
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        body = {"messages": [{"role": "user", "content": QUESTION}]}
        said = httpx.post(f"{address}/chat/completions", json=body, headers=head, timeout=WAIT_S).json()
        assert said["choices"][0]["message"]["content"] == about["text"]
        assert said["ragdist"]["documents"] == about["documents"]
        late: list[httpx.Response] = []
        long = {"json": body | {"max_tokens": 200}, "headers": head, "timeout": WAIT_S}
        thread = threading.Thread(target=lambda: late.append(httpx.post(f"{address}/chat/completions", **long)))
        thread.start()
        metrics = address.removesuffix("/v1") + "/metrics"
        end = time.monotonic() + WAIT_S
        while "ragdist_texts_under_way 1.0" not in httpx.get(metrics, headers=head).text:
            assert time.monotonic() < end and thread.is_alive()
        process.send_signal(signal.SIGTERM)
        thread.join(WAIT_S)
        assert late[0].status_code == 200 and late[0].json()["usage"]["completion_tokens"] > 50
        assert process.wait(WAIT_S) == 0
        logged = (tmp_path / "log").read_text()
        assert token.read_text() not in logged and str(token) in logged and "Traceback" not in logged
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("answer", " ", "--run", "{run}"), "the question is empty"),
        (("answer", QUESTION, "--run", "nowhere"), "nowhere holds no finished run"),
        (("chat", "{run}/model"), "no run's folder"),
        (("serve", "{run}", "model.max_tokens=64"), "model.max_tokens cannot change"),
        (("serve", "{run}", "serve.host=192.0.2.1"), "serve.host"),
        (("serve", "{run}", "serve.token_file=/nowhere"), "serve.token_file"),
        (("serve", "{run}", "serve.port=70000"), "serve.port"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, wanted, environment, capsys):
    from ragdist import cli

    with pytest.raises(SystemExit) as ended:
        cli.main([argument.format(run=run) for argument in arguments])
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == "" and re.search(re.escape(wanted), said.err), said.err
    assert "Traceback" not in said.err


def test_under_load_every_answer_is_the_one_it_gets_alone(tmp_path):
    counts, held, code = load(300, tmp_path)
    assert code == 0 and not [what for what in counts if what.startswith("WRONG")], counts
    assert sum(counts.values()) == 301 and counts["bad, refused"] > 10 and counts["went away"] > 3
    assert held[-1] - held[2] < 100
