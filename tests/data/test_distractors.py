import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdist.config import ContextsConfig, RetrievalConfig
from ragdist.data import matching
from ragdist.data.distractors import Pool, candidates, find, telling, whole
from ragdist.data.matching import contains
from ragdist.data.questions import LABELS
from ragdist.data.retrieval.bm25 import Bm25
from ragdist.errors import ConfigError
from ragdist.evaluation import answers as scored
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.records import Question, content_id
from ragdist.storage.stages import CountedRows
from tests import tiny
from tests.data.chunks import chunk, corpus

RANDOM = ContextsConfig(distractors="random")


def asked(oracles=(), answers=("zzz",), name="q", **more):
    return Question(
        id=content_id(name), text="w1 w2 w3", answers=answers, oracle_ids=tuple(oracles), split="train", **more
    )


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


SCRIPTS = [
    *(
        "w1 w2",
        "서울에서",
        "東京都",
        "กรุงเทพ",
        "الرياض",
        "للرياض",
        "1,000",
        "U.S.",
        "naïve",
        "w_12",
        "Ph.D.",
        "w3-w4",
        "the w5",
    )
]


def test_gives_away_equals_a_plain_search_for_the_answer():
    """The hashed sets of triples spare the search; they decide nothing, in no script."""
    rng = random.Random(1)
    words = [f"w{i}" for i in range(60)] + SCRIPTS
    chunks = {c.id: c for c in [chunk(" ".join(rng.choices(words, k=12))) for _ in range(200)]}
    pool, held = Pool(chunks), Counter()
    for answer in [
        *SCRIPTS,
        "서울",
        "1000",
        "US",
        "PhD",
        *(" ".join(rng.choices(words[:60], k=size)) for size in [1, 2] * 40),
    ]:
        wanted = telling(asked(answers=(answer,)))
        for i, c in chunks.items():
            found = pool.gives_away(pool[i], wanted)
            wide = len("".join(matching.needles(answer).joined).replace(" ", "")) > 3 and scored.subspan_match(
                whole(c), [answer]
            )
            assert found == (contains(whole(c), answer) or bool(wide)), (answer, c.text)
            held[found] += 1
    assert held[True] > 500


@given(st.data())
def test_gives_away_whatever_subspan_em_would_find_in_the_chunk(data):
    """T7: for answers of four letters or more, in either normal form; numbers with points are compared as numbers."""
    letters = st.text(st.characters(categories=["L", "M", "P", "Zs"], max_codepoint=0x3FFF), min_size=1, max_size=12)
    text, answer = data.draw(letters), data.draw(letters)
    text = data.draw(st.sampled_from([text, f"{text}{answer}", f"{answer}{text}", f"{text} {answer}{text}"]))
    for form in ("squad", "unicode"):
        said = "".join(matching.needles(answer).joined).replace(" ", "")
        if len(said) > 3 and said not in LABELS and scored.subspan_match(text, [answer], form):
            made = chunk(text)
            assert Pool({made.id: made}).gives_away(0, telling(asked(answers=(answer,))))


@pytest.mark.parametrize(
    ("answer", "text", "shown"),
    [
        ("서울", "많은 사람이 서울에서 산다.", True),
        ("US", "The U.S. Navy came.", True),
        ("U.S.", "The US Navy came.", True),
        ("1000", "It has 1,000 seats.", True),
        ("1,000", "It has 1000 seats.", True),
        ("TV", "They sell TVs.", True),
        ("Rome", "A romeo came.", True),  # as Subspan EM has it
        ("US", "He was used to it, because.", False),  # too short to count inside a word
        ("5", "Built in 1955.", False),
        ("C", "A vitamin C pill.", True),
        ("C", "Part c of it.", False),
    ],
)
def test_answer_shows_where_a_scorer_would_find_it(answer, text, shown):
    """T7, T10: particles, points, commas and plurals hide no answer."""
    made = chunk(text)
    assert Pool({made.id: made}).gives_away(0, telling(asked(answers=(answer,)))) == shown


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
    """False negatives by answer string, case and punctuation aside."""
    chunks = {c.id: c for c in [chunk(f"w1 city of ROME, number {n}") for n in range(5)]}
    chunks |= {c.id: c for c in [chunk(f"w1 a roman, number {n}") for n in range(5)]}
    retriever = Bm25(chunks.values(), RetrievalConfig())
    question = asked(answers=("Rome",))
    for config in (RANDOM, ContextsConfig(distractors="hard")):
        found, with_answer = find(question, Pool(chunks), retriever, config, seed=0)
        assert all("roman" in chunks[i].text for i in found.chunk_ids) and with_answer == 0
    unfiltered = ContextsConfig(distractors="random", filter_answers=False, documents=10)
    assert len(find(question, Pool(chunks), None, unfiltered, seed=0)[0].chunk_ids) == 10


