"""Replies that were paid for are there, whatever happened to the process that paid."""

import json
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from ragdist.config import TeacherConfig
from ragdist.errors import Stopped
from ragdist.records import Reply, Request
from ragdist.teacher.reply_cache import ReplyCache, key_of

ROOT = Path(__file__).parents[2]
REQUEST = Request(id="r", text="Why?", max_new_tokens=8, temperature=0.5, seed=3)
REPLY = Reply(id="r", text="Because \u2028 of \ud7ff.\n", ended=True, read=310, written=24)
OTHER_PROCESS = """
import sys, time
from pathlib import Path
from ragdist.config import TeacherConfig
from ragdist.records import Reply
from ragdist.teacher.reply_cache import ReplyCache
ledger = ReplyCache(Path(sys.argv[1]), TeacherConfig())
with ledger.held():
    print("held", flush=True)
    time.sleep(0.5)
    ledger.add("0" * 32, Reply(id="theirs", text="said", ended=True, read=1, written=2))
"""


def ledger(folder, **settings):
    return ReplyCache(folder / "teacher.jsonl", TeacherConfig(**settings))


def key(number):
    return f"{number:032x}"


def test_reply_is_there_for_the_next_process(tmp_path):
    with (first := ledger(tmp_path)).held():
        first.add(key(1), REPLY)
        assert first.reply(key(1)) == REPLY
    with (second := ledger(tmp_path)).held():
        assert key(1) in second and key(2) not in second
        assert second.reply(key(1)) == REPLY
        assert (second.read, second.written) == (310, 24)


def test_key_changes_with_all_that_is_asked_and_with_the_teacher():
    asked = [
        REQUEST,
        replace(REQUEST, id="s"),
        replace(REQUEST, text="Why not?"),
        replace(REQUEST, max_new_tokens=9),
        replace(REQUEST, temperature=0.0),
        replace(REQUEST, seed=4),
    ]
    keys = {key_of(request, "teacher") for request in asked} | {key_of(REQUEST, "another")}
    assert len(keys) == len(asked) + 1
    assert key_of(replace(REQUEST), "teacher") in keys


@pytest.mark.parametrize("size", [1, 20, 150])
def test_line_that_a_killed_process_left_half_written_is_cut_off(tmp_path, size):
    """check 18: whatever byte the process died at, the replies before it are kept and the next ones can be read."""
    with (first := ledger(tmp_path)).held():
        for number in range(3):
            first.add(key(number), REPLY)
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-size])
    with (second := ledger(tmp_path)).held():
        assert [key(number) in second for number in range(3)] == [True, True, False]
        second.add(key(2), REPLY)
    assert second.path.read_bytes() == whole


def test_line_that_cannot_be_read_is_left_out(tmp_path):
    with (first := ledger(tmp_path)).held():
        for number in range(3):
            first.add(key(number), REPLY)
    lines = first.path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    first.path.write_bytes(b"".join(lines))
    with (second := ledger(tmp_path)).held():
        assert [key(number) in second for number in range(3)] == [True, False, True]
        assert second.reply(key(2)) == REPLY


def test_file_that_was_removed_is_begun_anew(tmp_path):
    found = ledger(tmp_path)
    with found.held():
        found.add(key(1), REPLY)
    found.path.unlink()
    with found.held():
        assert key(1) not in found
        assert found.read == 0


