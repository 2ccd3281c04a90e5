"""What travels between stages: frozen, flat records. Every list is a tuple, every id a content hash.

Flat on purpose: a record is one line of JSON (`storage/stages.py`), and refers to others by id.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, TypeVar

from ragdist.errors import StorageError

Split = Literal["train", "test"]
Record = TypeVar("Record")
HALVES = re.compile(r"[\ud800-\udfff]")
"""Of characters: what a decoder makes of bytes that are no UTF-8; neither a tokenizer nor `content_id` takes them."""


def content_id(*parts: str) -> str:
    """16 hexadecimal digits that name this content: equal content has equal ids on every machine."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A source text as it was read. Example: Document(id="9f...", title="guide", text="Install ...", source="a.md")."""

    id: str
    title: str
    text: str
    source: str
    """Where it came from: a path, an address, or a package name."""
    starts: tuple[int, ...] = ()
    """Characters at which a page or a section begins, rising; empty where the format knows neither."""
    pages: tuple[int, ...] = ()
    """For each of `starts` the page from there on, counted from 1; 0 where there are no pages."""
    headings: tuple[str, ...] = ()
    """For each of `starts` the headings that it stands under, joined by ` > `."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a document, the unit that is retrieved and shown.

    Example: Chunk(id="03...", document_id="9f...", title="guide", text="Install ...", start=0)
    """

    id: str
    document_id: str
    """Empty where a retriever of the user's own brought it from elsewhere."""
    title: str
    text: str
    start: int = 0
    """Offset of the first character in the document's text."""
    page: int = 0
    """Page that it begins on, from 1; 0 where the document has no pages."""
    heading: str = ""
    """Headings that it begins under, joined by ` > `."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its right answers and the chunks that hold them.

    Example: Question(id="77...", text="What is the default of `encoding` in `pathlib.Path.read_text`?",
    answers=("None",), oracle_ids=("03...",), split="train")
    """

    id: str
    text: str
    answers: tuple[str, ...]
    """Any one is right, except where `all_answers_required`. The first is the training target."""
    oracle_ids: tuple[str, ...]
    """Chunks that hold the answer; empty when none is known (`questions.missing_oracle` decides)."""
    split: Split
    near_miss_ids: tuple[str, ...] = ()
    """Chunks that the data itself offers as distractors, best first."""
    wrong_answers: tuple[str, ...] = ()
    """Plausible wrong answers, best first, for forgeries; never equal to a right one."""
    reasoning: str = ""
    """Why the answer holds, perhaps with `##begin_quote## ... ##end_quote##`; empty when the data has none."""
    topic: str = ""
    """What alone might give the answer away (the parameter's name in API questions); the floor is scored on it."""
    dataset: str = ""
    all_answers_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Distractors for one question, found once and used for every oracle fraction.

    Example: Candidates(question_id="77...", chunk_ids=("a1...", "b2...", "c3...", "d4...", "e5..."))
    """

    question_id: str
    chunk_ids: tuple[str, ...]
    """In order of use; none is an oracle, none repeats a text, none holds an answer (when filtered)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A question with the chunks a reader will see, by id.

    Example: Context(question_id="77...", chunk_ids=("d7...", "03...", "d2..."), oracle_positions=(1,))
    """

    question_id: str
    chunk_ids: tuple[str, ...]
    """In the order they are shown."""
    oracle_positions: tuple[int, ...]
    """Indexes of the oracles in `chunk_ids`; empty when they were left out on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """A document written to mislead, marked as such for good. It is never an oracle and never a Chunk.

    Example: Forgery(id="f0...", question_id="77...", number=0, title="pathlib.Path.read_text",
    text="read_text(encoding='ascii') ...", states="'ascii'", method="template")
    """

    id: str
    question_id: str
    number: int
    """0, 1, 2, ... within the question."""
    title: str
    text: str
    states: str
    """The wrong answer that it argues for; empty where its attacker was told none."""
    method: str
    """dataset, attacker (of ATM), own (of the user's), else the name of the attack."""
    round: int = -1
    """ATM's round that it was written in; -1 outside ATM."""
    attacker: int = -1
    """Version of the attacker that wrote it."""
    seed: int = 0
    prompt_hash: str = ""
    """Names the tokens of the prompt that it was sampled from."""
    truthful: bool = False
    """Whether the text holds a right answer: an attacker's miss, counted."""
    stated: bool = True
    """Whether the text really states the wrong answer."""
    ended: bool = True
    """False when the limit of new tokens cut it off."""
    tokens: tuple[int, ...] = ()
    """What the attacker sampled, the end token included, for it to learn from; empty for other methods."""
    is_forged: Literal[True] = True
    """For good, wherever the row is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A document as it is shown, without its history. Example: Page(id="03...", title="gzip.open", text="...")."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """A question with the texts that are shown with it, whole, so that it can travel to a model by itself.

    Example: OpenQuestion(id="77...", text="What is ...", answers=("None",), wrong_answers=("'ascii'",), target="None",
    document_ids=("d7...", "03..."), titles=("a", "b"), texts=("...", "..."), oracle_positions=(1,))
    """

    id: str
    text: str
    answers: tuple[str, ...]
    target: str
    """What the generator learns to answer."""
    wrong_answers: tuple[str, ...]
    """Plausible wrong answers that forgeries argue for, one a round in turn; never empty."""
    document_ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    oracle_positions: tuple[int, ...]
    """Indexes of the documents that hold the answer; may be empty."""
    topic: str = ""
    dataset: str = ""
    all_answers_required: bool = False

    @property
    def documents(self) -> tuple[Page, ...]:
        """The documents, in the order they are shown."""
        rows = zip(self.document_ids, self.titles, self.texts, strict=True)
        return tuple(Page(id=id, title=title, text=text) for id, title, text in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """How much one forgery, shown alone, hurts the generator (ATM's reward).

    Example: Grade(forgery_id="77...-r0-a0-s2", question_id="77...", sample=2, perplexity=41.2, tokens=3)
    """

    forgery_id: str
    question_id: str
    sample: int
    perplexity: float
    """Of the right answer, the end token included; inf or NaN when the generator broke."""
    tokens: int
    prompt_hash: str = ""
    """The prompt that the forgery was written for; pairs are formed within one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One answer to a held-out question and how right it is.

    Example: Prediction(question_id="77...", condition="oracle", model="RAFT", text="None", answer="None", em=1.0,
    f1=1.0, subspan=1.0, states_forgery=False, ended=True, cut_tokens=0)
    """

    question_id: str
    condition: str
    """What it was shown; one of `config.Condition`, in ATM one of `systems.atm.asking.Condition`."""
    model: str = ""
    """Its name in reports; in ATM `generator` tells."""
    generator: int = -1
    """ATM's version of the generator that answered."""
    attacker: int = -1
    """ATM's version of the attacker whose forgeries were shown; -1 for none and for the template's."""
    text: str
    """All that the model wrote."""
    answer: str
    """The final answer in it, which is what the scores judge."""
    tagged: bool = False
    em: float
    f1: float
    subspan: float
    states_forgery: bool | None
    """Whether it repeats what the question's forgeries state, shown or not, in ATM the template's where none is shown;
    None where it has no forgeries."""
    retrieved_oracle: bool | None = None
    """Whether retrieval found an oracle; None in other conditions and where no oracle is known."""
    quotes_valid: bool | None = None
    """Whether all its quotes stand in the documents shown; None where it quotes nothing."""
    cites_oracle: bool | None = None
    """Whether it cites oracles and nothing else; None where no oracle is shown, and where answers cite nothing."""
    ended: bool
    """False when the limit of new tokens cut the answer off."""
    cut_tokens: int
    """Document tokens that did not fit into the prompt."""
    cut_answer: bool = False
    """Whether the oracles among them no longer show the answer, cut as they are."""
    perplexity: float | None = None
    """Of the right answer after this prompt, per token; None unless `evaluation.perplexity`."""
    own: float | None = None
    """By the user's own metric; None where there is none, and in what is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One row that a learner learns from: sequences that its loss looks at together.

    SFT has one sequence; DPO the chosen and the rejected forgery after one prompt; MITO the same answer after the clean
    and after the attacked list. Example: Bundle(id="77...", tokens=((1, 9, 4, 2), (1, 9, 7, 2)), prompt_tokens=(2, 2))
    """

    id: str
    tokens: tuple[tuple[int, ...], ...]
    """Each prompt, then target, then the end token."""
    prompt_tokens: tuple[int, ...]
    about: str = ""
    """What it was made of (ids), for lineage."""

    @property
    def target_tokens(self) -> int:
        """Tokens that the first sequence's loss is on."""
        return len(self.tokens[0]) - self.prompt_tokens[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered prompt, ready for a model. Example: Prompt(id="77...", tokens=(1, 4093, 198))."""

    id: str
    tokens: tuple[int, ...]
    cut_tokens: int = 0
    """Document tokens left out so that the question and the answer fit."""
    cut_answer: bool = False
    """Whether the golden documents no longer show the answer, cut as they are."""
    model: int = 0
    """Which of the models that are open together it is for."""

    @property
    def content(self) -> tuple[int | str, ...]:
        """All that its model is shown."""
        return self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt(Prompt):
    """A prompt as messages too, for models whose tokens nobody knows; `tokens` are those of `model.source`."""

    system: str
    user: str
    corpus: str = ""
    """Names the documents that a service finds its own among; empty where all that is shown stands in the messages."""

    @property
    def content(self) -> tuple[int | str, ...]:
        """The two messages, and perhaps where more is found."""
        return (self.system, self.user, *filter(None, [self.corpus]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training row. Example: Example(id="77...", tokens=(1, 4093, 198, 60, 2), prompt_tokens=3)."""

    id: str
    tokens: tuple[int, ...]
    """Prompt, then target, then the end token."""
    prompt_tokens: int
    """Length of the prompt; the loss is on all tokens after it, the end token included."""
    cut_tokens: int = 0
    cut_answer: bool = False
    """Whether the golden documents no longer show the answer, cut as they are."""

    @property
    def labels(self) -> list[int]:
        """The tokens with -100 on the prompt, as trainers expect."""
        return [-100] * self.prompt_tokens + list(self.tokens[self.prompt_tokens :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """An answer to a held-out question and whether it is right: what DuetRAG's arbiter learns from.

    Example: Judgement(id="77.../reciter", question_id="77...", question="What is ...", answer="'ascii'", right=False,
    weight=2.0, source="reciter")
    """

    id: str
    question_id: str
    question: str
    answer: str
    right: bool
    """By the metric of `duet.right_by`."""
    weight: float
    """Of its row in the arbiter's loss."""
    source: Literal["reciter", "discoverer", "gold", "other"]
    """Who gave the answer; gold is the right one itself, other the right one to another question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """A Judgement in the tokens of a model that learns to score it.

    Example: Rated(id="77.../reciter", tokens=(1, 9, 4), right=False, weight=2.0)
    """

    id: str
    tokens: tuple[int, ...]
    """The question in the chat template, then the answer, no end token."""
    right: bool
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an arbiter made of two answers.

    Example: Verdict(question_id="77...", answer="'utf-8'", chosen="discoverer", reciter_confidence=0.31,
    discoverer_confidence=0.87)
    """

    question_id: str
    answer: str
    chosen: Literal["reciter", "discoverer", "both", "neither"]
    """Whose answer it is; both when they agree, neither when a summarizer wrote a third one."""
    reciter_confidence: float | None
    """In (0, 1); None where the arbiter gives none, as a summarizer, or was not asked."""
    discoverer_confidence: float | None

    @property
    def confidence(self) -> float | None:
        """In the answer itself; None likewise."""
        return {"reciter": self.reciter_confidence, "discoverer": self.discoverer_confidence}.get(self.chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A text that a Writer wrote. Example: Written(prompt_id="77...", sample=0, text="None", tokens=2, ended=True)."""

    prompt_id: str
    sample: int
    text: str
    tokens: int
    """New tokens, the end token included."""
    ended: bool
    """False when the limit of new tokens cut it off."""
    ids: tuple[int, ...] = ()
    """The new tokens, where the writer knows them: other tokens can spell the same text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a teacher is asked, in a message. Example: Request(id="77...", text="Write 2 questions ...")."""

    id: str
    """Names what the reply is for; two requests with the same wording and another id are paid for twice."""
    text: str
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    system: str = ""
    """The system message; none where it is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a teacher wrote. Example: Reply(id="77...", text="What is ...?", ended=True, read=310, written=24)."""

    id: str
    """Of the request."""
    text: str
    ended: bool
    """False when the limit of new tokens cut it off."""
    read: int
    """Tokens of the prompt, as the teacher counts them."""
    written: int
    """Tokens of the reply."""
    failed: str = ""
    """Why there is no text, where the teacher refuses this request for good (too long, filtered); else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A retrieved chunk. Example: Hit(chunk_id="03...", score=7.1)."""

    chunk_id: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """What a query found, best first. Example: Ranked(chunk_ids=("03...", "a1..."), scores=(7.1, 3.4))."""

    chunk_ids: tuple[str, ...]
    scores: tuple[float, ...]


def as_row(record: object) -> dict[str, object]:
    """The record's fields by name, in declared order, without copying values."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}  # type: ignore[attr-defined]


def from_row(kind: type[Record], row: dict[str, object]) -> Record:
    """The record that `as_row` and one trip through JSON made into `row`. A StorageError if it is a row of another
    version, which has other fields."""
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
    except TypeError as error:
        why = str(error).partition("() ")[2]
        raise StorageError(
            f"a kept row is no {kind.__name__} of this version of ragdist: it {why}; remove the file that holds it, "
            "and it is made again"
        ) from None


RENAMED: dict[str, type] = {"Answered": Prediction}
"""Records by the names that earlier versions gave them on disk."""
