"""What a finished run leaves for people, and what is there: summary.json, report.md, report.png.

Heavy imports wait inside the functions, so that `ragdist runs` loads no drawing library.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ragdist.errors import ConfigError, StorageError
from ragdist.storage.atomic import (
    make_folder,
    named_file,
    read_json,
    read_texts,
    translate_broken,
    translate_errors,
)
from ragdist.tracking.progress import visible
from ragdist.tracking.run import STATE, RunFolder, is_held

if TYPE_CHECKING:
    from ragdist.evaluation.comparison import Comparison, Metric
    from ragdist.evaluation.gate import Verdict
    from ragdist.evaluation.kept_answers import KeptAnswer
    from ragdist.evaluation.report import Report
    from ragdist.evaluation.sheet import Sheet
    from ragdist.systems.atm.report import Rounds
    from ragdist.systems.duet.report import DuetReport


@dataclass(frozen=True, slots=True)
class Run:
    """A finished job."""

    folder: Path
    model: Path
    """The tuned model, a plain transformers folder."""
    report: Report | Rounds | DuetReport
    summary: dict[str, Any]
    """What summary.json holds: scores per model and condition, minutes per stage."""

    def _repr_html_(self) -> str:
        """What a notebook shows: what came of it in words, the scores, and where more is."""
        from ragdist.evaluation.sheet import notebook

        names, here = ("report.html", "report.md", "settings.yaml"), quote(os.path.relpath(self.folder))
        links = ", ".join(f'<a href="{here}/{name}">{name}</a>' for name in names)
        return f"{notebook(self.report.sheet())}<p>{links}</p>"


def conclude(run: RunFolder, report: Report | Rounds | DuetReport, answers: Sequence[KeptAnswer]) -> dict[str, Any]:
    """summary.json, which is returned, answers.parquet, report.html, .json, .md and .png; checkpoints go."""
    from ragdist.evaluation import kept_answers, page
    from ragdist.evaluation.sheet import keep, markdown, picture
    from ragdist.lm import checkpoints

    sheet = report.sheet()
    summary = {**sheet.numbers, "minutes": {name: round(seconds / 60, 2) for name, seconds in run.seconds.items()}}
    kept_answers.write(answers, run.folder)
    run.write_json("summary.json", summary)
    (run.folder / "report.md").write_text(markdown(sheet))
    picture(sheet, run.folder / "report.png")
    keep(sheet, run.folder)
    page.write(run.folder)
    if not run.settings.run.keep_checkpoints:
        checkpoints.forget(run.folder)
    return summary


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs below `folder`, newest first: name, job, state, when, and scores if it has any.

    A run that says it is running but whose folder nobody holds was killed; the same command goes on with it. One whose
    files are broken is listed with what is wrong with them.
    """
    found = [_listed(state) for state in folder.glob(f"*/{STATE}")]
    return sorted(found, key=lambda row: row["time"], reverse=True)


def _listed(state: Path) -> dict[str, Any]:
    folder, row = state.parent, dict[str, Any](job="", state="broken", scores=[], error="")
    row["time"] = state.stat().st_mtime
    try:
        row |= read_texts(state, "job", "state")
        said = read_json(state)
        row |= {key: said[key] for key, kind in _KINDS.items() if isinstance(said.get(key), kind)}
        time.localtime(row["time"])
        row["scores"] = _scores(folder / "summary.json")
    except (OverflowError, ValueError, OSError):
        row["time"] = state.stat().st_mtime  # a moment that no calendar has
    except StorageError as error:
        row["error"] = str(error)
    if row["state"] == "running" and not is_held(folder):
        row["state"] = "killed"
    return {"name": folder.name, **row}


_KINDS: dict[str, Any] = {"time": int | float, "pid": int, "error": str}


def _scores(summary: Path) -> list[Any]:
    if not summary.exists():
        return []
    with translate_broken(summary):
        rows = list(read_json(summary)["scores"])
        list(map(score_of, rows))
    return rows


def compare_runs(folders: Sequence[Path], metric: Metric = "subspan", model: str = "") -> Comparison:
    """The first of finished runs against each other, over the questions that they share.

    Raises:
        ConfigError: a folder holds no answers, or two have no question in common.
    """
    from ragdist.evaluation import comparison, kept_answers

    resolved = [_run_folder(folder).resolve() for folder in folders]
    short = {folder.name for folder in resolved}
    names = [folder.name if len(short) == len(resolved) else str(folder) for folder in resolved]
    if len(set(names)) < len(names):
        raise ConfigError(f"one run is named twice: {', '.join(map(str, folders))}; name each once")
    found = {name: kept_answers.read(folder) for name, folder in zip(names, resolved, strict=True)}
    return comparison.compare(found, metric, model)


