"""A command that is killed again and again, at random moments and in random places, and then goes on to its end.

Each attempt is the same command. What it leaves at its end is compared with what one leaves that nothing happened to.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from ragdist.cluster import keeper
from ragdist.config.loader import dump
from tests import game
from tests.cluster import heads

KILLS, SEED = int(os.environ.get("N", "20")), int(os.environ.get("SEED", "0"))
"""As `make test-kills` was told."""
MARK = "RAGDIST_KILLS"
"""In the environment of everything that an attempt starts."""
ATTEMPT_S, GONE_S = 400, 30
"""Longest time of an attempt, and longest wait until all of it is gone after its end."""
PAUSED_S = 3.0
TIMES = ("minutes", "seconds", "idle_share")
"""In summary.json, which else is the same."""
VICTIMS = {
    "driver": lambda process, driver: process.pid == driver,
    "rank": lambda process, driver: bool(process.cmdline()) and process.cmdline()[0].startswith("ray::"),
    "raylet": lambda process, driver: process.name() == "raylet",
    "gcs": lambda process, driver: process.name() == "gcs_server",
    "agent": lambda process, driver: any("agent" in Path(word).name for word in process.cmdline()[:4]),
    "job": lambda process, driver: process.cmdline()[1:4] == ["-m", "ragdist", "train"] and process.pid != driver,
}
WAYS = {
    "killed": [(signal.SIGKILL, 0.0)],
    "terminated": [(signal.SIGTERM, 0.0)],
    "interrupted": [(signal.SIGINT, 0.0)],
    "interrupted twice": [(signal.SIGINT, 1.0), (signal.SIGINT, 0.0)],
    "paused": [(signal.SIGSTOP, PAUSED_S), (signal.SIGCONT, 0.0)],
}
PLACES = [("driver", "killed"), ("driver", "terminated"), ("driver", "interrupted"), ("driver", "interrupted twice")]
PLACES += [(victim, "killed") for victim in ("rank", "rank", "raylet", "gcs", "agent")] + [("rank", "paused")]
OF_SUBMIT = [("job", "killed"), ("job", "terminated")]
"""Whose driver is another process: Ray's job server started it."""
LEARN = {"examples_per_step": 4, "microbatch": 2, "checkpoint_every": 1, "learning_rate": 1e-3}
FEW = {"epochs": 1, "checkpoint_every": 1, "examples_per_step": 2, "microbatch": 1}
DUET = dict.fromkeys(("reciter", "discoverer"), FEW | {"lora": {"rank": 2}})
JOBS: dict[str, tuple[list[str], dict]] = {
    "build": (["build"], {"run": {"mapper": "ray", "processes": 2}}),
    "raft": (["train", "raft"], {"train": LEARN, "cluster": {"workers": 2}}),
    "atm": (["train", "atm"], {"atm": {"rounds": 1}}),
    "duet": (
        ["train", "duet"],
        {
            "duet": {**DUET, "arbiters": ["features"], "answerers_fraction": 0.5, "validation_fraction": 0.5},
            "retrieval": {"count": 3},
        },
    ),
    "evaluate": (["evaluate"], {"evaluation": {"answerers": {"workers": 2}, "tokens_per_batch": 512}}),
    "sweep": (["sweep", "raft", "contexts.oracle_fraction=0.5,1"], {"train": LEARN | {"epochs": 1}}),
    "submit": (["submit", "raft"], {"train": LEARN, "cluster": {"workers": 2}}),
}
"""Command and settings, beside those of `game`."""


@dataclass
class Kill:
    """One of them."""

    job: str
    victim: str
    way: str
    at_s: float
    code: int
    took_s: float
    wrong: list[str] = field(default_factory=list)
    """What should not have been."""


