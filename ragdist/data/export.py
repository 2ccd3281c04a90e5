"""RAFT rows in the forms that other trainers take, with a card that says what they are.

    hf           data/*.parquet with RAFT's own columns, for `datasets.load_dataset(FOLDER)`
    completion   {prompt, completion}            chat   {messages: system, user, assistant}
    eval         {question, gold_final_answer, context}, test questions only

Each row holds its documents whole and in the order they are shown: cutting to a model's length is the trainer's
affair, and nothing is left out that the card does not count. A forged document is in no row; `forgeries` writes them
into a file of their own, each marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from ragdist.config import CorpusConfig, PromptsConfig, Settings
from ragdist.data import contexts, prompts
from ragdist.data.pipeline import Pipeline
from ragdist.errors import DataError
from ragdist.records import Chunk, Context, Question, Split, as_row
from ragdist.storage.atomic import encode

Form = Literal["hf", "completion", "chat", "eval"]
ROWS_PER_GROUP = 1000
UNKNOWN = "unknown"
LICENCE_ID = re.compile(r"[\w.+-]+")
"""The hub knows licences by such names; all else is `other` to it."""
SPLITS: tuple[Split, ...] = ("train", "test")


class ExportRow(NamedTuple):
    """A question with the documents that it is shown with."""

    question: Question
    context: Context
    documents: tuple[Chunk, ...]


@dataclass
class Counts:
    """What an export holds."""

    rows: dict[str, int] = field(default_factory=dict)
    """By split."""
    with_oracle: dict[str, int] = field(default_factory=dict)
    """Rows among them that show an oracle."""
    documents: int = 0
    forgeries: int = 0


def export(
    pipeline: Pipeline, folder: Path, form: Form, *, forgeries: bool = False, licence: str = "", stop: str = ""
) -> Counts:
    """Writes train and test rows and README.md into `folder`, one row in memory at a time.

    Args:
        pipeline: what made the rows; its stages are made now if they are not there.
        folder: empty.
        form: see above.
        forgeries: write the forged documents as well, as `forgeries.jsonl`.
        licence: of the documents, for the card; empty takes what the benchmark says of itself.
        stop: put after each completion, such as RAFT's `<STOP>`; most trainers add an end token of their own.

    Raises:
        DataError: there is not a single row.
    """
    counts, config = Counts(), pipeline.settings.prompts
    files: dict[str, dict[str, str]] = {"default": {}}
    for split in SPLITS[1:] if form == "eval" else SPLITS:
        found = (_shaped(row, form, config, stop) for row in _counted(rows(pipeline, split), split, counts))
        name = f"data/{split}.parquet" if form == "hf" else f"{split}.jsonl"
        (_write_parquet if form == "hf" else _write_lines)(folder / name, found)
        if counts.rows.get(split):
            files["default"][split] = name
    if not files["default"]:
        raise DataError(f"no row to export as {form}; `ragdist build` says where questions are left out")
    if forgeries:
        counts.forgeries = _write_lines(folder / "forgeries.jsonl", map(as_row, pipeline.forgeries))
        if counts.forgeries:
            files["forgeries"] = {"test": "forgeries.jsonl"}
    (folder / "README.md").write_text(card(pipeline, form, counts, files, licence))
    return counts


def rows(pipeline: Pipeline, split: Split) -> Iterator[ExportRow]:
    """Training questions as `contexts` shows them, test questions with their oracles among distractors."""
    settings, by_id = pipeline.settings, pipeline.chunk_by_id
    if split == "train":
        asked = {question.id: question for question in pipeline.questions if question.split == "train"}
        pairs: Iterable[tuple[Question, Context]] = (
            (asked[context.question_id], context) for context in pipeline.contexts
        )
    else:
        pairs = (
            (question, contexts.assemble(question, found, True, settings.contexts, settings.seed))
            for question, found in zip(pipeline.questions, pipeline.candidates, strict=True)
            if question.split == "test"
        )
    for question, context in pairs:
        yield ExportRow(question, context, tuple(by_id[i] for i in context.chunk_ids))


def card(pipeline: Pipeline, form: Form, counts: Counts, files: dict[str, dict[str, str]], licence: str = "") -> str:
    """README.md: a head that `datasets` and the hub read, counts, licence, and what made the rows.

    Paths and addresses of the documents are not in it.
    """
    settings, noted = pipeline.settings, pipeline.chunks.card["counts"]
    licence = licence or noted.get("licence", UNKNOWN)
    cite = f"\nCite {noted['citation']}." if "citation" in noted else ""
    head: dict[str, Any] = {
        "license": licence.lower() if LICENCE_ID.fullmatch(licence) else "other",
        "task_categories": ["question-answering"],
        "tags": ["ragdist", "raft"],
    }
    head["configs"] = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in paths.items()]}
        for name, paths in files.items()
        if paths
    ]
    table = [
        f"| {split} | {total} | {counts.with_oracle.get(split, 0)} | {counts.with_oracle.get(split, 0) / total:.1%} |"
        for split, total in counts.rows.items()
    ]
    counted = ", ".join(f"{name} {count}" for name, count in _stage_counts(pipeline).items())
    unknown = (
        "\nThe licence of the documents is not known to ragdist: find out before you hand this on "
        "(`--licence` writes it here)."
        if licence == UNKNOWN
        else ""
    )
    forged = (
        f"\n`forgeries.jsonl` holds {counts.forgeries} documents that were WRITTEN TO MISLEAD (`is_forged`), for tests "
        "of robustness. They are in no row above; never train on them as if they were true.\n"
        if counts.forgeries
        else ""
    )
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---

RAFT rows (arXiv 2403.10131) made by ragdist from {_origin(settings.corpus, noted)}, as `{form}`.

| split | rows | with their oracle | share |
|---|---|---|---|
{chr(10).join(table)}

P% asked for is {settings.contexts.oracle_fraction:.1%} (`contexts.oracle_fraction`, {settings.contexts.draw} draw) of
the training rows; test rows show what oracles are known. {counts.documents} documents are shown in all, each whole.
What the stages counted on the way: {counted or "nothing left out"}.

Licence of the documents: {licence}.{unknown}{cite}
{forged}
## Settings

```yaml
{yaml.safe_dump(_made_by(settings), sort_keys=False, allow_unicode=True).strip()}
```
"""


