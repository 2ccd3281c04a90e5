"""The tuned model as a plain transformers folder with its card, written beside its name and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ragdist.config import ModelConfig, Settings
from ragdist.lm import zero
from ragdist.lm.adapters import origin
from ragdist.lm.checkpoints import new_model
from ragdist.lm.load import load_model, load_tokenizer, stop_at, with_adapter
from ragdist.lm.rows import RowSchedule
from ragdist.tracking.card import CARD, begun


def save(trainer: Any, folder: Path, settings: Settings, base: Callable[[ModelConfig, int], Any], card: str) -> None:
    """Rank 0 writes the model beside its final name and renames it; the others help to gather the shards.

    Args:
        trainer: whose model it is.
        folder: the run's.
        settings: whether adapters are merged.
        base: loads the model that the adapters belong to.
        card: the model card.
    """
    state = trainer.accelerator.get_state_dict(trainer.deepspeed)
    if dist.get_rank() == 0:
        model = trainer.accelerator.unwrap_model(trainer.deepspeed)
        for tied, source in getattr(model, "all_tied_weights_keys", {}).items():
            if source in state:  # DeepSpeed's copy holds it twice
                state.pop(tied, None)
        stop_at(model, load_tokenizer(settings.model).end)
        with new_model(folder) as half:
            model.save_pretrained(half, state_dict=state)
            if settings.train.lora.rank and settings.train.lora.merge:
                _merge(half, half, partial(base, settings.model, settings.seed), settings.model)
            trainer.processing_class.save_pretrained(half)
            (half / CARD).write_text(card)
    dist.barrier()


def write_merged(adapter: Path, to: Path, settings: Settings) -> None:
    """Writes the model of ATM's generator, whose adapter this is, whole into a folder, with its tokenizer.

    Raises:
        ModelError: its base is not there, or is not the adapter's.
    """
    zero.prepare()  # saving imports deepspeed
    base = origin(str(adapter), settings, settings.generator).base
    with zero.quiet():
        _merge(adapter, to, partial(load_model, base, training=True), base)
        load_tokenizer(settings.model.at(str(adapter))).backend.save_pretrained(to)


def _merge(adapter: Path, to: Path, base: Callable[[], Any], config: ModelConfig) -> None:
    """Writes the base model with the adapter of this folder merged in; where `to` is that folder, in its place."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # the base is loaded whole, by this process alone
    merged = with_adapter(base(), adapter)
    if to == adapter:
        shutil.rmtree(adapter)
    stop_at(merged, load_tokenizer(config).end)
    merged.save_pretrained(to)


def card(name: str, trainer: Any, plan: RowSchedule, rows: Path, settings: Settings) -> str:
    """The model card: what was tuned, on what, how, with which versions."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    told = (
        f"The {name} model, tuned by ragdist from `{settings.model.source}` on {plan.rows} rows of "
        f"`{rows.parent.name}`,\n{trainer.state.global_step} steps of {settings.train.examples_per_step} rows; loss "
        f"{losses[0]:.4f} at first,\n{losses[-1]:.4f} at last."
    )
    return begun(name, settings.model.source, told, settings, ("model", "train", "seed"))
