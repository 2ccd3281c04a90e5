import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from ragdist.config import ContextsConfig, RetrievalConfig
from ragdist.data.questions import LABELS
from ragdist.data.retrieval import COMMON, Bm25, Pool, candidates, find, telling, terms
from ragdist.errors import ConfigError, DataError
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.records import Chunk, Question, content_id
from tests import tiny

RANDOM = ContextsConfig(distractors="random")


def chunk(text, title="t"):
    return Chunk(id=content_id(title, text), document_id="d", title=title, text=text)


def corpus(size, seed=0):
    rng = random.Random(seed)
    pieces = (chunk(" ".join(rng.choices([f"w{i}" for i in range(60)], k=12)), f"t{n}") for n in range(size))
    return {piece.id: piece for piece in pieces}


def asked(oracles=(), answers=("zzz",), name="q", **more):
    return Question(
        id=content_id(name), text="w1 w2 w3", answers=answers, oracle_ids=tuple(oracles), split="train", **more
    )


def brute_force(chunks, query, config):
    """Lucene's BM25 by its formula, one document at a time: (score, id) of every chunk, best first."""
    bags = {i: Counter(terms(f"{c.title}\n{c.text}")) for i, c in chunks.items()}
    mean = sum(bag.total() for bag in bags.values()) / len(bags)
    scores = dict.fromkeys(bags, 0.0)
    for term in terms(query):
        holding = sum(term in bag for bag in bags.values())
        idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
        for i, bag in bags.items():
            norm = config.k1 * (1 - config.b + config.b * bag.total() / mean)
            scores[i] += idf * bag[term] / (bag[term] + norm)
    return sorted(((score, i) for i, score in scores.items()), key=lambda pair: (-round(pair[0], 5), pair[1]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rome was built.", ["rome", "was", "built"]),
        ("pathlib.Path.read_text", ["pathlib", "path", "read_text", "read", "text"]),
        ("readText(max_size=-1)", ["readtext", "read", "text", "max_size", "max", "size", "1"]),
        ("HTTPServer", ["httpserver"]),
        ("首都 is", ["首", "都", "is"]),
        ("--- ***", []),
    ],
)
def test_terms_of_code_and_prose(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize("count", [1, 5, 40, 500])
def test_search_equals_a_brute_force_scan(count):
    """check 25: same ids, by score, then by id; copies of one text make real ties."""
    chunks = corpus(200)
    for n in range(30):
        copy = chunk("w1 w2 the same text", f"t{n}")
        chunks[copy.id] = copy
    retriever = Bm25(chunks.values(), RetrievalConfig())
    queries = ["w1 w2 w3", "w7", "t5 same", "nothing known", ""]
    for query, hits in zip(queries, retriever.search(queries, count), strict=True):
        expected = brute_force(chunks, query, RetrievalConfig())[:count]
        assert [hit.chunk_id for hit in hits] == [i for _, i in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected], rel=1e-4)


def test_search_does_not_depend_on_workers_or_order_of_chunks():
    """check 25, check 71: queries shared between processes, chunks in another order."""
    chunks = corpus(100)
    queries = [f"w{n} w{n + 1}" for n in range(20)]
    backwards = Bm25(reversed(chunks.values()), RetrievalConfig())
    whole = Bm25(chunks.values(), RetrievalConfig()).search(queries, 7)
    assert backwards.search(queries, 7) == whole
    assert list(ProcessMapper(2, batch=3).map(search_one, queries, backwards)) == whole


def search_one(query, retriever):
    return retriever.search([query], 7)[0]


def test_search_in_texts_without_words():
    assert [hit.score for hit in Bm25([chunk("---"), chunk("***")], RetrievalConfig()).search(["a"], 5)[0]] == [0, 0]
    with pytest.raises(DataError, match=r"corpus\.source"):
        Bm25([], RetrievalConfig())


