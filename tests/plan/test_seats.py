"""Who sits where: layouts worked by hand, and every layout of small ones against trying all."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdist.errors import ConfigError
from ragdist.plan import seats
from ragdist.plan.seats import Node, Role


def role(name, ranks, cpus=1.0, gpus=0.0, **labels):
    return Role(name=name, ranks=ranks, cpus=cpus, gpus=gpus, labels=labels)


EIGHT, TWO_KINDS = "8xA100-80GB:64cpu", "8xA100-80GB:64cpu,1x64cpu:256GB"
POOLS = "1x8xH100-80GB:64cpu:pool=attack,2x8xA100-80GB:64cpu:pool=defend"


@pytest.mark.parametrize(
    ("nodes", "roles", "wanted"),
    [
        ("1x" + EIGHT, [role("train", 8, gpus=1)], {"train": {"node 0": 8}}),
        ("1x" + EIGHT, [role("train", 9, gpus=1)], None),
        ("2x" + EIGHT, [role("train", 16, gpus=1)], {"train": {"node 0": 8, "node 1": 8}}),
        ("2x" + EIGHT, [role("train", 5, gpus=2)], {"train": {"node 0": 4, "node 1": 1}}),
        ("1x" + EIGHT, [role("train", 8, cpus=16, gpus=1)], None),  # 64 cores seat four
        ("1x" + EIGHT, [role("train", 32, gpus=0.25)], {"train": {"node 0": 32}}),
        ("1x" + EIGHT, [role("train", 17, gpus=0.4)], None),  # two on a card, not two and a half
        ("1x8xA100-80GB", [role("train", 8, cpus=1000, gpus=1)], {"train": {"node 0": 8}}),  # cores are not known
        (TWO_KINDS, [role("train", 100, cpus=1)], {"train": {"node 0": 64, "node 1": 36}}),
        ("1x" + EIGHT, [role("a", 4, gpus=1), role("g", 4, gpus=1)], {"a": {"node 0": 4}, "g": {"node 0": 4}}),
        ("1x" + EIGHT, [role("a", 4, gpus=1), role("g", 5, gpus=1)], None),
        ("1x2cpu", [role("a", 1), role("g", 1)], {"a": {"node 0": 1}, "g": {"node 0": 1}}),
        (
            POOLS,
            [role("a", 8, gpus=1, pool="attack"), role("g", 16, gpus=1, pool="defend")],
            {"a": {"node 0": 8}, "g": {"node 1": 8, "node 2": 8}},
        ),
        (POOLS, [role("a", 9, gpus=1, pool="attack"), role("g", 1, gpus=1, pool="defend")], None),
        # The one without labels gives way: first come, first served would fail here.
        (
            POOLS,
            [role("a", 16, gpus=1), role("g", 8, gpus=1, pool="attack")],
            {"a": {"node 1": 8, "node 2": 8}, "g": {"node 0": 8}},
        ),
        (
            "1x1xA100-80GB:8cpu",
            [role("a", 1, gpus=0.5), role("g", 1, gpus=0.5)],
            {"a": {"node 0": 1}, "g": {"node 0": 1}},
        ),
    ],
)
def test_layouts_worked_by_hand(nodes, roles, wanted):
    assert seats.place(roles, seats.parse(nodes)) == wanted


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=3),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.integers(1, 2), st.integers(0, 2)),
    st.tuples(st.integers(1, 2), st.integers(0, 2)),
)
def test_a_layout_is_found_whenever_there_is_one(machines, ranks, first, second):
    """Against trying all ways to put whole ranks on whole cards."""
    nodes = [Node(name=f"{number}", cpus=float(cpus), gpus=gpus) for number, (cpus, gpus) in enumerate(machines)]
    roles = [role("a", ranks[0], *map(float, first)), role("b", ranks[1], *map(float, second))]

    def fits(here):
        return all(
            a * first[0] + b * second[0] <= cpus and a * first[1] + b * second[1] <= gpus
            for (a, b), (cpus, gpus) in zip(here, machines, strict=True)
        )

    ways = product(product(range(ranks[0] + 1), range(ranks[1] + 1)), repeat=len(nodes))
    possible = any(fits(way) and tuple(map(sum, zip(*way, strict=True))) == ranks for way in ways)
    found = seats.place(roles, nodes)
    assert (found is not None) == possible
    if found is not None:
        way = [(found["a"].get(node.name, 0), found["b"].get(node.name, 0)) for node in nodes]
        assert fits(way) and tuple(map(sum, zip(*way, strict=True))) == ranks


def test_machines_are_read_as_they_are_written():
    found = seats.parse("2x8xA100-80GB:128cpu:1024GB, 3x64cpu:256GB:pool=attack:zone=b,1x4xH100-96GiB")
    assert [node.name for node in found] == [f"node {number}" for number in range(6)]
    assert found[1] == Node(name="node 1", gpus=8, gpu_gib=80, card="A100", cpus=128, ram_gib=1024)
    assert found[4] == Node(name="node 4", cpus=64, ram_gib=256, labels={"pool": "attack", "zone": "b"})
    assert found[5] == Node(name="node 5", gpus=4, gpu_gib=96, card="H100")
    assert seats.parse("8xA100-80GB")[0].gpus == 8 and len(seats.parse("8xA100-80GB")) == 1


@pytest.mark.parametrize("spec", ["", "A100", "8A100-80GB", "2x8xA100", "1x4cpu:much", "1x4cpu:=x", "1x4cpu,,1x4cpu"])
def test_machines_that_cannot_be_read_are_an_error(spec):
    with pytest.raises(ConfigError, match="--nodes has"):
        seats.parse(spec)


@pytest.mark.parametrize(
    "spec",
    [
        *("9999999999x8xA100-80GB", "999999x8xA100-80GB", "4000x4cpu,4000x4cpu", "1x0cpu", "0x4cpu", "1x0xA100-80GB"),
        *(
            "1x8xA100-0GB",
            "1x4cpu:0GB",
            f"1x{'9' * 5000}cpu",
            "1x8xA100-80GB:0cpu",
            f"1x4cpu:{'9' * 400}GB",
            "1x\u0966cpu",
        ),
    ],
)
def test_R18_numbers_of_machines_that_nobody_has_are_refused(spec):
    with pytest.raises(ConfigError, match="--nodes has") as error:
        seats.parse(spec)
    assert len(str(error.value)) < 300


def test_this_machine_is_as_psutil_sees_it():
    import psutil
    import torch

    found = seats.this_machine()
    assert found.cpus == psutil.cpu_count()
    assert 0 < found.ram_gib <= psutil.virtual_memory().total / 2**30 + 1e-6
    assert found.gpus in (None, torch.cuda.device_count())
    assert found.swap_gib * 2**30 == psutil.swap_memory().total


def test_cards_are_those_that_nvidia_smi_names(tmp_path, monkeypatch):
    """A program in its place says what it says on real machines."""
    said = "NVIDIA H100 80GB HBM3, 81559, 9.0\nTesla T4, 15360, 7.5\n"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{said}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = seats.this_machine()
    assert (found.gpus, found.card, found.gpu_gib, found.bfloat16) == (2, "NVIDIA H100 80GB HBM3", 15.0, False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = seats.this_machine()
    assert (found.gpus, found.bfloat16) == (1, True) and found.gpu_gib == pytest.approx(79.6, abs=0.1)


def test_more_than_two_groups_are_placed_one_after_another_in_an_order_that_fits():
    """Writers with two cards each fit only where learners of one card each have not taken one of both machines."""
    nodes = seats.parse("2x4xA100-80GB:64cpu")
    roles = [role("learner", 3, gpus=1), role("other", 1, gpus=1), role("writer", 2, gpus=2)]
    placed = seats.place(roles, nodes)
    assert {name: sum(where.values()) for name, where in placed.items()} == {"learner": 3, "other": 1, "writer": 2}
    for node in nodes:
        assert sum(placed[one.name].get(node.name, 0) * one.gpus for one in roles) == 4
    more = [*roles[:2], role("writer", 3, gpus=2)]
    assert seats.place(more, nodes) is None and seats.short(more, nodes)
