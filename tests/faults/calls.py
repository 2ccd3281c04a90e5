"""Commands on broken input: each ends in time, with 0 or 2 and a reason in a line, and leaves nothing half made.

    make test-faults              5,000 inputs, at most three minutes
    make test-faults N=20000      so many, for as long as they take
    make test-faults SEED=7       those of an earlier time, which said its seed

SIGTERM or one Ctrl-C ends it when the command under way has ended. A failure is made small and kept below cases/, where
`test_cases.py` runs it from then on with the quick tests.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import typer.main
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st

from ragdist import cli
from tests.faults import bases

INPUTS = int(os.environ.get("N") or 5000)
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
BUDGET_S = float(os.environ.get("BUDGET_S") or ("inf" if os.environ.get("N") else 150))
"""Of all surfaces together, which have parts of it: where nobody says how many inputs."""
DEADLINE_S = 20.0
"""Of one command on a busy machine; nothing here is large."""
FINDS, FAILS = (0, 1, 2, 3), (0, 1, 2)
"""How a command may end that says by its code what it found; and one that asks a teacher, whose fault it may be."""
CANARY = "canary"
"""What appears in the folder where a pickle, a template, a tag of YAML or a command in a text is executed."""
PICKLE = f"cos\nmkdir\n(S'{CANARY}'\ntR.".encode()
TEMPLATE = f"{{{{ cycler.__init__.__globals__.os.mkdir('{CANARY}') }}}}"
CASES = Path(__file__).parent / "cases"
COMMANDS = typer.main.get_command(cli.app)
"""Built once: for each call that takes longer than most of them."""
PROGRESS = re.compile(r"\d\d:\d\d:\d\d ")
WORDS = st.text(st.characters(exclude_categories=(), exclude_characters="/"), max_size=12).filter(
    lambda word: word != ".."
)
"""Nothing leads out of the folder: a command that reads all of a machine does not end in time, and rightly."""
HOSTILE = st.sampled_from(
    [
        *("", " ", "-", "--", "=", "~x", "\x1b[31m", "\u202e", "\udce9", "[/INST]", "é" * 300, "%s", "{x}", "x\0y"),
        *("nan", ".inf", "-1", "0", "1e999", "9" * 30, "2026-11-27", "on", "null", "[]", "{}", "[" * 200, "\t", "\n"),
        *("!!binary aGk=", "&a [*a]", "<<: 1", "a: b: c", "'", '"', "# x", "\\", f"$(mkdir {CANARY})", "`date`", "*"),
        *(f"!!python/object/apply:os.mkdir [{CANARY}]", TEMPLATE, f"; mkdir {CANARY}"),
    ]
)
ODD = st.one_of(
    st.sampled_from([None, True, 0, -1, 10**9, 10**15, 2**64, 1e300, float("nan"), [], {}, [[]], {"": None}, 1.5]),
    st.one_of(WORDS, HOSTILE, st.integers(), st.floats()),
    st.recursive(HOSTILE, lambda below: st.lists(below, max_size=2) | st.dictionaries(WORDS, below, max_size=2)),
)
"""Values of other kinds than those in their place."""


class Late(BaseException):
    """The command did not end."""


@dataclass(frozen=True)
class Case:
    """A command and the files that it finds. Example: Case(["settings", "s.yaml"], {"s.yaml": b"seed: x"})"""

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    """By their paths below the folder that the command runs in; some lie there anyway."""


def share(part: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test that gets this part of all inputs and of the time."""

    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
        most = max(1, int(INPUTS * part))
        how = settings(max_examples=most, deadline=None, suppress_health_check=quiet, database=None)
        return seed(SEED)(how(test))

    return wrap


class Surface:
    """Runs the cases of one kind of input, until its time is over."""

    def __init__(self, name: str, part: float, base: Callable[[Path], object] = lambda folder: None) -> None:
        self.name, self.end = name, BUDGET_S * part
        self._folder = tempfile.TemporaryDirectory(prefix=f"faults-{name}-", ignore_cleanup_errors=True)
        self.base = Path(self._folder.name)
        self.count, self.ended, self.begun = 0, Counter[int](), 0.0
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell begins what it puts into the background without Ctrl-C
            signal.signal(number, signal.default_int_handler)
        stop_if_told()
        base(self.base)

    def __enter__(self) -> Surface:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
        seconds = time.monotonic() - (self.begun or time.monotonic())
        said = f"{self.name}: {self.count} inputs in {seconds:.0f} s, ended with {dict(self.ended)}, SEED={SEED}"
        print(said, flush=True)  # noqa: T201

    def run(self, case: Case) -> None:
        """Fails, with the case kept, where the command does not end as it should."""
        self.begun = self.begun or time.monotonic()
        if time.monotonic() - self.begun > self.end:
            return
        problem, code = run(case, self.base)
        stop_if_told()
        self.count += 1
        if problem:
            raise AssertionError(f"{keep(case, self.name)}: {problem}")
        self.ended[code] += 1


@functools.cache
def _signals() -> tuple[socket.socket, socket.socket]:
    """Where the number of each signal comes out and goes in from now on, whatever a command makes of it."""
    heard, told = socket.socketpair()
    heard.setblocking(False)
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    return heard, told


