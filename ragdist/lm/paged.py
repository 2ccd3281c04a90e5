"""Texts by transformers' continuous batching, on the very module that learns: a text that ends makes room for the next.

Keys and values lie in pages that texts with the same beginning share. There is no thread and nothing to move: this
drives transformers' batch processor step by step, so an error arrives as itself, and a caller that stops early leaves
nothing behind. On a CPU attention is `paged_steps.attend`, on a GPU what `model.attention` names (flash attention has
CUDA graphs; sdpa pays for all keys of a step, whosever they are).
"""

from __future__ import annotations

import atexit
import queue
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from ragdist.config import EnginesConfig
from ragdist.errors import EngineError, RagdistError, first_line
from ragdist.lm.memory import enough, give_back_freed_memory
from ragdist.lm.paged_steps import NAME, Draws, processors
from ragdist.lm.write import ends_of, key_of, written
from ragdist.records import Prompt, Written
from ragdist.roles import Tokenizer

PAGE = 256
"""Tokens of a page on a GPU, the fewest that texts share: what CUDA's kernels take."""
CPU_PAGE = 64
"""On a CPU a page holds a whole text, rounded up to so many tokens."""
CPU_TOKENS = 2048
"""Most tokens of a step on a CPU."""
LESS = "lower engines.max_sequences, or change engines.memory_share"


_open_writers: weakref.WeakSet[PagedWriter] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """transformers' processor cleans up when it is collected, which fails in an interpreter that ends."""
    for writer in list(_open_writers):
        writer.close()


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
        self._draws: dict[str, Draws] = {}
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

        def draws(prompt: Prompt, sample: int) -> Draws:
            return Draws(key_of(seed, prompt.id, sample), temperature, top_p)

        for prompt, texts in self._finished(prompts, max_new_tokens, samples, draws):
            yield [written(self.tokenizer, self.ends, prompt.id, text.sample, text.tokens) for text in texts]

    def scored(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        """See `roles.EngineWriter`."""
        greedy = Draws(0, 0.0, 1.0)
        found = {prompt.id: texts[0] for prompt, texts in self._finished(prompts, max_new_tokens, 1, lambda *_: greedy)}
        return [(found[prompt.id].tokens, found[prompt.id].logprobs) for prompt in prompts]

    def _finished(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        samples: int,
        draws: Callable[[Prompt, int], Draws],
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

    def _ask(self, number: int, prompt: Prompt, limit: int, draws: Sequence[Draws]) -> None:
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
            manager.logit_processor = processors(self._draws)
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
