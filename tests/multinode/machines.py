"""Machines of our own: network namespaces on a switch, as on real hosts each with an address and a /tmp/... of its own,
and in each the Ray that `clusters/ray/start-*.sh` starts.

    with Machines() as machines:
        head = machines.head(cpus=0)
        other = machines.add("group=attacker")
        other.kill()      every process of the machine at once, as when the power goes
        other.cut()       its cable is pulled: nobody hears of it, its processes live on
        other.mend()

The namespaces share one file system, which plays the storage that all machines see.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "clusters" / "ray"
_switches = itertools.count(1)
IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
NETWORK = "10.231.0"
START_S = 180.0
"""Longest wait, in seconds, for a machine's Ray to be up; `ray start` gives up after 30, and the script starts anew."""
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "8",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
"""A machine that is silent for eight seconds or so is dead; one that hears nothing from the head for twenty or so ends
its Ray."""


def impossible() -> str:
    """Why there can be no machines here; empty where there can."""
    if not IP:
        return "no `ip` (iproute2) here"
    if os.geteuid():
        return "network namespaces need root"
    name = f"ragdist-try-{os.getpid()}"
    tried = subprocess.run([IP, "netns", "add", name], capture_output=True, text=True, timeout=10)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


def wait_until(true: Callable[[], object], what: str, longest_s: float = 120.0) -> None:
    """Returns when `true()` is.

    Raises:
        TimeoutError: not so after `longest_s`.
    """
    end = time.monotonic() + longest_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not so after {longest_s:g} s")
        time.sleep(0.02)


def _ip(*words: str) -> str:
    done = subprocess.run([IP, *words], capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Machine:
    """One of them. `number` is the end of its address."""

    def __init__(self, machines: Machines, number: int, labels: str) -> None:
        self.machines, self.number, self.labels = machines, number, labels
        self.name, self.address = f"{machines.name}-{number}", f"{NETWORK}.{number}"
        self.log = machines.base / f"machine-{number}.log"
        self.lost = False
        """It was killed, or cut off and not mended."""

    def boot(self) -> None:
        """The namespace, its cable and its own temporary folder; nothing runs yet."""
        switch, port = self.machines.switch, f"port{self.number}"
        _ip("netns", "add", self.name)
        _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", link, "up")
        (self.machines.base / str(self.number)).mkdir()

    def run(self, command: list[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Starts a process on this machine."""
        own = f'mount --bind "{self.machines.base / str(self.number)}" "{self.machines.tmp}" && exec "$@"'
        inside = [IP, "netns", "exec", self.name, "sh", "-c", own, "sh", *command]
        with log.open("a") as out:
            return subprocess.Popen(
                inside, env=self.machines.env | variables, stdout=out, stderr=out, cwd=ROOT, start_new_session=True
            )

    def start_ray(self, script: str, address: str, *options: str) -> None:
        """Runs one of the shipped scripts and returns when Ray is up."""
        self.process = self.run(
            [str(SCRIPTS / script), address, f"--temp-dir={self.machines.tmp}", *options], self.log, PAUSE_S="1"
        )

        def up() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start: {self.said()}")
            return self.starts() > 0

        try:
            wait_until(up, f"Ray on {self.name}", START_S)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.said()}") from None

    def starts(self) -> int:
        """Times that Ray was up."""
        return self.log.read_text().count("Ray runtime started")

    def said(self) -> str:
        """The end of what Ray's start said."""
        return self.log.read_text()[-3000:]

    def pids(self, named: str = "") -> list[int]:
        """Processes that run here, or those with `named` in their command."""
        found = []
        for pid in map(int, _ip("netns", "pids", self.name).split()):
            try:
                if named in " ".join(psutil.Process(pid).cmdline()):
                    found.append(pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self) -> None:
        """Ends every process that runs here, none of which is told."""
        self.lost = True

        def none_left() -> bool:
            pids = self.pids()
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return not pids

        wait_until(none_left, f"processes of {self.name} are gone", 30)

    def cut(self) -> None:
        """Pulls the cable at the switch."""
        self.lost = True
        _ip("-n", self.machines.switch, "link", "set", f"port{self.number}", "down")

    def mend(self) -> None:
        """Plugs it in again."""
        self.lost = False
        _ip("-n", self.machines.switch, "link", "set", f"port{self.number}", "up")


class Machines:
    """A switch with machines on it, as a context; ends whatever runs there and leaves nothing."""

    def __init__(self) -> None:
        self.name = f"rd{os.getpid()}-{next(_switches)}"
        self.switch = f"{self.name}-switch"
        self.all: list[Machine] = []

    def __enter__(self) -> Machines:
        self.base = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))  # Ray's sockets need a short path
        self.tmp = self.base / "tmp"
        """Where each machine has a folder of its own."""
        self.tmp.mkdir()
        token = self.base / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.labels = self.base / "labels.txt"
        self.labels.touch()
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "OMP_"))}
        self.env = clean | QUICK
        self.env |= {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "token", "LABELS_FILE": str(self.labels)}
        self.env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
        self.env |= {"PATH": f"{Path(sys.executable).parent}:{clean['PATH']}"}
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for machine in self.all:
                machine.kill()
        finally:
            for name in (*(machine.name for machine in self.all), self.switch):
                subprocess.run([IP, "netns", "del", name], capture_output=True, timeout=10)
            shutil.rmtree(self.base, ignore_errors=True)

    def head(self, *, cpus: int, labels: str = "") -> Machine:
        """The first machine."""
        machine = self.boot(labels)
        for again in (True, True, False):
            try:
                machine.start_ray("start-head.sh", machine.address, *_options(cpus), "--include-dashboard=false")
                break
            except RuntimeError:  # on a machine that is busy with others' work, `ray start` may give up
                if not again:
                    raise
                machine.kill()
        machine.lost = False
        return machine

    def add(self, labels: str = "") -> Machine:
        """One more, with one CPU, that joins the first."""
        machine = self.boot(labels)
        machine.start_ray("start-worker.sh", self.all[0].address, *_options(1))
        return machine

    def labelled(self, labels: str) -> Machine:
        """The living machine with these labels; a new one where there is none."""
        living = [machine for machine in self.all if machine.labels == labels and not machine.lost]
        return living[0] if living else self.add(labels)

    def given_up(self) -> int:
        """Machines that the head has taken for dead, as it says in its log."""
        logs = (self.base / str(self.all[0].number)).glob("session_2*/logs/gcs_server.out")
        return sum(log.read_text().count("Node is dead because the health check failed") for log in logs)

    def boot(self, labels: str = "") -> Machine:
        """One more machine, on which nothing runs yet."""
        machine = Machine(self, len(self.all) + 1, labels)
        self.all.append(machine)
        machine.boot()
        if labels:
            with self.labels.open("a") as file:
                file.write(f"{machine.address} {labels}\n")
        return machine


def _options(cpus: int) -> list[str]:
    return [f"--num-cpus={cpus}", f"--object-store-memory={100 * 1024**2}"]


def holder(lock: Path) -> int:
    """The process that holds this file locked; 0 where nobody does."""
    inode = lock.stat().st_ino if lock.exists() else -1
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "->" not in words and int(words[5].rpartition(":")[2]) == inode:
            return int(words[4])
    return 0
