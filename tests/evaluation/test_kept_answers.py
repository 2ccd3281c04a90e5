"""answers.parquet: what each model said beside what it was shown, as pandas and datasets read it."""

from collections import Counter

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragdist.errors import ConfigError
from ragdist.evaluation import kept_answers
from ragdist.evaluation.kept_answers import KeptAnswer, Shown
from tests.evaluation import world

HOSTILE = "</script><script>alert(1)</script>\x1b[31m\u202e & <b>"


def answer(**changed):
    values = {
        **{"question_id": "q0", "question": "What is `size`?", "answers": ("1", "one"), "condition": "oracle"},
        **{"documents": (Shown("m.f", "f(size=1)", "oracle", "c0"),), "forged_answer": "2", "model": "base"},
        **{"text": "1", "answer": "1", "subspan_em": 1.0, "exact_match": 1.0, "f1": 1.0, "states_forgery": False},
        **{"abstained": False, "ended": True, "cut_tokens": 0, "seed": 0},
    }
    return KeptAnswer(**{**values, **changed})


def asked(tmp_path, **evaluation):
    """The world's answers by a rule, with the lists that were shown."""
    chosen = world.settings(**evaluation)
    found = {"rule": world.evaluate(world.RuleWriter(world.majority), tmp_path, chosen)}
    return kept_answers.rows(found, world.cases(chosen), world.QUESTIONS, 3)


def test_rows_say_what_was_shown_in_that_order(tmp_path):
    """U4: question, right answers, documents, forgery and answer are in one row."""
    conditions = ("closed_book", "oracle", "absent", "retrieved", "permuted", "attacked")
    rows = asked(tmp_path, conditions=conditions)
    assert len(rows) == 6 * world.COUNT and {row.seed for row in rows} == {3}
    kinds = {row.condition: Counter(one.kind for one in row.documents) for row in rows if row.question_id == "q004"}
    assert kinds == {
        "closed_book": {},
        "oracle": {"oracle": 1, "distractor": 3},
        "absent": {"distractor": 4},
        "retrieved": {"oracle": 1, "retrieved": 2},
        "permuted": {"oracle": 1, "distractor": 3},
        "attacked": {"oracle": 1, "distractor": 3, "forged": 3},
    }
    cases = {case.id: case for case in world.cases(world.settings(conditions=conditions))}
    for row in rows:
        case = cases[f"{row.condition}/{row.question_id}"]
        assert [one.id for one in row.documents] == [document.id for document in case.documents]
        assert (row.forged_answer,) == case.wrong
    said = {(row.condition, row.question_id): row for row in rows}
    # The rule answers what most documents on the function say: three forgeries of one wrong value, then `unknown`.
    assert said["attacked", "q004"].states_forgery and said["attacked", "q004"].answer == "-5"
    assert said["closed_book", "q004"].abstained and not said["oracle", "q004"].abstained


def test_pandas_and_datasets_read_every_column(tmp_path):
    """U4."""
    rows = [answer(), answer(documents=(), states_forgery=None, model=HOSTILE)]
    path = kept_answers.write(rows, tmp_path)
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == list(kept_answers.COLUMNS) and frame["model"][1] == HOSTILE
    assert list(frame["answers"][0]) == ["1", "one"] and frame["subspan_em"].mean() == 1.0
    assert frame["documents"][0][0] == {"title": "m.f", "text": "f(size=1)", "kind": "oracle", "id": "c0"}
    found = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert found[0]["documents"][0]["kind"] == "oracle" and found[1]["documents"] == []
    assert found[1]["states_forgery"] is None and found.column_names == list(kept_answers.COLUMNS)


def test_many_rows_are_written_in_parts_and_read_as_one(tmp_path):
    count = 2 * kept_answers.AT_ONCE + 1
    path = kept_answers.write((answer(question_id=f"q{n}") for n in range(count)), tmp_path)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert kept_answers.read(tmp_path, ["question_id"])["question_id"].to_pylist() == [f"q{n}" for n in range(count)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answers.parquet"]


@pytest.mark.parametrize("content", [None, b"PAR1 no", "other"])
def test_what_is_no_file_of_answers_is_one_line(content, tmp_path):
    path = tmp_path / kept_answers.ANSWERS
    if content == "other":
        pq.write_table(pa.table({"arm": ["a"]}), path)
    elif content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"answers\.parquet") as error:
        kept_answers.read(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [("", 0, True), (" ", 0, True), ("I don't know.", 0, True), ("7", 0, False), ("unknown", 1, False)],
)
def test_abstaining_is_saying_nothing_or_that_it_cannot_be_said_unless_that_is_right(said, right, expected):
    assert kept_answers.abstains(said, float(right)) is expected
