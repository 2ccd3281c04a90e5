"""The one place where questions, documents and answers are worded.

<DOCUMENT>title
text</DOCUMENT>
<DOCUMENT>...</DOCUMENT>

Question: ...
one line on how to answer
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from ragdist.config import PromptsConfig
from ragdist.data.matching import contains, quoted_in, verbatim, words
from ragdist.data.questions import LABELS
from ragdist.data.thoughts import without_thoughts
from ragdist.errors import DataError
from ragdist.records import OpenQuestion, Prompt, Question
from ragdist.roles import Tokenizer

PLAIN = "Give only the shortest exact answer."
REASONED = (
    "Reason first, with ##begin_quote## exact words of a document ##end_quote##, "
    "then end with <ANSWER>: and the shortest exact answer."
)
REASONED_CLOSED = "Reason first, then end with <ANSWER>: and the shortest exact answer."
SUMMARY = (
    "One of the two answers may be wrong. Give only the shortest exact answer to the question; "
    "when unsure, the one from documents."
)

_MARK = re.compile(r"##(begin|end)_quote##")
ANSWER_TAG = re.compile(r"<answer>\s?[:\uff1a]|##\s?answer\s?[:\uff1a]", re.IGNORECASE)
_STOP = re.compile(r"<stop>", re.IGNORECASE)


class Showable(Protocol):
    """What can be shown as a document: a Chunk, a Forgery."""

    @property
    def title(self) -> str: ...

    @property
    def text(self) -> str: ...


class Shortened(NamedTuple):
    """A document as the reader sees it: title on one line, text perhaps cut."""

    title: str
    text: str


class Golden(NamedTuple):
    """What shows a question's answer, so that documents cut short can be told from an answer cut off.

    Example: Golden(positions=(1,), answers=("Delhi",))
    """

    positions: tuple[int, ...]
    """Indexes of the golden documents among those shown; empty where none is."""
    answers: tuple[str, ...]
    all_required: bool = False
    reasoning: str = ""
    """What the model learns to say; its quotes are looked for as answers are."""


class Quotes(NamedTuple):
    """What a reasoning quotes. Example: Quotes(spans=("It opened in 1965.",), balanced=True)."""

    spans: tuple[str, ...]
    balanced: bool
    """Every begin mark has its end mark, and none is inside another."""


class Extracted(NamedTuple):
    """The final answer in a text. Example: Extracted(answer="Delhi", tagged=True)."""

    answer: str
    tagged: bool
    """False: no `<ANSWER>:` or `##Answer:`; normal for models that answer plainly."""


def prompt(
    question: str,
    documents: Sequence[Showable],
    tokenizer: Tokenizer,
    config: PromptsConfig,
    *,
    id: str,
    max_tokens: int,
    room: int,
    golden: Golden | None = None,
) -> Prompt:
    """The prompt of a question with these documents in this order; closed book when there is none.

    `room` tokens are kept free for the answer; what does not fit beside it is cut off the ends of the longest
    documents, until they are equally long. Without `golden`, `Prompt.cut_answer` stays False. Raises as `fit`.
    """
    render = renderer(question, tokenizer, config)
    return fit(documents, (render,), tokenizer, id=id, max_tokens=max_tokens, room=room, golden=golden)[0]


def renderer(question: str, tokenizer: Tokenizer, config: PromptsConfig) -> Callable[[Sequence[Showable]], str]:
    """What makes the whole text of a prompt of the documents that are shown with this question."""

    def render(shown: Sequence[Showable]) -> str:
        return tokenizer.chat(user_text(question, shown, config), config.system if shown else config.system_closed)

    return render


def golden_of(question: Question | OpenQuestion, positions: Iterable[int]) -> Golden:
    """What shows the answer of this question, if the documents at these positions are its golden ones."""
    reasoning = question.reasoning if isinstance(question, Question) else question.target
    return Golden(tuple(positions), question.answers, question.all_answers_required, reasoning)


def fit(
    documents: Sequence[Showable],
    renders: Sequence[Callable[[Sequence[Showable]], str]],
    tokenizer: Tokenizer,
    *,
    id: str,
    max_tokens: int,
    room: int,
    golden: Golden | None = None,
) -> list[Prompt]:
    """The prompts that `renders` make of as much of the documents as fits beside `room` tokens in each.

    A document is cut to the same text for all of them, so that prompts of one list differ only in what they show of it
    and in which order. A DataError if one does not fit even without the documents' text.
    """

    def encode(shown: Sequence[Showable]) -> list[list[int]]:
        return [tokenizer.encode(render(shown)).ids for render in renders]

    def excess() -> int:
        return max(map(len, ids)) + room - max_tokens

    ids = whole = encode(documents)
    if excess() <= 0:
        return [Prompt(id=id, tokens=tuple(one)) for one in whole]
    bodies = [f"{_line(document.title)}\n{document.text}" for document in documents]
    starts = [[start for start, _ in tokenizer.encode(body).offsets] for body in bodies]
    kept = [len(tokens) for tokens in starts]
    while (over := excess()) > 0:
        if not any(kept):
            raise DataError(
                f"question {id!r} needs {max(map(len, ids))} tokens without its documents' text, and {room} for the "
                f"answer; model.max_tokens={max_tokens} is too few, raise it"
            )
        # Cutting moves token borders, so the new prompt can be some tokens longer than reckoned: cut again.
        kept = _level(kept, over)
        cut = [_cut(*body) for body in zip(bodies, starts, kept, strict=True)]
        ids = encode([Shortened(title, text) for title, _, text in (body.partition("\n") for body in cut)])
    lost = golden is not None and answer_cut(golden, bodies, cut)
    pairs = zip(whole, ids, strict=True)
    return [Prompt(id=id, tokens=tuple(now), cut_tokens=len(was) - len(now), cut_answer=lost) for was, now in pairs]


def answer_cut(golden: Golden, whole: Sequence[str], cut: Sequence[str]) -> bool:
    """Whether documents, `whole` and as they are cut, no longer show the answer that they showed when whole.

    An answer is gone when no golden document states it any more: one of several where all are required, else all that
    stood there. A quote of the reasoning is gone when it stands in none. Where no answer stands there word for word
    (yes, no and maybe prove nothing by standing there), nobody can tell which words show it: any that are cut count.
    """
    before, after = ([texts[at] for at in golden.positions] for texts in (whole, cut))
    if before == after:
        return False
    read, left = (list(map(verbatim, texts)) for texts in (before, after))
    quoted = [span for span in map(verbatim, quotes(golden.reasoning).spans) if _stands(span, read)]
    if not all(_stands(span, left) for span in quoted):
        return True
    answers = [answer for answer in golden.answers if words(answer).strip() not in LABELS]
    said = [answer for answer in answers if any(contains(text, answer) for text in before)]
    lost = [not any(contains(text, answer) for text in after) for answer in said]
    return any(lost) or not said if golden.all_required else all(lost)


def _stands(span: str, texts: Iterable[str]) -> bool:
    return any(quoted_in(span, text) for text in texts)


def user_text(question: str, documents: Sequence[Showable], config: PromptsConfig) -> str:
    """The user's message: documents, question, how to answer."""
    how = PLAIN
    if config.answer == "reasoned":
        how = REASONED if documents else REASONED_CLOSED
    blocks = [block(document) for document in documents]
    return "".join(blocks) + "\n" * bool(blocks) + f"Question: {question}\n{how}"


