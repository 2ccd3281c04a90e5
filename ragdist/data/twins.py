"""Training questions that ask a test question again in other words.

Two questions are twins if the same words ask for the same thing:

* they are equal, word for word, once what merely introduces them is off (`Tell me: ...`, `..., please`), or
* one has all words of the other in their order (one may have moved) and some more, none of which tells two things
  apart (a number, a name, a negation), and they share an answer that proves something.

So a word that stands in place of another always makes another question (63 and 64, France and Spain, when and where).
Words are those of `matching.words`, in any script; phrases are known in the languages below, and elsewhere the shared
answer decides. Found is what comparing each with each would find: the rarest word of the shorter one is looked up.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from itertools import product
from typing import Literal

from ragdist.data.matching import key, letters, words
from ragdist.records import Question
from ragdist.storage.stages import StageCounts

NAMED = 20
FEWEST = 3
"""Words that a question needs for others with more words to be its twins: `Who won?` is part of too many."""
EMPTY = frozenset({"the", "a", "an", "is", "s", "are"})
"""English words whose place and presence say nothing: `what's`, `what the ... is`."""
_BEFORE = """
quick question|question|do you know|i want to know|i would like to know|i d like to know|i wonder|let me know
let me ask|may i ask|i have a question|hello|hi|sag mir|sagen sie mir|kannst du mir sagen|können sie mir sagen
ich möchte wissen|weißt du|wissen sie|frage|dis moi|dites moi|peux tu me dire|pouvez vous me dire
je voudrais savoir|dime|dígame|puedes decirme|podría decirme|me puedes decir|quiero saber|me gustaría saber
pregunta|dimmi|mi dica|puoi dirmi|può dirmi|vorrei sapere|domanda|diga me|me diga|pode me dizer
gostaria de saber|pergunta|vertel me|zeg me|kun je me vertellen|kunt u mij vertellen|powiedz mi
proszę powiedzieć|säg mig|kan du säga|si mig|fortæl mig|kerro minulle|mondd meg|kérem|скажи мне|скажите мне
скажи|скажите|подскажите|я хочу знать|скажіть|söyle bana|bana söyle|قل لي|أخبرني|תגיד לי|אמור לי|मुझे बताओ
मुझे बताइए|मुझे बताएं|बताइए|请问|請問|请告诉我|請告訴我|告诉我|我想知道|質問|ช่วยบอก|hãy cho tôi biết
cho tôi biết|xin hỏi|beri tahu saya|tolong beri tahu saya|tolong|katakan
"""
"""What may come before a question, with `_EITHER`; a phrase between two marks or ends of a line."""
_EITHER = """
please|kindly|tell me|bitte|s il te plaît|s il vous plaît|por favor|per favore|per piacere|alstublieft
alsjeblieft|proszę|snälla|пожалуйста|будь ласка|lütfen|من فضلك|בבקשה|कृपया|教えてください|教えて|말해 줘|말해줘
말해 주세요|알려 줘|알려줘|알려 주세요|알려주세요|กรุณา|บอกฉันหน่อย|làm ơn
"""
_NOT = """
no not never none nor neither without except cannot t isnt arent dont doesnt wont nicht kein keine keinen keiner
nie ohne außer ne pas jamais sans aucun aucune nunca sin ningún ninguna não sem nenhum non mai senza nessun
nessuna niet geen nooit zonder inte ej aldrig utan ikke aldri uden ei eivät bez nem soha değil yok hiç не ні ни
нет без никогда لا لم لن ليس ليست غير بدون לא אין בלי אף न नहीं मत बिना 不 没 沒 非 无 無 未 别 別 勿 ない ぬ ず
않 안 못 없 ไม่ không chẳng chưa tidak bukan tanpa jangan
"""
_SIGNS = re.compile(r"[a-z0-9.]*[+#%$€£¥°@*=<>&^~/\\]+[a-z0-9.]*|(?<!\w)-\d+|(?<!\S)\.\w+")
"""What tells two things apart and is in no word: C# and C++, -1, 50%, .net."""
_QUOTED = re.compile(r"`[^`]+`|\"[^\"]+\"|“[^”]+”|«[^»]+»|„[^“]+“|「[^」]+」|『[^』]+』|《[^》]+》")


@cache
def _phrases() -> tuple[frozenset[tuple[str, ...]], frozenset[tuple[str, ...]]]:
    """What may come before a question, and what behind it, as words."""
    asked = product(("can you", "could you", "would you", "can you please", "could you please"), ("tell me", "explain"))
    before, either = _BEFORE.replace("\n", "|").split("|"), _EITHER.replace("\n", "|").split("|")
    said = ([*before, *either, *map(" ".join, asked)], either)
    first, last = (frozenset(tuple(words(phrase).split()) for phrase in phrases) - {()} for phrases in said)
    return first, last


@cache
def _negations() -> frozenset[str]:
    return frozenset(word for said in _NOT.split() for word in words(said).split())


