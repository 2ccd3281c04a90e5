"""Records survive tables and files; parts of a stage are the stage."""

import pytest

from ragdist.errors import DataError
from ragdist.records import Bundle, Forgery, Grade, OpenQuestion, Prediction
from ragdist.storage import tables
from ragdist.storage.stages import Stage, Store
from tests import tiny

ODD = ("", " ", "\n", "a\r\nb\u2028c\x85d", "\x01\x1f\x7f", "é\u0301😀\U0010ffff", '"\\u0000"', "x" * 70_000)


def forgeries():
    return [
        Forgery(id=f"f{n}", question_id="q", number=n, title=text, text=text, states="9", method="attacker", seed=2**62)
        for n, text in enumerate(ODD)
    ]


ROWS = {
    "odd texts": forgeries(),
    "nested tuples": [
        Bundle(id="a", tokens=((1, 9, 4, 2), (), (2**31 - 1,)), prompt_tokens=(2, 0, 1)),
        Bundle(id="b", tokens=(), prompt_tokens=()),
    ],
    "tuples of texts": [
        OpenQuestion(
            id="q",
            text="?",
            answers=(),
            target="",
            wrong_answers=ODD,
            document_ids=("a",),
            titles=("t",),
            texts=("x",),
            oracle_positions=(0, 3),
            all_answers_required=True,
        )
    ],
    "broken numbers": [
        Grade(forgery_id="f", question_id="q", sample=0, perplexity=value, tokens=3)
        for value in (1.5, float("inf"), 1e-300)
    ],
    "other records": tiny.questions(),
    "none": [],
}


@pytest.mark.parametrize("name", ROWS)
def test_records_survive_a_table_and_a_file(name, tmp_path):
    """check 28: texts are kept byte for byte."""
    rows, path = ROWS[name], tmp_path / "00000.parquet"
    table = tables.to_table(rows)
    assert tables.from_table(table) == rows
    assert tables.rows_at(tables.packed(table)) == rows
    tables.write(path, table, {"forged": 8, "share": 0.5})
    assert tables.peek(path) == (len(rows), tables.digest(rows), {"forged": 8, "share": 0.5})
    assert tables.rows_at(path) == tables.rows_at(str(path)) == rows
    assert [file.name for file in tmp_path.iterdir()] == ["00000.parquet"]


def test_a_file_of_an_earlier_version_is_read_by_its_old_name_and_without_newer_columns():
    """ATM's answers were `Answered`, and had fewer fields."""
    asked = {"question_id": "q", "condition": "clean", "generator": 1, "attacker": -1, "text": "None", "answer": "None"}
    scored = {"em": 1.0, "f1": 1.0, "subspan": 1.0, "states_forgery": False, "ended": True, "cut_tokens": 0}
    (row,) = rows = [Prediction(**asked, **scored)]
    table = tables.to_table(rows).select([*asked, *scored]).replace_schema_metadata({tables.KIND: b"Answered"})
    assert tables.from_table(table) == [row]


def test_an_empty_table_keeps_its_kind():
    assert tables.to_table([], Forgery).schema.names == tables.to_table(forgeries()).schema.names


def test_digest_changes_with_any_value_and_with_the_order():
    rows = forgeries()
    others = [rows[::-1], rows[:-1], []]
    assert len({tables.digest(some) for some in (rows, *others)}) == 4
    assert tables.digest(rows) == tables.digest(tables.from_table(tables.to_table(rows)))


def test_forgeries_in_a_file_are_marked_for_good():
    """check 43: whoever takes the mark off is found out."""
    table = tables.to_table(forgeries())
    assert table.column("is_forged").to_pylist() == [True] * len(ODD)
    unmarked = table.set_column(table.schema.get_field_index("is_forged"), "is_forged", [[False] * len(ODD)])
    with pytest.raises(DataError, match="is_forged"):
        tables.from_table(unmarked)


def test_a_text_that_is_no_text_is_an_error_of_the_data():
    with pytest.raises(DataError):
        tables.to_table([Bundle(id="\ud800", tokens=(), prompt_tokens=())])


def test_a_write_that_fails_leaves_nothing(tmp_path):
    broken = tables.to_table(forgeries())
    with pytest.raises(TypeError):
        tables.write(tmp_path / "a.parquet", broken, {"x": object()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_parts_of_a_stage_are_the_stage(size, tmp_path):
    questions = [row for row in tiny.questions() for _ in range(2)]
    rows = Store(tmp_path).make(Stage("open"), type(questions[0]), lambda: questions)
    parts = tables.split(rows, size)
    assert [part.name for part in parts] == [f"{n:05d}" for n in range(len(parts))]
    assert [part.rows for part in parts] == [min(size, 8 - start) for start in range(0, 8, size)]
    assert [row for part in parts for row in tables.rows_at(part.at)] == questions
    assert len({part.digest for part in tables.split(rows, 2)}) == 4
