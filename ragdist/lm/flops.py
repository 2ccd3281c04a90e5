"""Floating-point operations of learning, counted from shapes, and how many of them a card can do.

    forward     2 for each weight of a linear map and token; 2 for each entry of attention's two products, which are
                head width x tokens^2 each, the masked half included; 2 for each weight of the output head and kept
                position
    backward    the same for what is handed on, and again for each weight that learns

Equal to torch's FlopCounterMode on a Llama (`tests/lm/test_flops.py`). Embeddings, norms and activations count as 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ragdist.lm.forward import Pass

PEAKS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200 NVL": 835.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 311.9,
    "L40S": 362.1,
    "L40": 181.1,
    "L4": 121.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "4090": 165.2,
}
"""Dense bfloat16 TFLOP/s by words of a card's name, as NVIDIA's data sheets have them; the first that fits counts."""


class ModelCost(NamedTuple):
    """What a model costs by the token. Example: SmolLM2-135M has 106 million weights in its linear maps."""

    frozen: int
    """Weights of linear maps that do not learn, the output head left out."""
    learned: int
    """Those that do."""
    head: int
    """Weights of the output head."""
    head_learns: bool
    attention: int
    """Layers x heads x head width."""

    def forward(self, tokens: int, squares: int, kept: int) -> int:
        """FLOPs of a forward pass.

        Args:
            tokens: of all lines.
            squares: sum of each line's tokens squared.
            kept: positions that logits are made at.
        """
        return 2 * ((self.frozen + self.learned) * tokens + 2 * self.attention * squares + self.head * kept)

    def backward(self, tokens: int, squares: int, kept: int) -> int:
        """FLOPs of the backward pass behind it."""
        handed_on = self.forward(tokens, squares, kept)
        head = self.head * kept * self.head_learns
        return handed_on + 2 * (self.learned * tokens + 2 * self.attention * squares + head)


def cost_of(model: Any) -> ModelCost | None:
    """A model's cost; None where linear maps and full attention are not all of it (mixtures of experts, say)."""
    shape, head = model.config.get_text_config(), model.get_output_embeddings()
    layers = set(getattr(shape, "layer_types", None) or ["full_attention"])
    experts = getattr(shape, "num_local_experts", None) or getattr(shape, "num_experts", None)
    if head is None or experts or layers != {"full_attention"} or not getattr(shape, "num_attention_heads", None):
        return None
    weights = {True: 0, False: 0}
    for part in model.modules():
        if isinstance(part, nn.Linear) and part is not head:
            weights[part.weight.requires_grad] += _size(part.weight)
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    attention = shape.num_hidden_layers * shape.num_attention_heads * width
    return ModelCost(weights[False], weights[True], _size(head.weight), head.weight.requires_grad, attention)


def _size(weight: Any) -> int:
    """Entries of a weight, also where ZeRO-3 left this rank none of them."""
    return int(getattr(weight, "ds_numel", weight.numel()))


class Counted(NamedTuple):
    """What a forward pass took, with its backward pass where it learns."""

    useful: int
    """Tokens, padding left out."""
    padded: int
    """Tokens that were computed."""
    worth: int
    """FLOPs that the useful tokens need."""
    done: int
    """FLOPs for all tokens, and for what is computed again because it was not kept."""


def counted(taken: Pass, cost: ModelCost | None, recomputes: bool) -> Counted:
    """What a pass took; without a cost its FLOPs are 0."""
    wide, lines = max(taken.lines), len(taken.lines)
    useful = sum(taken.lines), sum(line * line for line in taken.lines)
    padded = wide * lines, wide * wide * lines
    if cost is None:
        return Counted(useful[0], padded[0], 0, 0)
    worth, done = (
        cost.forward(*size, taken.kept) + taken.learns * cost.backward(*size, taken.kept) for size in (useful, padded)
    )
    return Counted(useful[0], padded[0], worth, done + taken.learns * recomputes * cost.forward(*padded, 0))


def utilization(rates: Sequence[float], place: torch.Tensor) -> dict[str, float]:
    """{"mfu", "hfu"}: what part of its peak a card does, nothing where the peak or the FLOPs are not known.

    Args:
        rates: `worth` and `done` a second and rank.
        place: a tensor on the card, in the model's number format.
    """
    most = peak(place)
    if most is None or not any(rates):
        return {}
    return {name: round(rate / most, 4) for name, rate in zip(("mfu", "hfu"), rates, strict=True)}


def peak(place: torch.Tensor) -> float | None:
    """FLOP/s of the card that a tensor is on in the tensor's number format; None where it is not known."""
    if place.device.type != "cuda" or place.dtype != torch.bfloat16:
        return None
    return peak_of(torch.cuda.get_device_name(place.device))


def peak_of(card: str) -> float | None:
    """Dense bfloat16 FLOP/s of a card by its name; None where it is not known, or a part of it (MIG)."""
    words = set(re.findall(r"\w+", card))
    if "MIG" in words:
        return None
    return next((tera * 1e12 for name, tera in PEAKS.items() if set(name.split()) <= words), None)
