"""Question files: the common form, a user's own columns, broken rows, and the real data beside the repository."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from ragdist.config import ColumnsConfig, CorpusConfig, QuestionsConfig
from ragdist.data import benchmarks, questions
from ragdist.errors import ConfigError, DataError
from ragdist.records import content_id

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
ROW = {
    "id": "q1",
    "dataset": "set",
    "split": "eval",
    "question": "Who wrote Faust?",
    "answers": ["Goethe", "the", "J. W. Goethe", "Goethe"],
    "long_answer": "He did.",
    "wrong_answers": ["Schiller", "goethe!"],
    "documents": [
        {"title": "Faust", "text": "by Goethe", "kind": "golden"},
        {"title": "Emma", "text": "by Austen", "kind": "distractor"},
        {"title": "", "text": "part two", "kind": "golden"},
        {"title": "Faust", "text": "by Schiller", "kind": "forged"},
        {"title": "Emma", "text": "by Austen", "kind": "distractor"},
    ],
    "meta": {"all_answers_required": True},
}


def write(path, *rows):
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def read(*files, seed=0, left_out=None, **config):
    config = CorpusConfig(**{"source": "records", **config}, questions=files)
    return list(benchmarks.read(config, test_fraction=0.2, seed=seed, broken=left_out))


def test_row_of_the_common_form_becomes_question_chunks_and_forgeries(tmp_path):
    """check 7: both golden documents are oracles of the question."""
    ((question, chunks, forgeries),) = read(write(tmp_path / "q.jsonl.gz", ROW))
    golden, emma, second = content_id("Faust", "by Goethe"), content_id("Emma", "by Austen"), content_id("", "part two")
    assert question.oracle_ids == (golden, second)
    assert question.near_miss_ids == (emma,)
    assert question.answers == ("Goethe", "J. W. Goethe")
    assert question.wrong_answers == ("Schiller",)
    assert (question.id, question.split, question.reasoning, question.dataset) == ("q1", "test", "He did.", "set")
    assert question.all_answers_required
    assert [chunk.id for chunk in chunks] == [golden, second, emma]
    (forgery,) = forgeries
    assert (forgery.text, forgery.states, forgery.method, forgery.number) == ("by Schiller", "Schiller", "dataset", 0)


def test_own_columns_and_plain_values_are_read(tmp_path):
    row = {"q": "What is it?", "a": 42, "docs": [{"text": "It is 42.", "kind": "golden"}], "why": "Because.", "id": 7}
    columns = ColumnsConfig(question="q", answers="a", documents="docs", reasoning="why")
    ((question, chunks, _),) = read(write(tmp_path / "q.jsonl", row), columns=columns)
    assert (question.id, question.text, question.answers, question.reasoning) == (
        "7",
        "What is it?",
        ("42",),
        "Because.",
    )
    assert question.oracle_ids == (chunks[0].id,)


def test_row_without_split_and_id_gets_both_by_its_content(tmp_path):
    rows = [{"question": f"Question {i}?", "answers": "yes"} for i in range(500)]
    path = write(tmp_path / "q.jsonl", *rows)
    found = [question for question, _, _ in read(path)]
    assert 60 < Counter(question.split for question in found)["test"] < 140
    assert found == [question for question, _, _ in read(path)]
    assert len({question.id for question in found}) == 500
    assert [q.split for q in found] != [q.split for q, _, _ in read(path, seed=1)]


def test_folder_questions_name_their_documents_and_make_no_chunks(tmp_path):
    rows = [
        {"question": "A?", "answers": ["x"]},
        {"question": "B?", "answers": ["y"], "documents": ["guide.md", {"title": "notes", "kind": "golden"}]},
    ]
    found = read(write(tmp_path / "q.jsonl", *rows), source="folder", folder="docs")
    assert [(question.oracle_ids, chunks) for question, chunks, _ in found] == [((), []), (("guide.md", "notes"), [])]


def test_only_the_datasets_asked_for_are_read(tmp_path):
    path = write(tmp_path / "q.jsonl", ROW, ROW | {"id": "q2", "dataset": "other"})
    assert [question.id for question, _, _ in read(path, datasets=("other",))] == ["q2"]
    with pytest.raises(DataError, match=r"corpus\.datasets=\['nothing'\].*'other', 'set'"):
        read(path, datasets=("nothing",))


BROKEN = {
    "no question": {"answers": ["x"]},
    "blank question": {"question": " ", "answers": ["x"]},
    "no answers": {"question": "Q?", "answers": []},
    "answers of objects": {"question": "Q?", "answers": [{"text": "x"}]},
    "unknown split": {"question": "Q?", "answers": ["x"], "split": "holdout"},
    "documents no list": {"question": "Q?", "answers": ["x"], "documents": "text"},
    "document no object": {"question": "Q?", "answers": ["x"], "documents": ["text"]},
    "unknown kind": {"question": "Q?", "answers": ["x"], "documents": [{"text": "t", "kind": "gold"}]},
    "document without text": {"question": "Q?", "answers": ["x"], "documents": [{"title": "t", "kind": "golden"}]},
    "repeated id": {"question": "Q?", "answers": ["x"], "id": "q1"},
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_row_stops_with_file_and_line_or_is_skipped_and_named(tmp_path, case):
    path = write(tmp_path / "q.jsonl", ROW, BROKEN[case])
    with pytest.raises(DataError, match=r"q\.jsonl, line 2: .*corpus\.broken=skip"):
        read(path)
    left_out = []
    assert [question.id for question, _, _ in read(path, broken="skip", left_out=left_out)] == ["q1"]
    assert len(left_out) == 1 and "q.jsonl, line 2" in left_out[0]


def test_question_without_a_scorable_answer_is_left_out_and_named(tmp_path):
    left_out = []
    path = write(tmp_path / "q.jsonl", ROW, {"question": "Q?", "answers": ["...", ")"]})
    assert len(read(path, left_out=left_out)) == 1
    assert "line 2" in left_out[0]


def test_missing_file_or_none_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"missing\.jsonl: cannot be read"):
        read(str(tmp_path / "missing.jsonl"))
    with pytest.raises(ConfigError, match=r"corpus\.questions"):
        read()


COUNTS = {  # dataset: records, golden, distractors, forged, without golden (the table of shared/data/README.md)
    "hotpotqa": (300, 600, 2374, 0, 0),
    "popqa": (276, None, None, 0, 89),
    "conflictqa_strategyqa": (956, None, 0, None, 0),
    "babi": (1600, None, None, 0, 0),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data beside the repository")
@pytest.mark.parametrize("name", COUNTS)
def test_development_data_has_the_records_that_its_readme_counts(name):
    records, golden, distractors, forged, without = COUNTS[name]
    rows = read(str(DATA / f"{name}.jsonl.gz"))
    found = [question for question, _, _ in rows]
    assert len(found) == records
    assert sum(not question.oracle_ids for question in found) == without
    for wanted, got in (
        (golden, sum(len(question.oracle_ids) for question in found)),
        (distractors, sum(len(question.near_miss_ids) for question in found)),
        (forged, sum(len(forgeries) for _, _, forgeries in rows)),
    ):
        assert wanted in (None, got)
    chunk_ids = {chunk.id for _, chunks, _ in rows for chunk in chunks}
    assert all({*question.oracle_ids, *question.near_miss_ids} <= chunk_ids for question in found)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data beside the repository")
def test_stories_of_babi_stay_apart_and_no_pair_of_text_and_oracles_leaks():
    """check 19, for data whose question texts repeat with other stories."""
    counts = {}
    rows = (question for question, _, _ in read(str(DATA / "babi.jsonl.gz")))
    kept = questions.select(rows, QuestionsConfig(), 0, counts)
    keys = {split: {(q.text, frozenset(q.oracle_ids)) for q in kept if q.split == split} for split in ("train", "test")}
    assert not keys["train"] & keys["test"]
    assert sum(map(len, keys.values())) == len(kept)
    assert len({text for text, _ in keys["train"]} & {text for text, _ in keys["test"]}) > 5
