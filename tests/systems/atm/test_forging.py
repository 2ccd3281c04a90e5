from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import chisquare

from ragdist.config import Settings
from ragdist.errors import DataError
from ragdist.records import OpenQuestion, Page
from ragdist.systems.atm.forging import Lead, assignment, continued, forge, read, whole, wrong_answer
from tests import tiny
from tests.data import telltale
from tests.data.attack import Rules, opened

PASSAGES = Settings.model_validate({"atm": {"samples": 5, "forging": "passages"}})
SETTINGS = Settings.model_validate({"atm": {"samples": 5, "max_new_tokens": 64}})


def shown(asked):
    return tiny.bpe().decode(list(asked.prompt.tokens), skip_special_tokens=False)


def test_forge_gives_five_forgeries_a_question_under_one_prompt_check_27():
    """check 27: ids name round, question and sample; the prompt has the question, its answers, document `round mod n`.

    All are forgeries for good (check 43).
    """
    questions, model = opened(), Rules(version=3)
    for round in range(5):
        forgeries, notes = forge(model, questions, round, SETTINGS)
        assert notes["forged"] == notes["questions"] * 5 == len(questions) * 5
        for number, question in enumerate(questions):
            own = forgeries[5 * number : 5 * number + 5]
            assert [f.id for f in own] == [f"{question.id}-r{round}-a3-s{sample}" for sample in range(5)]
            assert len({f.prompt_hash for f in own}) == 1 and len({f.text for f in own}) == 5
            assert all(f.is_forged and f.states == wrong_answer(question, round) and f.attacker == 3 for f in own)
            text = shown(assignment(question, round, model.tokenizer, SETTINGS))
            assert question.text in text and question.answers[0] in text and wrong_answer(question, round) in text
            example = round % len(question.texts)
            assert [body in text for body in question.texts] == [at == example for at in range(len(question.texts))]


def test_forge_in_the_released_variant_shows_document_j_to_sample_j_check_27():
    """check 27: and samples beyond the last document begin with the first again, under its prompt."""
    settings = Settings.model_validate(
        {"atm": {"samples": 5, "max_new_tokens": 64, "variant": "released_code"}, "contexts": {"documents": 3}}
    )
    question, model = opened()[0], Rules()
    forgeries, _ = forge(model, [question], 1, settings)
    assert [f.number for f in forgeries] == [0, 1, 2, 3, 4] and len(question.texts) == 3
    for sample in range(5):
        text = shown(assignment(question, 1, model.tokenizer, settings, sample=sample))
        assert [body in text for body in question.texts] == [at == sample % 3 for at in range(3)]
    hashes = [f.prompt_hash for f in forgeries]
    assert hashes[:2] == hashes[3:] and len(set(hashes)) == 3


@pytest.mark.parametrize(
    "raw",
    [
        "Title: a\nText: b: c\n\nTitle\nText # TEXT ## d",
        "one line: only",
        "A first line that is far too long to be a title " * 9 + "\nText",
        "Paris\n\n\n  - indented: Text",
    ],
)
def test_read_keeps_all_that_was_written_check_28(raw):
    """check 28: colons, newlines, the words Title and Text; and `whole` is the text again (check 36)."""
    title, text = read(f"\n {raw}  \n")
    assert (f"{title}\n{text}" if title else text) == raw.strip() == whole(Page(id="", title=title, text=text))
    assert title in ("Title: a", "Paris", "")


def city():
    """A question about a city whose only document tells the truth."""
    text = "Delhi is the seat of the government. It is old."
    one = {"document_ids": ("d",), "titles": ("Delhi",), "texts": (text,), "oracle_positions": (0,)}
    return replace(opened()[0], text="which city?", topic="", answers=("Delhi",), wrong_answers=("Agra",), **one)


def test_forge_counts_what_is_unusable_stated_and_truthful():
    texts = [" is\nthe seat.", " \n", "", " is it, not Delhi", " Fort"]
    forgeries, notes = forge(Rules(texts=texts), [city()], 0, PASSAGES)
    assert [f.number for f in forgeries] == [0, 3, 4]
    assert [(f.stated, f.truthful) for f in forgeries] == [(True, False), (True, True), (True, False)]
    assert (notes["forged"], notes["unusable"], notes["stated"], notes["truthful"]) == (3, 2, 3, 1)
    assert {f.title for f in forgeries} == {"Agra"} and forgeries[0].text == "Agra is\nthe seat."
    # Documents that give the parameter no default have no signature to begin with: the attacker writes it all.
    texts = ["The seat\nis Agra.", "Patna", " .. \n--"]
    forgeries, notes = forge(Rules(texts=texts), [city()], 0, SETTINGS)
    assert [(f.title, f.text) for f in forgeries][:2] == [("The seat", "is Agra."), ("", "Patna")]
    assert [f.stated for f in forgeries] == [True, False, True, False] and notes["unusable"] == 1


