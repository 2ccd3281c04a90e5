import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from ragdist.cluster import keeper, session
from ragdist.config import ClusterConfig
from ragdist.errors import ConfigError

HERE = """
import os, stat, sys
from pathlib import Path
import psutil, ray
from ragdist.cluster import session
from ragdist.config import ClusterConfig

def ray_variables():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}

before = ray_variables()
with session.connect(ClusterConfig()):
    home = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
    print(home, oct(home.stat().st_mode), os.environ["RAY_AUTH_MODE"])
    assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
    own = {os.getpid(), *(one.pid for one in psutil.Process().children(recursive=True))}
    heard = [one for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN and one.pid in own]
    assert len(heard) > 3  # the GCS, the raylet, agents, metrics
    assert {one.laddr.ip.removeprefix("::ffff:") for one in heard} == {"127.0.0.1"}, heard  # S6
assert not home.exists() and not ray.is_initialized()
assert ray_variables() == before
"""


def test_S6_local_ray_is_private_has_tokens_says_one_line_and_leaves_nothing(tmp_path):
    """S6: it listens on loopback alone."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.run(
        [sys.executable, "-c", HERE],
        env=clean | {"XDG_STATE_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0
    assert [line.partition(" ")[2] for line in run.stderr.splitlines()] == ["starting Ray on this machine"], run.stderr
    assert run.stdout.split()[1:] == ["0o40700", "token"]
    token = tmp_path / "ragdist" / "ray_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64


HELD = """
import sys, time
from ragdist import cli, runs
from ragdist.cluster import session
from ragdist.config import ClusterConfig

def hold(*_):
    with session.connect(ClusterConfig(start_timeout_s=float(sys.argv[1]))):
        print("up", flush=True)
        time.sleep(100)

runs.demo = hold
cli.main(["demo"])
"""


@pytest.fixture
def driver(tmp_path, request):
    """Starts a command that holds a Ray of this machine; what of it is left at the end is ended."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    started = subprocess.Popen(
        [sys.executable, "-c", HELD, getattr(request, "param", "60")],
        env=clean | {"XDG_STATE_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    started.kill()
    started.communicate(timeout=30)


def started_by(driver):
    """What the driver has started, and all that lives in its Ray; waits until there is a GCS."""
    while not (found := [one for one in psutil.Process(driver.pid).children(True) if "gcs_server" in one.name()]):
        assert driver.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)  # it is in the midst of its own start
    return found[0], found[0].environ()[keeper.HOME]


def wait_until_gone(home):
    deadline = time.monotonic() + 30
    while keeper.living(home) or Path(home).exists():
        assert time.monotonic() < deadline, keeper.living(home)
        time.sleep(0.2)


def is_told(progress):
    """By us, or by Ray, which ends the process itself where it has lost its GCS."""
    why = progress.splitlines()[-1]
    return "Traceback" not in progress and ("Ray did not start on this machine: " in why or "GCS may have been" in why)


def test_R19_a_killed_driver_leaves_no_process_and_no_folder(driver):
    assert driver.stdout.readline() == "up\n"
    _, home = started_by(driver)
    assert keeper.living(home) and Path(home).exists()
    driver.kill()
    wait_until_gone(home)


def test_R23_sigterm_while_ray_starts_ends_as_a_stop(driver):
    _, home = started_by(driver)
    driver.send_signal(signal.SIGTERM)
    said, progress = driver.communicate(timeout=60)
    assert driver.returncode == 130, (said, progress)
    assert "Traceback" not in progress and not said
    wait_until_gone(home)


def test_R24_gcs_that_dies_while_ray_starts_is_one_line(driver):
    gcs, home = started_by(driver)
    gcs.kill()
    said, progress = driver.communicate(timeout=120)
    assert driver.returncode == 1, (said, progress)
    assert is_told(progress), progress
    wait_until_gone(home)


@pytest.mark.parametrize("driver", ["15"], indirect=True)
def test_a_ray_that_is_not_up_in_time_is_one_line(driver):
    gcs, home = started_by(driver)
    gcs.suspend()
    said, progress = driver.communicate(timeout=120)
    assert driver.returncode == 1, (said, progress)
    assert is_told(progress), progress
    wait_until_gone(home)


def test_connect_inside_a_session_joins_it_and_leaves_it_open(ray_here):
    with session.connect(ClusterConfig()):
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.fixture
def apart(monkeypatch):
    """No session is open, whatever other tests hold."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def test_address_nobody_listens_at_is_named_at_once(apart):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with (
        pytest.raises(ConfigError, match=f"cluster.address='{address}' does not answer"),
        session.connect(ClusterConfig(address=address)),
    ):
        pass
    assert time.monotonic() - start < 2 * session.REACH_S


def test_address_that_is_none_is_named(apart):
    with pytest.raises(ConfigError, match="wanted host:port"), session.connect(ClusterConfig(address="ray")):
        pass


def test_too_many_workers_name_the_settings(ray_here):
    with pytest.raises(ConfigError, match=r"cluster\.workers=3 with 64 CPUs .* room for 0"):
        session._wait_for_room(ClusterConfig(workers=3, cpus_per_worker=64), deadline_s=0)
    with pytest.raises(ConfigError, match=r"and 1 GPUs each.* lower cluster\.workers"):
        session._wait_for_room(ClusterConfig(workers=9, cpus_per_worker=0.1, gpus_per_worker=1), deadline_s=0)


def test_worker_share_of_this_machine_is_even(ray_here):
    cores = ray.cluster_resources()["CPU"]
    assert session.worker_cpus(ClusterConfig(workers=2)) == pytest.approx(cores / 2)
    assert session.worker_cpus(ClusterConfig(workers=3)) * 3 <= cores
    assert session.worker_cpus(ClusterConfig(address="auto", workers=2)) == 1
    assert session.worker_cpus(ClusterConfig(cpus_per_worker=1.5)) == 1.5
