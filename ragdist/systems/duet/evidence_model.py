"""The evidence arbiter: two logistic regressions on the numbers of `evidence.py`, calibrated for each regime.

    p(r is right), p(d is right)     one regression each, on standardised values with an L2 penalty
    regime                           clean, attacked or absent, told by the values that come from the documents
    confidence                       sigmoid(slope * logit + intercept), of the regime told (Platt 1999)
    the reciter's where its confidence is higher by more than the regime's threshold, else the discoverer's

Calibration and thresholds are chosen on logits and regimes of questions that were not learned from: cross-fitting, all
disputes on one question in one fold. So every held-out dispute serves for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from ragdist.algo.arbiter import best_margin, prefers_reciter
from ragdist.errors import ModelError
from ragdist.storage.atomic import read_json, write_json
from ragdist.systems.duet.evidence import DOCUMENT, Choice, Values
from ragdist.tracking.progress import say

VERSION = 1
"""Raised by hand whenever the same dispute could have other values, or they could weigh otherwise."""
FOLDS = 5
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""scikit-learn's C, the inverse of the penalty: what cross-fitting chooses from."""
FEWEST = 40
"""Disputes that a regime needs for its own calibration and threshold."""
FEWEST_OF_A_LABEL = 5
"""Right and wrong answers of each side that anything is learned from."""
SUREST = 30.0
"""Largest logit, so that a confidence stays within (0, 1) as a floating-point number."""
JOINT = "joint"
REGIMES = {"oracle": "clean", "retrieved": "clean", "attacked": "attacked", "absent": "absent"}
"""By what the discoverer was shown."""


class Lesson(NamedTuple):
    """One dispute to learn from. Example: Lesson("77...", "attacked", {"held_reciter": 1.0}, True, False)."""

    question_id: str
    regime: str
    values: Values
    reciter_right: bool
    discoverer_right: bool


@dataclass(frozen=True)
class Linear:
    """Weights of standardised values, and the logit where all are at their mean."""

    weights: dict[str, float]
    intercept: float

    def __call__(self, found: Values) -> float:
        return sum(weight * found[name] for name, weight in self.weights.items()) + self.intercept


@dataclass(frozen=True)
class Calibrated:
    """What a regime has of its own."""

    disputes: int
    """That it was chosen on."""
    reciter: tuple[float, float]
    """Slope and intercept of Platt's sigmoid, for the reciter's answers; then the discoverer's."""
    discoverer: tuple[float, float]
    threshold: float
    """In [0, 1]: the reciter's confidence must be higher by more than this."""


