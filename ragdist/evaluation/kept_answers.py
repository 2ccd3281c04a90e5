"""Every answer of a run with all that its model was shown: answers.parquet, one form for all systems and for sweeps.

A row for each model, condition and question; docs/report.md says what each column holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ragdist.data.teaching.replies import declines
from ragdist.errors import ConfigError
from ragdist.evaluation.cases import Case
from ragdist.records import Chunk, Forgery, OpenQuestion, Page, Prediction, Question
from ragdist.storage.atomic import atomic_file, read_texts, translate_errors

ANSWERS = "answers.parquet"
Kind = Literal["oracle", "distractor", "retrieved", "forged"]
BETWEEN = " | "
"""Stands between several wrong answers that forgeries argue for."""
AT_ONCE = 2000
"""Rows that are held as columns while the file is written."""


class Shown(NamedTuple):
    """A document as it stood in a list. Example: Shown("pathlib.Path.read_text", "read_text(...)", "oracle", "03...").

    `retrieved` is what a search found that is not known to hold the answer, `distractor` what was put there.
    """

    title: str
    text: str
    kind: Kind
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """One answer. Example: KeptAnswer(question_id="77...", condition="attacked", model="RAFT", answer="None", ...)."""

    question_id: str
    question: str
    answers: tuple[str, ...]
    """The right ones; any one is right."""
    condition: str
    documents: tuple[Shown, ...]
    """In the order they were shown."""
    forged_answer: str
    """What the question's forgeries argue for, shown or not; empty where it has none."""
    model: str
    text: str
    """All that the model wrote."""
    answer: str
    """The final answer in it, which the scores judge."""
    subspan_em: float
    exact_match: float
    f1: float
    states_forgery: bool | None
    """Whether it repeats the forged answer; None where the question has no forgery."""
    abstained: bool
    """Whether it is not right, and empty or a word that it cannot be said."""
    ended: bool
    """False when the limit of new tokens cut the text off."""
    cut_tokens: int
    """Document tokens that did not fit into the prompt."""
    seed: int
    """Of the run, which tells apart what a sweep asked several times."""


_DOCUMENT = pa.struct([(name, pa.string()) for name in Shown._fields])
_TYPES = {
    **{"answers": pa.list_(pa.string()), "documents": pa.list_(_DOCUMENT)},
    **dict.fromkeys(("subspan_em", "exact_match", "f1"), pa.float64()),
    **dict.fromkeys(("states_forgery", "abstained", "ended"), pa.bool_()),
    **dict.fromkeys(("cut_tokens", "seed"), pa.int64()),
}
COLUMNS = tuple(KeptAnswer.__dataclass_fields__)
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])


def shown(
    documents: Iterable[Chunk | Page | Forgery], oracle_ids: Iterable[str], other: Kind = "distractor"
) -> tuple[Shown, ...]:
    """The documents with what each is; `other` is what those are that neither hold the answer nor are forged."""
    golden = set(oracle_ids)

    def kind(document: Chunk | Page | Forgery) -> Kind:
        return "forged" if isinstance(document, Forgery) else "oracle" if document.id in golden else other

    return tuple(Shown(one.title, one.text, kind(one), one.id) for one in documents)


def argued(states: Iterable[str]) -> str:
    """What forgeries argue for, of what each states."""
    return BETWEEN.join(dict.fromkeys(filter(None, states)))


def rows(
    asked: Mapping[str, Iterable[Prediction]], cases: Iterable[Case], questions: Iterable[Question], seed: int
) -> list[KeptAnswer]:
    """What models answered beside what they were shown.

    Args:
        asked: predictions by label.
        cases: all that were asked.
        questions: those of the cases, perhaps more.
        seed: the run's.
    """
    by_key: dict[tuple[str, str], Case] = {(case.question_id, case.condition): case for case in cases}
    documents = {key: _shown(case) for key, case in by_key.items()}
    asked_of = {question.id: question for question in questions}
    return [
        of(prediction, asked_of[prediction.question_id], documents[key], argued(by_key[key].wrong), seed)
        for predictions in asked.values()
        for prediction in predictions
        for key in [(prediction.question_id, prediction.condition)]
    ]


def _shown(case: Case) -> tuple[Shown, ...]:
    return shown(case.documents, case.oracle_ids, "retrieved" if case.condition == "retrieved" else "distractor")


def of(
    prediction: Prediction, question: Question | OpenQuestion, documents: tuple[Shown, ...], forged: str, seed: int
) -> KeptAnswer:
    """The answer beside what was shown; `forged` is what the question's forgeries argue for."""
    return KeptAnswer(
        question_id=question.id,
        question=question.text,
        answers=question.answers,
        condition=prediction.condition,
        documents=documents,
        forged_answer=forged,
        model=prediction.model,
        text=prediction.text,
        answer=prediction.answer,
        subspan_em=prediction.subspan,
        exact_match=prediction.em,
        f1=prediction.f1,
        states_forgery=prediction.states_forgery,
        abstained=abstains(prediction.answer, prediction.subspan),
        ended=prediction.ended,
        cut_tokens=prediction.cut_tokens,
        seed=seed,
    )


def abstains(answer: str, right: float) -> bool:
    """Whether it is empty, or says that it cannot be said, and that is not the right answer."""
    return not right and (not answer.strip() or declines(answer))


def to_table(found: Sequence[KeptAnswer]) -> pa.Table:
    """The answers as columns."""
    return pa.Table.from_pylist([_plain(row) for row in found], SCHEMA)


def _plain(row: KeptAnswer) -> dict[str, object]:
    return {name: getattr(row, name) for name in COLUMNS} | {"documents": [one._asdict() for one in row.documents]}


def write(found: Iterable[KeptAnswer] | pa.Table, folder: Path) -> Path:
    """Every answer as `answers.parquet`, which replaces the one that is there.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / ANSWERS
    with translate_errors(folder), atomic_file(path) as half, pq.ParquetWriter(half, SCHEMA, compression="zstd") as out:
        for part in [found] if isinstance(found, pa.Table) else _parts(found):
            out.write_table(part)
    return path


def _parts(found: Iterable[KeptAnswer]) -> Iterator[pa.Table]:
    rest = iter(found)
    while part := list(itertools.islice(rest, AT_ONCE)):
        yield to_table(part)


def read(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The answers of a run, perhaps not all columns.

    Raises:
        ConfigError: there are none, or they are not in this form.
    """
    path = folder / ANSWERS
    if not path.is_file():
        raise nothing(folder, ANSWERS)
    try:
        found = pq.read_table(path, columns=list(columns) if columns else None, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be read as answers of ragdist ({why}); finish the run again") from None
    if missing := [name for name in columns or COLUMNS if name not in found.column_names]:
        names = ", ".join(missing)
        raise ConfigError(f"{path} has no column {names}: another version of ragdist wrote it; finish the run again")
    return found


def nothing(folder: Path, name: str) -> ConfigError:
    """Why a folder has no such file of a finished run that this version can read, and what to do."""
    state = read_texts(folder / "state.json", "state")["state"] if (folder / "state.json").is_file() else ""
    if state == "finished":
        why = (
            "another version of ragdist finished it; the command that began it leaves this version's report, and asks "
            "only what was not kept. report.md there is as it was"
        )
    elif state:
        why = f"the run is {state}; finish it with the command that began it"
    else:
        why = "it is no run's folder; `ragdist runs FOLDER` lists those that are there"
    return ConfigError(f"{folder} has no {name} to show: {why}")