def _counted(found: Iterable[ExportRow], split: Split, counts: Counts) -> Iterator[ExportRow]:
    for row in found:
        counts.rows[split] = counts.rows.get(split, 0) + 1
        counts.with_oracle[split] = counts.with_oracle.get(split, 0) + bool(row.context.oracle_positions)
        counts.documents += len(row.documents)
        yield row


def _shaped(row: ExportRow, form: Form, config: PromptsConfig, stop: str) -> dict[str, Any]:
    question, documents = row.question, row.documents
    asked, target = (
        prompts.user_text(question.text, documents, config),
        prompts.target(question, config, row.context.oracle_positions),
    )
    if form == "completion":
        return {"prompt": asked, "completion": target + stop}
    if form == "chat":
        said = (("system", config.system), ("user", asked), ("assistant", target + stop))
        return {"messages": [{"role": role, "content": text} for role, text in said if text]}
    shown = {"title": [[one.title for one in documents]], "sentences": [[one.text for one in documents]]}
    if form == "eval":
        plain = prompts.target(question, config.replaced("answer", "plain"))
        return {
            **{"id": question.id, "question": question.text, "gold_final_answer": plain},
            **{"answers": list(question.answers), "context": shown},
            "oracle_positions": list(row.context.oracle_positions),
        }
    oracles = [documents[at].text for at in row.context.oracle_positions]
    return {
        "id": question.id,
        "type": "api call" if question.dataset.startswith("apibench") else "general",
        "question": question.text,
        "context": shown,
        "oracle_context": "\n\n".join(oracles),
        "cot_answer": target,
        "instruction": asked,
        "answers": list(question.answers),
        "oracle_positions": list(row.context.oracle_positions),
        "document_ids": [one.id for one in documents],
        "dataset": question.dataset,
    }


def _write_lines(path: Path, found: Iterable[dict[str, Any]]) -> int:
    """How many rows were written; no file for none."""
    written = 0
    with ExitStack() as opened:
        for written, row in enumerate(found, start=1):
            if written == 1:
                file = opened.enter_context(path.open("w"))
            file.write(encode(row) + "\n")
    return written


def _write_parquet(path: Path, found: Iterable[dict[str, Any]]) -> int:
    """How many rows were written; no file for none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, nested = pa.list_(pa.string()), pa.list_(pa.list_(pa.string()))
    kinds: dict[str, Any] = {
        "context": pa.struct([("title", nested), ("sentences", nested)]),
        **{"answers": texts, "document_ids": texts, "oracle_positions": pa.list_(pa.int64())},
    }
    writer: Any = None
    written, rest = 0, iter(found)
    while group := list(islice(rest, ROWS_PER_GROUP)):
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in group[0]])
        if writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(path, schema)
        writer.write_table(pa.Table.from_pylist(group, schema))
        written += len(group)
    if writer:
        writer.close()
    return written


def _stage_counts(pipeline: Pipeline) -> dict[str, int]:
    """What the stages left out or met, by their own names."""
    found: dict[str, int] = {}
    for stage in (pipeline.questions, pipeline.candidates, pipeline.contexts):
        for name, value in stage.card["counts"].items():
            number = len(value) if isinstance(value, list) else value
            if isinstance(number, int) and number and name not in ("with_oracle", *SPLITS):
                found[name.replace("_", " ")] = number
    if pipeline.settings.prompts.answer == "reasoned" and (
        invalid := pipeline.examples.card["counts"]["invalid_quotes"]
    ):
        found["invalid quotes"] = invalid
    return found


def _origin(corpus: CorpusConfig, noted: dict[str, Any]) -> str:
    named = {
        "apidocs": f"the documentation of {', '.join(corpus.packages)}",
        "records": f"question files ({', '.join(corpus.datasets) or 'all data sets in them'})",
        "folder": "a folder of documents",
        "benchmark": f"{corpus.benchmark} ({noted.get('repository')} at {noted.get('commit')})",
    }
    return named[corpus.source]


def _made_by(settings: Settings) -> dict[str, Any]:
    dumped = json.loads(settings.model_dump_json())
    told = {"apidocs": ("packages",), "records": ("datasets",), "folder": (), "benchmark": ("benchmark", "revision")}
    corpus = {name: dumped["corpus"][name] for name in ("source", *told[settings.corpus.source])}
    kept = ("chunks", "questions", "retrieval", "contexts", "prompts")
    return {"seed": settings.seed, "corpus": corpus, **{name: dumped[name] for name in kept}}
