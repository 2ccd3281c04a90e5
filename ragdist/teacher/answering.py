"""Models behind OpenAI-compatible endpoints as Answerers, by the calls and the ledger of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import cast

from ragdist.config import TeacherConfig
from ragdist.config.address import Address, address_of
from ragdist.errors import ConfigError, TeacherError
from ragdist.records import ChatPrompt, Example, Prompt, Reply, Request, Written, content_id
from ragdist.roles import Answerer, Answerers, Pair, Scorer
from ragdist.teacher.endpoint import Endpoint
from ragdist.tracking.progress import say

KNOBS = {
    "teacher.url": "the address of --model",
    "teacher.model": "its #MODEL",
    "teacher.max_new_tokens": "evaluation.max_new_tokens",
}
"""What a teacher's errors call a knob, and what it is here."""
BATCH = 16
"""Texts that are given out together."""


def reworded(said: str) -> str:
    """An error of a teacher, with the knobs of an endpoint that answers."""
    for knob, here in KNOBS.items():
        said = said.replace(knob, here)
    return said


class EndpointAnswerer:
    """Implements Answerer by a model behind an endpoint. Equal messages are asked once, by all who share the ledger.

    Args:
        address: of the model.
        config: how it is called, and budgets: a teacher's.
        folder: keeps the ledger.
    """

    def __init__(self, address: Address, config: TeacherConfig, folder: Path) -> None:
        self.endpoint = Endpoint(config.replaced("url", address.url).replaced("model", address.model), folder)
        self.label = address.label
        self.heard = False
        """Whether any text came."""

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        done: Collection[str] = (),
    ) -> Iterator[list[Written]]:
        """See `roles.Answerer`; of ChatPrompts. What is refused for good (too long, filtered) is an empty text.

        Raises:
            TeacherError: as `roles.Teacher`; or all texts are empty, and so were those of earlier calls.
        """
        asked = [cast(ChatPrompt, prompt) for prompt in prompts if prompt.id not in done]
        requests = (
            Request(
                id=content_id(*map(str, one.content)),  # of what is sent alone: what is equal is paid for once
                text=one.user,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                system=one.system,
            )
            for one in asked
        )
        try:
            yield from self._heard(asked, self.endpoint.ask(requests, what=f"calling {self.label}"))
        except TeacherError as error:
            raise TeacherError(reworded(str(error))) from None

    def _heard(self, asked: Sequence[ChatPrompt], replies: Iterable[Reply]) -> Iterator[list[Written]]:
        """The texts; none is given out before there is one that is not empty."""
        waiting, silent = list[Written](), list[Reply]()
        for at, (prompt, reply) in enumerate(zip(asked, replies, strict=True), start=1):
            waiting.append(_written(prompt, reply))
            silent += [] if reply.text.strip() else [reply]
            self.heard = self.heard or len(silent) < at
            if len(waiting) >= BATCH and self.heard:
                yield waiting
                waiting = []
        if not silent:
            yield waiting
            return
        why = f"the first: {silent[0].failed or 'empty content'}"
        if not self.heard:
            raise TeacherError(
                f"{self.endpoint.config.url} gave no text to any of {len(asked)} prompts ({why}); check teacher.model "
                f"and teacher.max_new_tokens, and delete {self.endpoint.cache.path} to ask again"
            )
        yield waiting
        say(reworded(f"{self.label}: {len(silent)} of {len(asked)} prompts got no text, which counts as wrong ({why})"))

    def read(
        self, examples: Sequence[Example], *, done: Collection[str] = ()
    ) -> Iterator[list[tuple[str, list[float]]]]:
        """Nothing: an endpoint gives no probabilities of a given answer. A ConfigError."""
        raise ConfigError(f"the endpoint of {self.label} gives no probabilities; set evaluation.perplexity=false")


def _written(prompt: ChatPrompt, reply: Reply) -> Written:
    return Written(prompt_id=prompt.id, sample=0, text=reply.text, tokens=reply.written, ended=reply.ended)


class AnswerersAnywhere:
    """Implements Answerers: one at an address by its endpoint, all others by others.

    Args:
        config: how endpoints are called.
        folder: keeps their ledgers.
        others: makes the Answerers of all other sources, when the first of these is opened.
    """

    def __init__(self, config: TeacherConfig, folder: Path, others: Callable[[], Answerers]) -> None:
        self.config, self.folder, self.others = config, folder, cache(others)

    @contextmanager
    def open(self, *sources: str) -> Iterator[Answerer]:
        """See `roles.Answerers`."""
        if not (address := address_of(sources[0])):
            with self.others().open(*sources) as answerer:
                yield answerer
            return
        found = EndpointAnswerer(address, self.config, self.folder)
        try:
            yield found
        finally:
            found.endpoint.close()

    def open_scorer(self, source: str, render: Callable[[Pair], Sequence[int]]) -> AbstractContextManager[Scorer]:
        """See `roles.Answerers`."""
        return self.others().open_scorer(source, render)
