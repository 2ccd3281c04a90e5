"""Forging and grading of a round: the first half of what `atm_round` measures, from the same run.

python -m tests.bench atm_round atm_forge_grade
"""

from tests.bench.atm_round import run

__all__ = ["run"]
