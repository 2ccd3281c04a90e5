"""The distractors of each question, from near misses, ranked chunks and all the others."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from typing import Any, TypeAlias

from ragdist.config import ContextsConfig
from ragdist.data import matching
from ragdist.data.matching import flat
from ragdist.data.questions import LABELS
from ragdist.draws import draws
from ragdist.errors import ConfigError
from ragdist.records import Candidates, Chunk, Hit, Question
from ragdist.roles import Retriever

NOT_TELLING = LABELS | {""}
SAMPLE, COMMON = 500, 20
"""An answer that stands in more than COMMON of SAMPLE chunks says nothing about the chunk it stands in."""
BLOCK = 256
"""Questions whose distractors are looked for together."""
HARD_DEPTH = 4
"""Chunks ranked for each hard distractor wanted; some are oracles or hold an answer."""
SET_BYTES = 128
"""Of a chunk's hashed set of words: 100 words set a tenth of the bits."""

Wanted: TypeAlias = tuple[str, int, int]
"""An answer that is looked for in chunks: as `matching.words`, and the byte and the bit of its last word, by which most
chunks without it are known, see `Pool`. Example: (" read text ", 17, 64)."""


def telling(answers: Iterable[str]) -> list[Wanted]:
    """The answers by whose words a chunk can give itself away: not yes, no and the like, which stand anywhere."""
    found = []
    for answer in answers:
        words = matching.words(answer)
        if words[1:-1] not in NOT_TELLING:
            found.append((words, *_bit(words.rsplit(None, 1)[-1])))
    return found


def _bit(word: str) -> tuple[int, int]:
    at = zlib.crc32(word.encode())
    return at % SET_BYTES, 1 << (at >> 29)


class Pool:
    """All chunks as distractors: drawn at random without reading them all, compared by text, searched for answers.

    A chunk is known by its place among the sorted ids. Beside its words lies the set of them, hashed to one bit each:
    it tells of most chunks without an answer that they have none. Numbers and sets lie close together, because a
    random chunk is in no cache, and fetching it is most of what a random distractor costs.
    """

    def __init__(self, chunks: Mapping[str, Chunk]) -> None:
        self.ids = sorted(chunks)
        self.text_numbers = array("L")
        """Equal for chunks whose texts are equal, whitespace aside."""
        self.places = {chunk_id: place for place, chunk_id in enumerate(self.ids)}
        self._words: list[str] = []
        self._sets = bytearray(SET_BYTES * len(self.ids))
        self._common: dict[str, bool] = {}
        numbers: dict[str, int] = {}
        for place, chunk_id in enumerate(self.ids):
            chunk = chunks[chunk_id]
            words = matching.words(f"{chunk.title} {chunk.text}")
            self.text_numbers.append(numbers.setdefault(flat(chunk.text), len(numbers)))
            self._words.append(words)
            for byte, bit in map(_bit, words.split()):
                self._sets[place * SET_BYTES + byte] |= bit

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chunk_id: str) -> int:
        return self.places[chunk_id]

    def __contains__(self, chunk_id: str) -> bool:
        return chunk_id in self.places

    def gives_away(self, place: int, answers: Iterable[Wanted]) -> bool:
        """Whether the chunk, shown as a distractor, would hold a right answer after all.

        Answers that stand in a large part of the corpus do not count, such as the default `None` in API
        documentation: where nearly every chunk has the string, having it is no sign of the answer.

        Args:
            place: of the chunk.
            answers: as `telling` gives them.
        """
        return not list(self.usable([place], set(), answers, []))

    def usable(
        self, places: Iterable[int], seen: set[int], answers: Iterable[Wanted], with_answer: list[str]
    ) -> Iterator[str]:
        """The ids of those chunks that can be shown as distractors, in order.

        Args:
            places: of chunks, as many as may be needed.
            seen: text numbers that are not to be shown (again); gets those of `places`.
            answers: as `telling` gives them.
            with_answer: gets the ids of chunks that would hold a right answer, see `gives_away`.
        """
        # Local names and plain loops: this runs for every document of every context.
        ids, numbers, sets = self.ids, self.text_numbers, self._sets
        for place in places:
            number = numbers[place]
            if number in seen:
                continue
            seen.add(number)
            for words, byte, bit in answers:
                if sets[place * SET_BYTES + byte] & bit and words in self._words[place] and not self._is_common(words):
                    with_answer.append(ids[place])
                    break
            else:
                yield ids[place]

    def walk(self, seed: int, name: str) -> Iterator[int]:
        """Every chunk at least once: independent draws, then all in turn; costs only what is taken from it."""
        size = len(self.ids)
        for turn in range(4):
            for number in draws(seed, f"distractors {turn}", name, 8):
                yield number % size
        # Hardly ever reached but in a corpus that is little larger than the list shown.
        for at in range(size):
            yield (number + at) % size

    def _is_common(self, wanted: str) -> bool:
        if wanted not in self._common:
            # Ids are content hashes, so every n-th of them is a fair sample.
            sample = self._words[:: max(1, len(self) // SAMPLE)][:SAMPLE]
            self._common[wanted] = sum(wanted in words for words in sample) > COMMON
        return self._common[wanted]


def candidates(
    questions: Iterable[Question],
    chunks: Mapping[str, Chunk],
    retriever: Retriever | None,
    config: ContextsConfig,
    *,
    seed: int,
    counts: dict[str, Any],
    rejected: Mapping[str, AbstractSet[str]] | None = None,
) -> Iterator[Candidates]:
    """The distractors of each question, in order; `counts` gets `too_few` and `with_answer`, see `find`.

    `rejected` names, by question id, chunks that a judge does not let pass as distractors.
    """
    pool, source = Pool(chunks), iter(questions)
    counts |= {"too_few": 0, "with_answer": 0}
    while block := list(islice(source, BLOCK)):
        ranked = retriever and _Ahead(retriever, block, config)
        for question in block:
            refused = (rejected or {}).get(question.id, ())
            found, with_answer = find(question, pool, ranked, config, seed, rejected=refused)
            counts["too_few"] += len(found.chunk_ids) < config.documents
            counts["with_answer"] += with_answer
            yield found


class _Ahead:
    """Plays Retriever for a block of questions: those that surely ask are searched for together.

    One search for many costs a dense retriever little more than one for one.
    """

    def __init__(self, retriever: Retriever, questions: Iterable[Question], config: ContextsConfig) -> None:
        self.retriever = retriever
        asking: dict[int, list[str]] = {}
        for question in questions:
            if _hard(config) > (len(question.near_miss_ids) if config.distractors == "given" else 0):
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

    None is an oracle, none has the text of an oracle or of another one, whitespace aside.

    Args:
        question: with its oracles and near misses.
        pool: all chunks.
        retriever: ranks hard distractors; not asked for random ones.
        config: how many, of what kind, filtered or not.
        seed: of the run.
        rejected: chunks that are not shown, nor any with the text of one.

    Raises:
        ConfigError: the corpus has too few chunks and `contexts.too_few` is error.
    """
    with_answer: list[str] = []
    seen = {pool.text_numbers[pool.places[i]] for i in chain(question.oracle_ids, rejected)}
    answers = telling(question.answers) if config.filter_answers else []
    wanted, others = config.documents, pool.walk(seed, question.id)
    hard = _hard(config)
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


def are_ranked(config: ContextsConfig) -> bool:
    """Whether any distractor is chosen by a retriever."""
    return _hard(config) > 0


def _hard(config: ContextsConfig) -> int:
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
