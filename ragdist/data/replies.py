"""What a teacher's replies say: questions, reasoned answers, verdicts. Each is checked against the text it is about."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ragdist.data.matching import contains, flat, key, words
from ragdist.data.prompts import ANSWER_TAG, extract, quotes, quotes_hold
from ragdist.records import Reply, Request
from ragdist.roles import Teacher

Item = TypeVar("Item")
LONGEST_ANSWER = 30
"""Words; a longer one is no short answer, and most likely the whole text copied."""
SHORTEST_QUESTION = 3
"""Words."""

_PLACE = re.compile(r"\{(\w+)\}")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_REASON = re.compile(r"^\s*(?:##\s?)?(?:reason|reasoning)\s?:\s*", re.IGNORECASE)
_MARKUP = re.compile(r"##(?:begin|end)_quote##|</answer>|^\*\*|\*\*$", re.IGNORECASE)
_NUMBERING = re.compile(
    r"""^(?:
        [-*+\u2022\u2013\u2014\u00b7]\s+                                    # - What
      | \(?\d{1,3}[.)\]:\u3001\uff0e\uff1a](?!\d)\s*                         # 1. What, (1) What
      | \(?[A-Za-z]\)\s*                                                     # a) What
      | (?:q|question)\s*\d{0,3}\s*[.:)]\s*                                  # Q1: What, Question 2: What
      | \#+\s+                                                               # ## What
    )+""",
    re.IGNORECASE | re.VERBOSE,
)
ASKS = "?\uff1f\u061f\u037e\u055e\u1367"
"""Question marks: Latin, full width, Arabic, Greek, Armenian, Ethiopic."""
_AFTER_QUESTION = re.compile(rf"(?<=[{ASKS}])\s+")
_CLOSING = " \t\"'*)]\u201d\u2019\u00bb\u300d\u300f"
_TEXT = "(?:document|text|passage|article|excerpt|snippet|chunk|author)s?"
_PLACE_IN_TEXT = (
    "(?:section|page|paragraph|context|chapter|table|figure|list|example|story|study|paper|report|book|manual|guide"
    "|file|code|function|method|class|module|sentence|statement|question)s?"
)
_NAMES_DOCUMENT = re.compile(
    rf"\bthe\s+{_TEXT}\b(?![-_])"
    rf"|\b(?:this|these|above|given|provided|following|preceding|aforementioned)\s+(?:{_TEXT}|{_PLACE_IN_TEXT})\b"
    r"|\b(?:mentioned|described|shown|listed|stated|given|discussed|quoted)\s+(?:above|below|here)\b",
    re.IGNORECASE,
)
_DECLINES = re.compile(
    r"^(?:unanswerable|unknown|n/?a|no answer|none given|not (?:answerable|applicable)"
    r"|(?:it |this )?(?:is |was )?not (?:stated|mentioned|given|specified|provided|known|available|clear|described)"
    r"|(?:it |this |the (?:question|answer) )?(?:cannot|can't|can not) be (?:answered|determined|known|found)"
    r"|(?:the|this) (?:text|document|passage|context) (?:does not|doesn't)|i (?:do not|don't|cannot|can't)"
    r"|(?:there is )?(?:not enough|insufficient|no) information)\b",
    re.IGNORECASE,
)


class Answered(NamedTuple):
    """A reasoned answer as it was read. Example: Answered("##begin_quote## ... ##end_quote##", "8443", "", False)."""

    reasoning: str
    """What stands before the answer tag; empty where the answer stands alone."""
    answer: str
    problem: str
    """What is wrong with it, as a sentence for whoever writes it again; empty for an answer that holds."""
    declined: bool
    """The teacher says that the text does not answer the question."""


def ask_each(
    items: Iterable[Item], request: Callable[[Item], Request], teacher: Teacher, what: str
) -> Iterator[tuple[Item, Reply]]:
    """Each item with the teacher's reply to its request, in order; items are taken as calls have room."""
    owed: deque[Item] = deque()

    def requests() -> Iterator[Request]:
        for item in items:
            owed.append(item)
            yield request(item)

    for reply in teacher.ask(requests(), what=what):
        yield owed.popleft(), reply


