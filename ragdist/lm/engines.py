"""Who writes texts with a model, as the settings say.

transformers   lm.write         the yardstick, and the choice on a CPU
paged          lm.paged         continuous batching, on the very module that learns or is asked
vllm           lm.vllm_writer   an engine of its own beside it, which takes up what was published
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from ragdist.config import Engine, EnginesConfig, ModelConfig
from ragdist.errors import ConfigError, EngineError
from ragdist.roles import EngineWriter, Tokenizer
from ragdist.tracking.progress import say

VLLM = "ragdist[vllm]"


def check(engine: Engine, block: str) -> None:
    """Says what `auto` is, once a process.

    Args:
        engine: as the settings have it.
        block: of the settings, where it stands.

    Raises:
        ConfigError: it is not installed.
    """
    if engine == "auto":
        _say_auto()
    if engine == "vllm" and not importlib.util.find_spec("vllm"):
        raise ConfigError(
            f"{block}.engine=vllm is not installed in this environment; pip install '{VLLM}', or set "
            f"{block}.engine=paged"
        )


@cache
def _say_auto() -> None:
    say("engine=auto: texts are written by transformers")


def engine_of(
    engine: Engine, model: Any, tokenizer: Tokenizer, about: ModelConfig, config: EnginesConfig, tokens: int
) -> EngineWriter | None:
    """The engine that writes beside this model; None for transformers' loop.

    Args:
        engine: as the settings have it.
        model: in this process; vllm loads its own from what it takes up.
        tokenizer: the model's.
        about: where it came from and how it is held.
        config: what engines are given.
        tokens: padded tokens of one forward pass.
    """
    if engine == "paged":
        from ragdist.lm.paged import PagedWriter

        return PagedWriter(model, tokenizer, config, tokens)
    if engine == "vllm":
        from ragdist.lm.vllm_writer import VllmWriter

        made: EngineWriter = VllmWriter(about, tokenizer, config)
        return made
    return None


def refuse_other(writer: EngineWriter, wanted: int) -> None:
    """Holds an engine to the version that is asked for.

    Raises:
        EngineError: it has another.
    """
    if writer.version != wanted:
        raise EngineError(
            f"{writer.engine} holds version {writer.version} of the model, and texts of version {wanted} are asked "
            "for; none was written. Type the same command again"
        )
