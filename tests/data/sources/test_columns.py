"""Question files as people have them (U2): every kind of file, columns by their usual names, errors that list them."""

import gzip
import json

import openpyxl
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from ragdist.config import ColumnsConfig, CorpusConfig
from ragdist.data.sources import benchmarks, places, sheets, unpacking
from ragdist.errors import DataError

ROWS = [
    {"query": "Which port?", "ground_truth": "8443", "contexts": ["The port is 8443.", "The kiln holds 340 cups."]},
    {"query": "Who keeps the key?", "ground_truth": "Samuel", "contexts": ["Samuel keeps it."]},
]


def read(*files, left_out=None, **config):
    config = CorpusConfig(**{"source": "records", **config}, questions=tuple(map(str, files)))
    return list(benchmarks.read(config, test_fraction=0.2, seed=0, broken=left_out))


def write(path, rows):
    """The rows in the kind of file that its name says."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".csv":
        import pandas

        pandas.DataFrame(rows).to_csv(path, index=False)  # lists as Python writes them: ['a', 'b']
    elif path.suffix == ".xlsx":
        sheet = (book := openpyxl.Workbook()).active
        for cells in [list(rows[0]), *(list(row.values()) for row in rows)]:
            sheet.append([json.dumps(cell) if isinstance(cell, list) else cell for cell in cells])
        book.save(path)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif path.suffix == ".zst":
        with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as packed:
            packed.write(lines)
    elif path.suffix == "":
        Dataset.from_list(rows).save_to_disk(path)
    else:
        path.write_bytes(lines)
    return path


@pytest.mark.parametrize(
    "name", ["q.csv", "q.xlsx", "q.parquet", "q.json", "q.jsonl", "q.jsonl.gz", "q.jsonl.zst", "saved"]
)
def test_U2_every_kind_of_file_gives_the_same_rows_and_says_what_was_taken(tmp_path, name, capsys):
    path = write(tmp_path / name, ROWS)
    found = read(path)
    assert [(q.text, q.answers, len(q.oracle_ids), len(q.near_miss_ids)) for q, _, _ in found] == [
        ("Which port?", ("8443",), 1, 1),
        ("Who keeps the key?", ("Samuel",), 1, 0),
    ]
    assert [chunk.text for chunk in found[0][1]] == ROWS[0]["contexts"]
    said = f"{name}: question from `query`, answer from `ground_truth`, documents from `contexts`"
    assert capsys.readouterr().err.count(said) == 1
    read(path)
    assert said not in capsys.readouterr().err
    assert places.digest([places.at(str(path))]) == places.digest([places.at(str(path))])


@pytest.mark.parametrize(
    ("row", "question", "answers"),
    [
        ({"question": "A?", "answer": "x"}, "A?", ("x",)),
        ({"Question": "A?", "Ground Truth": "x"}, "A?", ("x",)),
        ({"user_input": "A?", "response": "a model's", "reference": "x"}, "A?", ("x",)),
        ({"question": "A?", "answer": "a model's", "ground_truth": "x"}, "A?", ("x",)),
        ({"instruction": "A?", "output": "x"}, "A?", ("x",)),
        ({"prompt": "A?", "completion": "x"}, "A?", ("x",)),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "A?"}]}
            | {"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "x"}]},
            "A?",
            ("x",),
        ),
        ({"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "x"}]}, "A?", ("x",)),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "A?"}]}],
                "completion": [{"role": "assistant", "content": "x"}],
            },
            "A?",
            ("x",),
        ),
    ],
)
def test_U2_columns_are_found_by_their_usual_names(tmp_path, row, question, answers):
    """What is right is taken before what a model said (ragas)."""
    ((found, _, _),) = read(write(tmp_path / "q.jsonl", [row]))
    assert (found.text, found.answers) == (question, answers)


def test_U2_dpr_and_ragas_documents_have_their_kinds(tmp_path):
    rows = [
        {"question": "A?", "answers": ["x"], "positive_ctxs": [{"title": "t", "text": "one"}]}
        | {"hard_negative_ctxs": [{"title": "u", "text": "two"}]},
        {
            "user_input": "B?",
            "reference": "x",
            "reference_contexts": ["three"],
            "retrieved_contexts": ["x four", "three"],
        },
        {"question": "C?", "answers": ["yes"], "ctxs": [{"text": "yes five", "has_answer": False}, {"text": "six"}]},
        {"question": "D?", "answers": ["x"], "context": "seven"},
    ]
    found = read(write(tmp_path / "q.jsonl", rows))
    texts = {chunk.id: chunk.text for _, chunks, _ in found for chunk in chunks}
    kinds = [([texts[i] for i in q.oracle_ids], [texts[i] for i in q.near_miss_ids]) for q, _, _ in found]
    assert kinds == [(["one"], ["two"]), (["three"], ["x four"]), ([], ["yes five", "six"]), (["seven"], [])]


def test_U2_columns_that_are_set_hold_whatever_else_is_there(tmp_path):
    row = {"question": "not this", "frage": "A?", "answers": "not this", "antwort": "x", "context": "c"}
    columns = ColumnsConfig(question="frage", answers="antwort")
    ((found, _, _),) = read(write(tmp_path / "q.jsonl", [row]), columns=columns)
    assert (found.text, found.answers) == ("A?", ("x",))


@pytest.mark.parametrize("broken", ["stop", "skip"])
def test_U2_U10_a_missing_column_is_told_with_those_that_are_there_and_the_nearest(tmp_path, broken):
    path = write(tmp_path / "q.csv", [{"querry": "A?", "solution": "x"}])
    with pytest.raises(
        DataError, match=r"the columns are `querry`, `solution`; set corpus\.columns\.question=querry"
    ) as e:
        read(path, broken=broken)
    assert broken == "skip" or "corpus.broken" not in str(e.value)


def test_U2_an_empty_cell_does_not_make_another_column_the_answer(tmp_path):
    (tmp_path / "q.csv").write_text("question,answer,response\nA?,x,\nB?,,a model's\n")
    left_out = []
    assert [q.text for q, _, _ in read(tmp_path / "q.csv", broken="skip", left_out=left_out)] == ["A?"]
    assert "line 3: column 'answer' holds nothing" in left_out[0]


def test_U2_splits_of_a_saved_dict_are_those_of_its_questions(tmp_path):
    rows = [{"question": f"{n}?", "answer": "x"} for n in range(4)]
    whole = DatasetDict(train=Dataset.from_list(rows[:3]), validation=Dataset.from_list(rows[3:]))
    whole.save_to_disk(tmp_path / "saved")
    assert [q.split for q, _, _ in read(tmp_path / "saved")] == ["train"] * 3 + ["test"]


def test_U2_a_column_that_is_there_twice_is_read_once_and_the_other_said_to_be_left(tmp_path, capsys):
    (tmp_path / "q.csv").write_text("question,Answer,question\nA?,x,B?\n")
    assert [q.text for q, _, _ in read(tmp_path / "q.csv")] == ["A?"]
    assert "not read: `question 2`" in capsys.readouterr().err
    assert sheets.header(["a", " a", None, "", "a 2", "a"]) == ["a", "a 2", "", "", "a 2 2", "a 3"]


@pytest.mark.parametrize("separator", ",;\t|")
def test_U2_tables_are_parted_by_what_their_first_line_has_most_and_cells_may_be_long(tmp_path, separator):
    (tmp_path / "q.csv").write_text(f"question{separator}answer\n{'A' * 200_000}?{separator}x\n")
    ((found, _, _),) = read(tmp_path / "q.csv")
    assert (len(found.text), found.answers) == (200_001, ("x",))


def test_U2_questions_may_stand_on_the_second_sheet_below_a_first_with_a_line(tmp_path):
    (book := openpyxl.Workbook()).active.append(["notes"])
    sheet = book.create_sheet()
    for cells in (["question", "answer"], ["A?", "x"]):
        sheet.append(cells)
    book.save(tmp_path / "q.xlsx")
    assert [q.text for q, _, _ in read(tmp_path / "q.xlsx")] == ["A?"]


def test_U2_a_setting_that_is_advised_can_be_typed(tmp_path):
    (tmp_path / "q.csv").write_text("Question (EN),answer\nA?,x\n")
    with pytest.raises(DataError, match=r"set 'corpus\.columns\.question=Question \(EN\)'"):
        read(tmp_path / "q.csv")


BAD = {
    "q.txt": (b"question,answer", r"what is not named \.csv, .* is read as JSONL"),
    "empty.json": (b" ", "it is empty"),
    "q.xlsx": (b"PK\x03\x04 torn", "torn or of another format"),
    "old.xls": (unpacking.OLE + b"x" * 100, r"save it as \.xlsx"),
    "q.jsonl.zst": (b"no zstd", "cannot be read"),
    "q.csv": (b"", "no rows are there"),
    "q.json": (b"[" * 100_000, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_U2_empty_torn_and_hostile_files_are_one_line(tmp_path, name):
    data, told = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=told) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_R8_a_saved_data_set_with_packed_tables_is_one_line(tmp_path):
    Dataset.from_list([{"question": "How?", "answer": "So."}]).save_to_disk(tmp_path / "d")
    (path,) = (tmp_path / "d").glob("*.arrow")
    table = pa.table({"question": ["a" * 999], "answer": ["So."]})
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as sink:
        sink.write_table(table)
    with pytest.raises(DataError, match=r"packed table.*save it anew") as error:
        read(tmp_path / "d")
    assert "\n" not in str(error.value)


def test_U2_a_folder_that_is_no_data_set_says_so(tmp_path):
    (tmp_path / "some").mkdir()
    with pytest.raises(DataError, match="none that `save_to_disk` wrote"):
        read(tmp_path / "some")


def test_U2_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST", 1000)
    with pytest.raises(DataError, match="unpacks to"):
        read(write(tmp_path / "q.xlsx", ROWS))


def test_U2_what_looks_like_code_in_a_cell_is_text(tmp_path):
    (tmp_path / "q.csv").write_text("question,answer\nA?,\"[__import__('os').getpid()]\"\n")
    ((found, _, _),) = read(tmp_path / "q.csv")
    assert found.answers == ("[__import__('os').getpid()]",)


def test_U2_rows_within_one_key_are_the_rows(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps({"data": [{"question": "a?", "answer": "x"}, {"question": "b?", "answer": "y"}]}))
    assert [q.text for q, _, _ in read(path)] == ["a?", "b?"]


@pytest.mark.parametrize(
    ("name", "text"), [("q.csv", ""), ("q.csv", "question,answer\n"), ("q.jsonl", "\n\n"), ("q.json", "[]")]
)
@pytest.mark.parametrize("broken", ["stop", "skip"])
def test_U2_a_file_without_rows_is_named_and_said_to_be_empty(tmp_path, name, text, broken):
    (tmp_path / name).write_text(text)
    config = CorpusConfig(source="records", questions=(str(tmp_path / name),), broken=broken)
    with pytest.raises(DataError, match="no rows are there, the files are empty") as error:
        list(benchmarks.read(config, test_fraction=0.2, seed=0))
    assert name in str(error.value) and "\n" not in str(error.value)
