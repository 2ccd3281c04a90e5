"""A run served by Ray Serve on a head of its own: the command, what it says, what it survives, what it leaves."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import openai
import psutil
import pytest
import yaml
from fastapi.testclient import TestClient

from ragdist import asking, planning
from ragdist.cluster import serve
from ragdist.config import ServeConfig
from ragdist.config.loader import load
from ragdist.errors import ConfigError, TrainError
from tests.cluster import heads
from tests.serving import finished

ROOT = Path(__file__).parents[2]
TOKEN = "token-of-a-test-c0ffee"
QUESTIONS = [f"Which colour has ball {n}?" for n in range(6)]
LONG = 300
"""Tokens of an answer that takes seconds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished.raft_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    own = {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "PYTHONPATH": str(ROOT),
        "RAGDIST_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
    }
    with heads.started(tmp_path_factory.mktemp("head"), own) as found:
        yield found


@contextmanager
def command(folder, head, *changes, token=TOKEN):
    """`ragdist serve` on the head, until it ends by itself or with the block."""
    options = {"PYTHONPATH": str(ROOT), "RAGDIST_TOKEN": token, "RAY_ADDRESS": head.gcs, "OMP_NUM_THREADS": "1"}
    sizes = ["serve.cpus_per_replica=0.3", f"serve.max_new_tokens={LONG}", "serve.timeout_s=30", *changes]
    process = subprocess.Popen(
        [sys.executable, "-m", "ragdist", "serve", str(folder), *sizes],
        cwd=folder,
        env=head.env | options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=90)


def client(url, **more):
    return openai.OpenAI(base_url=url, api_key=TOKEN, timeout=60, **more)


def ask(asked, question, **more):
    return asked.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": question}], **({"max_tokens": 12} | more)
    )


def told(answer):
    """All of an answer but its name and time; of how sure it is, what does not depend on what was asked before."""
    answer["ragdist"]["confidence"] = round(answer["ragdist"]["confidence"], 6)
    return {key: value for key, value in answer.items() if key not in ("id", "created")}


def seen(head, path):
    """What the head's dashboard says."""
    token = Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(head.address + path, headers={"Authorization": f"Bearer {token}"})
    return urllib.request.urlopen(request, timeout=30).read().decode()


def living(head):
    """Names of the actors that live."""
    found = json.loads(seen(head, "/api/v0/actors?limit=1000"))["data"]["result"]["result"]
    return {one["name"] for one in found if one["state"] == "ALIVE"}


