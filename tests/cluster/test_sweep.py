"""Trials under Ray Tune: found again, tried again, stopped early; and nothing of them is left on the cluster."""

import os

import pytest
import ray
from ray.util.placement_group import placement_group_table

from ragdist.cluster import place, sweep
from ragdist.errors import Stopped
from ragdist.sweeps.trials import label
from tests.cluster import tried

pytestmark = pytest.mark.sweeps


def states(found):
    return {label(trial.values): trial.state for trial in found}


def taken():
    """Placement groups that hold or want seats."""
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def test_a_grid_is_run_once_and_a_wider_one_runs_what_is_new(ray_here, tmp_path):
    first = sweep.run(tried.plan(tmp_path, over={"atm.kl_weight": [0.25, 0.5]}, seeds=2))
    assert set(states(first).values()) == {"finished"} and len(first) == 4
    assert [trial.scores["clean"]["em"][0] for trial in first] == [0.75, 0.75, 0.5, 0.5]
    assert len(tried.seen(tmp_path)) == 4
    wider = sweep.run(tried.plan(tmp_path, over={"atm.kl_weight": [0.25, 0.5, 1]}, seeds=2))
    assert [trial for trial in wider if trial.values["atm.kl_weight"] < 1] == first
    assert tried.seen(tmp_path)[4:] == [(1.0, 1.0), (1.0, 1.0)]


def test_a_failed_trial_is_tried_again_then_reported_and_the_others_go_on(ray_here, tmp_path):
    """questions.train_rows says what goes wrong: 1 bad input, 2 always an error, 3 its process dies holding all seats,
    4 it leaves a placement group; 0 nothing, which comes last and needs the seats."""
    over = {"questions.train_rows": [1, 2, 3, 4, 0], "atm.kl_weight": [0.5]}
    found = {
        trial.values["questions.train_rows"]: trial
        for trial in sweep.run(tried.plan(tmp_path, over=over, max_failures=1))
    }
    assert {rows: trial.state for rows, trial in found.items()} == {
        **{1: "failed", 2: "failed"},
        **{3: "finished", 4: "finished", 0: "finished"},
    }
    assert found[1].error == "no rows"
    assert "gone wrong 2 times" in found[2].error
    assert len(tried.seen(tmp_path)) == 1 + 2 + 2 + 1 + 1
    assert taken() == []


def test_a_placement_group_is_given_back_only_when_its_creator_is_dead(ray_here):
    holder = ray.remote(tried.Holder).options(num_cpus=0).remote()
    ray.get(holder.hold.remote())
    assert place.tidy() == [] and len(taken()) == 1
    ray.kill(holder)
    place.await_leaving()
    assert taken() == []


def test_asha_stops_what_is_worse_at_a_rung_and_holds_no_seat_of_it(ray_here, tmp_path):
    """Two of halving 2 and rungs at a quarter, a half and all: the best comes first, so each worse one ends at once."""
    how = {"scheduler": "asha", "objective": "clean", "halving": 2, "rungs": 3}
    plan = tried.plan(tmp_path, over={"atm.kl_weight": [0.1, 0.5, 0.9]}, **how)
    found = sweep.run(plan)
    assert states(found) == {"kl_weight=0.1": "finished", "kl_weight=0.5": "stopped", "kl_weight=0.9": "stopped"}
    assert [share for weight, share in tried.seen(tmp_path) if weight == 0.1] == [0.25, 0.5, 1.0]
    assert [share for weight, share in tried.seen(tmp_path) if weight > 0.1] == [0.25, 0.25]
    assert found[1].scores["clean"]["em"][0] == pytest.approx(0.25 * 0.5)
    assert taken() == []
    again = sweep.run(plan)
    assert states(again) == states(found) and len(tried.seen(tmp_path)) == 5


@pytest.mark.parametrize("objective", ["clean", "both"])
def test_optuna_goes_on_with_the_trials_that_are_there(ray_here, tmp_path, objective):
    how = {"search": "optuna", "objective": objective}
    over = {"atm.kl_weight": {"low": 0.0, "high": 1.0}, "atm.reduction": ["mean", "sum"]}
    first = sweep.run(tried.plan(tmp_path, over=over, samples=2, **how))
    assert len(first) == 2 and all(0 <= trial.values["atm.kl_weight"] <= 1 for trial in first)
    more = sweep.run(tried.plan(tmp_path, over=over, samples=4, **how))
    assert len(more) == 4 and {trial.name for trial in first} < {trial.name for trial in more}
    assert len(tried.seen(tmp_path)) == 4


def test_a_stop_ends_trials_under_way_and_the_same_call_goes_on(ray_here, tmp_path):
    (tmp_path / "driver").write_text(str(os.getpid()))
    plan = tried.plan(tmp_path, over={"questions.train_rows": [0, 5], "atm.kl_weight": [0.5]})
    with pytest.raises(Stopped, match="the same command goes on"):
        sweep.run(plan)
    assert taken() == []
    calls = len(tried.seen(tmp_path))
    assert {trial.state for trial in sweep.run(plan)} == {"finished"}
    assert len(tried.seen(tmp_path)) == calls + 1


def test_two_trials_at_once_share_the_processors(ray_here, tmp_path):
    settings = tried.plan(tmp_path, over={"atm.kl_weight": [0.1, 0.2]}, concurrent=2).settings
    shared = sweep.shared_out(settings)
    total = ray.cluster_resources()["CPU"]
    assert shared.cluster.cpus_per_worker == pytest.approx(total / 2)
    assert shared.attacker.cpus_per_worker == shared.generator.cpus_per_worker == pytest.approx(total / 4)
    asked = settings.model_copy(update={"cluster": settings.cluster.model_copy(update={"cpus_per_worker": 0.5})})
    assert sweep.shared_out(asked).cluster.cpus_per_worker == 0.5
