"""What lies in the folder that a command of each surface runs in."""

from __future__ import annotations

import json
from pathlib import Path

QUESTIONS = [
    {"id": f"q{n}", "question": f"How hot is kiln {n}?", "answers": [f"{900 + n} degrees"]}
    | {"split": "test" if n < 4 else "train"}
    | {"documents": [{"title": f"kiln {n}", "text": f"Kiln {n} is {900 + n} degrees hot.", "kind": "golden"}]}
    for n in range(12)
]


def documents(folder: Path) -> None:
    """Three documents, question files of every common form, a settings file."""
    (folder / "documents").mkdir()
    for name in ("kiln", "shop", "relay"):
        (folder / "documents" / f"{name}.md").write_text(f"# The {name}\n\nThe {name} is number {len(name)}.\n")
    for name, content in question_files().items():
        (folder / name).write_bytes(content)
    (folder / "s.yaml").write_text("corpus: {folder: documents, questions: [q.csv]}\nseed: 1\n")


def question_files() -> dict[str, bytes]:
    """The same questions as JSONL, JSON, CSV, TSV and parquet."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = "".join(f"{row['id']},{row['question']},{row['answers'][0]}\n" for row in QUESTIONS)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(QUESTIONS), sink)
    return {
        "q.jsonl": "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode(),
        "q.json": json.dumps(QUESTIONS).encode(),
        "q.csv": f"id,question,answer\n{rows}".encode(),
        "q.tsv": f"id\tquestion\tanswer\n{rows}".replace(",", "\t").encode(),
        "q.parquet": sink.getvalue(),
    }


def runs(folder: Path) -> None:
    """Two finished runs without their models, and one that failed."""
    from ragdist import results
    from ragdist.config import loader
    from ragdist.errors import TrainError
    from ragdist.tracking.run import metrics, open_run, span
    from tests.evaluation import test_kept_answers, test_report

    report = test_report.build(folder / "asked", "oracle", base=test_report.stubborn, RAFT=test_report.majority)
    for name in ("one", "two"):
        settings = loader.load([f"run.folder={folder / 'runs'}", f"run.name={name}", "model.source=no/model/here"])
        with open_run(settings, "raft") as run, span("train"):
            metrics("train", step=1, loss=0.5)
            results.conclude(run, report, [test_kept_answers.answer()])
    try:
        with open_run(loader.load([f"run.folder={folder / 'runs'}", "run.name=bad"]), "atm"):
            raise TrainError("rank 1")
    except TrainError:
        pass


BASES = {
    "settings": documents,
    "overrides": documents,
    "arguments": documents,
    "questions": documents,
    "corpus": documents,
    "runs": runs,
}
