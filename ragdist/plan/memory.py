"""Bytes that one rank holds, part by part: what is sharded, what is not, and where it lies.

N weights, T of them trained, b bytes each (2 in bfloat16, 4 in float32), over R ranks:

    part         ZeRO 0    1                 2, 3              offloaded by
    weights      bN        bN                bN; 3: bN/R       all
    gradients    bT        4T; 2T more       4T/R; 2: 2T/R     optimizer, all
                           in bfloat16       more in bfloat16
    master       none      4T/R              4T/R              optimizer, all
    optimizer    8T        8T/R              8T/R              optimizer, all

With R ranks the sum at ZeRO 2 in bfloat16 is 2N + 18N/R, at ZeRO 3 18N/R, as DeepSpeed's own estimators have it.
`docs/plan.md` says where each formula comes from, `docs/results/plan.md` how near it is to what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ragdist.config import LoraConfig, TrainConfig
from ragdist.plan.shape import Shape

Place = Literal["gpu", "host"]
BUCKET = 500_000_000
"""Gradients that DeepSpeed reduces at once (`reduce_bucket_size`)."""
LIVE = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered at most (`stage3_max_live_parameters`)."""
REPLICA = "gathered replica"
LIBRARIES = 600 * 2**20
"""Python with torch, transformers, trl and deepspeed imported, on CPU: 583 MiB."""
CUDA_HOST, CUDA_CARD = 3 * 2**30, 600 * 2**20
"""About what a process with a CUDA context takes of host and card before a tensor is made."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one thing in one place. Example: Part("optimizer", 1_076_120_064, "host", "AdamW's two moments")."""

    name: str
    bytes: int
    place: Place
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFootprint:
    """How a rank holds its model."""

    shape: Shape
    train: TrainConfig
    ranks: int
    width: int
    """Bytes of a weight."""
    gpu: bool
    beside: LoraConfig | None = None
    """Of a second adapter of the same weights."""
    cards: int = 1
    """That hold it together, where it only writes."""

    @property
    def stage(self) -> int:
        """Of ZeRO, as it runs."""
        return self.train.stage(self.ranks, self.width)

    @property
    def trained(self) -> int:
        """Weights that have a gradient."""
        lora, beside = self.train.lora, self.beside
        other = self.shape.adapters(beside.rank, beside.targets) if beside else 0
        return other + (self.shape.adapters(lora.rank, lora.targets) if lora.rank else self.shape.weights)

    @property
    def all_weights(self) -> int:
        """Adapters stand beside the model's own."""
        return self.shape.weights + (self.trained if self.train.lora.rank else 0)

    @property
    def place(self) -> Place:
        """Where the rank computes."""
        return "gpu" if self.gpu else "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The largest microbatch of a rank."""

    rows: int
    tokens: int
    """Of the longest row, prompt and answer."""
    answer: int
    """Of the longest answer: logits are computed there and nowhere else."""
    sequences: int = 1
    """Of each row, all in the graph at once: MITO has two."""
    attention: str = "sdpa"
    union: bool = False
    """Logits are made at each position that any row wants, not at the row's own alone."""

    @property
    def padded(self) -> int:
        """Tokens that are computed."""
        return self.rows * self.sequences * self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """The largest batch of texts."""

    cached: int
    """Tokens in the cache at most, prompts and texts together."""
    read: int
    """Tokens of prompts that are read at once."""
    texts: int


def states(held: ModelFootprint) -> list[Part]:
    """Weights, gradients and what the optimizer keeps: there from the first step to the last."""
    stage, ranks, trained = held.stage, held.ranks, held.trained
    away: Place = "host" if held.train.offload != "none" else held.place
    share = 1 if stage == 0 else 1 / ranks
    weights = held.width * held.all_weights / (ranks if stage == 3 else held.cards)
    low = held.width == 2 and stage in (1, 2) and away == held.place  # summed in fp32 beside those in bfloat16
    summed = held.width if stage == 0 else 6 if low else 4
    gradients = summed * trained * (1 if stage < 2 else share)
    in_words = f" / {ranks} ranks" if ranks > 1 else ""
    parts = [
        Part(
            "weights",
            int(weights),
            "host" if held.train.offload == "all" else held.place,
            f"{held.width} bytes each" + in_words * (stage == 3),
        ),
        Part("gradients", int(gradients), away, f"{summed} bytes each" + in_words * (stage >= 2)),
        Part("optimizer", int(8 * trained * share), away, "AdamW's two moments" + in_words * (stage >= 1)),
    ]
    if stage:
        parts.append(Part("master weights", int(4 * trained * share), away, "fp32, for updates" + in_words))
    return parts


