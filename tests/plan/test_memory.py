"""Bytes of a rank against DeepSpeed's own estimators, against what autograd really keeps, and by invariance."""

import pytest
import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from transformers import AutoModelForCausalLM, LlamaConfig

from ragdist.config import LoraConfig, TrainConfig
from ragdist.plan import memory, shape
from ragdist.plan.memory import ModelFootprint, Work
from tests.plan import shapes

LLAMAS = [shapes.LLAMA_2_7B, shapes.LLAMA_3_70B]
NEAR = 1e-6


def held(config, *, ranks=8, width=2, gpu=True, **train):
    return ModelFootprint(shape=shape.of_config(config), train=TrainConfig(**train), ranks=ranks, width=width, gpu=gpu)


def states(*arguments, place="gpu", **more):
    return memory.total(memory.states(held(*arguments, **more)), place)


@pytest.mark.parametrize("config", LLAMAS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_zero_2_is_as_deepspeed_estimates_it(config, nodes):
    weights = shape.of_config(config).weights
    _, card = estimate_zero2_model_states_mem_needs(weights, 8, nodes, cpu_offload=False)
    assert states(config, ranks=8 * nodes, zero_stage=2) == pytest.approx(card, rel=NEAR)


@pytest.mark.parametrize("config", LLAMAS)
def test_zero_2_offloaded_is_as_deepspeed_estimates_it(config):
    """Four cards: from more on, DeepSpeed counts the fp32 model that each process loads; ours loads bfloat16."""
    weights = shape.of_config(config).weights
    host, card = estimate_zero2_model_states_mem_needs(weights, 4, 1, cpu_offload=True, additional_buffer_factor=1)
    offloaded = {"ranks": 4, "zero_stage": 2, "offload": "optimizer"}
    assert states(config, **offloaded) == pytest.approx(card, rel=NEAR)
    assert 4 * states(config, **offloaded, place="host") == pytest.approx(host, rel=NEAR)


@pytest.mark.parametrize("config", LLAMAS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_zero_3_is_as_deepspeed_estimates_it(config, nodes):
    found = shape.of_config(config)
    _, card, layer = estimate_zero3_model_states_mem_needs(found.weights, found.embedding, 8, nodes, cpu_offload=False)
    assert states(config, ranks=8 * nodes, zero_stage=3) == pytest.approx(card - layer, rel=NEAR)


@pytest.mark.parametrize("config", LLAMAS)
def test_zero_3_offloaded_is_as_deepspeed_estimates_it(config):
    found = shape.of_config(config)
    for offload, parameters in (("optimizer", False), ("all", True)):
        host, card, layer = estimate_zero3_model_states_mem_needs(
            found.weights,
            found.embedding,
            8,
            cpu_offload=True,
            cpu_offload_params=parameters,
            additional_buffer_factor=1,
        )
        asked = {"zero_stage": 3, "offload": offload}
        assert states(config, **asked) == pytest.approx(card - layer, rel=NEAR, abs=1)
        assert 8 * states(config, **asked, place="host") == pytest.approx(host, rel=NEAR)


SMALL = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


def kept(rows, tokens, *, attention="sdpa", dtype=torch.float32, layers=3, checkpointing=False):
    """Bytes that autograd keeps of a forward pass, weights not counted, each storage once."""
    config = LlamaConfig(**(SMALL | {"num_hidden_layers": layers}))
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    ids = torch.zeros(rows, tokens, dtype=torch.long)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[0, tokens // 2 :] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return sum(found.values())


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize(
    ("rows", "tokens", "attention"), [(1, 48, "sdpa"), (3, 48, "sdpa"), (2, 96, "sdpa"), (2, 48, "eager")]
)
def test_a_layer_keeps_what_autograd_keeps(rows, tokens, attention, width):
    dtype = {2: torch.bfloat16, 4: torch.float32}[width]
    how = {"attention": attention, "dtype": dtype}
    measured = kept(rows, tokens, **how, layers=3) - kept(rows, tokens, **how, layers=2)
    found = shape.of_config({"model_type": "llama", **SMALL})
    work = Work(rows=rows, tokens=tokens, answer=1, attention=attention)
    assert memory.saved_by_layer(found, work, width) == pytest.approx(measured, rel=0.02)


def test_checkpointing_keeps_the_input_of_each_layer():
    layer = kept(2, 48, layers=3, checkpointing=True) - kept(2, 48, layers=2, checkpointing=True)
    assert layer == pytest.approx(2 * 48 * 64 * 4, rel=0.02)
    work = Work(rows=2, tokens=48, answer=1)
    config = {"model_type": "llama", **SMALL}
    deep = config | {"num_hidden_layers": 4}

    def activations(config):
        parts = memory.learning(held(config, gradient_checkpointing=True, width=4, gpu=False), work)
        return next(part.bytes for part in parts if part.name == "activations")

    assert activations(deep) - activations(config) == layer


def test_adapters_alone_have_gradients_and_states():
    lora = LoraConfig(rank=8)
    whole, small = states(shapes.LLAMA_2_7B, zero_stage=1), states(shapes.LLAMA_2_7B, zero_stage=1, lora=lora)
    adapters = 8 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))  # attention's four and the gated half's three
    assert small == 2 * (6_738_415_616 + adapters) + 6 * adapters + (8 + 4) * adapters // 8
    assert small < whole / 3


@pytest.mark.parametrize("width", [2, 4])
def test_each_stage_takes_no_more_than_the_one_before(width):
    found = [states(shapes.LLAMA_2_7B, zero_stage=stage, width=width) for stage in (1, 2, 3)]
    assert found == sorted(found, reverse=True)
    alone = {states(shapes.LLAMA_2_7B, zero_stage=stage, width=width, ranks=1) for stage in (1, 2, 3)}
    assert len(alone) == 1  # there is nobody to share with


def test_writing_costs_a_replica_at_zero_3_and_a_cache():
    from ragdist.plan.memory import Writing

    work = Writing(cached=8192, read=1024, texts=8)
    by_stage = {stage: memory.writing(held(shapes.LLAMA_3_70B, zero_stage=stage), work) for stage in (2, 3)}
    cache = 2 * 2 * 80 * 8 * 128 * 8192  # keys and values, bytes, layers, heads, width, tokens
    assert all(parts[0].bytes == cache for parts in by_stage.values())
    replica = memory.total(by_stage[3], "gpu") - memory.total(by_stage[2], "gpu")
    assert replica == 2 * shapes.WEIGHTS["70b"]
