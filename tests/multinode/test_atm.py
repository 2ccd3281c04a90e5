"""ATM with attacker and generator on machines of their own, one of which dies or is cut off in mid-round."""

from pathlib import Path

import pytest

from tests import game
from tests.multinode import drivers
from tests.multinode.drivers import ATTACKER, GENERATOR

pytestmark = [pytest.mark.multinode, pytest.mark.timeout(500)]


def lines(run: Path, phase: str) -> int:
    """Steps that a group has learned in this phase."""
    path = run / "atm" / phase / "steps.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_each_group_is_where_its_label_is(undisturbed):
    assert undisturbed.ranks == (1, 1)
    assert (undisturbed.atm / "model" / "model.safetensors").exists()


@pytest.mark.again  # the next one is cut off, which is the harder way to go
def test_attackers_machine_killed_while_it_forges_is_replaced_check_72(undisturbed, machines):
    """Forgeries that went with it are read from their files, the generator stays, and the bytes are the same."""
    head, folder = machines.all[0], undisturbed.folder
    attacker, generator = machines.labelled(ATTACKER), machines.labelled(GENERATOR)
    driver = drivers.start("atm", drivers.atm(folder, undisturbed.model, "atm-killed", head), head, folder)
    forged = driver.run / "atm" / "round-0" / "forged"
    driver.wait_until(lambda: len(list(forged.glob("*.parquet"))) >= 2, "the second microbatch")
    theirs = generator.pids("ray::Rank")
    attacker.kill()
    assert len(list(forged.glob("*.parquet"))) < 20
    machines.add(ATTACKER)
    driver.wait_until(lambda: lines(driver.run, "round-0/attacker") >= 1, "the attacker learns")
    assert "building the attacker again" in driver.log.read_text()
    assert generator.pids("ray::Rank") == theirs
    driver.finish()
    assert game.journal(driver.run) == game.journal(undisturbed.atm)


def test_generators_machine_cut_off_while_it_learns_comes_back_check_72(undisturbed, machines):
    """`start-worker.sh` joins again by itself; the attacker stays, and the bytes are the same."""
    head, folder = machines.all[0], undisturbed.folder
    attacker, generator = machines.labelled(ATTACKER), machines.labelled(GENERATOR)
    driver = drivers.start("atm", drivers.atm(folder, undisturbed.model, "atm-cut", head), head, folder)
    driver.wait_until(lambda: lines(driver.run, "round-0/generator") >= 2, "the generator's second step")
    theirs, starts, given_up = attacker.pids("ray::Rank"), generator.starts(), machines.given_up()
    generator.cut()
    driver.wait_until(lambda: "building the generator again" in driver.log.read_text(), "the cut is noticed", 60)
    assert lines(driver.run, "round-0/generator") < 10
    driver.wait_until(lambda: machines.given_up() > given_up, "the machine is given up", 60)
    generator.mend()
    driver.wait_until(lambda: generator.starts() > starts, "it joins again")
    assert attacker.pids("ray::Rank") == theirs
    driver.finish()
    assert game.journal(driver.run) == game.journal(undisturbed.atm)
