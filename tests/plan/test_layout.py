"""Whole plans: what is refused, what is a close call, what passes, and what is said about it."""

import json
import subprocess
import sys

import pytest

from ragdist import cli, planning, runs
from ragdist.config import DUET_ROLES
from ragdist.errors import ConfigError
from ragdist.plan import layout, seats, tables
from tests.plan import shapes

EIGHT = "1x8xA100-80GB:64cpu:1024GB"
GPUS = {"workers": 8, "gpus_per_worker": 1}


def planned(tmp_path, config, job="raft", nodes=EIGHT, **more):
    folder = shapes.folder(tmp_path / "model", config)
    return layout.make(shapes.settings(folder, tmp_path / "runs", **more), job, seats.parse(nodes))


def refused(plan):
    with pytest.raises(ConfigError) as error:
        layout.check(plan)
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "train", "wrong"),
    [
        (shapes.LLAMA_2_7B, {"zero_stage": 2}, ""),  # 2N + 18N/8 = 26.7 GiB
        (shapes.LLAMA_2_7B, {"zero_stage": 1}, ""),  # 8N + 12N/8 = 59.6 GiB
        (shapes.LLAMA_3_70B, {"zero_stage": 2}, "at the very least 279.3 GiB of a card"),  # 2N + 18N/8
        (shapes.LLAMA_3_70B, {"zero_stage": 3}, "at the very least 147.8 GiB of a card"),  # 18N/8
        (shapes.LLAMA_3_70B, {"zero_stage": 3, "offload": "optimizer"}, "at the very least 1051.3 GiB of mem"),  # 16N
        (shapes.LLAMA_3_70B, {"zero_stage": 3, "lora": {"rank": 16}}, "asked whole, and its weights take 131.4 GiB"),
        (shapes.LLAMA_2_7B, {"zero_stage": 0}, "no fp32 master weights"),
    ],
)
def test_eight_cards_of_80_gib_take_what_they_can(tmp_path, config, train, wrong):
    plan = planned(tmp_path, config, cluster=GPUS, train={"gradient_checkpointing": True} | train)
    if wrong:
        assert wrong in refused(plan)
    else:
        layout.check(plan)


def test_what_surely_does_not_fit_is_one_sentence_with_numbers_and_knobs(tmp_path):
    said = refused(planned(tmp_path, shapes.LLAMA_3_70B, cluster=GPUS, train={"zero_stage": 1, "microbatch": 2}))
    assert said.startswith("1 rank of train takes at the very least 624.2 GiB of a card of node 0, which has 80.0;")
    for knob in ("train.zero_stage=3", "train.offload=optimizer", "train.lora.rank=16", "train.microbatch (now 2)"):
        assert knob in said
    assert "\n" not in said


def test_bounds_alone_refuse_nothing(tmp_path):
    """Rows as long as model.max_tokens would burst the card; whether there are any is not known."""
    more = {"model": {"max_tokens": 4096}, "train": {"zero_stage": 2, "microbatch": 16, "examples_per_step": 128}}
    plan = planned(tmp_path, shapes.LLAMA_2_7B, cluster=GPUS, **more)
    (warning,) = layout.check(plan)
    assert "up to" in warning and "train.gradient_checkpointing=true makes that" in warning


def test_seats_that_are_not_there_are_refused(tmp_path):
    said = refused(planned(tmp_path, shapes.SMOLLM2_135M, cluster={"workers": 16, "gpus_per_worker": 1}))
    assert "cluster.workers=16 with 1 CPUs and 1 GPUs each (room for 8)" in said
    assert "8 A100 of 80 GiB, 64 CPUs, 1024 GiB" in said


def test_sides_of_atm_sit_by_their_labels(tmp_path):
    pools = "1x8xH100-80GB:64cpu:pool=attack,1x8xH100-80GB:64cpu:pool=defend"
    sides = {
        name: {"workers": 2, "gpus_per_worker": 1, "labels": {"pool": pool}}
        for name, pool in (("attacker", "attack"), ("generator", "defend"))
    }
    plan = planned(tmp_path, shapes.SMOLLM2_135M, "atm", pools, **sides)
    assert plan.turns == [{"attacker": {"node 0": 2}, "generator": {"node 1": 2}}]
    said = refused(planned(tmp_path, shapes.SMOLLM2_135M, "atm", EIGHT, **sides))
    assert "attacker.workers=2" in said and "labelled pool=attack" in said and "generator.workers" in said


def test_zero_3_counts_a_replica_where_a_side_writes(tmp_path):
    train = {"zero_stage": 3, "microbatch": 1, "gradient_checkpointing": True}
    side = {"workers": 4, "gpus_per_worker": 1, "train": train}
    plan = planned(tmp_path, shapes.LLAMA_3_70B, "atm", attacker=side, generator=side)
    for group in plan.groups:
        found = {part.name: part.bytes for part in group.parts()["writing"]}
        assert found["gathered replica"] == 2 * shapes.WEIGHTS["70b"]
    wide = "8x8xH100-80GB:64cpu:2048GB"  # states alone would fit on so many
    many = {"workers": 32, "gpus_per_worker": 1, "train": {**train, "examples_per_step": 32}}
    assert "1 rank of attacker takes at the very least 168.4 GiB of a card" in refused(
        planned(tmp_path, shapes.LLAMA_3_70B, "atm", wide, attacker=many, generator=many)
    )


