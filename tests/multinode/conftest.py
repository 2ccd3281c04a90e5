"""Two clusters, one after the other: of two machines, where nothing happens, and of three, where much does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny
from tests.multinode import drivers
from tests.multinode.drivers import ATTACKER, GENERATOR
from tests.multinode.machines import Machine, Machines, impossible, wait_until


@dataclass(frozen=True)
class Undisturbed:
    """What jobs on two machines left, and where their processes were."""

    folder: Path
    model: Path
    raft: Path
    atm: Path
    """Run folders."""
    workers: tuple[int, int]
    """RAFT's training processes on the head and on the other machine."""
    ranks: tuple[int, int]
    """ATM's on the head, which is labelled for the generator, and on the other, which is for the attacker."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    """RAFT and ATM on two machines, to which nothing happens."""
    if why := impossible():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("shared")
    model = tiny.model_folder(folder)
    with Machines() as machines:
        head = machines.head(cpus=1, labels=GENERATOR)
        pair = (head, machines.add(ATTACKER))
        raft = drivers.start("raft", drivers.raft(folder, model, "raft", head), head, folder)
        raft.wait_until(lambda: drivers.steps(raft.run) >= 1, "the first step")
        workers = _count(pair, "RayTrainWorker")
        raft.finish()
        atm = drivers.start("atm", drivers.atm(folder, model, "atm", head), head, folder)
        atm.wait_until(lambda: any(atm.run.glob("atm/round-0/graded/*.parquet")), "the first grade")
        ranks = _count(pair, "ray::Rank")
        atm.finish()
    return Undisturbed(folder, model, raft.run, atm.run, workers, ranks)


def _count(pair: tuple[Machine, Machine], named: str) -> tuple[int, int]:
    first, second = (len(machine.pids(named)) for machine in pair)
    return first, second


@pytest.fixture(scope="session")
def _three(undisturbed):
    """A head that does no work, and two machines that do; after `undisturbed`, whose machines are gone by then."""
    with Machines() as machines:
        machines.head(cpus=0)
        machines.add(ATTACKER)
        machines.add(GENERATOR)
        yield machines


@pytest.fixture
def machines(_three: Machines) -> Machines:
    """The three, whatever an earlier test did to them."""
    for labels in (ATTACKER, GENERATOR):
        _three.labelled(labels)
    for machine in _three.all:
        if machine.lost:
            machine.kill()
    head = _three.all[0]
    wait_until(lambda: not head.pids("jobs/"), "the last driver is gone", 30)
    return _three
