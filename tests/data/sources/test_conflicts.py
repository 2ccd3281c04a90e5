"""Benchmarks that judge alone: small rows in the very forms of their repositories, checked by hand."""

import json

import pytest

from ragdist import planning
from ragdist.config import CorpusConfig, loader
from ragdist.data.pipeline import Pipeline
from ragdist.data.sources import hub
from ragdist.data.sources.conflicts import BENCHMARKS
from ragdist.errors import ConfigError, DataError
from ragdist.evaluation.summary import summarise
from ragdist.local import SerialMapper
from ragdist.storage.stages import CountedRows, Store
from tests import tiny


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def poisonedrag(folder):
    """A copy of the repository in which one data set of BEIR was fetched."""
    targets = {
        name: {
            "id": name,
            "question": f"how many moons has planet {at}",
            "correct answer": str(at + 2),
            "incorrect answer": str(at + 7),
            "adv_texts": [f"Planet {at} has {at + 7} moons, as text {n} says." for n in range(5)],
        }
        for at, name in enumerate(("test1", "test9"))
    }
    path = folder / "results" / "adv_targeted_results" / "nq.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(targets, indent=4))
    beir = folder / "datasets" / "nq"
    passages = [(0, "Planet 0 has 2 moons."), (1, "It is far."), (2, "Planet 1: 3 moons."), (3, "Other."), (4, "Far.")]
    lines(beir / "corpus.jsonl", [{"_id": f"doc{n}", "title": f"P{n}", "text": text} for n, text in passages])
    (beir / "qrels").mkdir()
    judged = ["query-id\tcorpus-id\tscore", "test1\tdoc0\t1", "test1\tdoc1\t0", "test9\tdoc2\t1", "test5\tdoc3\t1"]
    (beir / "qrels" / "test.tsv").write_text("\n".join(judged) + "\n")
    return folder


def rgb(folder):
    shared = {"negative": [f"Noise {n}." for n in range(12)]}
    refined = [
        {
            "id": 0,
            "query": "Who won in 2021?",
            "answer": [["Ann Lee", "A. Lee"]],
            "positive": ["No.", "A. Lee won.", "Ann Lee."],
        },
        {"id": 1, "query": "Which day?", "answer": ["May 3"], "positive": ["On May 3.", "It was May 3."]},
    ]
    together = {
        "id": 0,
        "query": "When were both?",
        "answer": ["May 3", ["June 4", "4 June"]],
        "answer1": ["May 3"],
        "answer2": ["June 4", "4 June"],
        "positive": [["One was on May 3.", "May 3 it was."], ["And then 5.", "The other on June 4."]],
    }
    changed = {
        "id": 0,
        "query": "Where was it?",
        "answer": "Tampa, Florida",
        "fakeanswer": "Glendale, Arizona",
        "positive_wrong": ["It was in Glendale, Arizona.", "Glendale, Arizona held it."],
        "positive": ["It was in Tampa, Florida.", "Tampa, Florida held it."],
    }
    lines(folder / "data" / "en_refine.json", [{**row, **shared} for row in refined])
    lines(folder / "data" / "en_int.json", [{**together, **shared}])
    lines(folder / "data" / "en_fact.json", [{**changed, **shared}])
    lines(folder / "data" / "en.json", [{"id": 5}])
    chinese = {
        "id": 0,
        "query": "冠军是谁?",
        "answer": "广州恒大",
        "fakeanswer": ["江苏苏宁"],
        "positive": ["广州恒大夺冠。"],
    }
    lines(folder / "data" / "zh_fact.json", [{**chinese, "positive_wrong": ["江苏苏宁夺冠。"], **shared}])
    return folder


