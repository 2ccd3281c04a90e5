"""Public benchmarks by name: rows of each repository's own schema, the real client against a small hub, and no hub."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragdist.config import CorpusConfig, loader
from ragdist.data.pipeline import Pipeline
from ragdist.data.sources import conflicts, hub
from ragdist.data.sources.public import BENCHMARKS
from ragdist.errors import ConfigError, DataError
from ragdist.local import SerialMapper
from ragdist.storage.stages import CountedRows, Store
from tests import tiny
from tests.data.small_hub import SmallHub

COMMIT = "1908d6afbbead072334abe2965f91bd2709910ab"


LEARNED = [name for name in BENCHMARKS if name not in conflicts.BENCHMARKS]
"""Those that have training rows, or leave them to a draw."""


def hotpot(number):
    return {
        "id": f"5a{number}",
        "question": f"Which river flows through town {number}?",
        "answer": f"River {number}",
        "type": "bridge",
        "level": "easy",
        "supporting_facts": {"title": [f"Town {number}", f"Town {number}", f"Land {number}"], "sent_id": [0, 1, 0]},
        "context": {
            "title": [f"Hill {number}", f"Town {number}", f"Land {number}", f"Lake {number}"],
            "sentences": [
                [f"Hill {number} is high."],
                [f"Town {number} is old.", f" River {number} flows through it."],
                [f"Land {number} has towns."],
                [f"Lake {number} is deep.", " It has fish."],
            ],
        },
    }


def pubmed(number):
    return {
        "pubid": 1000 + number,
        "question": f"Does drug {number} help?",
        "context": {
            "contexts": [f"We gave drug {number}.", "It helped some."],
            "labels": ["METHODS", "RESULTS"],
            "meshes": ["Humans"],
            "reasoning_required_pred": ["y"],
            "reasoning_free_pred": ["y"],
        },
        "long_answer": "It does, at times.",
        "final_decision": ("yes", "no", "maybe")[number % 3],
    }


def dpr(number, positives=2):
    def passage(kind, at):
        return {"docid": f"{number}{at}", "title": f"{kind} {number}", "text": f"{kind} text {number}.{at}"}

    return {
        "query_id": str(number),
        "query": f"who is number {number}",
        "answers": [f"Person {number}", f"P. {number}"],
        "positive_passages": [passage("Gold", at) for at in range(positives)],
        "negative_passages": [passage("Other", at) for at in range(30)],
    }


def popqa(number):
    texts = ["nothing", f"It is Mayor {number}.", "empty", f"Mayor {number} again.", *(f"more {i}" for i in range(20))]
    return {
        "id": number,
        "question": f"Who is the mayor of {number}?",
        "answers": [f"Mayor {number}", f"M{number}"],
        "ctxs": [{"id": str(i), "title": f"{number}-{i}", "text": t, "score": "1.5"} for i, t in enumerate(texts)],
    }


def api(number, wording):
    call = f"torch.hub.load(repo_or_dir='r/{number}', model='m{number}')"
    said = {
        "tagged": f"###Instruction: Find call {number}.\n###Output: <<<api_call>>>: {call}",
        "quoted": f"{{'Instruction': 'Find call {number}.', 'Output': 'use {call}'}}",
    }
    # Types differ from row to row, as they do in the data set.
    data = {
        "domain": "Vision",
        "api_name": f"m{number}",
        "api_call": call,
        "api_arguments": [{}, "x", ["y"]][number % 3],
    }
    return {"code": said[wording], "api_call": call, "provider": "PyTorch", "api_data": data}


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def repository(name, folder):
    """A folder laid out as the benchmark's repository, 20 training and 5 test rows where it has splits."""
    if name == "hotpotqa":
        parquet(folder / "distractor" / "train-00000-of-00002.parquet", [hotpot(i) for i in range(12)])
        parquet(folder / "distractor" / "train-00001-of-00002.parquet", [hotpot(i) for i in range(12, 20)])
        parquet(folder / "distractor" / "validation-00000-of-00001.parquet", [hotpot(i) for i in range(20, 25)])
        parquet(folder / "fullwiki" / "train-00000-of-00001.parquet", [hotpot(99)])
    elif name == "pubmedqa":
        parquet(folder / "pqa_labeled" / "train-00000-of-00001.parquet", [pubmed(i) for i in range(25)])
        parquet(folder / "pqa_unlabeled" / "train-00000-of-00001.parquet", [pubmed(99)])
    elif name == "popqa":
        lines(folder / "popqa_longtail_w_gs.jsonl", [popqa(i) for i in range(25)])
    elif name == "apibench":
        lines(folder / "torchhub_train.json", [api(i, "quoted") for i in range(20)])
        lines(folder / "torchhub_eval.json", [api(i, "tagged") for i in range(20, 25)])
    else:
        lines(folder / "x-train.jsonl.gz", [dpr(i) for i in range(20)])
        lines(folder / "x-dev.jsonl.gz", [dpr(i) for i in range(20, 25)])
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    return folder


