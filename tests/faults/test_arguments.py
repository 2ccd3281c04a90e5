"""Arguments and options of every command that starts nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.bases import documents
from tests.faults.calls import HOSTILE, WORDS, Case, Surface, share

PATHS = st.sampled_from(["documents", "q.csv", "s.yaml", "nothing", "nothing/below", "/proc/x", "q.csv/x", "."])
ANY = st.one_of(PATHS, HOSTILE, WORDS)
PARTS = st.sampled_from(["2x8xA100-80GB", "4x64cpu", ":128cpu", ":1024GB", ",", "x", "0", "9999", ":a=b"])
TYPED = st.text("0123456789xA-:,cpuGBi=", max_size=20)
MACHINES = st.one_of(HOSTILE, TYPED, st.lists(PARTS, max_size=6).map("".join))
VALUED = ("--to", "--form", "--until", "--hub", "--model", "--metric", "--run", "--output", "--base")
FLAGS = ("--json", "--force", "--markdown", "--help", "-h", "--version", "--from-runs")
OPTIONS = st.one_of(
    st.tuples(st.sampled_from(VALUED), ANY),
    st.tuples(st.just("--nodes"), MACHINES),
    st.tuples(st.sampled_from(FLAGS)),
    st.tuples(ANY),
)
COMMANDS = st.sampled_from(
    [
        *("plan", "plan raft", "plan atm s.yaml", "plan duet s.yaml", "settings", "init", "init raft", "runs"),
        *("init documents q.csv", "report nothing", "export", "export nothing", "answer x", "k8s check", "sweep", ""),
        *("chat", "train", "build --until nope", "evaluate s.yaml --model nothing/below/it", "serve nothing"),
        *("k8s render raft", "report"),
    ]
)


@pytest.fixture(scope="module")
def surface():
    with Surface("arguments", 0.1, documents) as made:
        yield made


def without_nul(words):
    return [word.replace("\0", "") for word in words]


@given(COMMANDS, st.lists(OPTIONS, max_size=3))
@share(0.2)
def test_arguments(surface, command, options):
    """A program is started without NUL in its arguments; a place outside of the folder is only read."""
    given = [word for option in options for word in option]
    surface.run(Case(without_nul([*command.split(), *given])))
