"""One function for each job: settings -> roles -> system -> Run. The Python API; `cli.py` and `jobs/` only call it.

With `players.py` the only place where the data pipeline, the papers and the engine room meet. Heavy imports wait inside
the functions, so that `ragdist --help` loads neither torch nor ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from ragdist import players, results
from ragdist.config import Settings, loader
from ragdist.config.loader import SYSTEMS, Source, flatten, load, load_kept
from ragdist.data.sources.given import QuestionRows, with_questions
from ragdist.errors import ConfigError, RagdistError
from ragdist.parts import Attack, Callback, Metric, Parts, Retriever
from ragdist.results import Run
from ragdist.storage.atomic import read_json, translate_errors
from ragdist.storage.stages import Rows
from ragdist.systems.atm.training_rows import open_questions
from ragdist.tracking.progress import say
from ragdist.tracking.run import STATE, RunFolder, open_run, run_folder, span

if TYPE_CHECKING:
    from ragdist.cluster.submit import Submission
    from ragdist.data.audit import Audit
    from ragdist.data.pipeline import Pipeline
    from ragdist.data.prompts import Document
    from ragdist.data.sources.check import QuestionCount
    from ragdist.data.starter import Machine
    from ragdist.evaluation.kept_answers import KeptAnswer
    from ragdist.evaluation.report import Report
    from ragdist.export import Exported
    from ragdist.kube.pods import KubeJob
    from ragdist.plan.fits import Problem
    from ragdist.plan.layout import Job, Plan
    from ragdist.plan.seats import Node
    from ragdist.plan.workload import Here
    from ragdist.serving.service import Answer, Service
    from ragdist.sweeping import Swept
    from ragdist.systems.atm.report import Rounds
    from ragdist.systems.atm.run import AtmOutcome
    from ragdist.systems.duet.report import DuetReport
    from ragdist.tracking.timeline import Timeline

SERVED = ("serve.", "retrieval.", "evaluation.", "duet.arbiter", "duet.abstain_below", "cluster.", "kube.", "teacher.")
"""Settings that may be others where a finished run is asked."""
JOBS = (*SYSTEMS, "sweep-raft", "sweep-atm")
"""What a cluster can be sent."""


def raft(
    settings: Settings,
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
    attack: Attack | None = None,
    metric: Metric | None = None,
    callbacks: Iterable[Callback] = (),
) -> Run:
    """Builds the data, tunes by RAFT, evaluates before and after. The same settings go on where they stopped.

    Args:
        settings: all settings.
        questions: a `datasets.Dataset`, a pandas frame or dicts, in place of `corpus.questions`.
        retriever: finds what is shown, in place of `retrieval.kind`; see `parts.Retriever`.
        attack: forges the documents of attacked lists, in place of the template attack; see `parts.Attack`.
        metric: scores answers beside Subspan EM, EM and F1; see `parts.Metric`.
        callbacks: are told how the run goes; see `parts.Callback`.

    Raises:
        RagdistError: bad input (exit code 2), failed training (1), a part of the user's own that raised
            (1), or a stop request (130).
    """
    own = Parts(retriever, attack, metric)
    settings = with_questions(own.noted(settings), questions)
    check_plan(settings, "raft")
    from ragdist.cluster.train import RayTuner
    from ragdist.data import audit as auditing
    from ragdist.systems import raft as system
    from ragdist.tracking.mirror import follow

    with open_run(settings, "raft") as run, follow(run, callbacks), players.pipeline(settings, own) as pipeline:
        outcome = system.run(
            pipeline, RayTuner(settings), players.answerers(settings, run.folder), run.folder, settings
        )
        _note_documents(run, pipeline)
        with span("audit"):
            run.write_json("audit.json", auditing.as_json(_audited(pipeline, settings)))
        summary = _conclude(run, outcome.report, outcome.answers, [outcome.model])
        return Run(run.folder, outcome.model, outcome.report, summary)


def atm(
    settings: Settings,
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
    attack: Attack | None = None,
    callbacks: Iterable[Callback] = (),
) -> Run:
    """Attacker against generator in rounds, judged before and after each. The same settings go on where they stopped.

    Args:
        settings: all settings.
        questions: a `datasets.Dataset`, a pandas frame or dicts, in place of `corpus.questions`.
        retriever: finds what is shown, in place of `retrieval.kind`; see `parts.Retriever`.
        attack: forges the documents of attacked lists, in place of the template attack; see `parts.Attack`.
        callbacks: are told how the run goes; see `parts.Callback`.

    Raises:
        RagdistError: bad input (exit code 2), a side that failed too often (1), a part of the user's own that raised
            (1), or a stop request (130).
    """
    own = Parts(retriever, attack)
    settings = with_questions(own.noted(settings), questions)
    check_plan(settings, "atm")
    from ragdist.export import publish
    from ragdist.tracking.mirror import follow

    with open_run(settings, "atm") as run, follow(run, callbacks), players.pipeline(settings, own) as pipeline:
        outcome, timeline = _game(pipeline, run, settings)
        _note_documents(run, pipeline)
        publish(outcome.generator, run.folder / "model", settings)
        idle = {group: round(timeline.idle_share(group), 3) for group in timeline.groups}
        report = replace(outcome.report, idle_share=idle)
        model = run.folder / "model"
        return Run(run.folder, model, report, _conclude(run, report, outcome.answers, [model]))


def duet(
    settings: Settings,
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
    attack: Attack | None = None,
    metric: Metric | None = None,
    callbacks: Iterable[Callback] = (),
) -> Run:
    """Reciter, discoverer and arbiters, tuned and compared. The same settings go on where they stopped.

    Args:
        settings: all settings.
        questions: a `datasets.Dataset`, a pandas frame or dicts, in place of `corpus.questions`.
        retriever: finds what is shown, in place of `retrieval.kind`; see `parts.Retriever`.
        attack: forges the documents of attacked lists, in place of the template attack; see `parts.Attack`.
        metric: scores answers beside Subspan EM, EM and F1; see `parts.Metric`.
        callbacks: are told how the run goes; see `parts.Callback`.

    Raises:
        RagdistError: bad input (exit code 2), failed training (1), a part of the user's own that raised
            (1), or a stop request (130).
    """
    own = Parts(retriever, attack, metric)
    settings = with_questions(own.noted(settings), questions)
    check_plan(settings, "duet")
    from ragdist.systems.duet import run as system
    from ragdist.systems.duet.opening import DISCOVERER
    from ragdist.systems.duet.report import DuetReport
    from ragdist.tracking.mirror import follow

    with open_run(settings, "duet") as run, follow(run, callbacks), players.pipeline(settings, own) as pipeline:
        outcome = system.run(pipeline, players.cast(settings, pipeline, run.folder), run.folder, settings)
        _note_documents(run, pipeline)
        report = DuetReport(outcome.report, outcome.worth)
        summary = _conclude(run, report, outcome.answers, system.sides_of(outcome.models))
        return Run(run.folder, outcome.models[DISCOVERER], report, summary)


def _conclude(
    run: RunFolder, report: Report | Rounds | DuetReport, answers: Sequence[KeptAnswer], models: Iterable[Path]
) -> dict[str, Any]:
    """What `results.conclude` returns; the cards of these models say how they are asked and what they scored."""
    from ragdist import export

    summary = results.conclude(run, report, answers)
    for model in models:
        export.describe(model, run.folder, run.settings, summary["scores"])
    return summary


def answer(question: str, folder: Path, retriever: Retriever | None = None) -> Answer:
    """What a finished run says to a question; arguments as of `serving`, and raises likewise."""
    from ragdist.serving.service import Query, checked

    with serving(folder, retriever=retriever) as service:
        return service.ask(Query(question=checked(question, "the question"))).result()


@contextmanager
def serving(folder: Path, overrides: Sequence[Source] = (), retriever: Retriever | None = None) -> Iterator[Service]:
    """A finished run of RAFT, ATM or DuetRAG, open to be asked in this process.

    Args:
        folder: the run's.
        overrides: `key=value` of serve, retrieval, evaluation.max_new_tokens or duet.arbiter.
        retriever: finds what is shown, where the run was made with one of the user's own; what it finds is not kept.

    Raises:
        ConfigError: the folder holds no finished run, or one of another retriever, or an override changes what it was
            trained for.
    """
    with players.service(folder, serving_settings(folder, overrides), retriever) as service:
        yield service


def chat(folder: Path, overrides: Sequence[str] = (), as_json: bool = False) -> None:
    """Answers the questions of standard input by a finished run; arguments as of `serving`."""
    from ragdist.serving import terminal

    with serving(folder, overrides) as service:
        terminal.talk(service, serving_settings(folder, overrides).serve.timeout_s, as_json)


def serve(folder: Path, overrides: Sequence[str] = ()) -> None:
    """A finished run over HTTP until the process is told to end; what is under way then is finished.

    Where a cluster is named (`cluster.address`, RAY_ADDRESS), replicas of it answer; else this process.

    Raises:
        ConfigError: as of `serving`; the port is taken, or the token file cannot be read.
    """
    from ragdist.serving import local

    settings = serving_settings(folder, overrides)
    token = local.token(settings.serve)
    if settings.cluster.address or os.environ.get("RAY_ADDRESS"):
        from ragdist.cluster import serve as replicas

        opened = partial(replica, folder.resolve(), tuple(overrides), local.fingerprint_of(token))
        replicas.run(opened, folder.resolve().name, settings)
        return
    with local.listening(settings.serve) as listener, served(folder, overrides, token) as app:
        local.run(app, listener, folder.resolve().name, settings.serve)


def serve_application(args: dict[str, Any]) -> Any:
    """What Ray Serve starts by the name `ragdist.runs:serve_application`, as in a RayService.

    Args:
        args: `run`, the run's folder as all machines see it, and `settings`, nested values as of `ragdist serve`.

    Raises:
        ConfigError: as of `serving`.
    """
    from ragdist.cluster import serve as replicas

    folder, overrides = Path(args["run"]), (args.get("settings") or {},)
    settings = serving_settings(folder, overrides)
    return replicas.application(partial(replica, folder, overrides, ""), settings.serve)


@contextmanager
def replica(folder: Path, overrides: Sequence[Source], fingerprint: str) -> Iterator[Any]:
    """As `served` on one of several machines, by the token that is there and has this fingerprint."""
    from ragdist.serving import local

    token = local.shared_token(serving_settings(folder, overrides).serve, fingerprint)
    with served(folder, overrides, token) as app:
        yield app


@contextmanager
def served(folder: Path, overrides: Sequence[Source], token: str) -> Iterator[Any]:
    """The ASGI application of a finished run, with its models; arguments as of `serving`, and the token of requests."""
    from ragdist.serving import http

    settings = serving_settings(folder, overrides)
    most = settings.serve.max_new_tokens or settings.answer_tokens
    with serving(folder, overrides) as service:
        yield http.application(service, folder.resolve().name, most, settings.serve, token)


def serving_settings(folder: Path, overrides: Sequence[Source] = ()) -> Settings:
    """The settings of a finished run, and what may be changed of them where it is asked; arguments as of `serving`."""
    state = read_json(folder / STATE) if (folder / STATE).exists() else {"job": "", "state": "not there"}
    if state["job"] not in SYSTEMS or state["state"] != "finished":
        results.refuse_unknown(str(folder))
        found = f"it is {state['job']} and {state['state']}" if state["job"] else "it is no run's folder"
        raise ConfigError(
            f"{folder} holds no finished run of {', '.join(SYSTEMS)}: {found}; `ragdist runs` lists those that are "
            "there, `ragdist demo` makes one"
        )
    kept = load_kept(folder / "settings.yaml")
    changed = loader.resolve(loader.nested(overrides, kept.model_dump(mode="json")))
    asked = flatten(changed)
    other = [key for key, value in flatten(kept).items() if asked[key] != value and not key.startswith(SERVED)]
    if other:
        raise ConfigError(f"{', '.join(other)} cannot change after training; here may change {', '.join(SERVED)}")
    return changed


def _note_documents(run: RunFolder, pipeline: Pipeline) -> None:
    """Leaves in the run's folder which documents it was made with."""
    from ragdist.serving import library

    library.note(run.folder, pipeline)


