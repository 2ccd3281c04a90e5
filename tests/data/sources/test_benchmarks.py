"""Question files: the common form, a user's own columns, broken rows, and the real data beside the repository."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ragdist.config import ColumnsConfig, CorpusConfig, QuestionsConfig
from ragdist.data import questions
from ragdist.data.sources import benchmarks
from ragdist.errors import ConfigError, DataError
from ragdist.records import content_id

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
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
    "answers of objects": {"question": "Q?", "answers": [{"said": "x"}]},
    "unknown split": {"question": "Q?", "answers": ["x"], "split": "holdout"},
    "documents no list": {"question": "Q?", "answers": ["x"], "documents": 7},
    "document no object": {"question": "Q?", "answers": ["x"], "documents": [7]},
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
    path = write(tmp_path / "q.jsonl", ROW, {"question": "Q?", "answers": ["(", ")"]})
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
    rows = (question for question, _, _ in read(str(DATA / "babi.jsonl.gz")))
    kept, _ = questions.select(rows, QuestionsConfig(), 0)
    keys = {split: {(q.text, frozenset(q.oracle_ids)) for q in kept if q.split == split} for split in ("train", "test")}
    assert not keys["train"] & keys["test"]
    assert sum(map(len, keys.values())) == len(kept)
    assert len({text for text, _ in keys["train"]} & {text for text, _ in keys["test"]}) > 5


ANSWERS = {
    "false": (False, ("False",)),
    "true": (True, ("True",)),
    "zero": (0, ("0",)),
    "zero in a list": ([0], ("0",)),
    "zero with a point": (0.0, ("0",)),
    "whole number": (4.0, ("4",)),
    "number": (2.5, ("2.5",)),
    "some": ([None, "Ada", float("nan"), False, 3], ("Ada", "False", "3")),
    "lists in a list": ([["Ada", "Ada L."], ["Lovelace"]], ("Ada", "Ada L.", "Lovelace")),
    "an object as in SQuAD": ({"text": ["K2"], "answer_start": [7]}, ("K2",)),
    "objects in a list": ([{"text": "K2", "answer_start": 7}, {"text": "K 2"}], ("K2", "K 2")),
    "blanks around": ([" K2\n", "\ufeffK2\u200b"], ("K2",)),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answer_is_read_as_it_is_written(tmp_path, case):
    """T14, T16: whatever counts as false in Python is an answer all the same."""
    value, answers = ANSWERS[case]
    ((found, _, _),) = read(write(tmp_path / "q.jsonl", {"question": "Q?", "answers": value}))
    assert found.answers == answers


def test_truths_of_yes_no_questions_are_a_setting(tmp_path):
    """T14"""
    rows = [{"question": f"{value}?", "answers": value} for value in (False, True, 0)]
    path = write(tmp_path / "q.jsonl", *rows)
    assert [q.answers for q, _, _ in read(path, truths=("no", "yes"))] == [("no",), ("yes",), ("0",)]


NO_ANSWER = {
    "NaN": float("nan"),
    "nothing": None,
    "an empty list": [],
    "an empty str": "",
    "'  '": "  ",
    r"\[None, nan\]": [None, float("nan")],
    "inf": float("inf"),
    "an empty dict": {},
}


@pytest.mark.parametrize("told", NO_ANSWER)
def test_row_without_an_answer_is_named_with_its_column(tmp_path, told):
    """T14"""
    path = write(tmp_path / "q.jsonl", ROW, {"question": "Q?", "answers": NO_ANSWER[told]})
    with pytest.raises(DataError, match=rf"line 2: column 'answers' holds {told}"):
        read(path)


def test_falsy_ids_titles_and_nothing_elsewhere_are_what_they_are(tmp_path):
    """T14: 0 is an id, 1984 a title; NaN and null, as tables have them, are nothing."""
    nothing = dict.fromkeys(("split", "dataset", "long_answer", "wrong_answers", "meta"), float("nan"))
    documents = [
        {"title": 1984, "text": "By Orwell.", "kind": "golden"},
        {"title": None, "text": "b", "kind": "golden"},
    ]
    rows = [
        {"id": 0, "question": "Who?", "answers": "Orwell", "documents": documents, **nothing},
        {"id": 7.0, "question": 42, "answers": "x", "documents": None},
        {"id": float("nan"), "question": "R?", "answers": "x", "documents": float("nan")},
    ]
    found = read(write(tmp_path / "q.jsonl", *rows))
    assert [(q.id, q.text) for q, _, _ in found[:2]] == [("0", "Who?"), ("7", "42")]
    assert [chunk.title for chunk in found[0][1]] == ["1984", ""]
    assert (found[0][0].dataset, found[0][0].reasoning, found[0][0].wrong_answers) == ("", "", ())
    assert found[2][0].id == content_id("R?", "x")


@pytest.mark.parametrize("meta", ["handbook, page 3", 3, ["a"], None, {}, {"all_answers_required": None}])
def test_meta_that_says_nothing_of_answers_is_a_note(tmp_path, meta):
    """T14"""
    ((found, _, _),) = read(write(tmp_path / "q.jsonl", ROW | {"meta": meta}))
    assert not found.all_answers_required


def test_all_answers_required_is_true_or_false_and_nothing_else(tmp_path):
    """T14: the string "false" is not taken for true; alternatives within required answers are not known."""
    with pytest.raises(DataError, match=r"meta\.all_answers_required holds 'false'"):
        read(write(tmp_path / "q.jsonl", ROW | {"meta": {"all_answers_required": "false"}}))
    with pytest.raises(DataError, match="column 'answers' holds"):
        read(write(tmp_path / "r.jsonl", ROW | {"answers": [["a", "b"], ["c"]]}))


def test_question_and_reasoning_have_nothing_unseen_at_their_ends(tmp_path):
    """T16"""
    row = ROW | {
        "question": "\ufeff Who wrote Faust?\n",
        "long_answer": "He did. \u200b\n",
        "wrong_answers": [" Kant\n"],
    }
    ((found, _, _),) = read(write(tmp_path / "q.jsonl", row))
    assert (found.text, found.reasoning, found.wrong_answers) == ("Who wrote Faust?", "He did.", ("Kant",))


@pytest.mark.parametrize("kind", ["json", "csv", "semicolons", "tsv", "parquet", "utf-16", "gz"])
def test_questions_are_the_same_in_every_kind_of_file(tmp_path, kind):
    """T14, T17: null, false and 0 of a table too."""
    rows = [
        {"id": "a", "question": "Größe?", "answers": ["K2", "K 2"], "split": "train", "documents": ["a.txt"]},
        {"id": "b", "question": "Zero?", "answers": ["0"], "split": "test", "documents": None},
    ]
    cells = [
        [json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v or "" for v in row.values()] for row in rows
    ]
    separator = {"csv": ",", "semicolons": ";", "tsv": "\t"}.get(kind, ",")
    path = tmp_path / f"q.{ {'semicolons': 'csv', 'utf-16': 'jsonl', 'gz': 'jsonl.gz'}.get(kind, kind) }"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-16")
    elif kind in ("utf-16", "gz"):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(lines.encode("utf-16") if kind == "utf-16" else gzip.compress(lines.encode("utf-8-sig")))
    else:
        with path.open("w", encoding="cp1252", newline="") as file:
            csv.writer(file, delimiter=separator).writerows([list(rows[0]), *cells])
    found = [(q.id, q.text, q.answers, q.oracle_ids) for q, _, _ in read(str(path), source="folder", folder="x")]
    assert found == [("a", "Größe?", ("K2", "K 2"), ("a.txt",)), ("b", "Zero?", ("0",), ())]


def test_answers_of_a_parquet_column_with_gaps(tmp_path):
    """T14: what pandas makes of whole numbers beside nothing."""
    rows = {"question": ["a?", "b?"], "answers": [4.0, None]}
    parquet.write_table(pa.table(rows), tmp_path / "q.parquet")
    left_out = []
    found = read(str(tmp_path / "q.parquet"), broken="skip", left_out=left_out)
    assert [q.answers for q, _, _ in found] == [("4",)]
    assert "q.parquet, row 2: column 'answers' holds nothing" in left_out[0]


HALVES = {
    "id": {"id": "a\ud800"},
    "question": {"question": "Who \udfff wrote it?"},
    "an answer": {"answers": ["x", "Goe\ud834the"]},
    "a title": {"documents": [{"title": "\udc00", "text": "by x"}]},
    "a text": {"documents": [{"title": "t", "text": "by x \ud83d"}]},
    "reasoning": {"long_answer": "\ud83d"},
    "a wrong answer": {"wrong_answers": ["\ud83d"]},
    "the dataset": {"dataset": "\ud83d"},
    "a column's name": {"\ud83d": 1},
    "a note": {"meta": {"by": ["\ud83d"]}},
}


@pytest.mark.parametrize("case", HALVES)
def test_R6_half_a_character_is_named_with_its_line_or_skipped(tmp_path, case):
    path = write(tmp_path / "q.jsonl", ROW, {"question": "Q?", "answers": ["x"], **HALVES[case]})
    with pytest.raises(DataError, match=r"q\.jsonl, line 2: holds the half character U\+D[0-9A-F]{3}"):
        read(path)
    assert [question.id for question, _, _ in read(path, broken="skip")] == ["q1"]


def test_R6_half_a_character_in_bytes_or_in_a_cell_is_named_and_a_whole_pair_is_read(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"question": "Q \xed\xa0\x80?", "answers": ["x"]}\n')
    with pytest.raises(DataError, match="line 1"):
        read(str(path))
    cells = tmp_path / "q.csv"
    cells.write_text('question,answers\nQ?,"[""\\ud800""]"\n')
    with pytest.raises(DataError, match="half character"):
        read(str(cells))
    whole = tmp_path / "w.jsonl"
    whole.write_text('{"question": "Q \\ud83d\\ude00?", "answers": ["x"]}\n')
    assert next(iter(read(str(whole))))[0].text == "Q \U0001f600?"


@pytest.mark.parametrize("deep", [101, 900, 100_000])
@pytest.mark.parametrize("signs", ["[]", "{}"])
def test_R6_values_deep_in_one_another_are_named_with_their_line_or_skipped(tmp_path, deep, signs):
    begin, end = ("[", "]") if signs == "[]" else ('{"a": ', "}")
    path = write(tmp_path / "q.jsonl", ROW)
    with open(path, "a") as file:
        file.write(f'{{"question": "Q?", "answers": ["x"], "meta": {begin * deep}1{end * deep}}}\n')
    with pytest.raises(DataError, match=r"q\.jsonl, line 2: .*(too deep|deep in one another)"):
        read(path)
    assert [question.id for question, _, _ in read(path, broken="skip")] == ["q1"]
