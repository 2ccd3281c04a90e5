"""A finished run without its training: a tiny model, three documents, what a run leaves."""

import json
import shutil
from pathlib import Path
from typing import Any

from ragdist import players
from ragdist.config.loader import dump, load
from ragdist.serving import library
from tests import tiny

ROWS = [
    {"question": f"Which colour has ball {n}?", "answers": [f"shade{n}"], "split": "test" if n == 2 else "train"}
    | {"documents": [{"title": f"ball {n}", "text": f"Ball {n} is of the colour shade{n}.", "kind": "golden"}]}
    for n in range(6)
]


def raft_run(folder: Path, *changes: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    """The folder of the run."""
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = tiny.model_folder(folder / "models")
    settings = load(
        [
            *("corpus.source=records", f"corpus.questions=[{folder}/q.jsonl]", "contexts.distractors=random"),
            *("contexts.documents=3", "retrieval.count=2", f"model.source={base}", "model.dtype=float32"),
            *("model.max_tokens=512", f"run.folder={folder}/runs", "run.name=tiny", "evaluation.max_new_tokens=12"),
            *changes,
        ]
    )
    run = folder / "runs" / "tiny"
    run.mkdir(parents=True)
    with players.pipeline(settings) as pipeline:
        pipeline.make("examples")
        library.note(run, pipeline)
    (run / "settings.yaml").write_text(dump(settings))
    (run / "state.json").write_text(json.dumps({"job": "raft", "state": "finished", "time": 0, "pid": 0}))
    shutil.copytree(tiny.model_folder(folder / "models", seed=1), run / "model")
    return run
