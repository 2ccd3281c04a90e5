"""One text rule: what stands in a text, where, and which texts are one, in many scripts, by hand and by property."""
# ruff: noqa: RUF001

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdist.data import matching
from ragdist.data.matching import contains, is_bare, normalise, same_text, spans, verbatim, words

STANDS = {
    "Korean particle": ("서울", "많은 사람이 서울에서 산다."),
    "Korean copula": ("부산", "정답은 부산입니다."),
    "Chinese": ("北京", "中国的首都是北京。"),
    "Japanese, dot between names": ("レオナルド ダ ヴィンチ", "画家レオナルド・ダ・ヴィンチの絵"),
    "half-width kana": ("トウキョウ", "ﾄｳｷｮｳ の駅"),
    "Thai": ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร"),
    "Lao": ("ວຽງຈັນ", "ນະຄອນຫຼວງວຽງຈັນ"),
    "Khmer": ("ភ្នំពេញ", "រាជធានីភ្នំពេញជាទីក្រុង"),
    "Burmese": ("ရန်ကုန်", "ကျွန်ုပ်ရန်ကုန်မြို့တွင်"),
    "Arabic al-": ("رياض", "العاصمة هي الرياض"),
    "Arabic wa-": ("سامي", "جاء علي وسامي"),
    "Arabic bi- and al-": ("الرياض", "يسكن بالرياض"),
    "Arabic li- and al- in one": ("الرياض", "سافر للرياض"),
    "Arabic vowel signs": ("محمد", "كتبه مُحَمَّدٌ"),
    "Persian kaf and yeh": ("کتاب علی", "كتاب علي"),
    "Hebrew prefix": ("ירושלים", "גרים בירושלים"),
    "Hebrew points": ("שלום", "שָׁלוֹם"),
    "Turkish apostrophe": ("Ankara", "Ankara'da yaşıyor"),
    "Turkish dotless i": ("Diyarbakır", "DİYARBAKIR"),
    "Finnish ending": ("Oulu", "Hän asuu Oulussa."),
    "Russian ending": ("Лондон", "в Лондоне"),
    "Russian stress": ("Москва", "Москва́ — столица"),
    "Hindi": ("दिल्ली", "वह दिल्ली में है"),
    "Tamil ending": ("சென்னை", "அவர் சென்னையில் உள்ளார்"),
    "Bengali ending": ("ঢাকা", "সে ঢাকায় থাকে"),
    "Telugu ending behind a joiner": ("హైదరాబాద్", "హైదరాబాద్\u200cలో"),
    "Amharic prefix": ("አዲስ አበባ", "በአዲስ አበባ"),
    "French elision": ("île", "l’île de Ré"),
    "points of an abbreviation": ("US", "the U.S. Navy"),
    "an abbreviation without": ("U.S.", "the US Navy"),
    "points within an abbreviation": ("PhD", "a Ph.D. student"),
    "initials": ("J. R. R. Tolkien", "by J.R.R. Tolkien"),
    "plural": ("TV", "two TVs"),
    "possessive": ("Japan", "Japan’s islands"),
    "hyphen": ("New York", "a New-York paper"),
    "no hyphen": ("email", "an e-mail"),
    "broken at the end of a line": ("example", "an exam-\nple"),
    "soft hyphen": ("example", "an exam\u00adple"),
    "soft hyphen at the end of a line": ("example", "an exam\u00ad\nple"),
    "zero-width space": ("example", "an exam\u200bple"),
    "ligature": ("filter", "the ﬁlter"),
    "oe": ("oeuvre", "une œuvre"),
    "thousands": ("1000", "with 1,000 men"),
    "thousands, no comma": ("1,000", "with 1000 men"),
    "thousands, thin blank": ("1000", "1\u202f000 euros"),
    "thousands, plain blank": ("1000000", "1 000 000 euros"),
    "thousands, point": ("1000", "1.000 Einwohner"),
    "thousands, apostrophe": ("1000", "1’000 Franken"),
    "lakh": ("100000", "1,00,000 rupees"),
    "decimal comma": ("1.5", "1,5 Meter"),
    "Arabic digits": ("340", "٣٤٠ كوب"),
    "full-width digits": ("340", "３４０個"),
    "unit": ("1000", "1000km away"),
    "counter": ("340", "340개가 들어간다"),
    "NFD": ("Café", "das Cafe\u0301"),
    "article": ("The Beatles", "Beatles songs"),
    "option": ("A", "The answer is A."),
    "option in Korean": ("A", "정답은 A입니다"),
    "full-width option": ("A", "正解はＡ"),
    "Vietnamese name": ("An", "ông An nói"),
    "article as an answer": ("The", "The Who"),
}
STANDS_NOT = {
    "inside a word": ("Rome", "a romeo"),
    "at the end of a word": ("York", "NewYork"),
    "inside a number": ("340", "at 1340 or 3401"),
    "inside thousands": ("100,000", "5,100,000"),
    "decimals joined": ("15", "1.5 or 1,5"),
    "option in another case": ("A", "a dog"),
    "an article in another case": ("An", "an apple"),
    "a vowel sign is a letter": ("कल", "किला"),
    "a kana's dots": ("かき", "がき"),
    "a Cyrillic breve": ("мой", "мои"),
    "nothing but punctuation": ("?!", "so?!"),
    "nothing": ("", "text"),
}
PIECES = [
    *("a", "A", "An", "the", "d", "12", "U.S.", "1,000", "1.5", "-\n", "서울", "에서", "กรุง", "東", "・", "ال", "سامي"),
    *("و", "é", "e\u0301", "\u200b", "\u00ad", " ", "\n", "'", "--", "_", "ﬁ", "...", "\x1c", "\x01", "İ", "ı", "ß"),
    *("Ａ", "٣", "\u00a0", "कि", "\u0300", "\u3099", "が"),
]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.text(max_size=12))


