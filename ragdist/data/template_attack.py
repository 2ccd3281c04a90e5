"""The template attack: copies of the true document that agree on one wrong answer.

Nothing but what it claims tells a copy from a retrieved document: title and opening are the document's own, with the
right answer replaced wherever it stands. Copies of one document differ as passages of one article do: each leaves out
other sentences. Where no right answer stands in the text (yes and no, for one), a sentence within it states the wrong
one.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import NamedTuple

import regex

from ragdist.data.matching import contains, flat, letters, shows, spans, words
from ragdist.data.prompts import Showable
from ragdist.data.teaching.listing import ASKS
from ragdist.draws import rng_for
from ragdist.errors import DataError
from ragdist.records import Forgery, OpenQuestion, Question, content_id

LABELS = ("yes", "no", "maybe")
TOP = 3
"""The wrong answer is drawn from so many of the question's own, which are listed best first."""
LOOKED_AT = 64
"""Answers of other questions that are compared in form."""
STATEMENTS = (
    "{Question} {Answer}{stop}",
    "{Question} - {answer}{stop}",
    "({Question} {Answer}{stop})",
    "{Answer}{stop} {Question} {Answer}{stop}",
)
"""Wordings in no language but the question's own."""
OPENING_WORDS, OPENING_CHARACTERS = 8, 40
"""A sentence is put behind so much of a text at least, so that the text still begins as it did."""
LONGEST_OPENING = 240
"""Characters of a text that another sentence is put behind at most."""
_FULL = r"\u3002\uff01\uff1f\uff61\u0964\u0965\u061f\u06d4\u0589\u1362\u1367\u1368\u104b\u17d4\u0f0d"
"""Stops of scripts that put no blank behind them, or have their own: Chinese, Japanese, Hindi, Arabic, Urdu, Armenian,
Amharic, Burmese, Khmer, Tibetan."""
_CLOSES = r"[\"')\]\u201d\u2019\u00bb\u300d\u300f\uff09]*"
_ENDS = re.compile(rf"[.!?{_FULL}]{_CLOSES}$")
_WIDE_STOPS = "\u3002\uff01\uff1f\uff61"
"""No blank stands behind them."""
_STOP = regex.compile(r"[\u3002\u0964\u06d4\u0589\u1362\u104b\u17d4\u0f0d]")
_NO_STOP = regex.compile(r"\p{Line_Break=Complex_Context}")
_NO_BLANKS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
_ASKS = (
    (_NO_BLANKS, "\uff1f"),
    (regex.compile(r"\p{Arabic}"), "\u061f"),
    (regex.compile(r"\p{Greek}"), ";"),
    (_NO_STOP, ""),
)
"""How a question ends in scripts that have no `?`."""
_PIECES = regex.compile(rf"(?<=[\w\p{{M}}]{{2}}[.!?]){_CLOSES}\s+(?=[^\sa-z])|(?<=[{_FULL}]){_CLOSES}\s*(?=\S)|\n\s*\n")
"""Ends of sentences and paragraphs, with the blanks behind them; `Dr. Li` and `i.e. so` are no ends."""
_BEGINS = re.compile(rf"(?:^|[.!?{_FULL}]{_CLOSES}\s+|\n)\W*$")
"""What stands before the first word of a sentence."""
LOOKED_BACK = 64
"""Characters before a word in which the end of another sentence is looked for."""
_IN_FRONT, _BEHIND = regex.compile(r"^[^\w\p{M}]+"), regex.compile(r"[^\w\p{M}]+$")
"""Signs that an answer begins and ends with: `$5`, `-1`, `50%`, `f(x)`."""
_APART = regex.compile(r"[%\u2030\p{S}]+")
"""Signs that may stand behind a blank."""
_BLANKS = (" ", "\u00a0", "\u202f")
_STOPS = ".!?;:,\u2026"
_AL, _LI_AL = "\u0627\u0644", "\u0644\u0644"
"""The Arabic article, and both in one where `li` stands in front of it."""
_NAMED_VALUE = re.compile(r"(?<![\w.])(\w+)\s*(?::[^=,()\n]*)?=")
"""Parameters that a signature gives a default."""