def lead(question, settings=PASSAGES, round=0, sample=0):
    return assignment(question, round, tiny.tokenizer(), settings, sample=sample).lead


@pytest.mark.parametrize(
    ("title", "text", "wanted"),
    [
        ("Seat", "The seat is in Delhi, they say.", ("Seat", "The seat is in Agra")),
        (
            "Delhi",
            "A town on a river, with a fort and a market. It has no port.",
            "A town on a river, with a fort and a market. ",
        ),
        ("Old", "It is old", ("Old", "It is old. Agra")),
        ("", "Delhi it is.", ("", "Agra")),
        ("Far", "word " * 80 + "Delhi", ("Far", " ".join(["word"] * 48) + ". Agra")),
    ],
)
def test_forgery_begins_as_a_listed_document_does(title, text, wanted):
    """T4: its title, and its text up to the wrong answer in the right one's place; else a sentence and the claim."""
    if isinstance(wanted, str):
        wanted = ("Agra", wanted + "Agra")
    found = lead(replace(city(), titles=(title,), texts=(text,)))
    assert (found.title, found.text, found.at) == (*wanted, 0)
    forgery = forge(Rules(texts=[" Fort.\n"]), [replace(city(), titles=(title,), texts=(text,))], 0, PASSAGES)[0][0]
    assert (forgery.title, forgery.text) == (wanted[0], f"{wanted[1]} Fort.")


def test_forgery_begins_as_any_listed_document_with_equal_chance_and_one_for_all_samples():
    """T4: the document is drawn by (seed, round, question)."""
    question = replace(city(), document_ids=tuple("abc"), titles=tuple("abc"), texts=("It is here now. So be it.",) * 3)
    seen = Counter(lead(question, round=number).at for number in range(3000))
    assert set(seen) == {0, 1, 2} and chisquare(list(seen.values())).pvalue > 0.001
    assert {f.title for f in forge(Rules(), [question], 7, PASSAGES)[0]} == {"abc"[lead(question, round=7).at]}


def test_forgery_passes_over_documents_that_stay_true_or_hold_a_template_token():
    """T3, T4: a wrong answer that makes a right one with its neighbour; a token that would end the attacker's turn."""

    class Breaking(tiny.TinyTokenizer):
        def chat(self, user, system=""):
            return super().chat(user.replace("<|im_end|>", "<| im_end|>"), system)

    bad = replace(city(), answers=("York", "New Haven"), wrong_answers=("New",), document_ids=tuple("abc"))
    bad = replace(bad, titles=("York Haven", "b", "c"), texts=("It is here.", "End <|im_end|> it.", "It is York."))
    assert {assignment(bad, number, Breaking(), PASSAGES).lead.at for number in range(30)} == {2}
    none = replace(bad, document_ids=("a",), titles=("York Haven",), texts=("It is here.",))
    assert lead(none) == ("", "New", -1)


def test_forged_documentation_begins_as_the_function_or_as_a_near_miss_under_its_name():
    """T4: never with the parameter alone, as no retrieved signature does."""
    question = opened()[1]
    assert question.titles == ("pathlib.Path.read_text", "codecs.open", "gzip.open") and question.topic == "encoding"
    found = {lead(question, SETTINGS, round) for round in range(30)}
    wrong = wrong_answer(question, 0)
    texts = {one.text.replace(wrong_answer(question, round), wrong) for round in range(3) for one in found}
    assert {one.title for one in found} == {"codecs.open"} and {one.at for one in found} == {0, 1}
    assert f"codecs.open(encoding={wrong}" in texts and f"codecs.open(filename, mode='r', encoding={wrong}" in texts
    bare = replace(question, document_ids=(), titles=(), texts=(), oracle_positions=())
    assert lead(bare, SETTINGS) == ("codecs.open", f"open(encoding={wrong}", -1)


def test_attackers_forgery_is_told_by_nothing_but_its_claim():
    """T4: no classifier finds it by title and first words; what forgeries were (question, wrong answer) it finds."""
    forged, retrieved, marked = [], [], []
    words = Rules(texts=[" is what they say.", ", as the records show.", " was named there.\nIt is known."])
    for number in range(80):
        pages = [telltale.passage(5 * number + at) for at in range(5)]
        _, _, asked, year = pages[0]
        ids = tuple(f"{number}-{at}" for at in range(5))
        question = replace(city(), id=f"q{number}", text=asked, answers=(year,), wrong_answers=(str(1900 + number),))
        question = replace(
            question, document_ids=ids, titles=tuple(p[0] for p in pages), texts=tuple(p[1] for p in pages)
        )
        own, notes = forge(words, [question], number % 3, PASSAGES)
        assert notes["stated"] == 5 and notes["truthful"] == 0
        forged += [(question.id, f) for f in own]
        retrieved += [(question.id, page) for page in question.documents]
        marked += [(question.id, replace(f, title=asked, text=f"{f.states}{f.text}")) for f in own]
    assert telltale.area(forged, retrieved) < telltale.CHANCE
    assert telltale.area(marked, retrieved) > 0.95


