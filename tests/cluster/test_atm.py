"""ATM on Ray: ranks and drivers killed in every phase leave what an undisturbed game leaves, byte for byte."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragdist.cluster import writers
from ragdist.cluster.group import seated
from ragdist.config import loader
from ragdist.data.pipeline import Pipeline
from ragdist.lm.load import load_tokenizer
from ragdist.local import SerialMapper
from ragdist.storage import tables
from ragdist.storage.stages import Store
from ragdist.systems.atm import run as atm
from ragdist.systems.atm.live import Board
from ragdist.systems.atm.training_rows import open_questions
from ragdist.tracking.timeline import Timeline
from tests import game
from tests.systems.atm import test_run as alone

PHASES = (
    ("forged", "attacker", "round-0/forged/*.parquet"),
    ("graded", "generator", "round-0/graded/*.parquet"),
    ("attacker", "attacker", "round-0/attacker/steps.jsonl"),
    ("forged-again", "attacker", "round-0/forged-again/*.parquet"),
    ("generator", "generator", "round-0/generator/steps.jsonl"),
)
"""Name of a phase of the round, the group that works in it, the file that says it is under way."""
ATM_SIDES = ("attacker", "generator")


def settings(folder, model, **more):
    return game.settings(
        folder,
        model,
        atm={"rounds": 1, "samples": 3, "max_new_tokens": 24, "questions_per_microbatch": 1},
        cluster={"max_failures": 9},
        generator={"workers": 2, "train": {"microbatch": 1, "zero_stage": 2}},
        **more,
    )


def play(here, watch=lambda groups: None):
    """The game with both groups on Ray; `watch` is told the groups when they are seated."""
    folder = Path(here.run.folder)
    run = folder / here.run.name
    pipeline = Pipeline(here, Store(folder / "data"), load_tokenizer(here.model), SerialMapper())
    timeline = Timeline(run)

    @contextmanager
    def open_sides(attacker, generator):
        if here.atm.layout == "shared_base":
            with writers.sides_of_one_base(attacker, generator, here, run, on_span=timeline.add) as sides:
                watch({"attacker": sides[0].group, "generator": sides[1].group})
                yield sides
            return
        both = (("attacker", attacker), ("generator", generator))
        groups = (writers.side(name, *start, here, run, on_span=timeline.add) for name, start in both)
        with seated(*groups) as (first, second):
            watch({"attacker": first, "generator": second})
            yield first, second

    size = here.atm.questions_per_microbatch
    train, test = (tables.split(open_questions(pipeline, split), size) for split in ("train", "test"))
    with Board(here.atm.rounds) as board:
        outcome = atm.run(
            train, test, open_questions(pipeline, "test"), pipeline.forgeries.path, open_sides, run, here, board
        )
    timeline.close()
    return outcome, timeline


def wait_for(run, pattern, longest_s=240.0):
    """Returns when a file of the pattern has something in it."""
    until = time.monotonic() + longest_s
    while time.monotonic() < until:
        if any(path.stat().st_size for path in (run / "atm").glob(pattern)):
            return
        time.sleep(0.005)
    raise TimeoutError(pattern)


@pytest.fixture(scope="module")
def undisturbed(ray_here, model, tmp_path_factory):
    """(run folder, timeline) of a game that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    _, timeline = play(settings(folder, model))
    return folder / "runs" / "game", timeline


def test_two_generator_ranks_play_as_one_process_does_check_71(undisturbed, model, tmp_path):
    one = settings(tmp_path, model).model_copy(update={"generator": game.settings(tmp_path, model).generator})
    alone.play(one)
    here = tmp_path / "runs" / "game"
    for phase in ("forged", "pairs"):
        assert (here / "atm" / "round-0" / f"{phase}.json").read_bytes() == (
            undisturbed[0] / "atm" / "round-0" / f"{phase}.json"
        ).read_bytes()
    ours, theirs = (alone.rows(run, "round-0/graded") for run in (here, undisturbed[0]))
    assert [row.perplexity for row in ours] == pytest.approx([row.perplexity for row in theirs], rel=1e-5)


def test_grading_begins_before_forging_ends_check_73(undisturbed):
    spans = [span for spans in undisturbed[1]._sessions.values() for span in spans]
    forged = [span for span in spans if span.phase == "round-0/forged"]
    graded = [span for span in spans if span.phase == "round-0/graded"]
    assert min(span.start for span in graded) < max(span.end for span in forged)


def test_rank_killed_in_every_phase_leaves_the_same_bytes_check_72(undisturbed, model, tmp_path):
    here = settings(tmp_path, model)
    run = tmp_path / "runs" / "game"
    survivors = []

    def kill_in_each_phase(groups):
        for phase, group, pattern in PHASES:
            wait_for(run, pattern)
            other = groups["generator" if group == "attacker" else "attacker"]
            before = list(other.pids)
            os.kill(groups[group].pids[-1], signal.SIGKILL)
            survivors.append((phase, before, other))

    def watch(groups):
        threading.Thread(target=kill_in_each_phase, args=(groups,), daemon=True).start()

    play(here, watch)
    assert [phase for phase, *_ in survivors] == [phase for phase, *_ in PHASES]
    assert game.journal(run) == game.journal(undisturbed[0])