def block(document: Showable) -> str:
    """One document as it stands in a prompt; what looks like a delimiter in it is escaped."""
    return f"<DOCUMENT>{_escape(_line(document.title))}\n{_escape(document.text)}</DOCUMENT>\n"


def right_answer(question: Question) -> str:
    """The first right answer; all of them where all are required."""
    return ", ".join(question.answers) if question.all_answers_required else question.answers[0]


def target(question: Question, config: PromptsConfig) -> str:
    """What the model learns to answer: the same with the oracle shown and without.

    The tag stands before the answer in every reasoned target, also where the data has no reasoning.
    """
    answer = right_answer(question)
    if config.answer == "plain":
        return answer
    return f"{question.reasoning.strip()}\n<ANSWER>: {answer}".lstrip()


def extract(text: str) -> Extracted:
    """What follows the last answer tag, to the end of its line; without a tag, the last line that is not empty.

    Thoughts of a reasoning model are no part of it; where they have no end, there is no answer.
    """
    text = without_thoughts(text).text
    tags = list(ANSWER_TAG.finditer(text))
    said = _STOP.split(text[tags[-1].end() :] if tags else text)[0].strip()
    lines = said.splitlines() or [""]
    return Extracted((lines[0] if tags else lines[-1]).strip(), bool(tags))


def quotes(text: str) -> Quotes:
    """The spans between quote marks, without the blanks around them."""
    spans, begun, balanced = [], None, True
    for mark in _MARK.finditer(text):
        opens = mark[1] == "begin"
        balanced &= opens == (begun is None)
        if not opens and begun is not None:
            spans.append(text[begun : mark.start()].strip())
        begun = mark.end() if opens else None
    return Quotes(tuple(spans), balanced and begun is None)


def quotes_hold(text: str, sources: Iterable[str]) -> bool:
    """Whether all marks are balanced and each quote stands word for word in a source, but for what `matching.verbatim`
    makes alike: blanks, shapes of quotes and ligatures, hyphens at the ends of lines.

    True for a text without quotes; an empty quote never holds.
    """
    found = quotes(text)
    if not found.balanced or not found.spans:
        return found.balanced
    read = [verbatim(source) for source in sources]
    return all(any(quoted_in(span, source) for source in read) for span in map(verbatim, found.spans))


def _level(lengths: Sequence[int], excess: int) -> list[int]:
    """The lengths after taking at least `excess` off the longest, or all there is."""
    low, high = 0, max(lengths)
    while low < high:
        level = (low + high + 1) // 2
        if sum(max(0, length - level) for length in lengths) >= excess:
            low = level
        else:
            high = level - 1
    return [min(length, low) for length in lengths]


def _cut(body: str, starts: Sequence[int], keep: int) -> str:
    # The start of the first token that goes: a character that two tokens share goes with it.
    return body if keep == len(starts) else body[: starts[keep]]


def _line(title: str) -> str:
    return " ".join(title.splitlines())


def _escape(text: str) -> str:
    return re.sub(r"<(\\*/?DOCUMENT>)", r"<\\\1", text)
