"""A model that only writes: one rank's, which takes up each version that others publish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ragdist.config import Engine, GroupConfig, Settings
from ragdist.lm import engines, probe
from ragdist.lm.load import ModelTokenizer, load_model, load_tokenizer, release
from ragdist.lm.read import ModelReader
from ragdist.lm.source import resolve
from ragdist.lm.write import ModelWriter
from ragdist.records import Example, Prompt, Written
from ragdist.roles import EngineWriter


class WritingModel:
    """Implements the writing half of `roles.Model`.

    Args:
        source: folder or other source of the model, instead of `model.source`.
        settings: all settings.
        side: of the group.
        version: of the model in `source`.
        engine: who writes; vllm loads the weights itself.

    Raises:
        EngineError: the engine does not start.
        ModelError: the model does not load.
    """

    def __init__(
        self, source: str, settings: Settings, side: GroupConfig, version: int, engine: Engine = "transformers"
    ) -> None:
        self.settings, self.engine = settings, engine
        self._module: Any = None
        self._engine: EngineWriter | None = None
        self.take_up(source, version)

    @property
    def tokenizer(self) -> ModelTokenizer:
        """The model's own tokenizer."""
        return self._tokenizer

    def take_up(self, source: str, version: int) -> None:
        """Holds this model instead of the last."""
        model, tokens = self.settings.model.at(source), self.settings.evaluation.tokens_per_batch
        if self.engine != "vllm":
            self._let_go()
            self._module = load_model(model)
        if not self._engine:
            self._tokenizer = load_tokenizer(model)
            about = (self.engine, self._module, self._tokenizer, model, self.settings.engines, tokens)
            self._engine = engines.engine_of(*about)
        if self._engine:
            self._engine.take_up(version, resolve(model))
        self._writer = self._engine or ModelWriter(self._module, self._tokenizer, tokens)
        self.version = version

    def named(self) -> str:
        """Who writes."""
        return self._engine.engine if self._engine else "transformers"

    def continued(self) -> list[tuple[Example, list[float]]]:
        """What it makes of the probe's prompts, see `lm.probe`."""
        return probe.continued(self, self._tokenizer, self.settings.engines, self.settings.seed)

    def open_phase(self) -> None:
        """Nothing is shared with other ranks."""

    def close_phase(self) -> None:
        """Nothing is shared with other ranks."""

    def write(self, prompts: Sequence[Prompt], **how: Any) -> Iterator[list[Written]]:
        """See `roles.Writer`."""
        if self._engine:
            engines.refuse_other(self._engine, self.version)
        return self._writer.write(prompts, **how)

    def scored(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        """See `roles.EngineWriter`."""
        if self._engine:
            return self._engine.scored(prompts, max_new_tokens)
        written = (text for part in self.write(prompts, max_new_tokens=max_new_tokens) for text in part)
        ids = {text.prompt_id: text.ids for text in written}
        rows = [
            Example(id=prompt.id, tokens=(*prompt.tokens, *ids[prompt.id]), prompt_tokens=len(prompt.tokens))
            for prompt in prompts
        ]
        reader = ModelReader(self._module, self.settings.evaluation.tokens_per_batch)
        read = dict(row for batch in reader.read(rows) for row in batch)
        return [(list(ids[prompt.id]), read[prompt.id]) for prompt in prompts]

    def _let_go(self) -> None:
        if self._engine:
            self._engine.close()
        if self._module is not None:
            release(self._module)
        self._engine = self._module = None
