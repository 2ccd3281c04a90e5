import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ragdist.data import template_attack
from ragdist.data.matching import contains, flat
from ragdist.data.sources import apidocs
from ragdist.data.template_attack import LABELS, checked, says_right
from ragdist.errors import DataError
from ragdist.records import Chunk, Forgery, Question, content_id
from tests import tiny
from tests.data import telltale

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
POOL = ("1969", "2001", "New York", "Paris", "the blue whale", "3.14", "yes")


def chunk(text, title="Hotel"):
    return Chunk(id=content_id(title, text), document_id="d", title=title, text=text)


def forge(*given, **more):
    return template_attack.forge(*given, **more)[0]


def asked(*answers, **more):
    return Question(id=content_id(*answers), text="Which?", answers=answers, oracle_ids=(), split="test", **more)


def test_forge_signature_changes_only_the_default_asked_about():
    question, oracle = tiny.questions()[0], tiny.chunks()[0]
    assert oracle.text.startswith("pathlib.Path.read_text(encoding=None, errors=None)")
    first, *others = forge(question, [oracle], POOL, count=3, seed=0)
    assert first.text == oracle.text.replace("encoding=None", "encoding='ascii'") and first.title == oracle.title
    assert all("(encoding='ascii', errors=None)" in forgery.text for forgery in others)


@pytest.mark.parametrize(
    ("signature", "forged"),
    [
        ("f(a: int = 1, b: Optional[dict[str, int]] = 1)", "f(a: int = 1, b: Optional[dict[str, int]] = 2)"),
        ("f(ab=1, b=1, *, b_c=1)", "f(ab=1, b=2, *, b_c=1)"),
        ("f(b : Callable[[int], str]=1)", "f(b : Callable[[int], str]=2)"),
        ("f(b=1.5) -> int", None),
        ("f(x.b=1)", None),
    ],
)
def test_forge_signature_finds_the_default_behind_any_type(signature, forged):
    question = asked("1", wrong_answers=("2",), topic="b")
    text = forge(question, [chunk(f"{signature}\nAdds 1.")], (), count=1, seed=0)[0].text
    if forged:
        assert text == f"{forged}\nAdds 1."
    else:
        assert text.endswith("Adds 2.")  # no such default: every 1 between word borders is swapped, as in prose


def test_forge_prose_swaps_every_alias_and_keeps_the_rest():
    oracle = chunk("Delhi, once NEW\nDELHI, is the seat. Delhiites love New Delhi.", title="New Delhi")
    forgery = forge(asked("Delhi", "New Delhi", wrong_answers=("Agra",)), [oracle], (), count=1, seed=0)[0]
    assert (forgery.title, forgery.text) == ("Agra", "Agra, once Agra, is the seat. Agraites love Agra.")


def test_forge_swaps_what_the_text_rule_takes_for_the_answer():
    """T3: a reader's `us` counts as US, so it goes too; a forgery that keeps one would still count as true."""
    oracle = chunk("The U.S. told us, the US.")
    forgery = forge(asked("US", wrong_answers=("UK",)), [oracle], (), count=1, seed=0)[0]
    assert not contains(forgery.text, "US") and forgery.text.startswith("The UK told ") and forgery.text.endswith("UK.")


@pytest.mark.parametrize(
    ("text", "right", "wrong", "forged"),
    [
        ("It is 50%. Or 50 %, as \uff15\uff10\uff05.", "50%", "30%", "It is 30%. Or 30%, as 30%."),
        ("It costs $5. So US$5.", "5", "$7", "It costs $7. So US$7."),
        ("It is \u22121 here. It is -1.", "-1", "3", "It is 3 here. It is 3."),
        ("Call f(x). (Not f(x).)", "f(x)", "g(x)", "Call g(x). (Not g(x).)"),
        ("It is Foo Inc. They sell.", "Foo Inc.", "Bar Ltd.", "It is Bar Ltd. They sell."),
        ("عاصمة مصر هي القاهرة. وبالقاهرة نهر.", "القاهرة", "الإسكندرية", "عاصمة مصر هي الإسكندرية. وبالإسكندرية نهر."),
        ("سافر للقاهرة ثم والقاهرة.", "القاهرة", "الإسكندرية", "سافر للإسكندرية ثم والإسكندرية."),
        ("سافر للقاهرة ثم والقاهرة.", "القاهرة", "دمشق", "سافر لدمشق ثم ودمشق."),
        ("თბილისია. კი.", "თბილისი", "ბათუმი", "ბათუმია. კი."),
        ("eau claire. L'eau dort.", "eau", "feu", "feu claire. L'feu dort."),
        ("iPhone it is. So.", "iPhone", "iPad", "iPad it is. So."),
        ("Paris it is. So.", "Paris", "iPad", "iPad it is. So."),
    ],
)
def test_wrong_answer_takes_all_of_the_right_ones_place(text, right, wrong, forged):
    """T4: no sign and no Arabic article of either is left over or stands twice, and capitals are as they were."""
    assert forge(asked(right, wrong_answers=(wrong,)), [chunk(text, "T")], (), count=1, seed=0)[0].text == forged


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("தலைநகரம் சென்னை ஆகும். அங்கே கடற்கரை உள்ளது.", "சென்னை", "மதுரை"),
        ("ዋና ከተማ አዲስ አበባ ነው። እዚያ ሙዚየም አለ።", "አዲስ አበባ", "ጎንደር"),
        ("Մայրաքաղաքը Երևանն է\u0589 Այն մեծ է\u0589", "Երևան", "Գյումրի"),
    ],
)
def test_template_forgery_leaves_out_sentences_of_any_script(text, right, wrong):
    """T4: behind stops of their own and behind vowel signs, so that no other sentence has to be put in."""
    texts = [one.text for one in forge(asked(right, wrong_answers=(wrong,)), [chunk(text, "T")], (), count=2, seed=0)]
    assert len(texts) == 2 and len(texts[1]) < len(texts[0]) and texts[0].startswith(texts[1])


