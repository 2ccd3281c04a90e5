"""DuetRAG's weaker arbiter: logistic regression over hashed text features of a question and an answer to it.

The paper's exact features could not be read. These are of three kinds: what stands in the question, what stands in the
answer, and both crossed, so that it can learn that `encoding` is often `None` and that `how many` wants a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ragdist.draws import draw
from ragdist.errors import DataError, ModelError
from ragdist.records import Judgement
from ragdist.roles import Pair
from ragdist.storage.atomic import make_folder, read_json, translate_errors, write_json

VERSION = 1
"""Raised by hand whenever the same text could have other features."""
BUCKETS = 1 << 18
"""Columns that names of features are hashed to."""
FOLDS = 4
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""scikit-learn's C, the inverse of the penalty: what cross-validation chooses from."""
SUREST = 30.0
"""Largest logit, so that a confidence stays within (0, 1) as a floating-point number."""
WEIGHTS, CARD = "features.npz", "features.json"
# A Chinese or Japanese character is a word of its own, and so is each sign: they tell -1 from 1.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")


class FeatureScorer:
    """Implements Scorer. A row's confidence is the sigmoid of its features times the coefficients.

    Args:
        coefficients: [BUCKETS] float64.
        intercept: the logit of a pair without features.
        made_by: what it learned from and how, plain values; kept beside the coefficients.
    """

    def __init__(self, coefficients: np.ndarray, intercept: float, made_by: dict[str, Any]) -> None:
        self.coefficients = coefficients
        self.intercept = intercept
        self.made_by = made_by

    @staticmethod
    def fit(judgements: Sequence[Judgement], seed: int) -> FeatureScorer:
        """The scorer that these rows teach, the same in whatever order they come.

        The penalty is the one of `STRENGTHS` with the lowest cross-entropy in cross-validation, all answers to a
        question in one fold.

        Raises:
            DataError: all answers are right, or all are wrong, or there are none.
        """
        rows = sorted(judgements, key=lambda row: row.id)
        right = np.array([row.right for row in rows], dtype=bool)
        if right.all() or not right.any():
            found = f"{len(rows)} that are all {'right' if right.all() else 'wrong'}" if rows else "none"
            raise DataError(
                f"the text-feature arbiter learns from right and wrong answers, got {found}; raise "
                "questions.train_rows, lower duet.answerers_fraction or set duet.gold_pairs=true"
            )
        weights = np.array([row.weight for row in rows])
        features = columns([Pair(row.question, row.answer) for row in rows])
        used = np.unique(features.indices)
        folds = np.array([int(draw(seed, "features", row.question_id) * FOLDS) for row in rows])
        with threadpool_limits(1):  # rows are too short for threads: on busy cores they cost forty times the work
            strength, loss = _strength(features[:, used], right, weights, folds)
            model = _regression(strength).fit(features[:, used], right, sample_weight=weights)
        coefficients = np.zeros(BUCKETS)
        coefficients[used] = model.coef_[0]
        made_by = {
            "version": VERSION,
            "seed": seed,
            "rows": len(rows),
            "right": int(right.sum()),
            "questions": len({row.question_id for row in rows}),
            "strength": strength,
            "cross_entropy": loss,
            "libraries": {name: metadata.version(name) for name in ("scikit-learn", "scipy", "numpy")},
        }
        return FeatureScorer(coefficients, float(model.intercept_[0]), made_by)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """See `roles.Scorer`."""
        if not pairs:
            return []
        logits = columns(pairs) @ self.coefficients + self.intercept
        return [float(c) for c in 1 / (1 + np.exp(-np.clip(logits, -SUREST, SUREST)))]

    def save(self, folder: Path) -> Path:
        """Two files without pickle, equal byte for byte for equal rows: the used coefficients, and what made them.

        Raises:
            StorageError: the folder cannot be written.
        """
        used = np.flatnonzero(self.coefficients)
        make_folder(folder)
        with translate_errors(folder):
            np.savez_compressed(folder / WEIGHTS, used=used, coefficients=self.coefficients[used], bias=self.intercept)
            write_json(folder / CARD, self.made_by)
        return folder

    @staticmethod
    def load(folder: Path) -> FeatureScorer:
        """What `save` left.

        Raises:
            ModelError: it is not there, or its features were made by another version of the code.
        """
        if not (folder / CARD).exists():
            raise ModelError(f"{folder} holds no text-feature arbiter (no {CARD}); `ragdist train duet` makes one")
        made_by = read_json(folder / CARD)
        if made_by["version"] != VERSION:
            raise ModelError(
                f"{folder} was learned on version {made_by['version']} of the text features, this ragdist has version "
                f"{VERSION}; remove the folder, and the same command learns it again"
            )
        with np.load(folder / WEIGHTS, allow_pickle=False) as kept:
            coefficients = np.zeros(BUCKETS)
            coefficients[kept["used"]] = kept["coefficients"]
            return FeatureScorer(coefficients, float(kept["bias"]), made_by)


