"""Models that answer, in this process: one, or several over one base; and the batches that they are asked in.

Batches are cut over all that is asked of a model, by settings alone, what is done already included. So a text or a
probability does not depend on who computes it, nor on what a killed process had finished.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Any

from ragdist.config import AnswerersConfig, ModelConfig, Settings
from ragdist.lm import read
from ragdist.lm.batches import by_length, unfinished
from ragdist.lm.beside import ConcurrentWriters
from ragdist.lm.load import load_model, load_tokenizer, release
from ragdist.lm.read import ModelReader
from ragdist.lm.score import ModelScorer
from ragdist.lm.shared import SharedBase
from ragdist.lm.write import ModelWriter, writing_batches
from ragdist.records import Example, Prompt, Written
from ragdist.roles import Pair, Writer


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
    """

    def __init__(self, models: Sequence[Any], tokenizer: Any, tokens_per_batch: int) -> None:
        self.tokens_per_batch, self.models = tokens_per_batch, models
        writers = [ModelWriter(model, tokenizer, tokens_per_batch) for model in models]
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

    def release(self) -> None:
        """Gives the memory of the weights back."""
        for model in self.models:
            release(model)


def load_answerer(
    config: ModelConfig, sources: Sequence[str], tokens_per_batch: int, base: SharedBase | None = None
) -> ModelAnswerer:
    """Loads the models at these sources: one by itself, an adapter merged in; several over one base.

    Args:
        config: names the base, and how models are held.
        sources: where the models come from.
        tokens_per_batch: padded tokens of one forward pass.
        base: that of `config`, where it is there already.

    Raises:
        ModelError: one is not there, or does not load.
    """
    if len(sources) == 1:
        own = config.replaced("source", sources[0])
        return ModelAnswerer([load_model(own)], load_tokenizer(own), tokens_per_batch)
    base = base or SharedBase(config)
    return ModelAnswerer([base.answers(source) for source in sources], load_tokenizer(config), tokens_per_batch)


def held(sources: Sequence[str], settings: Settings, _: AnswerersConfig, __: int) -> ModelAnswerer:
    """The plain object of a rank that answers."""
    return load_answerer(settings.model, sources, settings.evaluation.tokens_per_batch)


def held_scorer(
    source: tuple[str, Callable[[Pair], Sequence[int]]], settings: Settings, _: AnswerersConfig, __: int
) -> ModelScorer:
    """The plain object of a rank that scores."""
    folder, render = source
    return ModelScorer(SharedBase(settings.model).classifier(folder), render, settings.evaluation.tokens_per_batch)
