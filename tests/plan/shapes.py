"""Published shapes, as their config.json have them, and settings of jobs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ragdist.config import DUET_ROLES, Settings
from ragdist.config.loader import resolve

LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
LLAMA_3_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
SMOLLM2_135M = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
WEIGHTS = {"7b": 6_738_415_616, "70b": 70_553_706_496, "135m": 134_515_008}
"""As published."""


def folder(at: Path, config: dict[str, Any]) -> Path:
    """A folder with a config.json alone: all that a plan needs."""
    at.mkdir(parents=True, exist_ok=True)
    (at / "config.json").write_text(json.dumps(config))
    return at


def settings(source: Path, data: Path, **more: Any) -> Settings:
    """A job on this model, in bfloat16, in a folder that holds nothing yet."""
    given = {"source": str(source), "dtype": "bfloat16", "max_tokens": 1024, **more.pop("model", {})}
    train = {"microbatch": 1, "examples_per_step": 48} | more.pop("train", {})  # divides by any number of ranks here
    lessons = {role: {"microbatch": 1, "examples_per_step": 48} for role in DUET_ROLES}
    return resolve({"model": given, "run": {"folder": str(data)}, "train": train, "duet": lessons, **more})
