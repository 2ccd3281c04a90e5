import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdist.config import TrainConfig
from ragdist.errors import ConfigError
from ragdist.lm.order import training_blocks, training_steps

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
