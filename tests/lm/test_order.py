import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdist.errors import ConfigError
from ragdist.lm.order import training_order, training_steps

LENGTHS = [5, 9, 2, 9, 7, 1, 3]


def order(lengths=LENGTHS, epochs=1.0, examples_per_step=3, seed=0):
    return training_order(lengths, epochs=epochs, examples_per_step=examples_per_step, seed=seed)


def test_order_one_epoch_uses_no_row_twice_and_drops_the_remainder():
    rows = order()
    assert len(rows) == 6 == len(set(rows))


def test_order_carries_the_remainder_into_the_next_epoch():
    rows = order(epochs=3)  # 21 rows are 7 whole steps
    assert sorted(rows) == sorted(list(range(7)) * 3)


def test_order_epochs_differ_and_seeds_differ():
    first, second = order(epochs=2, examples_per_step=7)[:7], order(epochs=2, examples_per_step=7)[7:]
    assert sorted(first) == sorted(second)
    tied = [1] * 50
    assert order(tied, seed=0, examples_per_step=5) != order(tied, seed=1, examples_per_step=5)
    assert order(tied, seed=3, examples_per_step=5) == order(tied, seed=3, examples_per_step=5)


def test_order_half_an_epoch_is_the_beginning_of_it():
    assert order(examples_per_step=3, epochs=0.5) == order(examples_per_step=3)[:3]


@given(st.lists(st.integers(1, 500), min_size=4, max_size=60), st.integers(1, 4), st.integers(0, 5))
def test_order_longest_rows_come_first_in_every_step(lengths, examples_per_step, seed):
    rows = order(lengths, epochs=2, examples_per_step=examples_per_step, seed=seed)
    assert len(rows) == training_steps(len(lengths), epochs=2, examples_per_step=examples_per_step) * examples_per_step
    for start in range(0, len(rows), examples_per_step):
        step = [lengths[row] for row in rows[start : start + examples_per_step]]
        assert step == sorted(step, reverse=True)


def test_order_fewer_rows_than_a_step_names_the_setting():
    with pytest.raises(ConfigError, match=r"7 training rows .* train\.examples_per_step=8"):
        order(examples_per_step=8)
