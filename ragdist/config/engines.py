"""Settings of the engines that write texts; the choice itself stands beside each model that writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ragdist.config.block import SettingsBlock

Engine = Literal["auto", "transformers", "paged", "vllm"]


class EnginesConfig(SettingsBlock):
    """What the engines `paged` and `vllm` are given, and how they are held to the weights that they should have."""

    max_sequences: int = Field(64, ge=1)
    """Texts that an engine writes at the same time; others wait."""
    memory_share: float = Field(0.5, gt=0, lt=1)
    """Share of the memory that an engine may take: of what is free on the card, or of this machine's on a CPU; with
    `vllm` on a card of all of it, weights included."""
    tensor_parallel: int = Field(1, ge=1)
    """vllm: cards that hold one model together."""
    probe_tolerance: float = Field(0, ge=0)
    """Largest mean difference, in nats, between an engine's log-probabilities and the model's own, after each change of
    weights; beyond it the engine is started afresh, then the run ends. 0 goes by number format: 0.001 in float32, 0.05
    in bfloat16."""
    probe_prompts: int = Field(8, ge=1)
    """Prompts of that comparison, random tokens by seed."""
    probe_tokens: int = Field(64, ge=1)
    """Tokens that are written to each of them."""
    deadline_s: float = Field(600, gt=0)
    """Longest wait, in seconds, for an engine to start, and for the next text of it."""


def named(engine: Engine, config: EnginesConfig) -> str:
    """What an engine adds to the name of all that it writes; empty for transformers, whose texts need no name.

    `auto` is transformers on every machine, until a card was measured.
    """
    if engine in ("auto", "transformers"):
        return ""
    return f"vllm, {config.tensor_parallel} cards" if engine == "vllm" and config.tensor_parallel > 1 else engine
