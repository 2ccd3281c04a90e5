"""Steps of learning: what is in them, and that neither ranks nor shared prompts change what is learned."""

import json
import math
from functools import cache, partial
from itertools import chain

import pytest
import torch
from transformers import AutoModelForCausalLM, get_scheduler

from ragdist.algo import preference
from ragdist.algo.losses import Batch, Totals
from ragdist.config import TrainConfig
from ragdist.errors import DataError
from ragdist.lm.forward import Sequences, shares_prompt
from ragdist.lm.learn import lay_out, learning_rate
from ragdist.records import Bundle
from tests import learning, tiny

UNEVEN = 140
"""Tokens of a pass with which three ranks have other numbers of passes over seven rows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
def test_learning_rate_is_that_of_transformers(schedule):
    train = TrainConfig(learning_rate=0.1, schedule=schedule, warmup=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=3, num_training_steps=10)
    for step in range(10):
        assert learning_rate(train, step, 10) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_lay_out_keeps_what_does_not_fill_a_step():
    rows = learning.rows(14)
    plan = lay_out(rows, TrainConfig(examples_per_step=8, microbatch=4), seed=0)
    assert [[[len(microbatch) for microbatch in hand] for hand in step] for step in plan] == [[[4, 4]], [[4, 2]]]
    assert sorted(row for step in plan for hand in step for microbatch in hand for row in microbatch) == list(range(14))
    assert plan != lay_out(rows, TrainConfig(examples_per_step=8, microbatch=4), seed=1)
    assert lay_out(rows[:1], TrainConfig(epochs=0.1), seed=0) == [[[[0]]]]


def test_lay_out_deals_microbatches_in_turn_and_rows_of_a_budget_by_what_is_computed():
    """Prompts are computed once for both texts where they are shared: row 13 is 2 texts after one prompt."""
    rows = learning.rows(14)
    (step,) = lay_out(rows, TrainConfig(examples_per_step=16, microbatch=4), seed=0, ranks=2)
    ((alone,),) = lay_out(rows, TrainConfig(examples_per_step=16, microbatch=4), seed=0)
    assert step == [alone[0::2], alone[1::2]]
    by_tokens = TrainConfig(examples_per_step=16, tokens_per_pass=200)
    for shared in (False, True):
        (step,) = lay_out(rows, by_tokens, seed=0, ranks=3, shared=shared)
        computed = [sum(map(len, row.tokens)) - shared * row.prompt_tokens[0] for row in rows]
        assert all(len(one) == 1 or len(one) * computed[one[0]] <= 200 for hand in step for one in hand if one)
        assert len({len(hand) for hand in step}) == 1 and sorted(chain(*chain(*step))) == list(range(14))


@pytest.mark.parametrize(
    "rows",
    [[], [Bundle(id="x", tokens=((1, 2),), prompt_tokens=(2,))], [Bundle(id="x", tokens=((1,),), prompt_tokens=(0,))]],
)
def test_lay_out_of_rows_without_prompt_or_target_raises(rows):
    with pytest.raises(DataError, match="wanted"):
        lay_out(rows, TrainConfig(), seed=0)


def test_lay_out_of_rows_with_other_sequences_raises():
    rows = [Bundle(id=str(count), tokens=((1, 2),) * count, prompt_tokens=(1,) * count) for count in (1, 2)]
    with pytest.raises(DataError, match="'2'"):
        lay_out(rows, TrainConfig(), seed=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_forward_of_a_shared_prompt_equals_separate_ones(folder, attention):
    rows = learning.rows(5)
    found = []
    for shared in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
        assert shares_prompt(rows, model.config) and not shares_prompt(learning.lists(5), model.config)
        forward = Sequences(model, rows, shared, torch.empty(0))
        batch = Batch(5, {"reference": torch.arange(5.0)})
        loss = preference.dpo(forward, batch, total=Totals(1, 5), beta=0.2)
        loss.scalar.backward()
        padded = sum(one.padded for one in forward.passes)
        found.append((forward(batch), loss.scalar, [weight.grad for weight in model.parameters()], padded))
    apart, together = found
    for one, other in zip(apart[0], together[0], strict=True):
        assert torch.equal(one.labels_BA, other.labels_BA) and torch.equal(one.mask_BA, other.mask_BA)
        assert torch.allclose(one.logits_NV, other.logits_NV, atol=1e-5)
    assert together[1].item() == pytest.approx(apart[1].item(), abs=1e-5)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(apart[2], together[2], strict=True))
    assert together[3] < apart[3]


def test_forward_gives_logits_that_predict_answer_tokens_whatever_is_before_check_47_48(folder):
    """Each row by itself, all positions scored, is the oracle; rows of one batch have prompts of different length."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = learning.lists(6)
    with torch.no_grad():
        slots = Sequences(model, rows, False, torch.empty(0))(Batch(6, {}))
        (second,) = Sequences(model, rows, False, torch.empty(0))(Batch(6, {}), (1,))
        assert torch.equal(second.logits_NV, slots[1].logits_NV)
        for slot, answers in enumerate(slots):
            counts = answers.mask_BA.sum(1).tolist()
            for number, (row, logits) in enumerate(zip(rows, answers.logits_NV.split(counts), strict=True)):
                tokens, start = row.tokens[slot], row.prompt_tokens[slot]
                whole = model(input_ids=torch.tensor([tokens])).logits[0, start - 1 : -1]
                there = answers.mask_BA[number]
                assert answers.labels_BA[number][there].tolist() == list(tokens[start:])
                assert torch.allclose(logits, whole, atol=1e-5)
    assert torch.equal(slots[0].labels_BA, slots[1].labels_BA) and torch.equal(slots[0].mask_BA, slots[1].mask_BA)


