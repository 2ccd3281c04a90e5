import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ragdist.algo.arbiter import best_margin, judgement_loss, prefers_reciter

STEPS = 16
ROWS = st.lists(st.tuples(st.integers(-STEPS, STEPS), st.booleans(), st.booleans()), min_size=1, max_size=12)
"""Gaps in sixteenths, which floats hold exactly, and whether reciter and discoverer are right."""


@pytest.mark.parametrize("right", [True, False])
def test_loss_at_even_confidence_is_log_2_for_either_label_check_60(right):
    loss = judgement_loss(torch.zeros(1), torch.tensor([right]), torch.ones(1), total_weight=1.0)
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)


def test_loss_equals_a_hand_computation():
    """Confidences 0.8, 0.25 and 0.5; weights 1, 2 and 3; right, wrong, right."""
    scores = torch.tensor([math.log(4), math.log(1 / 3), 0.0])
    loss = judgement_loss(scores, torch.tensor([True, False, True]), torch.tensor([1.0, 2.0, 3.0]), total_weight=6.0)
    assert loss.item() == pytest.approx((-math.log(0.8) - 2 * math.log(0.75) - 3 * math.log(0.5)) / 6, abs=1e-6)


def test_loss_and_gradient_of_microbatches_add_up_to_those_of_the_step():
    torch.manual_seed(0)
    whole = torch.randn(7, requires_grad=True)
    right, weights = torch.rand(7) > 0.5, torch.rand(7) + 0.5
    total = weights.sum().item()
    judgement_loss(whole, right, weights, total_weight=total).backward()
    parts = whole.detach().clone().requires_grad_()
    cut = (slice(0, 1), slice(1, 5), slice(5, 7))
    losses = [judgement_loss(parts[at], right[at], weights[at], total_weight=total) for at in cut]
    sum(losses).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_loss_of_bfloat16_scores_is_summed_in_float32():
    scores = torch.full((4096,), 0.5, dtype=torch.bfloat16)
    loss = judgement_loss(scores, torch.ones(4096, dtype=torch.bool), torch.ones(4096), total_weight=4096.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-5)


@pytest.mark.parametrize(
    ("reciter", "discoverer", "margin", "takes_reciter"),
    [
        (0.90, 0.50, 0.0, True),
        (0.50, 0.90, 0.0, False),
        (0.70, 0.70, 0.0, False),
        (0.72, 0.70, 0.05, False),
        (0.72, 0.70, 0.01, True),
    ],
)
def test_rule_check_58(reciter, discoverer, margin, takes_reciter):
    assert prefers_reciter(reciter, discoverer, margin) is takes_reciter


def right_under(margin, rows):
    """Questions answered right, counted in exact numbers."""
    return sum(reciter if Fraction(gap, STEPS) > margin else discoverer for gap, reciter, discoverer in rows)


@given(ROWS)
def test_margin_is_the_best_there_is_by_brute_force(rows):
    found = best_margin([gap / STEPS for gap, _, _ in rows], [row[1] for row in rows], [row[2] for row in rows])
    assert 0 <= found <= 1
    every = [Fraction(number, 2 * STEPS) for number in range(2 * STEPS + 1)]  # each gap, and between any two
    assert right_under(Fraction(found), rows) == max(right_under(margin, rows) for margin in every)


@given(ROWS)
@example([(STEPS, False, True)])
def test_margin_is_in_the_middle_of_the_widest_best_stretch_the_largest_of_equals(rows):
    """A stretch [number, number + 1) of sixteenths holds no gap but at its beginning: one outcome. 1 is its own."""
    outcomes = [right_under(Fraction(number, STEPS), rows) for number in range(STEPS + 1)]
    stretches, start = [], 0
    for end in range(1, STEPS + 2):
        if end > STEPS or outcomes[end] != outcomes[start]:
            high = min(end, STEPS)
            stretches.append((outcomes[start], high - start, Fraction(start + high, 2 * STEPS)))
            start = end
    found = best_margin([gap / STEPS for gap, _, _ in rows], [row[1] for row in rows], [row[2] for row in rows])
    assert Fraction(found) == max(stretches)[2]


def test_margin_where_the_discoverer_is_always_better_takes_it_wherever_confidences_are():
    assert best_margin([0.9, 0.4, 0.2], [False] * 3, [True] * 3) == pytest.approx(0.95)
