"""Answers in other scripts, by hand: what `evaluation.normalise=unicode` calls equal, and what it must not."""
# ruff: noqa: RUF001

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdist.data.matching import normalise
from ragdist.errors import DataError
from ragdist.evaluation import answers
from ragdist.records import Question
from tests.evaluation import world

SAME = {
    "full width": ("ＲＡＧ２０２４", "rag2024"),
    "half-width kana": ("ﾄｳｷｮｳ", "トウキョウ"),
    "CJK punctuation": ("「東京」。", "東京"),
    "blanks between CJK": ("東 京\u3000都", "東京都"),
    "sharp s": ("STRASSE", "Straße"),
    "umlaut composed or not": ("Mu\u0308nchen", "München"),
    "German quotes": ("„München“", "münchen"),
    "accent composed or not": ("cafe\u0301", "CAFÉ"),
    "Turkish capital with dot": ("İSTANBUL", "istanbul"),
    "Turkish small without dot": ("DİYARBAKIR", "Diyarbakır"),
    "Greek last sigma": ("ΟΔΟΣ", "οδός".replace("ό", "ο")),
    "Arabic presentation forms": ("\ufefb", "\u0644\u0627"),
    "Arabic vowel signs": ("مُحَمَّد", "محمد"),
    "Arabic tatweel": ("الرـــياض", "الرياض"),
    "Arabic question mark": ("الرياض؟", "الرياض"),
    "Arabic-Indic digits": ("٢٠٢٤", "2024"),
    "Hebrew points": ("שָׁלוֹם", "שלום"),
    "invisible direction mark": ("\u200fالرياض\u200e", "الرياض"),
    "ligature": ("ﬁnal", "final"),
    "typographic apostrophe": ("don’t", "don't"),
}
OTHER = {
    "an accent is a letter's own": ("résumé", "resume"),
    "an umlaut is no u": ("schön", "schon"),
    "an article is a word": ("Hội An", "Hội"),
    "other characters": ("東京", "京都"),
    "a currency counts": ("€5", "¥5"),
}


def question(*golds, dataset="nq_open", every=False):
    return Question(
        id="q", text="?", answers=golds, oracle_ids=(), split="test", dataset=dataset, all_answers_required=every
    )


@pytest.mark.parametrize("case", SAME)
def test_unicode_form_makes_two_spellings_equal(case):
    said, gold = SAME[case]
    assert normalise(said, "unicode") == normalise(gold, "unicode") != ""
    assert answers.score(said, question(gold), "unicode") == (1, 1, 1)


@pytest.mark.parametrize("case", OTHER)
def test_unicode_form_keeps_different_words_apart(case):
    said, gold = OTHER[case]
    assert answers.exact_match(said, [gold], "unicode") == 0


@pytest.mark.parametrize(
    ("said", "gold", "em", "f1", "subspan"),
    [
        ("東京都", "東京", 0, 0.8, 1),  # two of three characters and of two: 2 * 2 / (3 + 2)
        ("答えは東京です。", "東京", 0, 2 * 2 / (7 + 2), 1),
        ("Die Hauptstadt ist München.", "MÜNCHEN", 0, 0.4, 1),
        ("The answer", "answer", 0, 2 / 3, 1),
    ],
)
def test_unicode_scores_count_characters_where_no_spaces_part_words(said, gold, em, f1, subspan):
    got = answers.score(said, question(gold), "unicode")
    assert tuple(got) == pytest.approx((em, f1, subspan))


def test_squad_form_still_keeps_what_squad_keeps():
    assert answers.score("Straße", question("STRASSE")).em == 0
    assert answers.score("「東京」", question("東京")).em == 0
    assert answers.score("an answer", question("answer")).em == 1


def test_all_answers_required_are_listed_with_other_commas():
    asked = question("東京", "大阪", every=True)
    assert answers.score("大阪、東京", asked, "unicode") == (1, 1, 1)
    assert answers.score("东京，大阪", asked, "unicode").em == 0


def test_wrong_value_in_another_width_is_repeated():
    asked = question("東京")
    assert answers.repeats("ＯＳＡＫＡ", asked, ["Osaka"], "unicode")
    assert answers.repeats("ＯＳＡＫＡ", asked, ["Osaka"])
    assert answers.repeats("大阪です", asked, ["大阪"], "unicode")


def test_answer_that_is_all_punctuation_of_another_script_cannot_be_scored():
    with pytest.raises(DataError, match="no answer that can be scored"):
        answers.usable(question("。、"), "unicode")
    assert answers.usable(question("。、", "東京"), "unicode") == ("東京",)


def test_code_answers_are_compared_as_code_in_either_form():
    for form in ("squad", "unicode"):
        assert answers.score("-1", question("1", dataset="apidocs"), form).em == 0
        assert answers.score('"utf-8"', question("'utf-8'", dataset="apidocs"), form).em == 1