@pytest.mark.parametrize("distractors", ["random", "hard", "mixed", "given"])
def test_find_never_shows_an_oracle_or_a_text_twice(distractors):
    """check 6: half of the corpus are copies that differ in whitespace or title only; n = k + 2 texts are enough."""
    texts = [f"w1 text  number {n}" for n in range(6)]
    chunks = {c.id: c for c in [*map(chunk, texts), *(chunk(text.replace("  ", "\n"), "copy") for text in texts)]}
    retriever = Bm25(chunks.values(), RetrievalConfig())
    config = ContextsConfig(distractors=distractors)
    for n, oracle in enumerate(chunks):
        question = asked([oracle], name=str(n), near_miss_ids=tuple(chunks)[:3])
        found, _ = find(question, Pool(chunks), retriever, config, seed=n)
        shown = [" ".join(chunks[i].text.split()) for i in (oracle, *found.chunk_ids)]
        assert len(shown) == len(set(shown)) == 6


def test_find_random_takes_each_chunk_equally_often():
    """Chi-square of how often each of 50 chunks is drawn; neither the first of five nor any later prefers one."""
    from scipy.stats import chisquare

    chunks = corpus(50)
    pool = Pool(chunks)
    drawn = [find(asked(name=str(n)), pool, None, RANDOM, seed=0)[0].chunk_ids for n in range(4000)]
    for place in range(5):
        assert chisquare(list(Counter(ids[place] for ids in drawn).values())).pvalue > 0.001
    pairs = Counter(frozenset(ids[:2]) for ids in drawn)
    assert len(pairs) > 1100  # of 1225 pairs; 4000 independent draws would see 1178
    assert find(asked(name="1"), pool, None, RANDOM, seed=1)[0].chunk_ids != drawn[1]


def test_find_random_costs_the_same_in_a_corpus_of_any_size():
    """Of 20,000 chunks only those are looked at that are shown."""

    class Counting(list):
        looked = 0

        def __getitem__(self, key):
            self.looked += 1
            return super().__getitem__(key)

    pool = Pool(corpus(20_000))
    pool.text_numbers = Counting(pool.text_numbers)
    find(asked(), pool, None, RANDOM, seed=0)
    assert pool.text_numbers.looked == 5


def test_gives_away_equals_a_plain_search_for_the_answer():
    """The hashed sets of words spare the search; they decide nothing."""
    chunks = corpus(300)
    pool, rng = Pool(chunks), random.Random(1)
    for answers in ([" ".join(rng.choices([f"w{i}" for i in range(60)], k=size))] for size in [1, 2, 3] * 20):
        wanted = [f" {answer} " for answer in answers]
        common = [sum(words in text for text in pool._words) > COMMON for words in wanted]
        for i, c in chunks.items():
            held = any(
                words in f" {c.title} {c.text} " and not often for words, often in zip(wanted, common, strict=True)
            )
            assert pool.gives_away(pool[i], telling(answers)) == held


def test_find_given_takes_near_misses_first_then_hard_ones():
    chunks = corpus(100)
    near = tuple(sorted(chunks, reverse=True)[:3])
    retriever = Bm25(chunks.values(), RetrievalConfig())
    ranked = [hit.chunk_id for hit in retriever.search(["w1 w2 w3"], 20)[0] if hit.chunk_id not in near]
    found, _ = find(asked(near_miss_ids=(*near, "unknown")), Pool(chunks), retriever, ContextsConfig(), seed=0)
    assert found.chunk_ids == (*near, *ranked[:2])