def replicas():
    """Their processes on this machine."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if "ray::ServeReplica:tiny" in " ".join(one.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def alone(folder):
    """The application of this process."""
    with asking.served(folder, [f"serve.max_new_tokens={LONG}"], TOKEN) as app, TestClient(app) as here:
        here.headers["Authorization"] = f"Bearer {TOKEN}"
        yield here


@pytest.mark.timeout(400)
def test_from_start_to_sigterm(folder, head, alone):
    port = heads.free_port()
    with command(folder, head, "serve.replicas=2", "serve.max_replicas=2", f"serve.port={port}") as process:
        url = process.stdout.readline().strip()
        assert url == f"http://127.0.0.1:{port}/v1", process.stderr.read()
        service = client(url, max_retries=5)
        body = {"model": "tiny", "max_tokens": 12}
        for question in QUESTIONS:  # the same to the byte as in one process
            wanted = alone.post(
                "/v1/chat/completions", json=body | {"messages": [{"role": "user", "content": question}]}
            ).json()
            assert told(ask(service, question).to_dict()) == told(wanted)
        pieces = [one.choices[0].delta.content or "" for one in ask(service, QUESTIONS[0], stream=True) if one.choices]
        assert len(pieces) > 5 and "".join(pieces) == ask(service, QUESTIONS[0]).choices[0].message.content
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="another").models.list()
        _token_is_nowhere(head)
        _one_dies_under_load(service)
        _ends_when_all_is_answered(process, service)
    assert not {name for name in living(head) if "SERVE" in name}
    assert not replicas()


def _token_is_nowhere(head):
    shown = [seen(head, path) for path in ("/api/serve/applications/", "/api/v0/actors?detail=1", "/api/v0/workers")]
    assert "tiny" in shown[0] and "SERVE_REPLICA" in shown[1]
    logs = [
        path.read_text(errors="replace") for path in head.folder.rglob("*") if path.is_file() and ".log" in path.name
    ]
    assert len(logs) > 10
    assert not any(TOKEN in text for text in [*shown, *logs])


def _one_dies_under_load(service):
    """Nobody who asks sees it, as clients ask again what got no answer."""
    before = replicas()
    assert len(before) == 2
    wanted = {question: ask(service, question).choices[0].message.content for question in QUESTIONS}
    with ThreadPoolExecutor(4) as several:
        answers = [several.submit(ask, service, question) for question in QUESTIONS * 20]
        time.sleep(0.3)
        before[0].kill()
        found = [one.result(60).choices[0].message.content for one in answers]
    assert found == [wanted[question] for question in QUESTIONS * 20]


def _ends_when_all_is_answered(process, service):
    began = threading.Event()

    def listen():
        got = []
        for one in ask(service, QUESTIONS[1], stream=True, max_tokens=LONG):
            got.append(one)
            began.set()
        return got

    with ThreadPoolExecutor(1) as other:
        listening = other.submit(listen)
        assert began.wait(30)
        process.send_signal(signal.SIGTERM)
        got = listening.result(60)
    assert got[-1].choices[0].finish_reason == "length" and len(got) > LONG / 2
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("changes", "token", "says"),
    [
        (("serve.cpus_per_replica=9", "cluster.start_timeout_s=3"), TOKEN, "serve.cpus_per_replica"),
        ((), "another", "is another one than where `ragdist serve` runs"),
    ],
    ids=["room", "token"],
)
def test_what_does_not_start_says_why_in_a_line(changes, token, says, folder, head):
    with command(folder, head, f"serve.port={heads.free_port()}", *changes, token=token) as process:
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and says in said.splitlines()[-1] and said.count("\n") < 4, said
    assert "Traceback" not in said


def test_rendered_service_runs_as_the_operator_would(folder, head, alone, tmp_path):
    """KubeRay sends serveConfigV2 of a RayService to the dashboard of its head."""
    sizes = ["kube.memory_gib=1", "serve.cpus_per_replica=0.3", f"serve.max_new_tokens={LONG}"]
    where = [f"kube.mount={folder.parents[1]}", f"serve.port={heads.free_port()}"]
    planning.render_service(str(folder), sizes + where, tmp_path)
    spec = yaml.safe_load((tmp_path / "service.yaml").read_text())["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    _deploy(head, "PUT", config)
    try:
        url = f"http://127.0.0.1:{config['http_options']['port']}/v1"
        service = client(url)
        _until(
            lambda: json.loads(seen(head, "/api/serve/applications/"))["applications"]["tiny"]["status"] == "RUNNING"
        )
        body = {"model": "tiny", "messages": [{"role": "user", "content": QUESTIONS[3]}], "max_tokens": 12}
        wanted = alone.post("/v1/chat/completions", json=body).json()
        assert told(ask(service, QUESTIONS[3]).to_dict()) == told(wanted)
    finally:
        _deploy(head, "DELETE", None)


def _deploy(head, method, config):
    token = Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps(config).encode() if config else None
    request = urllib.request.Request(
        f"{head.address}/api/serve/applications/", data=body, headers=headers, method=method
    )
    urllib.request.urlopen(request, timeout=60).read()


def _until(met):
    end = time.monotonic() + 90
    while not met():
        assert time.monotonic() < end
        time.sleep(0.5)


def test_ray_is_told_no_token_and_as_many_replicas_as_wanted(folder, monkeypatch):
    monkeypatch.setenv("RAGDIST_TOKEN", TOKEN)
    config = ServeConfig(replicas=2, max_replicas=5, concurrent=3, waiting=4, gpus_per_replica=0.5)
    application = serve.application(asking.replica, config)
    deployment = application._bound_deployment
    assert deployment.max_ongoing_requests == deployment.max_queued_requests == 7
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 5, 3)
    assert deployment.ray_actor_options["num_gpus"] == 0.5
    assert TOKEN.encode() not in cloudpickle.dumps(asking.serve_application({"run": str(folder)}))


def test_a_port_that_only_one_machine_would_know_is_refused():
    with pytest.raises(ConfigError, match=r"serve\.port=0"):
        serve.run(asking.replica, "tiny", load(["serve.port=0"]))


def test_an_error_of_a_replica_is_told_as_it_was():
    said = "ray.exceptions.RayTaskError: ...\n  ragdist.errors.ConfigError: no such folder; copy it\nmore"
    assert str(serve.failure(said)) == "a replica does not start: no such folder; copy it"
    assert isinstance(serve.failure(said), ConfigError)
    assert isinstance(serve.failure("died\n\nout of memory\n"), TrainError)
    assert "out of memory" in str(serve.failure("died\n\nout of memory\n"))
