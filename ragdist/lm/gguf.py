"""A model as one GGUF file, for llama.cpp and Ollama, with a Modelfile beside it.

Weights stay as they are saved (float32, bfloat16 or float16; vectors float32), so that the file says what the folder
says. llama.cpp's own converter knows more architectures, but knows a tokenizer by a digest of its tokens alone, which
is another one where it came out of a GGUF file: here it is known by how it splits a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ragdist.errors import ModelError
from ragdist.lm.chat import SYSTEM, USER, Chat, render
from ragdist.lm.load import ModelTokenizer
from ragdist.storage.atomic import read_json

FILE, MODELFILE = "model.gguf", "Modelfile"
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",
    (WORDS % r"\p{N}{1,3}", "ByteLevel"): "llama-bpe",
    (WORDS % r"\p{N}", "ByteLevel"): "qwen2",
}
"""How a byte-level tokenizer splits a text before it merges, by llama.cpp's name for it."""
OTHERWISE = "export it with --form merged and convert that folder by convert_hf_to_gguf.py of llama.cpp"


def write(model: Path, tokenizer: ModelTokenizer, to: Path) -> None:
    """Writes the whole model in the folder `model` as `to/model.gguf`.

    Raises:
        ModelError: its architecture, its positions or its tokenizer are none that are known here.
    """
    import gguf

    shape = read_json(model / "config.json")
    architecture = ARCHITECTURES.get(shape["architectures"][0])
    if architecture is None:
        raise ModelError(f"{model} is a {shape['architectures'][0]}, wanted {', '.join(ARCHITECTURES)}; {OTHERWISE}")
    splits = _splits(model, tokenizer)
    writer = gguf.GGUFWriter(to / FILE, architecture, use_temp_file=True)
    _add_shape(writer, model)
    _add_tokenizer(writer, tokenizer, splits, shape["vocab_size"])
    names = gguf.get_tensor_name_map(
        next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), shape["num_hidden_layers"]
    )
    tied = shape.get("tie_word_embeddings", False)
    for name, weight in _weights(model):
        if tied and name == "lm_head.weight":
            continue
        if (known := names.get_name(name, try_suffixes=(".weight", ".bias"))) is None:
            raise ModelError(f"{model} has a weight {name}, which a {architecture} has not; {OTHERWISE}")
        if architecture == "llama" and ".self_attn." in name:
            weight = _interleaved(name, weight, shape)
        kind = _kind(weight)
        writer.add_tensor(known, gguf.quants.quantize(weight.float().numpy(), kind), raw_dtype=kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def modelfile(tokenizer: ModelTokenizer, tokens: int, system: str, answer_tokens: int) -> str:
    """What `ollama create` reads: the chat template as Ollama fills it in, where answers end, greedy decoding.

    Args:
        tokenizer: the model's.
        tokens: longest prompt and answer together.
        system: system message where none is given.
        answer_tokens: longest answer; 0 is no limit.
    """
    limit = f"PARAMETER num_predict {answer_tokens}\n" * bool(answer_tokens)
    said = f'SYSTEM """{system}"""\n' * bool(system)
    return (
        f'FROM ./{FILE}\nTEMPLATE """{_template(tokenizer)}"""\n{said}'
        f'PARAMETER stop "{tokenizer.backend.convert_ids_to_tokens(tokenizer.end)}"\n'
        f"PARAMETER num_ctx {tokens}\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\n{limit}"
    )


def _template(tokenizer: ModelTokenizer) -> str:
    """The chat template in Go's words, with a system message and without."""
    if tokenizer.spoken is None:
        return "{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}\n"
    alone, both = (_filled(tokenizer, tokenizer.spoken, system) for system in ("", SYSTEM))
    return f"{{{{ if .System }}}}{both}{{{{ else }}}}{alone}{{{{ end }}}}"


def _filled(tokenizer: ModelTokenizer, chat: Chat, system: str) -> str:
    text = render(tokenizer.backend, chat, chat.messages(USER, system)).replace("{{", '{{ "{{" }}')
    return text.replace(USER, "{{ .Prompt }}").replace(SYSTEM, "{{ .System }}")


def _add_shape(writer: Any, model: Path) -> None:
    from transformers import AutoConfig

    shape = AutoConfig.from_pretrained(model, local_files_only=True)
    heads = shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(shape.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    if (kind := shape.rope_parameters["rope_type"]) == "llama3":
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        slowed = LlamaRotaryEmbedding(shape).inv_freq
        plain = shape.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2).float() / size)
        writer.add_tensor("rope_freqs.weight", (plain / slowed).numpy())
    elif kind != "default":
        raise ModelError(f"{model} scales its positions by {kind!r}, wanted default or llama3; {OTHERWISE}")


def _add_tokenizer(writer: Any, tokenizer: ModelTokenizer, splits: str, size: int) -> None:
    from gguf import TokenType

    backend = tokenizer.backend
    words = {number: word for word, number in backend.get_vocab().items()}
    added = backend.added_tokens_decoder
    types = {number: TokenType.CONTROL if token.special else TokenType.USER_DEFINED for number, token in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(size)])
    other = [TokenType.NORMAL if number in words else TokenType.UNUSED for number in range(size)]
    writer.add_token_types([types.get(number, kind) for number, kind in enumerate(other)])
    writer.add_token_merges([" ".join(pair) for pair in _model_of(tokenizer)["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.end)
    for name, number in (("bos", backend.bos_token_id), ("pad", backend.pad_token_id)):
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(False)  # a prompt has it where its template does
    if backend.chat_template:
        writer.add_chat_template(backend.chat_template)


def _splits(model: Path, tokenizer: ModelTokenizer) -> str:
    """llama.cpp's name for how the tokenizer splits a text."""
    made = _model_of(tokenizer)
    first = made["pre_tokenizer"] or {}
    parts = first.get("pretokenizers", [first])
    found = tuple(step["pattern"].get("Regex") if step.get("type") == "Split" else step.get("type") for step in parts)
    plain = made["normalizer"] is None or made["normalizer"]["type"] == "NFC"
    plain &= not any(step.get("add_prefix_space") or step.get("individual_digits") is False for step in parts)
    if made["model"]["type"] != "BPE" or made["model"].get("byte_fallback") or not plain or found not in SPLITS:
        raise ModelError(f"{model} has a tokenizer that splits texts in a way not known here; {OTHERWISE}")
    return SPLITS[found]


def _model_of(tokenizer: ModelTokenizer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.backend.backend_tokenizer.to_str())
    return found


def _weights(model: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no mapping
                yield name, opened.get_tensor(name)


def _interleaved(name: str, weight: Tensor, shape: dict[str, Any]) -> Tensor:
    """Queries and keys in the order in which llama.cpp turns them by position: pairs beside each other."""
    heads = {"q_proj": shape["num_attention_heads"], "k_proj": shape["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return weight
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def _kind(weight: Tensor) -> Any:
    from gguf import GGMLQuantizationType as Kind

    if weight.ndim < 2:
        return Kind.F32
    return {torch.bfloat16: Kind.BF16, torch.float16: Kind.F16}.get(weight.dtype, Kind.F32)