@pytest.mark.parametrize("case", STANDS)
def test_answer_stands_in_the_text_and_spans_say_where(case):
    """T7, T9, T10, T13: whatever sticks to it, and however its letters are stored."""
    answer, text = STANDS[case]
    assert contains(text, answer)
    for start, end in spans(text, answer) or pytest.fail("no span"):
        assert contains(text[start:end], answer)
        # What stays is what stuck to the answer: it is gone with its span.
        assert not contains(text[:start] + " zzz " + text[end:], answer) or len(spans(text, answer)) > 1


@pytest.mark.parametrize("case", STANDS_NOT)
def test_other_words_do_not_hold_the_answer(case):
    answer, text = STANDS_NOT[case]
    assert not contains(text, answer) and spans(text, answer) == []


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("수도는 서울이다. 서울 중심에", "서울", ["서울", "서울"]),
        ("The U.S. and the US", "US", ["U.S.", "US"]),
        ("1,000 or 1000", "1000", ["1,000", "1000"]),
        ("cafe\u0301 CAFÉ", "café", ["cafe\u0301", "CAFÉ"]),
        ("exam-\nple", "example", ["exam-\nple"]),
        ("northern nor", "nor", ["nor"]),
    ],
)
def test_spans_cut_the_answer_out_of_the_original_text(text, answer, found):
    assert [text[start:end] for start, end in spans(text, answer)] == found


@settings(max_examples=300)
@given(TEXTS, TEXTS, TEXTS)
def test_answer_between_any_texts_is_contained_and_spans_agree(before, answer, behind):
    text = f"{before} {answer} {behind}"
    if words(answer).strip():
        assert contains(text, answer)
    for one in (answer, behind):
        found = spans(text, one)
        assert bool(found) == contains(text, one)
        assert found == sorted(found) and all(0 <= start < end <= len(text) for start, end in found)


