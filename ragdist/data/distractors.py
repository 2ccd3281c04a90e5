"""The distractors of each question, from near misses, ranked chunks and all the others."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from ragdist.config import ContextsConfig
from ragdist.data import matching, template_attack
from ragdist.data.matching import flat
from ragdist.data.questions import LABELS
from ragdist.draws import draws
from ragdist.errors import ConfigError
from ragdist.records import Candidates, Chunk, Hit, Question
from ragdist.roles import Retriever
from ragdist.storage.stages import Counted

BLOCK = 256
"""Questions whose distractors are looked for together."""
HARD_DEPTH = 4
"""Chunks ranked for each hard distractor wanted; some are oracles or hold an answer."""
SET_BYTES = 128
"""Of a chunk's hashed set of letter triples: 100 words set a quarter of the bits."""
ASKED = 3
"""Of an answer's triples so many are looked for in the sets; of chunks without the answer few have all of them."""
PRIME, HIGH = 1021, "\u0e00"
"""Of the hash, below the bits of a set; and the first letter that counts alone: scripts without spaces lie above."""


class Wanted(NamedTuple):
    """An answer that is looked for in chunks. Example: Wanted("read text", ((17, 64), (3, 1)), "")."""

    answer: str
    bits: tuple[tuple[int, int], ...]
    """Byte and bit of some of its triples, by which most chunks without it are known, see `Pool`."""
    parameter: str
    """API documentation: the parameter whose default the answer is."""


def telling(question: Question) -> list[Wanted]:
    """The answers by which a chunk can give itself away: not yes, no and the like, which stand anywhere."""
    if question.topic:
        bits = _bits(matching.words(question.topic).strip())
        return [Wanted(answer, bits, question.topic) for answer in question.answers]
    found = []
    for answer in question.answers:
        # Where an Arabic article may be written otherwise, it is no part of what is looked for.
        said = matching.words(answer).strip() if answer.isascii() else "".join(matching.needles(answer).parted[:1])
        if said and said not in LABELS:
            found.append(Wanted(answer, _bits(said), ""))
    return found


