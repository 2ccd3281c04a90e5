"""RAFT (arXiv 2403.10131): fine-tune on questions whose context holds the oracle in P% of rows only.

    L_RAFT = - E_(Q, D, A*) mean_t log p(A*_t | D, Q, A*_<t)          (section 3)

    share P        D = a permutation of {D*, D_1 .. D_k}       `data/contexts.py`, contexts.oracle_fraction
    share 1 - P    D = a permutation of {D_1 .. D_k+1}         same length, same target A*
    A*             the answer, or reasoning with quotes        `data/prompts.py`, prompts.answer
    loss           on A* and its end token only                `data/examples.py`, `lm/tune.py`

Then the question that RAFT is about: does the tuned model stay right when the oracle is absent, when distractors
stand beside it, when forgeries agree against it? Each is a condition, asked before and after, same questions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ragdist.config import Settings
from ragdist.config.address import address_of
from ragdist.data.defences import registry
from ragdist.data.pipeline import Pipeline
from ragdist.data.sources import apidocs
from ragdist.evaluation import apicalls, defended, kept_answers, predictions, robustness, suite
from ragdist.evaluation.ask import ask_cases, kept_predictions
from ragdist.evaluation.cases import Case, as_chats, kept_cases, make_cases
from ragdist.evaluation.kept_answers import KeptAnswer
from ragdist.evaluation.report import Report
from ragdist.evaluation.service import Service, ask, phases
from ragdist.evaluation.summary import summarise
from ragdist.records import Forgery, Prediction, Question
from ragdist.roles import Answerer, Answerers, TrainingJob, Tuner
from ragdist.storage.atomic import make_folder
from ragdist.storage.stages import Stage
from ragdist.tracking.run import span

BASE, TUNED, EVALUATION = "base", "RAFT", "evaluation"


@dataclass(frozen=True, slots=True)
class RaftOutcome:
    """What a RAFT run made."""

    model: Path
    """Folder of the tuned model."""
    report: Report
    answers: list[KeptAnswer]
    """All that were given."""


def run(pipeline: Pipeline, tuner: Tuner, answerers: Answerers, folder: Path, settings: Settings) -> RaftOutcome:
    """The tuned model and how it compares with the one it came from.

    Args:
        pipeline: corpus, questions and training rows.
        tuner: who trains.
        answerers: who answers; opened with the base model's source and with the tuned folder.
        folder: the run's folder.
        settings: all settings.

    Raises:
        RagdistError: bad input, a stop request, or a failed training job; what is finished stays.
    """
    with span("data"):
        pipeline.make("examples")
    pipeline.refuse_no_step()
    asked = before(pipeline, answerers, folder, settings)
    scored(pipeline, asked)  # what a metric of the user's own cannot judge is told before hours of training
    with span("train"):
        (tuned,) = tuner.tune([TrainingJob(TUNED, pipeline.examples.path, folder, settings.train)])
    models = {**dict.fromkeys(asked, settings.model.source), TUNED: str(tuned)}
    asked = evaluate(pipeline, models, answerers, folder, settings, asked)
    return RaftOutcome(tuned, report(pipeline, asked, settings), answers(pipeline, asked, settings))


def before(pipeline: Pipeline, answerers: Answerers, folder: Path, settings: Settings) -> dict[str, list[Prediction]]:
    """The untuned model's answers, asked once for all runs with these prompts, whatever they tune; a copy in `folder`.

    Nothing where `evaluation.before` is off.
    """
    if not settings.evaluation.before:
        return {}
    source, tests = settings.model.source, test_questions(pipeline)
    every = cases(pipeline, tests, settings)
    stage = Stage("answers", {"base": predictions.made_of(BASE, [source], every, tests, settings)})
    shared = pipeline.store.path(stage)
    with pipeline.store.holding(stage), _opening(answerers, source) as opened:
        said = _asked(BASE, source, every, tests, opened, shared, settings)
    for file in shared.iterdir():
        shutil.copyfile(file, make_folder(folder / EVALUATION) / file.name)
    return {BASE: said}


def evaluate(
    pipeline: Pipeline,
    models: dict[str, str],
    answerers: Answerers,
    folder: Path,
    settings: Settings,
    plain: Mapping[str, list[Prediction]] = MappingProxyType({}),
) -> dict[str, list[Prediction]]:
    """Each model's answers to every test question in every condition of `evaluation.conditions`, and beside it those
    under each of `evaluation.defences`; answers in `plain` are taken as they are."""
    tests, place, found = test_questions(pipeline), folder / EVALUATION, dict[str, list[Prediction]]()
    shown, chosen = _shown(pipeline, models, settings), registry.chosen(settings.evaluation.defences)
    defences = _defences(pipeline, place, settings)
    for label, source in models.items():
        with _opening(answerers, source) as opened:
            if label in plain:
                found[label] = plain[label]
            else:
                found[label] = _asked(label, source, shown[label], tests, opened, place, settings)
            model = defended.Model(label, source, opened, shown[label], found[label])
            for defence in chosen:
                with span(f"evaluate {defended.under(label, defence)}"):
                    found[defended.under(label, defence)] = defences.answers(defence, model)
    return found


def _defences(pipeline: Pipeline, place: Path, settings: Settings) -> defended.Defences:
    tests = {question.id: question for question in test_questions(pipeline)}
    teacher = pipeline.teacher if settings.teacher.url or settings.teacher.model else None
    honest = defended.drawn(pipeline.chunks, settings.seed) if settings.evaluation.defences else ()
    return defended.Defences(tests, honest, pipeline.tokenizer, teacher, place, settings)


@contextmanager
def _opening(answerers: Answerers, source: str) -> Iterator[Callable[[], Answerer]]:
    """Opens the model when it is asked for the first time, for as long as the block lasts."""
    with ExitStack() as until:
        yield cache(lambda: until.enter_context(answerers.open(source)))


def _shown(pipeline: Pipeline, models: Mapping[str, str], settings: Settings) -> dict[str, list[Case]]:
    """What each model is asked: those behind endpoints with messages."""
    tests = test_questions(pipeline)
    every = cases(pipeline, tests, settings) if models else []
    elsewhere = {label for label, source in models.items() if address_of(source)}
    chats = as_chats(every, tests, pipeline.tokenizer, settings) if elsewhere else []
    return {label: chats if label in elsewhere else every for label in models}


def evaluate_service(
    pipeline: Pipeline,
    service: Service,
    named: dict[str, str],
    answerers: Answerers,
    folder: Path,
    settings: Settings,
) -> tuple[dict[str, list[Prediction]], list[KeptAnswer]]:
    """A service's answers to every test question over each corpus, alone and as they are kept."""
    (label, source), tests = *named.items(), test_questions(pipeline)
    found = phases(pipeline, [question for question in tests if question.oracle_ids], settings)
    with span(f"evaluate {label}"):
        said = ask(service, (label, source), found, tests, answerers, folder / EVALUATION, settings)
    asked = {label: said}
    return asked, kept_answers.rows(asked, [case for phase in found for case in phase.cases], tests, settings.seed)