@pytest.mark.parametrize(("share", "hard"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_find_mixed_spreads_hard_ones_over_the_list(share, hard):
    chunks = corpus(500)
    retriever = Bm25(chunks.values(), RetrievalConfig())
    config = ContextsConfig(distractors="mixed", hard_share=share, documents=8)
    ranked = {hit.chunk_id for hit in retriever.search(["w1 w2 w3"], 8)[0]}
    found = find(asked(), Pool(chunks), retriever, config, seed=3)[0].chunk_ids
    assert sum(i in ranked for i in found) == hard
    assert abs(sum(i in ranked for i in found[:4]) - hard / 2) <= 0.5


def test_find_leaves_out_texts_that_hold_an_answer():
    """False negatives by answer string, case and punctuation aside, whole words only."""
    chunks = {c.id: c for c in [chunk(f"w1 city of ROME, number {n}") for n in range(5)]}
    chunks |= {c.id: c for c in [chunk(f"w1 a romeo, number {n}") for n in range(5)]}
    retriever = Bm25(chunks.values(), RetrievalConfig())
    question = asked(answers=("Rome",))
    for config in (RANDOM, ContextsConfig(distractors="hard")):
        found, with_answer = find(question, Pool(chunks), retriever, config, seed=0)
        assert all("romeo" in chunks[i].text for i in found.chunk_ids) and with_answer == 0
    unfiltered = ContextsConfig(distractors="random", filter_answers=False, documents=10)
    assert len(find(question, Pool(chunks), None, unfiltered, seed=0)[0].chunk_ids) == 10


def test_find_falls_back_to_texts_with_the_answer_and_counts_them():
    chunks = {c.id: c for c in [chunk(f"Rome {n}") for n in range(3)] + [chunk(f"other {n}") for n in range(3)]}
    found, with_answer = find(asked(answers=("Rome",)), Pool(chunks), None, RANDOM, seed=0)
    assert ["other" in chunks[i].text for i in found.chunk_ids] == [True] * 3 + [False] * 2 and with_answer == 2
    counts = {}
    assert list(candidates([asked(answers=("Rome",))] * 3, chunks, None, RANDOM, seed=0, counts=counts)) == [found] * 3
    assert counts == {"too_few": 0, "with_answer": 6}


@pytest.mark.parametrize("answer", sorted(LABELS))
def test_find_does_not_filter_by_yes_and_no(answer):
    chunks = {c.id: c for c in [chunk(f"{answer} {n}") for n in range(6)]}
    assert find(asked(answers=(answer,)), Pool(chunks), None, RANDOM, seed=0)[1] == 0


def test_find_does_not_filter_by_what_stands_nearly_everywhere():
    """API documentation: `None` stands in every second signature, and the near misses stay the distractors."""
    chunks = {c.id: c for c in [chunk(f"f{n}(x={n}, y={None if n % 2 else 0})") for n in range(4 * COMMON)]}
    near = tuple(i for i, c in chunks.items() if "None" in c.text)[:5]
    question = asked(answers=("None",), near_miss_ids=near)
    found, with_answer = find(question, Pool(chunks), None, ContextsConfig(), seed=0)
    assert found.chunk_ids == near and with_answer == 0


def test_find_with_too_few_chunks_follows_the_policy():
    """check 11: n = k + 1 chunks; an error that names both numbers and the knob, or a shorter list, counted."""
    chunks = {c.id: c for c in tiny.chunks()}
    question = tiny.questions()[0]
    message = r"contexts\.documents=5 needs 5 chunks .* corpus of 5 chunks has 4 .*contexts\.too_few=fewer"
    with pytest.raises(ConfigError, match=message):
        find(question, Pool(chunks), None, RANDOM, seed=0)
    counts = {}
    fewer = ContextsConfig(too_few="fewer")
    found = list(candidates(tiny.questions(), chunks, None, fewer, seed=0, counts=counts))
    assert [len(c.chunk_ids) for c in found] == [4] * 4 and counts["too_few"] == 4


def find_one(question, pool, config):
    return find(question, pool, None, config, 0)


def test_find_is_equal_for_any_number_of_workers():
    """check 10, check 71."""
    pool = Pool(corpus(200))
    questions = [replace(asked(), id=content_id(str(n))) for n in range(100)]
    serial = list(SerialMapper().map(find_one, questions, pool, RANDOM))
    assert list(ProcessMapper(2, batch=7).map(find_one, questions, pool, RANDOM)) == serial
