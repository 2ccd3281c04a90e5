"""Exported rows say what the training rows say, hold every document whole, and no forged one unless asked."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from pyarrow import Table
from pyarrow.parquet import read_table, write_table

from ragdist.config import loader
from ragdist.data import export
from ragdist.data.pipeline import Pipeline
from ragdist.errors import DataError
from ragdist.local import SerialMapper
from ragdist.storage.stages import Store
from tests import tiny
from tests.data.shown import parse

QUESTIONS, DOCUMENTS = 15, 3
LIE = "an utter lie"


def rows(folder):
    """Fifteen questions, five to test; a document that looks like a delimiter; one forged document each."""
    return [
        {
            "id": f"q{n}",
            "question": f"What is the colour of ball {n}?",
            "answers": [f"shade{n}", f"tint{n}"],
            "long_answer": f"##begin_quote## {'Ball' if n != 4 else 'Cube'} {n} is shade{n}. ##end_quote## So it is.",
            "wrong_answers": [f"false{n}"],
            "split": "test" if n % 3 == 0 else "train",
            "documents": [
                {"title": f"ball {n}", "text": f"Ball {n} is shade{n}.</DOCUMENT>", "kind": "golden"},
                {"title": f"box {n}", "text": f"Box {n} holds {n + 3} balls. " * 20, "kind": "distractor"},
                {"title": f"ball {n}", "text": f"Ball {n} is false{n}, {LIE}.", "kind": "forged"},
            ],
        }
        for n in range(QUESTIONS)
    ]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("road")
    return make(folder)


def make(folder, *more):
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(folder)))
    given = [f"run.folder={folder}", "corpus.source=records", f"corpus.questions=[{path}]"]
    shape = [f"contexts.documents={DOCUMENTS}", "prompts.answer=reasoned", "contexts.distractors=hard"]
    settings = loader.load([*given, *shape, *more])
    return Pipeline(settings, Store(folder / "data"), tiny.tokenizer(), SerialMapper())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_hf_form_is_read_by_datasets_and_has_the_exact_share(pipeline, tmp_path):
    counts = export.export(pipeline, tmp_path, "hf")
    found = load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in found.items()} == counts.rows == {"train": 9, "test": 5}
    with_oracle = [bool(row["oracle_positions"]) for row in found["train"]]
    assert sum(with_oracle) == counts.with_oracle["train"] == 5  # 0.6 of 9: q4 has a quote that does not hold
    raft = {"id", "type", "question", "context", "oracle_context", "cot_answer", "instruction"}
    assert raft <= set(found["train"].column_names)


@pytest.mark.parametrize(("form", "splits"), [("completion", 2), ("chat", 2), ("eval", 1)])
def test_other_forms_are_read_by_datasets_too(pipeline, tmp_path, form, splits):
    counts = export.export(pipeline, tmp_path, form, forgeries=True)
    found = load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in found.items()} == counts.rows and len(found) == splits
    forged = load_dataset(str(tmp_path), "forgeries", cache_dir=str(tmp_path / "cache"))
    assert all(forged["test"]["is_forged"]) and len(forged["test"]) == counts.forgeries


def test_hf_rows_hold_question_and_documents_that_parse_back_check_14(pipeline, tmp_path):
    export.export(pipeline, tmp_path, "hf")
    found = load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    for row in (*found["train"], *found["test"]):
        shown, asked = parse(row["instruction"])
        assert asked == row["question"]
        assert [[one.text for one in shown]] == row["context"]["sentences"] and len(shown) == DOCUMENTS
        oracles = [row["context"]["sentences"][0][at] for at in row["oracle_positions"]]
        assert "\n\n".join(oracles) == row["oracle_context"]
        assert all(row["answers"][0] in oracle for oracle in oracles)
        assert row["cot_answer"].endswith(f"<ANSWER>: {row['answers'][0]}")


def test_chat_rows_render_to_the_training_rows_token_for_token(pipeline, tmp_path):
    export.export(pipeline, tmp_path, "chat")
    tokenizer = tiny.tokenizer()
    rendered = set()
    for row in lines(tmp_path / "train.jsonl"):
        system, user, assistant = row["messages"]
        assert [said["role"] for said in row["messages"]] == ["system", "user", "assistant"]
        prompt = tokenizer.encode(tokenizer.chat(user["content"], system["content"])).ids
        rendered.add((*prompt, *tokenizer.encode(assistant["content"]).ids, tokenizer.end))
    assert rendered == {example.tokens for example in pipeline.examples}


def test_completion_rows_are_prompt_and_target_with_a_stop_on_request(pipeline, tmp_path):
    for stop in ("", "<STOP>"):
        folder = tmp_path / f"stop{len(stop)}"
        folder.mkdir()
        export.export(pipeline, folder, "completion", stop=stop)
        found = lines(folder / "train.jsonl")
        assert all(set(row) == {"prompt", "completion"} for row in found)
        assert {parse(row["prompt"])[1]: row["completion"] for row in found}[
            "What is the colour of ball 1?"
        ] == "##begin_quote## Ball 1 is shade1. ##end_quote## So it is.\n<ANSWER>: shade1" + stop


def test_eval_rows_are_the_test_questions_with_their_gold_answer(pipeline, tmp_path):
    export.export(pipeline, tmp_path, "eval")
    found = {row["id"]: row for row in lines(tmp_path / "test.jsonl")}
    assert not (tmp_path / "train.jsonl").exists() and len(found) == 5
    for row in found.values():
        number = row["question"].split()[-1].strip("?")
        assert row["gold_final_answer"] == f"shade{number}" and row["answers"] == [f"shade{number}", f"tint{number}"]
        (texts,) = row["context"]["sentences"]
        assert len(texts) == DOCUMENTS and texts[row["oracle_positions"][0]].startswith(f"Ball {number} is")


@pytest.mark.parametrize("form", ["hf", "completion", "chat", "eval"])
def test_forged_documents_are_in_no_form_unless_asked_for(pipeline, tmp_path, form):
    plain, asked = tmp_path / "plain", tmp_path / "asked"
    for folder, forgeries in ((plain, False), (asked, True)):
        folder.mkdir()
        counts = export.export(pipeline, folder, form, forgeries=forgeries)
        for path in (path for path in folder.rglob("*") if path.is_file() and path.name != "forgeries.jsonl"):
            texts = str(read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_text()
            assert LIE not in texts and "false0" not in texts, path
        assert (folder / "forgeries.jsonl").exists() is forgeries and bool(counts.forgeries) is forgeries
    forged = lines(asked / "forgeries.jsonl")
    assert len(forged) == counts.forgeries == 5 and all(row["is_forged"] and LIE in row["text"] for row in forged)
    assert "MISLEAD" in (asked / "README.md").read_text() and "MISLEAD" not in (plain / "README.md").read_text()


def test_no_document_is_cut_or_dropped_where_training_cuts_them(tmp_path):
    pipeline = make(tmp_path, "model.max_tokens=300")
    assert any(example.cut_tokens for example in pipeline.examples)
    counts = export.export(pipeline, tmp_path / "data", "completion")
    found = lines(tmp_path / "data" / "train.jsonl") + lines(tmp_path / "data" / "test.jsonl")
    whole = {chunk.text for chunk in pipeline.chunks}
    shown = [document.text for row in found for document in parse(row["prompt"])[0]]
    assert len(shown) == counts.documents == DOCUMENTS * len(found) and set(shown) <= whole


def test_card_says_counts_share_licence_and_what_was_left_out_and_no_path(pipeline, tmp_path):
    export.export(pipeline, tmp_path, "hf", licence="cc-by-4.0")
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["configs"][0]["data_files"][0] == {"split": "train", "path": "data/train.parquet"}
    assert "| train | 9 | 5 | 55.6% |" in text and "| test | 5 | 5 | 100.0% |" in text
    assert "P% asked for is 60.0%" in text and "invalid quotes 1" in text
    assert "42 documents" in text and "oracle_fraction: 0.6" in text
    assert str(Path(pipeline.store.folder).parent) not in text
    export.export(pipeline, tmp_path, "chat")
    assert "not known" in (tmp_path / "README.md").read_text()


def test_the_same_settings_give_the_same_bytes(pipeline, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export.export(pipeline, tmp_path / name, "chat", forgeries=True)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_nothing_to_export_is_an_error(tmp_path):
    pipeline = make(tmp_path, "corpus.datasets=[none]")
    with pytest.raises(DataError):
        export.export(pipeline, tmp_path / "data", "eval")


def test_card_of_a_benchmark_says_what_the_benchmark_says_of_itself(tmp_path):
    copy = tmp_path / "copy" / "distractor"
    copy.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [
            {
                "id": f"{split}{n}",
                "question": f"Which river flows through {split} town {n}?",
                "answer": f"River {n}",
                "supporting_facts": {"title": [f"{split} town {n}"], "sent_id": [0]},
                "context": {
                    "title": [f"{split} town {n}", f"{split} hill {n}"],
                    "sentences": [[f"River {n} flows through {split} town {n}."], [f"{split} hill {n} is high."]],
                },
            }
            for n in range(4)
        ]
        write_table(Table.from_pylist(rows), copy / f"{split}-00000-of-00001.parquet")
    given = ["corpus.source=benchmark", "corpus.benchmark=hotpotqa", f"corpus.folder={copy.parent}"]
    settings = loader.load([f"run.folder={tmp_path}", *given, "contexts.documents=2"])
    pipeline = Pipeline(settings, Store(tmp_path / "data"), tiny.tokenizer(), SerialMapper())
    (tmp_path / "out").mkdir()
    export.export(pipeline, tmp_path / "out", "hf")
    text = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"  # the hub has no name for it
    assert "Licence of the documents: CC BY-SA 4.0." in text and "arXiv 1809.09600" in text
    assert "from hotpotqa (hotpotqa/hotpot_qa at" in text and str(tmp_path) not in text
