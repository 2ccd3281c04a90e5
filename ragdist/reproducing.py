"""`ragdist reproduce`: a table of methods from nothing. Each row is trained as any run is, then all are judged at once.

runs/<table>-<row>/     a row's run
runs/<table>/           the run that judges them: report.html and table.md, where published numbers stand beside
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragdist.config import Settings, loader
from ragdist.config.block import digest
from ragdist.config.table import TableFile, TableRow
from ragdist.errors import ConfigError
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.report import CONDITIONS, Report, title
from ragdist.evaluation.sheet import Block, Notes, Sheet, Table, Value, markdown, plain
from ragdist.results import Run
from ragdist.storage.atomic import atomic_file, translate_errors, write_json
from ragdist.tracking.progress import say

GAP = "gap over {}"
"""Name of a column, with what it is over."""
JUDGED = {"evaluation.attacks": [], "evaluation.grid.attack": "", "evaluation.defences": []}
"""What the judge asks, and no row's own run."""


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A finished table."""

    folder: Path
    """Of the run that judged it."""
    table: TableFile
    report: Report

    def sheet(self) -> Sheet:
        """Each row under each condition and attack, beside it what was published, and its robustness gap."""
        scores = self._scores()
        columns: list[Mapping[str, object]] = [*scores.values(), *(row.published for row in self.table.rows.values())]
        names = list(dict.fromkeys(name for column in columns for name in column))
        cells = [[label, *(_cell(scores[label].get(name), row, name) for name in names)] for label, row in self._rows]
        heads = ["", *(title(self.report, name) if name in CONDITIONS else name for name in names)]
        notes = [
            f"{label}: {', '.join(filter(None, (row.source, row.differs and f'but {row.differs}')))}"
            for label, row in self._rows
            if row.source or row.differs
        ]
        notes += self.report.robustness.notes if self.report.robustness else ()
        blocks: list[Block] = [Table(title=self.table.title, columns=heads, rows=cells), Notes(lines=notes)]
        numbers = {
            label: {
                "ours": {name: plain(found) for name, found in scores[label].items()},
                **row.model_dump(include={"job", "source", "differs", "published"}),
            }
            for label, row in self._rows
        }
        return Sheet(blocks, numbers, self.table.title)

    @property
    def _rows(self) -> list[tuple[str, TableRow]]:
        """Those of the file, then the same models under each defence."""
        others = {label: TableRow() for label in self.report.models if label not in self.table.rows}
        return [*self.table.rows.items(), *others.items()]

    def _scores(self) -> dict[str, dict[str, Interval]]:
        """Subspan EM by label and condition or attack, and GAP."""
        found = {label: dict[str, Interval]() for label, _ in self._rows}
        for name in self.report.conditions:
            for label in found:
                if cell := self.report.cell(label, name):
                    found[label][name] = cell.subspan
        if suite := self.report.robustness:
            for faced in suite.attacks:
                found[faced.model][faced.name] = faced.accuracy
            for gap in suite.gaps:
                found[gap.model][GAP.format(gap.of)] = gap.value
        return found


def _cell(found: Interval | None, row: TableRow, name: str) -> Value | str:
    published = row.published.get(name)
    more = f"published {published:.2f}" if published is not None else ""
    return Value(found, more) if found else more


def reproduce(
    path: Path,
    overrides: Sequence[str],
    jobs: Mapping[str, Callable[[Settings], Run]],
    judge: Callable[[Settings, Mapping[str, str]], Run],
    check: Callable[[Settings, Mapping[str, str]], object],
) -> Reproduced:
    """See `runs.reproduce`; `jobs` by name, `judge` is `runs.evaluate`, and `check` refuses what it would."""
    table = loader.load_table(path)
    shared = loader.load([table.settings, *overrides])
    name = shared.run.name or path.stem
    judging = shared.replaced({"run.name": name})
    rows = {label: _settings_of(label, row, table, overrides, name) for label, row in table.rows.items()}
    models = dict.fromkeys(rows, shared.model.source)
    check(judging, models)
    for label, row in table.rows.items():
        if row.job:
            check(rows[label], {})
    for number, (label, row) in enumerate(table.rows.items(), 1):
        if row.job:
            say(f"{label}: row {number} of {len(rows)}, by `ragdist train {row.job}`")
            models[label] = str(_inside(jobs[row.job](rows[label]).folder, row, label))
    run = judge(judging, models)
    assert isinstance(run.report, Report)
    made = Reproduced(run.folder, table, run.report)
    sheet = made.sheet()
    with translate_errors(run.folder), atomic_file(run.folder / "table.md") as half:
        half.write_text(markdown(sheet), "utf-8")
    write_json(run.folder / "table.json", sheet.numbers)
    return made


def _settings_of(label: str, row: TableRow, table: TableFile, overrides: Sequence[str], name: str) -> Settings:
    """A row's settings, its run named by what they are."""
    try:
        found = loader.load([table.settings, row.settings, *overrides])
    except ConfigError as error:
        raise ConfigError(f"row {label!r} of the table: {error}") from None
    return found.replaced({"run.name": f"{name}-{row.job}-{digest([row.job, row.settings])[:6]}", **JUDGED})


def _inside(folder: Path, row: TableRow, label: str) -> Path:
    found = folder / row.model
    if not found.is_dir():
        raise ConfigError(f"row {label!r} of the table: {folder} holds no {row.model}; rows.{label}.model names it")
    return found
