import math

import pytest

from ragdist.algo.perplexity import perplexity


@pytest.mark.parametrize(
    ("probabilities", "expected"), [((0.5, 0.25), 2.828427), ((0.9, 0.1, 0.5), 2.811442), ((1.0,), 1.0)]
)
def test_perplexity_of_known_probabilities_check_29(probabilities, expected):
    assert perplexity([math.log(p) for p in probabilities]) == pytest.approx(expected, abs=1e-6)


def test_perplexity_counts_certain_tokens_check_30():
    assert math.log(perplexity([0.0, 0.0, -2.0, -4.0])) == pytest.approx(1.5)
    assert perplexity([0.0, 0.0, 0.0]) == 1.0


def test_perplexity_of_an_impossible_answer_is_infinite():
    assert perplexity([-1000.0]) == math.inf


def test_perplexity_without_tokens_raises():
    with pytest.raises(ValueError, match="end token"):
        perplexity([])
