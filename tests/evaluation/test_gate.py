"""The gate's verdict and the files that CI systems read."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ragdist import cli, results, runs
from ragdist.config import Settings
from ragdist.errors import ConfigError, StorageError
from ragdist.evaluation import gate
from ragdist.evaluation.gate import Limits, judge, junit, sarif
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.report import Attack, Cell, Report
from ragdist.evaluation.robustness import Faced, Robustness
from ragdist.evaluation.suite import Cell as Listed


def share(mean):
    return Interval(mean, mean - 0.1, mean + 0.1)


def cell(model, condition, right):
    nothing = dict.fromkeys(
        ("states_forgery", "untagged", "quotes_valid", "retrieved_oracle", "perplexity", "three_way", "two_way")
    )
    shares = {"unfinished": 0.0, "cut_prompts": 0.0}
    scores = dict.fromkeys(("em", "f1", "subspan"), share(right))
    return Cell(model=model, condition=condition, rows=50, **scores, **shares, **nothing)


def faced(name, misled):
    value = None if misled is None else share(misled)
    scores = {"clean": share(0.8), "accuracy": share(0.5), "misled": value, "repeats": None}
    return Faced(model="m", name=name, held_out=True, rows=50, judged=40 if value else 0, **scores)


def report(*, clean=0.8, template=0.1, attacks=(), cells=()):
    suite = Robustness(
        attacks=tuple(attacks), cells=tuple(cells), gaps=(), areas=(), recalls=(), changes=(), notes=("ocr: left out.",)
    )
    return Report(
        baseline="",
        attack_name="template attack",
        cells=(cell("m", "oracle", clean), cell("m", "permuted", clean), cell("m", "retrieved", 0.1)),
        attacks=tuple(
            Attack(model="m", metric=metric, rows=40, success=share(template)) for metric in ("subspan", "em")
        ),
        changes=(),
        floor=None,
        robustness=suite,
    )


BOTH = Limits(0.2, 0.6)


def test_scenarios_are_clean_lists_attacks_and_lists_of_the_grid():
    """`retrieved` is no clean list, as what a search misses is not the model's fault; none forged is no attack."""
    cells = [(Listed(5, 0, "drawn", True), faced("none", 0.9)), (Listed(5, 2, "drawn", True), faced("two", 0.1))]
    found = judge(report(attacks=[faced("flood", 0.2)], cells=cells), BOTH)
    assert [(one.kind, one.name, one.passed) for one in found.scenarios] == [
        ("clean", "oracle present", True),
        ("clean", "the same, permuted", True),
        ("misled", "template attack", True),
        ("misled", "flood", True),
        ("misled", "two", True),
    ]
    assert found.failed == [] and found.why == ""


@pytest.mark.parametrize(
    ("given", "limits", "why"),
    [
        ({"template": 0.3}, BOTH, "m, template attack: misled 0.300 (0.20 to 0.40) of 40, wanted at most 0.2"),
        (
            {"clean": 0.59},
            BOTH,
            "m, oracle present: right 0.590 (0.49 to 0.69) of 50, wanted at least 0.6; and 1 scenarios more",
        ),
        (
            {"attacks": [faced("ocr", None)]},
            BOTH,
            "m, ocr: nothing is right without the attack, so it cannot be judged; wanted at most 0.2",
        ),
        ({"template": 0.3}, Limits(None, 0.6), ""),
        ({"clean": 0.1}, Limits(0.2, None), ""),
        ({"template": 0.0, "clean": 1.0}, Limits(0.0, 1.0), ""),
    ],
)
def test_what_is_not_kept_is_said_with_what_was_found(given, limits, why):
    assert judge(report(**given), limits).why == why


@pytest.mark.parametrize("values", [(None, None), (1.1, None), (-0.1, 0.5), (0.5, math.nan), (math.inf, None)])
def test_limits_that_are_no_shares_are_refused(values):
    with pytest.raises(ConfigError, match=r"from 0 to 1") as told:
        Limits(*values)
    assert told.value.exit_code == 2


