"""A teacher of ours, in this process or on ranks: a model whose replies are kept as those of an endpoint."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import groupby, islice
from pathlib import Path

from ragdist.config import ModelConfig, TeacherConfig
from ragdist.config.block import digest
from ragdist.errors import Stopped
from ragdist.records import Prompt, Reply, Request, Written
from ragdist.roles import Answerer, Tokenizer
from ragdist.teacher.reply_cache import STOPPED, ReplyCache, key_of
from ragdist.tracking.progress import Bar

OpenTeacher = Callable[[], AbstractContextManager[tuple[Answerer, Tokenizer]]]
ASKED = 256
"""Requests that a local teacher looks at together, to write prompts of like length as one batch."""


class LocalTeacher:
    """Implements Teacher with a model in this process; the ledger keeps its replies as those of an endpoint.

    Args:
        config: budgets; its prices are most likely 0.
        folder: keeps the ledger, `teacher-FINGERPRINT.jsonl`.
        model: names the model and bounds prompt and reply together.
        open_model: loads the model when the first reply is not in the ledger.
        engine: who writes, as `config.engines.named` has it.
    """

    def __init__(
        self, config: TeacherConfig, folder: Path, model: ModelConfig, open_model: OpenTeacher, engine: str = ""
    ) -> None:
        self.config, self.model, self.open_model = config, model, open_model
        named = model.model_dump(include={"source", "revision", "dtype"})
        self.fingerprint = digest(["local", *named.values(), *filter(None, [engine])])
        self.cache = ReplyCache(folder / f"teacher-{self.fingerprint}.jsonl", config)
        self._opened: tuple[Answerer, Tokenizer] | None = None
        self._stack = ExitStack()

    def ask(self, requests: Iterable[Request], *, what: str) -> Iterator[Reply]:
        """See `roles.Teacher`. A stop or a spent budget is heeded after each microbatch."""
        with self.cache.held() as stop, Bar(what, unit="replies") as bar:
            source = iter(requests)
            while asked := [(key_of(request, self.fingerprint), request) for request in islice(source, ASKED)]:
                missing = {key: request for key, request in asked if key not in self.cache}
                failed = self._write(missing) if missing else {}
                for key, _ in asked:
                    bar.advance(1, note=self.cache.note)
                    yield failed.get(key) or self.cache.reply(key)
            if stop.is_set():
                raise Stopped(STOPPED)

    def close(self) -> None:
        """Lets go of the model."""
        self._stack.close()
        self._opened = None
        gc.collect()

    def _write(self, missing: dict[str, Request]) -> dict[str, Reply]:
        """Puts a reply to each request into the cache, by key; those to requests that are too long are returned."""
        answerer, tokenizer = self._opened = self._opened or self._stack.enter_context(self.open_model())
        failed, prompts = {}, {}
        for key, request in missing.items():
            tokens = tuple(tokenizer.encode(tokenizer.chat(request.text, request.system)).ids)
            if len(tokens) + request.max_new_tokens > self.model.max_tokens:
                why = f"{len(tokens)} tokens and {request.max_new_tokens} new ones are over model.max_tokens"
                failed[key] = Reply(id=request.id, text="", ended=True, read=0, written=0, failed=why)
            else:
                prompts[key] = Prompt(id=key, tokens=tokens)

        def manner(key: str) -> tuple[int, float, int]:
            return missing[key].max_new_tokens, missing[key].temperature, missing[key].seed

        for (limit, temperature, seed), keys in groupby(sorted(prompts, key=manner), manner):
            self.cache.check()
            alike = [prompts[key] for key in keys]
            for batch in answerer.write(alike, max_new_tokens=limit, temperature=temperature, seed=seed):
                for text in batch:
                    self._keep(missing[text.prompt_id], text, prompts.pop(text.prompt_id))
                self.cache.sync()
                if prompts:
                    self.cache.check()
        return failed

    def _keep(self, request: Request, text: Written, prompt: Prompt) -> None:
        read = len(prompt.tokens)
        self.cache.add(
            text.prompt_id, Reply(id=request.id, text=text.text, ended=text.ended, read=read, written=text.tokens)
        )
