"""Texts by transformers' continuous batching, on the very module that learns: a text that ends makes room for the next.

Keys and values lie in pages that texts with the same beginning share. There is no thread and nothing to move: this
drives transformers' batch processor step by step, so an error arrives as itself, and a caller that stops early leaves
nothing behind. On a CPU attention is `attend` below, on a GPU what `model.attention` names (flash attention has CUDA
graphs; sdpa pays for all keys of a step, whosever they are).

Axes: R texts of a step, Q their new tokens, K all tokens that those see, H query heads, G key and value heads, D size
of a head, V vocabulary.
"""

from __future__ import annotations

import atexit
import queue
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor
from transformers import AttentionInterface, ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ragdist.algo.sampling import COLDEST, choose, choose_all
from ragdist.config import EnginesConfig
from ragdist.errors import EngineError, RagdistError, first_line
from ragdist.lm import decode
from ragdist.lm.memory import enough, give_back_freed_memory
from ragdist.lm.write import ends_of, key_of, written
from ragdist.records import Prompt, Written
from ragdist.roles import Tokenizer

NAME = "ragdist_paged"
PAGE = 256
"""Tokens of a page on a GPU, the fewest that texts share: what CUDA's kernels take."""
CPU_PAGE = 64
"""On a CPU a page holds a whole text, rounded up to so many tokens."""
CPU_TOKENS = 2048
"""Most tokens of a step on a CPU."""
LESS = "lower engines.max_sequences or engines.memory_share"


_open_writers: weakref.WeakSet[PagedWriter] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """transformers' processor cleans up when it is collected, which fails in an interpreter that ends."""
    for writer in list(_open_writers):
        writer.close()


class _Draws(NamedTuple):
    """How a text is drawn."""

    key: int
    temperature: float
    top_p: float


class _Finished(NamedTuple):
    """A text, and the log-probability that each token had (0 for drawn ones)."""

    sample: int
    tokens: list[int]
    logprobs: list[float]


