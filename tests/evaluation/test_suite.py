"""Which lists the suite shows, and that each prompt is asked once."""

from collections import Counter
from dataclasses import replace

import pytest

from ragdist.config import GridConfig, Settings
from ragdist.config.loader import load, resolve
from ragdist.data.attacks import Attack, registry
from ragdist.errors import ConfigError
from ragdist.evaluation import suite
from ragdist.evaluation.ask import ask_cases
from ragdist.evaluation.cases import by_question
from ragdist.evaluation.suite import Cell, Plan, lists
from ragdist.records import Candidates
from ragdist.tracking.run import run_folder
from tests import tiny
from tests.evaluation import world

FORGED = by_question(
    [replace(one, number=n, id=f"{one.id}+{n}") for one in world.FORGERIES if not one.number for n in range(4)]
)
QUESTIONS = world.QUESTIONS[:6]


def plan(places=(), grid=None, documents=4):
    attacks = [
        Attack(name=f"at-{place}", source="", purpose="judging", write=lambda *_: (), about="", place=place)
        for place in places
    ]
    cells = lists(GridConfig(**grid), documents) if grid is not None else ()
    return Plan(tuple(attacks), registry.named("template") if cells else None, cells)


def made(planned, questions=QUESTIONS, forged=FORGED, **settings):
    forgeries = {attack.name: forged for attack in planned.attacks} | {suite.GRID: forged}
    candidates = {i: replace(found, chunk_ids=found.chunk_ids[:4]) for i, found in world.CANDIDATES.items()}
    given = (questions, world.CHUNKS, candidates, forgeries, tiny.tokenizer(), world.settings(**settings))
    return list(suite.make(planned, *given))


def kinds(case):
    """A letter for each document: forged, oracle or distractor."""
    letter = dict.fromkeys(case.forged_ids, "f") | dict.fromkeys(case.oracle_ids, "o")
    return "".join(letter.get(one.id, "d") for one in case.documents)


def test_an_attacks_list_is_the_permuted_one_with_forgeries_where_they_belong():
    control = {case.question_id: case for case in world.cases(world.settings()) if case.condition == "permuted"}
    shapes = {"at-first": "fff....", "at-last": "....fff", "at-edges": "ff....f"}
    for case in made(plan(("drawn", "first", "last", "edges"))):
        honest = [one for one in case.documents if one.id not in case.forged_ids]
        assert honest == [*control[case.question_id].documents] and len(case.forged_ids) == 3
        assert case.wrong == (str(-int(case.question_id[1:]) - 1),)
        if case.condition in shapes:
            assert kinds(case).replace("o", ".").replace("d", ".") == shapes[case.condition]
    drawn = made(plan(("drawn",)), forged=by_question(world.FORGERIES))
    attacked = [case for case in world.cases(world.settings()) if case.condition == "attacked"]
    assert [case.documents for case in drawn] == [case.documents for case in attacked[: len(drawn)]]


def test_questions_without_forgeries_or_oracle_are_left_out():
    unknown = world.question(7, oracle=False)
    forged = {key: rows for key, rows in FORGED.items() if key != "q001"}
    cases = made(plan(("drawn",), grid={}), [*QUESTIONS, unknown], forged)
    assert {case.question_id for case in cases} == {question.id for question in QUESTIONS} - {"q001"}


def test_grid_by_hand():
    """Five documents: sizes 1, 2, 3, 5; shares that no list of that size comes near are left out."""
    found = lists(GridConfig(), 5)
    flat = {(cell.documents, cell.forged) for cell in found if cell.oracle and cell.place == "drawn"}
    assert flat == {(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), *((5, n) for n in range(5))}
    assert {(cell.forged, cell.place) for cell in found if cell.documents == 5 and cell.place != "drawn"} == {
        (n, place) for n in range(1, 5) for place in ("first", "last")
    }
    assert sorted(cell.forged for cell in found if not cell.oracle) == [0, 1, 2, 3, 4]
    assert len(found) == len(set(found)) == len({cell.name for cell in found}) == 24
    assert Cell(5, 2, "first", True).name == "5 documents, 2 forged (first)"
    assert Cell(5, 2, "drawn", False).control == Cell(5, 0, "drawn", False)


@pytest.mark.parametrize(
    ("grid", "documents", "cells"),
    [
        (
            {"documents": [3], "forged": [0.3], "positions": ["last"], "absent": False},
            3,
            {"3 documents, 0 forged", "3 documents, 1 forged (last)", "3 documents, 1 forged"},
        ),
        ({"forged": [1.0]}, 2, {"2 documents, 0 forged, oracle absent", "2 documents, 2 forged, oracle absent"}),
        ({"forged": [0], "absent": False}, 1, {"1 documents, 0 forged"}),
        ({"documents": [1], "forged": [0.9], "absent": False}, 2, set()),
    ],
)
def test_every_list_brings_its_control(grid, documents, cells):
    assert {cell.name for cell in lists(GridConfig(**grid), documents)} == cells


