"""A rendered bundle really starts: its pods as processes of this machine, with the `ray start` that KubeRay would make
of each group, then the entrypoint. Both sides of ATM find the nodes that carry their labels; the first try is killed,
and the second, as a RayJob's retry would be, finds what it left and finishes the job."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml

from ragdist.kube import render
from tests import game, tiny
from tests.kube.bundles import ROOT, rendered

BIN = Path(sys.executable).parent


@pytest.fixture
def bundle(tmp_path):
    """(RayJob, settings.yaml) of a game of ATM whose storage is a folder of this machine."""
    shared = tmp_path / "shared"
    shared.mkdir()
    settings = game.settings(
        shared,
        tiny.model_folder(shared),
        atm={"rounds": 1},
        kube={"mount": str(shared)},
        attacker={"cpus_per_worker": 1},
        generator={"cpus_per_worker": 1},
    )
    render.write(rendered("atm", settings), tmp_path / "bundle")
    text = yaml.safe_load((tmp_path / "bundle" / "settings.yaml").read_text())["data"]["settings.yaml"]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "settings.yaml").write_text(text)
    return yaml.safe_load((tmp_path / "bundle" / "job.yaml").read_text())["spec"], tmp_path / "etc"


def start_command(group, **local):
    """`ray start` as KubeRay 1.7 makes it of a group (controllers/ray/common/pod.go), with this machine's ports."""
    params = dict(group["rayStartParams"])
    resources = dict(group["resources"])
    params["num-cpus"] = resources.pop("CPU")
    if "GPU" in resources:
        params["num-gpus"] = resources.pop("GPU")
    if resources:
        params["resources"] = json.dumps({kind: float(count) for kind, count in resources.items()})
    if "labels" in group:
        params["labels"] = ",".join(f"{key}={value}" for key, value in sorted(group["labels"].items()))
    params["memory"] = str(int(container(group)["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30)
    params |= {name.replace("_", "-"): str(value) for name, value in local.items()}
    return [str(BIN / "ray"), "start", "--block", *(f"--{name}={value}" for name, value in sorted(params.items()))]


def container(group):
    return group["template"]["spec"]["containers"][0]


def environment(group, token):
    """The container's variables, and those that the operator adds."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    told = {one["name"]: one["value"] for one in container(group)["env"]}
    ours = {"PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return clean | told | ours | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


@contextmanager
def running(command, env, log):
    """A process of our own, with all below it ended at the end."""
    with log.open("w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(text, process, log):
    """What a pattern matches in a process's log, once it does."""
    for _ in range(480):
        if found := re.search(text, log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.5)
    pytest.fail(f"no {text!r} in {log.name}: {log.read_text()[-2000:]}")


def killed_after_the_first(folder, entrypoint, env, log):
    """When each file of a phase was made that is there once the job was killed in the middle of it."""
    with log.open("w") as file:
        process = subprocess.Popen(entrypoint, env=env, stdout=file, stderr=file)
    try:
        for _ in range(4000):
            if found := list(folder.glob("*.parquet")):
                return {path: path.stat().st_mtime_ns for path in found}
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(20)
    pytest.fail(f"no forgery in {folder}: {log.read_text()[-2000:]}")


@pytest.mark.timeout(900)
def test_rendered_pods_and_entrypoint_really_run(bundle, tmp_path, request):
    spec, settings = bundle
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, dashboard, client, *agents = free_ports(6)
    small = {"object_store_memory": 150_000_000}  # a pod has a GiB of its own
    local = {
        "port": port,
        "dashboard_host": "127.0.0.1",  # of a pod it is every interface, behind the policy
        "dashboard_port": dashboard,
        "dashboard_agent_listen_port": agents[0],
        "ray_client_server_port": client,
        "temp_dir": f"/tmp/ragdist-kube-{os.getpid()}",
    }
    log, env = tmp_path / "head.log", environment(head, token)
    request.addfinalizer(partial(shutil.rmtree, local["temp_dir"], ignore_errors=True))
    with running([*start_command(head, **small, **local), "--head"], env, log) as process, ExitStack() as stack:
        address = wait_for(r"ray start --address='(.+)'", process, log)
        for group, agent in zip(workers, agents[1:], strict=True):
            command = start_command(group, **small, address=address, dashboard_agent_listen_port=agent)
            log = tmp_path / f"{group['groupName']}.log"
            node = stack.enter_context(running(command, environment(group, token), log))
            wait_for("(Ray runtime started)", node, log)
        entrypoint = shlex.split(spec["entrypoint"].replace(render.SETTINGS_FOLDER, str(settings)))
        env = env | {"RAY_ADDRESS": address}
        run = tmp_path / "shared" / "runs" / "game"
        left = killed_after_the_first(run / "atm" / "round-0" / "forged", entrypoint, env, tmp_path / "first.log")
        done = subprocess.run(entrypoint, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert json.loads((run / "state.json").read_text())["state"] == "finished"
    assert (run / "model" / "model.safetensors").exists()
    assert {path: path.stat().st_mtime_ns for path in left} == left