def test_another_process_waits_and_then_sees_what_was_paid(tmp_path):
    found = ledger(tmp_path)
    command = [sys.executable, "-c", OTHER_PROCESS, str(found.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout.readline() == b"held\n"
        with found.held():
            assert found.reply("0" * 32).id == "theirs"
    assert other.returncode == 0


def test_blocks_overlap(tmp_path):
    """Two streams of one teacher: the file stays ours until both have ended, whichever ends first."""
    found = ledger(tmp_path)
    first, second = found.held(), found.held()
    assert first.__enter__() is second.__enter__()
    first.__exit__(None, None, None)
    found.add(key(1), REPLY)
    second.__exit__(None, None, None)
    with found.held():
        assert found.reply(key(1)) == REPLY


def test_threads_add_at_once(tmp_path):
    with (found := ledger(tmp_path)).held():
        threads = [
            threading.Thread(target=lambda n=n: [found.add(key(n * 100 + i), REPLY) for i in range(20)])
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(found.reply(key(n * 100 + i)) == REPLY for n in range(8) for i in range(20))
    assert len([json.loads(line) for line in found.path.read_text().split("\n")[:-1]]) == 160


def test_memory_holds_no_texts(tmp_path):
    """check 74: 20 MB of replies cost less than 1 MB."""
    with (first := ledger(tmp_path)).held():
        for number in range(200):
            first.add(key(number), replace(REPLY, text="x" * 100_000))
    tracemalloc.start()
    with (second := ledger(tmp_path)).held():
        held = tracemalloc.get_traced_memory()[0]
        assert len(second.reply(key(199)).text) == 100_000
    tracemalloc.stop()
    assert held < 1e6


def test_cost_is_tokens_times_price(tmp_path):
    """1,000,000 tokens at $2 and 500,000 at $10 a million: $7."""
    with (found := ledger(tmp_path, usd_per_million_read=2, usd_per_million_written=10)).held():
        found.add(key(1), replace(REPLY, read=1_000_000, written=500_000))
        assert found.cost_usd == pytest.approx(7)


@pytest.mark.parametrize(
    ("settings", "spent"),
    [
        ({"budget_tokens": 335}, False),
        ({"budget_tokens": 334}, True),
        ({"budget_usd": 0.0101, "usd_per_million_read": 25, "usd_per_million_written": 100}, True),
        ({"budget_usd": 0.0102, "usd_per_million_read": 25, "usd_per_million_written": 100}, False),
        ({}, False),
    ],
)
def test_no_call_begins_when_a_budget_is_spent(tmp_path, settings, spent):
    """334 tokens; 310 at $25 and 24 at $100 a million: $0.01015."""
    with (found := ledger(tmp_path, **settings)).held():
        found.add(key(1), REPLY)
        if spent:
            knob = next(iter(settings))
            with pytest.raises(Stopped, match=f"teacher.{knob}=.* is spent: 310 tokens read, 24 written.*raise"):
                found.check()
        else:
            found.check()


def kept_with(folder, **other):
    """A ledger of three replies, the second with these fields."""
    with (first := ledger(folder)).held():
        for number in range(3):
            first.add(key(number), REPLY)
    lines = first.path.read_text().splitlines()
    row = json.loads(lines[1])
    lines[1] = json.dumps({name: value for name, value in (row | other).items() if value is not ...})
    first.path.write_text("\n".join(lines) + "\n")
    return ledger(folder)


def test_R13_line_with_a_field_of_a_later_version_is_read(tmp_path):
    with (found := kept_with(tmp_path, reasoning="Hm", cached=3)).held():
        assert found.reply(key(1)) == REPLY


@pytest.mark.parametrize(
    "other",
    [
        {"text": ...},
        {"ended": ...},
        {"read": ...},
        {"text": None},
        {"read": "x"},
        {"written": 1.5},
        {"id": []},
        {"key": 7},
    ],
    ids=str,
)
def test_R13_line_of_another_form_is_left_out_and_said(tmp_path, capsys, other):
    with (found := kept_with(tmp_path, **other)).held():
        assert [key(number) in found for number in range(3)] == [True, False, True]
        assert found.reply(key(2)) == REPLY
    assert "cannot be read and is left out" in capsys.readouterr().err


def test_R14_half_a_character_that_was_kept_before_is_marked(tmp_path):
    with (found := kept_with(tmp_path, text="a \ud800", failed="\udfff")).held():
        assert (found.reply(key(1)).text, found.reply(key(1)).failed) == ("a \ufffd", "\ufffd")


def test_R15_cost_below_nothing_that_was_kept_before_is_nothing(tmp_path):
    with (found := kept_with(tmp_path, read=-(10**6))).held():
        assert found.read == 2 * REPLY.read


def test_S6_ledger_is_its_owners_alone_also_one_that_was_not(tmp_path):
    with (first := ledger(tmp_path)).held():
        assert first.path.stat().st_mode & 0o777 == 0o600
    first.path.chmod(0o644)
    with ledger(tmp_path).held():
        assert first.path.stat().st_mode & 0o777 == 0o600