def test_a_limit_that_nothing_can_be_held_against_is_refused():
    plain = replace(report(), attacks=(), robustness=None)
    with pytest.raises(ConfigError, match=r"a limit on misled answers could judge; give evaluation\.attacks"):
        judge(plain, BOTH)
    with pytest.raises(ConfigError, match="a limit on clean answers could judge; give oracle, permuted"):
        judge(replace(plain, cells=()), Limits(None, 0.5))


EVIL = 'a<b>&"\x1b[31m\x00'


def test_junit_is_what_readers_of_pytests_files_take():
    """Names, counts and failures; control characters, which XML has not, are written out."""
    verdict = judge(report(template=0.3, attacks=[faced(EVIL, 0.9)]), BOTH)
    root = ElementTree.fromstring(junit(verdict, "settings.yaml"))
    (suite,) = root
    assert suite.find("system-out").text == "ocr: left out."
    suite.remove(suite.find("system-out"))
    assert (root.tag, suite.tag, suite.get("name")) == ("testsuites", "testsuite", "settings.yaml")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "4",
        "2",
        "0",
        "0",
    )
    failed = {case.get("name"): case.find("failure") for case in suite if case.find("failure") is not None}
    assert [*failed] == ["m: template attack", 'm: a<b>&"\\u001b[31m\\u0000']
    assert failed["m: template attack"].get("message") == failed["m: template attack"].text
    assert "wanted at most 0.2" in failed["m: template attack"].text
    assert {case.get("classname") for case in suite} == {"ragdist.gate.clean", "ragdist.gate.misled"}
    assert all(set(case.attrib) == {"classname", "name", "time"} for case in suite)


def test_sarif_says_what_code_scanning_wants():
    verdict = judge(report(template=0.3), BOTH)
    made = json.loads(json.dumps(sarif(verdict, "jobs/a b.yaml", "0.1.0")))
    (run,) = made["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert made["version"] == "2.1.0" and made["$schema"].endswith("sarif-schema-2.1.0.json")
    assert [result["level"] for result in run["results"]] == ["none", "none", "error"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"] and result["message"]["text"]
        assert (result["kind"] == "fail") == (result["level"] == "error")
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "jobs/a%20b.yaml"


@pytest.fixture
def judged(monkeypatch):
    def put(verdict):
        monkeypatch.setattr(runs, "gate", lambda settings, models, service, **limits: judge(verdict, Limits(**limits)))

    return put


def gate_command(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["gate", "--max-misled", "0.2", "--min-clean", "0.6", *map(str, arguments)])
    return end.value.code


def test_command_exits_0_1_or_2_and_writes_both_files(judged, tmp_path, capsys):
    files = ["--junit", tmp_path / "new" / "j.xml", "--sarif", tmp_path / "s.json"]
    judged(report())
    assert gate_command(*files) == 0
    assert json.loads((tmp_path / "s.json").read_text())["runs"][0]["tool"]["driver"]["version"]
    assert ElementTree.parse(tmp_path / "new" / "j.xml").getroot().get("failures") == "0"
    judged(report(template=0.3))
    assert gate_command(*files, "--json") == 1
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1].startswith("m, template attack: misled 0.300")
    told = json.loads(said.out[said.out.index("{") :])
    assert told["passed"] is False and told["notes"] == ["ocr: left out."]
    assert ElementTree.parse(tmp_path / "new" / "j.xml").getroot().get("failures") == "1"
    judged(replace(report(), attacks=(), robustness=None))
    assert gate_command() == 2
    assert gate_command("--junit", tmp_path) == 2 and "is a folder" in capsys.readouterr().err
    assert gate_command("evaluation.attakcs=[flood]") == 2


@pytest.mark.parametrize("place", ["file/j.xml", "é" * 300, "x/" + "a" * 300, "a" * 300 + "/j.xml"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_asked(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, ConfigError)):
        results.refuse_no_file([tmp_path / place])


def test_bad_limits_come_before_models_are_looked_for():
    with pytest.raises(ConfigError, match="no share"):
        runs.gate(Settings(), max_misled=2.0)
    assert gate.RULES.keys() == {"misled", "clean"}
