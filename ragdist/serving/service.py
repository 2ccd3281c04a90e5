"""Questions of anybody's to a finished run: what is shown, what is said.

A question is asked as the run's test questions were: the same prompt, the same documents by the same ranking, the same
limit, so that it gets the answer that the run's report judged. Each question stands alone, as the rows of training do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ragdist.config import Settings
from ragdist.data import prompts
from ragdist.errors import DataError
from ragdist.roles import Heard, LiveText, LiveWriter, Tokenizer

Outcome = TypeVar("Outcome")
UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Shown:
    """A document that a model read. Example: Shown("guide", "Install ...", "03...", 7.2)"""

    title: str
    text: str
    id: str = ""
    """The chunk's; empty where it came with the question."""
    score: float | None = None
    """How well it matched the question; None likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question. Example: Query(question="What is the default of ...?")"""

    question: str
    documents: tuple[Shown, ...] | None = None
    """To be shown, in this order; none where it is empty (closed book), those that are retrieved where it is None."""
    max_new_tokens: int = 0
    """Longest answer; 0 is the run's."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends, before the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a run says to a question."""

    question: str
    text: str
    """As the model wrote it."""
    answer: str
    """The final answer within it."""
    documents: tuple[Shown, ...]
    """What was shown, in that order; empty where nothing was found."""
    confidence: float | None = None
    """RAFT, ATM: geometric mean of the tokens' probabilities; DuetRAG: the arbiter's, None where it gives none."""
    chosen: str = ""
    """DuetRAG: whose answer it is: reciter, discoverer, both where they agree, neither where an arbiter wrote it."""
    sides: Mapping[str, Side] = field(default_factory=dict)
    """DuetRAG: what reciter and discoverer said."""
    abstains: bool = False
    """DuetRAG: whether the arbiter is less sure of the answer than `duet.abstain_below`."""
    prompt_tokens: int = 0
    new_tokens: int = 0
    ended: bool = True
    """Whether the text came to its end, not to the limit."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one of DuetRAG's two said. Example: Side("None", 0.87)"""

    answer: str
    confidence: float | None
    """The arbiter's, in (0, 1); None where it gives none."""


class Pending(Generic[Outcome]):
    """Something that will be there soon.

    Args:
        work: under way elsewhere.
        finish: makes the outcome of its result.
    """

    def __init__(self, work: Future[Any], finish: Callable[[Any], Outcome]) -> None:
        self.work, self._finish = work, finish

    def result(self, timeout: float | None = None) -> Outcome:
        """The outcome; a TimeoutError after so many seconds."""
        return self._finish(self.work.result(timeout))

    def cancel(self) -> None:
        """Lets go of it."""
        self.work.cancel()


class Service(Protocol):
    """A run that can be asked; of many threads at once."""

    @property
    def load(self) -> tuple[int, int]:
        """Texts under way, and those that wait."""

    def ask(self, query: Query, heard: Heard | None = None) -> Pending[Answer]:
        """Begins with the answer.

        Args:
            query: the question.
            heard: is called with each new piece of the text, from another thread.

        Raises:
            DataError: the question does not fit into the model.
        """


class Finder(Protocol):
    """Says what is shown with a question. Implemented by `serving.library`."""

    def shown(self, query: Query) -> tuple[Shown, ...]:
        """The documents, in the order in which they are shown."""


class SingleModel:
    """Implements Service by one model, RAFT's or ATM's generator.

    Args:
        writer: the model.
        library: what is shown where a question brings no documents.
        tokenizer: the model's.
        settings: the run's.
    """

    def __init__(self, writer: LiveWriter, library: Finder, tokenizer: Tokenizer, settings: Settings) -> None:
        self.writer, self.library, self.tokenizer, self.settings = writer, library, tokenizer, settings

    @property
    def load(self) -> tuple[int, int]:
        """See `Service`."""
        return self.writer.load

    def ask(self, query: Query, heard: Heard | None = None) -> Pending[Answer]:
        """See `Service`."""
        shown = self.library.shown(query)
        work, tokens = begin(self.writer, query, shown, self.tokenizer, self.settings, heard)

        def finish(live: LiveText) -> Answer:
            return Answer(
                question=query.question,
                text=live.text,
                answer=prompts.extract(live.text, self.settings.prompts.answer).answer,
                documents=shown,
                confidence=round(live.confidence, 4),
                prompt_tokens=tokens,
                new_tokens=live.tokens,
                ended=live.ended,
            )

        return Pending(work, finish)


def begin(
    writer: LiveWriter,
    query: Query,
    shown: Sequence[Shown],
    tokenizer: Tokenizer,
    settings: Settings,
    heard: Heard | None = None,
) -> tuple[Future[LiveText], int]:
    """A model's text for a question with these documents, and how many tokens its prompt has.

    Raises:
        DataError: the question does not fit into the model.
    """
    limit = query.max_new_tokens or settings.answer_tokens
    prompt = prompts.prompt(
        query.question,
        shown,
        tokenizer,
        settings.prompts,
        id="question",
        max_tokens=settings.model.max_tokens,
        room=limit,
    )
    how: dict[str, Any] = {"temperature": query.temperature, "top_p": query.top_p, "seed": query.seed}
    work = writer.write(prompt, max_new_tokens=limit, stop=tuple(filter(None, query.stop)), heard=heard, **how)
    return work, len(prompt.tokens)


def checked(text: str, what: str) -> str:
    """A text from outside, as a model may be shown it.

    Raises:
        DataError: it is empty, or holds characters that steer terminals, or halves of characters (as of bytes that are
            no UTF-8).
    """
    if not text.strip():
        raise DataError(f"{what} is empty; wanted a text")
    if found := UNFIT.search(text):
        kind = "control character" if ord(found[0]) < 128 else "half character"
        raise DataError(f"{what} holds the {kind} U+{ord(found[0]):04X}; leave it out, and write UTF-8")
    return text
