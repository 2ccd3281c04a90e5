"""A model's folder from outside, looked at before a library reads it: what is cut, absurd or pickled is one sentence.

Weights are safetensors and nothing else: an adapter, an index or a module that would have them elsewhere is refused, as
a pickle may run code when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ragdist.errors import ModelError, RagdistError

ADAPTER, ADAPTER_WEIGHTS, MODULES = "adapter_config.json", "adapter_model.safetensors", "modules.json"
SMALL = ("config.json", "generation_config.json", ADAPTER)
LARGEST = 64 << 20
"""Bytes of a file of settings or of names; a tokenizer's is read by its own library."""
MOST = 1 << 40
"""Whatever a model's configuration counts, in parameters, tokens or bytes."""
PARTS = re.compile(r"layer|block|stage|depth|expert", re.IGNORECASE)
FEWEST_PARTS = 4096
"""Parts of a model that may be built whatever its files hold; many more take minutes to find that out."""
MOST_TOKENS = 1 << 22
"""Entries of a vocabulary; tables of text are made of so many."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check(folder: Path, knob: str) -> None:
    """Lets pass a folder whose files are whole, as far as their headers and settings tell; no weight is read.

    Args:
        folder: of a model or an adapter.
        knob: the setting that named it, with its value.

    Raises:
        ModelError: a file is cut, no JSON, or counts what no model has; or weights are somewhere else than in
            safetensors.
    """
    with refused(f"{knob} does not load", "copy the model again, or set it to another"):
        weights = sum(_weights_in(path) for path in sorted(folder.glob("*.safetensors")))
        for name in SMALL:
            if (folder / name).exists():
                _check_counts(_object(folder / name), name, weights)
        for path in sorted(folder.glob("*.index.json")):
            _check_names(path, _object(path).get("weight_map"))
        if (folder / ADAPTER).exists() and not (folder / ADAPTER_WEIGHTS).is_file():
            raise ValueError(f"the adapter has no {ADAPTER_WEIGHTS}{_pickled(folder)}")
        if (folder / MODULES).exists():
            _check_modules(folder)


@contextmanager
def refused(what: str, remedy: str) -> Iterator[None]:
    """Whatever the readers of a folder from outside make of it becomes one sentence; our own errors stay."""
    try:
        yield
    except (RagdistError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # libraries raise anything for such a file, those in Rust also what is no Exception
        raise ModelError(f"{what}: {reason(error)}; {remedy}") from None


def reason(error: BaseException) -> str:
    """What an error of a library says, on one line; its kind where that says more than the text."""
    said = " ".join(str(error).split())[:200]
    return said if isinstance(error, OSError | ValueError | ImportError) and said else f"{type(error).__name__}: {said}"


def _weights_in(path: Path) -> int:
    try:
        with safe_open(path, "numpy") as opened:
            return len(opened.keys())
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is cut or broken ({str(error).removeprefix('Error while deserializing ')})"
        ) from None


def _object(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size >> 20} MiB, wanted a file of settings")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON ({reason(error)})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds a JSON {type(found).__name__}, wanted an object")
    return found


def _check_counts(found: dict[str, Any], file: str, weights: int) -> None:
    """Numbers that no model has, and more parts than the files have weights for, which are built before that shows."""
    left: list[tuple[str, Any]] = list(found.items())
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((name, one) for one in value)
        elif isinstance(value, int) and not isinstance(value, bool):
            parts = max(weights, FEWEST_PARTS) if PARTS.search(name) else MOST
            most = MOST_TOKENS if name == "vocab_size" else parts
            if abs(value) > most or (name == "num_hidden_layers" and value < 1):
                raise ValueError(f"{file} says {name}={value:.4g}, wanted a number from 1 to {most:,}")


def _check_names(path: Path, named: Any) -> None:
    files = {str(name) for name in named.values()} if isinstance(named, dict) else {"nothing"}
    for name in sorted(files):
        if not re.fullmatch(r"[^/\\]+\.safetensors", name) or not (path.parent / name).is_file():
            raise ValueError(f"{path.name} has weights in {name!r}, wanted .safetensors files beside it")


def _check_modules(folder: Path) -> None:
    """The parts of a sentence-transformers model, each with weights of its own kind."""
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        if _pickled(inside) and not (inside / "model.safetensors").is_file():
            raise ValueError(f"{inside.name} has no model.safetensors{_pickled(inside)}")


def pickles(folder: Path) -> list[str]:
    """Names of files in a folder that may run code when they are read."""
    return sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))


def _pickled(folder: Path) -> str:
    (name, *_) = (*pickles(folder), "")
    return f" and {name} may run code when it is read: safetensors only, save it with save_pretrained" if name else ""
