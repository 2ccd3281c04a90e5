import random

import pytest

from ragdist.lm.batches import by_length
from ragdist.records import Prompt


def prompts(lengths):
    return [Prompt(id=f"p{at}", tokens=(1,) * length) for at, length in enumerate(lengths)]


def test_by_length_holds_the_limit_and_every_item_once():
    items = prompts([random.Random(0).randint(1, 90) for _ in range(200)])
    batches = list(by_length(items, 300, lambda length: 2 * length))
    assert sorted(item.id for batch in batches for item in batch) == sorted(item.id for item in items)
    assert all(2 * len(batch[0].tokens) * len(batch) <= 300 for batch in batches)
    assert [len(batch[0].tokens) for batch in batches] == sorted((len(b[0].tokens) for b in batches), reverse=True)


def test_by_length_gives_the_same_batches_in_any_order():
    items = prompts([3, 9, 3, 4, 9, 1, 3])
    shuffled = random.Random(1).sample(items, len(items))
    assert list(by_length(items, 12)) == list(by_length(shuffled, 12))


@pytest.mark.parametrize(("lengths", "expected"), [([], []), ([50], [1]), ([50, 50, 2], [1, 1, 1])])
def test_by_length_takes_an_item_longer_than_the_limit_alone(lengths, expected):
    assert [len(batch) for batch in by_length(prompts(lengths), 10)] == expected
