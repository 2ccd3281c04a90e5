import math
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import chisquare

from ragdist.config import AtmConfig, ModelConfig, Settings
from ragdist.data import examples, prompts
from ragdist.data.template_attack import wrong_answers
from ragdist.errors import DataError
from ragdist.records import Question
from ragdist.systems.atm.forging import assignment, forge, whole
from ragdist.systems.atm.training_rows import (
    attacked_list,
    attacked_lists,
    first_tuning,
    grade,
    open_question,
    preferences,
    swapped,
)
from tests import tiny
from tests.data.attack import Rules, opened

SETTINGS = Settings.model_validate({"atm": {"samples": 5, "max_new_tokens": 200}})
RELEASED = Settings.model_validate({"atm": {"samples": 6, "max_new_tokens": 200, "variant": "released_code"}})


def forged(round=0, settings=SETTINGS):
    return forge(Rules(), opened(), round, settings)[0]


def begun(question, wrong):
    """The oracle's signature up to and with a wrong default."""
    return question.texts[1].partition(f"{question.topic}=")[0] + f"{question.topic}={wrong}"


def said(tokens):
    return tiny.tokenizer().decode(tokens)


def scores(values):
    """Grades of all forgeries, `values` in turn for the samples of each question."""
    rows = grade(Rules(), opened(), forged(), SETTINGS)[0]
    return [replace(row, perplexity=values[row.sample]) for row in rows]


def pairs(grades, round=0, settings=SETTINGS, forgeries=None):
    return preferences(
        Rules(), opened(), forged(round, settings) if forgeries is None else forgeries, grades, round, settings
    )


@pytest.mark.parametrize(
    ("nll", "wanted"),
    [([-math.log(0.5), -math.log(0.25)], 2.828427), ([0, 0, 2, 4], math.exp(1.5)), ([0, 0], 1.0), ([9000.0], math.inf)],
)
def test_grade_is_exp_of_the_mean_over_all_tokens_checks_29_and_30(nll, wanted):
    """check 29 and check 30: tokens without doubt count in the denominator; what overflows is broken, not an error."""
    grades, notes = grade(Rules(score=lambda _: [-value for value in nll]), opened(), forged(), SETTINGS)
    assert all(row.perplexity == pytest.approx(wanted, rel=1e-6) and row.tokens == len(nll) for row in grades)
    assert notes["graded"] == 20 and notes["broken"] == 20 * math.isinf(wanted)
    assert notes["perplexity_sum"] == pytest.approx(0 if math.isinf(wanted) else 20 * wanted, rel=1e-6)


def test_grade_shows_each_forgery_alone_and_reads_the_target_with_its_end():
    model, forgeries = Rules(), forged()
    grades, notes = grade(model, opened(), forgeries, SETTINGS)
    target = {question.id: question.target for question in opened()}
    assert [row.forgery_id for row in grades] == [forgery.id for forgery in forgeries]
    for example, forgery in zip(model.asked, forgeries, strict=True):
        text = said(example.tokens[: example.prompt_tokens])
        assert text.count("<DOCUMENT>") == 1 and f"<DOCUMENT>{forgery.title}\n{forgery.text}</DOCUMENT>" in text
        answer = example.tokens[example.prompt_tokens :]
        assert said(answer[:-1]) == target[forgery.question_id] and answer[-1] == tiny.tokenizer().end
    assert notes["tokens"] == sum(len(example.tokens) for example in model.asked)


def test_grade_by_a_model_equals_its_own_reading(tmp_path):
    from ragdist.algo.perplexity import perplexity
    from ragdist.lm.load import load_model, load_tokenizer
    from ragdist.lm.read import ModelReader

    config = ModelConfig(source=str(tiny.model_folder(tmp_path)), dtype="float32")
    reader = ModelReader(load_model(config), 4096)

    class Real(Rules):
        def read(self, examples):
            self.asked += examples
            return reader.read(examples)

    model = Real()
    model.tokenizer = load_tokenizer(config)
    grades, _ = grade(model, opened(), forged(), SETTINGS)
    assert len({row.perplexity for row in grades}) == len(grades)
    for row, example in zip(grades, model.asked, strict=True):
        (((_, logprobs),),) = [list(batch) for batch in reader.read([example])]
        assert row.perplexity == pytest.approx(perplexity(logprobs), rel=1e-5)