@dataclass(frozen=True)
class EvidenceModel:
    """What was learned, as plain numbers by name."""

    means: dict[str, float]
    scales: dict[str, float]
    reciter: Linear
    discoverer: Linear
    regimes: dict[str, Linear]
    """One against the others, the highest logit tells; empty where only one regime was shown."""
    calibrated: dict[str, Calibrated]
    """By regime; `joint` is for those with too few disputes."""
    made_by: dict[str, Any]

    def choose(self, found: Values) -> Choice:
        """Whose answer it is to be, with both confidences; an `evidence.Rule`."""
        seen = {name: (found[name] - mean) / self.scales[name] for name, mean in self.means.items()}
        told = max(self.regimes, key=lambda name: self.regimes[name](seen), default=JOINT)
        regime = self.calibrated.get(told, self.calibrated[JOINT])
        sure = (_sigmoid(self.reciter(seen), regime.reciter), _sigmoid(self.discoverer(seen), regime.discoverer))
        return Choice(prefers_reciter(*sure, regime.threshold), sure)

    def save(self, path: Path) -> None:
        """One file of JSON, equal byte for byte for equal lessons.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> EvidenceModel | None:
        """What `learn` left; None where there was too little to learn from.

        Raises:
            ModelError: it is not there, or another version of the code made it.
        """
        if not path.exists():
            raise ModelError(f"{path} is not there: no evidence arbiter was trained; add evidence to duet.arbiters")
        row = read_json(path)
        if row is None:
            return None
        if row["made_by"]["version"] != VERSION:
            raise ModelError(
                f"{path} was learned on version {row['made_by']['version']} of the evidence, this ragdist has version "
                f"{VERSION}; remove it, and the same command learns it again"
            )
        lines = {name: Linear(**row[name]) for name in ("reciter", "discoverer")}
        regimes = {name: Linear(**one) for name, one in row["regimes"].items()}
        calibrated = {name: Calibrated(**one) for name, one in row["calibrated"].items()}
        return EvidenceModel(
            row["means"], row["scales"], **lines, regimes=regimes, calibrated=calibrated, made_by=row["made_by"]
        )


def learn(lessons: Sequence[Lesson], path: Path, seed: int) -> None:
    """Keeps in `path` what these disputes teach, null where they are too few, and says which."""
    if why := too_few(lessons):
        say(f"the evidence arbiter takes the discoverer's answers: {why}; raise questions.train_rows")
        write_json(path, None)
        return
    model = fit(lessons, seed)
    model.save(path)
    own = ", ".join(f"{one.disputes} ({name})" for name, one in model.calibrated.items())
    say(f"evidence arbiter: learned from {len(lessons)} disputes, calibrated on {own}")


def too_few(lessons: Sequence[Lesson]) -> str:
    """Why nothing can be learned from these; empty where something can."""
    for side in ("reciter", "discoverer"):
        right = sum(getattr(one, f"{side}_right") for one in lessons)
        if min(right, len(lessons) - right) < FEWEST_OF_A_LABEL:
            return f"the {side} is right in {right} of {len(lessons)} disputes, {FEWEST_OF_A_LABEL} of each are needed"
    return ""


def fit(lessons: Sequence[Lesson], seed: int) -> EvidenceModel:
    """The model that these disputes teach, the same in whatever order they come; `too_few` of them must be empty."""
    rows = sorted(lessons, key=lambda one: (one.question_id, one.regime, sorted(one.values.items())))
    names = sorted(rows[0].values)
    raw_NF = np.array([[row.values[name] for name in names] for row in rows])
    means_F, scales_F = raw_NF.mean(0), raw_NF.std(0)
    scales_F[scales_F == 0] = 1.0
    seen_NF = (raw_NF - means_F) / scales_F
    right_SN = np.array([[one.reciter_right for one in rows], [one.discoverer_right for one in rows]])
    with threadpool_limits(1):
        folds = _folds(rows, seed)
        strength, logits_SN, loss = _cross_fitted(seen_NF, right_SN, folds)
        told, regimes = _regimes(seen_NF, names, [row.regime for row in rows], folds)
        reciter, discoverer = [_linear(_regression(strength).fit(seen_NF, right), names) for right in right_SN]
        calibrated = _calibrated(logits_SN, right_SN, told)
    made_by = {
        "version": VERSION,
        "seed": seed,
        "disputes": dict(Counter(row.regime for row in rows)),
        "questions": len({row.question_id for row in rows}),
        "right": {"reciter": int(right_SN[0].sum()), "discoverer": int(right_SN[1].sum())},
        "strength": strength,
        "cross_entropy": loss,
        "regime_told_right": float(np.mean([one == row.regime for one, row in zip(told, rows, strict=True)])),
        "libraries": {name: metadata.version(name) for name in ("scikit-learn", "scipy", "numpy")},
    }
    means, scales = (dict(zip(names, found.tolist(), strict=True)) for found in (means_F, scales_F))
    return EvidenceModel(means, scales, reciter, discoverer, regimes, calibrated, made_by)


def platt(logits_N: np.ndarray, right_N: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the sigmoid that makes probabilities of these logits (Platt 1999, section 2.2).

    Its targets are not 0 and 1 but 1 / (minus + 2) and (plus + 1) / (plus + 2), for so many wrong and right answers;
    where all are one of these, that is the probability of all.
    """
    plus = int(right_N.sum())
    target_N = np.where(right_N, (plus + 1) / (plus + 2), 1 / (len(right_N) - plus + 2))
    if plus in (0, len(right_N)):
        return 0.0, float(np.log(target_N[0] / (1 - target_N[0])))
    twice_N1, labels_N = np.tile(logits_N, 2)[:, None], np.repeat([1, 0], len(logits_N))
    model = _regression(1e6).fit(twice_N1, labels_N, sample_weight=np.concatenate([target_N, 1 - target_N]))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _folds(rows: Sequence[Lesson], seed: int) -> list[Any]:
    """(learn, check) row numbers of each fold, all disputes on one question in one of them."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels = [2 * row.reciter_right + row.discoverer_right for row in rows]
    groups = [row.question_id for row in rows]
    count = min(FOLDS, len(set(groups)))
    return list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(labels, labels, groups))


def _cross_fitted(seen_NF: np.ndarray, right_SN: np.ndarray, folds: list[Any]) -> tuple[float, np.ndarray, float]:
    """(the best of STRENGTHS, logits [S, N] by models that did not learn from the row's question, cross-entropy in nats
    per answer)."""
    found = []
    for strength in STRENGTHS:
        logits_SN = np.array([_unseen(_regression(strength), seen_NF, right, folds) for right in right_SN])
        found.append((float(np.mean(np.logaddexp(0, logits_SN) - right_SN * logits_SN)), strength, logits_SN))
    loss, strength, logits_SN = min(found, key=lambda one: one[:2])
    return strength, logits_SN, loss


def _unseen(model: Any, seen_NF: np.ndarray, right_N: np.ndarray, folds: list[Any]) -> np.ndarray:
    """[N] logits; a fold without which one label is left gets that label's share in all rows."""
    share = float(right_N.mean())
    logits_N = np.full(len(right_N), np.log(share / (1 - share)))
    for learn, check in folds:
        if len(set(right_N[learn])) == 2:
            logits_N[check] = model.fit(seen_NF[learn], right_N[learn]).decision_function(seen_NF[check])
    return logits_N


