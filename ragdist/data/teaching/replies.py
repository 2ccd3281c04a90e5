"""What a teacher's replies say: questions, reasoned answers, verdicts. Each is checked against the text it is about."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from string import punctuation
from typing import NamedTuple, TypeVar

from ragdist.data.matching import contains, flat, key, normalise, words
from ragdist.data.prompts import ANSWER_TAG, extract, quotes, quotes_hold
from ragdist.data.teaching import listing
from ragdist.data.teaching.tongues import ANSWER, DECLINED, YES
from ragdist.data.thoughts import without_thoughts
from ragdist.records import Reply, Request
from ragdist.roles import Teacher

Item = TypeVar("Item")
LONGEST_ANSWER = 30
"""Words; a longer one is no short answer, and most likely the whole text copied."""
SHORTEST_QUESTION = 3
"""Words, where letters are Latin."""
FEWEST_LETTERS = 6
"""Of a question in another script: one word of it can say what takes three in English."""

_PLACE = re.compile(r"\{(\w+)\}")
_REASON = re.compile(r"^\s*(?:##\s?)?(?:reason|reasoning)\s?[:\uff1a]\s*", re.IGNORECASE)
_MARKUP = re.compile(r"##(?:begin|end)_quote##|</answer>|^\*\*|\*\*$", re.IGNORECASE)
_TAG = re.compile(
    rf"^[ \t]*[*_#]*[ \t]*(?:[<\uff1c]answer[>\uff1e]|(?:{'|'.join(ANSWER)})[ \t]*[*_]*[ \t]*[:\uff1a])[*_]*[:\uff1a]?",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that begins as an answer does, with the tag's colon forgotten or with words of the reply's own language."""
_STOPS = ".\u3002\uff0e\uff61\u0964\u06d4\u0589\u1362\u104b\u17d4"
_QUOTED = {
    "\u300c": "\u300d",
    "\u300e": "\u300f",
    "\u201c": "\u201d",
    "\u201e": "\u201c",
    "\u00ab": "\u00bb",
    "\u300a": "\u300b",
}
_AROUND = punctuation + "\u3002\uff0e\uff0c\u3001\uff01\u061f\u060c\u0964\u300c\u300d\u201c\u201d\u00ab\u00bb\u2026"
_BETWEEN = re.compile(r"[\s,.\u3002\uff0c\u3001\u060c\uff0e\uff01\u0964]+")
"""Equal in one of them is equal: an answer of another script keeps its full stop in the first."""
_MINUS = re.compile("[\u2212\uff0d\ufe63]")
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


def declines(answer: str) -> bool:
    """Whether it says that the question cannot be answered."""
    return bool(_DECLINES.match(answer) or DECLINED.match(answer))


class ReasonedAnswer(NamedTuple):
    """A reasoned answer as it was read. Example: ReasonedAnswer("##begin_quote## ...", "8443", "", False)."""

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


def spoken(reply: Reply) -> Reply:
    """The reply without its thoughts; one that was cut off while it thought is a refusal."""
    said = without_thoughts(reply.text)
    if not said.cut:
        return replace(reply, text=said.text)
    why = "" if said.text.strip() else "its thoughts were cut off before an answer; raise teacher.max_new_tokens"
    return replace(reply, text=said.text, ended=False, failed=reply.failed or why)


def questions_in(reply: Reply, count: int, text: str) -> tuple[list[str], int]:
    """At most `count` questions of a reply about a text, each once, without numbering, empty lines and talk around
    them, and how many of its lines are none.

    Where some lines are questions, by their mark or by words of a language that writes none, the others are talk; where
    none is, as in instructions, the items of a list count. The last line of a reply that was cut off counts only if it
    is finished. What stands in the text that is asked about is no question about it.
    """
    said = spoken(reply)
    lines, listed = listing.pieces(said.text, whole=said.ended)
    asking = [line for line in lines if listing.asks(line)]
    asking = asking or [line for line in lines if listed or listing.is_item(line)]
    found = dict.fromkeys(map(listing.bare, asking))
    kept = [line for line in found if _is_long_enough(line) and not contains(text, line)]
    return kept[:count], sum(bool(line.strip()) for line in lines) - len(asking) + len(found) - len(kept)


def names_document(question: str) -> bool:
    """Whether the question points at a text that its reader will not have before them; English phrases only."""
    return bool(_NAMES_DOCUMENT.search(question))


def read_answer(
    reply: Reply, sources: Sequence[str], known: Sequence[str] = (), *, all_known: bool = False
) -> ReasonedAnswer:
    """The reasoned answer in a reply, and what is wrong with it.

    It holds when the reply is whole, ends with a tag (`<ANSWER>:` or `##Answer:`) and a short answer, all its quotes
    stand word for word in a source, and either it has a quote or its answer's words follow one another in a source. An
    answer alone, without a tag, holds when it is one line of such words: it is its own quote. Where right answers are
    known, it must be one of them, with `all_known` hold all of them.
    """
    reply = spoken(reply)
    text = reply.text.strip()
    if not ANSWER_TAG.search(text):
        text = _TAG.sub("<ANSWER>: ", text)
    found = extract(text)
    before = text[: list(ANSWER_TAG.finditer(text))[-1].start()] if found.tagged else ""
    reasoning = _REASON.sub("", before).removesuffix("**").strip()
    answer = _bare_answer(found.answer)
    stands = any(contains(source, answer) for source in sources)
    alone = not found.tagged and stands and len(text.splitlines()) == 1
    declined = declines(answer) and not stands and not known
    problem = _form_problem(reply, answer, found.tagged or alone) or _quote_problem(reasoning, sources)
    if not problem and known:
        problem = _known_problem(answer, known, all_known)
    elif not problem and not stands and not quotes(reasoning).spans:
        problem = "it quotes nothing, and its answer does not stand in the text"
    return ReasonedAnswer(reasoning, answer, problem, declined)


def says_yes(reply: Reply) -> bool:
    """Whether the first or the last word of a verdict is yes, in one of `YES`."""
    bare = (word.strip(_AROUND).casefold() for word in _BETWEEN.split(spoken(reply).text))
    said = [word for word in bare if word]
    return bool(said) and not YES.isdisjoint((said[0], said[-1]))


def _is_long_enough(line: str) -> bool:
    """In words, and in letters where those are not Latin: other scripts say more in a word, or write no spaces."""
    signs = (one for one in line if one > "\u024f" and not "\u1e00" <= one <= "\u1eff")
    other = sum(unicodedata.category(one)[0] in "LM" for one in signs)  # vowel signs of Indic scripts are letters too
    return other >= FEWEST_LETTERS or len(words(line).split()) >= SHORTEST_QUESTION


def _bare_answer(answer: str) -> str:
    """Without marks, a full stop at its end, and quotes around all of it."""
    bare = flat(_MARKUP.sub("", listing.emphasised(answer)))
    if bare.endswith(tuple(_STOPS)) and bare.count(bare[-1]) == 1:
        bare = bare[:-1]
    close = _QUOTED.get(bare[:1])
    return bare[1:-1].strip() if close and bare.find(close, 1) == len(bare) - 1 else bare


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
    answer, right = (_MINUS.sub("-", text) for text in (answer, right))
    signs = {text.strip("`'\" ").startswith("-") for text in (answer, right)}  # normalised, -1 is 1
    alike = key(answer) == key(right) or normalise(answer, "unicode") == normalise(right, "unicode")
    return alike and len(signs) == 1
