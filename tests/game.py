"""A small game of ATM that tests share: questions about balls, the tiny model on both sides, seconds a round."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ragdist.config import Settings
from ragdist.config.loader import resolve

COLOURS = ("red", "blue", "green")


def write_questions(path: Path, train: int = 8, test: int = 4) -> Path:
    """Questions with one golden document and two distractors each."""
    rows = []
    for number in range(train + test):
        colours = [COLOURS[(number + step) % 3] for step in range(3)]
        documents = [
            {"title": f"ball {number}.{step}", "text": f"Ball {number}.{step} is {colour}.", "kind": kind}
            for step, (colour, kind) in enumerate(zip(colours, ("golden", "distractor", "distractor"), strict=True))
        ]
        rows.append(
            {"question": f"Which colour has ball {number}.0?", "answers": [colours[0]], "wrong_answers": [colours[1]]}
            | {"documents": documents, "split": "train" if number < train else "test"}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(folder: Path, model: Path, **more: Any) -> Settings:
    """Two rounds over eight questions in microbatches of two, in float32."""
    learn = {"examples_per_step": 4, "microbatch": 2, "epochs": 1, "checkpoint_every": 1, "learning_rate": 1e-3}
    values: dict[str, Any] = {
        "run": {"folder": str(folder / "runs"), "name": "game"},
        "model": {"source": str(model), "dtype": "float32", "max_tokens": 512},
        "corpus": {"source": "records", "questions": [str(write_questions(folder / "questions.jsonl"))]},
        "contexts": {"oracle_fraction": 1.0, "documents": 3, "distractors": "given"},
        "evaluation": {"forgeries": 2, "max_new_tokens": 4, "resamples": 200},
        "atm": {"rounds": 2, "samples": 3, "max_new_tokens": 12, "questions_per_microbatch": 2},
        "cluster": {"deadline_s": 120},
        "attacker": {"train": learn},
        "generator": {"train": learn},
    }
    for block, changes in more.items():
        values[block] = {**values.get(block, {}), **changes}
    for side in ("attacker", "generator"):
        values[side] = {**values[side], "train": {**learn, **values[side].get("train", {})}}
    return resolve(values)


def journal(run: Path) -> dict[str, str]:
    """What a game left that must not depend on who died: each phase's file and each model, by digest."""
    files = [*run.glob("atm/**/*.json"), *run.glob("atm/*/*/model/*.safetensors")]
    files = [file for file in files if "model" not in file.parts[-2:-1] or file.suffix == ".safetensors"]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in sorted(files)}
