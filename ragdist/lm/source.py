"""Where a model comes from: a hub id, a folder, a `.gguf` file or an installed package -> a local folder.

A GGUF file is converted once, into $XDG_CACHE_HOME/ragdist/models, named by its content.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from ragdist.config import ModelConfig
from ragdist.errors import ModelError, StorageError
from ragdist.lm import door
from ragdist.lm.hub import snapshot
from ragdist.lm.zero import prepare, quiet
from ragdist.storage.atomic import atomic_folder, make_readable, translate_errors
from ragdist.storage.locks import is_locked, locked
from ragdist.storage.model_files import PACKAGE, converted, packaged_gguf
from ragdist.tracking.progress import say

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{16,}$")
"""Ends of folder names that tell what is inside: a hub commit, the digest of a converted GGUF file."""


def resolve(config: ModelConfig) -> Path:
    """The local folder that holds the model's weights, as safetensors, and its tokenizer.

    Raises:
        ModelError: there is no such model, or it has no weights in safetensors.
        StorageError: the converted model cannot be written.
    """
    source = config.source
    if source.startswith(PACKAGE):
        return _converted(packaged_gguf(source))
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _converted(path)
    if path.exists():
        return _checked(path, source)
    code = ("*.py",) if config.allow_remote_code == source else ()
    others = ("*/*",)  # the same weights in other formats
    found = snapshot(source, config.revision, wanted=[*WANTED, *code], unwanted=others, knob="model.source")
    return _checked(found, source)


def commit(folder: Path) -> str:
    """The hub commit that a resolved folder holds; empty for models that do not come from the hub."""
    return folder.name if folder.parent.name == "snapshots" else ""


def adapter_base(folder: Path) -> str:
    """The source of the base model of a folder that holds an adapter alone; empty for a whole model. A ModelError if it
    is an adapter of a kind that is not known, or of no model."""
    if not (folder / "adapter_config.json").exists() or (folder / "config.json").exists():
        return ""
    from peft import PeftConfig

    with door.refused(f"{folder} is no adapter that loads", "wanted one that peft knows; set model.source to another"):
        base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        if not isinstance(base, str) or not base:
            raise ValueError(f"base_model_name_or_path={base!r} in its adapter_config.json names no model")
    return base


def refuse_other_base(config: ModelConfig, here: Path, adapter: Path) -> None:
    """Holds an adapter to the model that it was tuned from; nothing is fetched to find out.

    Args:
        config: the model in use.
        here: its folder, as `resolve` has it.
        adapter: the adapter's folder, which names its base by source or by a folder, perhaps another machine's.

    Raises:
        ModelError: that is not the model in use.
    """
    base = adapter_base(adapter)
    path = Path(base).expanduser()
    moved = path.name == here.name and NAMED_BY_CONTENT.search(path.name)
    if base == config.source.partition("@")[0] or path.resolve() == here.resolve() or moved:
        return
    raise ModelError(
        f"{adapter} is an adapter of {base!r}, and model.source={config.source!r} is another model; "
        "set model.source to the adapter's base, or tune the adapter again"
    )


def _checked(folder: Path, source: str) -> Path:
    if not folder.is_dir():
        raise ModelError(f"model.source={source!r} is a file; wanted a folder, a .gguf file or a hub id")
    if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise ModelError(f"model.source={source!r} has no config.json ({folder}); set model.source to a model's folder")
    if any(folder.glob("*.safetensors")):
        door.check(folder, f"model.source={source!r}")
        return folder
    if pickled := door.pickles(folder):
        raise ModelError(
            f"model.source={source!r} has its weights as {pickled[0]}, which may run code when it is read; "
            "safetensors only: save the model with save_pretrained, or set model.source to one with .safetensors"
        )
    raise ModelError(f"model.source={source!r} has no weights: no .safetensors file in {folder}; set model.source=...")


def _converted(gguf: Path) -> Path:
    """The folder that `gguf` was converted to; made now if this is the first time on this machine."""
    final = converted(gguf)
    cache = final.parent
    if final.exists():
        return final
    with translate_errors(cache, "set XDG_CACHE_HOME to another place", f"the converted {gguf.name}"):
        cache.mkdir(parents=True, exist_ok=True)
        if is_locked(lock := cache / f".{final.name}.lock"):
            say(f"waiting for the process that converts {gguf.name}")
        with locked(lock):
            if not final.exists():
                _convert(gguf, final)
    return final


def _convert(gguf: Path, final: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    say(f"converting {gguf.name} to safetensors in {final}: once, about 25 s for 135M weights")
    prepare()  # saving imports deepspeed
    try:
        with atomic_folder(final) as half, quiet(), contextlib.redirect_stderr(io.StringIO()):  # its bar has no switch
            model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model.hf_quantizer = None  # else it refuses to be saved, though its weights are plain by now
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(half)
            tokenizer.save_pretrained(half)
            make_readable(half)
    except SafetensorError as error:
        raise StorageError(f"cannot write below {final.parent}: {error}; free space or set XDG_CACHE_HOME") from None
    except OSError:
        raise
    except Exception as error:  # what a torn or unknown file makes of its readers
        said = door.reason(error)
        raise ModelError(f"{gguf} cannot be converted ({said}); set model.source to another model") from None