def prompt(question: str, documents: Sequence[Document], run: Run | Settings | Path | str) -> str:
    """The very text that a run's model is trained on and asked, in its chat template; an answer comes next.

    Documents are cut to fit beside an answer into `model.max_tokens`, as in evaluation. Its tokens are those of the
    text with no special token added (`add_special_tokens=False`).

    Args:
        question: in words.
        documents: in the order they are shown: texts, pairs (title, text), or dicts with text and perhaps title; an
            empty list is the closed book.
        run: a run or its folder, or settings.

    Raises:
        ConfigError: the folder holds no run.
        DataError: a document is none of these, or the question is too long.
    """
    from ragdist.data import prompts

    settings = run if isinstance(run, Settings) else _settings_of(Path(run.folder if isinstance(run, Run) else run))
    shown = [prompts.shown_as(document) for document in documents]
    limit, room = settings.model.max_tokens, settings.answer_tokens
    return prompts.prompt_text(question, shown, players.tokenizer(settings), settings.prompts, limit, room)


def _settings_of(folder: Path) -> Settings:
    """Those that a run kept, its tuned model's tokenizer being that of `model.source`."""
    if not (folder / "settings.yaml").exists():
        raise ConfigError(f"{folder} holds no run; name one as `ragdist runs` lists it, or give settings")
    settings = load_kept(folder / "settings.yaml")
    tuned = folder / "model"
    return settings.unchecked("model", settings.model.at(tuned)) if tuned.is_dir() else settings


