"""DuetRAG in one process on the tiny model: who learns from what, who answers, and that it goes on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ragdist import players
from ragdist.config import loader
from ragdist.errors import ConfigError
from ragdist.lm.tune import tune
from ragdist.serving import library
from ragdist.serving.service import Query
from ragdist.storage.atomic import make_folder, write_json
from ragdist.systems.duet import run as duet
from ragdist.systems.duet.summary import EITHER
from tests import game, tiny

FEW = {"examples_per_step": 2, "microbatch": 2, "epochs": 1, "checkpoint_every": 9, "learning_rate": 1e-3}
ADAPTER = {"lora": {"rank": 2, "merge": False}}
ROLES = ("reciter", "discoverer", "scorer", "summarizer")
CONDITIONS = ("retrieved", "attacked")
ARBITERS = (
    *("alignment", "features", "summarizer", "tuned_summarizer"),
    *("evidence", "trust_margin", "sequence_confidence", "agreement"),
)


class LocalTuner:
    """Plays Tuner in this process; notes what it was asked to tune."""

    def __init__(self, settings):
        self.settings, self.asked = settings, []

    def tune(self, lessons):
        self.asked += [lesson.name for lesson in lessons]
        return [
            tune(
                lesson.rows,
                make_folder(lesson.folder),
                self.settings.model_copy(update={"train": lesson.train}),
                kind=lesson.kind,
                name=lesson.name,
            )
            for lesson in lessons
        ]


def settings_in(folder, model, **changes):
    """Eight training questions, four to test, all kinds of arbiters."""
    return game.settings(
        folder,
        model,
        run={"name": "duet"},
        retrieval={"count": 3},
        evaluation={"conditions": list(CONDITIONS)},
        duet={
            **dict.fromkeys(ROLES, FEW | ADAPTER),
            "answerers_fraction": 0.5,
            "validation_fraction": 0.5,
            "learn_from": list(CONDITIONS),
            "arbiters": list(ARBITERS),
            **changes,
        },
    )


def play(settings):
    """The outcome, and who was tuned."""
    folder = Path(settings.run.folder) / settings.run.name
    folder.mkdir(parents=True, exist_ok=True)
    with players.pipeline(settings) as pipeline:
        tuner = LocalTuner(settings)
        cast = replace(players.cast(settings, pipeline, folder), tuner=tuner)
        outcome = duet.run(pipeline, cast, folder, settings)
        library.note(folder, pipeline)
    write_json(folder / "state.json", {"job": "duet", "state": "finished"})
    return outcome, tuner.asked


def served(folder, settings, *questions):
    """What the trio of a finished run says to questions of anybody's, all of them at once."""
    with players.service(folder, settings) as service:
        asked = [service.ask(Query(question=question)) for question in questions]
        return [one.result(120) for one in asked]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, model):
    return settings_in(tmp_path_factory.mktemp("duet"), model)


@pytest.fixture(scope="module")
def played(settings):
    return play(settings)


@pytest.fixture
def folder(settings, played):
    return Path(settings.run.folder) / "duet"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_papers_table_has_a_row_for_each_of_its_models(played):
    report = played[0].report
    labels = ["base", "DSF", "reciter", "discoverer"]
    arbiters = [f"DuetRAG, {kind.replace('_', ' ')}" for kind in ARBITERS]
    assert report.models == [*labels, *arbiters, EITHER]
    for condition in CONDITIONS:
        assert not report.cell("reciter", condition) and report.cell("reciter", "closed_book").rows == 4
        assert all(report.cell(label, condition).rows == 4 for label in ("base", "DSF", "discoverer", *arbiters))


def test_lessons_are_side_by_side_first_the_sides_then_the_arbiters(played):
    assert played[1] == ["reciter", "discoverer", "DSF", "alignment arbiter", "summarizer"]


def test_arbiters_learn_from_questions_that_tuned_neither_side_check_56(folder, settings):
    data = Path(settings.run.folder) / "data"
    tuned = {row["id"] for stage in data.glob("recited-[0-9a-f]*") for row in rows(stage / "rows.jsonl")}
    rated = {row["id"].partition("/")[0] for row in rows(folder / "arbiter" / "rated.jsonl")}
    summed = {row["id"].partition("/")[0] for row in rows(folder / "arbiter" / "summaries.jsonl")}
    assert len(rated) == 2 and summed == rated
    asked = {(row.get("condition"), row.get("question_id")) for row in rows(folder / "evaluation" / "held-out.jsonl")}
    assert {(kind, key) for key in rated for kind in ("closed_book", *CONDITIONS)} <= asked
    alone = next(stage for stage in data.glob("discovered-*"))
    assert rated.isdisjoint(row["id"] for row in rows(alone / "rows.jsonl")) and rated <= tuned  # DSF has all


def test_scorers_answer_with_one_of_the_two_and_lie_between_the_bounds_checks_57_63(played):
    for worth in played[0].worth:
        if worth.calibration:
            total = worth.outcomes
            assert total.both <= total.count(arbiter=True) <= total.rows - total.neither


