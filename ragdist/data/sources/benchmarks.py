"""Question files with their documents: the benchmarks' common form, and a user's own by column names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ragdist.config import CorpusConfig
from ragdist.data.matching import contains, flat, key, saying, words
from ragdist.data.questions import LABELS, split_of
from ragdist.data.sources import places, values
from ragdist.data.sources.columns import Columns, Taken
from ragdist.data.sources.files import Broken, rows
from ragdist.errors import ConfigError, DataError
from ragdist.records import Chunk, Forgery, Question, Split, content_id

VERSION = 2
"""Of the questions and chunks that the same files give."""
SPLITS: dict[str, Split] = {"train": "train", **dict.fromkeys(("eval", "validation", "dev", "test"), "test")}
KINDS = ("golden", "distractor", "forged")
TEXTS = ("text", "contents", "content", "passage", "page_content")
"""What others call a document's text."""
SourceRow = tuple[Question, list[Chunk], list[Forgery]]


def read(
    config: CorpusConfig, *, test_fraction: float, seed: int, broken: list[str] | None = None
) -> Iterator[SourceRow]:
    """Each question with its golden and distractor chunks and its forgeries, in the order of the files.

    Golden documents are the question's `oracle_ids`, distractors its `near_miss_ids`; a text has the same id in every
    row. With `corpus.source=folder` documents only name what the folder holds: the titles or paths of golden ones stand
    in `oracle_ids` until `questions.link` finds their chunks, and no chunk is made. Answers of which nothing but
    punctuation is there are dropped, a question that has no other is left out. `broken` gets `where: why` for each row
    that is left out. A ConfigError if no question file is named; a DataError if a row cannot be used (and
    `corpus.broken` is stop), or none is left.
    """
    if not config.questions:
        raise ConfigError("corpus.questions names no file; set corpus.questions=[path.jsonl]")
    policy, ids, others = Broken(config.broken, [] if broken is None else broken), set[str](), set[str]()
    empty = True
    for name in config.questions:
        columns = Columns(name, config.columns, names_only=config.source == "folder")
        for where, row in rows(places.at(name), policy):
            empty = False
            dataset = values.written(row.get("dataset")) or ""
            if config.datasets and dataset not in config.datasets:
                others.add(dataset)
                continue
            try:
                found = _row(*columns.of(row), config, test_fraction, seed)
                if found[0].id in ids:
                    raise DataError(_repeats(row, found[0].id, config.columns.id))
            except DataError as error:
                policy.add(where, error)
                continue
            if not found[0].answers:
                policy.named.append(f"{where}: left out, its answers are nothing but punctuation")
                continue
            ids.add(found[0].id)
            yield found
    if empty and not policy.named:
        raise DataError(
            f"corpus.questions={list(config.questions)}: no rows are there, the files are empty or end after their "
            "first line; wanted a row for each question, with columns such as question and answer"
        )
    if not ids:
        what = f"is of corpus.datasets={list(config.datasets)}, only of {sorted(others)}" if others else "can be used"
        what += f"; {policy.named[0]}" if policy.named else ""
        raise DataError(f"no row of corpus.questions={list(config.questions)} {what}")


def _repeats(row: Mapping[str, Any], name: str, column: str) -> str:
    if values.written(row.get(column)):
        return f"id {name!r} repeats; column {column!r} must be unique"
    return "repeats an earlier row, the same question with the same answers and documents"


def _row(row: Mapping[str, Any], columns: Taken, config: CorpusConfig, test_fraction: float, seed: int) -> SourceRow:
    text = values.trimmed(_string(row, columns.question))
    every = _all_required(row)
    answers = _answers(row, columns.answers, config.truths, nested=not every)
    if not answers:
        raise DataError(
            f"column {columns.answers!r} holds {_told(row.get(columns.answers))} and no answer; the columns' names are "
            "set in corpus.columns"
        )
    answers = saying(answers)
    by_kind = _documents(row, columns.documents, answers, titles_only=config.source == "folder")
    name = values.written(row.get(columns.id)) or content_id(text, *answers, *(i for k in by_kind.values() for i in k))
    right = set(map(key, answers))
    stated = _stated(row, columns.documents)
    wrong = tuple(dict.fromkeys([*_answers(row, "wrong_answers", config.truths), *stated.values()]))
    question = Question(
        id=name,
        text=text,
        answers=answers,
        oracle_ids=tuple(by_kind["golden"]),
        split=_split(row, columns.split) or split_of(flat(text).casefold(), test_fraction, seed),
        near_miss_ids=tuple(i for i in by_kind["distractor"] if i not in by_kind["golden"]),
        wrong_answers=tuple(answer for answer in wrong if key(answer) not in {"", *right}),
        reasoning=values.trimmed(_string(row, columns.reasoning, needed=False)),
        dataset=values.written(row.get("dataset")) or "",
        all_answers_required=every,
    )
    chunks = [chunk for kind in ("golden", "distractor") for chunk in by_kind[kind].values() if chunk]
    return question, chunks, _forgeries(question, [chunk for chunk in by_kind["forged"].values() if chunk], stated)


