import numpy as np
import pytest

from ragdist.config.loader import resolve
from ragdist.evaluation import kept_answers
from ragdist.evaluation.sheet import Sheet, markdown
from ragdist.sweeps import arms, trials
from ragdist.sweeps.arms import ArmAnswer
from ragdist.sweeps.trials import Trial
from tests.evaluation.test_kept_answers import answer

SETTINGS = resolve({"evaluation": {"resamples": 2000}})


def row(arm, question, em, seed=0, condition="clean"):
    return ArmAnswer(arm, seed, condition, question, em, em, 0.0, "")


def test_arms_are_paired_by_question_whatever_the_order_and_what_only_one_was_asked():
    """By hand: over q0..q9 the second arm is right where the first is wrong in 4, and never the other way round."""
    base = [row("paper", f"q{n}", float(n < 3)) for n in range(10)]
    own = [row("mix", f"q{n}", float(n < 7)) for n in reversed(range(10))] + [row("mix", "alone", 1.0)]
    found = {
        (c.arm, c.measure): c for c in arms.compare([*own, *base], ["paper", "mix"], SETTINGS.evaluation, SETTINGS.seed)
    }
    change = found["mix", "em"].from_first
    assert change.mean == pytest.approx(0.4) and 0 <= change.low < 0.4 < change.high
    assert found["paper", "em"].from_first is None and found["mix", "em"].score.mean == pytest.approx(8 / 11)


def test_a_question_asked_with_several_seeds_counts_once():
    rows = [
        row(arm, f"q{n}", float(right), seed)
        for arm, right in (("a", 0), ("b", 1))
        for n in range(5)
        for seed in (0, 1)
    ]
    rows.append(row("b", "q0", 0.0, seed=2))  # the first arm has no such seed: no pair
    found = {(c.arm, c.measure): c for c in arms.compare(rows, ["a", "b"], SETTINGS.evaluation, SETTINGS.seed)}
    assert found["b", "em"].rows == 5 and found["b", "em"].from_first.mean == 1.0
    assert found["b", "em"].score.mean == pytest.approx((2 / 3 + 4) / 5)


def test_rows_are_those_of_the_first_and_the_newest_model_under_every_list(tmp_path):
    settings = resolve({"sweep": {"arms": {"paper": {}, "clean": {"atm.clean_weight": 1}}}})
    named, points = trials.arms(settings), trials.points(settings)
    assert named == {"paper": {"atm.clean_weight": 0.0}, "clean": {"atm.clean_weight": 1.0}}
    ended = [Trial(name=trials.name_of(point), values=point, state="finished") for point in points]
    for trial, score in zip(ended, (0.0, 1.0), strict=True):
        folder = tmp_path / trials.TRIALS / trial.name
        folder.mkdir(parents=True)
        kept_answers.write(
            [
                answer(model=model, condition=condition, question_id=f"q{n}", exact_match=em, states_forgery=None)
                for model, condition, em in (
                    ("before", "clean", 0.5),
                    ("after round 1", "clean", 0.5),
                    ("after round 2", "clean", score),
                    ("after round 2", "attacker 2", score),
                )
                for n in range(3)
            ],
            folder,
        )
    gone = Trial(name="older", values=points[0], state="finished")  # of a version that kept no lists
    found = arms.rows_of(tmp_path, [*ended, gone], named, 7)
    assert found.schema == kept_answers.SCHEMA and set(found["seed"].to_pylist()) == {7}
    rows = arms.measured(found)
    assert {(r.arm, r.condition, r.em) for r in rows} == {
        ("before", "clean", 0.5),
        *(("paper", condition, 0.0) for condition in ("clean", "attacker 2")),
        *(("clean", condition, 1.0) for condition in ("clean", "attacker 2")),
    }
    assert len(rows) == 15 and np.mean([row.em for row in rows]) == 0.5
    table = markdown(Sheet(arms.blocks(arms.compare(rows, list(named), SETTINGS.evaluation, SETTINGS.seed), named), {}))
    assert "`atm.clean_weight=1.0`" in table and "| clean | **1.00**" in table
    assert "+0.50 [+0.50, +0.50]; paper +1.00 [+1.00, +1.00]" in table
