"""What one process makes of the tiny model in float32, on whatever device it finds: `python -m tests.gpu.parity`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.read import ModelReader
from ragdist.lm.score import ModelScorer, load_scorer
from ragdist.lm.tune import tune
from ragdist.lm.write import ModelWriter
from tests import learning, tiny, training

WRITING: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 24},
    "sampled": {"max_new_tokens": 24, "samples": 3, "temperature": 1.0, "top_p": 0.9, "seed": 7},
}


def everything(model: Path, folder: Path) -> dict[str, Any]:
    """Losses of each way of learning, texts, log-probabilities and confidences; one phase after the other."""
    found: dict[str, Any] = {}
    for name, train in (
        ("tuned", {}),
        ("checkpointed", {"gradient_checkpointing": True}),
        ("sharded", {"zero_stage": 3, "offload": "all"}),
        ("adapter", {"lora": {"rank": 4}}),
    ):
        made = training.settings(model, **train)
        run = folder / name
        run.mkdir()
        tune(training.write_rows(folder / "rows.jsonl"), run, made)
        found[name] = [[line["loss"], line.get("grad_norm", 0.0)] for line in training.noted(run)]
    rated = folder / "scorer"
    rated.mkdir()
    scorer = tune(training.write_rated(folder / "rated.jsonl"), rated, training.settings(model), kind="scorer")
    found["scored"] = training.losses(rated)
    loaded = load_scorer(training.settings(model).model, scorer)
    pairs = [pair for pair, _ in training.pairs(9)]
    found["confidences"] = ModelScorer(loaded, training.render, 512).score(pairs)
    held = learning.resident(model, learning.settings(model))
    for loss in ("mito", "dpo"):
        found[loss] = [line["loss"] for line in learning.learn(held, loss, folder / loss)]
    config = training.settings(model).model
    whole, tokenizer = load_model(config), load_tokenizer(config)
    for name, how in WRITING.items():
        written = ModelWriter(whole, tokenizer, 4096).write(tiny.prompts(12), **how)
        found[name] = {f"{text.prompt_id}/{text.sample}": text.text for batch in written for text in batch}
    read = ModelReader(whole, 4096).read(tiny.examples(12))
    found["read"] = {name: values for batch in read for name, values in batch}
    return found


if __name__ == "__main__":
    (Path(sys.argv[2]) / "found.json").write_text(json.dumps(everything(Path(sys.argv[1]), Path(sys.argv[2]))))