def _documents(
    row: Mapping[str, Any], columns: Sequence[tuple[str, str]], answers: Sequence[str], *, titles_only: bool
) -> dict[str, dict[str, Chunk | None]]:
    """For each kind its chunks by id, each once; by name and without a chunk where only titles count.

    Documents of a column that says no kind are golden if they are alone, are said to have the answer or hold one;
    where there are golden ones by name, no other is.
    """
    found: dict[str, dict[str, Chunk | None]] = {kind: {} for kind in KINDS}
    unknown: dict[str, tuple[Chunk, bool]] = {}
    for column, usual in columns:
        every = _listed(row, column, "title" if titles_only else "text")
        for document in every:
            if titles_only:
                kind = document.get("kind") or "golden"
                found[_kind(kind)][_string(document, "title")] = None
                continue
            title, text = _string(document, "title", needed=False), _string(document, _text_column(document))
            name = content_id(title, text)
            chunk = Chunk(id=name, document_id=name, title=title, text=text)
            if kind := document.get("kind") or usual:
                found[_kind(kind)][name] = chunk
            else:
                unknown[name] = chunk, document.get("has_answer") is True or len(every) == 1
    proving = [answer for answer in answers if words(answer).strip() not in LABELS]
    named = bool(found["golden"])
    for name, (chunk, known) in unknown.items():
        golden = not named and (known or any(contains(chunk.text, answer) for answer in proving))
        found["golden" if golden else "distractor"][name] = chunk
    return found


def _stated(row: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What forged documents argue for, by their ids, where they say it themselves."""
    every = (document for column, _ in columns for document in _listed(row, column, "text"))
    said = ((document, values.trimmed(_string(document, "states"))) for document in every if document.get("states"))
    return {
        content_id(_string(document, "title", needed=False), _string(document, _text_column(document))): states
        for document, states in said
    }


def _listed(row: Mapping[str, Any], column: str, plain: str) -> list[Mapping[str, Any]]:
    """The documents of a column as objects; one that is a string is what `plain` says of it."""
    value = row.get(column)
    if values.missing(value) or value == "":
        return []
    every: list[Any] = value if isinstance(value, list) else [value]
    for document in every:
        if not isinstance(document, str | Mapping):
            raise DataError(
                f"column {column!r} holds a {type(document).__name__}, wanted texts or a list of {{title, text, kind}}"
            )
    return [{plain: one} if isinstance(one, str) else one for one in every]


def _kind(kind: Any) -> str:
    if kind not in KINDS:
        raise DataError(f"a document is of kind {kind!r}, wanted {', '.join(KINDS)}")
    return str(kind)


def _text_column(document: Mapping[str, Any]) -> str:
    return next((name for name in TEXTS if name in document), "text")


def _forgeries(question: Question, forged: list[Chunk], stated: Mapping[str, str]) -> list[Forgery]:
    usual = question.wrong_answers[0] if question.wrong_answers else ""
    return [
        Forgery(
            id=content_id("dataset", question.id, str(number), chunk.id),
            question_id=question.id,
            number=number,
            title=chunk.title,
            text=chunk.text,
            states=stated.get(chunk.id, usual),
            method="dataset",
        )
        for number, chunk in enumerate(forged)
    ]


def _string(row: Mapping[str, Any], column: str, *, needed: bool = True) -> str:
    value = row.get(column)
    if isinstance(value, str) and (values.trimmed(value) or not needed):
        return value
    if values.missing(value) and not needed:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool) and (number := values.written(value)):
        return number
    raise DataError(
        f"column {column!r} holds {_told(value)}, wanted a string; the columns' names are set in corpus.columns"
    )


def _told(value: Any) -> str:
    """A value as an error tells it."""
    if values.missing(value):
        return "nothing" if value is None else "NaN"
    return f"an empty {type(value).__name__}" if value in ("", [], {}) else f"{value!r:.60}"


def _answers(row: Mapping[str, Any], column: str, truths: tuple[str, str], *, nested: bool = True) -> tuple[str, ...]:
    """What the column holds as answers, each once.

    Strings, numbers and truth values, alone or in a list (`nested`: or in lists in it), or in the `text` of an object
    as SQuAD has them; null and NaN are none; anything else is a DataError.
    """
    found: dict[str, None] = {}
    left = [(row.get(column), 0)]
    while left:
        value, depth = left.pop(0)
        if isinstance(value, Mapping) and "text" in value:
            value = value["text"]
        if isinstance(value, list | tuple) and (nested or not depth):
            left[:0] = [(inner, depth + 1) for inner in value]
        elif not values.missing(value):
            answer = values.written(value, truths)
            if answer is None:
                wanted = "a string, a number, true or false, or a list of these"
                raise DataError(f"column {column!r} holds {_told(value)}, wanted {wanted}")
            found |= {answer: None} if answer else {}
    return tuple(found)


def _all_required(row: Mapping[str, Any]) -> bool:
    """`meta.all_answers_required`; a `meta` that is no object is somebody's note."""
    meta = row.get("meta")
    value = meta.get("all_answers_required") if isinstance(meta, Mapping) else None
    if values.missing(value):
        return False
    if value not in (True, False):
        raise DataError(f"meta.all_answers_required holds {value!r:.60}, wanted true or false")
    return bool(value)


def _split(row: Mapping[str, Any], column: str) -> Split | None:
    value = row.get(column)
    if values.missing(value) or value == "":
        return None
    said = (values.written(value) or "").lower()
    if said not in SPLITS:
        raise DataError(f"column {column!r} holds {_told(value)}, wanted {', '.join(SPLITS)}")
    return SPLITS[said]