def test_forgery_that_was_cut_off_teaches_no_end():
    cut = [replace(forgery, ended=forgery.number != 0) for forgery in forged()]
    rows, _ = pairs(scores([50.0, 2.0, 10.0, 11.0, 12.0]), forgeries=cut)
    for row in rows:
        assert [tokens[-1] == tiny.tokenizer().end for tokens in row.tokens] == [False, True]


@pytest.mark.parametrize("best", range(5))
def test_preferences_join_by_id_at_every_place_check_33(best):
    """check 33 and check 34: chosen is the planted best, rejected the worst, whatever the order of grades."""
    worst = (best + 2) % 5
    values = [50.0 if at == best else 2.0 if at == worst else 10.0 + at for at in range(5)]
    texts = {forgery.id: forgery for forgery in forged()}
    rows, notes = pairs(scores(values))
    assert rows == pairs(scores(values)[::-1])[0] and notes["pairs"] == 4 == len(rows)
    for row, question in zip(rows, sorted(opened(), key=lambda question: question.id), strict=True):
        chosen, rejected = (texts[id] for id in row.about.split(">"))
        assert (chosen.number, rejected.number) == (best, worst) and row.id == chosen.question_id == question.id
        for tokens, at, forgery in zip(row.tokens, row.prompt_tokens, (chosen, rejected), strict=True):
            lead = f"{question.titles[1]}\n{begun(question, forgery.states)}"
            assert said(tokens[:at]).endswith(lead) and tokens[-1] == tiny.tokenizer().end
            assert lead + said(tokens[at:-1]) == whole(forgery)
    lowest = SETTINGS.model_copy(update={"atm": SETTINGS.atm.model_copy(update={"prefer": "lowest"})})
    assert [row.tokens for row in pairs(scores(values), settings=lowest)[0]] == [row.tokens[::-1] for row in rows]


@pytest.mark.parametrize(
    ("values", "why"),
    [([3.0] * 5, "equal"), ([1.0, 2.0, math.nan, 4.0, 5.0], "broken"), ([1.0, 2.0, 3.0, 4.0, math.inf], "broken")],
)
def test_preferences_of_equal_or_broken_grades_are_none_check_35(values, why):
    """check 35: and the question is counted."""
    rows, notes = pairs(scores(values))
    assert not rows and notes["pairs"] == 0 and notes[why] == 4


@pytest.mark.parametrize("values", [[4.0000001, 4.0, 4.0, 4.0, 4.0], [4.0, 4.001, 4.002, 4.0035, 4.003]])
def test_preferences_of_grades_that_rounding_tells_apart_are_none(values):
    """T24: within a thousandth of one another, as bfloat16 moves them; beyond it there is a pair."""
    rows, notes = pairs(scores(values))
    assert (len(rows), notes["equal"], notes["pairs"]) == (0, 4, 0)
    assert pairs(scores([4.0, 4.005, 4.0, 4.0, 4.0]))[1]["pairs"] == 4


def test_preferences_of_equal_texts_are_none():
    """T24: whatever their grades say; the same text once ended and once cut off is one text too."""
    forgeries = [replace(row, text="alike", ended=row.number > 0) for row in forged()]
    rows, notes = pairs(scores([50.0, 2.0, 10.0, 11.0, 12.0]), forgeries=forgeries)
    assert (len(rows), notes["equal"], notes["pairs"], notes["single"]) == (0, 4, 0, 0)


def test_dpo_learns_the_tokens_that_were_sampled():
    """The deviation of T: a text has many spellings in tokens, and only one of them was drawn."""
    letter = [tiny.tokenizer().encode(one).ids[0] for one in "word"]
    assert tiny.tokenizer().decode(letter) == "word" and len(tiny.tokenizer().encode("word").ids) < 4

    class Spelling(Rules):
        def write(self, prompts, **how):
            for batch in super().write(prompts, **how):
                yield [replace(t, text="word", ids=(*letter, 7 + t.sample, tiny.tokenizer().end)) for t in batch]

    forgeries, _ = forge(Spelling(), opened(), 0, SETTINGS)
    assert all(row.tokens == (*letter, 7 + row.number, tiny.tokenizer().end) for row in forgeries)
    forgeries = [replace(row, text=f"{row.text}{row.number}") for row in forgeries]
    rows, _ = pairs(scores([1.0, 2.0, 3.0, 4.0, 5.0]), forgeries=forgeries)
    assert len(rows) == 4
    for row in rows:
        learned = [tokens[at:] for tokens, at in zip(row.tokens, row.prompt_tokens, strict=True)]
        assert learned == [(*letter, 7 + number, tiny.tokenizer().end) for number in (4, 0)]


