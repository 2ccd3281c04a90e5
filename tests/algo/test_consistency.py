import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from ragdist.algo.consistency import attack_shift, mito, reference
from ragdist.algo.losses import Totals
from ragdist.algo.preference import REFERENCE
from ragdist.algo.sft import answer_loss
from tests.algo.game import Table, answers, batch

LABELS = [[1, 2, 3], [4], [5, 6]]
TOTAL = Totals(tokens=6, rows=3)


def both(seed=0, *, same=False):
    """Clean and attacked logits of three rows, which ask for gradients."""
    torch.manual_seed(seed)
    clean = torch.randn(3, 3, 9)
    attacked = clean.clone() if same else torch.randn(3, 3, 9)
    return clean.requires_grad_(), attacked.requires_grad_()


def table(clean, attacked):
    """A forward that gives these."""
    return Table(answers(clean, LABELS), answers(attacked, LABELS))


def by_hand(clean, attacked, learned, *, to, kl_weight):
    """(answer loss, shift) summed, by torch.distributions."""
    nll = shift = 0.0
    for row, labels in enumerate(LABELS):
        for at, label in enumerate(labels):
            said = {"clean": Categorical(logits=clean[row, at]), "attacked": Categorical(logits=attacked[row, at])}
            nll = nll - said[learned].log_prob(torch.tensor(label))
            source = {"clean": "attacked", "attacked": "clean"}[to]
            shift = shift + kl_divergence(said[source], said[to])
    return nll + kl_weight * shift


def test_mito_of_equal_lists_is_plain_tuning_check_44():
    clean, attacked = both(same=True)
    shift = attack_shift(answers(clean, LABELS), answers(attacked, LABELS))
    assert shift.abs().max() < 1e-6
    shift.sum().backward()
    assert clean.grad.norm() < 1e-6 and attacked.grad.norm() < 1e-6
    clean, attacked = both(same=True)
    mito(table(clean, attacked), batch(3), total=TOTAL, kl_weight=0.5).scalar.backward()
    alone = both(same=True)[0]
    answer_loss(Table(answers(alone, LABELS)), batch(3), total=TOTAL).scalar.backward()
    assert torch.allclose(clean.grad + attacked.grad, alone.grad, atol=1e-6)


def test_mito_without_weight_is_plain_tuning_on_the_attacked_list_check_45():
    clean, attacked = both()
    forward = table(clean, attacked)
    loss = mito(forward, batch(3), total=TOTAL, kl_weight=0)
    plain = answer_loss(Table(answers(attacked, LABELS)), batch(3), total=TOTAL)
    assert torch.equal(loss.scalar, plain.scalar) and forward.asked == [1]


@pytest.mark.parametrize("seed", range(5))
def test_attack_shift_is_never_negative_check_45(seed):
    clean, attacked = both(seed)
    assert attack_shift(answers(clean, LABELS), answers(attacked, LABELS)).min() >= 0


@pytest.mark.parametrize(
    ("direction", "expected"), [("clean_to_attacked", 0.0851228), ("attacked_to_clean", 0.0920329)]
)
def test_attack_shift_has_the_known_values_check_46(direction, expected):
    clean, attacked = (answers(torch.tensor([[p]]).log(), [[0]]) for p in ((0.7, 0.2, 0.1), (0.5, 0.3, 0.2)))
    assert attack_shift(clean, attacked, direction=direction).item() == pytest.approx(expected, abs=1e-6)


def test_attack_shift_looks_at_answer_tokens_alone_check_47():
    clean, attacked = both()
    before = attack_shift(answers(clean, LABELS), answers(attacked, LABELS))
    behind = attacked.detach().clone()
    behind[1, 1:] += torch.randn(2, 9)  # row 1 has one answer token
    assert torch.equal(before, attack_shift(answers(clean, LABELS), answers(behind, LABELS)))
    first = attacked.detach().clone()
    first[1, 0, 0] += 1
    assert not torch.equal(before, attack_shift(answers(clean, LABELS), answers(first, LABELS)))


