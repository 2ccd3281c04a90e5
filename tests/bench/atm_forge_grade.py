"""Forging and grading of a round: the first half of what `atm_round` measures, which gives this result too.

python -m tests.bench atm_forge_grade
"""

from tests.bench.atm_round import forge_grade

run = forge_grade