def test_preferences_of_a_single_forgery_are_none_check_35():
    rows, notes = pairs(scores([1.0] * 5)[::5])
    assert not rows and notes["single"] == 4


@pytest.mark.parametrize("round", [0, 1, 2, 5])
def test_preferences_stand_behind_the_prompt_that_sampled_them_check_36(round):
    """check 36: token for token."""
    forgeries = forged(round)
    grades, _ = grade(
        Rules(score=lambda example: [-len(example.tokens) - int(example.id[-1])]), opened(), forgeries, SETTINGS
    )
    rows, _ = pairs(grades, round)
    by_id = {question.id: question for question in opened()}
    assert len(rows) == 4
    for row in rows:
        asked = assignment(by_id[row.id], round, tiny.tokenizer(), SETTINGS).prompt.tokens
        assert all(tokens[:at] == asked for tokens, at in zip(row.tokens, row.prompt_tokens, strict=True))


def test_preferences_of_the_released_variant_stay_within_one_prompt_check_36():
    """check 36: six samples on three documents make three prompts of two samples."""
    forgeries = forged(settings=RELEASED)
    grades, _ = grade(Rules(score=lambda example: [-1.0 - int(example.id[-1])]), opened(), forgeries, RELEASED)
    rows, notes = pairs(grades, settings=RELEASED)
    assert notes["pairs"] == len(rows) == 12 == len({row.id for row in rows})
    assert all([int(id[-1]) % 3 for id in row.about.split(">")] in ([0, 0], [1, 1], [2, 2]) for row in rows)
    assert all(row.tokens[0][: row.prompt_tokens[0]] == row.tokens[1][: row.prompt_tokens[1]] for row in rows)