@settings(max_examples=300)
@given(TEXTS)
def test_forms_are_their_own_forms_and_blind_to_how_letters_are_stored(text):
    assert matching._traced(text).text == matching.marked(text)
    form = normalise(text, "unicode")
    assert normalise(form, "unicode") == form
    for stored in ("NFC", "NFD"):
        other = unicodedata.normalize(stored, text)
        assert normalise(other, "unicode") == form
        assert words(other) == words(text) == words(words(text))
        assert same_text(other) == same_text(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("入りますか？", "入りますか?"),
        ("من يحفظ مفتاح الأرشيف؟", "من يحفظ مفتاح الأرشيف"),
        ("Wo steht das Café?", "wo steht das Cafe\u0301"),
        ("¿Dónde está?", "dónde está"),
        ("Πού είναι;", "πού είναι\u037e"),
        ("Ինչո՞ւ", "Ինչու"),
        ("क्या है।", "क्या है"),
        ("ＲＡＧとは", "ragとは"),
        ("「誰の窯？」", "誰の窯"),
        ("『谁的窑？』", "《谁的窑》"),
        ("What\u00a0is\u200b it …", "what is it"),
        ("Who’s “there”?", "who's \"there"),
        ("Qui est-ce ?", "qui est‑ce"),
        ("٢٠٢٤", "2024"),
    ],
)
def test_same_text_however_it_is_stored(one, other):
    """T11"""
    assert same_text(one) == same_text(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("résumé?", "resume?"), ("What is C#?", "What is C?"), ("Is it -1?", "Is it 1?"), ("a cat", "the cat")],
)
def test_other_questions_stay_apart(one, other):
    assert same_text(one) != same_text(other)


@pytest.mark.parametrize(
    ("quote", "source", "held"),
    [
        ("the keeper's key", "It is the keeper’s key.", True),
        ('"the keeper\'s key"', "It is the keeper’s key.", True),
        ("filter", "a ﬁlter", True),
        ("an example of", "an exam-\n  ple of", True),
        ("a well-known man", "a well-\nknown man", True),
        ("a well-known example", "a well-\nknown exam-\nple", True),
        ("an exam-\nple", "an example", True),
        ("an example", "an exam\u00adple", True),
        ("an example", "an exam\u00ad\nple", True),
        ("wait... then", "wait… then", True),
        ("1914-1918", "1914–1918", True),
        ("東京は都", "東京は\n都", True),
        ("ＲＡＧ", "RAG", True),
        ("re-sign", "resign", False),
        ("resign", "re-sign", False),
        ("Key", "key", False),
        ("resume", "résumé", False),
        ("서울 에서", "서울에서", False),
        ("one two", "one, two", False),
    ],
)
def test_quote_stands_word_for_word_whatever_shapes_its_signs_have(quote, source, held):
    """T19"""
    assert matching.quoted_in(verbatim(quote), verbatim(source)) == held


def test_bare_answers_are_single_letters_and_articles():
    assert [text for text in ("A", "(b)", "The", "an", "Ａ", "5", "é", "Art", "東", "?") if is_bare(text)] == [
        *("A", "(b)", "The", "an", "Ａ")
    ]


def test_numbers_of_the_unicode_form():
    assert [normalise(text, "unicode") for text in ("1,000", "1.000", "1,5", "1.5", "1,234.56", "٣٬٤٠٠", "3-4")] == [
        *("1000", "1000", "1.5", "1.5", "1234.56", "3400", "34")
    ]


def test_words_of_ascii_are_those_of_dpr_but_for_grouped_numbers():
    """DPR's own pattern on real English text."""
    folder = Path(__file__).parents[2] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not beside the repository")
    import gzip
    import re

    with gzip.open(folder / "squad.jsonl.gz", "rt") as lines:
        for line in [line for line in lines if line.isascii() and not re.search(r"\d,\d|-\\n", line)][:200]:
            assert words(line).split() == re.findall(r"\w+", line.lower())
