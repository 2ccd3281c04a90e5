"""Models that answer, in this process: one, or several over one base; and the batches that they are asked in.

Batches are cut over all that is asked of a model, by settings alone, what is done already included. So a text or a
probability does not depend on who computes it, nor on what a killed process had finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Any

from ragdist.config import AnswerersConfig, Settings
from ragdist.errors import ConfigError
from ragdist.lm import probe, read
from ragdist.lm.batches import by_length, unfinished
from ragdist.lm.beside import ConcurrentWriters
from ragdist.lm.engines import engine_of
from ragdist.lm.load import load_model, load_tokenizer, release
from ragdist.lm.read import ModelReader
from ragdist.lm.score import ModelScorer
from ragdist.lm.shared import SharedBase
from ragdist.lm.source import resolve
from ragdist.lm.write import ModelWriter, writing_batches
from ragdist.records import Example, Prompt, Written
from ragdist.roles import EngineWriter, Pair, Writer

log = logging.getLogger("ragdist")


def prompt_batches(
    prompts: Sequence[Prompt], tokens_per_batch: int, max_new_tokens: int, done: Collection[str]
) -> list[Sequence[Prompt]]:
    """The batches that are not done, each for one model, the longest prompts first."""
    models = sorted({prompt.model for prompt in prompts})
    each = ([prompt for prompt in prompts if prompt.model == model] for model in models)
    cut = chain.from_iterable(writing_batches(mine, tokens_per_batch, max_new_tokens) for mine in each)
    return sorted(unfinished(cut, done), key=lambda batch: -len(batch[0].tokens))


def example_batches(
    examples: Sequence[Example], tokens_per_batch: int, on_cpu: bool, done: Collection[str]
) -> tuple[list[Sequence[Example]], tuple[int, ...]]:
    """The batches that are not done, the longest first, and what all examples begin with, the done ones too."""
    cut = by_length(examples, read.room(tokens_per_batch, on_cpu))
    return list(unfinished(cut, done)), read.beginning(examples)


class ModelAnswerer:
    """Implements Answerer with one model, or with several that share a base.

    Args:
        models: causal language models; none shares a module with another, see `lm.shared`.
        tokenizer: of all of them.
        tokens_per_batch: padded tokens of one forward pass.
        engines: who writes with each; none: transformers' loop.
    """

    def __init__(
        self, models: Sequence[Any], tokenizer: Any, tokens_per_batch: int, engines: Sequence[EngineWriter] = ()
    ) -> None:
        self.tokens_per_batch, self.models, self.engines = tokens_per_batch, models, engines
        self.proofs: list[dict[str, Any]] = []
        """What the probe of each engine found."""
        writers: Sequence[Writer] = engines or [ModelWriter(model, tokenizer, tokens_per_batch) for model in models]
        self.writer: Writer = writers[0] if len(writers) == 1 else ConcurrentWriters(writers)
        self.reader = ModelReader(models[0], tokens_per_batch)

    def write(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, done: Collection[str] = (), **how: Any
    ) -> Iterator[list[Written]]:
        """See `roles.Answerer`."""
        batches = prompt_batches(prompts, self.tokens_per_batch, max_new_tokens, done)
        missing = list(chain.from_iterable(batches))
        return self.writer.write(missing, max_new_tokens=max_new_tokens, **how)

    def read(
        self, examples: Sequence[Example], *, done: Collection[str] = ()
    ) -> Iterator[list[tuple[str, list[float]]]]:
        """See `roles.Answerer`."""
        on_cpu = self.reader.model.device.type == "cpu"
        batches, shared = example_batches(examples, self.tokens_per_batch, on_cpu, done)
        return self.reader.read(list(chain.from_iterable(batches)), shared)

    def write_batch(self, batch: Sequence[Prompt], how: dict[str, Any]) -> list[Written]:
        """The texts of one batch."""
        return [text for part in self.writer.write(batch, **how) for text in part]

    def read_batch(self, batch: Sequence[Example], shared: tuple[int, ...]) -> list[tuple[str, list[float]]]:
        """The log-probabilities of one batch, as `read` has them."""
        return [row for part in self.reader.read(batch, shared) for row in part]

    def close(self) -> None:
        """Ends the engines."""
        for engine in self.engines:
            engine.close()

    def release(self) -> None:
        """Gives the memory of the weights back."""
        self.close()
        for model in self.models:
            release(model)


def load_answerer(settings: Settings, sources: Sequence[str], base: SharedBase | None = None) -> ModelAnswerer:
    """Loads the models at these sources: one by itself, an adapter merged in; several over one base.

    Args:
        settings: `model` names the base, and how models are held; `evaluation.engine` writes.
        sources: where the models come from.
        base: that of `model`, where it is there already.

    Raises:
        ConfigError: the engine holds one model, and several are asked.
        EngineError: the engine writes with other weights.
        ModelError: one is not there, or does not load.
    """
    config, tokens = settings.model, settings.evaluation.tokens_per_batch
    if len(sources) == 1:
        abouts = [config.replaced("source", sources[0])]
        models: list[Any] = [load_model(abouts[0])]
    else:
        abouts, base = [config] * len(sources), base or SharedBase(config)
        models = [base.answers(source) for source in sources]
    tokenizer, engine = load_tokenizer(abouts[0]), settings.evaluation.engine
    if engine == "vllm" and len(sources) > 1:
        raise ConfigError(
            f"evaluation.engine=vllm holds one model, and {len(sources)} over one base are asked; set "
            "evaluation.engine=paged or transformers"
        )
    made = [
        engine_of(engine, model, tokenizer, about, settings.engines, tokens)
        for model, about in zip(models, abouts, strict=True)
    ]
    answerer = ModelAnswerer(models, tokenizer, tokens, [one for one in made if one])
    for writer, model, about in zip(answerer.engines, models, abouts, strict=False):
        reader = ModelReader(model, tokens)
        found = probe.take_up(writer, 0, resolve(about), reader, tokenizer, settings.engines, settings.seed)
        answerer.proofs.append(found)
    return answerer


def held(sources: Sequence[str], settings: Settings, _: AnswerersConfig, __: int) -> ModelAnswerer:
    """The plain object of a rank that answers."""
    answerer = load_answerer(settings, sources)
    for found in answerer.proofs:
        log.info("probe: %s", found)
    return answerer


def held_scorer(
    source: tuple[str, Callable[[Pair], Sequence[int]]], settings: Settings, _: AnswerersConfig, __: int
) -> ModelScorer:
    """The plain object of a rank that scores."""
    folder, render = source
    return ModelScorer(SharedBase(settings.model).classifier(folder), render, settings.evaluation.tokens_per_batch)