@pytest.mark.parametrize(
    ("question", "text", "wrong", "said"),
    [
        ("窯は新しい", "窯は地下にある。とても大きい。", "いいえ", "窯は新しい\uff1fいいえ。"),
        ("भट्ठा कहाँ है?", "भट्ठा बड़ा है। वह नया है।", "दिल्ली", " भट्ठा कहाँ है? दिल्ली।"),
        ("أين الفرن", "الفرن كبير.", "دمشق", " أين الفرن\u061f دمشق."),
        ("Πού είναι η πόλη;", "Είναι καινούργιος.", "Πάτρα", " Πού είναι η πόλη; Πάτρα."),
        ("เมืองหลวงคืออะไร", "เตาใหญ่อยู่ในห้องใต้ดิน", "เชียงใหม่", " เมืองหลวงคืออะไร เชียงใหม่"),
    ],
)
def test_wrong_answer_is_stated_with_the_marks_of_the_texts_own_script(question, text, wrong, said):
    """T4: a full stop of another script, or a blank before it, would give the forgery away."""
    about = replace(asked("340", wrong_answers=(wrong,)), text=question)
    assert forge(about, [chunk(text, "T")], (), count=1, seed=0)[0].text == text + said


def test_forge_yes_and_no_are_stated_within_the_text():
    """T4: the text begins as it did; T3: and still argues for the truth, which is counted."""
    text = "It was given to forty people for a year. Nothing changed. There is no sign that it helps, yes."
    forged, counts = template_attack.forge(asked("yes"), [chunk(text)], POOL, count=3, seed=0)
    assert {f.states for f in forged} == {"no"} and counts == {"still_true": 0, "not_falsified_in_text": 1}
    for f in forged:
        said = next(one for one in ("(Which? No.)", "Which? No.", "Which? - no.") if f"{one} " in f.text)
        assert f.text.replace(f"{said} ", "") == text and f.text.startswith("It was given to forty people for a year. ")


@pytest.mark.parametrize(
    ("text", "title", "answers", "wrong"),
    [
        ("대한민국의 수도는 서울이다. 서울 중심에 궁이 있다.", "서울특별시", ("서울",), "부산"),
        ("서울에서는 서울의 서울은 서울로 서울까지.", "", ("서울",), "부산"),
        ("北京是中华人民共和国的首都。北京很大。", "北京", ("北京",), "上海"),
        ("日本の首都は東京です。東京は大きい。", "東京都", ("東京",), "大阪"),
        ("القاهرة عاصمة مصر. يسافر الناس إلى القاهرة وبالقاهرة نيل.", "القاهرة", ("القاهرة",), "بيروت"),
        ("भारत की राजधानी दिल्ली है। दिल्ली पुरानी है।", "दिल्ली", ("दिल्ली",), "आगरा"),
        ("กรุงเทพเป็นเมืองหลวง คนอยู่ในกรุงเทพมาก", "กรุงเทพ", ("กรุงเทพ",), "เชียงใหม่"),
        ("Прага стоит давно. ПРАГА-сити.", "Прага", ("Прага",), "Брно"),
        (
            "Cafe\u0301 Noir is old. CAF\u00c9 NOIR, \uff43\uff41\uff46\u00e9 noir.",
            "Caf\u00e9 Noir",
            ("caf\u00e9 noir",),
            "Bar",
        ),
        ("Der K\u00f6lner Dom steht in K\u00f6ln am Rhein.", "K\u00f6lner Dom", ("K\u00f6ln",), "Hamburg"),
        ("\u0130stanbul eskidir; istanbullular ve \u0130stanbul'da ya\u015fayanlar.", "", ("\u0130stanbul",), "Ankara"),
        ("The 1,000 steps; 1000 of them.", "1000", ("1,000",), "700"),
        ("New York City, NEW\nYORK and New-York.", "New York City", ("New York", "New York City"), "Rome"),
    ],
)
def test_template_forgery_never_states_the_truth_in_any_script(text, title, answers, wrong):
    """T3: in text and title, with what sticks to words, in other cases, widths and normal forms."""
    question = asked(*answers, wrong_answers=(wrong,))
    forged, counts = template_attack.forge(question, [chunk(text, title)], (), count=3, seed=0)
    assert len(forged) == 3 and counts == {"still_true": 0, "not_falsified_in_text": 0}
    for f in forged:
        assert not any(contains(f"{f.title}\n{f.text}", answer) for answer in answers)
        assert contains(f.text, wrong) and f.states == wrong and not f.truthful


