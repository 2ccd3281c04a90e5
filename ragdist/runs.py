"""One function for each job: settings -> roles -> system -> Run. The Python API; `cli.py` and `jobs/` only call it.

The only place where the road, the papers and the engine room meet. Heavy imports wait inside the functions, so that
`ragdist --help` loads neither torch nor ray.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragdist import track
from ragdist.config import Settings, load
from ragdist.errors import ConfigError
from ragdist.store import Rows, Store

if TYPE_CHECKING:
    from ragdist.data.audit import Audit
    from ragdist.data.road import Road
    from ragdist.evaluation.report import Report
    from ragdist.roles import Mapper, Reader, Writer


@dataclass(frozen=True, slots=True)
class Run:
    """A finished job."""

    folder: Path
    model: Path
    """The tuned model, a plain transformers folder."""
    report: Report
    summary: dict[str, Any]
    """What summary.json holds: scores per model and condition, minutes per stage."""


def raft(settings: Settings) -> Run:
    """Builds the data, tunes by RAFT, evaluates before and after. The same settings go on where they stopped.

    Raises:
        RagdistError: bad input (exit code 2), failed training (1), or a stop request (130).
    """
    from ragdist.cluster.train import RayTuner
    from ragdist.systems import raft as system

    with track.open_run(settings, "raft") as run, _road(settings) as road:
        outcome = system.run(road, RayTuner(settings), _opener(settings), run.folder, settings)
        return Run(run.folder, outcome.model, outcome.report, _conclude(run, outcome.report))


def evaluate(settings: Settings, models: Sequence[str] = ()) -> Run:
    """Asks models the test questions in every condition.

    Args:
        settings: which questions, which conditions.
        models: folders or hub ids, each perhaps as `label=source`; empty takes the base model and the tuned model
            of the RAFT run with these settings.

    Raises:
        ConfigError: no model is named and there is no tuned one.
    """
    from ragdist.systems import raft as system

    named = dict(_labelled(model) for model in models) or _models_of(settings)
    with track.open_run(settings, "evaluate") as run, _road(settings) as road:
        asked = system.evaluate(road, named, _opener(settings), run.folder, settings)
        report = system.report(road, asked, settings)
        return Run(run.folder, Path(list(named.values())[-1]), report, _conclude(run, report))


def build(settings: Settings, until: str = "examples") -> list[tuple[str, Rows[Any]]]:
    """The road's stages up to `until`, each made now or found: (name, rows)."""
    with _road(settings) as road:
        return road.make(until)


def audit(settings: Settings, picture: Path | None = None) -> Audit:
    """What the training data really is: realised P%, positions, duplicates, leakage, quotes, lengths."""
    from ragdist.data import audit as auditing

    with _road(settings) as road:
        road.make("examples")
        found = auditing.audit(road.questions, road.contexts, road.chunk_by_id, road.examples, settings)
    if picture:
        auditing.picture(found, picture)
    return found


def demo(overrides: Sequence[str] = ()) -> Run:
    """RAFT on SmolLM2-135M with the API documentation of this machine, into runs/demo."""
    return raft(load([str(settings_file("raft-demo.yaml")), *overrides]))


def settings_file(name: str) -> Path:
    """A settings file that comes with ragdist: in the wheel beside the package, in a checkout under jobs/."""
    here = Path(__file__).parent
    for folder in (here / "jobs", here.parent / "jobs"):
        if (folder / "settings" / name).is_file():
            return folder / "settings" / name
    raise ConfigError(f"no settings file {name!r} comes with ragdist")


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


@contextmanager
def _road(settings: Settings) -> Iterator[Road]:
    from ragdist.data.road import Road
    from ragdist.lm.load import load_codec

    store = Store(Path(settings.run.folder) / "data")
    with _mapper(settings) as mapper:
        yield Road(settings, store, load_codec(settings.model), mapper)


@contextmanager
def _mapper(settings: Settings) -> Iterator[Mapper]:
    from ragdist.local import ProcessMapper, SerialMapper

    yield ProcessMapper(settings.run.processes) if settings.run.processes > 1 else SerialMapper()


def _opener(settings: Settings) -> Any:
    @contextmanager
    def open_model(source: str) -> Iterator[tuple[Writer, Reader]]:
        from ragdist.lm.load import load_codec, load_model
        from ragdist.lm.read import ModelReader
        from ragdist.lm.write import ModelWriter

        config = settings.model.model_copy(update={"source": source})
        model = load_model(config)
        batch = settings.evaluation.tokens_per_batch
        yield ModelWriter(model, load_codec(config), batch), ModelReader(model, batch)
        del model
        gc.collect()

    return open_model


def _labelled(model: str) -> tuple[str, str]:
    label, equals, source = model.partition("=")
    return (label, source) if equals else (Path(model).name or model, model)


def _models_of(settings: Settings) -> dict[str, str]:
    tuned = track.run_folder(settings, "raft") / "model"
    if not tuned.is_dir():
        raise ConfigError(f"no tuned model at {tuned}; name one with --model, or run `ragdist train raft` first")
    base = {"base": settings.model.source} if settings.evaluation.before else {}
    return base | {"RAFT": str(tuned)}


def _conclude(run: track.Run, report: Report) -> dict[str, Any]:
    """summary.json, report.md and a picture."""
    from ragdist.evaluation import report as reporting

    minutes = {name: round(seconds / 60, 2) for name, seconds in run.seconds.items()}
    summary = {**reporting.as_json(report), "minutes": minutes}
    run.write_json("summary.json", summary)
    (run.folder / "report.md").write_text(reporting.markdown(report))
    reporting.picture(report, run.folder / "report.png")
    return summary
