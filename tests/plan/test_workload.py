"""Rows, steps, a teacher's tokens and speed: counted from real stages and runs, and bounds where there are none."""

import json
from pathlib import Path

import pytest

from ragdist.config import ModelConfig
from ragdist.config.loader import dump, resolve
from ragdist.data.pipeline import Pipeline
from ragdist.data.sources import places
from ragdist.local import SerialMapper
from ragdist.plan import workload
from ragdist.storage.stages import Store
from ragdist.systems.atm.training_rows import open_questions
from ragdist.tracking.run import versions
from tests import tiny


@pytest.fixture
def made(tmp_path):
    """Settings whose data pipeline is finished: 20 questions, 16 of them to train on."""
    rows = [
        {"question": f"Colour of ball {n}?", "answers": [f"shade{n}"], "split": "test" if n < 4 else "train"}
        | {"documents": [{"title": f"ball {n}", "text": f"Ball {n} is shade{n}.", "kind": "golden"}]}
        for n in range(20)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = resolve(
        {
            "run": {"folder": str(tmp_path / "runs")},
            "model": {"source": "somewhere", "max_tokens": 512},
            "corpus": {"source": "records", "questions": [str(tmp_path / "q.jsonl")]},
            "contexts": {"documents": 3, "distractors": "random"},
            "train": {"examples_per_step": 3, "microbatch": 1, "epochs": 2},
        }
    )
    pipeline = Pipeline(settings, Store(tmp_path / "runs" / "data"), tiny.tokenizer(), SerialMapper())
    pipeline.make("examples")
    open_questions(pipeline, "train")
    workload.note_tokenizer(tmp_path / "runs" / "data", settings.model, tiny.tokenizer().fingerprint)
    return settings, pipeline


def here(settings):
    return workload.Here({"questions": places.digest(map(places.at, settings.corpus.questions))})


def changed(settings, **blocks):
    given = settings.model_dump()
    return resolve(given | {name: given[name] | new for name, new in blocks.items()})


def test_rows_are_those_of_the_finished_road(made):
    settings, pipeline = made
    found = workload.examples(settings, here(settings))
    lengths = [len(row.tokens) for row in pipeline.examples]
    answers = [len(row.tokens) - row.prompt_tokens for row in pipeline.examples]
    assert (found.rows, found.tokens) == (16, sum(lengths))
    assert (found.longest, found.answer) == (max(lengths), max(answers))
    assert found.stage == str(pipeline.examples.folder)
    assert workload.open_questions(settings, here(settings)) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"contexts": {"oracle_fraction": 0.5}},
        {"contexts": {"documents": 2}},
        {"model": {"max_tokens": 256}},
        {"model": {"source": "elsewhere"}},  # another tokenizer, perhaps
        {"prompts": {"system": "Be brief."}},
        {"questions": {"train_rows": 5}},
    ],
)
def test_other_settings_find_no_stage_and_are_bounded(made, change):
    settings = changed(made[0], **change)
    found = workload.examples(settings, here(settings))
    assert not found.exact and found.longest == settings.model.max_tokens
    assert found.rows == (settings.questions.train_rows or None)


def test_other_questions_find_no_stage(made):
    settings, _ = made
    assert not workload.examples(settings, workload.Here({"questions": "0" * 16})).exact
    assert workload.examples(settings, workload.Here()).exact  # the questions lie on another machine


def test_where_it_runs_changes_no_row(made):
    settings = changed(made[0], train={"zero_stage": 3}, cluster={"max_failures": 9}, evaluation={"before": False})
    assert workload.examples(settings, here(settings)).exact


def test_teacher_is_bounded_by_its_settings(tmp_path):
    teacher = {"questions_per_chunk": 2, "chunks": 10, "max_new_tokens": 100, "ask": "{chunk}" + "x" * 33}
    teacher |= {"answer": "{documents}{question}", "repair": "{documents}{question}"}
    teacher |= {"usd_per_million_read": 1.0, "usd_per_million_written": 10.0}
    settings = resolve(
        {
            "run": {"folder": str(tmp_path)},
            "corpus": {"source": "folder"},
            "chunks": {"tokens": 200},
            "contexts": {"documents": 3},
            "teacher": teacher,
        }
    )
    found = workload.teacher(settings, None)
    # 10 chunks of 200 tokens and a prompt of 40 characters; 20 answers from 600 tokens and 21 characters, and each
    # perhaps repaired; 64 tokens more for what is filled in.
    read = 10 * (200 + 10 + 64) + 20 * (600 + 5 + 64) + 20 * (600 + 5 + 64 + 100)
    assert (found.calls, found.read, found.written) == (50, read, 5000)
    assert found.usd == pytest.approx((read + 10 * 5000) / 1e6)
    assert workload.teacher(changed(settings, teacher={"chunks": 0}), None) is None  # the chunks are not cut yet
    assert workload.teacher(resolve({}), None) is None  # nobody is asked


def test_teacher_is_asked_for_the_reasoning_of_the_questions_that_there_are(made):
    settings, _ = made
    reasoned = changed(settings, teacher={"reasoning": True, "max_new_tokens": 100})
    found = workload.teacher(reasoned, here(settings))
    assert found.why == "20 answers, 20 repairs" and found.written == 40 * 100 and not found.usd
    capped = changed(reasoned, questions={"train_rows": 5})
    assert workload.teacher(capped, here(settings)).why == "5 answers, 5 repairs"


def test_speed_is_what_an_earlier_run_measured(made):
    settings, _ = made
    assert workload.speed(settings) is None
    folder = run(settings, "first", speeds=[100.0, 200.0, 120.0])
    assert workload.speed(settings) == (120.0, str(folder))
    assert workload.speed(changed(settings, model={"source": "elsewhere"})) is None
    assert workload.speed(changed(settings, cluster={"cpus_per_worker": 1.0})) is None
    (folder / "versions.json").write_text(json.dumps({"machine": "a faster one"}))
    assert workload.speed(settings) is None


def run(settings, name, speeds):
    """The folder that a run of these settings leaves."""
    folder = Path(settings.run.folder) / name
    folder.mkdir()
    (folder / "settings.yaml").write_text(dump(settings))
    (folder / "state.json").write_text(json.dumps({"job": "raft", "state": "finished"}))
    (folder / "versions.json").write_text(json.dumps(versions()))
    lines = [{"phase": "train", "useful_tokens_per_s": speed} for speed in speeds] + [{"phase": "span"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_codecs_are_noted_by_model(tmp_path):
    one, other = ModelConfig(source="one"), ModelConfig(source="one", revision="v2")
    workload.note_tokenizer(tmp_path, one, "aaa")
    workload.note_tokenizer(tmp_path, other, "bbb")
    workload.note_tokenizer(tmp_path, one, "ccc")
    assert json.loads((tmp_path / workload.TOKENIZERS).read_text()) == {"one@": "ccc", "one@v2": "bbb"}
