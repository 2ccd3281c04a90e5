"""What a job will take, before it starts anything: what fits, what is there to learn from, which pods it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragdist.asking import SERVED
from ragdist.config import Settings, loader
from ragdist.config.loader import SYSTEMS, Source
from ragdist.errors import ConfigError, RagdistError
from ragdist.tracking.progress import say
from ragdist.tracking.run import run_folder

if TYPE_CHECKING:
    from ragdist.data.sources.check import QuestionCount
    from ragdist.kube.pods import KubeJob
    from ragdist.plan.fits import Problem
    from ragdist.plan.layout import Job, Plan
    from ragdist.plan.seats import Node
    from ragdist.plan.workload import Here

JOBS = (*SYSTEMS, "sweep-raft", "sweep-atm")
"""What a cluster can be sent."""


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
    few = too_few_to_judge(count) if settings.evaluation.conditions else []
    return [Problem(sure=True, text=why) for why in found] + [Problem(sure=False, text=why) for why in few]


def too_few_to_judge(count: QuestionCount) -> list[str]:
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
        ConfigError: something surely cannot fit, or the data is for judging alone.
        ModelError: `model.source` names a package that is not there.
    """
    from ragdist.data.sources import hub

    config = settings.evaluation
    if hub.judges(settings.corpus):
        raise ConfigError(
            f"corpus.benchmark={settings.corpus.benchmark} has test questions alone, which judge; train on other data, "
            "and give what was tuned to `ragdist evaluate` with this one"
        )
    if job != "raft" and (config.attacks or config.grid.attack or config.defences):
        raise ConfigError(
            "evaluation.attacks and evaluation.grid are asked by RAFT and `ragdist evaluate`, and so are "
            f"evaluation.defences, not by {job}; leave them out, and evaluate the models that it tunes"
        )
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
        ConfigError: files or a folder are not there, or an attack or a defence, or a model is to learn from an attack
            that is held out.
        DataError: a question file cannot be used, or there are no documents.
    """
    from ragdist.data.attacks import registry
    from ragdist.data.defences import registry as defences
    from ragdist.data.sources import check
    from ragdist.evaluation import suite

    for name in settings.atm.replay.attacks:
        if name != "earlier":
            registry.for_training(name)
    suite.plan_of(settings)
    defences.chosen(settings.evaluation.defences)
    return check.questions(settings)


def _here(settings: Settings) -> Here:
    """What this machine's runs left of these settings."""
    from ragdist.data.sources import origins
    from ragdist.plan.workload import Here

    return Here(origins.made_from(settings.corpus, settings.run.folder))


def render(
    settings: Settings, job: KubeJob, folder: Path, standing: bool = False, from_runs: bool = False, nodes: str = ""
) -> list[Path]:
    """Writes the Kubernetes manifests of a job with these settings; returns the files.

    Args:
        settings: all settings.
        job: raft, duet, atm, sweep-raft or sweep-atm.
        folder: where to.
        standing: a RayCluster that stays, in place of a RayJob.
        from_runs: sizes pods by the rows that runs of this machine made; else what is written depends on settings and
            the model's files alone.
        nodes: the cluster's machines, as `plan` takes them, to hold the job against; empty knows nothing of them.

    Raises:
        ConfigError: settings that cannot work in pods, or not on these machines, or a model of unknown memory.
    """
    refuse_unknown_job(job)
    from ragdist.kube import pods, render
    from ragdist.plan import fits, layout, seats

    here = _here(settings) if from_runs else None
    made = layout.make(settings, pods.system(job), None, here)
    layout.check(layout.make(settings, pods.system(job), seats.parse(nodes), here) if nodes else made)
    for warning in () if nodes else fits.wide(made.model, made.width, made.groups):
        say(f"warning: {warning}")
    return _write(render.render(settings, job, made, standing), folder)


def render_monitoring(arguments: Sequence[Source], folder: Path) -> list[Path]:
    """Writes the manifests by which Prometheus and Grafana see all runs of `kube.namespace`; returns the files.

    Args:
        arguments: settings, of which those of `kube` count.
        folder: where to.

    Raises:
        ConfigError: settings that Kubernetes would refuse.
    """
    from ragdist.kube import monitoring

    return _write(monitoring.manifests(loader.load(arguments)), folder)


def _write(manifests: dict[str, list[dict[str, Any]]], folder: Path) -> list[Path]:
    """Writes what the API server would not refuse for a name, a key, a port or a quantity."""
    from ragdist.kube import names, render
    from ragdist.kube.findings import Manifest

    for file, documents in manifests.items():
        for document in (Manifest(file, body) for body in documents):
            for wrong in names.problems(document):
                raise ConfigError(
                    f"Kubernetes would refuse {document.kind}/{document.name}, {wrong.path}: {wrong.what}; wanted "
                    f"{wrong.wanted}; change the setting of kube.* that says so"
                )
    return render.write(manifests, folder)


def render_service(run: str, arguments: Sequence[Source], folder: Path) -> list[Path]:
    """Writes the Kubernetes manifests of a finished run that is to be asked over HTTP; returns the files.

    Args:
        run: the run's folder on the storage of the pods; a relative one lies below `kube.mount`.
        arguments: settings, of which those of `kube` and of SERVED count; the run's folder knows the rest.
        folder: where to.

    Raises:
        ConfigError: settings that cannot work in pods, or no memory of a replica.
    """
    from ragdist.kube import service

    values = loader.nested(arguments)
    return _write(service.manifests(run, loader.resolve(values), _for_replicas(values)), folder)


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


def refuse_unknown_job(job: str) -> None:
    """Lets pass what a cluster can be sent, by a ConfigError for all else."""
    if job not in JOBS:
        raise ConfigError(f"no job {job!r}; wanted one of {', '.join(JOBS)} before the settings")