def test_writers_of_their_own_write_the_same_bytes_and_one_that_dies_is_replaced(
    undisturbed, model, tmp_path, monkeypatch
):
    probes = []
    monkeypatch.setattr(writers, "metrics", lambda phase, **values: probes.append(values))
    own = {"writers": {"workers": 1}}
    here = settings(tmp_path, model)
    here = loader.resolve(here.model_dump() | {name: here.group(name).model_dump() | own for name in ATM_SIDES})
    run, died = tmp_path / "runs" / "game", []

    def kill_both(groups):
        for pattern, side in (("round-0/forged/*.parquet", "attacker"), ("test/clean-g1/*.parquet", "generator")):
            wait_for(run, pattern)
            os.kill(groups[side].writers.pids[0], signal.SIGKILL)
            died.append(groups[side].writers)

    _, timeline = play(here, lambda groups: threading.Thread(target=kill_both, args=(groups,), daemon=True).start())
    assert [group.failures for group in died] == [1, 1]
    assert game.journal(run) == game.journal(undisturbed[0])
    wrote = {span.phase for spans in timeline._sessions.values() for span in spans if span.group.endswith(".writers")}
    assert {"round-0/forged", "round-0/forged-again", "test/clean-g1"} <= wrote and "round-0/graded" not in wrote
    found = [line for line in probes if line["group"] == "generator.writers"]
    assert [line["version"] for line in found] == [0, 1] and all(line["nats"] < 1e-4 for line in found)


def test_driver_killed_while_both_work_and_while_one_learns_leaves_the_same_bytes_check_72(
    undisturbed, model, tmp_path
):
    here = settings(tmp_path, model)
    (tmp_path / "settings.yaml").write_text(loader.dump(here))
    run = tmp_path / "runs" / "game"
    command = [str(Path(sys.executable).parent / "ragdist"), "train", "atm", str(tmp_path / "settings.yaml"), "--json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for _, _, pattern in (PHASES[1], PHASES[4]):  # each costs a start; the ranks are killed in all of them
        with (tmp_path / "log").open("a") as log:
            driver = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            wait_for(run, pattern)
            driver.kill()
            driver.wait(60)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert game.journal(run) == game.journal(undisturbed[0])


def adapted(folder, model, layout, **train):
    """Both sides are adapters, a rank each or one for both."""
    side = {"cpus_per_worker": 1, "train": {"lora": {"rank": 4}} | train}
    few = {"rounds": 1, "samples": 3, "max_new_tokens": 12, "questions_per_microbatch": 2, "layout": layout}
    return game.settings(folder, model, atm=few, cluster={"max_failures": 9}, attacker=side, generator=side)


@pytest.fixture(scope="module")
def with_adapters(ray_here, model, tmp_path_factory):
    """Journal of a game of adapters that nothing happened to, in two groups."""
    folder = tmp_path_factory.mktemp("with-adapters")
    play(adapted(folder, model, "separate"))
    return game.journal(folder / "runs" / "game")


@pytest.mark.parametrize("layout", [pytest.param("separate", marks=pytest.mark.again), "shared_base"])
def test_rank_with_adapters_killed_in_every_phase_leaves_the_same_bytes_in_either_layout(
    with_adapters, model, tmp_path, layout
):
    run, killed = tmp_path / "runs" / "game", []

    def kill_in_each_phase(groups):
        for phase, group, pattern in PHASES:
            wait_for(run, pattern)
            os.kill(groups[group].pids[-1], signal.SIGKILL)
            killed.append(phase)

    def watch(groups):
        threading.Thread(target=kill_in_each_phase, args=(groups,), daemon=True).start()

    play(adapted(tmp_path, model, layout), watch)
    assert killed == [phase for phase, *_ in PHASES]
    assert game.journal(run) == with_adapters
    assert any(name.endswith("generator/model/adapter_model.safetensors") for name in with_adapters)


@pytest.mark.again
def test_driver_killed_between_phases_of_a_shared_base_goes_on_and_merges(with_adapters, model, tmp_path):
    """By the command, which then publishes the generator whole; the rounds keep adapters."""
    (tmp_path / "settings.yaml").write_text(loader.dump(adapted(tmp_path, model, "shared_base")))
    run = tmp_path / "runs" / "game"
    command = [str(Path(sys.executable).parent / "ragdist"), "train", "atm", str(tmp_path / "settings.yaml"), "--json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (tmp_path / "log").open("a") as log:
        driver = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        wait_for(run, "round-0/attacker.json")
        driver.kill()
        driver.wait(60)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert game.journal(run) == with_adapters
    assert (run / "model" / "model.safetensors").exists() and not (run / "model" / "adapter_config.json").exists()