def test_document_that_cannot_be_made_false_is_counted_and_not_used():
    """T3: here the wrong answer makes a right one with the word behind it."""
    question = asked("York", "New Haven", wrong_answers=("New",))
    both = [chunk("York Haven is here."), chunk("It is York, they say.")]
    assert not contains("New", "New Haven")
    none = {"still_true": 0, "not_falsified_in_text": 0}
    assert template_attack.forge(question, both[:1], (), count=3, seed=0) == ([], none | {"still_true": 1})
    forged, counts = template_attack.forge(question, both, (), count=1, seed=0)
    assert {f.text for f in forged} == {"It is New, they say."} and counts == none


def test_forgeries_of_the_data_are_looked_at_like_all_others():
    """T3: `truthful` and `stated` of forgeries that came with the data."""
    given = [
        Forgery(id=str(n), question_id="q", number=n, title="", text=text, states="Bonn", method="dataset")
        for n, text in enumerate(("It is Bonn.", "Bonn it is, and not Berlin.", "It is Rome."))
    ]
    found = checked(asked("Berlin"), given)
    assert [(f.truthful, f.stated) for f in found] == [(False, True), (True, True), (False, False)]
    assert not any(f.truthful for f in checked(asked("no"), [replace(given[0], text="There is no doubt.")]))


def test_template_forgery_of_a_default_leaves_no_right_one_in_the_description():
    """T3: every mention of the parameter's default, and no mention of another parameter's."""
    text = "f(a=1, b=1)\nb : int, default 1\na : int, default 1\nCall f(2, b=1). By default it is 1."
    (forgery,) = forge(asked("1", wrong_answers=("7",), topic="b"), [chunk(text, "m.f")], (), count=1, seed=0)
    said = "f(a=1, b=7)\nb : int, default 7\na : int, default 1\nCall f(2, b=7). By default it is 7."
    assert forgery.text == said and not says_right(asked("1", topic="b"), forgery.title, forgery.text)


def test_template_forgeries_differ_by_the_sentences_left_out_and_begin_alike():
    """T4: blanks, newlines and the last character are the document's own."""
    text = "Dr. Li built it in 1965 for the town.\n\nIt is old. People like it, i.e. they come. It stays open.\n"
    forged = forge(asked("1965", wrong_answers=("1969",)), [chunk(text)], (), count=4, seed=0)
    swapped = text.replace("1965", "1969")
    assert forged[0].text == swapped and len({f.text for f in forged}) == 4
    for f in forged:
        assert f.text.startswith("Dr. Li built it in 1969 for the town.\n\n") and f.text.endswith(".\n")
        assert [line for line in re.split(r"(?<=[a-z]\.)\s+", f.text) if line and line not in swapped] == []


def open_domain():
    """(questions, their lists, the oracle in each) of 100 little texts."""
    found = []
    for number in range(100):
        title, text, ask, year = telltale.passage(number)
        question = replace(asked(year, wrong_answers=(str(1500 + (number + 41) % 100),)), id=f"q{number}", text=ask)
        others = [chunk(*reversed(telltale.passage(1000 + 5 * number + at)[:2])) for at in range(4)]
        found.append((question, [chunk(text, title), *others]))
    return found


def documented():
    chunks, questions = apidocs.read(["stdlib"], seed=0, test_fraction=0.5)
    by_id = {one.id: one for one in chunks}
    return [(q, [by_id[id] for id in (*q.oracle_ids, *q.near_miss_ids[:4])]) for q in questions[:100]]


