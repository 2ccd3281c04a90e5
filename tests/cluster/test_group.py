"""Two groups of ranks: the same rows and weights as one process, whatever dies."""

import json
import os
import signal
import socket
import time
from contextlib import contextmanager

import psutil
import pytest
import ray

from ragdist.cluster.group import WorkerGroup
from ragdist.cluster.ranks import GroupSpec
from ragdist.cluster.workers import Rank, last_line
from ragdist.errors import ConfigError, DataError, ModelError, Stopped, TrainError
from ragdist.local import LocalSide
from ragdist.storage import tables
from tests.cluster import fake

pytestmark = pytest.mark.usefixtures("ray_here")


@contextmanager
def group(folder, *, name="attacker", workers=1, source="", stop=None, spans=None, steps=None, **cluster):
    """A group of fakes; `cluster` are its settings."""
    settings = fake.settings(workers=workers, **cluster)
    side = getattr(settings, name)
    plan = GroupSpec(name, settings, side, fake.Fake, folder, *([stop] if stop else []))
    hooks = {"on_span": spans.append} if spans is not None else {}
    hooks |= {"on_step": lambda *said: steps.append(said)} if steps is not None else {}
    with WorkerGroup(plan, source, 0, **hooks) as made:
        yield made


def forged(side, shards, folder, what=None, phase="forge"):
    """(name, digest) of all forged shards, by name."""
    note = folder / "note"
    note.touch()
    found = side.each(fake.forge, ((shard,) for shard in shards), note, what or {}, folder=folder / phase, phase=phase)
    return sorted((shard.name, shard.digest) for shard in found)


def begun(folder):
    """Microbatches that were begun, by the id of their first question, as often as they were."""
    return sorted(line.split()[0] for line in (folder / "note").read_text().splitlines())