class PagedWriter:
    """Implements EngineWriter on a causal language model.

    In float32 its texts are `ModelWriter`'s, up to rounding: draws belong to (seed, prompt id, sample). Pages are kept
    until other weights are taken up, or it is closed.

    Args:
        model: perhaps a PeftModel; nobody else runs it between two steps.
        tokenizer: its own.
        config: `max_sequences`, `memory_share` and `deadline_s` are read.
        tokens_per_batch: new tokens of one step, at most.
        version: of the weights.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, config: EnginesConfig, tokens_per_batch: int, version: int = 0
    ) -> None:
        self.model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model.train(False)
        self.tokenizer, self.config, self.tokens_per_batch = tokenizer, config, tokens_per_batch
        self.ends = ends_of(self.model, tokenizer)
        self._version, self._page = version, CPU_PAGE if self.model.device.type == "cpu" else PAGE
        self._draws: dict[str, _Draws] = {}
        self._manager: Any = None
        self._processor: Any = None
        self._begun = False
        """Whether a step is under way whose tokens come with the next, as they do on a GPU."""

    @property
    def engine(self) -> str:
        """See `roles.EngineWriter`."""
        return "paged"

    @property
    def version(self) -> int:
        """Of the weights that it writes with."""
        return self._version

    def take_up(self, version: int, folder: Path) -> None:
        """The weights are there already; what the pages hold of the old ones is let go."""
        self.close()
        self._version = version

    def renew(self) -> None:
        """See `roles.EngineWriter`."""
        self.close()

    def rest(self) -> None:
        """Gives the pages back."""
        self.close()

    def close(self) -> None:
        """Gives the pages back."""
        self._manager = self._processor = None
        self._begun = False
        give_back_freed_memory()

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[Written]]:
        """The texts of each prompt as soon as all of them are finished; the longest prompts are begun first.

        Raises:
            EngineError: none was finished in `engines.deadline_s`, or this model or machine is not for this engine.
        """

        def draws(prompt: Prompt, sample: int) -> _Draws:
            return _Draws(key_of(seed, prompt.id, sample), temperature, top_p)

        for prompt, texts in self._finished(prompts, max_new_tokens, samples, draws):
            yield [written(self.tokenizer, self.ends, prompt.id, text.sample, text.tokens) for text in texts]

    def scored(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        """See `roles.EngineWriter`."""
        greedy = _Draws(0, 0.0, 1.0)
        found = {prompt.id: texts[0] for prompt, texts in self._finished(prompts, max_new_tokens, 1, lambda *_: greedy)}
        return [(found[prompt.id].tokens, found[prompt.id].logprobs) for prompt in prompts]

    def _finished(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        samples: int,
        draws: Callable[[Prompt, int], _Draws],
    ) -> Iterator[tuple[Prompt, list[_Finished]]]:
        """Each prompt with all its texts, in the order in which they are finished."""
        self._fit(max((len(prompt.tokens) for prompt in prompts), default=0) + limit)
        waiting = deque(enumerate(sorted(prompts, key=lambda prompt: (-len(prompt.tokens), prompt.id))))
        asked: dict[int, tuple[Prompt, list[_Finished]]] = {}
        last = time.monotonic()
        try:
            while waiting or asked:
                while waiting and (not asked or (len(asked) + 1) * samples <= self.config.max_sequences):
                    number, prompt = waiting.popleft()
                    asked[number] = prompt, []
                    self._ask(number, prompt, limit, [draws(prompt, sample) for sample in range(samples)])
                for number, text in self._step():
                    last = time.monotonic()
                    prompt, texts = asked[number]
                    texts.append(text)
                    if len(texts) == samples:
                        del asked[number]
                        yield prompt, sorted(texts)
                if time.monotonic() - last > self.config.deadline_s:
                    raise EngineError(
                        f"paged finished no text of {len(asked)} prompts within {self.config.deadline_s:g} s; raise "
                        "engines.deadline_s, or lower engines.max_sequences"
                    )
        finally:
            self._draws.clear()
            if asked and self._processor:  # stopped early
                with torch.inference_mode():
                    self._processor.reset()
                self._begun = False

    def _ask(self, number: int, prompt: Prompt, limit: int, draws: Sequence[_Draws]) -> None:
        """One request, which splits into the samples when all but the last token of the prompt are read."""
        with self._attending():
            self._open()
        together = len(prompt.tokens) > 1  # of one token nothing can be shared
        for sample, how in enumerate(draws):
            self._draws[_name(number, sample, together)] = how
        self._manager.num_return_sequences = len(draws) if together else 1
        for sample in range(1 if together else len(draws)):
            self._manager.add_request(
                list(prompt.tokens), _name(number, sample, together), limit, eos_token_id=[*self.ends]
            )

    @torch.inference_mode()
    def _step(self) -> list[tuple[int, _Finished]]:
        """A token more for every text that has its turn; those that it finished, by the number of their prompt."""
        processor = self._processor
        with self._attending():
            if not processor.prepare_next_batch():
                raise EngineError(f"paged has texts to write and began none; {LESS}")
            processor._generation_step(self.model)
            if self._begun or not processor.use_async_batching:
                processor.update_batch()
        self._begun = processor.use_async_batching
        finished: list[tuple[int, _Finished]] = []
        while True:
            try:
                out = self._manager.output_router.output_queue.get_nowait()
            except queue.Empty:
                return finished
            if out.error:
                raise EngineError(f"paged gave up a text: {out.error}; {LESS}")
            number, sample = _numbers(out.request_id)
            finished.append((number, _Finished(sample, out.generated_tokens, out.logprobs)))

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """For the block the model attends to pages; reading and learning know nothing of them."""
        before = self.model.config._attn_implementation
        if self._manager:
            self.model.config._attn_implementation = self._manager.attention
        try:
            with enough(LESS):
                yield
        except RagdistError:
            raise
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineError(
                f"paged cannot write with this {self.model.config.model_type} model: {first_line(error)}; {LESS}, or "
                "set the engine to transformers"
            ) from error
        finally:
            self.model.config._attn_implementation = before

    def _fit(self, longest: int) -> None:
        """Other pages on a CPU, where a text may be longer than those that are there."""
        if self.model.device.type == "cpu" and longest > self._page:
            self.close()
            self._page = -(-longest // CPU_PAGE) * CPU_PAGE

    def _open(self) -> None:
        """Makes the pages, where there are none."""
        if self._processor:
            return
        on_cpu = self.model.device.type == "cpu"
        tokens = min(self.tokens_per_batch, CPU_TOKENS) if on_cpu else self.tokens_per_batch
        shape = ContinuousBatchingConfig(
            page_size=self._page,
            max_batch_tokens=max(tokens, self.config.max_sequences),
            max_requests_per_batch=self.config.max_sequences,
            max_memory_percent=self.config.memory_share,
            return_logprobs=True,
            seed=0,
            auto_switch_to_flash=False,
        )
        if on_cpu:
            shape.num_blocks = self._pages()
        config_of: Any = GenerationConfig
        greedy = config_of(do_sample=False, eos_token_id=[*self.ends], max_new_tokens=1)
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):  # it seeds the global generator
            before = self.model.config._attn_implementation
            manager: Any = self.model.init_continuous_batching(greedy, shape)
            manager.attention = NAME if on_cpu else self.model.config._attn_implementation
            manager.logit_processor = _processors(self._draws)
            self.model.config._attn_implementation = manager.attention
            try:
                self._processor = manager.batch_processor = manager._create_batch_processor()
            finally:
                self.model.config._attn_implementation = before
            self._processor.warmup(self.model)
        self._manager = manager
        _open_writers.add(self)

    def _pages(self) -> int:
        """As many as there may be texts, one more for those that are split, or as `engines.memory_share` has room."""
        shape, weight = self.model.config.get_text_config(), self.model.dtype.itemsize
        one: int = 2 * shape.num_hidden_layers * find_num_key_value_heads(shape) * find_head_dim(shape) * weight
        room = int(psutil.virtual_memory().available * self.config.memory_share) // (one * self._page)
        return max(1, min(room, 2 * self.config.max_sequences))


def _name(number: int, sample: int, together: bool) -> str:
    """Of a request; samples that are split off one are named by transformers."""
    if together:
        return f"{number}__child#{sample - 1}" if sample else f"{number}"
    return f"{number}/{sample}"


def _numbers(name: str) -> tuple[int, int]:
    """Prompt and sample of a request."""
    number, split, child = name.partition("__child#")
    if split:
        return int(number), int(child) + 1
    number, _, sample = name.partition("/")
    return int(number), int(sample or 0)


class _Slot(ContinuousBatchingLogitsProcessor):
    """A number of 32 bits for each text that gets a token."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012  transformers declares it so
    ignored_kwargs = ()

    def __init__(self, dtype: torch.dtype, value: Callable[[Any], float]) -> None:
        self.dtype, self.value = dtype, value
        self.held_R = torch.zeros(0)

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Zeros: of a text that is not there."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """See transformers."""
        values = [self.value(request.state) for request in requests_with_new_token]
        return torch.tensor(values, dtype=self.dtype).view(torch.int32)

    def __call__(self, scores: Any, tensor_arg: Tensor) -> Any:
        """Keeps where the numbers are, for the last in the list."""
        self.held_R = tensor_arg[: scores.shape[0]].view(self.dtype)
        return scores


class _Drawing(_Slot):
    """The last: leaves what is drawn of a text to be drawn as the only token that is possible."""

    def __init__(self, before: Sequence[_Slot], top_p: Callable[[Any], float]) -> None:
        super().__init__(torch.float32, top_p)
        self.high, self.low, self.place, self.temperature = before

    def __call__(self, scores: Any, tensor_arg: Tensor) -> Any:
        """[R, V] scores; as they are where the temperature is 0."""
        super().__call__(scores, tensor_arg)
        keys_R = (self.high.held_R.long() << 32) | (self.low.held_R.long() & 0xFFFFFFFF)
        about = keys_R, self.place.held_R.long(), self.temperature.held_R, self.held_R
        warm_R1 = (about[2] >= COLDEST)[:, None]
        if scores.device.type == "cpu":
            if not warm_R1.any():
                return scores
            chosen_R = _chosen(scores, *about)
        else:
            chosen_R = choose_all(scores, *about)
        alone_RV = torch.full_like(scores, -torch.inf).scatter(1, chosen_R[:, None], 0.0)
        return torch.where(warm_R1, alone_RV, scores)


def _chosen(logits_RV: Tensor, keys_R: Tensor, places_R: Tensor, temperature_R: Tensor, top_p_R: Tensor) -> Tensor:
    """[R] as `choose_all`, without noise for tokens that nobody can draw."""
    chosen_R = torch.zeros_like(keys_R)
    for temperature, top_p in {*zip(temperature_R.tolist(), top_p_R.tolist(), strict=True)}:
        rows = ((temperature_R == temperature) & (top_p_R == top_p)).nonzero()[:, 0]
        how = {"temperature": temperature, "top_p": top_p}
        chosen_R[rows] = choose(logits_RV[rows], keys_R[rows], places_R[rows], **how)
    return chosen_R


def _processors(draws: dict[str, _Draws]) -> ContinuousBatchingLogitsProcessorList:
    """What stands between logits and the largest of them; `draws` by the names of requests."""

    def of(state: Any) -> _Draws:
        return draws[state.request_id]

    def place(state: Any) -> int:
        # A request that made room for others comes back with its text as part of its prompt.
        return int(state.position_offset - (state._true_initial_tokens or len(state.initial_tokens)))

    high = _Slot(torch.int32, lambda state: of(state).key >> 32)
    low = _Slot(torch.int32, lambda state: (of(state).key & 0xFFFFFFFF) - ((of(state).key & 0x80000000) << 1))
    numbers = (high, low, _Slot(torch.int32, place), _Slot(torch.float32, lambda state: of(state).temperature))
    every = [*numbers, _Drawing(numbers, lambda state: of(state).top_p)]
    made = ContinuousBatchingLogitsProcessorList(LogitsProcessorList(every))
    made.tensors_required = len(every)
    return made


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cache: Any = None,
    cu_seq_lens_q: Tensor | None = None,
    **about: Any,
) -> tuple[Tensor, None]:
    """Attention of several texts in one line, [1, H, Q, D] to [1, Q, H, D]: each sees its own keys and no other's."""
    if cache is None or cu_seq_lens_q is None:
        raise EngineError("the model was asked by another while paged writes with it; wait for the texts")
    scaling, out_1QHD = about.get("scaling"), query.new_empty(query.transpose(1, 2).shape)
    seen = _seen(cache, module.layer_idx, key, value, about)
    for (start, end), (keys_1GKD, values_1GKD) in zip(pairwise(cu_seq_lens_q.tolist()), seen, strict=True):
        new, held = end - start, keys_1GKD.shape[2]
        part = query[:, :, start:end], keys_1GKD, values_1GKD
        if new == 1:
            out_1QHD[:, start:end], _ = decode.attend(module, *part, None, scaling=scaling)
        elif new:
            mask_QK = None if new == held else torch.ones(new, held, dtype=torch.bool).tril(held - new)
            out_1QHD[:, start:end], _ = sdpa_attention_forward(module, *part, mask_QK, scaling=scaling)
    return out_1QHD, None


def _seen(cache: Any, layer: int, key: Tensor, value: Tensor, about: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Keeps new keys and values, [1, G, Q, D], and gives all that each text sees, [1, G, K, D]; where they lie in one
    page, as they lie there: copying them is half of a step."""
    allocator = cache.layer_to_allocator[layer]
    kept = allocator._kv_token_views[layer]
    news = [states[0].transpose(0, 1) for states in (key, value)]
    for states, new in zip(kept, news, strict=True):
        states.index_copy_(0, about["write_index"][allocator.index], new)
    places_K, ends = about["read_index"][allocator.index], about["cu_seq_lens_k"][allocator.layer_type].tolist()
    if not len(places_K):  # all of them have just begun
        for start, end in pairwise(ends):
            keys, values = (new[start:end].transpose(0, 1)[None] for new in news)
            yield keys, values
        return
    first = places_K[torch.tensor(ends[:-1])].tolist()
    for (start, end), low in zip(pairwise(ends), first, strict=True):
        here = end - start <= allocator.tokens_per_page
        where = slice(low, low + end - start) if here else places_K[start:end]
        yield tuple(states[where].transpose(0, 1)[None] for states in kept)


AttentionInterface.register(NAME, attend)
