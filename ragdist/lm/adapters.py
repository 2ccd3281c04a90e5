"""A model of which a low-rank adapter learns: the base is frozen, the adapter fresh or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ragdist.config import LoraConfig, ModelConfig, Settings, SideConfig
from ragdist.errors import ConfigError
from ragdist.lm import door
from ragdist.lm.load import add_lora
from ragdist.lm.source import adapter_base, refuse_other_base, resolve
from ragdist.storage.atomic import read_json


class Origin(NamedTuple):
    """What a side's model is loaded from."""

    base: ModelConfig
    """Names the whole model."""
    adapter: Path | None
    """Folder of the adapter of it; None: there is none yet."""


def origin(source: str, settings: Settings, side: SideConfig) -> Origin:
    """Where the model in `source` comes from: a whole one, or an adapter of the side's base.

    The base goes by the settings, not by the folder that an adapter names, which may be another machine's.

    Raises:
        ModelError: one is not there, or the adapter is of another base than the side's.
    """
    model = settings.model if source == settings.model.source else settings.model.at(source)
    folder = resolve(model)
    if not adapter_base(folder):
        return Origin(model, None)
    base = settings.model.at(side.source) if side.source else settings.model
    if whole := adapter_base(resolve(base)):
        base = settings.model.at(whole)
    refuse_other_base(base, resolve(base), folder)
    return Origin(base, folder)


def adapted(model: Any, lora: LoraConfig, seed: int, folder: Path | None) -> Any:
    """The model with an adapter that learns, in the model's number format (a `PeftModel`).

    Args:
        model: changed in place; its own weights are frozen. They may be sharded already.
        lora: the adapter's shape.
        seed: decides the first weights of a fresh one.
        folder: of the adapter to go on with; None makes a fresh one.

    Raises:
        ConfigError: the adapter there has another shape, or none of this model's modules.
    """
    made = _kept(model, lora, folder) if folder else add_lora(model, lora, seed)
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(model.dtype)  # peft likes float32; what is saved is what learns on
    made.register_state_dict_post_hook(_what_learns)
    return made


def _what_learns(made: Any, state: dict[str, Any], *_: Any) -> None:
    """Leaves in a checkpoint what learns; DeepSpeed, told the same, keeps a frozen weight that has two names."""
    learns = {name for name, weight in made.named_parameters() if weight.requires_grad}
    for name in state.keys() - learns:
        del state[name]


def _kept(model: Any, lora: LoraConfig, folder: Path) -> Any:
    from peft import PeftModel

    shape = read_json(folder / "adapter_config.json")
    got = [shape.get(name) for name in ("peft_type", "task_type", "r", "lora_alpha")]
    if got != ["LORA", "CAUSAL_LM", lora.rank, lora.alpha]:
        raise ConfigError(
            f"{folder}: wanted an adapter LORA for CAUSAL_LM of rank {lora.rank} and alpha {lora.alpha}, got {got[0]} "
            f"for {got[1]} of rank {got[2]} and alpha {got[3]}; set this side's train.lora.rank and train.lora.alpha"
        )
    with door.refused(f"{folder} does not fit its base", "tune the adapter again, or set the side's source to another"):
        return PeftModel.from_pretrained(
            model, str(folder), is_trainable=True, autocast_adapter_dtype=False, torch_device="cpu"
        )
