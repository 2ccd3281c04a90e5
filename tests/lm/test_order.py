import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdist.config import TrainConfig
from ragdist.errors import ConfigError
from ragdist.lm.order import busy_share, deal, passes, training_blocks, training_steps

LENGTHS = [5, 9, 2, 9, 7, 1, 3]


def blocks(lengths=LENGTHS, epochs=1.0, examples_per_step=3, seed=0):
    return training_blocks(lengths, TrainConfig(epochs=epochs, examples_per_step=examples_per_step), seed)


def order(*given, **how):
    return [row for block in blocks(*given, **how) for row in block]


def test_order_one_epoch_uses_every_row_once_and_what_is_left_over_last():
    """T2: a last step that is not full trains its rows."""
    assert [len(block) for block in blocks()] == [3, 3, 1]
    assert sorted(order()) == list(range(7))


def test_order_carries_the_remainder_into_the_next_epoch():
    assert [len(block) for block in blocks(epochs=3)] == [3] * 7  # 21 rows are 7 whole steps
    assert sorted(order(epochs=3)) == sorted(list(range(7)) * 3)


def test_order_epochs_differ_and_seeds_differ():
    first, second = order(epochs=2, examples_per_step=7)[:7], order(epochs=2, examples_per_step=7)[7:]
    assert sorted(first) == sorted(second)
    tied = [1] * 50
    assert order(tied, seed=0, examples_per_step=5) != order(tied, seed=1, examples_per_step=5)
    assert order(tied, seed=3, examples_per_step=5) == order(tied, seed=3, examples_per_step=5)


def test_order_half_an_epoch_is_the_beginning_of_it():
    assert blocks(epochs=0.5)[0] == blocks()[0] and len(order(epochs=0.5)) == 4  # round(3.5) is the even one


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 9), st.floats(0.1, 3), st.integers(0, 5))
def test_order_steps_are_counted_right_and_longest_rows_come_first(lengths, examples_per_step, epochs, seed):
    """T2: every row that `epochs` asks for is in a step; all steps but the last are full."""
    train = TrainConfig(epochs=epochs, examples_per_step=examples_per_step)
    steps = training_blocks(lengths, train, seed)
    assert sum(map(len, steps)) == max(1, round(len(lengths) * epochs))
    assert len(steps) == max(1, train.steps(len(lengths)))
    assert all(len(step) == examples_per_step for step in steps[:-1]) and 0 < len(steps[-1]) <= examples_per_step
    for step in steps:
        assert [lengths[row] for row in step] == sorted((lengths[row] for row in step), reverse=True)


@pytest.mark.parametrize(("rows", "size", "steps"), [(30, 16, 2), (32, 16, 2), (33, 16, 3), (5, 16, 1)])
def test_steps_count_a_last_one_that_is_not_full(rows, size, steps):
    """T2: 30 rows at 16 a step are two steps."""
    assert training_steps(rows, TrainConfig(examples_per_step=size)) == steps


@pytest.mark.parametrize(("rows", "epochs"), [(0, 1.0), (3, 0.1)])
def test_steps_without_a_row_name_the_settings(rows, epochs):
    with pytest.raises(ConfigError, match=rf"{rows} training rows and duet\.reciter\.epochs={epochs:g} .*raise"):
        training_steps(rows, TrainConfig(epochs=epochs), "duet.reciter")


def test_deal_gives_the_longest_row_to_the_rank_with_fewest_tokens():
    """By hand: 9 | 7, then 6 to the second (13), 5 to the first (14), 4 to the second (17), 2 to the first (16)."""
    assert deal([9, 7, 6, 5, 4, 2], ranks=2, budget=12) == [[[0], [3, 5]], [[1], [2, 4]]]
    assert deal([2, 9, 4], ranks=1, budget=13) == [[[1], [2, 0]]]  # 9 + 9 for two rows of 9 and 4, padding included
    assert deal([2, 9, 4], ranks=1, budget=13, packed=True) == [[[1, 2], [0]]]
    assert deal([5, 5], ranks=3, budget=1) == [[[0]], [[1]], []]
    assert busy_share([16, 17]) == pytest.approx(33 / 34) and busy_share([3, 0]) == 0.5


@given(st.lists(st.integers(1, 3000), max_size=80), st.integers(1, 9), st.integers(1, 4000), st.booleans())
def test_deal_has_every_row_once_within_the_budget_and_ranks_as_even_as_one_row_allows(lengths, ranks, budget, packed):
    hands = deal(lengths, ranks, budget, packed=packed)
    assert len(hands) == ranks and sorted(row for hand in hands for one in hand for row in one) == [
        *range(len(lengths))
    ]
    for one in (one for hand in hands for one in hand):
        tokens = [lengths[row] for row in one]
        assert len(one) == 1 or (sum(tokens) if packed else max(tokens) * len(tokens)) <= budget
    loads = [sum(lengths[row] for one in hand for row in one) for hand in hands]
    assert max(loads) - min(loads) <= max(lengths, default=0)
    for load, hand in zip(loads, hands, strict=True):  # the last row that came to a rank came to the least loaded one
        assert not hand or load - lengths[hand[-1][-1]] <= min(loads)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 3))
def test_deal_is_near_the_best_there_is_by_brute_force(lengths, ranks):
    """Graham's bound: the greedy one's fullest rank has at most 4/3 of the best one's."""

    def fullest(choice):
        return max(sum(one for one, at in zip(lengths, choice, strict=True) if at == rank) for rank in range(ranks))

    best = min(map(fullest, itertools.product(range(ranks), repeat=len(lengths))))
    hands = deal(lengths, ranks, 10**6, packed=True)
    assert max(sum(lengths[row] for one in hand for row in one) for hand in hands) <= (4 / 3 - 1 / (3 * ranks)) * best


def test_passes_are_as_many_on_every_rank():
    lengths = [9, 7, 6, 5, 4, 2]
    cut = TrainConfig(examples_per_step=6, microbatch=2)
    assert passes([0, 1, 2, 3, 4, 5], lengths, cut, 2) == [[[0, 1], [4, 5]], [[2, 3], []]]
    dealt = cut.model_copy(update={"tokens_per_pass": 8})
    assert passes([0, 1, 2, 3, 5], lengths, dealt, 3) == [[[0], []], [[1], [5]], [[2], [3]]]
