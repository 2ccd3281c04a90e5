"""Models from outside that are cut, absurd or pickled: one sentence each, in time, and no pickle is ever opened."""

import json
import shutil
import struct

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from ragdist.config import ModelConfig
from ragdist.errors import ModelError
from ragdist.lm.embed import resolve as resolve_embedder
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.source import resolve
from tests import tiny

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture(autouse=True)
def no_pickles(monkeypatch):
    """A pickle that is opened is the test's end, whatever is made of it."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))


def refused(load, folder, says="model|adapter"):
    with pytest.raises(ModelError, match=says) as raised:
        load(ModelConfig(source=str(folder), max_tokens=64))
    said = str(raised.value)
    assert "\n" not in said and str(folder) in said and raised.value.exit_code == 2
    return said


def change(path, **values):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


HEADERS = {
    "empty": b"",
    "a few bytes": bytes(4),
    "a header of 2^40": struct.pack("<Q", 1 << 40) + b"{}",
    "a header of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "no UTF-8": struct.pack("<Q", 2) + b"\xff\xff",
    "deep JSON": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "weights beyond its end": struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ',
}


@pytest.mark.parametrize("name", HEADERS)
def test_R9_weights_whose_header_is_absurd_are_refused_before_they_are_read(folder, name):
    (folder / "model.safetensors").write_bytes(HEADERS[name])
    for load in (resolve, load_model, load_tokenizer):
        assert "model.safetensors is cut or broken" in refused(load, folder)


def test_R9_cut_weights_are_refused_also_in_one_of_several_files(folder):
    (folder / "model-2.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    refused(resolve, folder, "model-2.safetensors is cut")


CONFIGS = [
    *({"hidden_size": value} for value in (0, -1, "x", None, 1e300, 10**15, [1], 63)),
    *({"num_attention_heads": value} for value in (0, -3, 10**9, None, "4")),
    *({"num_hidden_layers": value} for value in (0, -1, "x", None, 1.5, 10**9, 10**15)),
    *({"vocab_size": value} for value in (0, -1, 10**7, 10**13, "a")),
    *(
        {"rope_parameters": value}
        for value in (7, {"rope_type": "nope"}, {"rope_type": "yarn", "factor": 0, "rope_theta": 1})
    ),
    *({"model_type": value} for value in ("nope", 7, "t5", "bert")),
    *({name: "nope"} for name in ("hidden_act", "dtype", "rms_norm_eps", "eos_token_id", "quantization_config")),
    *({"num_key_value_heads": 0}, {"head_dim": 0}, {"intermediate_size": -1}, {"pad_token_id": 10**9}),
    *({"layer_types": 7}, {"auto_map": 7}, {"max_position_embeddings": "x"}),
]


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_R9_absurd_configuration_is_one_sentence(folder, values):
    change(folder / "config.json", **values)
    refused(load_model, folder)


@pytest.mark.parametrize("content", [b"", b"[]", b'"x"', b"{\xff}", b"[" * 100_000], ids=repr)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_R9_files_that_are_no_json_objects_are_one_sentence(folder, name, content):
    (folder / name).write_bytes(content)
    refused(load_tokenizer if name.startswith("tokenizer") else load_model, folder)


TOKENIZERS = {
    "no vocabulary": ("model", "vocab", {}),
    "a negative id": ("model", "vocab", {"a": -1}),
    "merges of nothing": ("model", "merges", [["x", "y"]]),
    "an unknown kind": ("model", "type", "Nope"),
    "an unknown version": ("", "version", "9"),
    "a pattern that does not close": (
        *("", "pre_tokenizer"),
        {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
    ),
    "an unknown decoder": ("", "decoder", {"type": "X"}),
    "added tokens as a number": ("", "added_tokens", 7),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_R9_absurd_tokenizer_is_one_sentence(folder, name):
    inside, key, value = TOKENIZERS[name]
    made = json.loads((folder / "tokenizer.json").read_text())
    (made[inside] if inside else made)[key] = value
    (folder / "tokenizer.json").write_text(json.dumps(made))
    refused(load_tokenizer, folder, "has no tokenizer that loads")


@pytest.mark.parametrize(
    "values",
    [
        *({"tokenizer_class": 7}, {"model_max_length": "x"}, {"eos_token": 7}, {"added_tokens_decoder": 7}),
        *({"extra_special_tokens": [7]}, {"additional_special_tokens": [7]}, {"auto_map": 7}),
    ],
    ids=str,
)
def test_R9_absurd_settings_of_a_tokenizer_are_one_sentence(folder, values):
    change(folder / "tokenizer_config.json", **values)
    refused(load_tokenizer, folder, "has no tokenizer that loads")


@pytest.fixture
def adapter(whole, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(whole)
    peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("kind", ["NOPE", "", None, 7, ["LORA"]])
def test_R9_adapter_of_unknown_type_is_one_sentence(adapter, kind):
    change(adapter / "adapter_config.json", peft_type=kind)
    refused(load_model, adapter)


@pytest.mark.parametrize("values", [{"base_model_name_or_path": 7}, {"base_model_name_or_path": None}, {"r": "x"}])
def test_R9_adapter_of_no_model_or_shape_is_one_sentence(adapter, values):
    change(adapter / "adapter_config.json", **values)
    refused(load_model, adapter)


def test_R10_adapter_whose_weights_are_a_pickle_is_refused(adapter, folder):
    decoy = (folder / "model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(load_model, adapter, r"adapter_model\.bin")
    (adapter / "decoy.safetensors").write_bytes(decoy)
    refused(load_model, adapter, r"no adapter_model\.safetensors and adapter_model\.bin may run code")
    for name in ("adapter_config.json", "adapter_model.bin"):  # in a whole model's folder, where transformers looks too
        shutil.copy(adapter / name, folder / name)
    refused(load_model, folder, r"no adapter_model\.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../model.safetensors", "/etc/passwd", "gone.safetensors", 7])
def test_R10_index_that_names_anything_but_safetensors_beside_it_is_refused(folder, name):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    for there in ("pytorch_model.bin",):
        (folder / there).write_bytes(b"pickle")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": name}}))
    refused(load_model, folder, "wanted .safetensors files beside it")


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"weight_map": 7}'])
def test_R10_index_without_names_is_refused(folder, content):
    (folder / INDEX).write_text(content)
    refused(load_model, folder, "index.json")


def test_R10_embedder_whose_layer_is_a_pickle_is_refused(folder):
    (folder / "modules.json").write_text("[]")
    assert resolve_embedder(str(folder)) == folder
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"2_Dense has no model\.safetensors and pytorch_model\.bin may run code"):
        resolve_embedder(str(folder))


def test_whole_models_in_one_file_and_in_several_pass(folder, whole, adapter):
    load_model(ModelConfig(source=str(adapter), max_tokens=64))
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / INDEX).exists()
    load_model(ModelConfig(source=str(folder), max_tokens=64))