class Falsified(NamedTuple):
    """A document with the right answer replaced. Example: Falsified(title="Inn", text="It opened in 1969.", at=13)."""

    title: str
    text: str
    at: int
    """Where the first wrong answer begins in the text; -1 where no right one stood there."""


def forge(
    question: Question | OpenQuestion,
    sources: Sequence[Showable],
    pool: Sequence[str],
    *,
    count: int,
    seed: int,
    others: Sequence[Showable] = (),
) -> tuple[list[Forgery], dict[str, int]]:
    """At most `count` documents that all state the same wrong answer, each in the form of a source, no two alike; and
    1 where the question had no source that could be made false (`still_true`), or none that the answer stood in
    (`not_falsified_in_text`: it still argues for the right one).

    A source that states a right answer even with every one of them replaced (as `matching.contains` sees it) is not
    used; where none is left, there is no forgery. No sources at all give plain statements. A wrong answer of similar
    form is taken from `pool` where the question lists none, a sentence from `others` where a copy has none to leave
    out. A DataError if there is no wrong answer to argue for.
    """
    wrong = wrong_answer(question, pool, seed)
    found = [falsified(question, source, wrong) for source in sources] or [Falsified("", "", -1)]
    found = [one for one in found if not says_right(question, one.title, one.text)]
    # Of several documents, those that hold the answer are the ones worth forging.
    found = [one for one in found if one.at >= 0] or found
    missed = {"still_true": int(not found), "not_falsified_in_text": int(bool(found) and found[0].at < 0)}
    more = [tail for other in others if (tail := _tail(other.text)) and not says_right(question, "", tail)]
    texts = [versions(question, one, wrong, more) for one in found]
    taken = {flat(source.text) for source in sources}
    forged: list[Forgery] = []
    for number in range(count if found else 0):
        title = found[number % len(found)].title
        text = next((text for text in texts[number % len(found)] if flat(text) not in taken), None)
        if text is None:
            continue
        taken.add(flat(text))
        forged.append(
            Forgery(
                id=content_id("forgery", question.id, str(number), title, text),
                question_id=question.id,
                number=number,
                title=title,
                text=text,
                states=wrong,
                method="template",
            )
        )
    return forged, missed


def checked(question: Question | OpenQuestion, forgeries: Iterable[Forgery]) -> list[Forgery]:
    """Forgeries that came with the data, each with a word on whether it gives a right answer and the wrong one."""
    return [
        replace(
            forgery,
            truthful=says_right(question, forgery.title, forgery.text),
            stated=says(f"{forgery.title}\n{forgery.text}", [forgery.states], question.topic),
        )
        for forgery in forgeries
    ]


def wrong_answer(question: Question | OpenQuestion, pool: Sequence[str], seed: int) -> str:
    """The wrong answer that forgeries agree on. A DataError if there is none."""
    rng = rng_for(seed, "forgeries", question.id)
    return rng.choice(_candidates(question, pool, rng)[: TOP if question.wrong_answers else 1])


def wrong_answers(question: Question | OpenQuestion, pool: Sequence[str], *, count: int, seed: int) -> tuple[str, ...]:
    """At most `count` wrong answers, best first, never none: its own, else those of other questions most alike in form.
    A DataError if there is none."""
    return tuple(_candidates(question, pool, rng_for(seed, "forgeries", question.id))[:count])


