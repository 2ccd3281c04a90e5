"""Attacks as stages of the data pipeline: found again, named by what made them, with what was left out on the card."""

import json
from dataclasses import replace

import pytest

from ragdist.config.loader import resolve
from ragdist.data.attacks import Attack, Lie, registry
from ragdist.data.pipeline import Pipeline
from ragdist.local import SerialMapper
from ragdist.parts import Parts
from ragdist.storage.stages import Store
from tests import tiny
from tests.scripted_teacher import ScriptedTeacher

ROWS = [
    {"question": f"How hot is kiln {n}?", "answers": [str(900 + n)], "wrong_answers": [str(700 + n)]}
    | {"split": "test" if n < 6 else "train"}
    | {"documents": [{"title": f"kiln {n}", "text": f"Kiln {n} is at {900 + n} degrees.", "kind": "golden"}]}
    for n in range(8)
]


@pytest.fixture
def pipeline(tmp_path):
    def made(rows=ROWS, parts=None, whom=None, **more):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = resolve({"corpus": {"source": "records", "questions": [str(path)]}, **more})
        own = parts or Parts()
        store = Store(tmp_path / "data")
        return Pipeline(own.noted(settings), store, tiny.tokenizer(), SerialMapper(), teacher=whom, parts=own)

    return made


def asked(made):
    return [question for question in made.questions if question.split == "test"]


def kinds(one):
    return {(row.question_id, row.number, row.title, row.text) for row in one}


def test_a_stage_is_found_again_and_changes_with_attack_version_and_count(pipeline):
    made = pipeline()
    tests, flood = asked(made), registry.named("flood")
    first = made.attacked(flood, tests, 2)
    assert len(first) == 12 and {row.method for row in first} == {"flood"}
    assert made.attacked(flood, tests, 2).folder == first.folder
    others = [(flood, 3), (replace(flood, version="2"), 2), (registry.named("ocr"), 2)]
    assert len({made.attacked(attack, tests, count).folder for attack, count in others} | {first.folder}) == 4


@pytest.mark.parametrize("name", [*registry.OWN])
def test_documents_of_a_question_are_the_same_whatever_stands_beside_it_in_the_file(pipeline, name):
    turned = [pipeline(rows) for rows in (ROWS, ROWS[::-1])]
    one, other = (made.attacked(registry.named(name), asked(made), 3) for made in turned)
    assert kinds(one) == kinds(other) and one.folder != other.folder and one.card["counts"] == other.card["counts"]


def test_card_has_what_was_left_out_and_why(pipeline):
    def half(target, rng):
        number = int(target.question.text.split()[-1].rstrip("?"))
        if number == 0:
            raise KeyError("zero")
        if number > 1:
            yield Lie("", f"It is {target.question.answers[0]}." if number == 2 else f"It is {target.wrong}.")

    made = pipeline()
    attack = Attack(name="half", source="", purpose="judging", write=half, about="")
    rows = made.attacked(attack, asked(made), 3)
    counts = rows.card["counts"]
    assert len(rows) == 3 and not any(row.truthful for row in rows)
    assert {name: counts[name] for name in ("raised", "wrote_nothing", "stated_truth")} == dict.fromkeys(
        ("raised", "wrote_nothing", "stated_truth"), 1
    )
    assert sorted(said.partition(": ")[2] for said in counts["left_out_named"]) == [
        "raised (KeyError: 'zero')",
        "stated the truth",
        "wrote nothing",
    ]


def test_an_attack_in_python_passes_the_same_gate(pipeline):
    """Its truthful text was shown, with a mark; now its question is left out."""

    def rumour(question, documents):
        return [f"It is {question.answers[0] if question.answers[0] == '903' else 12}."]

    made = pipeline(parts=Parts(attack=rumour))
    assert len(made.forgeries) == 5 and {row.method for row in made.forgeries} == {"own"}
    assert made.forgeries.card["counts"]["stated_truth"] == 1


def test_a_teacher_that_is_set_is_asked_once_and_names_the_stage(pipeline):
    poison = registry.named("poisoned-rag")
    teacher = ScriptedTeacher(lambda request: request.text.partition("my answer: ")[2].partition(".")[0] + " it is.")
    taught = pipeline(whom=teacher, teacher={"model": "m"})
    tests = asked(taught)
    rows = taught.attacked(poison, tests, 2)
    assert {row.text for row in rows} == {f"How hot is kiln {n}? {700 + n} it is." for n in range(6)}
    assert taught.attacked(poison, tests, 2).folder == rows.folder and len(teacher.calls) == 12
    unset = pipeline(whom=teacher)
    assert unset.attacked(poison, asked(unset), 2).folder != rows.folder and len(teacher.calls) == 12