def plan(settings: Settings, job: Job = "raft", nodes: str = "", from_runs: bool = False) -> Plan:
    """What a job would take: seats, memory, rows, steps, money. Loads and starts nothing.

    Args:
        settings: all settings.
        job: which system.
        nodes: machines, as `plan.seats.parse` reads them; empty is this one, or those of a cluster that is joined,
            of which nothing is known.
        from_runs: counts in the stages that runs of this machine finished, for other machines too; for this one and
            for a cluster that is joined that is always so.

    Raises:
        ConfigError: `nodes` cannot be read.
        ModelError: `model.source` names a package that is not there.
    """
    from ragdist.plan import layout, seats

    machines = seats.parse(nodes) if nodes else _machines(settings)
    count, unusable = _seen(settings)
    here = _here(settings) if from_runs or not nodes else None
    made = layout.make(settings, job, machines, here, count.train)
    problems = [*unusable, *_too_few(count, settings, job, made), *made.problems]
    return replace(made, data=count._asdict(), problems=problems)


def _machines(settings: Settings) -> list[Node] | None:
    """This machine; None where a cluster is joined, of which nothing is known from here."""
    from ragdist.plan import seats

    return None if settings.cluster.address or os.environ.get("RAY_ADDRESS") else [seats.this_machine()]


