from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ragdist.config import ContextsConfig
from ragdist.data.contexts import assemble, keep_oracle, showable
from ragdist.errors import ConfigError
from ragdist.records import Candidates, Question, content_id
from ragdist.storage.stages import CountedRows

IDS = [content_id(str(n)) for n in range(10_000)]


def kept(fraction, ids=tuple(IDS[:1000]), seed=0, draw="exact"):
    keep = keep_oracle(ids, ContextsConfig(oracle_fraction=fraction, draw=draw), seed)
    return {i for i in ids if keep(i)}


def question(name="q", oracles=("o1",)):
    return Question(id=content_id(name), text="?", answers=("a",), oracle_ids=oracles, split="train")


def distractors(of, count=5):
    return Candidates(question_id=of.id, chunk_ids=tuple(f"d{n}" for n in range(count)))


def put_together(of, keep, documents=5, seed=0, count=None):
    config = ContextsConfig(documents=documents)
    return assemble(of, distractors(of, documents if count is None else count), keep, config, seed)


@pytest.mark.parametrize(
    ("fraction", "rows", "expected"),
    [
        (0.6, 1000, 600),
        (0.6, 7, 4),
        (1.0, 1000, 1000),
        (0.0, 1000, 0),
        (0.5, 5, 3),
        (0.25, 2, 1),
        (0.6, 0, 0),
        (0.35, 90, 32),
    ],
)
def test_keep_exact_keeps_the_rounded_number(fraction, rows, expected):
    """check 1, check 2: 600 of 1000, 4 of 7, all, none; halves go up (Python's own round(2.5) is 2)."""
    assert len(kept(fraction, IDS[:rows])) == expected


def test_keep_exact_is_another_set_for_another_seed():
    """check 3: equal sizes, other members."""
    assert len(kept(0.6)) == len(kept(0.6, seed=1)) and kept(0.6) != kept(0.6, seed=1)


def test_keep_bernoulli_stays_within_four_sigma():
    """check 4: 600 +- 62 of 1000, and not always 600."""
    sizes = [len(kept(0.6, seed=seed, draw="bernoulli")) for seed in range(20)]
    assert all(abs(size - 600) <= 62 for size in sizes) and len(set(sizes)) > 5


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["exact", "bernoulli"]))
def test_keep_sets_are_nested_in_the_fraction(one, other, draw):
    """P is a view: what a lower P keeps, a higher P keeps too."""
    low, high = sorted((one, other))
    assert kept(low, IDS[:100], draw=draw) <= kept(high, IDS[:100], draw=draw)


def test_keep_does_not_depend_on_the_order_of_rows():
    """check 10."""
    assert kept(0.6, IDS[:1000][::-1]) == kept(0.6)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("oracles", [("o1",), ("o1", "o2"), ("o1", "o2", "o3", "o4", "o5")])
def test_assemble_shows_all_oracles_or_none(keep, oracles):
    """check 5, check 7: five different documents in both shares, the oracles together or not at all."""
    context = put_together(question(oracles=oracles), keep)
    assert len(set(context.chunk_ids)) == len(context.chunk_ids) == 5
    assert {i for i in context.chunk_ids if i[0] == "o"} == (set(oracles) if keep else set())
    assert {context.chunk_ids[at] for at in context.oracle_positions} == (set(oracles) if keep else set())


@pytest.mark.parametrize("oracles", [("o1",), ("o1", "o2")])
def test_assemble_differs_between_the_shares_only_in_the_oracles_places(oracles):
    """check 8: P changes one index; every other document stays where it is."""
    for n in range(50):
        of = question(str(n), oracles)
        with_oracle, without = put_together(of, True), put_together(of, False)
        pairs = zip(with_oracle.chunk_ids, without.chunk_ids, strict=True)
        changed = [at for at, (one, other) in enumerate(pairs) if one != other]
        assert changed == list(with_oracle.oracle_positions)


def test_assemble_puts_the_oracle_anywhere_equally_often():
    """check 9: chi-square p > 0.001 on 10,000 rows; the last position occurs."""
    places = Counter(put_together(replace(question(), id=i), True).oracle_positions[0] for i in IDS)
    assert sorted(places) == [0, 1, 2, 3, 4] and chisquare(list(places.values())).pvalue > 0.001


def test_assemble_is_the_same_for_the_same_seed_only():
    """check 10."""
    of = [question(str(n)) for n in range(20)]
    assert [put_together(q, True) for q in of] == [put_together(q, True) for q in of]
    assert [put_together(q, True) for q in of] != [put_together(q, True, seed=1) for q in of]


@pytest.mark.parametrize(("count", "oracles", "expected"), [(3, ("o1",), 3), (1, ("o1", "o2"), 2), (4, ("o1",), 4)])
def test_assemble_with_too_few_distractors_is_shorter(count, oracles, expected):
    """check 11: both shares are equally long as far as the distractors reach, so that length gives nothing away."""
    of = question(oracles=oracles)
    assert len(put_together(of, True, count=count).chunk_ids) == expected
    assert len(put_together(of, False, count=count).chunk_ids) == min(count, expected)


def test_assemble_more_oracles_than_documents_names_the_knob():
    of = question(oracles=("o1", "o2", "o3"))
    with pytest.raises(ConfigError, match=r"contexts\.documents=2 cannot show the 3 oracles .* to 3 at least, .*drop"):
        put_together(of, True, documents=2)
    assert len(put_together(of, False, documents=2).chunk_ids) == 2


def test_showable_leaves_out_questions_with_more_oracles_than_documents():
    """Counted, so that the data pipeline shows them; as many oracles as documents, or none, are fine."""
    rows = [question(str(n), tuple(f"o{i}" for i in range(n))) for n in range(6)]
    shown = CountedRows(showable(rows, ContextsConfig(documents=3)))
    assert list(shown) == rows[:4]
    assert shown.counts == {"too_many_oracles": 2}
    with pytest.raises(ConfigError, match=r"documents=3 cannot show the 4 .*too_many_oracles=drop"):
        list(showable(rows, ContextsConfig(documents=3, too_many_oracles="error")))
