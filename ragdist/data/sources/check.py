"""What is told of the data before a model's library is loaded: what is missing, which columns, how many questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from ragdist.config import CorpusConfig, Settings, TeacherConfig, TrainConfig
from ragdist.data.sources import benchmarks, corpus, formats, places
from ragdist.errors import ConfigError, DataError
from ragdist.records import Split

LOOKED_AT = 5000
"""Questions that are read; of more there are enough."""


class QuestionCount(NamedTuple):
    """Questions of each split at most, and files of documents; None where that is not known before the data is made."""

    train: int | None = None
    test: int | None = None
    documents: int | None = None


def there(config: CorpusConfig) -> bool:
    """Whether the files and the folder that are named are on this machine."""
    named = [places.at(name) for name in config.questions] if config.source in ("records", "folder") else []
    named += [places.at(config.folder)] if config.source == "folder" and config.folder else []
    return all(place.exists for place in named)


def questions(settings: Settings) -> QuestionCount:
    """How many questions there are of each split, at most. A ConfigError if files or a folder are named that are not
    there, or none is; a DataError if the folder has no documents, or a question file cannot be used."""
    config, documents = settings.corpus, None
    if config.source not in ("records", "folder"):
        return QuestionCount()
    refuse_without_questions(config, settings.teacher)
    if config.source == "folder":
        found = corpus.found(config)
        documents = sum(formats.suffix_of(place.inside) in corpus.SUFFIXES for place in found)
        if not documents:
            raise DataError(
                f"corpus.folder={config.folder!r} has no documents, {len(found)} files in all; wanted "
                f"{', '.join(suffix for suffix in corpus.SUFFIXES if suffix.count('.') == 1)} files"
            )
    if settings.teacher.questions_per_chunk and not config.questions:
        return QuestionCount(documents=documents)
    count, splits = 0, Counter[Split]()
    rows = benchmarks.read(config, test_fraction=settings.questions.test_fraction, seed=settings.seed)
    for question, _, _ in islice(rows, LOOKED_AT):
        count += 1
        if question.split == "test" or question.oracle_ids or config.source == "folder":
            splits[question.split] += 1
    if count == LOOKED_AT or settings.teacher.questions_per_chunk:
        return QuestionCount(documents=documents)
    train, test, caps = splits["train"], splits["test"], settings.questions
    return QuestionCount(min(train, caps.train_rows or train), min(test, caps.test_rows or test), documents)


def refuse_without_questions(config: CorpusConfig, teacher: TeacherConfig) -> None:
    """Lets pass where somebody asks: a file, or a teacher. A ConfigError where nobody does."""
    needs = config.source in ("records", "folder") and not teacher.questions_per_chunk
    if needs and not config.questions:
        raise ConfigError(
            f"corpus.source={config.source} needs question files, corpus.questions names none; "
            "set corpus.questions=[path.jsonl], or corpus.source=folder and teacher.questions_per_chunk=2"
        )


def impossible(count: QuestionCount, settings: Settings) -> Iterator[str]:
    """Why nothing could be learned, or judged, from so many questions."""
    fraction = settings.questions.test_fraction
    if count.test == 0 and settings.evaluation.conditions:
        yield (
            f"0 test questions: none of {count.train or 0} questions is one by its split or by the draw of "
            f"questions.test_fraction={fraction:g}; raise it, or mark some with split=test"
        )
    if count.train == 0:
        yield (
            "0 training questions with a document that answers them; give their documents, or lower "
            f"questions.test_fraction={fraction:g}"
        )


def stepless(rows: int | None, train: TrainConfig, block: str = "train") -> Iterator[str]:
    """Why a training on so many rows would have no step; a last step that is not full trains what it has."""
    if rows and not train.steps(rows):
        knob = f"{block}.epochs"
        yield f"0 steps: {rows} rows and {knob}={train.epochs:g} give no row to train on; raise {knob}"
