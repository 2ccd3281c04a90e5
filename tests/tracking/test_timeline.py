"""Idle shares, rates and overlaps worked by hand; the files that are left, whatever was killed."""

import json

import pyarrow.parquet as pq
import pytest

from ragdist.errors import StorageError
from ragdist.tracking.timeline import LINES, TABLE, TRACE, Span, Timeline

# Wall 0 to 10. Attacker, one rank: busy 0-4 and 6-8, so 6 of 10. Generator, two ranks: 4 + 2 of 20.
SPANS = [
    Span("attacker", 0, "forged", "00000", 0.0, 4.0),
    Span("attacker", 0, "forged", "00001", 6.0, 8.0),
    Span("generator", 0, "graded", "00000", 4.0, 8.0),
    Span("generator", 1, "graded", "00001", 8.0, 10.0),
]


@pytest.fixture
def timeline(tmp_path):
    with Timeline(tmp_path) as out:
        for span in SPANS:
            out.add(span if span.rank else span._asdict())
        yield out


def test_idle_share_of_hand_worked_spans(timeline):
    assert timeline.groups == ["attacker", "generator"]
    assert timeline.idle_share("attacker") == pytest.approx(0.4)
    assert timeline.idle_share("generator") == pytest.approx(1 - 6 / 20)
    assert timeline.idle_share("nobody") == 1.0


def test_idle_share_of_the_last_seconds_clips_spans(timeline):
    # 5 to 10: attacker busy 6-8, generator 5-8 on one rank and 8-10 on the other.
    assert timeline.idle_share("attacker", last_s=5) == pytest.approx(1 - 2 / 5)
    assert timeline.idle_share("generator", last_s=5) == pytest.approx(1 - 5 / 10)
    assert timeline.idle_share("attacker", last_s=1000) == pytest.approx(0.4)


def test_idle_share_counts_overlapping_spans_of_a_rank_once(tmp_path):
    with Timeline(tmp_path) as out:
        for start, end in ((0.0, 6.0), (2.0, 4.0), (6.0, 8.0)):
            out.add(Span("a", 0, "p", "m", start, end))
        out.add(Span("b", 0, "p", "m", 9.0, 10.0))
        assert out.idle_share("a") == pytest.approx(0.2)


def test_rate_check_73(timeline):
    assert timeline.rate("forged") == pytest.approx(2 / 8)
    assert timeline.rate("never") == 0.0


def test_files_hold_every_span(timeline, tmp_path):
    timeline.write()
    rows = pq.read_table(tmp_path / TABLE).to_pylist()
    assert [Span(*(row[name] for name in Span._fields)) for row in rows] == SPANS
    events = json.loads((tmp_path / TRACE).read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names == {(1, 0): "attacker", (2, 0): "generator", (1, 1): "rank 0", (2, 1): "rank 0", (2, 2): "rank 1"}
    last = [event for event in events if event["ph"] == "X"][-1]
    assert (last["name"], last["pid"], last["tid"], last["ts"], last["dur"]) == ("graded", 2, 2, 8_000_000, 2_000_000)
    assert last["args"] == {"of": "00001"}


def test_restart_after_kill_appends_drops_torn_line_and_counts_no_gap(timeline, tmp_path):
    lines = (tmp_path / LINES).read_bytes()  # flushed span by span: nothing was closed yet
    assert lines.count(b"\n") == 4
    (tmp_path / LINES).write_bytes(lines + b'["attacker", 0, "for')
    with Timeline(tmp_path) as again:
        assert again.idle_share("attacker") == pytest.approx(0.4)
        again.add(Span("attacker", 0, "forged", "00002", 1000.0, 1010.0))
        assert again.idle_share("attacker") == pytest.approx(1 - 16 / 20)
        assert again.idle_share("attacker", last_s=5) == 0.0
    rows = pq.read_table(tmp_path / TABLE).to_pylist()
    assert [row["session"] for row in rows] == [0, 0, 0, 0, 1]


def test_timeline_without_spans_writes_empty_files(tmp_path):
    with Timeline(tmp_path):
        pass
    assert pq.read_table(tmp_path / TABLE).num_rows == 0
    assert json.loads((tmp_path / TRACE).read_text())["traceEvents"] == []


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Timeline(tmp_path / "file" / "below")