def test_mito_of_other_answers_raises_check_49():
    clean, attacked = both()
    for labels in ([[1, 2, 3], [4], [5, 5]], [[1, 2, 3], [4, 5], [6]]):
        with pytest.raises(ValueError, match="same answer"):
            mito(Table(answers(clean, LABELS), answers(attacked, labels)), batch(3), total=TOTAL, kl_weight=1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mito_equals_the_formula_in_both_variants_check_50(reduction):
    share = TOTAL.tokens if reduction == "mean" else TOTAL.rows
    clean, attacked = both()
    paper = mito(table(clean, attacked), batch(3), total=TOTAL, kl_weight=0.3, reduction=reduction)
    assert torch.allclose(paper.scalar, by_hand(clean, attacked, "attacked", to="attacked", kl_weight=0.3) / share)
    released = mito(
        table(clean, attacked),
        batch(3),
        total=TOTAL,
        kl_weight=0.3,
        reduction=reduction,
        sft_on="clean",
        direction="attacked_to_clean",
    )
    assert torch.allclose(released.scalar, by_hand(clean, attacked, "clean", to="clean", kl_weight=0.3) / share)
    assert torch.allclose(
        paper.metrics["answer_loss"] + 0.3 * paper.metrics["kl"], paper.scalar
    ) and not torch.allclose(paper.scalar, released.scalar)


@pytest.mark.parametrize("detach_clean", [False, True])
def test_mito_detached_gives_the_clean_side_no_gradient_check_51(detach_clean):
    clean, attacked = both()
    mito(table(clean, attacked), batch(3), total=TOTAL, kl_weight=1, detach_clean=detach_clean).scalar.backward()
    assert attacked.grad.abs().max() > 1e-3
    assert clean.grad is None if detach_clean else clean.grad.abs().max() > 1e-3


def test_mito_detached_still_learns_where_the_answer_loss_is_on_the_clean_list():
    clean, attacked = both()
    loss = mito(table(clean, attacked), batch(3), total=TOTAL, kl_weight=1, detach_clean=True, sft_on="clean")
    loss.scalar.backward()
    alone = both()[0]
    answer_loss(Table(answers(alone, LABELS)), batch(3), total=TOTAL).scalar.backward()
    assert torch.allclose(clean.grad, alone.grad, atol=1e-6)


def test_mito_with_a_clean_weight_adds_the_clean_answer_loss():
    """By torch.distributions: MITO, and clean_weight times the answer loss on the clean list, per answer token."""
    clean, attacked = both()
    loss = mito(table(clean, attacked), batch(3), total=TOTAL, kl_weight=0.3, clean_weight=0.7)
    paper = by_hand(clean, attacked, "attacked", to="attacked", kl_weight=0.3)
    beside = by_hand(clean, attacked, "clean", to="attacked", kl_weight=0)
    assert torch.allclose(loss.scalar, (paper + 0.7 * beside) / TOTAL.tokens)
    assert torch.allclose(loss.metrics["clean_loss"], beside / TOTAL.tokens)


def test_mito_with_a_clean_weight_and_a_fixed_target_pulls_the_clean_side_by_its_answer_alone():
    clean, attacked = both()
    forward = table(clean, attacked)
    mito(forward, batch(3), total=TOTAL, kl_weight=1, clean_weight=0.5, detach_clean=True).scalar.backward()
    alone = both()[0]
    (0.5 * answer_loss(Table(answers(alone, LABELS)), batch(3), total=TOTAL).scalar).backward()
    assert torch.allclose(clean.grad, alone.grad, atol=1e-6) and forward.asked == [0, 1]


def test_mito_with_preferences_adds_dpo_between_right_and_forged_answer():
    """beta * [(right - forged) - reference] by hand; the forged answers have other lengths than the right ones."""
    clean, attacked = both()
    torch.manual_seed(7)
    forged, other = torch.randn(3, 3, 9, requires_grad=True), [[5], [6, 1, 2], [3]]
    forward = Table(answers(clean, LABELS), answers(attacked, LABELS), answers(forged, other))
    known = reference(Table(*forward.slots), batch(3))[REFERENCE] - 1.5
    loss = mito(forward, batch(3, reference=known), total=TOTAL, kl_weight=0.3, preference_weight=0.4, beta=0.2)
    margins = [0.2 * 1.5] * 3  # the lead is the reference's own, and 1.5 more
    wanted = by_hand(clean, attacked, "attacked", to="attacked", kl_weight=0.3) / TOTAL.tokens
    wanted = wanted + 0.4 * sum(math.log(1 + math.exp(-margin)) for margin in margins) / TOTAL.rows
    assert torch.allclose(loss.scalar, wanted) and loss.metrics["accuracy"] == 1
    loss.scalar.backward()
    assert forged.grad.abs().max() > 1e-4
    right = [sum(attacked[row, at].log_softmax(-1)[x] for at, x in enumerate(LABELS[row])) for row in range(3)]
    wrong = [sum(forged[row, at].log_softmax(-1)[x] for at, x in enumerate(other[row])) for row in range(3)]
    assert torch.allclose(known + 1.5, torch.stack(right) - torch.stack(wrong), atol=1e-5)