def _seen(settings: Settings) -> tuple[QuestionCount, list[Problem]]:
    """What is counted of the data as far as it is seen from here, and what stands in the way."""
    from ragdist.data.sources import check
    from ragdist.plan.fits import Problem

    if not check.there(settings.corpus):
        unseen = "corpus.folder or corpus.questions are not on this machine: not looked at"
        return check.QuestionCount(), [Problem(sure=False, text=unseen)]
    try:
        return check.questions(settings), []
    except RagdistError as error:
        return check.QuestionCount(), [Problem(sure=True, text=str(error))]


def _too_few(count: QuestionCount, settings: Settings, job: Job, made: Plan) -> list[Problem]:
    from ragdist.data.sources import check
    from ragdist.plan.fits import Problem

    found = [*check.impossible(count, settings)]
    if job == "raft":
        found += check.stepless(made.rows.rows if made.rows.exact else count.train, settings.train)
    if job == "duet" and count.train:
        from ragdist.systems.duet.training_rows import answerers_count

        rows = max(1, answerers_count(count.train, settings.duet))
        found += check.stepless(rows, settings.duet.reciter, "duet.reciter")
        found += check.stepless(rows, settings.duet.discoverer, "duet.discoverer")
    few = _few(count) if settings.evaluation.conditions else []
    return [Problem(sure=True, text=why) for why in found] + [Problem(sure=False, text=why) for why in few]