def test_find_falls_back_to_texts_with_the_answer_and_counts_them():
    chunks = {c.id: c for c in [chunk(f"Rome {n}") for n in range(3)] + [chunk(f"other {n}") for n in range(3)]}
    found, with_answer = find(asked(answers=("Rome",)), Pool(chunks), None, RANDOM, seed=0)
    assert ["other" in chunks[i].text for i in found.chunk_ids] == [True] * 3 + [False] * 2 and with_answer == 2
    rows = CountedRows(candidates([asked(answers=("Rome",))] * 3, chunks, None, RANDOM, seed=0))
    assert list(rows) == [found] * 3
    assert rows.counts == {"too_few": 0, "with_answer": 6}


@pytest.mark.parametrize("answer", sorted(LABELS))
def test_find_does_not_filter_by_yes_and_no(answer):
    chunks = {c.id: c for c in [chunk(f"{answer} {n}") for n in range(6)]}
    assert find(asked(answers=(answer,)), Pool(chunks), None, RANDOM, seed=0)[1] == 0


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("distractors", ["random", "hard", "mixed"])
def test_answer_that_stands_in_many_chunks_is_shown_by_none(distractors, share):
    """T1: of 500 chunks so many hold it, also the best-ranked ones."""
    texts = [f"w1 w2 w3 {'Rome' if n < 500 * share else 'Oslo'} {n}" for n in range(500)]
    chunks = {c.id: c for c in map(chunk, texts)}
    retriever = Bm25(chunks.values(), RetrievalConfig())
    config = ContextsConfig(distractors=distractors, documents=10)
    questions = [asked(answers=("Rome",), name=str(n)) for n in range(20)]
    found = CountedRows(candidates(questions, chunks, retriever, config, seed=0))
    assert not any("Rome" in chunks[i].text for row in found for i in row.chunk_ids)
    assert found.counts == {"too_few": 0, "with_answer": 0}


def test_default_of_another_parameter_is_another_answer():
    """T1: `None` stands in each signature; the answer is shown only where the parameter asked about has it."""
    texts = [f"f{n}(x: int | None = {None if n < 30 else n}, y=None)" for n in range(60)]
    chunks = {c.id: c for c in map(chunk, texts)}
    question = asked(answers=("None",), topic="x", near_miss_ids=tuple(chunks))
    found, with_answer = find(question, Pool(chunks), None, ContextsConfig(documents=30), seed=0)
    assert with_answer == 0 and sorted(chunks[i].text for i in found.chunk_ids) == sorted(texts[30:])
    prose = replace(question, topic="")
    assert find(prose, Pool(chunks), None, ContextsConfig(documents=30), seed=0)[1] == 30


def test_find_with_too_few_chunks_follows_the_policy():
    """check 11: n = k + 1 chunks; an error that names both numbers and the knob, or a shorter list, counted."""
    chunks = {c.id: c for c in tiny.chunks()}
    question = tiny.questions()[0]
    message = r"contexts\.documents=5 needs 5 chunks .* corpus of 5 chunks has 4 .*contexts\.too_few=fewer"
    with pytest.raises(ConfigError, match=message):
        find(question, Pool(chunks), None, RANDOM, seed=0)
    fewer = ContextsConfig(too_few="fewer")
    found = CountedRows(candidates(tiny.questions(), chunks, None, fewer, seed=0))
    assert [len(c.chunk_ids) for c in found] == [4] * 4 and found.counts["too_few"] == 4


def find_one(question, pool, config):
    return find(question, pool, None, config, 0)


def test_find_is_equal_for_any_number_of_workers():
    """check 10, check 71."""
    pool = Pool(corpus(200))
    questions = [replace(asked(), id=content_id(str(n))) for n in range(100)]
    serial = list(SerialMapper().map(find_one, questions, pool, RANDOM))
    assert list(ProcessMapper(2, batch=7).map(find_one, questions, pool, RANDOM)) == serial


@pytest.mark.parametrize("distractors", ["hard", "mixed", "given"])
def test_candidates_search_for_many_questions_together_and_find_what_one_alone_finds(distractors):
    class Counting(Bm25):
        calls = 0

        def search(self, queries, count):
            self.calls += 1
            return super().search(queries, count)

    chunks = corpus(200)
    near = tuple(sorted(chunks))
    retriever, config = Counting(chunks.values(), RetrievalConfig()), ContextsConfig(distractors=distractors)
    questions = [
        replace(asked(name=str(n), near_miss_ids=near[: n % 4]), text=f"w{n % 50} w{n % 7}") for n in range(300)
    ]
    alone = [find(question, Pool(chunks), retriever, config, 0)[0] for question in questions]
    retriever.calls = 0
    assert list(candidates(questions, chunks, retriever, config, seed=0)) == alone
    assert retriever.calls == 2  # blocks
