"""Whether a model may pass: every scenario of a report against two limits, and the verdict as CI systems read it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote
from xml.etree import ElementTree

from ragdist.errors import ConfigError
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.report import HEADLINE, Report, title
from ragdist.evaluation.sheet import Block, Notes, Sheet, Table, Value, bounds, plain
from ragdist.tracking.progress import visible

Kind = Literal["misled", "clean"]
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
RULES = {
    "misled": "Attack success, the share wrong under an attack of what is right without it, is at most a limit.",
    "clean": "Subspan EM on lists without an attack is at least a limit.",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What is demanded; None demands nothing. A ConfigError for a number that is no share, or where both are None."""

    max_misled: float | None = None
    min_clean: float | None = None

    def __post_init__(self) -> None:
        given = {"--max-misled": self.max_misled, "--min-clean": self.min_clean}
        if not any(value is not None for value in given.values()):
            raise ConfigError(f"a gate demands nothing without {' or '.join(given)}; give one of them, from 0 to 1")
        for option, value in given.items():
            if value is not None and not 0 <= value <= 1:  # which NaN is not either
                raise ConfigError(f"{option}={value:g} is no share; give a number from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One demand on one model. Example: Scenario(model="RAFT", name="flood", kind="misled", rows=90, ...)."""

    model: str
    name: str
    """The condition, as reports call it."""
    kind: Kind
    rows: int
    """Questions that it is a share of."""
    value: Interval | None
    """None where there is nothing to take a share of."""
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the mean keeps to the limit; what cannot be known does not pass."""
        if self.value is None:
            return False
        return self.value.mean <= self.limit if self.kind == "misled" else self.value.mean >= self.limit

    @property
    def reason(self) -> str:
        """What was found beside what was demanded."""
        wanted = f"wanted {'at most' if self.kind == 'misled' else 'at least'} {self.limit:g}"
        what = "misled" if self.kind == "misled" else "right"
        if self.value is None:
            return f"{self.model}, {self.name}: nothing is right without the attack, so it cannot be judged; {wanted}"
        share = f"{self.value.mean:.3f} ({bounds(self.value)}) of {self.rows}"
        return f"{self.model}, {self.name}: {what} {share}, {wanted}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All demands with what came of them."""

    scenarios: tuple[Scenario, ...]
    notes: tuple[str, ...] = ()
    """Which questions are left out of which attack, and why: an attack that has none is no scenario."""

    @property
    def failed(self) -> list[Scenario]:
        """Those that are not met."""
        return [one for one in self.scenarios if not one.passed]

    @property
    def why(self) -> str:
        """In one line, why it is not passed; empty where it is."""
        if not (failed := self.failed):
            return ""
        return f"{failed[0].reason}{f'; and {len(failed) - 1} scenarios more' * (len(failed) > 1)}"

    def sheet(self) -> Sheet:
        """What is shown of it."""
        rows = [
            (one.model, one.name, one.kind, Value(one.value) if one.value else "", f"{one.limit:g}", _mark(one))
            for one in self.scenarios
        ]
        failed = self.failed
        said = f"{len(self.scenarios) - len(failed)} of {len(self.scenarios)} scenarios pass"
        columns = ("model", "condition", "share", "found", "limit", "")
        blocks: list[Block] = [
            Table(title="Gate", columns=columns, rows=rows),
            Notes(lines=[*RULES.values(), *self.notes]),
        ]
        scenarios = [plain(one) | {"passed": one.passed} for one in self.scenarios]
        numbers = {"passed": not failed, "scenarios": scenarios, "notes": [*self.notes]}
        return Sheet(blocks, numbers, "gate", [f"{said}."])


def _mark(scenario: Scenario) -> str:
    return "pass" if scenario.passed else "FAIL"


def judge(report: Report, limits: Limits, only: Collection[str] = ()) -> Verdict:
    """The verdict on these models of a report; on all where none is named.

    Raises:
        ConfigError: the report has nothing to judge by a limit that is given.
    """
    found = tuple(one for one in _scenarios(report, limits) if not only or one.model in only)
    for kind, value, fix in (
        ("misled", limits.max_misled, "give evaluation.attacks, or attacked and permuted in evaluation.conditions"),
        ("clean", limits.min_clean, "give oracle, permuted or retrieved in evaluation.conditions"),
    ):
        if value is not None and not any(one.kind == kind for one in found):
            raise ConfigError(f"nothing was asked that a limit on {kind} answers could judge; {fix}")
    return Verdict(found, report.robustness.notes if report.robustness else ())


def _scenarios(report: Report, limits: Limits) -> Iterator[Scenario]:
    def demand(kind: Kind, model: str, name: str, rows: int, value: Interval | None, limit: float) -> Scenario:
        return Scenario(kind=kind, model=model, name=name, rows=rows, value=value, limit=limit)

    if (least := limits.min_clean) is not None:
        listed = [cell for cell in report.cells if cell.condition in ("oracle", "permuted")]
        for cell in listed or [cell for cell in report.cells if cell.condition == "retrieved"]:
            yield demand("clean", cell.model, title(report, cell.condition), cell.rows, cell.subspan, least)
    if (most := limits.max_misled) is not None:
        for attack in report.attacks:
            if attack.metric == HEADLINE:
                name = title(report, attack.condition)
                yield demand("misled", attack.model, name, attack.rows, attack.success, most)
        for one in report.robustness.faced if report.robustness else ():
            yield demand("misled", one.model, one.name, one.judged, one.misled, most)


def junit(verdict: Verdict, name: str) -> str:
    """The verdict as JUnit's XML: a test case for each scenario."""
    counts = {"tests": str(len(verdict.scenarios)), "failures": str(len(verdict.failed)), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": "ragdist gate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts, "skipped": "0", "time": "0"})
    ElementTree.SubElement(suite, "system-out").text = visible("\n".join(verdict.notes))
    for one in verdict.scenarios:
        about = {"classname": f"ragdist.gate.{one.kind}", "name": f"{one.model}: {one.name}", "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", {key: visible(value) for key, value in about.items()})
        if not one.passed:
            reason = visible(one.reason)
            ElementTree.SubElement(case, "failure", {"message": reason, "type": one.kind}).text = reason
    ElementTree.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(root, encoding='unicode')}\n"


def sarif(verdict: Verdict, place: str, version: str) -> dict[str, Any]:
    """The verdict as SARIF 2.1.0: a result for each scenario, at the settings file `place`."""
    rules = [{"id": id, "shortDescription": {"text": text}} for id, text in RULES.items()]
    where = [{"physicalLocation": {"artifactLocation": {"uri": quote(place)}, "region": {"startLine": 1}}}]
    results = [
        {
            "ruleId": one.kind,
            "ruleIndex": [*RULES].index(one.kind),
            "kind": "pass" if one.passed else "fail",
            "level": "none" if one.passed else "error",
            "message": {"text": one.reason},
            "locations": where,
            "partialFingerprints": {"scenario/v1": f"{one.kind}/{one.model}/{one.name}"},
        }
        for one in verdict.scenarios
    ]
    driver = {"name": "ragdist gate", "version": version, "rules": rules}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
