"""The defences that come with ragdist. None is trained; each asks the same model, more often or about less."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

from ragdist.data.defences.plugin import Asked, Defence, Read, Said, Steps
from ragdist.data.prompts import Shortened
from ragdist.data.teaching.listing import bare
from ragdist.data.teaching.replies import declines

UNKNOWN = "I don't know."
ALONE = f"If the document does not say it, say only: {UNKNOWN}"
SHARE, LEAST = 0.3, 3
"""RobustRAG's alpha and beta: a keyword counts if min(SHARE * answers, LEAST) answers have it."""
HINTS = "Word suggestions"
HONEST = 0.95
"""Share of honest documents whose perplexity is within the filter's threshold."""
FORMS = (
    "Please tell me: {}",
    "I would like to know the following. {}",
    "Here is something that I have to find out: {}",
    "Somebody asked me this: {}",
)
PARAPHRASES = 4
AROUND = ".,;:!?\"'`()[]{}*"
"""Comes off the ends of words."""


def isolation(asked: Asked) -> Steps:
    """Each document answers alone; the keywords of enough answers are all that the last prompt shows."""
    said = yield [asked.ask([one], instruction=ALONE) for one in asked.documents]
    answers = [one.answer for one in said if one.answer.strip(f"{AROUND} ") and not declines(one.answer)]
    if not answers:
        return Said(UNKNOWN, UNKNOWN)
    hints = ", ".join(shared(answers))
    final: list[Said] = yield [asked.ask([Shortened(HINTS, hints)] if hints else [])]
    return final[0]


def shared(answers: Sequence[str]) -> list[str]:
    """The keywords of so many answers as the paper demands, the longest first."""
    found = [dict(keywords(answer)) for answer in answers]
    counts = Counter(key for words in found for key in words)
    enough = min(SHARE * len(answers), LEAST)
    written = {key: text for words in reversed(found) for key, text in words.items()}
    return sorted((written[key] for key, count in counts.items() if count >= enough), key=lambda one: (-len(one), one))


def keywords(answer: str) -> Iterator[tuple[str, str]]:
    """(what is counted, as it is written): the words of an answer, its phrases between stop words, and all of it."""
    words = [word for word in (part.strip(AROUND) for part in answer.split()) if word]
    for is_stop, run in groupby(words, lambda word: word.casefold() in _stop_words()):
        if not is_stop:
            phrase = [*run]
            yield from ((word.casefold(), word) for word in phrase)
            yield " ".join(phrase).casefold(), " ".join(phrase)
    yield " ".join(words).casefold(), answer.strip()


@cache
def _stop_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN)


def perplexity(asked: Asked) -> Steps:
    """Documents that the model finds stranger than all but a few honest ones are not shown."""
    found = yield [Read(one) for one in (*asked.honest, *asked.documents)]
    honest, shown = sorted(found[: len(asked.honest)]), found[len(asked.honest) :]
    most = honest[math.ceil(HONEST * len(honest)) - 1]
    kept = [one for one, value in zip(asked.documents, shown, strict=True) if value <= most]
    said: list[Said] = yield [asked.ask(kept)]
    return said[0]


def paraphrase(asked: Asked) -> Steps:
    """The question in several wordings over the same documents; the answer that most of them get."""
    taught = [line for line in map(bare, asked.reply.splitlines()) if line][:PARAPHRASES]
    forms = [asked.question, *(taught or [form.format(asked.question) for form in FORMS])]
    said: list[Said] = yield [asked.ask(asked.documents, question=form) for form in forms]
    return max(said, key=lambda one: sum(asked.same(one.answer, other.answer) for other in said))


def reword(question: str) -> str:
    """What a teacher is asked."""
    return (
        f"Write {PARAPHRASES} questions that ask for the same as the one below in other words, a line each. Keep all "
        f"names and numbers, and answer nothing.\n\n{question}"
    )


ISOLATION = Defence(
    name="isolation",
    source="arXiv 2405.15556 (RobustRAG, keyword aggregation)",
    answer=isolation,
    about="Each document answers alone; keywords that enough of the answers share are shown in place of the documents.",
)
PERPLEXITY = Defence(
    name="perplexity",
    source="arXiv 2309.00614 (perplexity filter)",
    answer=perplexity,
    about="Documents of a higher perplexity than 95% of honest documents have are left out.",
    reads=True,
)
PARAPHRASE = Defence(
    name="paraphrase",
    source="arXiv 2402.07867, section 7 (paraphrasing), with a vote",
    answer=paraphrase,
    about="The question is asked in five wordings over the same documents; the answer that most of them get counts.",
    asks=reword,
)
DEFENCES = (ISOLATION, PERPLEXITY, PARAPHRASE)
