from dataclasses import replace

import pytest

from ragdist.config import Settings
from ragdist.data.forging import assignment, forge, read, whole, wrong_answer
from ragdist.errors import DataError
from ragdist.records import Page
from tests import tiny
from tests.data.attack import Rules, opened

PASSAGES = Settings.model_validate({"atm": {"samples": 5, "forging": "passages"}})
SETTINGS = Settings.model_validate({"atm": {"samples": 5, "max_new_tokens": 64}})


def shown(asked):
    return tiny.tokenizer().decode(list(asked.prompt.tokens), skip_special_tokens=False)


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
            text = shown(assignment(question, round, model.codec, SETTINGS))
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
        text = shown(assignment(question, 1, model.codec, settings, sample=sample))
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


def test_forge_counts_what_is_unusable_stated_and_truthful():
    question = replace(opened()[0], topic="", answers=("Delhi",), wrong_answers=("Agra",))
    texts = [" is\nthe seat.", " \n", "", " is it, not Delhi", " Fort"]
    forgeries, notes = forge(Rules(texts=texts), [question], 0, PASSAGES)
    assert [f.number for f in forgeries] == [0, 3, 4]
    assert [(f.stated, f.truthful) for f in forgeries] == [(True, False), (True, True), (True, False)]
    assert (notes["forged"], notes["unusable"], notes["stated"], notes["truthful"]) == (3, 2, 3, 1)
    assert {f.title for f in forgeries} == {question.text} and forgeries[0].text == "Agra is\nthe seat."
    # A question that names no function has no signature to begin with: the attacker writes the whole document.
    texts = ["The seat\nis Agra.", "Patna", " .. \n--"]
    forgeries, notes = forge(Rules(texts=texts), [replace(question, text="which?")], 0, SETTINGS)
    assert [(f.title, f.text) for f in forgeries][:2] == [("The seat", "is Agra."), ("", "Patna")]
    assert [f.stated for f in forgeries] == [True, False, True, False] and notes["unusable"] == 1


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
    asked = assignment(question, 0, tiny.codec(), settings)
    assert len(asked.prompt.tokens) + 200 <= 700 and asked.prompt.cut_tokens > 0
    assert shown(asked).count("</DOCUMENT>") == 1 and question.text in shown(asked)
    with pytest.raises(DataError, match=r"model\.max_tokens=300"):
        assignment(
            question,
            0,
            tiny.codec(),
            settings.model_copy(update={"model": settings.model.model_copy(update={"max_tokens": 300})}),
        )


def test_forge_question_without_documents_gets_no_example():
    question = replace(opened()[0], document_ids=(), titles=(), texts=(), oracle_positions=())
    assert len(forge(Rules(), [question], 1, SETTINGS)[0]) == 5
    assert "<DOCUMENT>" not in shown(assignment(question, 1, tiny.codec(), SETTINGS))


def test_forge_question_that_stands_twice_raises():
    with pytest.raises(DataError, match="stands twice"):
        forge(Rules(), opened()[:1] * 2, 0, SETTINGS)