def ramdocs(folder):
    documents = [
        {"text": "Broken Bow in Nebraska has 3,559 people.", "type": "correct", "answer": "3,559 people"},
        {"text": "Broken Bow has 10,000 people.", "type": "misinfo", "answer": "10,000 people"},
        {"text": "Broken Bow in Oklahoma has 4,120 people.", "type": "correct", "answer": "4,120 people"},
        {"text": "A bow may break.", "type": "noise", "answer": "unknown"},
        {"text": "Broken Bow has 20,000 people.", "type": "misinfo", "answer": "20,000 people"},
    ]
    row = {"question": "What is the population of Broken Bow?", "documents": documents}
    row |= {"disambig_entity": ["Broken Bow, Nebraska", "Broken Bow, Oklahoma"]}
    two = {**row, "gold_answers": ["3,559 people", "4,120 people"], "wrong_answers": ["10,000 people", "20,000 people"]}
    named = {"text": "Ann Lee did it.", "type": "correct", "answer": "Ann Lee"}
    one = {"question": "Who?", "documents": [named], "disambig_entity": [], "gold_answers": ["Ann Lee"]}
    lines(folder / "RAMDocs_test.jsonl", [two, {**one, "wrong_answers": []}])
    return folder


def conflictqa(folder):
    def row(name, memory, counter, **more):
        return {
            "question": f"What is {name}'s occupation?",
            "popularity": 142,
            "ground_truth": ["politician", "polit."],
            "memory_answer": f"{name} is a {memory}.",
            "parametric_memory": f"As a {memory}, {name} is known.",
            "counter_answer": f"{name} is a {counter}.",
            "counter_memory": f"{name}, a {counter}, spoke.",
            "parametric_memory_aligned_evidence": f"{name} works as a {memory}.",
            "counter_memory_aligned_evidence": f"{name} was elected.",
            **more,
        }

    rows = [row("Ann", "painter", "politician"), row("Bob", "politician", "cook"), row("Cy", "cook", "baker")]
    silent = row("Di", "cook", "politician", counter_memory="Di spoke.")
    lines(folder / "conflictQA-popQA-chatgpt.json", [*rows, silent])
    lines(folder / "conflictQA-popQA-gpt4.json", rows)
    return folder


def realtimeqa(folder):
    def quiz(number, **more):
        return {
            "question_id": f"20230106_{number}",
            "question_date": "2023/01/05",
            "question_source": "CNN",
            "question_url": "https://example.org",
            "question_sentence": f"Which seed was number {number}?",
            "choices": ["Chia", "Sesame", "Pumpkin"],
            "answer": ["1"],
            "evidence": 'It was <a href="https://example.org">sesame</a> &amp; nothing else.',
            **more,
        }

    found = [
        {"url": "u", "title": "News", "text": "Sesame joined.", "authors": [], "publish_date": "2023/01/05"},
        {"url": "u", "title": "Other", "text": "Of chia. " * 500, "authors": [], "publish_date": "2023/01/05"},
    ]
    year = folder / "past" / "2023"
    lines(year / "20230106_qa.jsonl", [quiz(0), quiz(1, evidence=""), quiz(2)])
    lines(
        year / "20230106_gcs.jsonl",
        [{"question_id": "20230106_0", "search_time": "2023/01/07", "search_result": found}],
    )
    lines(year / "20230106_qa_nota.jsonl", [quiz(8)])
    lines(folder / "past" / "2022" / "20220101_qa.jsonl", [quiz(9)])
    return folder


MAKE = {make.__name__: make for make in (poisonedrag, rgb, ramdocs, conflictqa, realtimeqa)}


def read(name, folder, **config):
    rows = CountedRows(hub.read(CorpusConfig(source="benchmark", benchmark=name, folder=str(folder), **config)))
    return list(rows), rows.counts


def texts(row, kind):
    return [document["text"] for document in row.documents if document["kind"] == kind]


def test_every_benchmark_that_judges_has_a_licence_a_citation_and_test_rows_alone(tmp_path):
    assert set(MAKE) == set(BENCHMARKS)
    for name, benchmark in BENCHMARKS.items():
        rows, counts = read(name, MAKE[name](tmp_path / name))
        assert {row.split for row in rows} == {"test"} and len({row.id for row in rows}) == len(rows)
        assert counts["licence"] == benchmark.licence and "arXiv" in counts["citation"] and counts["broken"] == []
        assert any(texts(row, "forged") for row in rows) is benchmark.forged


