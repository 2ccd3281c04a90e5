"""A model's shape and the number of its weights, read from its files: no weight is loaded, no library that could.

folder/config.json                          as transformers writes it
folder/*.safetensors                        the headers name every tensor's shape
*.gguf, package:NAME                        the converted folder where there is one, else the file's own metadata
owner/name                                  what the hub's cache on this machine holds
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ragdist.config import ModelConfig
from ragdist.storage.model_files import PACKAGE, converted, packaged_gguf

FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"head_norms": True},
    "granite": {},
    "gemma": {"tied": True},
    "smollm3": {"tied": True},
}
"""Models of one build, by transformers' `model_type`, and how each differs: what follows is counted by `weights_of`."""
TORN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError, struct.error)
"""What files that are cut or absurd make of their reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder's sizes. Example: SmolLM2-135M has 30 layers of 576, 9 heads of 64, 3 of them for keys and values."""

    weights: int
    """Each shared tensor once."""
    embedding: int
    """Weights of the table of tokens; the largest tensor, as a rule."""
    linear: Mapping[str, tuple[int, int]]
    """Inputs and outputs of each linear map of one layer, by the module's name."""
    layers: int
    hidden: int
    inner: int
    """Width of the gated half of each layer."""
    heads: int
    kv_heads: int
    head: int
    """Width of one head."""
    vocabulary: int
    longest: int
    """Most positions that it can read; 0 is unknown."""
    source: str
    """Where this was read."""

    @property
    def queries(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of the heads of the keys, and of the values, together."""
        return self.kv_heads * self.head

    def adapters(self, rank: int, targets: Sequence[str]) -> int:
        """Weights of low-rank adapters (peft) beside these modules; `all-linear` is all of a layer's."""
        chosen = [sides for name, sides in self.linear.items() if name in targets or "all-linear" in targets]
        return self.layers * rank * sum(map(sum, chosen))


def read(config: ModelConfig) -> Shape | None:
    """The shape of `model.source`; None where nothing on this machine tells it. A ModelError if there is no such
    package, or it carries no model."""
    with suppress(*TORN):  # whoever loads it says so
        return _read(config)
    return None


def of_config(config: Mapping[str, Any], *, weights: int = 0, source: str = "config.json") -> Shape | None:
    """The shape that a config.json of transformers describes; None where it is of no known family and `weights`
    (counted elsewhere) says nothing."""
    config = config.get("text_config") or config
    family: Mapping[str, bool] | None = FAMILIES.get(str(config.get("model_type")))
    try:
        hidden, layers, heads = (
            int(config[name]) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        inner, vocabulary = int(config["intermediate_size"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return None
    if family is None and not weights:
        return None
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or hidden // heads)
    if min(hidden, layers, heads, inner, vocabulary, kv_heads, head) < 1:
        return None
    queries, keys = heads * head, kv_heads * head
    linear = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    matrices = sum(a * b for a, b in linear.values())
    embedding = vocabulary * hidden
    family = family or {}
    bias = config.get("attention_bias", False)
    a_layer = 2 * hidden  # the norms before attention and before the gated half
    a_layer += (queries + 2 * keys) * bool(bias or family.get("qkv_bias")) + hidden * bool(bias)
    a_layer += (2 * inner + hidden) * bool(config.get("mlp_bias", False)) + 2 * head * bool(family.get("head_norms"))
    tied = config.get("tie_word_embeddings", family.get("tied", False))
    return Shape(
        weights=weights or layers * (matrices + a_layer) + hidden + embedding * (1 if tied else 2),
        embedding=embedding,
        linear=linear,
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        vocabulary=vocabulary,
        longest=int(config.get("max_position_embeddings") or 0),
        source=source,
    )


def _read(config: ModelConfig) -> Shape | None:
    source = config.source
    if source.startswith(PACKAGE):
        return _of_gguf(packaged_gguf(source))
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _of_gguf(path)
    folder = path if path.is_dir() else _cached(config)
    return _of_folder(folder) if folder and (folder / "config.json").is_file() else None


def _of_gguf(gguf: Path) -> Shape | None:
    if (found := converted(gguf) / "config.json").is_file():
        return _of_folder(found.parent)
    said = gguf.stat()
    return _in_gguf(gguf, said.st_size, said.st_mtime_ns)


@lru_cache(maxsize=8)
def _in_gguf(gguf: Path, size: int, changed_ns: int) -> Shape | None:
    """What the file's own metadata tells; reading them takes seconds, and a job has several groups of one model."""
    import gguf as library

    reader = library.GGUFReader(str(gguf))
    family = str(reader.fields["general.architecture"].contents())
    said = {name: _field(reader, f"{family}.{key}") for name, key in GGUF.items()}
    shapes = {tensor.name: math.prod(map(int, tensor.shape)) for tensor in reader.tensors}
    said["vocab_size"] = shapes["token_embd.weight"] // said["hidden_size"]
    weights = sum(shapes.values())
    return of_config({"model_type": family, **said}, weights=weights, source=str(gguf))


GGUF = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
"""transformers' names in GGUF's words."""


def _field(reader: Any, key: str) -> int:
    """0 where the file does not say."""
    return int(reader.fields[key].contents()) if key in reader.fields else 0


def _cached(config: ModelConfig) -> Path | None:
    """The snapshot of a hub id in the hub's cache on this machine; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    name, _, named = config.source.partition("@")
    found = try_to_load_from_cache(name, "config.json", revision=named or config.revision or None)
    return Path(found).parent if isinstance(found, str) else None


def _of_folder(folder: Path) -> Shape | None:
    config = json.loads((folder / "config.json").read_text())
    return of_config(config, weights=_in_headers(folder), source=str(folder / "config.json"))


def _in_headers(folder: Path) -> int:
    """Weights that the safetensors files of a folder hold; 0 where there are none, or not all of them."""
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    if not all((folder / name).is_file() for name in names):
        return 0
    total = 0
    for name in names:
        with (folder / name).open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            tensors = json.loads(file.read(min(size, (folder / name).stat().st_size)))
        total += sum(math.prod(tensor["shape"]) for key, tensor in tensors.items() if key != "__metadata__")
    return total
