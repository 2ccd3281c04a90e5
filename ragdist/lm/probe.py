"""Whether an engine writes with the weights that it should have: what it makes of its own words, beside the model.

A few prompts, the same for every version (so that keys and values kept of old weights are met again), are continued
greedily by the engine, which says how likely it found each token; the model reads the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from ragdist.config import EnginesConfig
from ragdist.draws import rng_for
from ragdist.errors import EngineError
from ragdist.lm.load import ModelTokenizer
from ragdist.lm.read import ModelReader
from ragdist.records import Example, Prompt
from ragdist.roles import EngineWriter, Reader
from ragdist.tracking.progress import say

LENGTH = 80
"""Tokens of a prompt: more than two pages of the paged engine on a CPU."""
TOLERANCES = {4: 0.001, 2: 0.05}
"""Where the settings have none, by the bytes of a weight."""


class Continues(Protocol):
    """Whoever says how likely it found what it wrote; see `roles.EngineWriter`."""

    def scored(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[tuple[list[int], list[float]]]: ...


def take_up(
    writer: EngineWriter,
    version: int,
    folder: Path,
    reader: ModelReader,
    tokenizer: ModelTokenizer,
    config: EnginesConfig,
    seed: int,
) -> dict[str, Any]:
    """Lets the engine take up these weights and proves that it has; a fresh engine gets a second chance.

    Args:
        writer: the engine.
        version: of the weights.
        folder: where they are published.
        reader: of the model that has them.
        tokenizer: the model's.
        config: what the probe is made of, and how far apart the two may be.
        seed: of the prompts.

    Returns:
        {engine, version, nats: mean difference, fresh: whether it took a fresh engine}, for metrics.jsonl.

    Raises:
        EngineError: the engine has other weights, and so has a fresh one.
    """

    def off() -> float:
        return apart(continued(writer, tokenizer, config, seed), reader)

    writer.take_up(version, folder)
    return proved(writer.engine, version, off, writer.renew, _tolerance(config, reader.model))


def proved(
    engine: str, version: int, off: Callable[[], float], renew: Callable[[], None], allowed: float
) -> dict[str, Any]:
    """See `take_up`: `off` measures the mean difference, `renew` starts the engine afresh."""
    nats, fresh = off(), False
    if not nats <= allowed:
        say(f"{engine}: {nats:.3g} nats from version {version} of the model; a fresh engine is started")
        renew()
        nats, fresh = off(), True
    if not nats <= allowed:
        raise EngineError(
            f"{engine} does not write with version {version} of the model: its log-probabilities are "
            f"{nats:.3g} nats off in the mean, engines.probe_tolerance allows {allowed:g}, and a fresh engine was as "
            "far; set the engine to transformers, or raise engines.probe_tolerance if that is rounding"
        )
    return {"engine": engine, "version": version, "nats": nats, "fresh": fresh}


def allowed(model: Any, config: EnginesConfig) -> float:
    """Nats that an engine may be apart from this resident model."""
    return _tolerance(config, model.module)


def _tolerance(config: EnginesConfig, module: Any) -> float:
    return config.probe_tolerance or TOLERANCES[module.dtype.itemsize]


def continued(
    writer: Continues, tokenizer: ModelTokenizer, config: EnginesConfig, seed: int
) -> list[tuple[Example, list[float]]]:
    """Each prompt with what the engine wrote after it, and the log-probability that it gave each token."""
    asked = prompts(tokenizer, config.probe_prompts, seed)
    found = zip(asked, writer.scored(asked, config.probe_tokens), strict=True)
    return [
        (Example(id=prompt.id, tokens=(*prompt.tokens, *text), prompt_tokens=len(prompt.tokens)), logprobs)
        for prompt, (text, logprobs) in found
    ]


def apart(found: Sequence[tuple[Example, list[float]]], reader: Reader) -> float:
    """Mean absolute difference, in nats a token, between the engine's log-probabilities and the reader's."""
    read = dict(row for batch in reader.read([example for example, _ in found]) for row in batch)
    pairs = (zip(logprobs, read[example.id], strict=True) for example, logprobs in found)
    off = [abs(said - known) for said, known in chain.from_iterable(pairs)]
    return sum(off) / len(off)


def prompts(tokenizer: ModelTokenizer, count: int, seed: int) -> list[Prompt]:
    """Random ordinary tokens; the same for every version."""
    special = {*tokenizer.backend.added_tokens_decoder, tokenizer.end}
    ordinary = [token for token in range(len(tokenizer.backend)) if token not in special]
    rngs = [rng_for(seed, "probe", str(number)) for number in range(count)]
    return [
        Prompt(id=str(number), tokens=tuple(rng.choice(ordinary) for _ in range(LENGTH)))
        for number, rng in enumerate(rngs)
    ]
