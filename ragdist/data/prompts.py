"""The one place where questions, documents and answers are worded.

<DOCUMENT>title
text</DOCUMENT>
<DOCUMENT>...</DOCUMENT>

Question: ...
one line on how to answer
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from ragdist.config import AnswerStyle, PromptsConfig
from ragdist.config.data import NUMBER, pieces
from ragdist.data.matching import contains, quoted_in, verbatim, words
from ragdist.data.questions import LABELS
from ragdist.data.thoughts import without_thoughts
from ragdist.errors import DataError
from ragdist.records import ChatPrompt, OpenQuestion, Prompt, Question, as_row
from ragdist.roles import Tokenizer

PLAIN = "Give only the shortest exact answer."
SENTENCE = "Answer in one sentence."
CITED = "Give only the shortest exact answer, then the number of each document that holds it in brackets: Delhi [2]."
REASONED = (
    "Reason first, with ##begin_quote## exact words of a document ##end_quote##, "
    "then end with <ANSWER>: and the shortest exact answer."
)
REASONED_CLOSED = "Reason first, then end with <ANSWER>: and the shortest exact answer."
HOW = {
    "plain": (PLAIN, PLAIN),
    "sentence": (SENTENCE, SENTENCE),
    "reasoned": (REASONED, REASONED_CLOSED),
    "cited": (CITED, PLAIN),
}
"""How to answer by `prompts.answer`: with documents, without."""
SUMMARY = (
    "One of the two answers may be wrong. Give only the shortest exact answer to the question; "
    "when unsure, the one from documents."
)

_MARK = re.compile(r"##(begin|end)_quote##")
ANSWER_TAG = re.compile(r"<answer>\s?[:\uff1a]|##\s?answer\s?[:\uff1a]", re.IGNORECASE)
_STOP = re.compile(r"<stop>", re.IGNORECASE)
_CITATIONS = re.compile(r"(?:\s*\[\d+(?:\s*,\s*\d+)*\])+[.\u3002]?\s*$")


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


Document = str | Mapping[str, Any] | Sequence[str]
"""A text; {"title": ..., "text": ...}, whose title may be absent; a pair of title and text."""


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


def prompt_text(
    question: str,
    documents: Sequence[Showable],
    tokenizer: Tokenizer,
    config: PromptsConfig,
    max_tokens: int,
    room: int,
) -> str:
    """The text whose tokens `prompt` gives; raises as it does."""
    render = renderer(question, tokenizer, config)
    return render(_fitted(documents, (render,), tokenizer, id=question, max_tokens=max_tokens, room=room).shown)


def shown_as(document: Document) -> Shortened:
    """A document in any of its forms.

    Raises:
        DataError: it is something else.
    """
    match document:
        case str():
            return Shortened("", document)
        case {"text": str(text), **more} if isinstance(title := more.get("title", ""), str):
            return Shortened(title, text)
        case [str(title), str(text)]:
            return Shortened(title, text)
    raise DataError(
        f"a document is {type(document).__name__} {document!r:.60}; give a text, a pair (title, text), or a dict with "
        "text and perhaps title"
    )


def chat(
    prompt: Prompt,
    question: str,
    documents: Sequence[Showable],
    tokenizer: Tokenizer,
    config: PromptsConfig,
    *,
    max_tokens: int,
    room: int,
) -> ChatPrompt:
    """What `prompt` gave for the same arguments, with its messages."""
    shown = documents
    if prompt.cut_tokens:
        render = renderer(question, tokenizer, config)
        shown = _fitted(documents, (render,), tokenizer, id=prompt.id, max_tokens=max_tokens, room=room).shown
    user, system = messages(question, shown, config)
    return ChatPrompt(**as_row(prompt), user=user, system=system)  # type: ignore[arg-type]


def messages(question: str, shown: Sequence[Showable], config: PromptsConfig) -> tuple[str, str]:
    """The user's message and the system's."""
    return user_text(question, shown, config), config.system if shown else config.system_closed


def renderer(question: str, tokenizer: Tokenizer, config: PromptsConfig) -> Callable[[Sequence[Showable]], str]:
    """What makes the whole text of a prompt of the documents that are shown with this question."""

    def render(shown: Sequence[Showable]) -> str:
        return tokenizer.chat(*messages(question, shown, config))

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

    fitted = _fitted(documents, renders, tokenizer, id=id, max_tokens=max_tokens, room=room)
    lost = False
    if golden is not None and fitted.shown is not documents:
        bodies, cut = ([f"{_line(one.title)}\n{one.text}" for one in shown] for shown in (documents, fitted.shown))
        lost = answer_cut(golden, bodies, cut)
    pairs = zip(fitted.whole, fitted.ids, strict=True)
    return [Prompt(id=id, tokens=tuple(now), cut_tokens=len(was) - len(now), cut_answer=lost) for was, now in pairs]


class Fitted(NamedTuple):
    """Documents as they fit, and the tokens of each prompt with them, whole and cut."""

    shown: Sequence[Showable]
    whole: list[list[int]]
    ids: list[list[int]]


def _fitted(
    documents: Sequence[Showable],
    renders: Sequence[Callable[[Sequence[Showable]], str]],
    tokenizer: Tokenizer,
    *,
    id: str,
    max_tokens: int,
    room: int,
) -> Fitted:
    def encode(shown: Sequence[Showable]) -> list[list[int]]:
        return [tokenizer.encode(render(shown)).ids for render in renders]

    def excess() -> int:
        return max(map(len, ids)) + room - max_tokens

    shown, ids = documents, encode(documents)
    whole = ids
    if excess() <= 0:
        return Fitted(shown, whole, ids)
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
        shown = [Shortened(title, text) for title, _, text in (body.partition("\n") for body in cut)]
        ids = encode(shown)
    return Fitted(shown, whole, ids)


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
    how, closed = instructions(config)
    if not documents:
        return config.question_closed.format(question=question, instruction=closed)
    wrapper = wrapper_of(config)
    blocks = [wrapper.block(document, number) for number, document in enumerate(documents, start=1)]
    shown = config.separator.join(blocks)
    return config.question.format(documents=shown, question=question, instruction=how)


def instructions(config: PromptsConfig) -> tuple[str, str]:
    """How to answer, with documents and without."""
    how, closed = HOW[config.answer]
    return config.instruction or how, config.instruction_closed or closed


class Wrapper(NamedTuple):
    """What stands around a document, and what of a document would look like it."""

    template: str
    marks: re.Pattern[str]
    """In title and text: a backslash is put behind each match, which is the first sign of words of the wrapper."""
    between: re.Pattern[str] | None
    """Where no words are between two documents: the beginning within a document of the blanks, perhaps around one sign,
    that are. Blanks alone are stripped off a document."""
    joiner: str
    """Is put behind `between`."""

    def block(self, document: Showable, number: int) -> str:
        """One document as it stands in a prompt."""
        title, text = (self.marks.sub(r"\g<0>\\", words) for words in (_line(document.title), document.text))
        whole = self.template.format(title=title, text=text, number=number)
        if not self.between:
            return whole
        whole = whole.strip() if self.joiner == " " else whole
        return self.between.sub(lambda sign: sign[0] + self.joiner, whole)


def wrapper_of(config: PromptsConfig) -> Wrapper:
    """How documents are shown by these settings."""
    return _wrapper(config.document, config.separator, config.question)


@lru_cache
def _wrapper(document: str, separator: str, question: str) -> Wrapper:
    head, *inner, tail = pieces(document)
    around = [word for piece in (head, tail, separator) for word in _words(piece)]
    found = [*around, *(word for piece in inner for word in _words(piece))]
    if not _words(tail):  # what comes after the last document would end it
        found += _words(pieces(question.partition("{documents}")[2])[0])
    joined = tail + separator + head
    on_lines = (tail + separator).rstrip(" \t").endswith("\n")
    marks = "|".join(_begins(word, on_lines) for word in dict.fromkeys(found)) or "(?!)"
    between = None if around else re.compile(_begins(joined, False))
    return Wrapper(document, re.compile(marks, re.MULTILINE), between, "\\" if joined.strip() else " ")


def _words(piece: str) -> list[str]:
    """Of what stands around a text, each line that is more than one sign."""
    lines = map(str.strip, piece.splitlines())
    return [line for line in lines if len(line) > 1]


def _begins(word: str, on_lines: bool) -> str:
    """The first sign of a word that is whole or was broken before; a number alone is one at the start of a line, and
    tags are tags in capitals or small letters, with blanks in them or without."""
    if word[0] == "<":
        parts = (re.escape(part).replace(NUMBER, r"\d+") for part in re.findall(r"\w+|[^\w\s]", word[1:]))
        rest = r"\s*".join(parts)
        return rf"<(?=\\*\s*(?i:{rest}))"
    first, rest = (re.escape(part).replace(NUMBER, digits) for part, digits in ((word[0], r"\d"), (word[1:], r"\d+")))
    if word[0] != NUMBER:
        return rf"{first}(?=\\*{rest})"
    start = r"(?:^|[\r\v\f\x1c-\x1e\x85\u2028\u2029])[ \t]*" if on_lines else ""
    return rf"{start}\d(?=\\*\d*{rest})"


def block(document: Showable) -> str:
    """One document as teachers and attackers are shown it, in the wrapper that `prompts.document` has by default."""
    return wrapper_of(PromptsConfig()).block(document, 1) + "\n"


def right_answer(question: Question) -> str:
    """The first right answer; all of them where all are required."""
    return ", ".join(question.answers) if question.all_answers_required else question.answers[0]


def target(question: Question, config: PromptsConfig, golden: Sequence[int] = ()) -> str:
    """What the model learns to answer: the same with the oracle shown and without, but for its citations.

    The tag stands before the answer in every reasoned target, also where the data has no reasoning; a sentence is the
    short answer there. `golden` are indexes of the golden documents among those shown.
    """
    answer = right_answer(question)
    if config.answer == "sentence":
        return " ".join(_MARK.sub("", question.reasoning).split()) or answer
    if config.answer == "cited":
        return f"{answer} {''.join(f'[{at + 1}]' for at in sorted(golden))}".rstrip()
    if config.answer == "plain":
        return answer
    return f"{question.reasoning.strip()}\n<ANSWER>: {answer}".lstrip()


def citations(text: str) -> tuple[int, ...]:
    """Numbers of the documents that an answer cites at its end. Example: (2,) of "Delhi [2]"."""
    found = _CITATIONS.search(without_thoughts(text).text)
    return tuple(map(int, re.findall(r"\d+", found[0]))) if found else ()


def extract(text: str, style: AnswerStyle = "plain") -> Extracted:
    """What follows the last answer tag, to the end of its line; without a tag, the last line that is not empty.

    Thoughts of a reasoning model are no part of it; where they have no end, there is no answer. Nor are citations where
    answers are cited.
    """
    text = without_thoughts(text).text
    if style == "cited":
        text = _CITATIONS.sub("", text)
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