def cases(
    pipeline: Pipeline, questions: Sequence[Question], settings: Settings, forgeries: Iterable[Forgery] | None = None
) -> list[Case]:
    """These questions under every condition of `evaluation.conditions` that they allow, and all that the robustness
    suite asks of the test questions; made once for all who ask.

    Args:
        pipeline: the corpus.
        questions: to be asked.
        settings: the conditions.
        forgeries: of these questions; None are the test questions'.
    """
    distractors, chunks, tokenizer = pipeline.candidates, pipeline.chunk_by_id, pipeline.tokenizer
    made_by = {
        "chunks": pipeline.chunks.fingerprint,
        "distractors": distractors.fingerprint,
        "codec": tokenizer.fingerprint,
    }

    def make(forged: Mapping[str, Sequence[Forgery]]) -> Iterator[Case]:
        by_question = {found.question_id: found for found in distractors}
        return make_cases(questions, chunks, by_question, forged, pipeline.kept_hits, tokenizer, settings)

    found_by = pipeline.found_by if "retrieved" in settings.evaluation.conditions else {}
    given = pipeline.forgeries if forgeries is None else forgeries
    every = kept_cases(pipeline.store, made_by | found_by, questions, chunks, given, settings, make)
    return every + (suite.cases(pipeline, made_by, questions, settings) if forgeries is None else [])


def _asked(
    label: str,
    source: str,
    every: list[Case],
    tests: list[Question],
    opened: Callable[[], Answerer],
    folder: Path,
    settings: Settings,
) -> list[Prediction]:
    with span(f"evaluate {label}"):
        if (kept := kept_predictions(label, [source], every, tests, folder, settings)) is not None:
            return kept
        return ask_cases(label, [source], opened(), every, tests, folder, settings)


def answers(pipeline: Pipeline, asked: dict[str, list[Prediction]], settings: Settings) -> list[KeptAnswer]:
    """The answers beside what was shown."""
    tests = test_questions(pipeline)
    return kept_answers.rows(asked, cases(pipeline, tests, settings), tests, settings.seed)


def report(pipeline: Pipeline, asked: dict[str, list[Prediction]], settings: Settings) -> Report:
    """Scores with intervals, differences, and the floor that the parameter's name alone reaches."""
    train = [question for question in pipeline.questions if question.split == "train"]
    tests = test_questions(pipeline)
    floor = apidocs.floor(train, tests) if settings.corpus.source == "apidocs" else {}
    judge = apicalls.Judge(tests, pipeline.chunk_by_id)
    judged = scored(pipeline, asked)
    found = summarise(judged, tests, settings, floor, api_judge=judge)
    told = [f"{one.name}: {one.about} {one.source}." for one in registry.chosen(settings.evaluation.defences)]
    found = replace(found, defences=tuple(told))
    if not (plan := suite.plan_of(settings)):
        return found
    return replace(found, robustness=robustness.of(judged, plan, suite.left_out(plan, pipeline, tests), settings))


def scored(pipeline: Pipeline, asked: Mapping[str, list[Prediction]]) -> Mapping[str, list[Prediction]]:
    """The answers, judged by the user's own metric too where there is one."""
    metric = pipeline.parts.metric
    return predictions.scored(asked, pipeline.questions, metric, pipeline.kept_by("metric")) if metric else asked


def test_questions(pipeline: Pipeline) -> list[Question]:
    """The held-out questions, in the data pipeline's order."""
    return [question for question in pipeline.questions if question.split == "test"]
