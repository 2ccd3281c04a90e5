"""What people see: results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from ragdist.results import Run, Trial


def print_json(value: Any) -> None:
    """For programs."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def show_run(run: Run, as_json: bool) -> None:
    """What came of a job, and where more of it is."""
    if as_json:
        return print_json(run.summary)
    from ragdist.evaluation import report
    from ragdist.systems.atm import report as rounds_report
    from ragdist.systems.duet import report as arbitration_report

    if isinstance(run.report, Trial):
        show(report.table(run.report.report))
        show(arbitration_report.table(run.report.worth))
    elif isinstance(run.report, rounds_report.Rounds):
        show(rounds_report.table(run.report))
        show(rounds_report.beside(run.report))
    else:
        show(report.table(run.report))
    complain(f"model {run.model}\npicture {run.folder / 'report.png'}\nnumbers {run.folder / 'summary.json'}")


def show_sweep(swept: Any, as_json: bool) -> None:
    """What is best, and where the curves are."""
    if as_json:
        return print_json(swept.summary)
    from ragdist.sweeps import report as sweep_report

    show(sweep_report.table(swept.report))
    names = {"best": "best.yaml", "curves": "report.html", "trials": "trials.parquet"}
    complain("\n".join(f"{what} {swept.folder / name}" for what, name in names.items()))


def show_exported(made: Any, as_json: bool) -> None:
    """Where it went."""
    if as_json:
        return print_json({"folder": str(made.folder or ""), "url": made.url, **made.about})
    show("".join(f"{place}\n" for place in (made.folder, made.url) if place), plain=True)


def show(what: Any, plain: bool = False, width: int = 120) -> None:
    """A table, or text as it is; where nobody watches, as wide as `width` characters."""
    if plain:
        sys.stdout.write(what)
    else:
        Console(width=None if sys.stdout.isatty() else width).print(what)


def complain(text: str) -> None:
    """A line beside the results."""
    sys.stderr.write(text + "\n")
