"""The generator's loss as ATM's settings want it: numbers by hand, not calls."""

import math

import pytest
import torch

from ragdist.algo.losses import Answers, Batch, Totals
from ragdist.config.loader import resolve
from ragdist.systems.atm import run as atm

# Two rows: an answer of one token and one of two; three words in the vocabulary. [row][token][word] probabilities.
CLEAN = [[[0.7, 0.2, 0.1]], [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]]
ATTACKED = [[[0.3, 0.6, 0.1]], [[0.2, 0.2, 0.6], [0.25, 0.25, 0.5]]]
LABELS = [[0], [1, 1]]
TOTAL = Totals(tokens=3, rows=2)


def answer_loss(rows):
    return -sum(
        math.log(p[label])
        for row, labels in zip(rows, LABELS, strict=True)
        for p, label in zip(row, labels, strict=True)
    )


def divergence(rows, others):
    """Sum over tokens of KL(rows || others)."""
    pairs = ((p, q) for row, other in zip(rows, others, strict=True) for p, q in zip(row, other, strict=True))
    return sum(a * math.log(a / b) for p, q in pairs for a, b in zip(p, q, strict=True))


def learned(**settings):
    """(loss, gradient of the clean logits, gradient of the attacked ones)."""

    def slot(rows):
        longest = max(map(len, rows))
        padded = [row + [[1 / 3] * 3] * (longest - len(row)) for row in rows]
        logits = torch.tensor(padded).log().requires_grad_()
        labels = torch.tensor([row + [0] * (longest - len(row)) for row in LABELS])
        mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in LABELS])
        return logits, Answers(logits[mask], labels, mask)

    (clean, shown), (attacked, lied) = slot(CLEAN), slot(ATTACKED)
    both = shown, lied
    used = {"documents": 1} if settings.get("variant") == "released_code" else {"documents": 5}
    loss = atm.mito(resolve({"atm": settings, "contexts": used}).atm)
    made = loss(lambda _, slots=(0, 1): tuple(both[at] for at in slots), Batch(2, {}), total=TOTAL)
    made.scalar.backward()
    return made.scalar.item(), clean.grad, attacked.grad


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"kl_weight": 0.0}, answer_loss(ATTACKED) / 3),
        ({"kl_weight": 0.5}, (answer_loss(ATTACKED) + 0.5 * divergence(CLEAN, ATTACKED)) / 3),
        ({"kl_weight": 2.0, "reduction": "sum"}, (answer_loss(ATTACKED) + 2 * divergence(CLEAN, ATTACKED)) / 2),
        (
            {"kl_weight": 0.5, "kl_direction": "attacked_to_clean"},
            (answer_loss(ATTACKED) + 0.5 * divergence(ATTACKED, CLEAN)) / 3,
        ),
        (
            {"kl_weight": 0.5, "variant": "released_code"},
            (answer_loss(CLEAN) + 0.5 * divergence(ATTACKED, CLEAN)) / 3,
        ),
        (
            {"kl_weight": 0.5, "variant": "released_code", "reduction": "sum"},
            (answer_loss(CLEAN) + 0.5 * divergence(ATTACKED, CLEAN)) / 2,
        ),
        ({"kl_weight": 0.0, "variant": "released_code"}, answer_loss(CLEAN) / 3),
    ],
)
def test_settings_reach_the_loss(settings, wanted):
    assert learned(**settings)[0] == pytest.approx(wanted, abs=1e-5)


def test_detached_clean_side_gets_no_gradient_and_the_attacked_one_the_same():
    loss, clean, attacked = learned(kl_weight=0.5)
    fixed, none, same = learned(kl_weight=0.5, detach_clean=True)
    assert fixed == pytest.approx(loss) and torch.allclose(same, attacked)
    assert clean.abs().max() > 0.01 and (none is None or not none.any())


def test_detached_clean_side_still_learns_the_answer_where_that_is_on_it():
    """released_code: the answer loss alone moves the clean side. By hand: (p - label) / 3."""
    _, clean, _ = learned(kl_weight=0.5, detach_clean=True, variant="released_code")
    assert torch.allclose(clean[0, 0], torch.tensor([0.7 - 1, 0.2, 0.1]) / 3, atol=1e-6)