def _candidates(question: Question | OpenQuestion, pool: Sequence[str], rng: random.Random) -> list[str]:
    right = {flat(answer).casefold() for answer in question.answers}
    own = [answer for answer in question.wrong_answers if flat(answer).casefold() not in right]
    if own:
        return own
    if right <= set(LABELS):
        others = [label for label in LABELS[:2] if label not in right] or [LABELS[2]]
        return rng.sample(others, len(others))
    shapes = [_shape(answer) for answer in question.answers]
    others = [answer for answer in rng.sample(pool, min(len(pool), LOOKED_AT)) if not _overlaps(answer, right)]
    if not others:
        raise DataError(
            f"question {question.id!r} has no wrong answer to forge: it lists none, and no other question has another "
            "answer; give wrong_answers in corpus.questions, or leave `attacked` out of evaluation.conditions"
        )
    return sorted(others, key=lambda answer: min(_distance(_shape(answer), shape) for shape in shapes))


def _overlaps(answer: str, right: Iterable[str]) -> bool:
    """Whether one contains the other: a wrong answer with the right one in it would still count as right."""
    return not words(answer).strip() or any(contains(answer, one) or contains(one, answer) for one in right)


def _shape(answer: str) -> tuple[str, int, int]:
    """Its letters, capitals, digits, dots and blanks in order, each run as one; words; characters."""
    kinds = re.sub(r"[A-Z]+", "A", re.sub(r"[^\W\d_A-Z]+", "a", re.sub(r"[^\w\s.]|_", "", answer)))
    return re.sub(r"\d+", "0", kinds), len(answer.split()), len(answer)


def _distance(one: tuple[str, int, int], other: tuple[str, int, int]) -> tuple[bool, int, int]:
    return one[0] != other[0], abs(one[1] - other[1]), abs(one[2] - other[2])


def falsified(question: Question | OpenQuestion, document: Showable, wrong: str) -> Falsified:
    """The document with the wrong answer wherever a right one stands, in the title too.

    Where a parameter's default is asked for and the text gives it as one, only there: `1` stands in many a text.
    """
    title, text = document.title, document.text
    if question.topic and (given := _defaults(question.answers, question.topic, text)):
        return Falsified(title, _replaced(text, given, wrong), given[0][0])
    at = _stands(question, text, wrong)
    swapped = _replaced(text, at, wrong)
    return Falsified(_replaced(title, _stands(question, title, wrong), wrong), swapped, at[0][0] if at else -1)


def says_right(question: Question | OpenQuestion, title: str, text: str) -> bool:
    """Whether a document gives a right answer by its words; a word like `no` says nothing of what a text argues."""
    whole, answers = f"{title}\n{text}", [answer for answer in question.answers if not is_label(answer)]
    return says(whole, answers, question.topic) or (not question.topic and any(shows(whole, one) for one in answers))


def says(text: str, answers: Iterable[str], parameter: str) -> bool:
    """Whether the text gives any of the answers.

    A value like 1 stands in many a text: where a parameter's default is asked for, it is given in a signature
    (`parameter=1`) or in a sentence with the word "default".
    """
    if parameter:
        return bool(_defaults(answers, parameter, text))
    return any(contains(text, answer) for answer in answers)


def default(parameter: str, value: str) -> re.Pattern[str]:
    """`parameter=value` or `parameter: type = value`, where the type may hold brackets with commas."""
    return re.compile(rf"{_before(parameter)}(?P<value>{re.escape(value)})(?![\w.])")


def before_default(parameter: str, text: str) -> int:
    """Where the parameter's default begins in a text; -1 where the text gives it none."""
    match = re.search(_before(parameter), text)
    return match.end() if match else -1


def _before(parameter: str) -> str:
    kind = r"(?:\s*:\s*(?:[^=,()\[\]]|[\[(][^=]*?[\])])*)?"
    return rf"(?<![\w.]){re.escape(parameter)}{kind}\s*=\s*"


