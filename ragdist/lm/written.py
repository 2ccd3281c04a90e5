"""A model that only writes: one rank's, which takes up each version that others publish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ragdist.config import GroupConfig, Settings
from ragdist.lm.load import load_model, load_tokenizer, release
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt, Written
from ragdist.roles import Tokenizer


class WritingModel:
    """Implements the writing half of `roles.Model`.

    Args:
        source: folder or other source of the model, instead of `model.source`.
        settings: all settings.
        side: of the group.
        version: of the model in `source`.

    Raises:
        ModelError: the model does not load.
    """

    def __init__(self, source: str, settings: Settings, side: GroupConfig, version: int) -> None:
        self.settings = settings
        self._writer: ModelWriter | None = None
        self.take_up(source, version)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""
        return self._tokenizer

    def take_up(self, source: str, version: int) -> None:
        """Holds this model instead of the last."""
        if self._writer:
            release(self._writer.model)
        model = self.settings.model.at(source)
        self._tokenizer = load_tokenizer(model)
        self._writer = ModelWriter(load_model(model), self._tokenizer, self.settings.evaluation.tokens_per_batch)
        self.version = version

    def open_phase(self) -> None:
        """Nothing is shared with other ranks."""

    def close_phase(self) -> None:
        """Nothing is shared with other ranks."""

    def write(self, prompts: Sequence[Prompt], **how: Any) -> Iterator[list[Written]]:
        """See `roles.Writer`."""
        assert self._writer
        return self._writer.write(prompts, **how)
