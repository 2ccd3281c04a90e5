"""Near duplicates: signatures against exact Jaccard similarity, and which of two documents stays."""

import random

import numpy as np
import pytest
from datasketch import MinHash

from ragdist.config import CorpusConfig
from ragdist.data.sources import duplicates
from ragdist.records import Document, content_id
from ragdist.storage.stages import CountedRows


def text(seed, words=400):
    draw = random.Random(seed)
    return " ".join(f"word{draw.randrange(5000)}" for _ in range(words))


def changed(original, count, seed=0):
    """With so many words replaced, far enough apart that each spoils three triples."""
    words = original.split()
    for number in range(count):
        words[3 + number * (len(words) // (count + 1))] = f"other{seed}-{number}"
    return " ".join(words)


def triples(original):
    words = original.split()
    return set(zip(words, words[1:], words[2:], strict=False))


def jaccard(one, two):
    """The definition, on whole sets of word triples."""
    return len(triples(one) & triples(two)) / len(triples(one) | triples(two))


def document(name, content):
    return Document(id=content_id(name, content), title=name, text=content, source=f"{name}.txt")


def sift(documents, **config):
    found = CountedRows(duplicates.sift(documents, CorpusConfig(source="folder", **config)))
    return [d.title for d in found], found.counts


def empty():
    return MinHash(num_perm=duplicates.PERMUTATIONS, seed=duplicates.SEED)


def test_signatures_estimate_the_jaccard_similarity_of_word_triples():
    """Within four standard errors of the exact value, for pairs from alike to foreign."""
    for count in (0, 2, 5, 10, 20, 40, 80):
        one, two = text(count), changed(text(count), count)
        exact = jaccard(one, two)
        first, second = (duplicates.signature_of(t, empty()) for t in (one, two))
        error = (exact * (1 - exact) / duplicates.PERMUTATIONS) ** 0.5
        assert abs(np.mean(first == second) - exact) <= 4 * error + 1e-9


def test_signature_does_not_depend_on_the_batches_it_is_made_in(monkeypatch):
    whole = duplicates.signature_of(text(1, 3000), empty())
    monkeypatch.setattr(duplicates, "BATCH", 7)
    assert (duplicates.signature_of(text(1, 3000), empty()) == whole).all()


@pytest.mark.parametrize(("similarity", "rows"), [(0.8, 7), (0.9, 12), (1.0, 128)])
def test_bands_are_as_long_as_the_share_of_pairs_found_allows(similarity, rows):
    """By hand: 1 - (1 - 0.8**7)**18 = 0.986 and 1 - (1 - 0.8**8)**16 = 0.947; 0.964 and 0.929 for 0.9 at 12 and 13."""
    assert duplicates.rows_of_a_band(similarity) == rows


def test_nearly_all_pairs_above_the_similarity_are_found_and_no_foreign_one():
    documents = []
    for number in range(150):
        documents += [document(f"{number}", text(number)), document(f"{number}-near", changed(text(number), 8))]
    assert min(jaccard(a.text, b.text) for a, b in zip(documents[::2], documents[1::2], strict=True)) > 0.85
    kept, counts = sift(documents, near_duplicates="drop")
    assert {name for name in kept if "near" not in name} == {f"{number}" for number in range(150)}
    assert counts["near_duplicates"] >= 0.95 * 150


def test_first_in_order_stays_and_the_other_is_named_with_its_similarity():
    original = text(5)
    documents = [document("b", original), document("z", text(6)), document("a", changed(original, 3))]
    kept, counts = sift(documents, near_duplicates="drop")
    assert kept == ["b", "z"]
    (named,) = counts["near_duplicates_named"]
    assert named.startswith("a.txt, like b.txt (0.9")
    assert sift(documents[::-1], near_duplicates="drop")[0] == ["a", "z"]


def test_report_keeps_all_and_tells_the_same_as_drop_and_keep_tells_nothing():
    documents = [document(f"{n}", changed(text(9), 4 * n, n)) for n in range(6)]
    dropped, told = sift(documents, near_duplicates="drop")
    reported, same = sift(documents, near_duplicates="report")
    assert told == same and told["near_duplicates"] == 6 - len(dropped) > 0
    assert reported == [d.title for d in documents]
    assert sift(documents, near_duplicates="keep") == (reported, {})


def test_case_accents_and_punctuation_make_no_difference_and_short_texts_only_match_whole():
    documents = [
        document("a", "The caf\u00e9, at noon: open!"),
        document("b", "the cafe at NOON open"),
        document("c", "Yes."),
        document("d", "No."),
        document("e", "yes"),
        document("f", "..."),
        document("g", "!!!"),
    ]
    assert sift(documents, near_duplicates="drop")[0] == ["a", "c", "d", "f", "g"]


def test_result_is_the_same_twice():
    documents = [document(f"{n}", changed(text(n % 20), n // 20 * 6, n)) for n in range(80)]
    assert sift(documents) == sift(documents)


@pytest.mark.parametrize(
    "words", ["한국의 수도는 서울이다 그리고", "เมืองหลวงของไทย", "une école à côté d\u2019un café"]
)
def test_document_in_another_normal_form_or_width_is_the_same(words):
    """T11: also where no spaces part words."""
    import unicodedata

    text = f"{words} 123 abc " * 5
    other = unicodedata.normalize("NFD", text).replace("123", "\uff11\uff12\uff13").replace("abc", "a\u200bb\u00adc")
    assert (duplicates.signature_of(text, empty()) == duplicates.signature_of(other, empty())).all()
    assert (duplicates.signature_of(text + "zzz yyy", empty()) != duplicates.signature_of(text, empty())).any()


def test_near_duplicates_are_counted_once():
    one, other = text(1, 300), text(2, 300)
    assert duplicates.distinct([one, other, one + " more", other], 0.5) == 2
    assert duplicates.distinct([], 0.5) == 0