def _defaults(answers: Iterable[str], parameter: str, text: str) -> list[tuple[int, int]]:
    """Where the text gives one of the answers as the parameter's default."""
    others = {name for name in _NAMED_VALUE.findall(text) if name != parameter}
    found: list[tuple[int, int]] = []
    for answer in answers:
        found += [match.span("value") for match in default(parameter, answer).finditer(text)]
        value = rf"(?<![\w.'\"-])(?P<value>{re.escape(answer)})(?![\w'\"])"
        for match in re.finditer(rf"(?i:default)[^\n]{{0,60}}?{value}", text):
            line = text[text.rfind("\n", 0, match.start()) + 1 : match.end()]
            named = set(re.findall(r"\w+", line))
            if parameter in named or not named & others:  # a line on another parameter is left alone
                found.append(match.span("value"))
    return _merged(found)


def _stands(question: Question | OpenQuestion, text: str, wrong: str) -> list[tuple[int, int]]:
    """Where a right answer stands in the text, from the front; where two overlap, the place of both."""
    answers = [answer for answer in question.answers if not is_label(answer)]
    found = [(answer, place) for answer in answers for place in spans(text, answer, within=True)]
    return _merged([_whole(text, place, answer, wrong) for answer, place in found])


def _whole(text: str, place: tuple[int, int], answer: str, wrong: str) -> tuple[int, int]:
    """The place of an answer's words with what else of it stands there, so that nothing is left of it, or stands twice
    beside the wrong one: signs at its ends, but for a stop that the sentence needs, and the article of an Arabic word.
    """
    start, end = place
    both = flat(wrong), flat(answer)
    if any(one.startswith(_AL) for one in both):
        start -= len(_AL) * text.endswith(_AL, 0, start) or (text.endswith(_LI_AL, 0, start) and not _has_al(wrong))
    for one in both:
        signs = "".join(_IN_FRONT.findall(one))
        if signs and letters(text[max(0, start - len(signs)) : start]) == letters(signs):
            start -= len(signs)
            break
    behind = ["".join(_BEHIND.findall(one)) for one in both]
    for signs in (behind[0], behind[1].rstrip(_STOPS)):
        gap = text[end : end + 1] in _BLANKS and bool(_APART.fullmatch(signs))
        if signs and letters(text[end + gap : end + gap + len(signs)]) == letters(signs):
            end += gap + len(signs)
            break
    return start, end


def _has_al(wrong: str) -> bool:
    return flat(wrong).startswith(_AL)


