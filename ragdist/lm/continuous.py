"""Texts for prompts that come in at any time: those under way go on together, a token each a step.

A text has a slot of the cache to itself, and its tokens their places in it, so a new one joins without the others being
moved or padded. A slot keeps its text after the end, until another needs it: of a prompt that begins as one that is
held (the same documents, the same question again) just the rest is read.

Axes: S slots, R texts under way in the first R slots, G key and value heads, C places of a slot, T places in use,
D size of a head, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ragdist.algo.sampling import choose
from ragdist.draws import rng_for
from ragdist.errors import ModelError, TrainError
from ragdist.lm.decode import by_group
from ragdist.lm.memory import enough
from ragdist.lm.write import ModelWriter
from ragdist.records import Prompt, content_id
from ragdist.roles import Heard, LiveText

log = logging.getLogger("ragdist")
REUSED = 16
"""Fewest tokens that a prompt must share with a held text for them to be taken over."""
GROWTH = 256
"""Places by which slots grow at least."""


@dataclass(eq=False)
class _Text:
    """A text that is asked for, or under way."""

    prompt: tuple[int, ...]
    limit: int
    key: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    heard: Heard | None
    result: Future[LiveText] = field(default_factory=Future)
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    """Of all tokens so far, in nats."""
    said: str = ""
    """What `heard` was told."""
    stopped: bool = False

    @property
    def held(self) -> tuple[int, ...]:
        """The tokens whose keys and values stand in the slot: all but the newest."""
        return (*self.prompt, *self.tokens[:-1])

    @property
    def places(self) -> int:
        """How many those are."""
        return len(self.prompt) + len(self.tokens) - 1


class _SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer, [S, G, C, D]; a step adds a token to each of the first R slots, at its own place."""

    keys: Any
    values: Any

    def __init__(self, slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots
        self.places_R = torch.zeros(0, dtype=torch.long)
        self.used = 0

    def take(self, slot: int, keys_GTD: Tensor, values_GTD: Tensor, room: int) -> None:
        """Puts a text into a slot, with room for so many tokens more."""
        length = keys_GTD.shape[1]
        if not self.is_initialized or self.keys.shape[2] < length + room:
            self._grow(keys_GTD, -(-(length + room) // GROWTH) * GROWTH)
        for states, taken in ((self.keys, keys_GTD), (self.values, values_GTD)):
            states[slot, :, :length], states[slot, :, length:] = taken, 0  # what is masked must be a number

    def _grow(self, like_GTD: Tensor, places: int) -> None:
        """Slots of so many places; memory of one that was never taken is not touched."""
        heads, _, size = like_GTD.shape
        for name in ("keys", "values"):
            new = like_GTD.new_empty(self.slots, heads, places, size)
            if self.is_initialized:
                old = getattr(self, name)
                new[:, :, : old.shape[2]], new[:, :, old.shape[2] :] = old, 0
            setattr(self, name, new)
        self.is_initialized = True

    def swap(self, one: int, two: int, lengths: tuple[int, int]) -> None:
        """Exchanges two slots, of which so many places are held."""
        for states in (self.keys, self.values):
            kept = states[one, :, : lengths[0]].clone()
            states[one, :, : lengths[1]] = states[two, :, : lengths[1]]
            states[two, :, : lengths[0]] = kept

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Adds a token to each text; see `DynamicLayer.update`."""
        rows = torch.arange(len(self.places_R), device=self.places_R.device)
        self.keys[rows, :, self.places_R] = key_states[:, :, 0]
        self.values[rows, :, self.places_R] = value_states[:, :, 0]
        return self.keys[: len(rows), :, : self.used], self.values[: len(rows), :, : self.used]


class ContinuousWriter:
    """Implements LiveWriter on a ModelWriter's model, in a thread of its own; in float32 with the texts of that writer.

    Args:
        writer: nobody else uses it meanwhile.
        slots: texts that are written at the same time; others wait.
        cores: threads of torch; None leaves them as they are.
    """

    def __init__(self, writer: ModelWriter, slots: int, cores: int | None = None) -> None:
        self.model, self.tokenizer, self.ends = writer.model, writer.tokenizer, writer.ends
        self._logits = writer.logits
        self.slots, self.cores = slots, cores
        self.cache = DynamicCache(config=self.model.config)
        if any(type(layer) is not DynamicLayer for layer in self.cache.layers):
            raise ModelError(
                f"{self.model.config.model_type} models keep more than keys and values of all tokens, and "
                "`ragdist serve` cannot hold several texts of one; serve the run's model folder by vLLM"
            )
        self.layers = [_SlotLayer(slots) for _ in self.cache.layers]
        self.cache.layers = list(self.layers)
        self.under_way: list[_Text] = []
        """The text in each of the first slots."""
        self._held: list[tuple[int, ...]] = [()] * slots
        """Tokens whose keys and values each slot holds of a text that has left it."""
        self._used_at = [0] * slots
        self._clock = 0
        self._waiting: deque[_Text] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """Texts under way, and those that wait."""
        return len(self.under_way), len(self._waiting)

    def write(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        heard: Heard | None = None,
    ) -> Future[LiveText]:
        """See `roles.LiveWriter`."""
        key = rng_for(seed, "write", content_id(str(prompt.tokens))).getrandbits(63)
        text = _Text(prompt.tokens, max_new_tokens, key, temperature, top_p, tuple(stop), heard)
        with self._changed:
            if not self._open:
                raise TrainError("the model is closed; begin again")
            self._waiting.append(text)
            self._changed.notify()
        return text.result

    def close(self) -> None:
        """Ends the thread; what is not finished is cancelled."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        if self.cores:
            torch.set_num_threads(self.cores)
        with torch.inference_mode(), by_group(self.model):
            while self._open:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self.under_way or not self._open)
                    joins = self._waiting and len(self.under_way) < self.slots
                    new = self._waiting.popleft() if joins else None
                if new and not new.result.cancelled():
                    self._guarded(self._begin, [new], new)
                if self.under_way:
                    self._guarded(self._step, list(self.under_way))
        for text in (*self.under_way, *self._waiting):
            _end(text, TrainError("the model was closed before the text was finished; ask again"))

    def _guarded(self, work: Callable[..., None], struck: list[_Text], *about: Any) -> None:
        """Does the work; an error ends the texts that it struck, and none of the others."""
        try:
            with enough("lower serve.concurrent or serve.max_request_kib"):
                work(*about)
        except Exception as error:
            log.exception("%d texts are given up", len(struck))
            self.under_way = [text for text in self.under_way if text not in struck]
            self._held = [()] * self.slots
            for text in struck:
                _end(text, error)

    def _begin(self, text: _Text) -> None:
        """Reads the prompt, but for what a slot holds of it, and puts the text into a slot."""
        begun = text.prompt[:-1]
        source, shared = max(
            ((slot, _common(self._tokens_in(slot), begun)) for slot in range(self.slots)), key=lambda pair: pair[1]
        )
        cache = DynamicCache(config=self.model.config)
        if shared >= REUSED:
            for number, layer in enumerate(self.layers):
                keys, values = (states[source : source + 1, :, :shared] for states in (layer.keys, layer.values))
                cache.update(keys, values, number)
        else:
            shared = 0
        logits_1V = self._logits(
            torch.tensor([text.prompt[shared:]], device=self.model.device),
            None,
            torch.arange(shared, len(text.prompt), device=self.model.device)[None],
            cache,
        )
        slot = len(self.under_way)
        oldest = min(range(slot, self.slots), key=self._used_at.__getitem__)
        if oldest != slot:
            self._held[oldest] = ()  # it goes
            self._swap(oldest, slot)
        fresh: list[Any] = list(cache.layers)
        for layer, read in zip(self.layers, fresh, strict=True):
            layer.take(slot, read.keys[0], read.values[0], text.limit)
        self.under_way.append(text)
        self._add([slot], logits_1V)
        self._leave()

    def _step(self) -> None:
        """A token more for each text under way."""
        places_R = torch.tensor([text.places for text in self.under_way], device=self.model.device)
        used = int(places_R.max()) + 1
        for layer in self.layers:
            layer.places_R, layer.used = places_R, used
        mask_RT = torch.arange(used, device=places_R.device) <= places_R[:, None]
        mask_R11T = mask_RT[:, None, None] if len(places_R) > 1 else None  # one sees all that there is
        ids_R1 = torch.tensor([text.tokens[-1:] for text in self.under_way], device=self.model.device)
        logits_RV = self._logits(ids_R1, mask_R11T, places_R[:, None], self.cache)
        self._add(range(len(self.under_way)), logits_RV)
        self._leave()

    def _add(self, slots: Sequence[int], logits_RV: Tensor) -> None:
        """Gives the texts in these slots their next tokens."""
        chosen_R = logits_RV.argmax(-1)
        for row, slot in enumerate(slots):
            text = self.under_way[slot]
            if text.temperature:
                key_1 = torch.tensor([text.key], device=logits_RV.device)
                how = {"temperature": text.temperature, "top_p": text.top_p}
                chosen_R[row] = choose(logits_RV[row : row + 1], key_1, len(text.tokens), **how)[0]
        scores_RV = logits_RV.float()
        logprobs_R = scores_RV.gather(1, chosen_R[:, None])[:, 0] - scores_RV.logsumexp(-1)
        self._clock += 1
        for slot, token, logprob in zip(slots, chosen_R.tolist(), logprobs_R.tolist(), strict=True):
            text = self.under_way[slot]
            text.logprob += logprob
            text.tokens.append(token)
            self._used_at[slot] = self._clock
            if text.heard or text.stop:
                self._read_aloud(text)

    def _read_aloud(self, text: _Text, whole: bool = False) -> None:
        """Tells of what is new in a text: not of half a character, nor of what may be the beginning of a stop."""
        said = self._said(text)
        sure = len(said) if whole or text.stopped else len(said) - max(map(len, text.stop), default=1) + 1
        new = said[: max(sure, 0)]
        if text.heard and len(new) > len(text.said) and new.startswith(text.said) and (whole or new[-1] != "\ufffd"):
            if not text.result.cancelled():
                text.heard(new[len(text.said) :])
            text.said = new

    def _said(self, text: _Text) -> str:
        """The text up to a stop, if there is one in it."""
        ended = text.tokens[-1] in self.ends
        said = self.tokenizer.decode(text.tokens[:-1] if ended else text.tokens)
        places = [said.find(stop) for stop in text.stop if stop in said]
        text.stopped = bool(places)
        return said[: min(places)] if places else said

    def _leave(self) -> None:
        """Takes out what is finished or not wanted any more; the last texts move into the gaps."""
        for slot in reversed(range(len(self.under_way))):
            text = self.under_way[slot]
            ended = text.stopped or text.tokens[-1] in self.ends
            if ended or len(text.tokens) >= text.limit or text.result.cancelled():
                last = len(self.under_way) - 1
                if slot != last:
                    self._swap(slot, last)
                    self.under_way[slot] = self.under_way[last]
                self.under_way.pop()
                self._held[last] = text.held
                self._read_aloud(text, whole=True)
                _end(
                    text, LiveText(self._said(text), len(text.tokens), ended, math.exp(text.logprob / len(text.tokens)))
                )

    def _tokens_in(self, slot: int) -> tuple[int, ...]:
        """Those whose keys and values the slot holds."""
        return self.under_way[slot].held if slot < len(self.under_way) else self._held[slot]

    def _swap(self, one: int, two: int) -> None:
        lengths = (len(self._tokens_in(one)), len(self._tokens_in(two)))
        for layer in self.layers:
            layer.swap(one, two, lengths)
        for listed in (self._held, self._used_at):
            _exchange(listed, one, two)


def _exchange(listed: list[Any], one: int, two: int) -> None:
    listed[one], listed[two] = listed[two], listed[one]


def _end(text: _Text, outcome: LiveText | Exception) -> None:
    if not text.result.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        text.result.set_exception(outcome)
    else:
        text.result.set_result(outcome)


def _common(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(one), len(two))
    return next((at for at in range(shorter) if one[at] != two[at]), shorter)