def learning(held: ModelFootprint, work: Work) -> list[Part]:
    """What a training step needs beside `states`: activations, logits, and DeepSpeed's buffers."""
    shape, stage, width = held.shape, held.stage, held.width
    kept = saved_by_layer(shape, work, width)
    layers = f"{shape.layers} layers, {work.padded} tokens"
    if held.train.gradient_checkpointing:
        saved = shape.layers * width * shape.hidden * work.padded + kept
        layers = f"the input of {layers}, and one layer again"
    else:
        saved = shape.layers * kept
    outside = work.padded * shape.hidden * (8 + width)
    backward = work.padded * (3 * shape.inner + 3 * shape.hidden) * width
    answers = work.rows * work.sequences * work.answer
    positions = min(work.padded, work.rows * answers) if work.union else answers
    logits = shape.vocabulary * (2 * width * positions + 8 * answers)
    parts = [
        Part("activations", saved + outside + backward, held.place, layers),
        Part("logits", logits, held.place, f"{positions} positions of {shape.vocabulary:,}, and their gradients"),
    ]
    if stage == 3:
        gathered = width * min(held.all_weights, LIVE)
        parts.append(Part("gathered weights", gathered, held.place, "of all ranks, at most a billion at once"))
    return parts + _buffers(held)


def _buffers(held: ModelFootprint) -> list[Part]:
    """Gradients on their way to the optimizer.

    On a card DeepSpeed takes whole buckets, two where it overlaps, and what else it copies comes when the activations
    are gone. On CPU a bucket is touched as far as it is filled, and the allocator, told to keep what is freed
    (`lm.memory`), finds no hole for tensors this large: all of it adds up. A rank that is alone at ZeRO 0
    reduces nothing (`lm.zero.average_nothing`); on CPU its peak is measured within 3% of what a bucket would make it.
    """
    stage, trained, place = held.stage, held.trained, held.place
    if held.gpu:
        if held.ranks == 1 and not stage:
            return []
        each = (4 if stage == 1 and held.width == 2 else held.width) * (BUCKET if stage else min(trained, BUCKET))
        return [Part("buckets", each * (2 if stage in (1, 2) else 1), place, "gradients being reduced")]
    share, bucket = 4 * trained // held.ranks, held.width * min(trained, BUCKET)
    parts = [Part("buckets", bucket, place, "gradients being reduced")]
    if held.ranks > 1 and stage:  # at ZeRO 0 it reduces when the activations are gone, into their place
        parts.append(Part("gloo", bucket, place, "its own copy of what it reduces"))
    if stage:
        parts.append(Part("raw gradients", held.width * trained, place, "of the backward pass, not yet reduced"))
        parts.append(Part("gradient copy", share, place, "handed to the optimizer"))
    if stage == 3:
        parts.append(Part("first update", share, place, "of zeros, to make the optimizer's states"))
    if not held.train.lora.rank:
        parts.append(Part("table gradients", 2 * held.width * held.shape.embedding, place, "as input and as output"))
    return parts


def saved_by_layer(shape: Shape, work: Work, width: int) -> int:
    """Bytes that one layer keeps for its backward pass: counted on transformers' Llama by autograd's own hooks.

    Two norms keep their input (fp32 also in bfloat16), what they scale, and what they give; the gated half keeps four
    tensors of its width; attention keeps queries, keys, values and its result, all of the queries' width where a mask
    makes it repeat them, and a mask of its own. Frozen weights (LoRA) need a little less.
    """
    norms = (6 * 4 if width == 4 else 16) * shape.hidden + 8
    gated = 4 * width * shape.inner
    if work.attention == "eager":
        attention = 4 * width * shape.queries + shape.heads * work.tokens * (4 if width == 4 else 6)
    elif work.attention == "sdpa" and work.rows > 1:  # rows of unequal length are padded, and padding is masked
        attention = width * (4 * shape.queries + work.tokens) + 4 * shape.heads
    else:
        attention = width * (2 * shape.queries + 2 * shape.keys) + 4 * shape.heads
    return work.padded * (norms + gated + attention)


def writing(held: ModelFootprint, work: Writing) -> list[Part]:
    """What answering or forging needs beside the weights; at ZeRO-3 every rank gathers all of them."""
    shape, width = held.shape, held.width
    cache = 2 * width * shape.layers * shape.keys * work.cached // held.cards
    reading = work.read * width * (3 * shape.inner + 4 * shape.hidden) + 12 * work.texts * shape.vocabulary
    parts = [
        Part("KV cache", cache, held.place, f"{work.cached} tokens"),
        Part("reading", reading, held.place, f"{work.read} tokens of prompt, logits of {work.texts} texts"),
    ]
    if held.stage == 3:
        parts.append(Part(REPLICA, width * shape.weights, held.place, "all weights, on every rank"))
    return parts


def loading(held: ModelFootprint) -> list[Part]:
    """Host memory of a rank on a GPU while it loads: all weights, which are then moved or sharded."""
    return [Part("loading", held.width * held.shape.weights, "host", "all weights, until they are on the card")]


def total(parts: list[Part], place: Place) -> int:
    """Bytes in one place."""
    return sum(part.bytes for part in parts if part.place == place)


def process(gpu: bool, place: Place) -> int:
    """Bytes that a rank takes before it holds anything."""
    if place == "gpu":
        return CUDA_CARD if gpu else 0
    return CUDA_HOST if gpu else LIBRARIES