def stop_if_told() -> None:
    """Raises KeyboardInterrupt once SIGINT or SIGTERM came."""
    with contextlib.suppress(BlockingIOError):
        if {signal.SIGINT, signal.SIGTERM} & {*_signals()[0].recv(4096)}:
            raise KeyboardInterrupt


def run(case: Case, base: Path) -> tuple[str, int]:
    """What is wrong with the end of this command in a copy of the folder `base`, if anything; and its exit code."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, contextlib.chdir(folder):
        shutil.copytree(base, ".", dirs_exist_ok=True)
        for name, content in case.files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        before = {str(path) for path in Path().rglob("*")}
        begun = time.monotonic()
        code, out, err = call(case.arguments)
        if time.monotonic() - begun >= DEADLINE_S:  # said, or taken for another error on the way
            return f"did not end within {DEADLINE_S:g} s: {err[-3000:]}", 1
        if code not in _ends(case.arguments):
            return f"ended with {code!r}: {err[-3000:]}", 1
        made = sorted({str(path) for path in Path().rglob("*")} - before)
        return _problem(code, out, err, made), code


def call(arguments: list[str]) -> tuple[Any, str, str]:
    """Exit code, or what was raised; stdout; stderr."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    cluster = mock.patch.dict(os.environ, KUBECONFIG="kubeconfig")  # of the folder, if of any
    with streams[0], streams[1], cluster, mock.patch.object(cli, "app", COMMANDS), _typed(), _in_time():
        try:
            cli.main([word.replace("REPLYING", str(bases.replying())) for word in arguments])
            code: Any = "no exit"
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException as error:  # what is looked for
            code = type(error).__name__
            err.write("".join(traceback.format_exception(error)[-12:]))
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    """What lies in the file `stdin`, if anything."""
    typed = Path("stdin").read_bytes() if Path("stdin").exists() else b""
    before, sys.stdin = sys.stdin, io.StringIO(typed.decode(errors="surrogateescape"))
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Late(f"did not end within {DEADLINE_S:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ends(arguments: list[str]) -> tuple[int, ...]:
    if arguments[:2] == ["k8s", "check"]:
        return FINDS
    return FAILS if "teacher.yaml" in arguments else (0, 2)


def _problem(code: int, out: str, err: str, made: list[str]) -> str:
    said = [line for line in err.splitlines() if not PROGRESS.match(line)]
    if "Traceback" in err or "Logging error" in err:
        return f"a traceback: {err[-2000:]}"
    if steering := {c for c in out + err if (ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 or c == "\u202e"}:
        return f"{steering} reach the terminal: {(out + err)[:500]!r}"
    if CANARY in made:
        return "something in a file was executed"
    if code in (1, 2) and not said and "Usage:" not in out:  # a command without arguments shows its help
        return f"exit code {code} without a reason"
    if (
        code in (1, 2)
        and not err.lstrip().startswith("Usage:")
        and (len(said) > 30 or max(map(len, said), default=0) > 4000)
    ):
        return f"{len(said)} lines, the longest of {max(map(len, said))} characters: {err[:1000]}"
    if half := [name for name in made if name.endswith(".tmp")]:
        return f"left {half}"
    if code in (1, 2) and [name for name in made if name.startswith("out")]:
        return f"failed and made {made}"
    return ""


def keep(case: Case, surface: str) -> Path:
    """Writes the case down; the smallest comes last, and alone stays."""
    files = {name: base64.b64encode(content).decode() for name, content in case.files.items()}
    text = json.dumps({"surface": surface, "arguments": case.arguments, "files": files}, indent=1)
    for older in CASES.glob(f"{surface}-new-*.json"):
        older.unlink()
    CASES.mkdir(exist_ok=True)
    path = CASES / f"{surface}-new-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    path.write_text(text + "\n")
    return path


def kept(path: Path) -> tuple[str, Case]:
    """The surface and the case that were written down."""
    row = json.loads(path.read_text())
    return row["surface"], Case(row["arguments"], {n: base64.b64decode(text) for n, text in row["files"].items()})


def spoiled(content: bytes) -> st.SearchStrategy[bytes]:
    """The content cut, emptied, doubled, with bytes changed, or with something put in."""
    at = st.integers(0, max(0, len(content) - 1))
    put = st.one_of(st.binary(max_size=8), HOSTILE.map(lambda text: text.encode(errors="surrogateescape")))
    return st.one_of(
        st.just(b""),
        at.map(lambda n: content[:n]),
        at.map(lambda n: content[n:]),
        st.tuples(at, put).map(lambda found: content[: found[0]] + found[1] + content[found[0] :]),
        st.tuples(at, put).map(lambda found: content[: found[0]] + found[1] + content[found[0] + len(found[1]) :]),
        st.just(content + content),
        st.just(b"\0" * len(content)),
    )


def edited(value: Any) -> st.SearchStrategy[Any]:
    """The JSON or YAML value with another one at some of its places."""
    places = list(_places(value))
    return st.lists(st.tuples(st.sampled_from(places), ODD), min_size=1, max_size=2).map(lambda put: _put(value, put))


def _places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(below, (*here, key))


def _put(value: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    whole = {"": copy.deepcopy(value)}
    for place, other in changes:
        *owners, last = ("", *place)
        with contextlib.suppress(LookupError, TypeError):  # the change before this one took the place away
            functools.reduce(lambda found, key: found[key], owners, whole)[last] = other
    return whole[""]
