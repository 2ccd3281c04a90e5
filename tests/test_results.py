"""What a finished run leaves: the same files for every system, each written once."""

import json

import pytest

from ragdist import results, runs
from ragdist.results import Run
from ragdist.systems.duet.report import DuetReport
from ragdist.tracking.run import RunFolder
from tests.evaluation import test_kept_answers, world
from tests.evaluation import test_report as robustness
from tests.systems.atm import test_summary as game
from tests.systems.duet import test_summary as duet


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    table = robustness.build(
        tmp_path_factory.mktemp("asked"), "oracle", base=robustness.stubborn, RAFT=robustness.majority
    )
    return {"raft": table, "atm": game.play(), "duet": DuetReport(table, [duet.worth()])}


@pytest.mark.parametrize("job", ["raft", "atm", "duet"])
def test_every_system_is_concluded_and_shown_alike(job, reports, tmp_path, capsys):
    folder = RunFolder(tmp_path, world.settings(), job, seconds={"train": 90.0})
    summary = results.conclude(folder, reports[job], [test_kept_answers.answer()])
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept == json.loads(json.dumps(summary)) and kept["minutes"] == {"train": 1.5} and kept["scores"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("answers.parquet", "report.html", "report.json", "report.md", "report.png", "summary.json"),
    ]
    said = (tmp_path / "report.md").read_text()
    assert said.count("## Subspan EM, its 95% interval") == 1 and said.startswith("**")
    results.show_run(Run(tmp_path, tmp_path, reports[job], summary), as_json=False)
    shown, where = capsys.readouterr()
    assert "Subspan EM, its 95% interval" in shown and "report.png" in where
    assert ("alignment turned 1 wrong answer right" in shown) == (job == "duet")
    assert ("alignment is right in 1 of 2 where" in said) == (job == "duet")


def test_a_run_is_its_model_under_its_name(tmp_path):
    for run in ("mine", "two"):
        (tmp_path / run / "model").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").touch()
    named = [runs._labelled(str(tmp_path / place)) for place in ("mine", "two/model", "plain")]
    assert named == [
        ("mine", str(tmp_path / "mine/model")),
        ("two", str(tmp_path / "two/model")),
        ("plain", str(tmp_path / "plain")),
    ]
    assert [runs._labelled(text) for text in ("base=x/y", "org/model")] == [("base", "x/y"), ("model", "org/model")]
    assert runs._labelled("é" * 999) == ("é" * 999, "é" * 999)