class Chain:
    """Attempts at one job in one folder.

    Args:
        job: a name in `JOBS`.
        folder: a new one.
        model: of the tiny kind.
    """

    def __init__(self, job: str, folder: Path, model: Path) -> None:
        folder.mkdir(parents=True)
        self.job, self.folder, self.mark = job, folder, uuid.uuid4().hex
        self._head: heads.Head | None = None
        self._end = ExitStack()
        command, changes = JOBS[job]
        blocks = {name: dict(block) for name, block in changes.items()}
        blocks["run"] = {"name": "run", **blocks.get("run", {})}
        blocks["cluster"] = {"start_timeout_s": 180, **blocks.get("cluster", {})}
        settings = game.settings(folder, model, **blocks)
        (folder / "settings.yaml").write_text(dump(settings))
        for name in ("tmp", "tmp-head"):
            (folder / name).mkdir()
        self.command = [sys.executable, "-m", "ragdist", *command[:2], str(folder / "settings.yaml"), *command[2:]]
        self.command += ["--model", f"base={model}"] if job == "evaluate" else []

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *error: object) -> None:
        self._without_head()

    def _with_head(self) -> heads.Head:
        """A Ray with a job server that outlives attempts, until something of it was killed."""
        self._head = self._head or self._end.enter_context(
            heads.started(
                self.folder, {MARK: self.mark, "TMPDIR": str(self.folder / "tmp-head"), "RAY_worker_niceness": "0"}
            )
        )
        return self._head

    def _without_head(self) -> list[str]:
        self._end.close()
        self._head = None
        return self._gone(self.mark)

    def undisturbed(self) -> float:
        """Seconds from its start to its end."""
        start = time.monotonic()
        done = self.attempt()
        assert done.code == 0 and not done.wrong, (done, self.said())
        return time.monotonic() - start

    @contextmanager
    def disk(self) -> Iterator[Callable[[int], None]]:
        """The run's folder on a disk of its own, and what sets its size in bytes; wants root."""
        runs = self.folder / "runs"
        runs.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(runs)], check=True)
        try:
            yield lambda size: subprocess.run(
                ["mount", "-o", f"remount,size={size}", str(runs)], check=True, capture_output=True
            )
        finally:
            subprocess.run(["umount", "-l", str(runs)], check=True)

    def said(self) -> str:
        """What the last attempt said."""
        return (self.folder / "stderr").read_text()[-3000:]

    def result(self) -> dict[str, str]:
        """Digests of what must be as where nothing happened, by name."""
        runs = self.folder / "runs"
        found = {path.relative_to(runs): path.read_bytes() for path in runs.rglob("*.safetensors")}
        found |= {path.relative_to(runs): path.read_bytes() for path in (runs / "data").rglob("rows.jsonl")}
        for path in runs.rglob("summary.json"):
            found[path.relative_to(runs)] = json.dumps(_untimed(json.loads(path.read_text())), sort_keys=True).encode()
        for path in runs.rglob("answers.parquet"):
            found[path.relative_to(runs)] = repr(pq.read_table(path).to_pylist()).encode()
        return {str(name): hashlib.sha256(raw).hexdigest()[:12] for name, raw in sorted(found.items())}

    def attempt(self, victim: str = "nobody", way: str = "", at_s: float = 0.0) -> Kill:
        """The command, from its start to its end, with a kill after so many seconds, or when there is such a victim."""
        mark, start = uuid.uuid4().hex, time.monotonic()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST"))}
        own = {MARK: mark, "TMPDIR": str(self.folder / "tmp"), "XDG_STATE_HOME": str(self.folder / "state")}
        own["RAY_worker_niceness"] = "0"  # where the machine has other work, ranks are not the last to run
        command = self.command
        if self.job == "submit":
            head = self._with_head()
            clean, command = head.env, [*command, "--address", head.address]
        with (self.folder / "stdout").open("w") as out, (self.folder / "stderr").open("w") as err:
            driver = psutil.Popen(
                command, env=clean | own, stdout=out, stderr=err, cwd=self.folder, preexec_fn=_as_in_a_terminal
            )
            try:
                if victim != "nobody" and not self._hit(driver, mark, victim, way, at_s):
                    victim = "nobody"
                code = driver.wait(ATTEMPT_S)
            except psutil.TimeoutExpired:
                code = 124
            finally:
                left = self._gone(mark)
                with suppress(psutil.Error):
                    driver.kill()
                    driver.wait(10)
        if self._head and victim in ("raylet", "gcs", "agent"):
            left += self._without_head()
        kill = Kill(self.job, victim, way, at_s, code, time.monotonic() - start)
        kill.wrong += [f"lives on: {name}" for name in left] + self._wrong(code, victim, way)
        return kill

    def _hit(self, driver: psutil.Popen, mark: str, victim: str, way: str, at_s: float) -> bool:
        """Whether there was such a process before the end."""
        with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            driver.wait(at_s)
        while driver.poll() is None:
            found = []
            for process in keeper.living(mark, MARK) + keeper.living(self.mark, MARK):
                with suppress(psutil.Error):
                    found += [process] if VICTIMS[victim](process, driver.pid) else []
            if found:
                with suppress(psutil.Error):
                    for number, pause_s in WAYS[way]:
                        found[-1].send_signal(number)  # the youngest
                        time.sleep(pause_s)
                    return True
            time.sleep(0.1)
        return False

    def _gone(self, mark: str) -> list[str]:
        """Names of what is still there a while after the end; it is ended."""
        ends = time.monotonic() + GONE_S
        while (left := keeper.living(mark, MARK)) and time.monotonic() < ends:
            time.sleep(0.2)
        names = []
        for process in left:
            with suppress(psutil.Error):
                names.append(" ".join(process.cmdline()[:3])[:120])
                process.kill()
        return names

    def _wrong(self, code: int, victim: str, way: str) -> list[str]:
        wanted = {0, 1} | ({130} if way.startswith(("term", "int")) else set())
        wanted |= {"killed": {-signal.SIGKILL}, "interrupted twice": {-signal.SIGINT}}.get(way, set())
        said, wrong = self.said(), []
        if victim == "nobody":
            wanted = {0}
        if code not in wanted:
            wrong.append(f"exit code {code}")
        if "Traceback" in said:
            wrong.append("a traceback")
        left = [path.name for path in (self.folder / "tmp").iterdir()]
        if left := [name for name in left if "wandb-" not in name]:  # wandb's own, of a process that was killed
            wrong.append(f"temporary files: {', '.join(left[:3])}")
        return wrong