def _bits(words: str) -> tuple[tuple[int, int], ...]:
    """Where the sets show triples of these words: those that stand in every spelling of them."""
    found = []
    for word in words.replace("_", " ").split():
        if len(word) > 2 and word not in matching.ARTICLES and word[0] < HIGH:
            # 1000 may be written 1 000, which has the last three digits alone.
            found += [word[-3:]] if word.isdecimal() else [word[:3], word[-3:]]
    if not words.isascii():
        found += [f"{letter}\0\0" for letter in words if letter >= HIGH]
    return tuple(map(_bit, found[:: -(-len(found) // ASKED) or 1]))


@lru_cache(maxsize=2**16)
def _bit(triple: str) -> tuple[int, int]:
    """Byte and bit of a triple, as `_set_of` has them."""
    one, two, three = map(ord, triple)
    at = (one * 961 + two * 31 + three) % PRIME
    return at >> 3, 128 >> (at & 7)


def _set_of(words: str) -> bytes:
    """The set of the triples within words, and of the single letters of scripts without spaces, a bit each."""
    letters = np.frombuffer(words.encode("utf-32-le", errors="surrogatepass"), np.uint32)
    triples = letters[:-2] * 961 + letters[1:-1] * 31 + letters[2:]
    blank = letters == ord(" ")
    within = ~(blank[:-2] | blank[1:-1] | blank[2:])
    found = np.concatenate([triples[within], letters[letters >= ord(HIGH)] * 961])
    bits = np.zeros(8 * SET_BYTES, bool)
    bits[found % PRIME] = True
    return np.packbits(bits).tobytes()


class Pool:
    """All chunks as distractors: drawn at random without reading them all, compared by text, searched for answers.

    A chunk is known by its place among the sorted ids. Beside its words lies the set of their letter triples, hashed to
    one bit each: it tells of most chunks without an answer that they have none. Numbers and sets lie close together,
    because a random chunk is in no cache, and fetching it is most of what a random distractor costs.

    What a retriever of the user's own brought from elsewhere is behind them from when it is asked for: no random one.
    """

    def __init__(self, chunks: Mapping[str, Chunk]) -> None:
        self.ids: list[str] = []
        self.text_numbers = array("L")
        """Equal for chunks whose texts are equal, whitespace aside."""
        self.places: dict[str, int] = {}
        self._all, self._chunks = chunks, list[Chunk]()
        self._words: list[str] = []
        self._sets = bytearray()
        self._numbers: dict[str, int] = {}
        for chunk_id in sorted(chunks):
            if chunks[chunk_id].document_id:
                self._add(chunks[chunk_id])
        self._size = len(self.ids)

    def _add(self, chunk: Chunk) -> None:
        words = matching.marked(whole(chunk))
        self.places[chunk.id] = len(self.ids)
        self.ids.append(chunk.id)
        self._chunks.append(chunk)
        self.text_numbers.append(self._numbers.setdefault(flat(chunk.text), len(self._numbers)))
        self._words.append(words)
        self._sets += _set_of(words.replace("'", "").replace("_", ""))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, chunk_id: str) -> int:
        if chunk_id not in self.places:
            self._add(self._all[chunk_id])
        return self.places[chunk_id]

    def __contains__(self, chunk_id: str) -> bool:
        return chunk_id in self.places

    def gives_away(self, place: int, answers: Iterable[Wanted]) -> bool:
        """Whether the chunk, shown as a distractor, would hold a right answer after all.

        It does where title and text show the answer, see `matching.shows`. A parameter's default is given where
        `parameter=value` stands: another parameter's `None` is another answer.
        """
        return not list(self.usable([place], set(), answers, []))

    def usable(
        self, places: Iterable[int], seen: set[int], answers: Iterable[Wanted], with_answer: list[str]
    ) -> Iterator[str]:
        """The ids of those chunks that can be shown as distractors, in order.

        `seen` are text numbers that are not to be shown (again) and gets those of `places`; `with_answer` gets the ids
        of chunks that would hold a right answer, see `gives_away`.
        """
        # Local names and plain loops: this runs for every document of every context.
        ids, numbers, sets = self.ids, self.text_numbers, self._sets
        for place in places:
            number = numbers[place]
            if number in seen:
                continue
            seen.add(number)
            start = place * SET_BYTES
            for wanted in answers:
                for byte, bit in wanted.bits:
                    if not sets[start + byte] & bit:
                        break
                else:
                    if self._holds(place, wanted):
                        with_answer.append(ids[place])
                        break
            else:
                yield ids[place]

    def walk(self, seed: int, name: str) -> Iterator[int]:
        """Every chunk at least once: independent draws, then all in turn; costs only what is taken from it."""
        size = len(self)
        for turn in range(4):
            for number in draws(seed, f"distractors {turn}", name, 8):
                yield number % size
        # Hardly ever reached but in a corpus that is little larger than the list shown.
        for at in range(size):
            yield (number + at) % size

    def _holds(self, place: int, wanted: Wanted) -> bool:
        chunk, words = self._chunks[place], self._words[place]
        if wanted.parameter:
            return bool(template_attack.default(wanted.parameter, wanted.answer).search(chunk.text))
        if matching.is_bare(wanted.answer):
            return matching.contains(whole(chunk), wanted.answer)
        return matching.holds(words, matching.needles(wanted.answer))


def whole(chunk: Chunk) -> str:
    """All that a reader of the chunk sees."""
    return f"{chunk.title}\n{chunk.text}"


def candidates(
    questions: Iterable[Question],
    chunks: Mapping[str, Chunk],
    retriever: Retriever | None,
    config: ContextsConfig,
    *,
    seed: int,
    rejected: Mapping[str, AbstractSet[str]] | None = None,
) -> Counted[Candidates]:
    """The distractors of each question, in order; counted are `too_few` and `with_answer`, see `find`.

    `rejected` names, by question id, chunks that a judge does not let pass as distractors.
    """
    pool, source = Pool(chunks), iter(questions)
    counts = {"too_few": 0, "with_answer": 0}
    while block := list(islice(source, BLOCK)):
        ranked = retriever and _Ahead(retriever, block, config)
        for question in block:
            refused = (rejected or {}).get(question.id, ())
            found, with_answer = find(question, pool, ranked, config, seed, rejected=refused)
            counts["too_few"] += len(found.chunk_ids) < config.documents
            counts["with_answer"] += with_answer
            yield found
    return counts


class _Ahead:
    """Implements Retriever for a block of questions: those that surely ask are searched for together.

    One search for many costs a dense retriever little more than one for one.
    """

    def __init__(self, retriever: Retriever, questions: Iterable[Question], config: ContextsConfig) -> None:
        self.retriever = retriever
        asking: dict[int, list[str]] = {}
        for question in questions:
            if hard_count(config) > (len(question.near_miss_ids) if config.distractors == "given" else 0):
                asking.setdefault(_depth(question, config), []).append(question.text)
        self._found = {
            (text, count): hits
            for count, texts in asking.items()
            for text, hits in zip(texts, retriever.search(texts, count), strict=True)
        }

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """As the retriever."""
        known = [self._found.get((query, count)) for query in queries]
        return [
            self.retriever.search([query], count)[0] if hits is None else hits
            for query, hits in zip(queries, known, strict=True)
        ]


def find(
    question: Question,
    pool: Pool,
    retriever: Retriever | None,
    config: ContextsConfig,
    seed: int,
    *,
    rejected: Iterable[str] = (),
) -> tuple[Candidates, int]:
    """As many distractors as documents are shown, and how many of them hold an answer for want of others.

    None is an oracle or a rejected chunk, none has the text of one or of another distractor, whitespace aside. A
    ConfigError if the corpus has too few chunks and `contexts.too_few` is error.
    """
    with_answer: list[str] = []
    seen = {pool.text_numbers[pool[i]] for i in chain(question.oracle_ids, rejected)}
    answers = telling(question) if config.filter_answers else []
    wanted, others = config.documents, pool.walk(seed, question.id)
    hard = hard_count(config)
    chosen: list[str] = []
    if hard:
        ranked = chain(_preferred(question, pool, retriever, config), others)
        chosen = list(islice(pool.usable(ranked, seen, answers, with_answer), hard))
    if hard < wanted:
        chosen = _spread(chosen, list(islice(pool.usable(others, seen, answers, with_answer), wanted - hard)))
    filled = 0
    if len(chosen) < wanted:
        filled = len(with_answer[: wanted - len(chosen)])
        chosen += with_answer[:filled]
    if len(chosen) < wanted and config.too_few == "error":
        raise ConfigError(
            f"contexts.documents={wanted} needs {wanted} chunks beside the oracles of question {question.id!r}, "
            f"the corpus of {len(pool)} chunks has {len(chosen)} with other texts; lower contexts.documents or "
            "chunks.tokens, or set contexts.too_few=fewer"
        )
    return Candidates(question_id=question.id, chunk_ids=tuple(chosen)), filled


def hard_count(config: ContextsConfig) -> int:
    """How many distractors are not random."""
    if config.distractors == "random":
        return 0
    return int((config.hard_share if config.distractors == "mixed" else 1.0) * config.documents + 0.5)


def _spread(hard: list[str], others: list[str]) -> list[str]:
    """Both evenly mixed, because a context with its oracle shows the first ones only."""
    if not hard or not others:
        return hard or others
    places = [((at + 0.5) / len(part), i) for part in (hard, others) for at, i in enumerate(part)]
    return [i for _, i in sorted(places)]


def _preferred(question: Question, pool: Pool, retriever: Retriever | None, config: ContextsConfig) -> Iterator[int]:
    """Near misses where the data's own are wanted, then chunks that are ranked for the question, best first."""
    if config.distractors == "given":
        yield from (pool[i] for i in question.near_miss_ids if i in pool)
    if retriever is not None:
        # Reached only where near misses are not enough.
        hits = retriever.search([question.text], _depth(question, config))[0]
        yield from (pool[hit.chunk_id] for hit in hits if hit.score > 0)


def _depth(question: Question, config: ContextsConfig) -> int:
    return HARD_DEPTH * config.documents + len(question.oracle_ids)
