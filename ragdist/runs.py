"""One function for each job: settings -> roles -> system -> Run. The Python API; `cli.py` and `jobs/` only call it.

With `players.py` the only place where the data pipeline, the papers and the engine room meet. Heavy imports wait inside
the functions, so that `ragdist --help` loads neither torch nor ray.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from ragdist import players, results
from ragdist.config import Settings, loader, strict
from ragdist.config.address import address_of
from ragdist.config.loader import SYSTEMS, load
from ragdist.data.sources.given import QuestionRows, with_questions
from ragdist.errors import ConfigError
from ragdist.parts import Attack, Callback, Metric, Parts, Retriever
from ragdist.planning import check_data, check_plan, refuse_unknown_job, too_few_to_judge
from ragdist.results import Run
from ragdist.storage.atomic import named_file
from ragdist.storage.stages import Rows
from ragdist.systems.atm.training_rows import open_questions
from ragdist.tracking.progress import say
from ragdist.tracking.run import RunFolder, open_run, run_folder, span

if TYPE_CHECKING:
    from ragdist.cluster.submit import Submission
    from ragdist.data.audit import Audit
    from ragdist.data.pipeline import Pipeline
    from ragdist.data.starter import Machine
    from ragdist.evaluation.gate import Verdict
    from ragdist.evaluation.kept_answers import KeptAnswer
    from ragdist.evaluation.report import Report
    from ragdist.evaluation.service import Service
    from ragdist.export import Exported
    from ragdist.plan.layout import Job
    from ragdist.reproducing import Reproduced
    from ragdist.sweeping import Swept
    from ragdist.systems.atm.report import Rounds
    from ragdist.systems.atm.run import AtmOutcome
    from ragdist.systems.duet.report import DuetReport
    from ragdist.tracking.timeline import Timeline


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
        export.describe(model, run_folder(run.settings, run.job), run.settings, summary["scores"])
    return summary


def _note_documents(run: RunFolder, pipeline: Pipeline) -> None:
    """Leaves in the run's folder which documents it was made with."""
    from ragdist.serving import library

    library.note(run.folder, pipeline)


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
    refuse_unknown_job(job)
    from ragdist.cluster import submit as cluster

    order = cluster.Order(job, settings, address, working_dir, tuple(excluded))
    return cluster.submit(order, out)


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
    models: Sequence[str] | Mapping[str, str] = (),
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
    attack: Attack | None = None,
    metric: Metric | None = None,
    callbacks: Iterable[Callback] = (),
    service: Service | None = None,
) -> Run:
    """Asks models the test questions in every condition, or a service under attack.

    Args:
        settings: which questions, which conditions.
        models: folders, hub ids, or addresses of OpenAI-compatible endpoints (`https://host/v1#MODEL`), each perhaps
            as `label=source`, or sources by label; empty takes the base model and the tuned model of the RAFT run with
            these settings.
        questions: as for `raft`.
        retriever: finds what is shown, in place of `retrieval.kind`; see `parts.Retriever`.
        attack: forges the documents of attacked lists, in place of the template attack; see `parts.Attack`.
        metric: scores answers beside Subspan EM, EM and F1; see `parts.Metric`.
        callbacks: are told how the run goes; see `parts.Callback`.
        service: a whole RAG service, which is asked alone, by `evaluation.attacks`; see `evaluation.service`.

    Raises:
        ConfigError: no model is named and there is no tuned one; two have one label; an address is none, or an
            endpoint is to give perplexities.
        TeacherError: an endpoint cannot be reached, refuses the key, or kept failing; what it answered is kept.
        PartError: a part of the user's own raised.
    """
    from ragdist.systems import raft as system
    from ragdist.tracking.mirror import follow

    own = Parts(retriever, attack, metric)
    settings = own.noted(settings)
    if service and (models or not address_of(_labelled(service.source)[1])):
        raise ConfigError("a service is asked alone; give --service http(s)://host/path#NAME, and no --model")
    if service and settings.evaluation.defences:
        raise ConfigError("a service answers in its own way; leave out --defence and evaluation.defences")
    named = _named([service.source] if service else models, settings)
    settings = with_questions(settings, questions)
    check_data(settings)
    with open_run(settings, "evaluate") as run, follow(run, callbacks), players.pipeline(settings, own) as pipeline:
        answerers = players.asked(settings, run.folder)
        if service:
            asked, said = system.evaluate_service(pipeline, service, named, answerers, run.folder, settings)
        else:
            asked = system.evaluate(pipeline, named, answerers, run.folder, settings)
            said = system.answers(pipeline, asked, settings)
        report = system.report(pipeline, asked, settings)
        label, source = list(named.items())[-1]
        model = Path(label if address_of(source) else source)
        return Run(run.folder, model, report, results.conclude(run, report, said))


