"""How busy 64 ranks are over a step of 256 rows of mixed lengths: rows dealt by tokens against microbatches in turn.

python -m tests.bench busy_share

A simulation of lengths, no model: a rank works as long as it has tokens and then waits for the fullest one. Lengths
are those of three kinds of rows, drawn by seed, in equal shares: closed book 60 to 200 tokens, RAFT's lists 200 to
1,200, ATM's clean and attacked lists of one row 1,200 to 2,400. Theirs: microbatches of two rows, the longest first,
dealt in turn. In lockstep every pass ends when the longest of that pass does, as ZeRO-3 has it.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

from ragdist.config import TrainConfig
from ragdist.draws import rng_for
from ragdist.lm.order import Passes, busy_share, passes

RANKS, ROWS, STEPS = 64, 256, 20
KINDS = ((60, 200), (200, 1200), (1200, 2400))


def run() -> dict[str, Any]:
    """{"busy_share": mean over steps}."""
    found = {name: [_shares(step, train) for step in range(STEPS)] for name, train in _cuts().items()}
    (ours, ours_together, ours_padded), (theirs, theirs_together, theirs_padded) = (
        [mean(column) for column in zip(*found[name], strict=True)] for name in ("ours", "theirs")
    )
    worst = min(share for share, *_ in found["ours"])
    return {
        "busy_share": {
            "ratio": round(ours, 3),
            "ours": round(ours, 3),
            "theirs": round(theirs, 3),
            "unit": "share of the ranks' time",
            "note": f"the least of {STEPS} steps {worst:.3f}; in lockstep, pass by pass, {ours_together:.2f} against "
            f"{theirs_together:.2f}; padding {ours_padded:.2f} of the tokens computed against {theirs_padded:.2f}",
        }
    }


def _cuts() -> dict[str, TrainConfig]:
    return {
        "ours": TrainConfig(examples_per_step=ROWS, tokens_per_pass=KINDS[-1][1]),
        "theirs": TrainConfig(examples_per_step=ROWS, microbatch=2),
    }


def _shares(step: int, train: TrainConfig) -> tuple[float, float, float]:
    """How busy ranks are over the step, how busy where all wait behind each pass, and the padding."""
    rng = rng_for(0, "bench/busy", str(step))
    lengths = sorted((rng.randint(*KINDS[row % len(KINDS)]) for row in range(ROWS)), reverse=True)
    dealt: Passes = passes(range(ROWS), lengths, train, RANKS)
    tokens = [[sum(lengths[row] for row in one) for one in hand] for hand in dealt]
    padded = sum(max(lengths[row] for row in one) * len(one) for hand in dealt for one in hand if one)
    together = sum(map(sum, tokens)) / (RANKS * sum(map(max, zip(*tokens, strict=True))))
    return busy_share([sum(hand) for hand in tokens]), together, 1 - sum(lengths) / padded