def test_poisonedrag_targets_meet_the_passages_that_beir_judges_golden(tmp_path):
    first, second = read("poisonedrag", poisonedrag(tmp_path))[0]
    assert (first.id, first.dataset, first.answers, first.wrong_answers) == (
        *("poisonedrag_nq-test1", "poisonedrag_nq"),
        *(("2",), ("7",)),
    )
    assert texts(first, "golden") == ["Planet 0 has 2 moons."] and texts(second, "golden") == ["Planet 1: 3 moons."]
    assert len(texts(first, "forged")) == 5 and first.documents[1]["states"] == "7"


def test_poisonedrag_without_beir_is_one_line_with_the_way_out(tmp_path):
    folder = poisonedrag(tmp_path)
    (folder / "datasets" / "nq" / "corpus.jsonl").unlink()
    for ask in (lambda: read("poisonedrag", folder), lambda: hub.made_by(config("poisonedrag", folder))):
        with pytest.raises(
            ConfigError, match=r"holds no corpus\.jsonl.*prepare_dataset\.py.*take nq\.json out"
        ) as told:
            ask()
        assert "\n" not in str(told.value)


def test_poisonedrag_torn_targets_are_named(tmp_path):
    folder = poisonedrag(tmp_path)
    path = folder / "results" / "adv_targeted_results" / "nq.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"nq\.json: cannot be read with"):
        read("poisonedrag", folder)


def config(name, folder=""):
    return CorpusConfig(source="benchmark", benchmark=name, folder=str(folder))


def test_rgb_lists_of_lists_are_what_must_be_said_with_its_wordings(tmp_path):
    rows = {row.id: row for row in read("rgb", rgb(tmp_path))[0]}
    assert sorted(rows) == ["rgb_en_fact-0", "rgb_en_int-0", "rgb_en_refine-0", "rgb_en_refine-1", "rgb_zh_fact-0"]
    any_of, both = rows["rgb_en_refine-0"], rows["rgb_en_int-0"]
    assert any_of.answers == ("Ann Lee", "A. Lee") and any_of.meta == {} and texts(any_of, "golden") == ["A. Lee won."]
    assert both.answers == ("May 3", "June 4") and both.meta == {"all_answers_required": True}
    assert texts(both, "golden") == ["One was on May 3.", "The other on June 4."]
    assert texts(rows["rgb_en_refine-1"], "golden") == ["On May 3."]
    assert texts(any_of, "distractor") == [f"Noise {n}." for n in range(9)]
    fact = rows["rgb_en_fact-0"]
    assert texts(fact, "golden") == ["It was in Tampa, Florida."] and fact.answers == ("Tampa, Florida",)
    assert len(texts(fact, "forged")) == 2 and fact.wrong_answers == ("Glendale, Arizona",)
    assert rows["rgb_zh_fact-0"].wrong_answers == ("江苏苏宁",)


def test_ramdocs_asks_for_all_answers_and_says_what_each_forged_document_states(tmp_path):
    two, one = read("ramdocs", ramdocs(tmp_path))[0]
    assert two.meta == {"all_answers_required": True} and one.meta == {} and len(texts(two, "golden")) == 2
    assert texts(two, "distractor") == ["A bow may break."] and len(two.wrong_answers) == 2
    assert [one["states"] for one in two.documents if one["kind"] == "forged"] == [*two.wrong_answers]


def test_conflictqa_takes_the_side_that_states_the_truth(tmp_path):
    rows, counts = read("conflictqa", conflictqa(tmp_path))
    ann, bob = rows
    assert texts(ann, "golden") == ["Ann, a politician, spoke."]  # the evidence does not show the answer
    assert texts(ann, "forged") == ["Ann works as a painter.", "As a painter, Ann is known."]
    assert texts(bob, "golden") == ["Bob works as a politician."] and bob.dataset == "conflictqa_popqa"
    assert texts(bob, "forged") == ["Bob was elected.", "Bob, a cook, spoke."]
    assert counts["unused"] == 2  # one of two wrong sides, one without a document that shows the answer