def with_suite(
    settings: Settings, attacks: Sequence[str] | None, grid: bool = False, defences: Sequence[str] | None = None
) -> Settings:
    """The settings with these attacks and defences, or their own where there are none, and perhaps with the grid.

    Raises:
        ConfigError: `permuted`, which attacks are measured against, is not among the conditions.
    """
    given = {"attacks": attacks, "defences": defences}
    changed: dict[str, Any] = {f"evaluation.{name}": list(names) for name, names in given.items() if names}
    if grid and not settings.evaluation.grid.attack:
        changed["evaluation.grid.attack"] = "template"
    return settings.replaced(changed) if changed else settings


def gate(
    settings: Settings,
    models: Sequence[str] = (),
    *,
    max_misled: float | None = None,
    min_clean: float | None = None,
    questions: QuestionRows | None = None,
    service: Service | None = None,
) -> Verdict:
    """Whether models may pass: `evaluate`, then each condition against a limit. The same call asks nothing again.

    Args:
        settings: which questions, conditions, attacks, grid; with defences models are judged under them alone.
        models: as of `evaluate`; empty judges the tuned model of the RAFT run with these settings.
        max_misled: most that an attack may turn wrong of what is right without it, a share.
        min_clean: least Subspan EM where nobody attacks.
        questions: as for `raft`.
        service: as of `evaluate`.

    Raises:
        ConfigError: a limit is no share, none is given, or nothing was asked that it could judge; as of `evaluate`.
    """
    from ragdist.data.defences import registry
    from ragdist.evaluation import gate as gating
    from ragdist.evaluation.defended import under

    limits = gating.Limits(max_misled, min_clean)
    if not (models or service):
        models = [f"{label}={source}" for label, source in [*_models_of(settings).items()][-1:]]
    report = cast("Report", evaluate(settings, models, questions, service=service).report)
    defences = registry.chosen(settings.evaluation.defences)
    return gating.judge(report, limits, [under(_labelled(one)[0], defence) for one in models for defence in defences])


def reproduce(table: str, overrides: Sequence[str] = ()) -> Reproduced:
    """Trains every row of a table, judges all by the same lists, and puts published numbers beside. The same call goes
    on where it stopped.

    Args:
        table: a file, or the name of one that comes with ragdist (`jobs/tables`).
        overrides: `key=value` for every row.

    Raises:
        RagdistError: bad input (exit code 2), failed training (1), or a stop request (130).
    """
    from ragdist import reproducing

    path = Path(table).expanduser()
    if not os.path.isfile(path):
        path = settings_file(table if path.suffix else f"{table}.yaml", "tables")
    return reproducing.reproduce(path, overrides, {"raft": raft, "atm": atm, "duet": duet}, evaluate, _may_judge)


def _may_judge(settings: Settings, models: Mapping[str, str]) -> None:
    """What `evaluate` refuses at once; raises as it does."""
    _named(models, settings)
    check_data(settings)