def _few(count: QuestionCount) -> list[str]:
    """A warning where so few questions judge that no difference will be called one."""
    from ragdist.evaluation.intervals import ENOUGH

    if not count.test or count.test >= ENOUGH:
        return []
    asked = "1 test question" if count.test == 1 else f"{count.test} test questions"
    return [
        f"{asked}: with fewer than {ENOUGH} no difference is called one, and intervals are wide; add questions, or "
        "raise questions.test_fraction"
    ]


def check_plan(settings: Settings, job: Job) -> None:
    """Lets pass what can work, and says what is near the limit.

    Machines of a cluster that is joined, or that this process has open already, are not known from here; where the
    model is tuned already there is nothing to check.

    Raises:
        ConfigError: something surely cannot fit.
        ModelError: `model.source` names a package that is not there.
    """
    tuned = (run_folder(settings, job) / "model").exists()
    count = None if tuned else check_data(settings)
    from ragdist.cluster import session
    from ragdist.plan import layout

    if session.is_job():
        session.refuse_relative(settings.run.folder)
    if count is None:
        return
    opened = session.is_open()
    made = layout.make(settings, job, None if opened else _machines(settings), _here(settings))
    if not opened:
        made = replace(made, problems=[*_too_few(count, settings, job, made), *made.problems])
    for warning in layout.check(made):
        say(f"warning: {warning}")


def check_data(settings: Settings) -> QuestionCount:
    """Counts the questions that are named, before anything heavy is loaded.

    Raises:
        ConfigError: files or a folder are not there.
        DataError: a question file cannot be used, or there are no documents.
    """
    from ragdist.data.sources import check

    return check.questions(settings)


def _here(settings: Settings) -> Here:
    """What this machine's runs left of these settings."""
    from ragdist.data.sources import origins
    from ragdist.plan.workload import Here

    return Here(origins.made_from(settings.corpus, settings.run.folder))


def render(
    settings: Settings, job: KubeJob, folder: Path, standing: bool = False, from_runs: bool = False
) -> list[Path]:
    """Writes the Kubernetes manifests of a job with these settings; returns the files.

    Args:
        settings: all settings.
        job: raft, duet, atm, sweep-raft or sweep-atm.
        folder: where to.
        standing: a RayCluster that stays, in place of a RayJob.
        from_runs: sizes pods by the rows that runs of this machine made; else what is written depends on settings and
            the model's files alone.

    Raises:
        ConfigError: settings that cannot work in pods, or a model of unknown memory.
    """
    _refuse_unknown(job)
    from ragdist.kube import pods, render
    from ragdist.plan import layout

    made = layout.make(settings, pods.system(job), None, _here(settings) if from_runs else None)
    layout.check(made)
    return render.write(render.render(settings, job, made, standing), folder)


def render_service(run: str, arguments: Sequence[Source], folder: Path) -> list[Path]:
    """Writes the Kubernetes manifests of a finished run that is to be asked over HTTP; returns the files.

    Args:
        run: the run's folder on the storage of the pods; a relative one lies below `kube.mount`.
        arguments: settings, of which those of `kube` and of SERVED count; the run's folder knows the rest.
        folder: where to.

    Raises:
        ConfigError: settings that cannot work in pods, or no memory of a replica.
    """
    from ragdist.kube import render, service

    values = loader.nested(arguments)
    return render.write(service.manifests(run, loader.resolve(values), _for_replicas(values)), folder)