def read(name, folder, **config):
    rows = CountedRows(hub.read(CorpusConfig(source="benchmark", benchmark=name, folder=str(folder), **config)))
    return list(rows), rows.counts


def test_every_name_of_the_setting_is_known():
    names = CorpusConfig.model_fields["benchmark"].annotation.__args__
    assert set(names) - {""} == set(BENCHMARKS)


@pytest.mark.parametrize("name", LEARNED)
def test_rows_of_the_repository_become_rows_of_question_files(name, tmp_path):
    rows, counts = read(name, repository(name, tmp_path))
    assert len(rows) == len({row.id for row in rows}) == 25
    splits = [row.split for row in rows]
    assert splits == ([""] * 25 if name in ("pubmedqa", "popqa") else ["train"] * 20 + ["test"] * 5)
    assert all(row.question and row.answers and all(row.answers) for row in rows)
    assert all(sum(d["kind"] == "golden" for d in row.documents) == (2 if name == "hotpotqa" else 1) for row in rows)
    assert counts["licence"] and counts["citation"] and counts["broken"] == []


def test_hotpotqa_paragraphs_are_golden_by_their_supporting_facts(tmp_path):
    row = read("hotpotqa", repository("hotpotqa", tmp_path))[0][0]
    assert (row.id, row.dataset, row.answers) == ("hotpotqa-5a0", "hotpotqa", ("River 0",))
    kinds = {document["title"]: document["kind"] for document in row.documents}
    assert kinds == {"Hill 0": "distractor", "Town 0": "golden", "Land 0": "golden", "Lake 0": "distractor"}
    assert row.documents[1]["text"] == "Town 0 is old. River 0 flows through it."


def test_pubmedqa_abstract_has_its_sections_and_its_conclusion_is_the_reasoning(tmp_path):
    row = read("pubmedqa", repository("pubmedqa", tmp_path))[0][1]
    assert row.documents == (
        {"title": "", "text": "METHODS: We gave drug 1.\nRESULTS: It helped some.", "kind": "golden"},
    )
    assert (row.answers, row.long_answer) == (("no",), "It does, at times.")


@pytest.mark.parametrize(("name", "dataset"), [("nq", "nq_open"), ("triviaqa", "triviaqa"), ("webquestions", "webq")])
def test_first_passage_with_the_answer_is_golden_and_the_best_without_it_are_distractors(name, dataset, tmp_path):
    row = read(name, repository(name, tmp_path))[0][3]
    assert (row.dataset, row.answers) == (dataset, ("Person 3", "P. 3"))
    assert [document["text"] for document in row.documents] == [
        "Gold text 3.0",
        *(f"Other text 3.{i}" for i in range(9)),
    ]


def test_popqa_passages_are_told_apart_by_the_answers(tmp_path):
    row = read("popqa", repository("popqa", tmp_path))[0][2]
    texts = {document["text"]: document["kind"] for document in row.documents}
    assert texts.pop("It is Mayor 2.") == "golden"
    assert "Mayor 2 again." not in texts
    assert set(texts.values()) == {"distractor"} and len(texts) == 8


def test_apibench_question_is_read_from_both_wordings_and_its_document_is_json(tmp_path):
    rows, _ = read("apibench", repository("apibench", tmp_path))
    assert {row.dataset for row in rows} == {"apibench_torchhub"}
    assert [rows[i].question for i in (4, 22)] == ["Find call 4.", "Find call 22."]
    assert json.loads(rows[4].documents[0]["text"])["domain"] == "Vision"
    assert rows[22].answers[0] in rows[22].long_answer


def test_repeated_question_is_kept_once_and_counted(tmp_path):
    lines(tmp_path / "torchhub_eval.json", [api(1, "tagged"), api(1, "tagged"), api(2, "tagged")])
    rows, counts = read("apibench", tmp_path)
    assert (len(rows), counts["repeated"]) == (2, 1)


def test_repository_that_changed_names_file_row_and_column(tmp_path):
    rows = [hotpot(0), {**hotpot(1), "context": {"title": ["a"], "sentences": [["b"]]}}]
    for row in rows:
        row["gold"] = row.pop("answer")
    parquet(tmp_path / "distractor" / "validation-0.parquet", rows)
    with pytest.raises(DataError, match=r"validation-0\.parquet, row 1: has no column 'answer'; .*corpus\.revision"):
        read("hotpotqa", tmp_path)
    kept, counts = read("hotpotqa", tmp_path, broken="skip")
    assert not kept and len(counts["broken"]) == 2