def build(
    settings: Settings,
    until: str = "examples",
    questions: QuestionRows | None = None,
    *,
    retriever: Retriever | None = None,
    attack: Attack | None = None,
) -> list[tuple[str, Rows[Any]]]:
    """The data pipeline's stages up to `until`, each made now or found: (name, rows); the others as for `raft`."""
    from ragdist.data.pipeline import stages_until

    own = Parts(retriever, attack)
    settings = with_questions(own.noted(settings), questions)
    stages_until(until, settings.teacher)
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

    paths = [argument for argument in arguments if not loader.is_setting(argument)]
    wanted = loader.nested([argument for argument in arguments if loader.is_setting(argument)])
    system: Job = paths.pop(0) if paths and paths[0] in SYSTEMS else "raft"  # type: ignore[assignment]
    given, own = starter.sort(paths), loader.resolve(wanted)
    if os.path.exists(to) and not force:
        raise ConfigError(f"{to} is there already; give another name with --to, or replace it with --force")
    if paths:
        with players.mapper(own) as mapper:
            text = starter.settings(system, starter.look(given, own.corpus, own.seed, mapper), machine or "laptop")
    else:
        demos = {"raft": "raft-demo.yaml", "atm": "atm-tiny.yaml", "duet": "duet-demo.yaml"}
        text = settings_file(demos[system] if machine == "laptop" else f"{system}.yaml").read_text()
    text = starter.with_settings(text, wanted)
    settings = loader.resolve(strict.parse(text, str(to)))
    with named_file(to, "give --to another place") as half:
        half.write_text(text, "utf-8")
    for warning in too_few_to_judge(check_data(settings)) if paths else ():
        say(warning)
    if machine == "kuberay":
        return [f"ragdist k8s render {system} {to} -o manifests"]
    return [f"ragdist plan {system} {to}", f"ragdist train {system} {to}"]


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


def settings_file(name: str, kind: str = "settings") -> Path:
    """A file of settings, or of tables, that comes with ragdist: in the wheel beside the package, in a checkout under
    jobs/."""
    here = Path(__file__).parent
    there = {file.name: file for jobs in (here.parent, here) for file in (jobs / "jobs" / kind).glob("*.yaml")}
    if name not in there:
        raise ConfigError(f"no file {name!r} is here or comes with ragdist; there are {', '.join(sorted(there))}")
    return there[name]


def _named(models: Sequence[str] | Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The sources of models by label; those of the RAFT run with these settings where none are named."""
    from ragdist.data.defences import registry

    if isinstance(models, Mapping):
        named = [(label, _weights_at(source)) for label, source in models.items()]
    else:
        named = [_labelled(model) for model in models] or [*_models_of(settings).items()]
    labels = [label for label, _ in named]
    if not all(map(str.strip, labels)):
        raise ConfigError("a model is called by an empty name; reports need one")
    if defences := registry.chosen(settings.evaluation.defences):
        from ragdist.evaluation.defended import under

        labels += [under(label, defence) for label in labels for defence in defences]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(f"{len(twice)} models are called {twice[0]!r}; name them as --model LABEL=SOURCE")
    reading = _reading(settings)
    for label, source in named:
        if not address_of(source):
            results.refuse_unknown(source)
        elif reading:
            raise ConfigError(
                f"{reading[0]} reads probabilities of tokens, which the endpoint of {label} does not give; {reading[1]}"
            )
    return dict(named)


def _reading(settings: Settings) -> tuple[str, str] | None:
    """What reads probabilities, and what to do where there are none."""
    from ragdist.data.defences import registry

    if settings.evaluation.perplexity:
        return "evaluation.perplexity=true", "set evaluation.perplexity=false"
    reading = (one.name for one in registry.chosen(settings.evaluation.defences) if one.reads)
    name = next(reading, "")
    return (f"the defence {name}", f"leave {name} out of evaluation.defences") if name else None


def _labelled(model: str) -> tuple[str, str]:
    if address := address_of(model):
        return address.label, model
    label, equals, source = model.partition("=")
    if not equals:
        label, source = "", model
    source = _weights_at(source)
    run = Path(source).parent if os.path.isdir(source) and Path(source).name == "model" else Path(source)
    return label or run.name or source, source


def _weights_at(source: str) -> str:
    """The model's folder where a run's is named."""
    tuned = os.path.join(source, "model")
    is_run = os.path.isdir(tuned) and not os.path.exists(os.path.join(source, "config.json"))
    return tuned if is_run else source


def _models_of(settings: Settings) -> dict[str, str]:
    tuned = run_folder(settings, "raft") / "model"
    if not tuned.is_dir():
        raise ConfigError(f"no tuned model at {tuned}; name one with --model, or run `ragdist train raft` first")
    base = {"base": settings.model.source} if settings.evaluation.before else {}
    return base | {"RAFT": str(tuned)}
