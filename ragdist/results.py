"""What a finished run leaves for people, and what is there: summary.json, report.md, report.png.

Heavy imports wait inside the functions, so that `ragdist runs` loads no drawing library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragdist.tracking import run as track

if TYPE_CHECKING:
    from ragdist.evaluation.report import Report
    from ragdist.systems.atm.report import Rounds
    from ragdist.systems.duet.run import Outcome
    from ragdist.systems.duet.summary import Worth
    from ragdist.tracking.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of DuetRAG."""

    report: Report
    """The paper's table."""
    worth: list[Worth]
    """What each arbiter is good for, under each condition."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished job."""

    folder: Path
    model: Path
    """The tuned model, a plain transformers folder."""
    report: Report | Rounds | Trial
    summary: dict[str, Any]
    """What summary.json holds: scores per model and condition, minutes per stage."""


def conclude(run: track.Run, report: Report) -> dict[str, Any]:
    """summary.json, report.md and a picture."""
    from ragdist.evaluation import report as reporting

    return _leave(run, reporting, report)


def conclude_rounds(run: track.Run, report: Rounds, timeline: Timeline) -> dict[str, Any]:
    """summary.json, report.md and a picture of a game."""
    from ragdist.systems.atm import report as rounds_report

    idle = {group: round(timeline.idle_share(group), 3) for group in timeline.groups}
    return _leave(run, rounds_report, report, idle_share=idle)


def conclude_duet(run: track.Run, outcome: Outcome) -> dict[str, Any]:
    """summary.json, report.md and a picture of a trio."""
    from ragdist.systems.duet import report as arbitration_report

    summary = {**conclude(run, outcome.report), "arbiters": arbitration_report.as_json(outcome.worth)}
    run.write_json("summary.json", summary)
    with (run.folder / "report.md").open("a") as file:
        file.write("\n" + arbitration_report.markdown(outcome.worth))
    arbitration_report.picture(outcome.worth, run.folder / "report.png")
    return summary


def _leave(run: track.Run, reporting: Any, report: Any, **more: Any) -> dict[str, Any]:
    """What the report's module makes of it, on disk; `more` goes into the summary."""
    minutes = {name: round(seconds / 60, 2) for name, seconds in run.seconds.items()}
    summary = {**reporting.as_json(report), "minutes": minutes, **more}
    run.write_json("summary.json", summary)
    (run.folder / "report.md").write_text(reporting.markdown(report))
    reporting.picture(report, run.folder / "report.png")
    return summary


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs below `folder`, newest first: name, job, state, when, and scores if it has any.

    A run that says it is running but whose folder nobody holds was killed; the same command goes on with it.
    """
    found = []
    for state in folder.glob("*/state.json"):
        row = {"name": state.parent.name, **json.loads(state.read_text())}
        if row["state"] == "running" and not track.is_held(state.parent):
            row["state"] = "killed"
        summary = state.parent / "summary.json"
        row["scores"] = json.loads(summary.read_text())["scores"] if summary.exists() else []
        found.append(row)
    return sorted(found, key=lambda row: row["time"], reverse=True)