def _untimed(value: Any) -> Any:
    """Without what says how long it took."""
    if isinstance(value, dict):
        return {name: _untimed(one) for name, one in value.items() if name not in TIMES}
    return [*map(_untimed, value)] if isinstance(value, list) else value


def _as_in_a_terminal() -> None:
    """Where these tests run in the background they began with Ctrl-C switched off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(job: str, kills: int, seed: int, folder: Path, model: Path, say: Callable[[str], object]) -> list[Kill]:
    """So many kills of one job, in chains of at most five; the last entry of `wrong` of each chain is its result's."""
    draw, done, chains = random.Random(f"{seed} {job}"), [], 0
    with Chain(job, folder / "undisturbed", model) as first:
        length_s, wanted = first.undisturbed(), first.result()
    say(f"{job}: {length_s:.0f} s undisturbed, {len(wanted)} files\n")
    while (missing := kills - sum(kill.victim != "nobody" for kill in done)) > 0:
        with Chain(job, folder / f"chain-{chains}", model) as chain:
            done += _chain(chain, min(missing, 5), length_s, wanted, draw, say)
        chains += 1
    return done


def _chain(chain: Chain, kills: int, length_s: float, wanted: dict[str, str], draw: random.Random, say) -> list[Kill]:
    """At most so many kills, and then to the end."""
    done: list[Kill] = []
    places = PLACES + OF_SUBMIT * (chain.job == "submit")
    while len(done) < kills and not (done and done[-1].code == 0):
        kill = chain.attempt(*draw.choice(places), draw.uniform(0, 0.9 * length_s))
        done.append(kill)
        if kill.wrong:
            kill.wrong.append(chain.said())
        say(f"{kill.job}: {kill.victim} {kill.way} at {kill.at_s:.0f} s: exit {kill.code}, {kill.wrong or 'well'}\n")
    if done[-1].code:
        done.append(chain.attempt())
    if done[-1].code or chain.result() != wanted:
        found = chain.result()
        differing = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        done[-1].wrong.append(f"after it: exit {done[-1].code}, differing {differing[:5]}; {chain.said()}")
    say(f"{chain.job}: end of {chain.folder.name}: {done[-1].wrong or 'the same result'}\n")
    return done