def columns(pairs: Sequence[Pair]) -> Any:
    """[len(pairs), BUCKETS] sparse matrix of float64; a row depends on its own pair alone."""
    from sklearn.feature_extraction import FeatureHasher

    return FeatureHasher(BUCKETS, input_type="pair").transform(map(named, pairs))


def named(pair: Pair) -> Iterator[tuple[str, float]]:
    """(name, value) of each feature; every group has the same length as a vector, however long the texts are."""
    question, answer = words(pair.question), words(pair.answer)
    flat = " ".join(_writable(pair.answer).split())
    whole, shape, asked = " ".join(answer), _shape(flat), sorted(set(question))
    edged = f" {flat} "
    known = sum(word in asked for word in answer)
    groups = {
        "question": question,
        "answer": answer,
        "letters": [edged[at : at + size] for size in (1, 2, 3, 4) for at in range(len(edged) - size + 1)],
        "whole": [whole],
        "shape": [shape],
        "length": [str(len(answer).bit_length())],
        "in question": ["all" if known == len(answer) else "some" if known else "none"],
        "question, whole": [f"{word} {whole}" for word in asked],
        "question, shape": [f"{word} {shape}" for word in asked],
    }
    for group, names in groups.items():
        value = 1 / max(len(names), 1) ** 0.5
        yield from ((f"{group}: {name}", value) for name in names)


def words(text: str) -> list[str]:
    """Words without case, and signs. Example: `'utf-8'` is ', utf, -, 8, '."""
    return _WORDS.findall(_writable(text).casefold())


def _shape(text: str) -> str:
    """What kind of answer it looks like. Example: `'utf-8'` is `'x-9'`, `New York` is `X X`."""
    kinds = re.sub(r"[^\W\d_]+", lambda word: "X" if word[0][0].isupper() else "x", text)
    return re.sub(r"\d+", "9", kinds)[:20]


def _writable(text: str) -> str:
    """The text without half characters, which a file of JSON can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, solver="newton-cg", max_iter=1000)


def _strength(features: Any, right: np.ndarray, weights: np.ndarray, folds: np.ndarray) -> tuple[float, float | None]:
    """(the best of STRENGTHS, its weighted cross-entropy in nats per row on rows not learned from).

    A fold without which only one label is left is passed over; where all are, the strongest penalty is taken.
    """
    losses, rows = dict.fromkeys(STRENGTHS, 0.0), 0.0
    for fold in range(FOLDS):
        learn, check = folds != fold, folds == fold
        if not check.any() or len(set(right[learn])) < 2:
            continue
        rows += weights[check].sum()
        for strength in STRENGTHS:
            model = _regression(strength).fit(features[learn], right[learn], sample_weight=weights[learn])
            logits = model.decision_function(features[check])
            losses[strength] += weights[check] @ (np.logaddexp(0, logits) - right[check] * logits)
    best = min(STRENGTHS, key=losses.__getitem__)
    return best, float(losses[best] / rows) if rows else None
