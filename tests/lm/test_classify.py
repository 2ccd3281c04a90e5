import json
import math

import pytest
import torch

from ragdist.errors import ConfigError, DataError, Stopped
from ragdist.lm.checkpoints import MODEL
from ragdist.lm.classify import Judged, lay_out
from ragdist.lm.score import ModelScorer, load_classifier, load_scorer
from ragdist.lm.tune import tune
from ragdist.records import as_row
from tests import tiny
from tests.training import StopAt, losses, noted, pairs, rated, render, settings, weights_hash, write_rated


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def judgements(tmp_path_factory):
    return write_rated(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def classify(judgements, folder, made, **more):
    folder.mkdir(exist_ok=True)
    return tune(judgements, folder, made, kind="scorer", name="alignment", **more)


def test_first_loss_is_the_hand_computed_weighted_mean_check_60(model, judgements, tmp_path):
    made = settings(model, epochs=0.5)
    classify(judgements, tmp_path, made)
    untuned = load_classifier(made.model, seed=made.seed)
    total = weights = 0.0
    for row in (rated(24)[number] for number in lay_out(judgements, made).order[:8]):
        with torch.inference_mode():
            hidden = untuned.model(torch.tensor([row.tokens])).last_hidden_state[0, -1]
            confidence = 1 / (1 + math.exp(-(hidden @ untuned.score.weight[0]).item()))
        total -= row.weight * math.log(confidence if row.right else 1 - confidence)
        weights += row.weight
    assert losses(tmp_path)[0] == pytest.approx(total / weights, abs=1e-5)


def test_loss_and_gradient_ignore_how_a_step_is_cut_check_24(model, judgements, tmp_path):
    found = []
    for microbatch in (1, 2, 8):
        run = tmp_path / str(microbatch)
        classify(judgements, run, settings(model, epochs=0.5, microbatch=microbatch))
        found.append(noted(run)[0])
    for other in found[1:]:
        assert other["loss"] == pytest.approx(found[0]["loss"], abs=1e-6)
        assert other["grad_norm"] == pytest.approx(found[0]["grad_norm"], rel=1e-5)


def test_rows_come_in_the_order_of_the_plan_with_the_weight_of_their_step(model, judgements):
    plan = lay_out(judgements, settings(model))
    shown = list(Judged(plan))
    every = rated(24)
    assert [tuple(row["input_ids"]) for row in shown] == [every[number].tokens for number in plan.order]
    for start in range(0, 48, 8):
        total = sum(every[number].weight for number in plan.order[start : start + 8])
        assert [row["total_weight"] for row in shown[start : start + 8]] == [total] * 8


def test_last_step_that_is_not_full_is_divided_by_the_weight_of_its_rows(model, tmp_path):
    """T2: a blank row weighs nothing, in the loss and in its total."""
    made = settings(model, epochs=1, warmup=0.5, zero_stage=0)
    rows = write_rated(tmp_path / "rows.jsonl", 11)
    classify(rows, tmp_path / "run", made)
    left = [row for row in lay_out(rows, made).order[8:] if row < 11]
    untuned = load_classifier(made.model, seed=made.seed)
    total = weights = 0.0
    for row in (rated(11)[number] for number in left):
        with torch.inference_mode():
            hidden = untuned.model(torch.tensor([row.tokens])).last_hidden_state[0, -1]
            confidence = 1 / (1 + math.exp(-(hidden @ untuned.score.weight[0]).item()))
        total -= row.weight * math.log(confidence if row.right else 1 - confidence)
        weights += row.weight
    assert len(left) == 3 and losses(tmp_path / "run")[1] == pytest.approx(total / weights, abs=1e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_stopped_run_goes_on_and_ends_with_the_same_bits_check_72(model, judgements, tmp_path, stage):
    made = settings(model, zero_stage=stage, lora={"rank": 4, "dropout": 0.5}, checkpoint_every=4)
    undisturbed = classify(judgements, tmp_path / "whole", made)
    halves = tmp_path / "halves"
    with pytest.raises(Stopped, match="after step 3 of 6"):
        classify(judgements, halves, made, callbacks=[StopAt(halves, 3)])
    resumed = classify(judgements, halves, made)
    assert weights_hash(resumed) == weights_hash(undisturbed)
    assert losses(halves) == losses(tmp_path / "whole")


def test_full_merged_and_adapter_alone_learn_and_load(model, judgements, tmp_path):
    rows = write_rated(tmp_path / "rows.jsonl", 96)
    held_out = pairs(40, start=1000)
    found = {}
    for name, lora in {
        "full": {},
        "merged": {"rank": 4},
        "adapter": {"rank": 4, "merge": False},
    }.items():
        made = settings(model, lora=lora, learning_rate=3e-3)
        out = classify(rows, tmp_path / name, made)
        assert "The alignment model" in (out / "README.md").read_text()
        assert not list(out.glob("*.bin"))
        found[name] = ModelScorer(load_scorer(made.model, out), render, 512).score([pair for pair, _ in held_out])
        right = [(confidence > 0.5) == label for confidence, (_, label) in zip(found[name], held_out, strict=True)]
        assert sum(right) / len(right) > 0.95
    assert found["adapter"] == pytest.approx(found["merged"], abs=1e-5)
    shape = json.loads((tmp_path / "adapter" / MODEL / "adapter_config.json").read_text())
    assert (shape["task_type"], shape["base_model_name_or_path"]) == ("SEQ_CLS", str(model))
    assert set(json.loads((tmp_path / "merged" / MODEL / "config.json").read_text())["id2label"]) == {"0"}
    assert (tmp_path / "adapter" / MODEL / "adapter_model.safetensors").exists()


def test_gradient_checkpointing_changes_no_loss(model, judgements, tmp_path):
    for name, made in {
        "plain": settings(model, lora={"rank": 4}),
        "checkpointing": settings(model, lora={"rank": 4}, gradient_checkpointing=True),
    }.items():
        classify(judgements, tmp_path / name, made)
    assert losses(tmp_path / "checkpointing") == pytest.approx(losses(tmp_path / "plain"), abs=1e-6)


def test_bfloat16_adapter_learns(model, judgements, tmp_path):
    made = settings(model, epochs=4, learning_rate=1e-2, lora={"rank": 4})
    made = made.model_copy(update={"model": made.model.model_copy(update={"dtype": "bfloat16"})})
    classify(judgements, tmp_path, made)
    assert losses(tmp_path)[-1] < 0.7 * losses(tmp_path)[0]


def test_tuning_a_scorer_prints_nothing(model, judgements, tmp_path, capfd):
    capfd.readouterr()
    classify(judgements, tmp_path, settings(model, epochs=0.5, lora={"rank": 2}))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"right": True}, r"all 24 answers in .* are right.*duet\.gold_pairs"),
        ({"right": False}, "all 24 answers in .* are wrong"),
        ({"weight": 0.0}, "row 'pair-0' .* weight 0"),
        ({"weight": math.nan}, "row 'pair-0' .* weight nan"),
        ({"tokens": []}, "row 'pair-0' .* has 0 tokens"),
    ],
)
def test_judgements_that_cannot_be_learned_from_are_named(model, tmp_path, change, named):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({**as_row(row), **change}) + "\n" for row in rated(24)))
    with pytest.raises(DataError, match=named):
        classify(rows, tmp_path / "run", settings(model))


def test_no_judgement_to_train_on_is_said(model, judgements, tmp_path):
    with pytest.raises(ConfigError, match=r"24 training rows and train\.epochs=0\.01 give no row"):
        classify(judgements, tmp_path, settings(model, epochs=0.01))