def remake_page(folder: Path) -> Path:
    """report.html of a finished run, made anew from what lies in its folder."""
    from ragdist.evaluation import page

    return page.write(_run_folder(folder))


def write_comparison(found: Comparison, path: Path) -> Path:
    """The comparison as a web page like a run's."""
    from ragdist.evaluation import page

    return page.save(path, page.render(found.sheet(), found.answers, page.Beside()))


def refuse_no_file(paths: Iterable[Path]) -> None:
    """Lets pass where files can be written at all these places; told before anything is asked, not after.

    Raises:
        ConfigError: a folder is there.
        StorageError: its folder cannot be made or written.
    """
    for path in paths:
        make_folder(path.parent, "name another place")
        with translate_errors(path.parent, "name another place"):
            if path.is_dir():
                raise ConfigError(f"{path} is a folder, wanted the name of a file to write")


def write_verdict(verdict: Verdict, place: str, junit: Path | None, sarif: Path | None) -> None:
    """A gate's verdict as files for CI systems, where they are wanted; `place` is the settings file it is about."""
    from ragdist import __version__
    from ragdist.evaluation import gate

    told = json.dumps(gate.sarif(verdict, place, __version__), indent=1, ensure_ascii=False)
    for path, text in ((junit, gate.junit(verdict, place)), (sarif, told)):
        if path:
            with named_file(path, "name another place") as half:
                half.write_text(text, encoding="utf-8")


def _run_folder(folder: Path) -> Path:
    if not folder.is_dir():
        refuse_unknown(str(folder))
        raise ConfigError(f"no such run folder: {folder}; `ragdist runs FOLDER` lists those that are there")
    return folder


def score_of(row: Mapping[str, Any]) -> str:
    """A score of summary.json in words: Subspan EM, or what a sweep was judged by where that is another."""
    (name, *_) = (name for name in ("subspan", "em", "f1") if name in row)
    named = f" {name}" if name != "subspan" else ""
    return f"{row['model']} {row['condition']} {row[name]['mean']:.2f}{named}"


def refuse_unknown(source: str) -> None:
    """Lets pass what is there, and what may be the name of a model on the hub.

    Raises:
        ConfigError: it is a path of this machine, as of a run, and nothing is there.
    """
    path = Path(source).expanduser()
    is_path = source.startswith((".", "/", "~")) or path.parts[:1] == ("runs",) or len(path.parts) > 2
    if path.exists() or not (is_path or any(path.parent.glob("*/state.json"))) or (len(path.parts) == 1):
        return
    names = [row["name"] for row in list_runs(path.parent)]
    runs = f"runs in {path.parent} are {', '.join(names[:20])}" if names else f"there are no runs in {path.parent}"
    raise ConfigError(f"no such run or model folder: {source}; {runs}")


def print_json(value: Any) -> None:
    """For programs."""
    sys.stdout.write(visible(json.dumps(value, indent=1, ensure_ascii=False)) + "\n")


def show_run(run: Run, as_json: bool) -> None:
    """What came of a job, and where more of it is."""
    if as_json:
        return print_json(run.summary)
    show_sheet(run.report.sheet())
    files = {"picture": "report.png", "numbers": "summary.json", "report": "report.html"}
    complain("\n".join([f"model {run.model}", *(f"{what} {run.folder / name}" for what, name in files.items())]))


def show_sweep(swept: Any, as_json: bool) -> None:
    """What is best, and where the curves are."""
    if as_json:
        return print_json(swept.summary)
    from ragdist.sweeps import report as sweep_report

    show_sheet(sweep_report.sheet(swept.report))
    names = {"best": "best.yaml", "curves": "report.html", "trials": "trials.parquet"}
    complain("\n".join(f"{what} {swept.folder / name}" for what, name in names.items()))


def show_sheet(sheet: Sheet) -> None:
    """A report's tables and notes."""
    from ragdist.evaluation.sheet import terminal

    show(terminal(sheet))


def show_exported(made: Any, as_json: bool) -> None:
    """Where it went."""
    if as_json:
        return print_json({"folder": str(made.folder or ""), "url": made.url, **made.about})
    show("".join(f"{place}\n" for place in (made.folder, made.url) if place), plain=True)


class _Plainly(Console):
    """Prints tables in which no text is markup, and none steers the terminal."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how | {"markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):  # of texts that were made elsewhere
            yield Segment(text if control else visible(text), style, control)


def show(what: Any, plain: bool = False, width: int = 120) -> None:
    """A table, or text; as wide as the terminal or COLUMNS says, else `width` characters. What is neither markup nor
    meant to steer a terminal does not, wherever it comes from."""
    if plain:
        sys.stdout.write(visible(what))
        sys.stdout.flush()
    else:
        _Plainly(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else width).print(what)


def complain(text: str) -> None:
    """A line beside the results, with what steers a terminal written out."""
    sys.stderr.write(visible(text) + "\n")