def _for_replicas(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Of nested settings those that a replica may be told, which is not to join or make a cluster."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping):
            if inner := _for_replicas(value, f"{path}."):
                found[key] = inner
        elif path.startswith(SERVED) and not path.startswith(("cluster.", "kube.")):
            found[key] = value
    return found


def submit(
    job: str,
    settings: Settings,
    address: str,
    out: TextIO | None = None,
    *,
    working_dir: Path | None = None,
    excluded: Sequence[str] = (),
) -> Submission:
    """Sends a job to a cluster under its run's name and follows it; the same call goes on with it, or follows it again.

    Args:
        job: one of JOBS.
        settings: of the job; `sweeps.trials.load` reads a sweep's.
        address: of the head's dashboard, as http://127.0.0.1:8265.
        out: where the job's log goes until it ends; None does not wait.
        working_dir: sent along, and where the job runs; None sends nothing.
        excluded: what stays behind of it, as in .gitignore.

    Raises:
        ConfigError: no such job, or the cluster does not take it.
        TrainError: it was lost sight of, which does not end it.
    """
    _refuse_unknown(job)
    from ragdist.cluster import submit as cluster

    order = cluster.Order(job, settings, address, working_dir, tuple(excluded))
    return cluster.submit(order, out)


def _refuse_unknown(job: str) -> None:
    if job not in JOBS:
        raise ConfigError(f"no job {job!r}; wanted one of {', '.join(JOBS)} before the settings")


def sweep(job: str, settings: Settings) -> Swept:
    """Many runs of a job that differ in the settings of `sweep.over`, and what is best. The same call goes on, and
    one with more values adds to what is there.

    Args:
        job: raft or atm.
        settings: of all runs; `sweeps.trials.load` reads several values of a setting into `sweep.over`.

    Raises:
        RagdistError: bad input (exit code 2), no trial that came to its end (1), or a stop request (130).
    """
    from ragdist import sweeping

    if job not in ("raft", "atm"):
        raise ConfigError(f"no sweep of {job!r}; there are `ragdist sweep raft` and `ragdist sweep atm`")
    return sweeping.sweep(job, settings, raft if job == "raft" else atm, begin_atm)


def begin_atm(settings: Settings, until: str) -> None:
    """The beginning of a game of ATM, up to a phase of its first round, in a run's folder of its own."""
    with open_run(settings, "atm") as run, players.pipeline(settings) as pipeline:
        _game(pipeline, run, settings, until)


def _game(pipeline: Pipeline, run: RunFolder, settings: Settings, until: str = "") -> tuple[AtmOutcome, Timeline]:
    """A game of ATM in the run's folder, to its end or up to a phase."""
    from ragdist.storage import tables
    from ragdist.systems.atm import run as system
    from ragdist.systems.atm.live import Board
    from ragdist.tracking.timeline import Timeline

    with span("data"):
        pipeline.make("contexts")
        train, test = open_questions(pipeline, "train"), open_questions(pipeline, "test")
        template = pipeline.forgeries.path
    size = settings.atm.questions_per_microbatch
    timeline = Timeline(run.folder)
    try:
        with Board(settings.atm.rounds, timeline) as board:
            outcome = system.run(
                tables.split(train, size),
                tables.split(test, size),
                test,
                template.resolve(),
                players.sides(settings, run.folder, timeline, board),
                run.folder,
                settings,
                board,
                until,
            )
    finally:
        timeline.close()
    return outcome, timeline


def evaluate(
    settings: Settings,
    models: Sequence[str] = (),
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
    attack: Attack | None = None,
    metric: Metric | None = None,
    callbacks: Iterable[Callback] = (),
) -> Run:
    """Asks models the test questions in every condition.

    Args:
        settings: which questions, which conditions.
        models: folders or hub ids, each perhaps as `label=source`; empty takes the base model and the tuned model
            of the RAFT run with these settings.
        questions: as for `raft`.
        retriever: finds what is shown, in place of `retrieval.kind`; see `parts.Retriever`.
        attack: forges the documents of attacked lists, in place of the template attack; see `parts.Attack`.
        metric: scores answers beside Subspan EM, EM and F1; see `parts.Metric`.
        callbacks: are told how the run goes; see `parts.Callback`.

    Raises:
        ConfigError: no model is named and there is no tuned one.
        PartError: a part of the user's own raised.
    """
    from ragdist.systems import raft as system
    from ragdist.tracking.mirror import follow

    own = Parts(retriever, attack, metric)
    settings = own.noted(settings)
    named = dict(_labelled(model) for model in models) or _models_of(settings)
    for source in named.values():
        results.refuse_unknown(source)
    settings = with_questions(settings, questions)
    check_data(settings)
    with open_run(settings, "evaluate") as run, follow(run, callbacks), players.pipeline(settings, own) as pipeline:
        asked = system.evaluate(pipeline, named, players.answerers(settings, run.folder), run.folder, settings)
        report = system.report(pipeline, asked, settings)
        said = system.answers(pipeline, asked, settings)
        return Run(run.folder, Path(list(named.values())[-1]), report, results.conclude(run, report, said))


def build(
    settings: Settings,
    until: str = "examples",
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
    attack: Attack | None = None,
) -> list[tuple[str, Rows[Any]]]:
    """The data pipeline's stages up to `until`, each made now or found: (name, rows); the others as for `raft`."""
    own = Parts(retriever, attack)
    settings = with_questions(own.noted(settings), questions)
    check_data(settings)
    with players.pipeline(settings, own) as pipeline:
        return pipeline.make(until)


def audit(
    settings: Settings,
    picture: Path | None = None,
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
) -> Audit:
    """What the training data really is: realised P%, positions, duplicates, leakage, quotes, lengths."""
    from ragdist.data import audit as auditing

    own = Parts(retriever)
    settings = with_questions(own.noted(settings), questions)
    check_data(settings)
    with players.pipeline(settings, own) as pipeline:
        pipeline.make("examples")
        found = _audited(pipeline, settings)
    if picture:
        auditing.picture(found, picture)
    return found


def _audited(pipeline: Pipeline, settings: Settings) -> Audit:
    """What the rows of a finished pipeline really are."""
    from ragdist.data import audit as auditing

    rows = (pipeline.questions, pipeline.contexts, pipeline.chunk_by_id, pipeline.examples)
    return auditing.audit(*rows, settings, pipeline.dropped, pipeline.without_oracle, pipeline.shortages)


def export_model(source: str, to: Path | None, hub: str = "", private: bool = False, **how: Any) -> Exported:
    """A tuned model for others: a new folder, a repository on the hub (owner/name), or both.

    Args:
        source: a run's folder, or any model that `model.source` takes.
        to: None keeps nothing here.
        hub: empty uploads nothing.
        private: the repository is for its owner alone.
        how: `form` and `base` of `export.export_model`.
    """
    results.refuse_unknown(source)
    from ragdist import export

    return export.hand_on(partial(export.export_model, source, **how), to, hub, "model", private)


def export_data(settings: Settings, to: Path | None, hub: str = "", private: bool = False, **how: Any) -> Exported:
    """Training rows for other trainers; `how` is that of `data.export.export`, the rest as in `export_model`."""
    from ragdist import export
    from ragdist.data import export as rows

    check_data(settings)

    def write(folder: Path) -> dict[str, Any]:
        with players.pipeline(settings) as pipeline, export.new_folder(folder) as half:
            return asdict(rows.export(pipeline, half, **how))

    return export.hand_on(write, to, hub, "dataset", private)


def init(arguments: Sequence[str], machine: Machine | None, to: Path, force: bool = False) -> list[str]:
    """Writes a first settings file; returns the commands that come next.

    Args:
        arguments: perhaps raft, atm or duet, then the folder of the documents, question files, and `key=value` for the
            file; without documents and questions the file is that system's template.
        machine: where it is to run; None is a laptop, or whatever the template is for.
        to: the file.
        force: replaces one that is there.

    Raises:
        ConfigError: the file is there already, or nothing is where a path leads.
        DataError: documents or question files cannot be read.
    """
    from ragdist.data import starter

    paths = [argument for argument in arguments if not _is_setting(argument)]
    wanted = loader.nested([argument for argument in arguments if _is_setting(argument)])
    system: Job = paths.pop(0) if paths and paths[0] in SYSTEMS else "raft"  # type: ignore[assignment]
    given, own = starter.sort(paths), loader.resolve(wanted)
    if to.exists() and not force:
        raise ConfigError(f"{to} is there already; give another name with --to, or replace it with --force")
    if paths:
        with players.mapper(own) as mapper:
            text = starter.settings(system, starter.look(given, own.corpus, own.seed, mapper), machine or "laptop")
    else:
        demos = {"raft": "raft-demo.yaml", "atm": "atm-tiny.yaml", "duet": "duet-demo.yaml"}
        text = settings_file(demos[system] if machine == "laptop" else f"{system}.yaml").read_text()
    text = starter.with_settings(text, wanted)
    settings = loader.resolve(yaml.safe_load(text))
    with translate_errors(to.parent):
        to.write_text(text)
    for warning in _few(check_data(settings)) if paths else ():
        say(warning)
    if machine == "kuberay":
        return [f"ragdist k8s render {system} {to} -o manifests"]
    return [f"ragdist plan {system} {to}", f"ragdist train {system} {to}"]


def _is_setting(argument: str) -> bool:
    return "=" in argument and not Path(argument).expanduser().exists()


def demo(system: str = "raft", overrides: Sequence[str] = ()) -> Run:
    """A system on SmolLM2-135M with the API documentation of this machine, into runs/demo, demo-atm or demo-duet.

    Args:
        system: `raft`; `duet`; or `atm`, whose generator is the model that the RAFT demo tunes, now if it was not yet.
        overrides: settings of the system that is asked for; `run.folder` holds for both.

    Raises:
        ConfigError: there is no demo of that system.
    """
    if system == "raft":
        return raft(load([str(settings_file("raft-demo.yaml")), *overrides]))
    if system == "duet":
        return duet(load([str(settings_file("duet-demo.yaml")), *overrides]))
    if system != "atm":
        raise ConfigError(f"no demo of {system!r}; there are `ragdist demo raft`, `demo atm` and `demo duet`")
    settings = load([str(settings_file("atm-tiny.yaml")), *overrides])
    if not settings.generator.source:
        tuned = Path(settings.run.folder) / "demo" / "model"
        if not tuned.is_dir():
            say(f"no model at {tuned} yet: `ragdist demo raft` comes first, about 12 minutes on two cores")
            raft(load([str(settings_file("raft-demo.yaml")), f"run.folder={settings.run.folder}"]))
        settings = settings.unchecked("generator.source", str(tuned.resolve()))
    return atm(settings)


def settings_file(name: str) -> Path:
    """A settings file that comes with ragdist: in the wheel beside the package, in a checkout under jobs/."""
    here = Path(__file__).parent
    for folder in (here / "jobs", here.parent / "jobs"):
        if (folder / "settings" / name).is_file():
            return folder / "settings" / name
    raise ConfigError(f"no settings file {name!r} comes with ragdist")


def _labelled(model: str) -> tuple[str, str]:
    label, equals, source = model.partition("=")
    return (label, source) if equals else (Path(model).name or model, model)


def _models_of(settings: Settings) -> dict[str, str]:
    tuned = run_folder(settings, "raft") / "model"
    if not tuned.is_dir():
        raise ConfigError(f"no tuned model at {tuned}; name one with --model, or run `ragdist train raft` first")
    base = {"base": settings.model.source} if settings.evaluation.before else {}
    return base | {"RAFT": str(tuned)}