def _regimes(
    seen_NF: np.ndarray, names: Sequence[str], regimes: Sequence[str], folds: list[Any]
) -> tuple[list[str], dict[str, Linear]]:
    """(the regime told of each row by models that did not learn from its question, what tells it)."""
    kinds = sorted(set(regimes))
    if len(kinds) < 2:
        return list(regimes), {}
    columns = [at for at, name in enumerate(names) if name.startswith(DOCUMENT)]
    own = [names[at] for at in columns]
    is_KN = np.array([[regime == kind for regime in regimes] for kind in kinds])
    logits_KN = np.array([_unseen(_regression(1.0), seen_NF[:, columns], is_N, folds) for is_N in is_KN])
    told = [kinds[at] for at in logits_KN.argmax(0)]
    return told, {
        kind: _linear(_regression(1.0).fit(seen_NF[:, columns], is_N), own)
        for kind, is_N in zip(kinds, is_KN, strict=True)
    }


def _calibrated(logits_SN: np.ndarray, right_SN: np.ndarray, told: Sequence[str]) -> dict[str, Calibrated]:
    """Of all disputes, and of each regime that has enough; where a side is never right Platt's targets still say so."""
    found = {JOINT: _calibration(logits_SN, right_SN)}
    for kind in sorted(set(told)):
        part_N = np.array([one == kind for one in told])
        if part_N.sum() >= FEWEST:
            found[kind] = _calibration(logits_SN[:, part_N], right_SN[:, part_N])
    return found


def _calibration(logits_SN: np.ndarray, right_SN: np.ndarray) -> Calibrated:
    sigmoids = [platt(logits_N, right_N) for logits_N, right_N in zip(logits_SN, right_SN, strict=True)]
    sure = [[_sigmoid(z, curve) for z in row] for row, curve in zip(logits_SN, sigmoids, strict=True)]
    gaps = [one - other for one, other in zip(*sure, strict=True)]
    threshold = best_margin(gaps, [bool(r) for r in right_SN[0]], [bool(r) for r in right_SN[1]])
    return Calibrated(len(gaps), sigmoids[0], sigmoids[1], threshold)


def _linear(model: Any, names: Sequence[str]) -> Linear:
    return Linear(dict(zip(names, model.coef_[0].tolist(), strict=True)), float(model.intercept_[0]))


def _sigmoid(logit: float, curve: tuple[float, float]) -> float:
    return float(1 / (1 + np.exp(-np.clip(curve[0] * logit + curve[1], -SUREST, SUREST))))


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, solver="newton-cg", tol=1e-8, max_iter=1000)
