"""RAFT over machines that die and that are cut off: the model is that of a run to which nothing happened."""

from pathlib import Path

import psutil
import pytest

from tests.multinode import drivers
from tests.multinode.drivers import ATTACKER
from tests.multinode.machines import holder
from tests.training import losses, noted, weights_hash

pytestmark = [pytest.mark.multinode, pytest.mark.timeout(500)]


def same(run: Path, other: Path) -> None:
    """Both runs took all steps and ended with the same bits; the first was begun twice."""
    assert losses(run) == losses(other) and len(losses(run)) == 60
    assert weights_hash(run / "model") == weights_hash(other / "model")
    assert len(noted(run, "workers_started")) == 2
    assert 5 <= noted(run, "train_start")[1]["step"] < 60


def test_each_machine_has_a_worker(undisturbed):
    assert undisturbed.workers == (1, 1)
    assert len(losses(undisturbed.raft)) == 60


@pytest.mark.again  # the next one is cut off, which is the harder way to go
def test_machine_killed_in_mid_epoch_is_replaced_and_the_model_has_the_same_bits_check_72(undisturbed, machines):
    head, folder = machines.all[0], undisturbed.folder
    driver = drivers.start("raft", drivers.raft(folder, undisturbed.model, "raft-killed", head), head, folder)
    driver.wait_until(lambda: drivers.steps(driver.run) >= 8, "step 8")
    machines.labelled(ATTACKER).kill()
    machines.add(ATTACKER)
    driver.finish()
    same(driver.run, undisturbed.raft)


def test_machine_of_rank_0_cut_off_in_mid_epoch_leaves_the_folder_to_others_check_72(undisturbed, machines):
    """It is taken for dead, lives on for a while and holds the run's folder; it stays away."""
    head, folder = machines.all[0], undisturbed.folder
    driver = drivers.start("raft", drivers.raft(folder, undisturbed.model, "raft-cut", head), head, folder)
    driver.wait_until(lambda: drivers.steps(driver.run) >= 8, "step 8")
    first = holder(driver.run / ".training")
    (lost,) = (machine for machine in machines.all if first in machine.pids())
    lost.cut()
    machines.add(lost.labels)
    driver.wait_until(lambda: noted(driver.run, "workers_lost"), "the lost worker is noticed")
    assert psutil.pid_exists(first) and holder(driver.run / ".training") == first
    driver.finish()
    assert not psutil.pid_exists(first)
    same(driver.run, undisturbed.raft)