@dataclass(frozen=True, slots=True)
class _Indexed:
    """A question as it is compared."""

    question: Question
    words: tuple[str, ...]
    bag: frozenset[str]
    signs: frozenset[str]


class Tests:
    """The test questions among these, that others may be twins of; `labels` are answers that prove nothing by being
    equal: yes, no and the like."""

    def __init__(self, questions: Iterable[Question], labels: Collection[str]) -> None:
        self.labels = labels
        self._asked = [_read(question) for question in questions if question.split == "test"]
        self._often = Counter(word for one in self._asked for word in one.bag)
        self._equal: dict[tuple[tuple[str, ...], frozenset[str]], _Indexed] = {}
        self._with: defaultdict[str, list[_Indexed]] = defaultdict(list)
        self._rarest: defaultdict[str, list[_Indexed]] = defaultdict(list)
        for one in self._asked:
            self._equal.setdefault((one.words, one.signs), one)
            for word in one.bag:
                self._with[word].append(one)
            if one.bag:
                self._rarest[self._rare(one)].append(one)

    def twin(self, question: Question) -> Question | None:
        """The test question that this one asks again, the first of several; None where there is none."""
        one = _read(question)
        if found := self._equal.get((one.words, one.signs)):
            return found.question
        if not one.bag:
            return None
        near = [*self._with[self._rare(one)]] if self._rare(one) in self._with else []
        near += [other for word in one.bag if word in self._rarest for other in self._rarest[word]]
        return next((other.question for other in near if self._repeats(one, other)), None)

    def _rare(self, one: _Indexed) -> str:
        return min(one.bag, key=lambda word: (self._often[word], word))

    def _repeats(self, one: _Indexed, other: _Indexed) -> bool:
        short, long = sorted((one, other), key=lambda asked: len(asked.words))
        if (
            short.signs != long.signs
            or not short.bag <= long.bag
            or not len(short.words) >= FEWEST
            or len(long.words) > 2 * len(short.words)
        ):
            return False
        more = Counter(long.words) - Counter(short.words)
        if more.total() != len(long.words) - len(short.words) or not self._agree(one.question, other.question):
            return False
        telling = _negations() | _names(long.question.text)
        if any(word in telling or any(map(str.isdigit, word)) for word in more):
            return False
        blocks = SequenceMatcher(None, short.words, long.words, autojunk=False).get_matching_blocks()
        return sum(block.size for block in blocks) >= len(short.words) - 1

    def _agree(self, one: Question, other: Question) -> bool:
        """Whether they share an answer that proves something."""
        first, second = ({key(answer) for answer in asked.answers} for asked in (one, other))
        return bool((first & second) - {"", *self.labels})


def pairs(questions: Collection[Question], labels: Collection[str]) -> Iterator[tuple[Question, Question]]:
    """(training question, the test question that it asks again), in the order of the questions."""
    tests = Tests(questions, labels)
    for question in questions:
        if question.split == "train" and (twin := tests.twin(question)):
            yield question, twin


def sift(
    questions: Collection[Question], what: Literal["report", "drop"], labels: Collection[str]
) -> tuple[list[Question], StageCounts]:
    """The questions in their order; with `drop` without the training questions that have a twin in test. Counted are
    `near_duplicates`, and `near_duplicates_named` are the first 20 as `that, like this`."""
    found = list(pairs(questions, labels))
    dropped = {one.id for one, _ in found} if what == "drop" else set()
    left = [question for question in questions if question.split == "test" or question.id not in dropped]
    named = [f"{one.id}, like {twin.id}" for one, twin in found[:NAMED]]
    return left, {"near_duplicates": len(found), "near_duplicates_named": named}


def _read(question: Question) -> _Indexed:
    said = words(question.text).split()
    left = _bare(said)
    empty = EMPTY - (_names(question.text) & {"a"})  # the A of vitamin A is a name
    kept = tuple(word for word in left if word not in empty) or tuple(left)
    return _Indexed(question, kept, frozenset(kept), frozenset(_SIGNS.findall(letters(question.text))))


def _bare(said: list[str]) -> list[str]:
    """The words without phrases before and behind; one word at least."""
    before, behind = _phrases()
    left: list[str] = []
    while left != said:
        left = said
        cuts = range(1, len(said))
        said = next((said[at:] for at in reversed(cuts) if tuple(said[:at]) in before), said)
        said = next((said[:-at] for at in reversed(cuts) if at < len(said) and tuple(said[-at:]) in behind), said)
    return left


def _names(text: str) -> set[str]:
    """The words of a question that name one thing of many: quoted, dotted as in code, with a digit, capital inside a
    sentence."""
    named = _QUOTED.findall(text)
    tokens = text.split()
    for before, token in zip([".", *tokens], tokens, strict=False):
        bare = token.strip("\"'“”„«»()[]{},;:!?¿¡.")
        starts = before[-1] in ".:!?;…"
        if (bare[:1].isupper() and not starts) or re.search(r"\w[._/@#\\]\w|\d", bare):
            named.append(bare)
    return set(words(" ".join(named)).split())