def _merged(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in sorted(places):
        if out and start < out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def _replaced(text: str, places: Sequence[tuple[int, int]], wrong: str) -> str:
    parts, at = [], 0
    for start, end in places:
        before, said = text[at:start], flat(wrong)
        if _has_al(wrong) and before.endswith(_LI_AL):
            said = said[len(_AL) :]
        begins = _BEGINS.search(text, max(0, start - LOOKED_BACK), start) and not text[start].islower()
        parts += [before, sentence(said) if begins else said]
        at = end
    return "".join([*parts, text[at:]])


def is_label(answer: str) -> bool:
    """Whether it is yes, no or maybe, which says nothing of what a text argues."""
    return flat(answer).casefold() in LABELS


def sentence(text: str) -> str:
    """The text as it begins a sentence; a name like `iPhone` as it is."""
    text = flat(text)
    first = text.partition(" ")[0]
    return text if first != first.lower() else text[:1].title() + text[1:]  # not upper: Georgian has no such capitals


def versions(
    question: Question | OpenQuestion, document: Falsified, wrong: str, more: Sequence[str] = ()
) -> Iterator[str]:
    """The document's text again and again, each time another one that states the wrong answer; the best first.

    Where it stands in the text, other sentences are left out, but never the first; then one of `more` is added; then
    sentences that state it are. Else one such sentence stands within the text, each time elsewhere.
    """
    cuts = _cuts(document.text)
    statements = _statements(question, wrong, document.text)
    if document.at < 0:
        ends = [cut for cut in cuts if _opens(document.text[:cut])] or [len(document.text.rstrip())]
        for number, said in enumerate(said for said in statements for _ in ends):
            end = ends[number % len(ends)]
            yield _joined(document.text[:end], said, document.text[end:])
        return
    pieces = [document.text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    claimed = [sum(cut <= at for cut in cuts) for at in (document.at, document.at + len(flat(wrong)) - 1)]
    kept = {0, *range(claimed[0], claimed[1] + 1)}
    spare = [at for at in reversed(range(len(pieces))) if at not in kept]
    for size in range(min(len(spare), 3) + 1):
        for left_out in combinations(spare, size):
            shown = "".join(piece for at, piece in enumerate(pieces) if at not in left_out)
            yield shown.rstrip() + document.text[len(document.text.rstrip()) :]
    for said in (*more, *statements):
        yield _joined(document.text, said, "")


def _tail(text: str) -> str:
    """The last sentence of a text that has more than one, or more than one line."""
    cuts = _cuts(text)
    return (text[cuts[-1] :] if cuts else text.partition("\n")[2]).strip()


def _cuts(text: str) -> list[int]:
    """Where a sentence or paragraph ends within the text, the blanks behind it included."""
    return [found.end() for found in _PIECES.finditer(text) if 0 < found.end() < len(text)]


def opening(text: str) -> str:
    """How the text begins: whole sentences, few but enough, with the blank behind them; a long one is broken off."""
    body = text.rstrip()
    for cut in _cuts(text):
        if _opens(text[:cut]) and cut <= LONGEST_OPENING:
            return text[:cut]
    if len(body) <= LONGEST_OPENING:
        return body and body + ("" if body[-1] in _WIDE_STOPS else " " if _ENDS.search(body) else _ended(text))
    short = body[:LONGEST_OPENING].rpartition(" ")[0] or body[:LONGEST_OPENING]
    return short.rstrip(" ,;:-\uff0c\u3001") + _ended(text)


def _ended(text: str) -> str:
    """The end of a sentence of this text, with the blank behind it."""
    stop = stop_of(text)
    return stop if stop and stop in _WIDE_STOPS else f"{stop} "


def _opens(text: str) -> bool:
    return len(text.split()) >= OPENING_WORDS or len(text) >= OPENING_CHARACTERS


def _statements(question: Question | OpenQuestion, wrong: str, text: str) -> Iterator[str]:
    """Sentences that state the wrong answer, as they stand in a text: every wording, then two of them, and so on."""
    asked, stop = sentence(question.text), stop_of(text or question.text)
    if not _ENDS.search(asked) and not asked.endswith((";", *ASKS)) and "\u055e" not in asked:
        asked += next((sign for letters_of, sign in _ASKS if letters_of.search(asked)), "?")
    for size in range(1, len(STATEMENTS) + 1):
        for wordings in permutations(STATEMENTS, size):
            said = " ".join(wordings).format(Question=asked, answer=flat(wrong), Answer=sentence(wrong), stop=stop)
            yield re.sub(rf"(?<=[{_WIDE_STOPS}]) ", "", said)


def stop_of(text: str) -> str:
    """What ends a sentence of this text: the stop of its script, and none where the script has none, as Thai."""
    if found := _STOP.findall(text):
        return str(Counter(found).most_common(1)[0][0])
    if _NO_STOP.search(text):
        return ""
    return "\u3002" if _NO_BLANKS.search(text) and "." not in text else "."


def _joined(before: str, said: str, after: str) -> str:
    """A sentence between two parts of a text, with the blanks that stood between them on both sides."""
    if not after.strip():  # the text ends as it did
        body = before.rstrip()
        return f"{body}{' ' if body and body[-1] not in _WIDE_STOPS else ''}{said}{before[len(body) :]}{after}"
    blank = before[len(before.rstrip()) :] or (" " if before else "")
    return f"{before.rstrip()}{blank}{said}{blank}{after}"