def test_torn_parquet_is_named(tmp_path):
    path = tmp_path / "pqa_labeled" / "x.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as parquet"):
        read("pubmedqa", tmp_path)


def test_wrong_folder_or_no_name_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"hf download hotpotqa/hotpot_qa --repo-type dataset --include 'distractor"):
        read("hotpotqa", tmp_path)
    with pytest.raises(ConfigError, match=r"set corpus\.benchmark to hotpotqa, pubmedqa"):
        hub.made_by(CorpusConfig(source="benchmark"))
    with pytest.raises(ConfigError, match=r"corpus\.benchmark=nq is read with corpus\.source=benchmark, not apidocs"):
        loader.resolve({"corpus": {"benchmark": "nq"}})


def pipeline(folder, runs, **corpus):
    settings = loader.resolve(
        {
            "corpus": {"source": "benchmark", "folder": str(folder), **corpus},
            "contexts": {"documents": 2},
            "model": {"max_tokens": 2048},
        }
    )
    return Pipeline(settings, Store(runs), tiny.tokenizer(), SerialMapper())


@pytest.mark.parametrize("name", LEARNED)
def test_road_from_a_benchmark_to_training_rows(name, tmp_path):
    made = pipeline(repository(name, tmp_path / "copy"), tmp_path / "runs", benchmark=name)
    stages = dict(made.make("examples"))
    tests = sum(question.split == "test" for question in stages["questions"])
    assert len(stages["examples"]) == 25 - tests and 0 < tests < 15
    assert stages["chunks"].card["counts"]["licence"] == BENCHMARKS[name].licence


def test_stages_are_named_by_the_rows_so_a_moved_copy_is_the_same_data(tmp_path):
    one, two = (repository("popqa", tmp_path / name) for name in ("one", "two"))
    names = [pipeline(copy, tmp_path / "runs", benchmark="popqa").questions.fingerprint for copy in (one, two)]
    lines(two / "popqa_longtail_w_gs.jsonl", [popqa(i) for i in range(26)])
    names.append(pipeline(two, tmp_path / "runs", benchmark="popqa").questions.fingerprint)
    assert names[0] == names[1] != names[2]


def test_commit_of_a_copy_is_the_one_that_the_client_noted(tmp_path):
    folder = repository("popqa", tmp_path)
    note = folder / ".cache" / "huggingface" / "download" / "popqa_longtail_w_gs.jsonl.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{COMMIT}\nabc\n1700000000.0\n")
    assert read("popqa", folder)[1]["commit"] == COMMIT


FETCH = """
import json, sys
from ragdist.config import CorpusConfig
from ragdist.data.sources import conflicts, hub
from ragdist.errors import ConfigError
from ragdist.storage.stages import CountedRows
config = CorpusConfig(source="benchmark", benchmark="hotpotqa", revision=sys.argv[1])
try:
    rows = CountedRows(hub.read(config))
    print(json.dumps([len(list(rows)), rows.counts["commit"]]))
except ConfigError as error:
    print(json.dumps(str(error)))
"""


def fetch(home, endpoint, revision="", **more):
    """What a process of its own reads, as the client looks at its variables once."""
    variables = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **more}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, revision],
        env={**os.environ, **variables},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def test_real_client_fetches_only_what_is_needed_and_needs_no_network_afterwards(tmp_path):
    folder = repository("hotpotqa", tmp_path / "hub")
    with SmallHub("hotpotqa/hotpot_qa", folder, COMMIT) as small:
        assert fetch(tmp_path / "home", small.endpoint) == [25, COMMIT]
        assert {path.partition("/")[0] for path in small.sent} == {"distractor", "README.md"}
        wrong = fetch(tmp_path / "home", small.endpoint, "no-such-branch")
        assert "has no revision 'no-such-branch'; set corpus.revision" in wrong
        sent = len(small.sent)
        assert fetch(tmp_path / "home", small.endpoint, COMMIT) == [25, COMMIT]
        assert len(small.sent) == sent
    assert fetch(tmp_path / "home", "http://127.0.0.1:9", HF_HUB_OFFLINE="1") == [25, COMMIT]
    for variables in ({"HF_HUB_OFFLINE": "1"}, {}):
        said = fetch(tmp_path / "nothing", "http://127.0.0.1:9", **variables)
        assert "cannot be fetched from the hub" in said and "corpus.folder" in said and "hf download" in said
