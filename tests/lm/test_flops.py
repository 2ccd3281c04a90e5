"""FLOPs by the formula against those that torch counts while it computes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from ragdist.algo.losses import Batch
from ragdist.lm.flops import Counted, cost_of, counted, peak_of, utilization
from ragdist.lm.forward import Pass, Sequences
from tests import learning, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.model_folder(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def torch_counts(model, rows, shared):
    """FLOPs of a forward and a backward pass, and the passes."""
    model.zero_grad()
    forward = Sequences(model, rows, shared, torch.empty(0))
    with FlopCounterMode(display=False) as counter:
        sum(answers.logits_NV.sum() for answers in forward(Batch(len(rows), {}))).backward()
    return counter.get_total_flops(), forward.passes


@pytest.mark.parametrize("shared", [False, True])
def test_flops_of_a_step_are_those_that_torch_counts(model, shared):
    """Attention's products in full, the head at kept positions alone; padding is done and worth nothing."""
    rows = learning.rows(5)
    theirs, taken = torch_counts(model, rows, shared)
    ours = [counted(one, cost_of(model), recomputes=False) for one in taken]
    assert sum(one.done for one in ours) == theirs
    assert sum(one.worth for one in ours) < theirs
    theirs, taken = torch_counts(model, rows[:1], shared)
    assert sum(counted(one, cost_of(model), recomputes=False).worth for one in taken) == theirs


def test_weights_that_do_not_learn_cost_no_gradient_and_what_is_recomputed_is_done_but_worth_nothing(model):
    cost = cost_of(model)
    taken = Pass([10], 3, learns=True)
    layers = 2 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) * 10  # two layers of q and o, k and v, the gated half
    products, head = 2 * 2 * 32 * 2 * 100, 2 * 512 * 32 * 3
    assert counted(taken, cost, recomputes=False) == Counted(10, 10, *[3 * (layers + products + head)] * 2)
    assert counted(taken, cost, recomputes=True).done == 4 * (layers + products) + 3 * head
    assert counted(taken._replace(learns=False), cost, recomputes=True).done == layers + products + head
    frozen = cost._replace(frozen=cost.learned, learned=0, head_learns=False)
    assert counted(taken, frozen, recomputes=False).done == 2 * (layers + head) + 3 * products


def test_cost_of_what_is_not_known_is_none(model):
    mixture = AutoModelForCausalLM.from_config(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    )
    assert cost_of(mixture)
    mixture.config.num_experts = 4
    assert cost_of(mixture) is None and counted(Pass([3, 2], 1, True), None, False) == Counted(5, 6, 0, 0)


@pytest.mark.parametrize(
    ("card", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 311.9),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.1),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peak_of_a_card_is_that_of_its_data_sheet(card, tera):
    assert peak_of(card) == (tera and tera * 1e12)


def test_a_machine_without_a_known_card_says_no_utilization():
    assert utilization([1.0, 1.0], torch.empty(0)) == {}
