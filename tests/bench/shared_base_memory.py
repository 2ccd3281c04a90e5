"""Memory of both sides of ATM as two adapters over one base, against a process for each side with a base of its own.

python -m tests.bench.shared_base_memory

SmolLM2-135M in float32, in fresh processes, one after the other: the attacker learns a step of DPO, the generator one
of MITO, both write. Resident memory at the end, less that after the imports, with what is freed given back:
models, optimizers and whatever their engines hold between phases. Theirs is the sum of both processes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.lm.load import load_tokenizer
from ragdist.lm.resident import Resident
from ragdist.lm.residents import SharedResidents
from ragdist.lm.turns import ByRole
from ragdist.records import Bundle, Prompt
from tests.bench.raft_useful_tokens import MODEL, alone
from tests.bench.trio_memory import resident_mb, used
from tests.learning import LOSSES

RANK, NEW_TOKENS, ROWS = 16, 8, 2
SIDES = ("attacker", "generator")
LEARNS = ("dpo", "mito")


def run() -> dict[str, Any]:
    """{"shared_base_memory": resident MB of one process with both sides / of two, each with one}."""
    with tempfile.TemporaryDirectory() as made:
        found = {who: alone("tests.bench.shared_base_memory", who, Path(made) / who) for who in (*SIDES, "both")}
    both, apart = found["both"], [found[side] for side in SIDES]
    total = {name: sum(one[name] for one in apart) for name in both}
    return {
        "shared_base_memory": {
            "ratio": round(both["kept_mb"] / total["kept_mb"], 3),
            "ours": round(both["kept_mb"], 1),
            "theirs": round(total["kept_mb"], 1),
            "unit": "MB",
            "note": f"float32, ZeRO 0, adapters of rank {RANK} on all linear layers, after a step of {ROWS} rows and "
            f"texts of {NEW_TOKENS} tokens; what torch and the libraries take comes to {both['imports_mb']:.0f} / "
            f"{total['imports_mb']:.0f} MB more",
        }
    }


def settings() -> Settings:
    """Both sides learn a step of a few short rows."""
    few = {"examples_per_step": ROWS, "microbatch": 1, "lora": {"rank": RANK}, "zero_stage": 0, "warmup": 0}
    side = {"train": few | {"learning_rate": 1e-4}}
    about = {"model": {"source": MODEL, "dtype": "float32"}, "atm": {"layout": "shared_base"}}
    return resolve(about | {"attacker": side, "generator": side})


def rows(made: Settings, side: str) -> list[Bundle]:
    """For the attacker two answers after one prompt, for the generator one answer after two."""
    encode = load_tokenizer(made.model).encode
    first, other = (tuple(encode(f" {colour}, I think.").ids) for colour in ("red", "blue"))
    found = []
    for row in range(ROWS):
        clean, attacked = (tuple(encode("The ball is on the table. " * (2 + row + more)).ids) for more in (0, 3))
        pairs = ((clean, first), (clean, other)) if side == "attacker" else ((clean, first), (attacked, first))
        starts = tuple(len(start) for start, _ in pairs)
        found.append(Bundle(id=f"{row}", tokens=tuple(start + answer for start, answer in pairs), prompt_tokens=starts))
    return found


def hold(who: str, folder: Path) -> dict[str, float]:
    """One side, or both, learn and write."""
    torch.set_num_threads(1)  # memory does not go by it, and it takes no longer where the cores are busy
    made = settings()
    asked, before = {side: rows(made, side) for side in SIDES}, resident_mb()
    held: Any
    if who == "both":
        held = SharedResidents((MODEL, MODEL), made, made.attacker, (0, 0))
        models = held.roles
    else:
        held = Resident(MODEL, made, getattr(made, who), 0)
        models = [held]
    loaded = resident_mb()
    for role, side in enumerate(SIDES if who == "both" else (who,)):
        function, prepare = LOSSES[LEARNS[SIDES.index(side)]]
        (folder / side).mkdir(parents=True)
        held.begin(ByRole(role, function) if who == "both" else function, asked[side], prepare, folder / side)
        held.steps(1)
        held.finish()
    held.open_phase()
    for model in models:
        prompts = [Prompt(id=row.id, tokens=row.tokens[0]) for row in asked["attacker"]]
        for _ in model.write(prompts, max_new_tokens=NEW_TOKENS):
            pass
    held.close_phase()
    return used(before, loaded) | {"imports_mb": before}


if __name__ == "__main__":
    measured = hold(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else run()
    print(json.dumps(measured, indent=None if sys.argv[1:] else 1))
