"""Every step has its line in metrics.jsonl, whenever the driver was killed; ranks are played, the driver is real."""

import json

import pytest

from ragdist.cluster.group import WorkerGroup
from ragdist.cluster.ranks import GroupSpec
from ragdist.lm.checkpoints import ABOUT, CHECKPOINTS
from ragdist.storage import steps
from ragdist.storage.atomic import write_json
from ragdist.systems.atm.live import Board
from ragdist.tracking.run import open_run, steps_told
from tests.cluster import fake

PHASE, TOTAL = "round-0/attacker", 4


class Ranks:
    """One rank that goes on from a checkpoint after so many steps, and tells each step's number as its loss."""

    def __init__(self, plan, step):
        self.plan, self.step = plan, step

    def call(self, order, what, limit_s=0.0):
        if what.endswith("begin"):
            return [(TOTAL, self.step)]
        if ", step " not in what:
            return [None]
        self.step += 1
        return [([{"loss": float(self.step)}], 0.0, 1.0)]


def learn(folder, settings, step):
    """The driver's part, from a checkpoint that was written after `step`, whose metrics it holds."""
    write_json(folder / CHECKPOINTS / f"checkpoint-{step}" / ABOUT, {"ranks": 1, "said": {"loss": float(step)}})
    board = Board(1)
    board.phase(PHASE)
    plan = GroupSpec("attacker", settings, settings.attacker, fake.Fake, folder)
    group = WorkerGroup(plan, "", 0, on_step=board.step)
    group._ranks, group._spans, group._span = Ranks(plan, step), lambda *_: None, lambda *_: None
    group._learn(None, [], None, folder, PHASE)


def lines(run):
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in found if line["phase"] == PHASE]


@pytest.mark.parametrize(("kept", "told"), [(1, 1), (2, 1), (2, 2)])
def test_R25_a_step_that_a_killed_driver_had_taken_has_its_line(tmp_path, kept, told):
    """The checkpoint is of step 2; steps.jsonl has `kept` steps, metrics.jsonl lines of `told`."""
    settings = fake.settings().replaced({"run.folder": str(tmp_path), "run.name": "one"})
    folder = tmp_path / "one" / "rounds" / PHASE
    (folder / CHECKPOINTS / "checkpoint-2").mkdir(parents=True)
    with open_run(settings, "atm") as run:
        for step in range(1, told + 1):
            Board(1).step(PHASE, step, TOTAL, {"loss": float(step)})
        for step in range(1, kept + 1):
            steps.note(folder, {"loss": float(step)})
        assert steps_told(PHASE) == set(range(1, told + 1)) and not steps_told("round-1/attacker")
        learn(folder, settings, 2)
    assert lines(run.folder) == [(step, float(step)) for step in range(1, TOTAL + 1)]
    assert steps.noted(folder) == [{"loss": float(step)} for step in range(1, TOTAL + 1)]
