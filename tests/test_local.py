import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ragdist.errors import DataError, TrainError
from ragdist.local import LocalSide, ProcessMapper, SerialMapper
from ragdist.storage import tables
from tests.cluster import fake
from tests.mapped import broken_at_seven, dies, scaled

ROOT = Path(__file__).parents[1]


def pid(item):
    return os.getpid()


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_processes_give_what_this_process_gives(count):
    """check 71: any number of workers, same results in the same order."""
    expected = list(SerialMapper().map(scaled, range(count), 3))
    assert list(ProcessMapper(2, batch=3).map(scaled, range(count), 3)) == expected


def test_processes_work_outside_this_process():
    assert os.getpid() not in set(ProcessMapper(1, batch=2).map(pid, range(6)))


def test_processes_take_no_more_items_than_are_under_way():
    """check 74: an endless source is read as results are asked for."""
    taken = []

    def source():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = ProcessMapper(2, batch=5).map(scaled, source(), 2)
    assert [next(results)[0] for _ in range(12)] == list(range(0, 24, 2))
    assert len(taken) <= 12 + 2 * 2 * 5
    results.close()


def test_process_error_arrives_as_itself():
    results = ProcessMapper(1, batch=2).map(broken_at_seven, range(20))
    with pytest.raises(DataError, match="row 7 is broken"):
        list(results)


def test_killed_process_is_one_clear_error():
    """check 72: never a hang, never a shorter result."""
    with pytest.raises(TrainError, match=r"worker processes died.*memory"):
        list(ProcessMapper(2, batch=1).map(dies, range(4)))


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_ended_parent_leaves_no_process(name):
    """Ctrl-C drops what has not begun; a killed parent takes its workers along."""
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell begins without
sys.path.insert(0, {str(ROOT)!r})
from ragdist.local import ProcessMapper
from tests.test_local import slow_pid
if __name__ == "__main__":
    for pid in ProcessMapper(1, batch=1).map(slow_pid, range(10_000)):
        print(pid, flush=True)
"""
    script = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    timer = threading.Timer(30, script.kill)
    timer.start()
    worker = int(script.stdout.readline())
    script.send_signal(getattr(signal, name))
    script.wait()
    timer.cancel()
    for _ in range(100):
        if not alive(worker):
            return
        time.sleep(0.05)
    pytest.fail(f"worker {worker} outlived its parent")


def slow_pid(item):
    time.sleep(0.05)
    return os.getpid()


def alive(process):
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def local_side():
    settings = fake.settings()
    return LocalSide(settings, settings.attacker, fake.Fake, "", 0)


def test_local_side_keeps_each_microbatch_and_makes_none_twice(tmp_path):
    shards, note = fake.questions(tmp_path, 5, size=2), tmp_path / "note"

    def forged():
        inputs = ((shard,) for shard in shards)
        return local_side().each(fake.forge, inputs, note, {}, folder=tmp_path / "forged", phase="forge")

    assert next(forged()).name == "00000"
    assert len(note.read_text().splitlines()) == 1
    made = list(forged())
    assert made == list(forged())
    assert [(shard.name, shard.rows) for shard in made] == [("00000", 4), ("00001", 4), ("00002", 2)]
    assert len(note.read_text().splitlines()) == 3
    assert [tables.digest(tables.rows_at(shard.path)) for shard in made] == [shard.digest for shard in made]


def test_local_side_learns_once_and_goes_on_from_a_checkpoint(tmp_path):
    shards = fake.questions(tmp_path, 5)
    side = local_side()
    rows = list(side.each(fake.bundles, ((shard,) for shard in shards), folder=tmp_path / "rows", phase="rows"))
    told = {"prepare": None, "phase": "attacker"}
    whole = side.learn(fake.plain_loss, rows, folder=tmp_path / "whole", **told)
    assert [step["step"] for step in whole] == [1, 2, 3, 4, 5] and side.version == 1
    with pytest.raises(ZeroDivisionError):
        local_side().learn(fake.broken_loss, rows, folder=tmp_path / "half", **told)
    late = local_side()
    assert late.learn(fake.plain_loss, rows, folder=tmp_path / "half", **told) == whole
    again = local_side()
    assert again.learn(fake.broken_loss, rows, folder=tmp_path / "half", **told) == whole
    assert again.version == late.version == 1 and again.source == late.source
