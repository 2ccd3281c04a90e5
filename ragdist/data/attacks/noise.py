"""Attacks by bad copies: the true document, mistyped or badly scanned, its answer too."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import regex

from ragdist.data import template_attack
from ragdist.data.attacks.plugin import Attack, Lie, Target
from ragdist.data.matching import spans

RATE = 12
"""One slip in so many words, or characters that look like others."""
LOOK_ALIKES = {
    **{"0": "O", "O": "0", "1": "l", "l": "1", "I": "l", "5": "S", "S": "5", "8": "B", "B": "8", "6": "b", "b": "6"},
    **{"2": "Z", "Z": "2", "9": "g", "g": "9", "o": "0", "e": "c", "i": "j", "n": "ri", "m": "rn", "u": "v", "a": "o"},
    **{"未": "末", "末": "未", "土": "士", "士": "土", "日": "曰", "人": "入", "入": "人", "己": "已", "大": "犬"},
    **{"千": "干", "干": "千", "玉": "王", "王": "玉", "水": "氷", "鳥": "烏", "烏": "鳥", "京": "亰", "東": "束"},
    **{"治": "冶", "侯": "候", "天": "夭", "川": "州", "木": "本", "本": "木", "田": "由", "口": "ロ", "力": "カ"},
}
"""What recognition of characters takes for one another, in Latin letters, digits, and Chinese and Japanese signs."""
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]{2,}")


def _free(text: str, places: Iterable[tuple[int, int]], kept: Sequence[str]) -> list[tuple[int, int]]:
    """Those places that share no letter with what is kept."""
    safe = [place for one in kept for place in spans(text, one)]
    return [(at, end) for at, end in places if not any(at < last and first < end for first, last in safe)]


def mistyped(text: str, rng: random.Random, slips: int, kept: Sequence[str] = ()) -> str:
    """The text with neighbouring letters changed round in so many words; what is kept stays letter for letter."""
    words = _free(text, (word.span() for word in _WORD.finditer(text)), kept)
    for start, end in sorted(rng.sample(words, min(slips, len(words)))):
        text = text[:start] + _changed_round(text[start:end], rng) + text[end:]
    return text


def _changed_round(word: str, rng: random.Random) -> str:
    """The word with two neighbours in each other's places, the first letter of a long word kept."""
    first = int(len(word) > 3)
    places = [at for at in range(first, len(word) - 1) if word[at] != word[at + 1]]
    if not places:
        return word
    at = rng.choice(places)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def misread(text: str, rng: random.Random, every: int, kept: Sequence[str] = ()) -> str:
    """The text with one in `every` characters of LOOK_ALIKES, at least one, taken for its double."""
    doubled = ((at, at + 1) for at, sign in enumerate(text) if sign in LOOK_ALIKES)
    places = [at for at, _ in _free(text, doubled, kept)]
    wrong = {*rng.sample(places, -(-len(places) // every))}
    return "".join(LOOK_ALIKES[sign] if at in wrong else sign for at, sign in enumerate(text))


def typos(target: Target, rng: random.Random) -> Iterator[Lie]:
    """Copies with slips of the pen, the answer mistyped too."""

    def slip(text: str, kept: Sequence[str] = ()) -> str:
        words = len(_WORD.findall(text))
        return mistyped(text, rng, -(-words // RATE) if kept else words, kept)

    return _bad_copies(target, slip)


def ocr(target: Target, rng: random.Random) -> Iterator[Lie]:
    """Copies with characters taken for others that look like them, in the answer too."""
    return _bad_copies(target, lambda text, kept=(): misread(text, rng, RATE if kept else 1, kept))


def _bad_copies(target: Target, spoil: Callable[..., str]) -> Iterator[Lie]:
    """Copies of the golden documents with the answer spoilt in one way, and the rest of each in its own."""
    answer = target.question.answers[0]
    tries = (spoil(answer) for _ in range(8)) if not template_attack.is_label(answer) else ()
    wrong = next((said for said in tries if said != answer and not target.is_right(said)), "")
    for one in target.copies(wrong, target.count) if wrong and target.golden else ():
        yield one._replace(text=spoil(one.text, [wrong]))


TYPOS = Attack(
    name="typos",
    source="arXiv 2404.13948 (typos in documents)",
    purpose="judging",
    write=typos,
    about="Copies of the true document with letters changed round, in its answer too.",
)
OCR = Attack(
    name="ocr",
    source="arXiv 2412.02592 (noise of OCR)",
    purpose="judging",
    write=ocr,
    about="Copies of the true document with characters taken for look-alikes, in its answer too.",
)
ATTACKS = (TYPOS, OCR)
