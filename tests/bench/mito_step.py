"""One optimizer step of MITO on 8 rows: without a reference model and with logits where answers are, against with both.

python -m tests.bench.mito_step

Both accumulate gradients over microbatches of 2 rows, clip and take a step of the same torch AdamW, in one process,
with both cores. Ours: `algo.consistency.mito` on `lm.forward`, the longest rows first, clean and attacked lists each
padded for themselves; what DeepSpeed adds is measured by `train_overhead`. Theirs: `today.accumulate` with `mito_loss`,
rows in file order, clean and attacked padded to one batch. The gradients are the same, which is checked.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ragdist.algo.consistency import mito
from ragdist.algo.losses import Batch, Totals
from ragdist.config import Settings
from ragdist.lm.forward import Sequences
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.records import Bundle, Forgery, OpenQuestion
from ragdist.systems.atm import training_rows
from tests.bench import atm_rows
from tests.bench.raft_useful_tokens import alone
from tests.bench.today import LEARN_BATCH, Today, accumulate, mito_loss

ROWS, WARM_UP = min(8, atm_rows.QUESTIONS), 2


def run() -> dict[str, Any]:
    """{"mito_step": ratio of seconds}."""
    with tempfile.TemporaryDirectory() as made:
        return {"mito_step": alone("tests.bench.mito_step", "both", Path(made))}


def both(folder: Path) -> dict[str, Any]:
    """Theirs, then ours."""
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    made = atm_rows.settings()
    policy, reference = load_model(made.model), load_model(made.model)
    learned = rows(folder, made)
    seconds, gradients = {}, {}
    steps = {"theirs": lambda part: accumulate(mito_loss, policy, reference, part, made)}
    steps["ours"] = lambda part: ours(policy, part, made)
    for name, step in steps.items():
        take(policy, step, learned[:WARM_UP], rate=0.0)
        seconds[name], gradients[name] = take(policy, step, learned, rate=0.0)
    mine, other = gradients["ours"], gradients["theirs"]
    cosine = torch.nn.functional.cosine_similarity(mine, other, 0).item()
    apart = ((mine - other).abs().max() / other.abs().max()).item()
    if cosine < 0.99999:
        raise ValueError(f"the two gradients have cosine {cosine}, they are not of one loss")
    lengths = [sum(map(len, row.tokens)) for row in learned]
    return {
        "ratio": round(seconds["theirs"] / seconds["ours"], 3),
        "ours": round(seconds["ours"], 2),
        "theirs": round(seconds["theirs"], 2),
        "unit": "s/step",
        "note": f"{len(learned)} rows of {min(lengths)} to {max(lengths)} tokens (both lists), {LEARN_BATCH} a pass, "
        f"float32; gradients: cosine 1 - {max(0.0, 1 - cosine):.0e}, largest difference {apart:.1g} of the largest "
        "entry; theirs holds a second model",
    }


def take(
    policy: Any, gradient: Callable[[Sequence[Bundle]], None], part: Sequence[Bundle], rate: float
) -> tuple[float, Tensor]:
    """Seconds of a step on these rows, and its gradient before clipping; with rate 0 the weights stay."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate)
    optimizer.zero_grad()
    began = time.monotonic()
    gradient(part)
    _wait()
    gap_s = time.monotonic()
    whole = torch.cat([weights.grad.flatten().double() for weights in policy.parameters()])
    _wait()
    gap_s = time.monotonic() - gap_s
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    _wait()
    return time.monotonic() - began - gap_s, whole


def _wait() -> None:
    """Until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ours(policy: Any, part: Sequence[Bundle], made: Settings) -> None:
    """Gradients of one step as `lm.learn` makes them."""
    total = Totals(sum(row.target_tokens for row in part), len(part))
    part = sorted(part, key=lambda row: -sum(map(len, row.tokens)))
    for at in range(0, len(part), LEARN_BATCH):
        batch = part[at : at + LEARN_BATCH]
        forward = Sequences(policy, batch, False, torch.empty(0))
        loss = mito(forward, Batch(len(batch), {}), total=total, kl_weight=made.atm.kl_weight)
        loss.scalar.backward()


def rows(folder: Path, made: Settings) -> list[Bundle]:
    """Clean and attacked lists; documents of the next question, cut short, stand for forgeries."""
    asked = list(atm_rows.questions(folder, made))[:ROWS]
    forged = [
        forgery
        for question, other in zip(asked, [*asked[1:], asked[0]], strict=True)
        for forgery in borrowed(question, other)
    ]
    return list(training_rows.attacked_lists(Today(None, load_tokenizer(made.model)), asked, forged, 0, made)[0])


def borrowed(question: OpenQuestion, other: OpenQuestion) -> list[Forgery]:
    """As many forgeries as there are samples, about as long as a forgery may be."""
    words = atm_rows.NEW_TOKENS * 2 // 3
    return [
        Forgery(
            id=f"{question.id}-{number}",
            question_id=question.id,
            number=number,
            title=page.title,
            text=" ".join(page.text.split()[:words]),
            states=question.wrong_answers[0],
            method="template",
        )
        for number, page in enumerate(other.documents[: atm_rows.SAMPLES])
    ]


if __name__ == "__main__":
    print(json.dumps(both(Path(sys.argv[2])) if len(sys.argv) > 1 else run(), indent=None if sys.argv[1:] else 1))
