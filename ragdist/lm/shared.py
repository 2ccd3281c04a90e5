"""Several models over one copy of a base model's weights, in this process.

A role is a skeleton of modules of its own around the very tensors of the base, with its adapter beside them, not
merged. What peft and transformers keep in modules (the active adapter, hooks) belongs to one role, so that two threads
can run two roles at once.
"""

from __future__ import annotations

import copy
import json
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from ragdist.config import ModelConfig
from ragdist.errors import ModelError
from ragdist.lm import door, zero
from ragdist.lm.load import load_model
from ragdist.lm.score import HEAD, load_scorer, reading_last
from ragdist.lm.source import adapter_base, refuse_other_base, resolve


def around(module: Any) -> Any:
    """A module like this one, of the same tensors."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in _tensors(module)})


class SharedBase:
    """Holds a base model's weights and makes models of it that share them.

    Args:
        config: names the base, its number format and attention.

    Raises:
        ModelError: the base does not load.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.folder = config, resolve(config).resolve()
        self.model = load_model(config)

    def answers(self, source: str | Path) -> PreTrainedModel:
        """The causal language model in `source`, in eval mode.

        The base itself and adapters of it share its weights; any other whole model is loaded by itself.

        Raises:
            ModelError: there is no such model, or it is an adapter of another base or for another task.
        """
        asked, folder = self._find(source)
        if folder == self.folder:
            itself: PreTrainedModel = around(self.model)
            return itself
        if adapter_base(folder):
            return self._adapted(around(self.model), folder, "CAUSAL_LM")
        return load_model(asked)

    def classifier(self, source: str | Path) -> PreTrainedModel:
        """The sequence classifier with one label in `source`, in eval mode; its logits are [B, 1].

        An adapter of the base shares the weights below the head; a whole model is loaded by itself.

        Raises:
            ModelError: there is no such model, or it is an adapter of another base or for another task.
        """
        _, folder = self._find(source)
        if not adapter_base(folder):
            whole: PreTrainedModel = load_scorer(self.config, folder)
            return whole
        model = self._adapted(self._headed(), folder, "SEQ_CLS")
        model.get_submodule(HEAD).float()  # as in `load_scorer`: confidences that are close are distinguished
        role: PreTrainedModel = reading_last(model)
        return role

    def _find(self, source: str | Path) -> tuple[ModelConfig, Path]:
        asked = self.config if str(source) == self.config.source else self.config.at(source)
        return asked, resolve(asked).resolve()

    def _headed(self) -> Any:
        """The base below a head for one label, which has no weights yet."""
        shape, below = copy.deepcopy(self.model.config), self.model.base_model
        shape.num_labels = 1
        kind: Any = AutoModelForSequenceClassification
        try:
            with torch.device("meta"):
                model = kind.from_config(shape, dtype=self.model.dtype, trust_remote_code=False)
        except ValueError:  # the library knows no such classifier
            model = None
        if model is None or type(model.base_model) is not type(below):
            raise ModelError(
                f"model.source={self.config.source!r} ({shape.model_type}) cannot be a classifier in transformers; "
                "set duet.arbiter=features, or model.source to another model"
            )
        setattr(model, model.base_model_prefix, around(below))
        return model

    def _adapted(self, model: Any, folder: Path, task: str) -> PreTrainedModel:
        """`model` with the adapter of this folder built in."""
        from peft import PeftModel
        from peft.utils import ModulesToSaveWrapper

        shape = json.loads((folder / "adapter_config.json").read_text())
        refuse_other_base(self.config, self.folder, folder)
        kind = f"{shape['peft_type']} for {shape['task_type']}"
        if kind != f"LORA for {task}":
            raise ModelError(f"{folder}: wanted an adapter LORA for {task}, got {kind}")
        what = f"{folder} does not fit model.source={self.config.source!r}"
        with door.refused(what, "tune the adapter again, or set model.source to its base"), zero.quiet():
            model = PeftModel.from_pretrained(model, str(folder), low_cpu_mem_usage=True).get_base_model()
        for name, part in model.named_children():
            if isinstance(part, ModulesToSaveWrapper):
                setattr(model, name, part.modules_to_save["default"])  # the head, without the one it was made from
        shared = {id(tensor) for tensor in _tensors(self.model)}
        for name, weight in model.named_parameters():
            if weight.is_meta:
                raise ModelError(f"{folder} has no weights for {name}; it is not a whole adapter")
            if id(weight) not in shared:
                weight.data = weight.data.to(self.model.device, self.model.dtype)
        role: PreTrainedModel = model.eval()
        return role


def _tensors(module: Any) -> chain[torch.Tensor]:
    return chain(module.parameters(), module.buffers())
