"""The evidence arbiter on made-up worlds whose best rule is known, Platt's sigmoid by hand, and its file."""

import json
import math
import random

import numpy as np
import pytest

from ragdist.errors import ModelError
from ragdist.systems.duet import evidence_model as model
from ragdist.systems.duet.evidence_model import JOINT, Calibrated, EvidenceModel, Lesson, Linear


def lessons(questions=80, seed=0):
    """Documents speak for the discoverer and are right on clean lists; under attack copies are, and it is wrong."""
    rng = random.Random(seed)
    rows = []
    for number in range(questions):
        for regime in ("clean", "attacked", "absent"):
            attacked, knows = regime == "attacked", rng.random() < 0.4
            values = {
                "direct_reciter": (0.0 if knows else -2.0) + rng.gauss(0, 0.4),
                "held_discoverer": 0.0 if regime == "absent" else 1.0,
                "copies_discoverer": 2.0 if attacked else 0.0,
                "evidence_discoverer": rng.gauss(0, 1),
            }
            found = regime == "clean" and rng.random() < 0.9
            rows.append(Lesson(f"q{number}", regime, values, knows and not found, found))
    return rows


ROWS = lessons()


@pytest.fixture(scope="module")
def learned():
    return model.fit(ROWS, seed=0)


def test_learns_when_to_take_whose_answer(learned):
    fresh = lessons(seed=1)
    right = [one.reciter_right if learned.choose(one.values).reciter else one.discoverer_right for one in fresh]
    always = [one.discoverer_right for one in fresh]
    either = [one.reciter_right or one.discoverer_right for one in fresh]
    assert np.mean(either) - np.mean(right) < 0.03 < 0.2 < np.mean(right) - np.mean(always)


def test_confidences_are_honest_in_every_regime(learned):
    fresh = lessons(400, seed=2)
    for regime in ("clean", "attacked", "absent"):
        rows = [one for one in fresh if one.regime == regime]
        sure = np.array([learned.choose(one.values).confidences for one in rows])
        assert abs(sure[:, 0].mean() - np.mean([one.reciter_right for one in rows])) < 0.1
        assert abs(sure[:, 1].mean() - np.mean([one.discoverer_right for one in rows])) < 0.1


def test_each_regime_has_its_own_calibration_and_one_with_few_disputes_the_joint_one(learned):
    assert set(learned.calibrated) == {JOINT, "clean", "attacked", "absent"}
    assert learned.calibrated["attacked"].discoverer == pytest.approx((0.0, math.log(1 / 81)))  # wrong in all of 80
    few = [one for one in ROWS if one.regime != "clean" or int(one.question_id[1:]) < 30]
    assert set(model.fit(few, seed=0).calibrated) == {JOINT, "attacked", "absent"}


def test_platt_of_logits_that_say_nothing_is_the_smoothed_share():
    """Three right and one wrong: targets 4/5 and 1/3, whose mean is 41/60; log(41/19) = 0.769."""
    slope, intercept = model.platt(np.zeros(4), np.array([True, True, True, False]))
    assert (slope, intercept) == pytest.approx((0.0, math.log(41 / 19)), abs=1e-4)


def test_platt_worked_by_hand_at_two_logits():
    """At 1 three of four are right, at -1 one of four: targets 5/6 and 1/6 give 2/3 and 1/3 there, so slope log 2."""
    logits = np.array([1.0] * 4 + [-1.0] * 4)
    right = np.array([True, True, True, False, True, False, False, False])
    assert model.platt(logits, right) == pytest.approx((math.log(2), 0.0), abs=1e-4)


def by_hand(threshold=0.0):
    calibrated = {JOINT: Calibrated(9, (1.0, 0.0), (1.0, 0.0), threshold)}
    calibrated["attacked"] = Calibrated(9, (1.0, 0.0), (1.0, -3.0), 0.0)
    return EvidenceModel(
        means={"copies": 1.0, "direct": -2.0},
        scales={"copies": 2.0, "direct": 1.0},
        reciter=Linear({"copies": 0.0, "direct": 1.0}, 0.0),
        discoverer=Linear({"copies": 0.0, "direct": 0.0}, 2.0),
        regimes={"attacked": Linear({"copies": 1.0}, 0.0), "clean": Linear({"copies": -1.0}, 0.0)},
        calibrated=calibrated,
        made_by={"version": model.VERSION},
    )


def test_a_choice_worked_by_hand():
    """direct -1 is 1 standard deviation above its mean: logits 1 and 2, so 0.73 and 0.88; under attack 2 - 3 = -1."""
    clean, attacked = (by_hand().choose({"copies": copies, "direct": -1.0}) for copies in (0.0, 3.0))
    assert clean.confidences == pytest.approx((0.7311, 0.8808), abs=1e-4) and not clean.reciter
    assert attacked.confidences == pytest.approx((0.7311, 0.2689), abs=1e-4) and attacked.reciter


def test_a_regimes_threshold_keeps_the_discoverer():
    found = {"copies": 0.0, "direct": 1.0}  # logits 3 and 2: 0.95 and 0.88
    assert by_hand().choose(found).reciter and not by_hand(threshold=0.1).choose(found).reciter


def test_lessons_in_any_order_and_a_trip_to_disk_give_equal_arbiters(learned, tmp_path):
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    for name, one in (("a.json", learned), ("b.json", model.fit(shuffled, seed=0))):
        one.save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    again = EvidenceModel.load(tmp_path / "a.json")
    assert all(again.choose(one.values) == learned.choose(one.values) for one in ROWS)


def test_the_file_says_what_it_learned_from(learned, tmp_path):
    learned.save(tmp_path / "evidence.json")
    card = json.loads((tmp_path / "evidence.json").read_text())["made_by"]
    assert card["disputes"] == {"clean": 80, "attacked": 80, "absent": 80} and card["questions"] == 80
    assert card["regime_told_right"] > 0.95 and card["cross_entropy"] < math.log(2)


def test_too_few_of_a_label_leave_null_and_a_reason(tmp_path, capsys):
    model.learn([one for one in ROWS if one.regime == "attacked"], tmp_path / "evidence.json", 0)
    assert EvidenceModel.load(tmp_path / "evidence.json") is None
    assert "the discoverer is right in 0 of 80 disputes, 5 of each are needed" in capsys.readouterr().err


def test_a_missing_file_and_another_version_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"add evidence to duet\.arbiters"):
        EvidenceModel.load(tmp_path / "none.json")
    (tmp_path / "old.json").write_text(json.dumps({"made_by": {"version": 0}}))
    with pytest.raises(ModelError, match="version 0"):
        EvidenceModel.load(tmp_path / "old.json")


def test_one_regime_alone_is_not_told_apart():
    rows = [one for one in lessons(120) if one.regime == "clean"]
    assert not model.fit(rows, seed=0).regimes