def test_fractions_of_a_card_share_its_memory(tmp_path):
    side = {"gpus_per_worker": 0.5, "train": {"zero_stage": 1, "microbatch": 1, "gradient_checkpointing": True}}
    small = "1x1xL4-24GB:8cpu:64GB"
    config = shapes.SMOLLM2_135M | {"num_hidden_layers": 300}  # 1.1 billion weights: 18 bytes each fit once, not twice
    assert "1 rank of attacker and 1 rank of generator take at" in refused(
        planned(tmp_path, config, "atm", small, attacker=side, generator=side)
    )


def test_lessons_of_duet_share_a_turn_where_there_is_room(tmp_path):
    both = planned(tmp_path, shapes.SMOLLM2_135M, "duet", cluster={"workers": 4, "gpus_per_worker": 1})
    assert [sorted(turn) for turn in both.turns] == [["discoverer", "reciter"], ["scorer"], ["summarizer"]]
    each = planned(tmp_path, shapes.SMOLLM2_135M, "duet", cluster=GPUS)
    assert [sorted(turn) for turn in each.turns] == [["reciter"], ["discoverer"], ["scorer"], ["summarizer"]]


def test_object_store_holds_what_is_in_flight(tmp_path):
    atm = {"questions_per_microbatch": 4, "samples": 5, "max_new_tokens": 100}
    generator = {"workers": 3, "train": {"examples_per_step": 12, "microbatch": 1}}
    sides = {"attacker": {"workers": 2}, "generator": generator}
    plan = planned(tmp_path, shapes.SMOLLM2_135M, "atm", atm=atm, cluster={"in_flight": 3}, **sides)
    assert plan.store == 4 * (3 * 5) * (4 * 5) * (4 * 100 + 400)


def test_answerers_are_counted_like_any_group(tmp_path):
    """They come before and after those that learn, hold weights and a cache, and no optimizer."""
    ranks = {"workers": 3, "gpus_per_worker": 1}
    plan = planned(tmp_path, shapes.LLAMA_2_7B, cluster={**GPUS, "workers": 4}, evaluation={"answerers": ranks})
    learns, answers = plan.groups
    assert [sorted(turn) for turn in plan.turns] == [["train"], ["answerers"]]
    assert (answers.role.ranks, answers.role.gpus) == (3, 1)
    assert [part.name for part in answers.parts()["states"]] == ["weights"]
    assert "learning" not in answers.parts() and answers.peak("gpu") < learns.peak("gpu")
    crowded = planned(tmp_path, shapes.LLAMA_2_7B, cluster=GPUS, evaluation={"answerers": {**ranks, "workers": 99}})
    (problem,) = [one for one in crowded.problems if one.sure]
    assert "evaluation.answerers.workers=99" in problem.text


def test_writers_of_a_side_stand_beside_those_that_learn(tmp_path):
    """Each holds all weights and a cache, and no optimizer."""
    side = {"workers": 2, "gpus_per_worker": 1, "writers": {"workers": 3, "gpus_per_worker": 1}}
    plan = planned(tmp_path, shapes.LLAMA_2_7B, "atm", attacker=side, generator={"workers": 1, "gpus_per_worker": 1})
    assert plan.turns == [{"attacker": {"node 0": 2}, "attacker.writers": {"node 0": 3}, "generator": {"node 0": 1}}]
    learns, writes, _ = plan.groups
    assert [part.name for part in writes.parts()["states"]] == ["weights"] and "writing" in writes.parts()
    assert writes.peak("gpu") < learns.peak("gpu")
    crowded = planned(
        tmp_path, shapes.LLAMA_2_7B, "atm", attacker={**side, "writers": {**side["writers"], "workers": 9}}
    )
    assert "attacker.writers.workers=9" in refused(crowded)


def test_writers_of_70b_share_its_weights_over_the_cards_of_one_engine(tmp_path):
    side = {"workers": 8, "gpus_per_worker": 1, "train": {"zero_stage": 3, "microbatch": 1, "examples_per_step": 8}}
    own = {"workers": 1, "gpus_per_worker": 4}
    more = {
        "attacker": {**side, "engine": "vllm", "writers": own},
        "generator": side,
        "engines": {"tensor_parallel": 4},
    }
    plan = planned(tmp_path, shapes.LLAMA_3_70B, "atm", "8x8xH100-80GB:64cpu:2048GB", **more)
    (writes,) = [group for group in plan.groups if group.role.name == "attacker.writers"]
    assert writes.least("gpu") == 2 * shapes.WEIGHTS["70b"] // 4
    assert not [problem for problem in plan.problems if "attacker.writers" in problem.text]


