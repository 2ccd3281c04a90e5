"""A folder of documents with questions about them, and the settings that make rows of them."""

from __future__ import annotations

import json
from pathlib import Path

from ragdist.config import Settings

COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey")


def write(folder: Path, size: int = 40) -> Path:
    """Writes the documents and questions; `settings(folder)` names them."""
    (folder / "documents").mkdir()
    asked = []
    for n in range(size):
        colour = COLOURS[n % len(COLOURS)]
        text = [f"# Machine {n}", f"Machine {n} is {colour} and stands in hall {n % 5}."]
        text += [f"The proxy of machine {n} listens on port {8000 + n}."]
        text += [f"Note {m} on machine {n}: the {COLOURS[(n + m) % 7]} lamp is for hall {m}." for m in range(9)]
        (folder / "documents" / f"machine-{n:02}.md").write_text("\n\n".join(text))
        asked.append({"question": f"Which port does machine {n} listen on?", "answers": [str(8000 + n)]})
    lines = (json.dumps(row) for row in asked)
    (folder / "questions.jsonl").write_text("\n".join(lines))
    return folder


def settings(folder: Path, **retrieval: object) -> Settings:
    """The settings for what `write` wrote into `folder`."""
    return Settings.model_validate(
        {
            "corpus": {
                "source": "folder",
                "folder": str(folder / "documents"),
                "questions": [str(folder / "questions.jsonl")],
            },
            "chunks": {"tokens": 64},
            "contexts": {"distractors": "hard", "documents": 4},
            "retrieval": retrieval,
        }
    )