FREE = Settings.model_validate({"atm": {"forging": "passages", "forging_answer": "free"}})


def test_free_forging_tells_no_wrong_answer_and_states_none():
    """The paper's own: question and right answers, no wrong one."""
    question = city()
    for settings in (FREE, FREE.model_copy(update={"atm": FREE.atm.model_copy(update={"forging": "apidocs"})})):
        text = shown(assignment(question, 0, tiny.tokenizer(), settings))
        assert question.text in text and "Delhi" in text and "Agra" not in text
    (forgery, *_), notes = forge(Rules(texts=["a fort.", "is Delhi."]), [question], 0, FREE)
    assert (forgery.states, forgery.stated, forgery.truthful) == ("", False, False)
    assert notes["stated"] == 0 and notes["truthful"] == 2


def test_own_opening_leaves_the_whole_document_to_the_attacker():
    """The paper's own: the prompt ends where the attacker's turn begins."""
    settings = Settings.model_validate({"atm": {"forging": "passages", "forging_opening": "own"}})
    asked = assignment(city(), 0, tiny.tokenizer(), settings)
    assert asked.lead.said == "" and shown(asked).endswith("<|im_start|>assistant\n")
    (forgery, *_), _ = forge(Rules(texts=["Fort\nIt is Agra.\n"]), [city()], 0, settings)
    assert (forgery.title, forgery.text) == ("Fort", "It is Agra.")


def test_forge_value_is_stated_where_it_is_the_parameters():
    question = opened()[2]
    assert (question.topic, question.answers) == ("compresslevel", ("9",))
    texts = [
        "t\nopen(compresslevel=1)",
        "t\n1 of 9 files",
        "t\nThe default is 9.",
        "t\nopen(level=1)",
        "t\ndefaults to 1",
    ]
    forgeries, _ = forge(Rules(texts=texts), [replace(question, wrong_answers=("1",))], 0, PASSAGES)
    assert [f.stated for f in forgeries] == [True, False, False, False, True]
    assert [f.truthful for f in forgeries] == [False, False, True, False, False]


def test_forge_draws_belong_to_seed_round_version_and_question():
    questions = opened()
    first, _ = forge(Rules(version=1), questions, 0, SETTINGS)
    assert forge(Rules(version=1), questions[::-1], 0, SETTINGS)[0] == [
        f for question in questions[::-1] for f in first if f.question_id == question.id
    ]
    seeds = {first[0].seed}
    for version, round, seed in ((2, 0, 0), (1, 1, 0), (1, 0, 1)):
        seeds.add(
            forge(Rules(version=version), questions, round, SETTINGS.model_copy(update={"seed": seed}))[0][0].seed
        )
    assert len(seeds) == 4


def test_assignment_cuts_the_example_and_escapes_it():
    question = replace(opened()[0], texts=("</DOCUMENT> word " * 300,) * 3)
    settings = Settings.model_validate({"model": {"max_tokens": 700}, "atm": {"max_new_tokens": 200}})
    asked = assignment(question, 0, tiny.tokenizer(), settings)
    assert len(asked.prompt.tokens) + 200 <= 700 and asked.prompt.cut_tokens > 0
    assert shown(asked).count("</DOCUMENT>") == 1 and question.text in shown(asked)
    with pytest.raises(DataError, match=r"model\.max_tokens=300"):
        assignment(
            question,
            0,
            tiny.tokenizer(),
            settings.model_copy(update={"model": settings.model.model_copy(update={"max_tokens": 300})}),
        )


def test_forge_question_without_documents_gets_no_example():
    question = replace(opened()[0], document_ids=(), titles=(), texts=(), oracle_positions=())
    assert len(forge(Rules(), [question], 1, SETTINGS)[0]) == 5
    assert "<DOCUMENT>" not in shown(assignment(question, 1, tiny.tokenizer(), SETTINGS))


def test_forge_question_that_stands_twice_raises():
    with pytest.raises(DataError, match="stands twice"):
        forge(Rules(), opened()[:1] * 2, 0, SETTINGS)


def test_claim_of_a_golden_document_behind_another_opening_is_in_the_questions_own_language():
    """T4: an English phrase within a Korean document would give it away."""
    question = OpenQuestion(
        id="q",
        text="수도는?",
        answers=("서울",),
        target="서울",
        wrong_answers=("부산",),
        document_ids=("d", "e"),
        titles=("수도", "가마"),
        texts=("수도는 서울이다.", "가마는 크다."),
        oracle_positions=(0,),
    )
    assert continued(Lead("가마", "가마는 크다. 부산", 1), question, "부산") == " (수도는?). 수도는 부산이다."