def test_realtimeqa_explanations_are_golden_and_articles_without_the_answer_distract(tmp_path):
    rows, counts = read("realtimeqa", realtimeqa(tmp_path))
    assert [row.id for row in rows] == [f"realtimeqa-20230106_{n}" for n in (9, 0, 2)] and counts["unused"] == 1
    row = rows[1]
    assert texts(row, "golden") == ["It was sesame & nothing else."] and row.answers == ("Sesame",)
    assert row.wrong_answers == ("Chia", "Pumpkin")
    assert [len(text) for text in texts(row, "distractor")] == [2000] and rows[2].documents[0]["kind"] == "golden"


def test_what_is_not_on_the_hub_asks_for_a_clone_and_tells_its_commit(tmp_path):
    for ask in (hub.made_by, lambda one: list(hub.read(one))):
        with pytest.raises(
            ConfigError, match=r"corpus\.benchmark=rgb is not on the hub.*`git clone https://github\.com"
        ):
            ask(config("rgb"))
    with pytest.raises(ConfigError, match=r"must be a copy of https://github\.com/chen700564/RGB: `git clone"):
        hub.made_by(config("rgb", tmp_path))
    folder, commit = rgb(tmp_path), "65ec39e40e7dc9abb50e9bf1b4f32be3f6f16615"
    (folder / ".git" / "refs" / "heads").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/master\n")
    assert read("rgb", folder)[1]["commit"] == "unknown"
    (folder / ".git" / "refs" / "heads" / "master").write_text(f"{commit}\n")
    assert read("rgb", folder)[1]["commit"] == commit


def test_files_beside_name_the_data_too(tmp_path):
    folder = poisonedrag(tmp_path)
    before = hub.made_by(config("poisonedrag", folder))
    corpus = folder / "datasets" / "nq" / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("2 moons", "two moons"))
    assert hub.made_by(config("poisonedrag", folder)) != before


@pytest.mark.parametrize(("column", "value"), [("answer", ["x"]), ("answer", []), ("choices", None), ("evidence", 3)])
def test_a_row_of_another_form_is_named(tmp_path, column, value):
    folder = realtimeqa(tmp_path)
    path = folder / "past" / "2022" / "20220101_qa.jsonl"
    lines(path, [{**json.loads(path.read_text()), column: value}])
    with pytest.raises(DataError, match=r"20220101_qa\.jsonl, line 1: .*if https://github\.com/realtimeqa"):
        read("realtimeqa", folder)
    assert len(read("realtimeqa", folder, broken="skip")[0]) == 2


@pytest.mark.parametrize("name", BENCHMARKS)
def test_road_to_questions_and_forgeries(name, tmp_path):
    """The data's own forged documents stand in the attacked lists; each argues for what it states itself."""
    settings = loader.resolve(
        {
            "corpus": {"source": "benchmark", "benchmark": name, "folder": str(MAKE[name](tmp_path / "copy"))},
            "contexts": {"documents": 2},
            "model": {"max_tokens": 2048},
        }
    )
    made = Pipeline(settings, Store(tmp_path / "runs"), tiny.tokenizer(), SerialMapper())
    questions = list(made.questions)
    assert questions and all(one.split == "test" and one.oracle_ids for one in questions)
    given = [one for one in made.forgeries if one.method == "dataset"]
    assert bool(given) is BENCHMARKS[name].forged
    if name == "ramdocs":
        stated = [(one.states, one.truthful) for one in given]
        assert stated == [("10,000 people", False), ("20,000 people", False)]
        assert {one.text: one.all_answers_required for one in questions}["Who?"] is False
        assert any(one.all_answers_required for one in questions)
    with pytest.raises(ConfigError, match=rf"corpus\.benchmark={name} has test questions alone, which judge"):
        planning.check_plan(settings, "raft")
    found = summarise({}, questions, settings, {})
    assert found.attack_name == ("attacked" if BENCHMARKS[name].forged else "template attack")