def test_preferences_of_another_prompt_raise():
    grades = scores([1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(DataError, match=r"which round 1 does not make.*run\.name"):
        pairs(grades, round=1, forgeries=forged(0))
    with pytest.raises(DataError, match="not among those"):
        pairs(grades, forgeries=forged(0)[1:])


def test_attacked_list_holds_every_document_once_check_41():
    """check 41 and check 42: as many times as given, letter by letter; forgeries stay marked (check 43)."""
    for question in opened():
        own = [forgery for forgery in forged() if forgery.question_id == question.id]
        shown = attacked_list(question, own, f"0/{question.id}", 0)
        wanted = Counter((page.id, page.title, page.text) for page in (*question.documents, *own))
        assert Counter((page.id, page.title, page.text) for page in shown) == wanted and len(shown) == 8
        assert [page.id for page in shown if getattr(page, "is_forged", False)] != []
        assert {page.id for page in shown if getattr(page, "is_forged", False)} == {forgery.id for forgery in own}


def many(documents, forgeries):
    """A question with so many documents, the oracle among them, and so many forgeries."""
    question = opened()[0]
    pages = [(f"d{n}", f"title {n}", f"text {n} of a page") for n in range(documents - 1)]
    ids, titles, texts = zip(*pages, strict=True)
    one = replace(
        question,
        document_ids=(question.document_ids[1], *ids),
        titles=(question.titles[1], *titles),
        texts=(question.texts[1], *texts),
        oracle_positions=(0,),
    )
    written = replace(forged()[0], question_id=question.id)
    return one, [replace(written, id=f"f{n}", number=n, title=f"forged {n}") for n in range(forgeries)]


@pytest.mark.parametrize(("documents", "forgeries"), [(10, 1), (9, 5), (20, 13)])
def test_attacked_lists_of_more_than_ten_documents_are_whole_and_shuffled(documents, forgeries):
    """A mutation survived here: no document of a long list goes, every place is as likely (check 41, check 42)."""
    question, own = many(documents, forgeries)
    total = documents + forgeries
    (row,), _ = attacked_lists(Rules(), [question], own, 0, SETTINGS)
    assert sorted(row.about.split(",")) == sorted([*question.document_ids, *(forgery.id for forgery in own)])
    counts = [said(tokens).count("<DOCUMENT>") for tokens in row.tokens]
    assert counts == [documents, total]
    seen = Counter()
    for number in range(4000):
        order = [page.id for page in attacked_list(question, own, str(number), 0)]
        assert len(set(order)) == total
        seen[order.index("f0")] += 1
    assert sorted(seen) == list(range(total)) and chisquare(list(seen.values())).pvalue > 0.001


def shown_in(tokens):
    """The documents of a prompt, each as it stands there."""
    return [block.split("</DOCUMENT>")[0] for block in said(tokens).split("<DOCUMENT>")[1:]]


def long_question(filler=120):
    question, own = many(4, 3)
    texts = [f"{text}{' and so on' * filler}" for text in question.texts]
    texts[0] = f"{'It is long. ' * 20}The default is {question.answers[0]}.{' and so on' * filler}"
    return replace(question, texts=tuple(texts)), [replace(one, text=f"{one.text}{' never' * 400}") for one in own]


@pytest.mark.parametrize("limit", [500, 900, 1500, 3000])
def test_both_lists_of_a_row_show_the_same_text_of_every_document(limit):
    """T6: they differ in forgeries and order alone, however much has to be cut for the longer one."""
    question, own = long_question()
    settings = Settings.model_validate({"model": {"max_tokens": limit}})
    (row,), notes = attacked_lists(Rules(), [question], own, 0, settings)
    clean, attacked = map(shown_in, row.tokens)
    assert len(clean) == 4 and len(attacked) == 7 and set(clean) < set(attacked)
    assert [text.split("\n")[0] for text in clean] == list(question.titles)
    assert all(text.startswith("forged") for text in set(attacked) - set(clean))
    assert max(map(len, row.tokens)) <= limit and notes["cut_attacked"] == notes["cut_clean"] == 1
    answer_stands = f"The default is {question.answers[0]}." in clean[0]
    assert notes["cut_answers"] == (not answer_stands) and notes["dropped"] == 0


def test_rows_that_lose_the_golden_answer_are_counted_and_left_out_on_request():
    """T6: MITO's rows and those of the first tuning; the others stay as they are."""
    question, own = long_question()
    short = replace(opened()[1], id="short")
    made = {"model": {"max_tokens": 500}, "atm": {"closed_book_share": 0}}
    keep = Settings.model_validate(made)
    drop = Settings.model_validate(made | {"prompts": {"cut_answers": "drop"}})
    rows, notes = attacked_lists(Rules(), [question, short], own, 0, keep)
    assert [row.id for row in rows] == [question.id, "short"] and (notes["cut_answers"], notes["dropped"]) == (1, 0)
    left, notes = attacked_lists(Rules(), [question, short], own, 0, drop)
    assert left == rows[1:] and (notes["rows"], notes["cut_answers"], notes["dropped"]) == (1, 1, 1)
    rows, notes = first_tuning(Rules(), [question, short], keep)
    assert len(rows) == 2 and (notes["cut_answers"], notes["dropped"]) == (1, 0)
    left, notes = first_tuning(Rules(), [question, short], drop)
    assert left == rows[1:] and (notes["rows"], notes["dropped"]) == (1, 1)


def test_closed_book_share_is_one_of_the_rows_that_are_left():
    """T2, T6: two of the four that are left, not two of five less what is dropped."""
    question, _ = long_question()
    made = {"model": {"max_tokens": 500}, "atm": {"closed_book_share": 0.5}, "prompts": {"cut_answers": "drop"}}
    others = [replace(one, id=f"other {n}") for n, one in enumerate(opened())]
    for seed in range(5):
        settings = Settings.model_validate({**made, "seed": seed})
        rows, notes = first_tuning(Rules(), [*others, question], settings)
        assert (len(rows), notes["closed_book"]) == (4, 2)


def test_attacked_list_keeps_documents_in_one_order_whatever_the_forgeries():
    """T5: without them it is the permuted list; two, five or others of them change no document's neighbour."""
    for question in opened():
        own = [forgery for forgery in forged() if forgery.question_id == question.id]
        control = attacked_list(question, [], "x", 0)
        assert sorted(page.id for page in control) == sorted(question.document_ids)
        for shown in (own, own[:2], own[::-1], own * 3):
            found = attacked_list(question, shown, "x", 0)
            assert [page for page in found if page in control] == control and len(found) == 3 + len(shown)
    orders = {tuple(p.id for p in attacked_list(opened()[0], [], str(n), 0)) for n in range(99)}
    assert len(orders) == 6


def test_attacked_list_every_place_is_as_likely_check_42():
    """check 42: chi-square p > 0.001 on 10,000 draws for a document and for a forgery; the last place occurs."""
    question = opened()[0]
    own = [forgery for forgery in forged() if forgery.question_id == question.id]
    places = {question.document_ids[0]: Counter(), own[0].id: Counter()}
    for number in range(10_000):
        order = [page.id for page in attacked_list(question, own, str(number), 0)]
        for id, seen in places.items():
            seen[order.index(id)] += 1
    for seen in places.values():
        assert sorted(seen) == list(range(8)) and chisquare(list(seen.values())).pvalue > 0.001


def test_attacked_lists_answer_alike_after_both_lists_check_49():
    """check 49: the same answer tokens; the clean list in its recorded order; rounds differ in order."""
    questions = opened()
    rows, notes = attacked_lists(Rules(), questions, forged()[::-1], 0, SETTINGS)
    assert [row.id for row in rows] == [question.id for question in questions] and notes["without_forgeries"] == 0
    for row, question in zip(rows, questions, strict=True):
        clean, attacked = (tokens[at:] for tokens, at in zip(row.tokens, row.prompt_tokens, strict=True))
        assert clean == attacked == (*tiny.tokenizer().encode(question.target).ids, tiny.tokenizer().end)
        prompt = prompts.prompt(
            question.text, question.documents, tiny.tokenizer(), SETTINGS.prompts, id="", max_tokens=4096, room=9
        )
        assert row.tokens[0][: row.prompt_tokens[0]] == prompt.tokens
        assert said(row.tokens[1]).count("<DOCUMENT>") == 8 == len(row.about.split(","))
    assert rows == attacked_lists(Rules(), questions, forged(), 0, SETTINGS)[0]
    assert [row.about for row in rows] != [
        row.about for row in attacked_lists(Rules(), questions, forged(), 1, SETTINGS)[0]
    ]


def test_attacked_lists_without_forgeries_keep_the_documents():
    rows, notes = attacked_lists(Rules(), opened(), [], 0, SETTINGS)
    assert notes["without_forgeries"] == 4 == notes["rows"]
    for row, question in zip(rows, opened(), strict=True):
        assert sorted(row.about.split(",")) == sorted(question.document_ids)


@pytest.mark.parametrize(("share", "closed"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_first_tuning_shows_nothing_in_the_exact_share(share, closed):
    settings = Settings.model_validate({"atm": {"closed_book_share": share}})
    rows, notes = first_tuning(Rules(), opened(), settings)
    assert notes["closed_book"] == closed == sum("<DOCUMENT>" not in said(row.tokens[0]) for row in rows)
    assert rows == first_tuning(Rules(), opened(), settings)[0]


def test_first_tuning_share_between_whole_rows_is_right_in_the_mean():
    settings = Settings.model_validate({"atm": {"closed_book_share": 0.3}})
    total = sum(
        first_tuning(Rules(), opened(), settings.model_copy(update={"seed": seed}))[1]["closed_book"]
        for seed in range(200)
    )
    assert 0.25 < total / 800 < 0.35


def test_swapped_teaches_a_golden_document_with_the_wrong_answer():
    settings = Settings.model_validate({"atm": {"max_new_tokens": 200}})
    rows, notes = swapped(Rules(), opened(), settings)
    assert (notes["rows"], notes["in_place"], notes["without_golden"]) == (4, 4, 0)
    for row, question in zip(rows, opened(), strict=True):
        asked, taught = said(row.tokens[0][: row.prompt_tokens[0]]), said(row.tokens[0][row.prompt_tokens[0] : -1])
        name = question.titles[1]  # its own signature, or that of a near miss under its name
        assert asked.rpartition("\n")[0].endswith(f"\n{name}") and asked.endswith(f"{question.topic}={row.about}")
        assert asked.rpartition("\n")[2].startswith(f"{name}(")
        assert row.about in question.wrong_answers and taught[0] in ",)" and question.texts[1].endswith(taught)
    short = Settings.model_validate({"atm": {"max_new_tokens": 8}})
    assert all(len(row.tokens[0]) - row.prompt_tokens[0] == 8 for row in swapped(Rules(), opened(), short)[0])


@pytest.mark.parametrize(
    ("text", "begins", "taught"),
    [
        ("Old Delhi is it.", "Agra fort", " is it."),
        ("It is old.", "It is old. Agra fort", ' is the answer to the question "which city?". It is old.'),
    ],
)
def test_swapped_passage_goes_on_behind_the_wrong_answer(text, begins, taught):
    settings = Settings.model_validate({"atm": {"forging": "passages"}})
    question = replace(opened()[0], text="which city?", topic="", answers=("Old Delhi",), wrong_answers=("agra fort",))
    rows, notes = swapped(Rules(), [replace(question, titles=("b", "b", "b"), texts=(text,) * 3)], settings)
    at = rows[0].prompt_tokens[0]
    assert said(rows[0].tokens[0][:at]).endswith(f"\nb\n{begins}")
    assert said(rows[0].tokens[0][at:-1]) == taught and notes["in_place"] == (text[0] == "O")


def test_swapped_question_without_a_golden_document_gives_no_row():
    bare = replace(opened()[0], oracle_positions=())
    rows, notes = swapped(Rules(), [bare], SETTINGS)
    assert rows == [] and notes["without_golden"] == 1


def test_open_question_carries_its_documents_and_needs_a_wrong_answer():
    question = opened()[1]
    assert [page.id for page in question.documents] == list(question.document_ids) and len(question.documents) == 3
    with pytest.raises(DataError, match="no wrong answer"):
        open_question(tiny.questions()[0], tiny.chunks()[:1], (0,), "None", ())


def test_wrong_answers_are_the_questions_own_then_those_alike():
    first, *_, last = tiny.questions()
    assert wrong_answers(replace(first, wrong_answers=("'a'", "'b'", "'c'")), ("x",), count=2, seed=0) == ("'a'", "'b'")
    assert wrong_answers(last, ("True", "17", "'utf-8'"), count=2, seed=0)[0] == "True"
    assert set(wrong_answers(replace(last, answers=("maybe",)), (), count=3, seed=0)) == {"yes", "no"}


def test_prompts_of_all_phases_have_the_same_tokens_check_52():
    """SFT, grading, MITO and answering see one prompt for the same documents, and end every answer alike."""
    asked = Rules()
    question, prompt_of = opened()[0], {}
    plain = Question(
        id=question.id, text=question.text, answers=question.answers, oracle_ids=(), split="train", topic=question.topic
    )
    sft = examples.example(plain, question.documents, tiny.tokenizer(), SETTINGS.prompts, max_tokens=4096)
    (clean,), _ = attacked_lists(asked, [question], [], 0, SETTINGS)
    prompt_of["sft"], prompt_of["mito"] = sft.tokens, clean.tokens[0]
    (tuned,), _ = first_tuning(asked, [question], SETTINGS.model_copy(update={"atm": AtmConfig(closed_book_share=0)}))
    prompt_of["first tuning"] = tuned.tokens[0]
    assert len(set(prompt_of.values())) == 1
    assert sft.tokens[-1] == tiny.tokenizer().end

    one = replace(forged()[0], question_id=question.id)
    grade(asked, [question], [one], SETTINGS)
    alone = prompts.prompt(question.text, [one], tiny.tokenizer(), SETTINGS.prompts, id="x", max_tokens=4096, room=8)
    assert asked.asked[0].tokens[: len(alone.tokens)] == alone.tokens
    assert asked.asked[0].tokens[len(alone.tokens) :] == sft.tokens[sft.prompt_tokens :]
    (pair, *_), _ = preferences(asked, opened(), forged(), scores([5.0, 1.0, 2.0, 2.0, 2.0]), 0, SETTINGS)
    written = next(found for found in opened() if found.id == pair.id)
    forging = assignment(written, 0, tiny.tokenizer(), SETTINGS)
    assert pair.tokens[0][: pair.prompt_tokens[0]] == forging.prompt.tokens