def fill(template: str, **values: str) -> str:
    """The template with its places filled in; other braces stay, so a prompt may show JSON."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)


def questions_in(reply: Reply, count: int, text: str) -> list[str]:
    """At most `count` questions of a reply, each once, without numbering, empty lines and talk around them.

    Where some lines end with a question mark the others are talk; where none does, as in instructions, the items of a
    list count. The last line of a reply that was cut off counts only if it is finished. What stands in the text that is
    asked about is no question about it.
    """
    said = _THOUGHT.sub("", reply.text)
    lines = [piece for line in said.splitlines() for piece in _AFTER_QUESTION.split(line.strip())]
    if lines and not reply.ended and not said.endswith("\n") and not _asks(lines[-1]):
        del lines[-1]
    asking = [line for line in lines if _asks(line)] or [line for line in lines if _NUMBERING.match(line)]
    found = dict.fromkeys(_bare_line(line) for line in asking)
    long_enough = [line for line in found if len(words(line).split()) >= SHORTEST_QUESTION]
    return [line for line in long_enough if not contains(text, line)][:count]


def names_document(question: str) -> bool:
    """Whether the question points at a text that its reader will not have before them; English phrases only."""
    return bool(_NAMES_DOCUMENT.search(question))


def read_answer(
    reply: Reply, sources: Sequence[str], known: Sequence[str] = (), *, all_known: bool = False
) -> Answered:
    """The reasoned answer in a reply, and what is wrong with it.

    It holds when the reply is whole, ends with a tag (`<ANSWER>:` or `##Answer:`) and a short answer, all its quotes
    stand word for word in a source, and either it has a quote or its answer's words follow one another in a source. An
    answer alone, without a tag, holds when it is one line of such words: it is its own quote.

    Args:
        reply: the teacher's.
        sources: texts that it may quote from.
        known: right answers, where they are known: then the answer must be one of them.
        all_known: all of them must be in the answer.
    """
    text = _THOUGHT.sub("", reply.text).strip()
    found = extract(text)
    before = text[: list(ANSWER_TAG.finditer(text))[-1].start()] if found.tagged else ""
    reasoning = _REASON.sub("", before).removesuffix("**").strip()
    answer = _bare_answer(found.answer)
    stands = any(contains(source, answer) for source in sources)
    alone = not found.tagged and stands and len(text.splitlines()) == 1
    declined = bool(_DECLINES.match(answer)) and not stands and not known
    problem = _form_problem(reply, answer, found.tagged or alone) or _quote_problem(reasoning, sources)
    if not problem and known:
        problem = _known_problem(answer, known, all_known)
    elif not problem and not stands and not quotes(reasoning).spans:
        problem = "it quotes nothing, and its answer does not stand in the text"
    return Answered(reasoning, answer, problem, declined)


def says_yes(reply: Reply) -> bool:
    """Whether the first or the last word of a verdict is yes."""
    said = words(_THOUGHT.sub("", reply.text)).split()
    return bool(said) and "yes" in (said[0], said[-1])


def _asks(line: str) -> bool:
    return line.rstrip(_CLOSING).endswith(tuple(ASKS))


def _bare_line(line: str) -> str:
    bare = _NUMBERING.sub("", _BOLD.sub(r"\1", line.strip())).strip()
    quoted = len(bare) > 1 and (bare[0], bare[-1]) in {('"', '"'), ("\u201c", "\u201d"), ("\u00ab", "\u00bb")}
    return bare[1:-1].strip() if quoted else bare


def _bare_answer(answer: str) -> str:
    bare = flat(_MARKUP.sub("", _BOLD.sub(r"\1", answer)))
    return bare[:-1] if bare.endswith(".") and bare.count(".") == 1 else bare


def _form_problem(reply: Reply, answer: str, told: bool) -> str:
    if reply.failed:
        return f"the teacher refused: {reply.failed}"
    if not reply.ended:
        return "it was cut off before its end; be shorter"
    if not told or not key(answer):
        return "it does not end with <ANSWER>: and an answer"
    if len(words(answer).split()) > LONGEST_ANSWER:
        return f"its answer has more than {LONGEST_ANSWER} words"
    return ""


def _quote_problem(reasoning: str, sources: Sequence[str]) -> str:
    found = quotes(reasoning)
    if not found.balanced:
        return "its ##begin_quote## and ##end_quote## marks are not in pairs"
    for span in found.spans:
        if not quotes_hold(f"##begin_quote##{span}##end_quote##", sources):
            return f"its quote {span!r} does not stand word for word in the text"
    return ""


def _known_problem(answer: str, known: Sequence[str], all_known: bool) -> str:
    if all_known:
        return "" if all(contains(answer, one) for one in known) else f"its answer is not {', '.join(known)!r}"
    return "" if any(_same(answer, one) for one in known) else f"its answer is not {known[0]!r}, which is right"


def _same(answer: str, right: str) -> bool:
    # Normalised, -1 is 1.
    signs = {text.strip("`'\" ").startswith("-") for text in (answer, right)}
    return key(answer) == key(right) and len(signs) == 1