def test_evaluation_scores_by_the_setting_and_asks_anew_when_it_changes(tmp_path):
    """The article counts in Unicode's form alone."""
    questions = [replace(question, dataset="nq_open") for question in world.QUESTIONS[:4]]
    means = {}
    for form in ("squad", "unicode"):
        writer = world.RuleWriter(lambda asked, documents: f"the {world.majority(asked, documents)}")
        chosen = world.settings(normalise=form, conditions=["oracle"])
        said = world.evaluate(writer, tmp_path, chosen, questions=questions)
        means[form] = [row.em for row in said]
        assert len(writer.asked) == 4
    assert means == {"squad": [1.0] * 4, "unicode": [0.0] * 4}


@given(st.text(max_size=20))
def test_unicode_form_is_its_own_form_and_blind_to_how_accents_are_stored(text):
    form = normalise(text, "unicode")
    assert normalise(form, "unicode") == form
    for stored in ("NFC", "NFD"):
        assert normalise(unicodedata.normalize(stored, text), "unicode") == form


@pytest.mark.parametrize(
    ("said", "right", "wrong"),
    [
        ("정답은 부산입니다.", "서울", "부산"),
        ("答えは大阪です。", "東京", "大阪"),
        ("答案是上海。", "北京", "上海"),
        ("คำตอบคือเชียงใหม่ครับ", "กรุงเทพ", "เชียงใหม่"),
        ("الجواب هو بجدة", "الرياض", "جدة"),
        ("הוא גר בחיפה", "ירושלים", "חיפה"),
        ("Cevap İzmir'dir.", "Ankara", "İzmir"),
        ("Vastaus on Oulussa.", "Turku", "Oulu"),
        ("உத்தரம் மதுரையில்", "சென்னை", "மதுரை"),
        ("Ответ: в Лондоне", "Рим", "Лондон"),
        ("The answer is the U.K.", "US", "UK"),
        ("It was 2,500 men.", "1000", "2500"),
        ("The answer is B.", "A", "B"),
    ],
)
@pytest.mark.parametrize("form", ["squad", "unicode"])
def test_wrong_answer_is_repeated_whatever_sticks_to_it(said, right, wrong, form):
    """T13"""
    assert answers.repeats(said, question(right), [wrong], form)
    assert not answers.repeats(said, question(wrong), [right], form)


def test_wrong_answer_beside_the_right_one_is_not_repeated():
    assert not answers.repeats("부산이 아니라 서울입니다", question("서울"), ["부산"])
    assert not answers.repeats("", question("B"), ["A"])


@pytest.mark.parametrize("form", ["squad", "unicode"])
@pytest.mark.parametrize(
    ("said", "gold", "em", "f1", "subspan"),
    [
        ("A", "A", 1, 1, 1),
        ("a.", "A", 1, 1, 1),
        ("B", "A", 0, 0, 0),
        ("The answer is A", "A", 0, 0.4, 1),
        ("An", "An", 1, 1, 1),
        ("The", "The", 1, 1, 1),
        ("", "A", 0, 0, 0),
    ],
)
def test_answer_that_is_an_article_is_scored_by_its_words(said, gold, em, f1, subspan, form):
    """T15: one of a multiple choice, or a Vietnamese name."""
    got = answers.score(said, question(gold), form)
    assert tuple(got) == pytest.approx((em, f1, subspan))


def test_article_counts_in_squad_form_only_where_its_own_case_shows_that_it_is_a_name():
    """T15: `A dog` is no answer A... but where it is written as one."""
    for form in ("squad", "unicode"):
        assert answers.score("maybe a dog", question("A"), form).subspan == 0
    assert answers.score("A", question("A", "Paris")) == (1, 1, 1)
    assert answers.score("the dog", question("the", "Paris")) == (0, 0, 0)
    both = question("A", "C", every=True)
    assert answers.score("C, A", both) == (1, 1, 1) and answers.score("C", both).em == 0
    assert answers.same("A", "The", "text") is False and answers.same("a", "A", "text")


@pytest.mark.parametrize(
    ("said", "gold", "f1"),
    [
        ("서울입니다", "서울", 2 * 2 / (5 + 2)),
        ("정답은 서울", "서울", 2 * 2 / (5 + 2)),
        ("กรุงเทพ", "กรุง", 2 * 3 / (6 + 3)),  # characters with their signs: ก รุ ง เ ท พ
        ("ရန်ကုန်", "ရန်", 2 * 2 / (4 + 2)),
    ],
)
def test_f1_counts_characters_where_particles_stick_or_no_spaces_part_words(said, gold, f1):
    """T26"""
    assert answers.f1(said, [gold], "unicode") == pytest.approx(f1)
