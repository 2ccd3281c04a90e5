"""What a person sees of a game: lines where there is no terminal, a panel where there is one, scalars for later."""

import io
import json
import sys

import pytest

from ragdist.config import loader
from ragdist.systems.atm import live
from ragdist.systems.atm.live import Board
from ragdist.tracking.progress import say
from ragdist.tracking.run import open_run
from ragdist.tracking.timeline import Span, Timeline


class Clock:
    """time.monotonic that moves when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(live.time, "monotonic", found)
    return found


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("round-0/forged-again", "round 1 of 2, forged again"),
        ("round 2, forge and grade", "round 2 of 2, forge and grade"),
        ("test/clean-g0", "test, clean g0"),
    ],
)
def test_phase_is_spelled_as_people_count(phase, said):
    assert live.spelled(phase, 2) == said


def test_line_names_round_progress_rates_shares_and_idleness(clock, tmp_path):
    with Timeline(tmp_path) as timeline, Board(2, timeline) as board:
        timeline.add(Span("attacker", 0, "p", "m", 0.0, 8.0))
        timeline.add(Span("generator", 0, "p", "m", 4.0, 10.0))
        board.phase("round 1, forge and grade", 32)
        clock.now += 10
        board.advance(0, forged=31, stated=20, truthful=0, tokens=900, unusable=0)
        board.advance(12, graded=29, perplexity_sum=41.2 * 28, broken=1)
        assert board.line() == (
            "round 1 of 2, forge and grade: 12 of 32 microbatches, 3.1 forged/s, 2.9 graded/s, mean perplexity 41.2, "
            "states the wrong answer 65%, holds a right answer 0%, broken 1, idle attacker 20% generator 40%"
        )


def test_next_phase_begins_its_sums_at_nothing(clock):
    board = Board(1)
    board.phase("round-0/forged", 4)
    board.advance(1, forged=5)
    board.phase("test/attacked-a0-g0", 4)
    board.advance(2, asked=10, right=4, right_clean=8, lost=6, repeats=5)
    assert board.line() == (
        "test, attacked a0 g0: 2 of 4 microbatches, attack success 75%, right 40%, repeats a forged answer 50%"
    )


def test_lines_come_every_ten_seconds_at_most(clock, capsys):
    with Board(1) as board:
        board.phase("round-0/forged", 100)
        for _ in range(30):
            clock.now += 1
            board.advance(1, forged=1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "round 1 of 1, forged: 30 of 100 microbatches, 1.0 forged/s" in said[-1]


def test_steps_show_their_metrics(clock):
    with Board(2) as board:
        board.phase("round-0/attacker")
        board.step("round-0/attacker", 3, 40, {"loss": 0.693147, "margin": 0.0, "seconds": 2.0})
        assert board.line() == "round 1 of 2, attacker: 3 of 40 steps, loss 0.693, margin 0"


def test_sums_and_steps_are_lines_of_metrics(tmp_path):
    settings = loader.load([f"run.folder={tmp_path}", "run.name=one"])
    with open_run(settings, "raft") as run, Board(1) as board:
        board.phase("round-0/forged", 2)
        board.advance(1, forged=3, stated=2)
        board.advance(1, forged=3, stated=1)
        board.step("round-0/attacker", 1, 4, {"loss": 0.5, "step": 1})
        board.result(1, right_clean=0.5)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line.get("loss"), line.get("forged"), line.get("stated")) for line in lines] == [
        ("round-0/attacker", 0.5, None, None),
        ("rounds", None, None, None),
        ("round-0/forged", None, 6, 3),
    ]
    assert (lines[0]["step"], lines[0]["steps"]) == (1, 4) and (lines[1]["step"], lines[1]["right_clean"]) == (1, 0.5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminal_gets_a_panel_with_all_rows(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = sys.stderr
    with Board(2) as board:
        board.phase("round-0/forged", 4)
        board.advance(1, forged=3, stated=1)
        say("a line of its own")
    text = shown.getvalue()
    for row in ("round 1 of 2, forged", "1 of 4", "forged per second", "mean perplexity", "attack success", "kl"):
        assert row in text
    assert "33%" in text and "a line of its own" in text