def test_sides_share_what_writers_that_ask_leave_of_this_machine(tmp_path):
    node = seats.Node(name="this machine", cpus=4.0, ram_gib=64.0, here=True)
    own = {"attacker": {"writers": {"workers": 1, "cpus_per_worker": 3}}, "generator": {"workers": 1}}
    folder = shapes.folder(tmp_path / "model", shapes.SMOLLM2_135M)
    plan = layout.make(shapes.settings(folder, tmp_path / "runs", **own), "atm", [node])
    assert [group.role.cpus for group in plan.groups] == [0.5, 3, 0.5]
    assert not [problem for problem in plan.problems if problem.sure]


def test_a_shared_base_is_counted_once_with_both_adapters(tmp_path):
    side = {"workers": 2, "gpus_per_worker": 1, "train": {"zero_stage": 1, "lora": {"rank": 16}}}
    apart = planned(tmp_path, shapes.LLAMA_2_7B, "atm", attacker=side, generator=side)
    shared = planned(tmp_path, shapes.LLAMA_2_7B, "atm", attacker=side, generator=side, atm={"layout": "shared_base"})
    (group,) = shared.groups
    one, two = ({part.name: part.bytes for part in plan.groups[0].parts()["states"]} for plan in (apart, shared))
    assert two["optimizer"] == 2 * one["optimizer"]
    assert two["weights"] - one["weights"] == 2 * (apart.groups[0].held.trained)  # bfloat16
    assert group.peak("gpu") < sum(group.peak("gpu") for group in apart.groups)
    assert shared.turns == [{"attacker": {"node 0": 2}}]


def test_what_is_not_known_stands_in_nobodys_way(tmp_path, monkeypatch):
    nowhere = shapes.settings(tmp_path / "no" / "model", tmp_path)
    assert planning.plan(nowhere).groups[0].held is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    big = shapes.settings(shapes.folder(tmp_path / "model", shapes.LLAMA_3_70B), tmp_path, cluster={"workers": 8})
    plan = planning.plan(big)
    assert plan.nodes is None and layout.check(plan) == []


def test_jobs_that_surely_do_not_fit_stop_before_a_model_is_loaded(tmp_path):
    """The folder has no weights: whoever loaded it would say so instead."""
    config = shapes.LLAMA_3_70B | {"num_hidden_layers": 8000}
    model = shapes.folder(tmp_path / "model", config)
    settings = shapes.settings(model, tmp_path / "runs")
    for job in (runs.raft, runs.atm):
        with pytest.raises(ConfigError, match="at the very least"):
            job(settings)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["raft-demo.yaml", "atm-tiny.yaml"])
def test_demos_pass(name):
    from ragdist.config.loader import load

    settings = load([str(runs.settings_file(name))])
    assert layout.check(planning.plan(settings, "atm" if "atm" in name else "raft")) == []


def ragdist(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from ragdist.cli import main; main()", "plan", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_prints_tables_and_json_and_exits_2(tmp_path):
    seven, seventy = (
        shapes.folder(tmp_path / name, config)
        for name, config in (("7b", shapes.LLAMA_2_7B), ("70b", shapes.LLAMA_3_70B))
    )
    common = ["model.dtype=bfloat16", f"run.folder={tmp_path}", "cluster.workers=8", "cluster.gpus_per_worker=1"]
    common += ["model.max_tokens=1024", "train.microbatch=1", "--nodes", EIGHT]
    common += [f"duet.{role}.microbatch=1" for role in DUET_ROLES]
    done = ragdist(f"model.source={seven}", *common)
    assert done.returncode == 0 and "6,738,415,616 weights" in done.stdout and "8 on node 0" in done.stdout
    found = json.loads(ragdist("raft", f"model.source={seven}", *common, "--json").stdout)
    assert found["model"]["weights"] == 6_738_415_616 and found["seats"] == [{"train": {"node 0": 8}}]
    done = ragdist(f"model.source={seventy}", *common, "--json")
    assert done.returncode == 2 and any(problem["sure"] for problem in json.loads(done.stdout)["problems"])
    assert done.stderr.count("\n") == 1 and "train.zero_stage=3" in done.stderr
    assert ragdist("--nodes", "many").returncode == 2


def test_help_fits_a_screen_and_nothing_heavy_is_loaded(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 24
    code = """
import sys
from ragdist import cli
cli.app(["plan", *sys.argv[1:]], standalone_mode=False)
heavy = {"torch", "ray", "transformers", "datasets", "deepspeed", "trl", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    arguments = [
        f"model.source={shapes.folder(tmp_path, shapes.SMOLLM2_135M)}",
        f"run.folder={tmp_path}",
        "model.max_tokens=1024",
    ]
    done = subprocess.run([sys.executable, "-c", code, "atm", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_part_that_is_shown_is_in_the_json(tmp_path):
    found = tables.as_json(planned(tmp_path, shapes.LLAMA_2_7B, cluster=GPUS))
    (group,) = found["groups"]
    by_place = dict.fromkeys(("host", "gpu"), 0)
    for part in group["parts"]["states"]:
        by_place[part["place"]] += part["bytes"]
    assert by_place["gpu"] == pytest.approx((2 + 18 / 8) * shapes.WEIGHTS["7b"], rel=1e-6)
    assert group["peak_bytes_per_rank"]["gpu"] > by_place["gpu"]
