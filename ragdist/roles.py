"""What a system is handed: someone who tokenizes, writes, reads, retrieves, maps, tunes.

Who implements a role (this process, Ray workers) is decided in `players.py`, nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from ragdist.records import Example, Hit, Prompt, Reply, Request, Written

In = TypeVar("In")
Out = TypeVar("Out")


class Tokens(NamedTuple):
    """Token ids of a text and, for each, its [start, end) in characters."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer(Protocol):
    """The tuned model's own tokenizer. Implemented by `lm.load.ModelTokenizer`, in tests by `tests.tiny`."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same text could give other tokens; part of the name of all that depends on it."""

    @property
    def end(self) -> int:
        """Id of the token that ends an answer."""

    def encode(self, text: str) -> Tokens:
        """Tokens of plain text, no special tokens added."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, special tokens left out."""

    def chat(self, user: str, system: str = "") -> str:
        """The conversation in the model's chat template, up to where the answer begins.

        A model without a template gets the system text, a blank line, the user text and a newline.
        """


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


class EngineWriter(Writer, Protocol):
    """A Writer that says whose weights it writes with. Implemented by `lm.paged`, `lm.vllm_writer`."""

    @property
    def engine(self) -> str:
        """Its name and what changes texts, for fingerprints and logs. Example: "vllm 0.32.0 float32"."""

    @property
    def version(self) -> int:
        """Of the weights that it writes with."""

    def take_up(self, version: int, folder: Path) -> None:
        """Writes with the model or adapter in `folder` from here on; nothing kept of the old weights is used again.

        Raises:
            EngineError: the engine does not start, or not in time.
        """

    def renew(self) -> None:
        """A fresh engine with the same version's weights."""

    def scored(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        """The most likely tokens after each prompt and the log-probability, in nats, that the engine gave each."""

    def rest(self) -> None:
        """Nobody asks it while others need the memory: gives back what it can have again soon."""

    def close(self) -> None:
        """Ends it and gives its memory back; what is asked after that starts it again."""


Heard = Callable[[str], None]
"""Is called with each new piece of a text."""


class LiveText(NamedTuple):
    """A text that was asked for while others were under way. Example: LiveText("Delhi", 2, True, 0.91)"""

    text: str
    tokens: int
    """Written, the end token included."""
    ended: bool
    """Whether it came to its end, not to the limit."""
    confidence: float
    """Geometric mean of the probabilities of its tokens."""


class LiveWriter(Protocol):
    """Prompts at any time -> texts, many at once. The same (seed, prompt) gives the same text. In `lm.continuous`."""

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
        """The text, soon; cancelling it lets go of it.

        Args:
            prompt: its tokens alone count.
            max_new_tokens: longest text, the end token included.
            temperature: 0 takes the most likely token.
            top_p: share of the probability that is sampled from.
            seed: draws belong to (seed, prompt).
            stop: the text ends before the first of these that stands in it.
            heard: is called with each new piece of the text, from another thread.
        """

    @property
    def load(self) -> tuple[int, int]:
        """Texts under way, and those that wait."""


class Reader(Protocol):
    """(prompt, answer) -> log-probabilities of the answer's tokens."""

    def read(self, examples: Sequence[Example]) -> Iterator[list[tuple[str, list[float]]]]:
        """(example id, log-probability in nats of each token after the prompt), a list for each microbatch."""


class Pair(NamedTuple):
    """A question and an answer to it. Example: Pair("What is the default of ...?", "None")."""

    question: str
    answer: str


class Scorer(Protocol):
    """(question, answer) -> confidence that the answer is right. Implemented by `lm.score`, `features`."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """A number in (0, 1) for each pair, in order; it does not depend on the other pairs."""


class Answerer(Protocol):
    """One or several models that are open to be asked; each prompt is for one of them (`Prompt.model`)."""

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        done: Collection[str] = (),
    ) -> Iterator[list[Written]]:
        """As a Writer writes; one list for each finished batch, in any order.

        `prompts` is all that is asked, as batches are cut over all of it; `done` are the ids of those whose texts are
        there already. Where a batch is not done, all of it is written.
        """

    def read(
        self, examples: Sequence[Example], *, done: Collection[str] = ()
    ) -> Iterator[list[tuple[str, list[float]]]]:
        """As a Reader reads, with the first of the models; `done` as in `write`."""


class Answerers(Protocol):
    """Opens models to be asked. Implemented by `local.LocalAnswerers`, `cluster.answerers.RankAnswerers`."""

    def open(self, *sources: str) -> AbstractContextManager[Answerer]:
        """The models at these sources for as long as the block lasts; several share the base that the settings name."""

    def open_scorer(self, source: str, render: Callable[[Pair], Sequence[int]]) -> AbstractContextManager[Scorer]:
        """The classifier at this source, likewise.

        Args:
            source: what was tuned as a scorer.
            render: tokens of a pair; pickles by name.
        """


class Teacher(Protocol):
    """Messages -> replies, each paid for once. Implemented by `teacher.endpoint`, `teacher.local`."""

    @property
    def fingerprint(self) -> str:
        """Names the model and where it answers; part of the name of every stage that it writes."""

    def ask(self, requests: Iterable[Request], *, what: str) -> Iterator[Reply]:
        """The reply to each request, in the order of the requests.

        Requests are taken as calls have room, so a stream of any length is kept in flight. A reply is on disk before it
        is given out; asked again, in this process or a later one, it comes from there.

        Args:
            requests: each with an id of its own.
            what: for people: progress, errors.

        Raises:
            Stopped: a budget is spent or a stop was requested; what is paid for is kept.
            TeacherError: the teacher cannot be reached, or refuses the key, or kept failing.
        """

    def close(self) -> None:
        """Lets go of the model that it may hold in memory; asked again, it loads it again."""


class Embedder(Protocol):
    """Texts -> vectors of length one. Implemented by `lm.embed`."""

    @property
    def fingerprint(self) -> str:
        """Names the model, so that vectors are made again with another."""

    def embed(self, texts: Sequence[str]) -> Any:
        """[len(texts), dimensions] float32 numpy array, rows normalised; a row does not depend on the other texts."""


class Retriever(Protocol):
    """Queries -> ranked chunks."""

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """For each query at most `count` hits, by falling score, equal scores by chunk id."""


class Mapper(Protocol):
    """A module-level function over many records, results in the order of the records."""

    def map(self, function: Callable[..., Out], items: Iterable[In], *shared: Any) -> Iterator[Out]:
        """`function(item, *shared)` for each item; `shared` is sent to a worker once."""


class Model(Writer, Reader, Protocol):
    """A model in the memory of one process, as work that runs beside it sees it."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def version(self) -> int:
        """0 for the model as it was given; one more after each time it learned."""


@dataclass(frozen=True, slots=True)
class MicrobatchRef:
    """Rows of one microbatch, somewhere: here, in a file, or at another process by reference.

    Whoever directs the work passes shards on without looking into them.
    """

    name: str
    """Names the microbatch; shards of several stages with one name belong together."""
    rows: int
    digest: str
    """Names the rows' content."""
    notes: Mapping[str, float]
    """Sums that the work wanted known, such as {"forged": 40, "stated": 31}."""
    at: Any
    """Where the rows are; only the roles know how to read it."""
    path: str = ""
    """The file that keeps them, where one does."""


class Side(Protocol):
    """A model on one or more ranks: works beside shards, learns. Implemented by `local.LocalSide`, `cluster.group`."""

    @property
    def version(self) -> int:
        """Of the weights that all ranks hold."""

    def each(
        self,
        work: Callable[..., tuple[Sequence[Any], Mapping[str, float]]],
        inputs: Iterable[tuple[MicrobatchRef, ...]],
        *shared: Any,
        folder: Path,
        phase: str,
        writes: bool = False,
    ) -> Iterator[MicrobatchRef]:
        """`work(model, *rows of each shard of an input, *shared) -> (records, notes)`, for each input, on some rank.

        A stream: an input is asked for when a rank has room for it, results come in any order. Each is kept as
        `folder/NAME.parquet` before it is yielded, NAME being the first shard's; what is kept there already is not made
        again. A dead rank is replaced and its microbatch done again.

        Args:
            work: a module-level function; `model` implements Model.
            inputs: tuples of shards, all of one name.
            shared: more arguments, small.
            folder: seen by all ranks.
            phase: for people: progress, errors, the timeline.
            writes: the work has the model write, and never read; it may be done where nobody learns.
        """

    def learn(
        self,
        loss: Callable[..., Any],
        shards: Sequence[MicrobatchRef],
        *,
        prepare: Callable[..., Any] | None,
        folder: Path,
        phase: str,
    ) -> list[dict[str, float]]:
        """Trains on rows of Bundle with a fresh optimizer; the version grows by one. Metrics of each step.

        Args:
            loss: `loss(forward, batch, total) -> Loss`, see `algo.losses`; pickles by name.
            shards: the rows, of which the order of steps is made by seed.
            prepare: `prepare(forward, batch) -> {name: [B]}`, computed once before the first step, handed to the loss
                in `batch.extra`: DPO's reference.
            folder: keeps checkpoints while it learns, then `folder/model`, a plain transformers folder. What is there
                already is resumed; a finished one is not trained again.
            phase: for people.
        """


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One model to be tuned."""

    name: str
    """For people: progress, errors."""
    rows: Path
    """JSONL of Example; of Rated where `kind` is scorer."""
    folder: Path
    """Where it is kept, `folder/model` in the end; seen by all workers."""
    train: Any
    """`config.TrainConfig`."""
    kind: Literal["answers", "scorer"] = "answers"
    """answers: a model that writes the target; scorer: a classifier with one label, the confidence."""
    block: str = "train"
    """Of the settings, where `train` came from; for errors."""


class Tuner(Protocol):
    """Examples -> a folder with the tuned model. Implemented by `cluster.train.RayTuner`."""

    def tune(self, lessons: Sequence[TrainingJob]) -> list[Path]:
        """Trains each lesson and returns the models' folders: side by side where there is room for all, else in turn.

        Raises:
            Stopped: a stop was requested; the state is saved and the same call goes on.
            TrainError: a job failed more often than `cluster.max_failures`.
        """