def learned(side, shards, folder, loss=fake.plain_loss):
    rows = list(side.each(fake.bundles, ((shard,) for shard in shards), folder=folder / "rows", phase="rows"))
    rows.sort(key=lambda shard: shard.name)
    return side.learn(loss, rows, prepare=None, folder=folder / "attacker", phase="attacker")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of twelve questions: digests before and after learning, steps, weights."""
    folder = tmp_path_factory.mktemp("alone")
    settings = fake.settings()
    side = LocalSide(settings, settings.attacker, fake.Fake, "", 0)
    shards = fake.questions(folder, 12)
    before = forged(side, shards, folder)
    steps = learned(side, shards, folder)
    return before, steps, forged(side, shards, folder, phase="again"), side.version


def test_a_line_for_people_is_what_happened_and_not_what_to_try():
    traceback = "Traceback (most recent call last):\n  File x\nValueError: no such column"
    cuda = "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
    assert last_line(RuntimeError(traceback)) == "ValueError: no such column"
    assert last_line(RuntimeError(cuda)) == "CUDA error: out of memory"
    assert last_line(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_make_what_one_process_makes(tmp_path, alone, workers):
    """check 71: digests, steps and versions are equal; then the finished work is found and not done again."""
    shards, spans, steps = fake.questions(tmp_path, 12), [], []
    with group(tmp_path, workers=workers, spans=spans, steps=steps) as side:
        before = forged(side, shards, tmp_path, {f"q{n}": "nap" for n in range(0, 12, 5)})  # out of order
        metrics = learned(side, shards, tmp_path)
        after = forged(side, shards, tmp_path, phase="again")
        assert (before, metrics, after, side.version) == alone
        assert learned(side, shards, tmp_path) == metrics  # it is there: nothing learns twice
        assert side.version == 1
        assert forged(side, shards, tmp_path) == before
    assert len(begun(tmp_path)) == 24
    assert [step[1:3] for step in steps] == [(n, 12) for n in range(1, 13)]
    assert {span["rank"] for span in spans} == set(range(workers))
    assert len([span for span in spans if span["phase"] == "forge"]) == 12
    for rank in range(workers):
        said = (tmp_path / "logs" / f"attacker-rank-{rank}.jsonl").read_text().splitlines()
        where = {"run": tmp_path.name, "job": "", "group": "attacker", "rank": rank, "phase": "forge"}
        assert [line for line in map(json.loads, said) if where.items() <= line.items() and "microbatch" in line]
    with group(tmp_path, workers=workers) as side:  # a driver that comes back with the first model
        assert learned(side, shards, tmp_path) == metrics
        assert side.version == 1
        assert forged(side, shards, tmp_path, phase="third")[0][1] == after[0][1]


def test_a_rank_holds_the_port_at_which_its_group_meets(tmp_path):
    rank = ray.remote(Rank).remote({}, str(tmp_path / "rank.log"), {})
    where = ray.get(rank.where.remote(), timeout=60)
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("", where.port))
    ray.kill(rank)


@pytest.mark.parametrize("meet", [False, True])
def test_ranks_load_torch_when_they_meet_and_not_otherwise(tmp_path, meet):
    """64 ranks of 80 MB fit where 64 of 400 do not."""
    settings, shards = fake.settings(workers=2), fake.questions(tmp_path, 4)
    plan = GroupSpec("attacker", settings, settings.attacker, fake.Light, tmp_path, meet=meet)
    with WorkerGroup(plan, "", 0) as side:
        inputs = ((shard,) for shard in shards)
        done = list(side.each(fake.loaded, inputs, "torch", folder=tmp_path / "loaded", phase="loaded"))
    assert [shard.notes["torch"] for shard in done] == [float(meet)] * 4


def test_a_rank_that_dies_while_it_forges_is_replaced(tmp_path, alone):
    """check 72: no row lost or doubled, finished microbatches stay, the other group does not notice."""
    shards = fake.questions(tmp_path, 12)
    fake.Fuse(tmp_path / "note.fuse").set()
    with (
        group(tmp_path / "other", name="generator") as other,
        group(tmp_path, workers=2) as side,
    ):
        theirs, mine = other.pids, side.pids
        assert forged(side, shards, tmp_path, {"q7": "die"}) == alone[0]
        assert other.pids == theirs and all(psutil.pid_exists(pid) for pid in theirs)
        assert not set(side.pids) & set(mine)
        assert side.failures == 1
        again = [name for name in set(begun(tmp_path)) if begun(tmp_path).count(name) > 1]
        assert "q7" in again and len(again) <= 4  # two ranks with at most two each
        assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rank_that_dies_while_it_learns_is_replaced(tmp_path, alone, workers):
    """check 72: the newest checkpoint is gone on with, to the same steps and weights."""
    shards = fake.questions(tmp_path, 12)
    (tmp_path / "attacker").mkdir()
    fake.Fuse(tmp_path / "attacker" / "fuse").set()
    with group(tmp_path, workers=workers) as side:
        assert learned(side, shards, tmp_path, fake.deadly_loss) == alone[1]
        assert side.failures == 1 and side.version == 1
        assert forged(side, shards, tmp_path, phase="again") == alone[2]


def test_a_step_that_nobody_heard_of_is_noted_all_the_same(tmp_path, alone):
    """check 72: the rank died between its checkpoint and its answer; which steps there are does not show it."""
    shards = fake.questions(tmp_path, 12)
    (tmp_path / "attacker").mkdir()
    fake.Fuse(tmp_path / "attacker" / "unheard").set()
    with group(tmp_path) as side:
        assert learned(side, shards, tmp_path) == alone[1]
        assert side.failures == 1


def test_a_model_that_was_whole_before_its_rank_died_is_taken_up(tmp_path, alone):
    shards = fake.questions(tmp_path, 12)
    (tmp_path / "attacker").mkdir()
    fake.Fuse(tmp_path / "attacker" / "late").set()
    steps = []
    with group(tmp_path, workers=2, steps=steps) as side:
        assert learned(side, shards, tmp_path) == alone[1]
        assert side.failures == 1 and side.version == 1 and len(steps) == 12
        assert forged(side, shards, tmp_path, phase="again") == alone[2]


def test_ranks_killed_from_outside_between_phases_are_replaced(tmp_path, alone):
    with group(tmp_path, workers=2) as side:
        os.kill(side.pids[1], signal.SIGKILL)
        assert forged(side, fake.questions(tmp_path, 12), tmp_path) == alone[0]
        os.kill(side.pids[0], signal.SIGKILL)
        assert learned(side, fake.questions(tmp_path, 12), tmp_path) == alone[1]


def test_a_rank_that_always_dies_ends_the_run(tmp_path):
    with group(tmp_path, max_failures=1) as side, pytest.raises(TrainError) as caught:
        forged(side, fake.questions(tmp_path, 3), tmp_path, {"q1": "die always"})
    said = str(caught.value)
    assert "attacker rank 0 on " in said and "forge, microbatch 00001" in said and "cluster.max_failures=1" in said
    assert "attacker-rank-0.log" in said


@pytest.mark.parametrize("how, wanted", [("data", DataError), ("bug", TrainError), ("runtime", TrainError)])
def test_an_error_of_the_work_arrives_without_another_try(tmp_path, how, wanted):
    with group(tmp_path, workers=2) as side, pytest.raises(wanted, match=r"row 3|a mistake in the work") as caught:
        forged(side, fake.questions(tmp_path, 3), tmp_path, {"q1": how})
    assert type(caught.value) is wanted
    assert begun(tmp_path).count("q1") == 1 and side.failures == 0
    assert any("Traceback" in log.read_text() for log in (tmp_path / "logs").iterdir())


def test_an_error_of_the_model_arrives_as_itself(tmp_path):
    with pytest.raises(ModelError, match="broken is no model"), group(tmp_path, source="broken"):
        pass


def test_a_rank_that_hangs_is_named(tmp_path):
    """Every wait has a deadline, and its error says where to look."""
    with group(tmp_path, deadline_s=1) as side:
        with pytest.raises(TrainError) as caught:
            forged(side, fake.questions(tmp_path, 3), tmp_path, {"q1": "sleep"})
        said = str(caught.value)
        assert all(
            part in said for part in ("attacker rank 0 on ", "forge, microbatch 00001", "cluster.deadline_s", "1 s")
        )
        side.restart("", 0)
        with pytest.raises(TrainError, match="attacker, step 2") as caught:
            learned(side, fake.questions(tmp_path, 3), tmp_path, fake.slow_loss)
        assert "attacker rank 0 on " in str(caught.value)


@pytest.mark.parametrize("phase", ["forge", "begin", "step"])
def test_R26_a_stopped_rank_is_named_when_its_deadline_has_passed_though_the_other_works(tmp_path, phase):
    shards, began = fake.questions(tmp_path, 6), time.monotonic()

    def stop(*_):
        os.kill(side.pids[1], signal.SIGSTOP)

    with group(tmp_path, workers=2, deadline_s=1.5) as side, pytest.raises(TrainError) as caught:
        if phase == "step":
            side.on_step = stop
        else:
            rows = list(side.each(fake.bundles, ((s,) for s in shards), folder=tmp_path / "rows", phase="rows"))
            began = time.monotonic()
            stop()
        if phase == "begin":
            side.learn(fake.plain_loss, rows[:2], prepare=None, folder=tmp_path / "attacker", phase="attacker")
        elif phase == "step":
            learned(side, shards, tmp_path)
        forged(side, shards, tmp_path)
    assert all(part in str(caught.value) for part in ("attacker rank 1 on ", "cluster.deadline_s")), caught.value
    assert time.monotonic() - began < 20


def test_a_stop_keeps_what_is_finished(tmp_path, alone):
    """A second process with the same folder goes on and makes the same."""
    shards, asked, steps = fake.questions(tmp_path, 12), [], []
    with group(tmp_path, stop=lambda: bool(asked) or len(steps) == 3, steps=steps) as side:
        stream = side.each(
            fake.forge, ((shard,) for shard in shards), tmp_path / "note", {}, folder=tmp_path / "forge", phase="forge"
        )
        finished = [next(stream).name for _ in range(3)]
        asked.append("stop")
        with pytest.raises(Stopped):
            list(stream)
        asked.clear()
        with pytest.raises(Stopped, match="step 3 of 12"):
            learned(side, shards, tmp_path)
    assert json.loads((tmp_path / "attacker" / "checkpoint.json").read_text())["step"] == 3
    with group(tmp_path) as side:
        assert forged(side, shards, tmp_path) == alone[0]
        assert learned(side, shards, tmp_path) == alone[1]
    lines = begun(tmp_path)
    assert all(lines.count(f"q{int(name)}") == 1 for name in finished)


def test_inputs_are_asked_for_when_there_is_room(tmp_path):
    """check 74: microbatches asked for and not taken are at most cluster.in_flight a rank, and the one at hand."""
    shards, pulled = fake.questions(tmp_path, 40), []

    def inputs():
        for shard in shards:
            pulled.append(shard.name)
            yield (shard,)

    with group(tmp_path, workers=2, in_flight=3) as side:
        stream = side.each(fake.forge, inputs(), tmp_path / "note", {}, folder=tmp_path / "forge", phase="forge")
        assert not pulled
        for taken in range(1, 20):
            next(stream)
            assert len(pulled) - taken <= 2 * 3
        time.sleep(0.5)
        assert len(begun(tmp_path)) == len(pulled)
        stream.close()


def test_two_groups_are_a_stream(tmp_path):
    """check 73: grading starts before forging ends, and the tables never pass through the driver."""
    shards, spans = fake.questions(tmp_path, 16), []
    part = {shard.name: shard for shard in shards}
    slow = {f"q{n}": "nap" for n in range(16)}
    (tmp_path / "note").touch()
    with (
        group(tmp_path, spans=spans) as attacker,
        group(tmp_path, name="generator", workers=2, spans=spans) as generator,
    ):
        inputs = ((shard,) for shard in shards)
        forged = attacker.each(fake.forge, inputs, tmp_path / "note", slow, folder=tmp_path / "forged", phase="forge")
        both = ((part[shard.name], shard) for shard in forged)
        graded = list(generator.each(fake.grade, both, folder=tmp_path / "graded", phase="grade"))
    assert sorted(shard.name for shard in graded) == sorted(part)
    for shard in graded:
        rows = tables.rows_at(shard.path)
        assert tables.digest(rows) == shard.digest and len(rows) == shard.rows == 2
    forge = [(span["start"], span["end"]) for span in spans if span["phase"] == "forge"]
    grade = [(span["start"], span["end"]) for span in spans if span["phase"] == "grade"]
    assert sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a in forge for b in grade) > 0
    assert min(start for start, _ in grade) < max(end for _, end in forge)


def test_no_room_is_said_with_the_knobs(tmp_path):
    settings = fake.settings(start_timeout_s=0.5)
    side = settings.attacker.model_copy(update={"labels": {"zone": "moon"}, "gpus_per_worker": 0.5})
    plan = GroupSpec("attacker", settings, side, fake.Fake, tmp_path)
    with (
        pytest.raises(ConfigError, match=r"zone=moon.*attacker\.gpus_per_worker"),
        WorkerGroup(plan, "", 0),
    ):
        pass