def test_evidence_is_read_once_and_has_too_little_to_learn_from_here(folder, played):
    """No answer of the tiny model is right, so the discoverer's are taken; the untrained rules choose all the same."""
    assert json.loads((folder / "arbiter" / "evidence.json").read_text()) is None
    by_name = {(worth.arbiter, worth.condition): worth for worth in played[0].worth}
    for condition in CONDITIONS:
        assert by_name["evidence", condition].outcomes.harmed == 0
        assert by_name["sequence confidence", condition].calibration is not None
    read = rows(folder / "arbiter" / "read" / "discoverer.jsonl")
    assert len(read) - 1 == len({row["id"] for row in read[1:]}) > 0
    assert all(len(row["logprobs"]) in (2, 4) and max(map(max, row["logprobs"])) <= 0 for row in read[1:])


def test_lists_of_evidence_are_no_lessons_of_the_others(tmp_path, model):
    """What the evidence arbiter also sees changes nothing of what alignment and features learn from."""
    alone, beside = (
        settings_in(tmp_path, model, learn_from=["retrieved"], arbiters=arbiters)
        for arbiters in (["features"], ["features", "evidence"])
    )
    assert duet.Duet(None, None, None, tmp_path, alone).held_conditions == ("closed_book", "retrieved")
    both = duet.Duet(None, None, None, tmp_path, beside)
    assert both.held_conditions == ("closed_book", "retrieved", "attacked", "absent")


def test_order_effect_is_measured_for_summarizers_alone(played):
    measured = {(worth.arbiter, worth.condition) for worth in played[0].worth if worth.order_effect is not None}
    assert {condition for _, condition in measured} <= {"retrieved"}
    assert all("summarizer" in arbiter for arbiter, _ in measured)


def test_same_call_again_trains_and_asks_nothing(played, folder, settings):
    kept = [
        *folder.rglob("*.safetensors"),
        *(folder / "evaluation").iterdir(),
        *(folder / "arbiter" / "said").iterdir(),
        *(folder / "arbiter" / "read").iterdir(),
        *(folder / "arbiter" / "alone").iterdir(),
    ]
    before = {path: path.stat().st_mtime_ns for path in kept}
    sizes = {path: path.stat().st_size for path in kept}
    again, _ = play(settings)
    assert again.report == played[0].report
    assert {path: path.stat().st_size for path in kept} == sizes
    models = [path for path in kept if path.suffix == ".safetensors"]
    assert len(models) == 5 and all(path.stat().st_mtime_ns == before[path] for path in models)


@pytest.mark.parametrize("kind", ["alignment", "summarizer", "evidence", "sequence_confidence", "agreement"])
def test_a_question_of_anybodys_is_answered_by_the_arbiter_that_is_named(settings, played, folder, kind):
    config = settings.duet.replaced("arbiter", kind).replaced("abstain_below", 1.0)
    before = sorted((folder / "arbiter").rglob("*"))
    question = "Which colour has ball 3.0?"
    found, lost, again = served(folder, settings.replaced("duet", config), question, "xyzzy", question)
    assert found.documents[0].title == "ball 3.0" and len(found.documents) == 3 and found == again
    said = {name: side.answer for name, side in found.sides.items()}
    assert [*said] == ["reciter", "discoverer"] and (found.answer in said.values() or found.chosen == "neither")
    assert found.abstains == (found.confidence is not None)
    assert lost.documents == () and lost.chosen == "reciter" and lost.answer == lost.sides["reciter"].answer
    assert sorted((folder / "arbiter").rglob("*")) == before  # a served run's folder is only read


def test_what_is_served_is_what_was_judged(settings, played, folder):
    judged = [one for one in played[0].answers if one.condition == "retrieved" and one.model == "DuetRAG, alignment"]
    found = served(folder, settings, *(one.question for one in judged))
    assert len(judged) == 4 and [one.answer for one in found] == [one.answer for one in judged]


def test_an_arbiter_that_was_not_trained_is_refused_by_the_names_of_those_that_were(settings, played, folder):
    other = settings.replaced("duet.arbiter", "teacher_summarizer")
    with pytest.raises(ConfigError, match=r"duet\.arbiter.*alignment"):
        served(folder, other)


def test_where_all_answers_are_wrong_the_discoverers_are_taken(tmp_path, model, capsys):
    settings = settings_in(
        tmp_path,
        model,
        gold_pairs=False,
        arbiters=["alignment", "features"],
        plain_tuning=False,
        answerers_fraction=0.5,
    )
    outcome, tuned = play(settings)
    assert tuned == ["reciter", "discoverer"]
    assert "are wrong: the alignment arbiter takes the discoverer's" in capsys.readouterr().err
    report = outcome.report
    for condition in CONDITIONS:
        assert report.cell("DuetRAG, alignment", condition).f1 == report.cell("discoverer", condition).f1


def test_steps_that_cannot_be_shared_are_an_error_of_this_job_alone(tmp_path, model):
    settings = settings_in(tmp_path, model)
    cluster = settings.cluster.model_copy(update={"workers": 3})
    with pytest.raises(ConfigError, match=r"duet\.reciter\.examples_per_step=2 .* 2 \* 3"):
        duet.run(None, None, tmp_path, settings.model_copy(update={"cluster": cluster}))
    loader.resolve({"cluster": {"workers": 8}, "train": {"examples_per_step": 32}})


def test_no_condition_with_documents_is_an_error(tmp_path, model):
    settings = settings_in(tmp_path, model)
    closed = settings.evaluation.model_copy(update={"conditions": ("closed_book",)})
    with pytest.raises(ConfigError, match=r"evaluation\.conditions.*add retrieved"):
        duet.run(None, None, tmp_path, settings.model_copy(update={"evaluation": closed}))