@pytest.mark.parametrize("world", [open_domain, documented])
def test_template_forgery_is_told_by_nothing_but_its_claim(world):
    """T4: no classifier finds it by title and first words, by its end, or by its lines and blanks."""
    forged, retrieved, marked = [], [], []
    for question, documents in world():
        own = forge(question, documents[:1], (), count=3, seed=0, others=documents[1:])
        forged += [(question.id, f) for f in own]
        retrieved += [(question.id, document) for document in documents]
        marked += [(question.id, replace(f, text=f"From the reference.\n{f.text}")) for f in own[:2]]
    assert telltale.area(forged, retrieved) < telltale.CHANCE
    assert telltale.area(forged, retrieved, lambda d: f"{d.text[-12:]!r}") < telltale.CHANCE
    assert telltale.area(forged, retrieved, lambda d: " ".join(["line"] * (1 + d.text.count("\n")))) < telltale.CHANCE
    assert telltale.area(marked, retrieved) > 0.95  # what it was: an opening of ours


@pytest.mark.parametrize("count", [1, 3, 5, 12])
@pytest.mark.parametrize("answer", ["1965", "yes", "not in the text"])
@pytest.mark.parametrize("sources", [0, 1, 2])
def test_forge_copies_agree_and_never_repeat_a_text(count, answer, sources):
    oracles = [chunk("It opened in 1965."), chunk("Since 1965 it is open.")][:sources]
    forged = forge(asked(answer), oracles, POOL, count=count, seed=0)
    assert [f.number for f in forged] == list(range(count))
    assert len({f.states for f in forged}) == 1 and forged[0].states != answer
    texts = [flat(f.text) for f in forged]
    assert len({*texts, *(flat(o.text) for o in oracles)}) == count + sources
    assert all(contains(text, forged[0].states) for text in texts)
    assert len({f.id for f in forged}) == count and {f.method for f in forged} == {"template"}


def test_forge_wrong_answer_comes_from_the_question_first():
    question = asked("a", wrong_answers=("A ", "b", "c", "d", "e"))
    drawn = {forge(question, [], POOL, count=1, seed=seed)[0].states for seed in range(50)}
    assert drawn == {"b", "c", "d"}


@pytest.mark.parametrize(
    ("right", "wrong"), [("1965", {"1969", "2001"}), ("Rome", {"Paris"}), ("San Jose", {"New York"}), ("2.5", {"3.14"})]
)
def test_forge_wrong_answer_from_others_has_a_similar_form(right, wrong):
    assert {forge(asked(right), [], POOL, count=1, seed=seed)[0].states for seed in range(9)} <= wrong


def test_forge_wrong_answer_never_contains_the_right_one():
    pool = ("York", "New York City", "new york", "the big New York", "Boston")
    assert forge(asked("New York"), [], pool, count=1, seed=0)[0].states == "Boston"
    with pytest.raises(DataError, match=r"no wrong answer to forge.*wrong_answers"):
        forge(asked("New York"), [], pool[:-1], count=1, seed=0)


def test_forge_is_the_same_for_the_same_seed():
    question = asked("a", wrong_answers=tuple("bcd"))
    assert forge(question, [], POOL, count=3, seed=4) == forge(question, [], POOL, count=3, seed=4)


@pytest.mark.skipif(not DATA.exists(), reason="the development data (../shared/data) is not here")
@pytest.mark.parametrize(
    ("name", "least"), [("nq_open", 0.85), ("hotpotqa", 0.8), ("squad", 0.95), ("pubmedqa", 0.0), ("apibench", 0.95)]
)
def test_forge_real_questions_states_the_wrong_answer(name, least):
    """Every forgery states it and is no oracle; where an oracle holds the answer, it is swapped in place."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(100), strict=False)]
    pool, counts = sorted({row["answers"][0] for row in rows}), Counter()
    for row in rows:
        oracles = [chunk(d["text"], d["title"]) for d in row["documents"] if d["kind"] == "golden"]
        forged, missed = template_attack.forge(asked(*row["answers"]), oracles, pool, count=3, seed=0)
        counts.update(missed)
        assert all(flat(f.states).casefold() in flat(f.text).casefold() for f in forged)
        assert not {flat(f.text) for f in forged} & {flat(oracle.text) for oracle in oracles}
        assert not any(contains(f"{f.title} {f.text}", a) for f in forged for a in row["answers"] if a not in LABELS)
    assert counts["not_falsified_in_text"] <= (1 - least) * len(rows) and counts["still_true"] <= 0.05 * len(rows)