@cache
def by_hand(folder, name):
    """Loss and gradient of all rows of one step: each sequence by itself, by plain torch."""
    rows = learning.lists(7) if name == "mito" else learning.rows(7)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = sum(len(row.tokens[0]) - row.prompt_tokens[0] for row in rows)
    loss = torch.zeros(())
    for row, reference in zip(rows, learning.references(len(rows)), strict=True):
        answers = []
        for line, start in zip(row.tokens, row.prompt_tokens, strict=True):
            log_p = model(torch.tensor([line])).logits[0, start - 1 : -1].log_softmax(-1)
            answers.append((log_p, log_p[range(len(line) - start), list(line[start:])]))
        (first, first_said), (second, second_said) = answers
        if name == "sft":
            loss = loss - first_said.sum() / tokens
        elif name == "mito":
            shift = (first.exp() * (first - second)).sum()
            loss = loss + (0.5 * shift - second_said.sum()) / tokens
        else:
            lead = first_said.sum() - second_said.sum() - reference
            loss = loss - torch.log(1 / (1 + torch.exp(-0.2 * lead))) / len(rows)
    loss.backward()
    return loss.item(), {name: part.grad for name, part in model.named_parameters()}


def assert_equal_steps(found, folder):
    for name, (loss, gradient) in found.items():
        wanted, other = by_hand(folder, name)
        assert loss == pytest.approx(wanted, abs=2e-5), name
        assert gradient.keys() == other.keys()
        largest = max(part.abs().max() for part in other.values())
        for part, by_itself in zip(gradient.values(), other.values(), strict=True):
            assert torch.allclose(part, by_itself, atol=1e-4 * largest), name


@pytest.mark.parametrize("cut", [{"microbatch": 1}, {"microbatch": 2}, {"microbatch": 8}, {"tokens_per_pass": 200}])
def test_a_step_has_the_loss_and_gradient_of_all_its_rows_however_it_is_cut(folder, tmp_path, cut):
    """Seven rows with answers of many lengths, so that a mean of the microbatches' means is another number."""
    held = learning.resident(folder, learning.still(folder, **cut))
    assert_equal_steps(learning.first_steps(held, tmp_path), folder)


