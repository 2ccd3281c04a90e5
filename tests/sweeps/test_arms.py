import numpy as np
import pyarrow.parquet as pq
import pytest

from ragdist.config.loader import resolve
from ragdist.evaluation.sheet import Sheet, markdown
from ragdist.records import Answered
from ragdist.storage import tables
from ragdist.sweeps import arms, trials
from ragdist.sweeps.arms import ArmAnswer
from ragdist.sweeps.trials import Trial

SETTINGS = resolve({"evaluation": {"resamples": 2000}})


def row(arm, question, em, seed=0, condition="clean"):
    return ArmAnswer(arm, seed, condition, question, em, em, 0.0, "")


def test_arms_are_paired_by_question_whatever_the_order_and_what_only_one_was_asked():
    """By hand: over q0..q9 the second arm is right where the first is wrong in 4, and never the other way round."""
    base = [row("paper", f"q{n}", float(n < 3)) for n in range(10)]
    own = [row("mix", f"q{n}", float(n < 7)) for n in reversed(range(10))] + [row("mix", "alone", 1.0)]
    found = {(c.arm, c.measure): c for c in arms.compare([*own, *base], ["paper", "mix"], SETTINGS)}
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
    found = {(c.arm, c.measure): c for c in arms.compare(rows, ["a", "b"], SETTINGS)}
    assert found["b", "em"].rows == 5 and found["b", "em"].from_first.mean == 1.0
    assert found["b", "em"].score.mean == pytest.approx((2 / 3 + 4) / 5)


def answered(question, generator, em, condition="clean", attacker=-1):
    return Answered(
        question_id=question, condition=condition, generator=generator, attacker=attacker, text="x", answer="x", em=em,
        f1=em, subspan=em, states_forgery=not em, ended=True, cut_tokens=0,
    )  # fmt: skip


def test_rows_are_those_of_the_newest_generator_under_every_list(tmp_path):
    settings = resolve({"sweep": {"arms": {"paper": {}, "clean": {"atm.clean_weight": 1}}}})
    named, points = trials.arms(settings), trials.points(settings)
    assert named == {"paper": {"atm.clean_weight": 0.0}, "clean": {"atm.clean_weight": 1.0}}
    ended = [Trial(name=trials.name_of(point), values=point, state="finished") for point in points]
    for trial, em in zip(ended, (0.0, 1.0), strict=True):
        test = tmp_path / trials.TRIALS / trial.name / "atm" / "test"
        for name, kind in (
            ("clean-g0", ("clean", 0, -1)),
            ("clean-g1", ("clean", 1, -1)),
            ("attacked-a1-g1", ("attacker", 1, 1)),
        ):
            (test / name).mkdir(parents=True)
            rows = [answered(f"q{n}", kind[1], em if kind[1] else 0.5, kind[0], kind[2]) for n in range(3)]
            tables.write(test / name / "00000.parquet", tables.to_table(rows), {})
    rows = arms.rows_of("atm", tmp_path, ended, named, 0)
    assert {(r.arm, r.condition, r.em) for r in rows} == {
        ("before", "clean", 0.5),
        *(("paper", condition, 0.0) for condition in ("clean", "attacker 1")),
        *(("clean", condition, 1.0) for condition in ("clean", "attacker 1")),
    }
    arms.write(rows, tmp_path)
    kept = pq.read_table(tmp_path / arms.ANSWERS).to_pylist()
    assert len(kept) == 15 and np.mean([r["em"] for r in kept]) == 0.5
    table = markdown(Sheet(arms.blocks(arms.compare(rows, list(named), SETTINGS), named), {}))
    assert "`atm.clean_weight=1.0`" in table and "| clean | **1.00**" in table
    assert "+0.50 [+0.50, +0.50]; paper +1.00 [+1.00, +1.00]" in table
