"""Machines killed, or cut off, at random moments: part of `make test-kills`, and as its `N` and `SEED` say."""

import random
import subprocess

import pytest

from tests import game
from tests.kills.chain import KILLS, SEED
from tests.multinode import drivers
from tests.multinode.drivers import ATTACKER, GENERATOR
from tests.training import losses, weights_hash

LONGEST_S = 60
pytestmark = [pytest.mark.kills, pytest.mark.timeout(0), pytest.mark.xdist_group("machines")]


@pytest.mark.parametrize("job", ["raft", "atm"])
@pytest.mark.parametrize("number", range(KILLS // 20))
def test_job_whose_machine_is_killed_or_cut_off_goes_on_elsewhere_to_the_same_bits(undisturbed, machines, job, number):
    draw = random.Random(f"{SEED} {job} {number}")
    labels, way, after_s = draw.choice([ATTACKER, GENERATOR]), draw.choice(["kill", "cut"]), draw.uniform(0, LONGEST_S)
    settings = getattr(drivers, job)(undisturbed.folder, undisturbed.model, f"{job}-{number}", machines.all[0])
    driver = drivers.start(job, settings, machines.all[0], undisturbed.folder)
    lost = machines.labelled(labels)
    try:
        driver.process.wait(after_s)
    except subprocess.TimeoutExpired:
        getattr(lost, way)()
        machines.add(labels)
    driver.finish()
    if job == "raft":
        assert losses(driver.run) == losses(undisturbed.raft)
        assert weights_hash(driver.run / "model") == weights_hash(undisturbed.raft / "model")
    else:
        assert game.journal(driver.run) == game.journal(undisturbed.atm)