@pytest.mark.cluster
def test_a_step_of_two_ranks_has_the_loss_and_gradient_of_all_its_rows(folder, tmp_path):
    """Seven microbatches for two ranks: one of them has a blank one."""
    learning.two_ranks("uneven_ranks", folder, tmp_path, 0)
    assert_equal_steps(torch.load(tmp_path / "found.pt"), folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory, folder):
    """Three ranks did `learning.dealt`."""
    root = tmp_path_factory.mktemp("three")
    learning.two_ranks("dealt", folder, root, UNEVEN, count=3)
    return root


@pytest.mark.cluster
def test_three_ranks_with_uneven_passes_have_the_gradient_of_one(folder, three, tmp_path):
    """Seven rows dealt by tokens: no number of microbatches divides by three, and one rank has a blank pass."""
    found = torch.load(three / "found.pt")
    held = learning.resident(folder, learning.still(folder, microbatch=8))
    for name, (loss, gradient) in learning.first_steps(held, tmp_path).items():
        assert found[name][0] == pytest.approx(loss, abs=1e-6), name
        for part, other in zip(gradient.values(), found[name][1].values(), strict=True):
            torch.testing.assert_close(other, part, atol=1e-6, rtol=1e-5)
    (step,) = lay_out(learning.lists(7), TrainConfig(tokens_per_pass=UNEVEN), seed=0, ranks=3)
    assert len({sum(map(bool, hand)) for hand in step}) > 1


@pytest.mark.cluster
def test_three_ranks_that_are_dealt_rows_by_tokens_take_the_steps_of_one_at_every_stage(folder, three, tmp_path):
    """Fourteen rows at eight a step: six in the last."""
    alone = learning.learn(learning.resident(folder, learning.settings(folder, zero_stage=0)), "dpo", tmp_path)
    for stage in (1, 2, 3):
        said = json.loads((three / f"{stage}" / "said.json").read_text())
        assert [line["tokens"] for line in said] == [line["tokens"] for line in alone]
        for name, tolerance in (("loss", 1e-5), ("grad_norm", 1e-5), ("margin", 1e-4)):
            assert [line[name] for line in said] == pytest.approx([line[name] for line in alone], abs=tolerance), name
        assert all(0.5 < line["busy_share"] <= 1 and line["rank_tokens_per_s"] > 0 for line in said)


def test_learning_of_preferred_texts_makes_them_likelier_and_swapped_ones_not_check_40(folder, tmp_path):
    """DPO raises the lead of the chosen text over the rejected one for pairs that it saw; the sign turns with them."""
    rows = learning.rows(16)
    swapped = [Bundle(id=row.id, tokens=row.tokens[::-1], prompt_tokens=row.prompt_tokens) for row in rows]
    gains = []
    for name, pairs in (("as they are", rows), ("swapped", swapped)):
        (tmp_path / name).mkdir()
        made = learning.settings(folder, epochs=2, learning_rate=3e-4, gradient_checkpointing=name == "swapped")
        held = learning.resident(folder, made)
        function, prepare = learning.LOSSES["dpo"]
        total, _ = held.begin(function, pairs, prepare, tmp_path / name)
        before = held._learning.prepared["reference"].clone()
        said = held.steps(total)
        held.finish()
        held.begin(function, pairs, prepare, tmp_path / name / "model")
        gains.append((held._learning.prepared["reference"] - before).mean().item())
        assert said[-1]["margin"] > 0 and said[-1]["loss"] < said[0]["loss"]
        assert said[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert min(gains) > 0.1  # each for its own chosen text


def test_mito_without_weight_learns_what_plain_tuning_on_the_attacked_list_learns_check_45(folder, tmp_path):
    from ragdist.algo import consistency, sft

    rows = learning.lists(8)
    attacked = [Bundle(id=row.id, tokens=row.tokens[1:], prompt_tokens=row.prompt_tokens[1:]) for row in rows]
    found = []
    for name, loss, given in (
        ("mito", partial(consistency.mito, kl_weight=0), rows),
        ("sft", sft.answer_loss, attacked),
    ):
        (tmp_path / name).mkdir()
        held = learning.resident(folder, learning.settings(folder, microbatch=8))
        held.begin(loss, given, None, tmp_path / name)
        held.steps(1)
        found.append(learning.checksum(held.finish()))
    assert found[0] == found[1]