def test_forged_documents_take_the_places_of_distractors():
    cells = {cell.name: cell for cell in plan(grid={}).cells}
    for case in made(plan(grid={})):
        cell, said = cells[case.condition], kinds(case)
        assert (len(said), said.count("f"), said.count("o")) == (cell.documents, cell.forged, int(cell.oracle))
        if cell.forged and cell.place != "drawn":
            assert said.startswith("f" * cell.forged) if cell.place == "first" else said.endswith("f" * cell.forged)


def again(case):
    """The same list under another name."""
    id = f"again {case.condition}/{case.question_id}"
    return replace(case, id=id, condition=f"again {case.condition}", prompt=replace(case.prompt, id=id))


def test_each_distinct_prompt_of_the_grid_is_asked_once_and_resumes(tmp_path):
    settings = world.settings()
    cases = made(plan(("drawn", "first"), grid={}))
    twice = [*cases, *map(again, cases)]
    distinct = len({case.prompt.tokens for case in cases})
    broken = world.RuleWriter(world.majority, fail_after=4)
    with pytest.raises(ConnectionError):
        ask_cases("rule", "nowhere", broken, twice, QUESTIONS, tmp_path, settings)
    writer = world.RuleWriter(world.majority)
    found = ask_cases("rule", "nowhere", writer, twice, QUESTIONS, tmp_path, settings)
    assert len(found) == len(twice) and len(broken.asked) + len(writer.asked) == distinct < len(cases) + 1
    assert Counter(writer.asked + broken.asked).most_common(1)[0][1] == 1


def test_a_question_is_shown_the_same_whatever_others_are_asked():
    few, many = (made(plan(("drawn", "edges"), grid={}), asked) for asked in (QUESTIONS[2:3], QUESTIONS[::-1]))
    shown = {case.id: case for case in many}
    assert few and all(shown[case.id] == case for case in few)


def test_fewer_distractors_than_a_list_needs_leave_the_question_out():
    short = {i: Candidates(question_id=i, chunk_ids=found.chunk_ids[:1]) for i, found in world.CANDIDATES.items()}
    given = (QUESTIONS, world.CHUNKS, short, {suite.GRID: FORGED}, tiny.tokenizer(), world.settings())
    names = {case.condition for case in suite.make(plan(grid={}), *given)}
    assert "4 documents, 0 forged" not in names and {"1 documents, 0 forged", "2 documents, 0 forged"} <= names


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["evaluation.grid.documents=[0]"], "evaluation.grid.documents"),
        (["evaluation.grid.forged=[1.5]"], "evaluation.grid.forged"),
        (["evaluation.grid.forged=[]"], "evaluation.grid.forged"),
        (["evaluation.grid.forged=[.nan]"], "evaluation.grid.forged"),
        (["evaluation.grid.positions=[middle]"], "evaluation.grid.positions"),
        (["evaluation.attacks=[flood]", "evaluation.conditions=[oracle]"], "has no permuted; add it there"),
    ],
)
def test_settings_that_make_no_grid_are_refused(values, why):
    with pytest.raises(ConfigError, match=why) as told:
        load(values)
    assert told.value.exit_code == 2


def test_plan_refuses_lists_that_are_too_long_and_attacks_that_are_not_there():
    for values, why in (
        ({"grid": {"attack": "template", "documents": [9]}}, "evaluation.grid.documents=9 needs as many distractors"),
        ({"grid": {"attack": "nobody"}}, "no attack 'nobody'"),
        ({"attacks": ["held out"]}, "no attack 'held out'"),
    ):
        with pytest.raises(ConfigError, match=why):
            suite.plan_of(resolve({"evaluation": values}))
    assert not suite.plan_of(Settings())
    planned = suite.plan_of(resolve({"evaluation": {"attacks": ["held-out", "flood"]}}))
    assert [attack.purpose for attack in planned.attacks] == ["judging"] * len(planned.attacks)


def test_suite_names_no_run_that_does_not_ask_it():
    plain = Settings().unchecked("evaluation.grid", GridConfig()).unchecked("evaluation.attacks", ())
    names = {run_folder(one, "evaluate").name for one in (Settings(), plain)}
    for values in ({"attacks": ["flood"]}, {"attacks": ["flood", "ocr"]}, {"grid": {"attack": "template"}}):
        names.add(run_folder(resolve({"evaluation": values}), "evaluate").name)
    assert len(names) == 4
