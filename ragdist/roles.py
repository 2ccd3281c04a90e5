"""What a system is handed: someone who tokenizes, writes, reads, retrieves, maps, tunes.

Who plays a role (this process, Ray workers) is decided in `runs.py`, nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from ragdist.records import Example, Hit, Prompt, Written

In = TypeVar("In")
Out = TypeVar("Out")


class Tokens(NamedTuple):
    """Token ids of a text and, for each, its [start, end) in characters."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Codec(Protocol):
    """The tuned model's own tokenizer. Played by `lm.load.ModelCodec`, in tests by `tests.tiny`."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same text could give other tokens; part of the name of all that depends on it."""
        ...

    @property
    def end(self) -> int:
        """Id of the token that ends an answer."""
        ...

    def encode(self, text: str) -> Tokens:
        """Tokens of plain text, no special tokens added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, special tokens left out."""
        ...

    def chat(self, user: str, system: str = "") -> str:
        """The conversation in the model's chat template, up to where the answer begins.

        A model without a template gets the system text, a blank line, the user text and a newline.
        """
        ...


class Writer(Protocol):
    """Prompts -> texts. The same (seed, prompt id, sample) gives the same text in any batch and order."""

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
        """One list for each finished microbatch, so that a caller can store it; order is the writer's own."""
        ...


class Reader(Protocol):
    """(prompt, answer) -> log-probabilities of the answer's tokens."""

    def read(self, examples: Sequence[Example]) -> Iterator[list[tuple[str, list[float]]]]:
        """(example id, log-probability in nats of each token after the prompt), a list for each microbatch."""
        ...


class Retriever(Protocol):
    """Queries -> ranked chunks."""

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """For each query at most `count` hits, by falling score, equal scores by chunk id."""
        ...


class Mapper(Protocol):
    """A module-level function over many records, results in the order of the records."""

    def map(self, function: Callable[..., Out], items: Iterable[In], *shared: Any) -> Iterator[Out]:
        """`function(item, *shared)` for each item; `shared` is sent to a worker once."""
        ...


class Tuner(Protocol):
    """Examples -> a folder with the tuned model. Played by `cluster.train.RayTuner`."""

    def tune(self, examples: Path, folder: Path) -> Path:
        """Trains on the rows of `examples` (JSONL of Example) and returns the model's folder below `folder`.

        Raises:
            Stopped: a stop was requested; the state is saved and the same call goes on.
            TrainError: the job failed more often than `cluster.max_failures`.
        """
        ...
