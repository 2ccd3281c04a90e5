"""A sweep from its settings to its report: what trials share is made once, here; then they run, each an ordinary job.

runs/<sweep>/trials/NAME/     one trial: the run's folder of its job, with trial.json and trial.log
runs/<sweep>/common/NAME/     ATM: the game up to where the trials differ
runs/<sweep>/best.yaml        report.md report.html report.png trials.parquet summary.json front/
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ragdist import players
from ragdist.config import Settings
from ragdist.errors import DataError, RagdistError, TrainError
from ragdist.evaluation import kept_answers, page
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.report import METRICS, Report
from ragdist.records import as_row
from ragdist.storage.phases import PhaseCheckpoint
from ragdist.sweeps import arms, trials
from ragdist.sweeps import report as sweep_report
from ragdist.sweeps import summary as summing
from ragdist.sweeps.trials import Point, Scores
from ragdist.systems import raft
from ragdist.systems.atm import run as atm
from ragdist.systems.atm.report import Rounds
from ragdist.systems.atm.training_rows import open_questions
from ragdist.tracking.progress import say
from ragdist.tracking.run import open_run, run_folder, span

PLAYED = "played"
"""Made when the common game has come to where trials differ."""


@dataclass(frozen=True, slots=True)
class Swept:
    """A finished sweep."""

    folder: Path
    """Holds best.yaml, trials.parquet and the reports."""
    report: summing.Sweep
    summary: dict[str, Any]
    """What summary.json holds: points, the front, the best, trials."""


def sweep(job: str, settings: Settings, run_job: Callable[[Settings], Any], begin: Callable[..., None]) -> Swept:
    """See `runs.sweep`.

    Args:
        job: raft or atm.
        settings: of all trials, and `sweep`.
        run_job: `runs.raft` or `runs.atm`; pickles by name.
        begin: `runs.begin_atm`.
    """
    from ragdist.cluster.sweep import run as run_trials
    from ragdist.cluster.trial import SweepSpec

    trials.check(job, settings.sweep, settings.evaluation)
    points = trials.points(settings)
    parent = Path(settings.run.folder).resolve()
    with open_run(settings, f"sweep-{job}") as run:
        shared = settings.unchecked("run.folder", str(parent))
        shared = shared.unchecked("run.name", str(run.folder.relative_to(parent)))
        with span("what trials share"):
            _prepare_all(job, shared, points, run.folder, begin)
        with span("trials"):
            held = settings.groups[0 if job == "raft" else 1]
            play_one = partial(play, job, run_job, run.folder)
            rungs = trials.rungs(job, settings.sweep, settings.atm.rounds)
            ended = run_trials(SweepSpec(shared, run.folder, play_one, rungs, tuple(points), held))
        named = trials.arms(settings)
        found = summing.summarise(job, ended, settings.sweep, named)
        # Without arms each point is one of its own.
        answers = arms.rows_of(run.folder, ended, named or _labelled(found.points), settings.seed)
        kept_answers.write(answers, run.folder)
        measured, config = arms.measured(answers), settings.evaluation
        compared = arms.compare(measured, list(named), config, settings.seed) if named else []
        summary = sweep_report.write(found, settings, run.folder, arms.blocks(compared, named) if named else ())
        if named:
            summary["arms"] = [as_row(row) for row in compared]
        run.write_json("summary.json", summary)
        page.write(run.folder)
        if not found.best:
            raise TrainError(f"no trial came to its end; what each died of is in {run.folder / 'report.md'}")
        return Swept(run.folder, found, summary)


def _labelled(points: Sequence[summing.Tried]) -> dict[str, Point]:
    return {trials.label(tried.values) or "tuned": tried.point for tried in points}


def play(
    job: str, run_job: Callable[[Settings], Any], sweep: Path, settings: Settings, point: Point, share: float
) -> Scores:
    """What a trial scores on a share of its training, in this process.

    Args:
        job: raft or atm.
        run_job: runs it.
        sweep: the sweep's folder.
        settings: the trial's, with the name of its run.
        point: what they have of their own.
        share: of the epochs or rounds; each but the whole has a run's folder below the trial's.
    """
    trial = run_folder(settings, job)
    if share < 1:
        settings = settings.unchecked("run.name", f"{settings.run.name}/share-{share:.3g}")
    if job == "raft":
        run = run_job(settings.unchecked("train.epochs", settings.train.epochs * share))
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)  # to go on from, and it is at its end
    else:
        journal = PhaseCheckpoint(run_folder(settings, job) / "atm")
        for begun in (_begun(sweep, point, settings)[0], *sorted(trial.glob("share-*"))):
            journal.adopt(begun / "atm")
        run = run_job(settings.unchecked("atm.rounds", max(1, round(settings.atm.rounds * share))))
    return scores_of(run.report)


def _prepare_all(job: str, shared: Settings, points: Sequence[Point], sweep: Path, begin: Callable[..., None]) -> None:
    """Prepares every trial that is still to be run. One that cannot be is left to fail by itself.

    Raises:
        RagdistError: none can.
    """
    unknown: Point = dict.fromkeys(trials.dimensions(shared.sweep))
    waiting = [point for point in points or [unknown] if not trials.is_over(sweep, point)]
    failed = []
    for point in waiting:
        try:
            _prepare(job, shared, point, sweep, begin)
        except RagdistError as error:
            if error.exit_code != 2:
                raise
            say(f"{trials.label(point)}: {error}")
            failed.append(error)
    if failed and len(failed) == len(waiting):
        raise failed[0]


def _prepare(job: str, shared: Settings, point: Point, sweep: Path, begin: Callable[..., None]) -> None:
    """Makes what this trial has in common with others, once: rows, the untuned model's answers, the game's beginning.

    A point without values is for all those that are not known yet.
    """
    settings = trials.at(shared, {key: value for key, value in point.items() if value is not None})
    if job == "raft":
        with players.pipeline(settings) as pipeline:
            pipeline.make("examples")
            raft.before(pipeline, players.answerers(settings, sweep), sweep, settings)
        return
    folder, until = _begun(sweep, point, settings)
    if (folder / PLAYED).exists():
        return
    if until:
        begin(settings.unchecked("run.name", str(folder.relative_to(settings.run.folder))), until)
        (folder / PLAYED).touch()
        return
    with players.pipeline(settings) as pipeline:
        pipeline.make("contexts")
        for split in ("train", "test"):
            open_questions(pipeline, split)


def _begun(sweep: Path, point: Point, settings: Settings) -> tuple[Path, str]:
    """Where the game lies that a trial of ATM begins with, and the phase that is its own; empty: the first."""
    apart = {key: value for key, value in point.items() if not atm.common([key], settings.atm)}
    unknown = any(value is None for value in apart.values())
    until = "" if unknown or len(apart) == len(point) else atm.common(point.keys() - apart.keys(), settings.atm)
    name = f"{until.replace('/', '-')}-{trials.name_of(apart)}"  # games that part later are others
    return sweep / "common" / name, until


RAFT_NAMES = {"oracle": "clean"}


ATM_NAMES = {"template": "attacked"}
"""The template attack is the same documents for all trials; each trial's own attacker stands beside it."""


def scores_of(report: Report | Rounds) -> Scores:
    """What a trial is judged by, from its job's report: `clean`, `attacked`, and all else that was asked.

    ATM's are those of its last stage.

    Raises:
        DataError: nothing was asked.
    """
    found: Scores = {}
    if isinstance(report, Report):
        for cell in report.cells:
            base = "base_" if cell.model == report.baseline else ""
            name = base + RAFT_NAMES.get(cell.condition, cell.condition)
            found[name] = {metric: _bounds(getattr(cell, metric)) for metric in METRICS}
    else:
        for score in report.scores:  # later stages take the place of earlier ones
            name = ATM_NAMES.get(score.condition, score.condition)
            found[name] = {metric: _bounds(getattr(score, metric)) for metric in METRICS}
    if not found:
        raise DataError("no question was asked, so the trial has no score; set evaluation.conditions")
    return found


def _bounds(value: Interval) -> tuple[float, float, float]:
    return (value.mean, value.low, value.high)
