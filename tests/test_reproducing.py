"""A table of methods: each row is a run, all are judged by the same lists."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ragdist import reproducing, runs
from ragdist.config import loader
from ragdist.config.table import TableFile
from ragdist.errors import ConfigError, DataError
from ragdist.evaluation.robustness import Robustness, Single
from ragdist.evaluation.sheet import markdown
from tests import game, tiny
from tests.evaluation import test_gate as judged


@pytest.fixture
def table(tmp_path):
    """A file with the base model, RAFT, and a third row that is RAFT again; the model's folder is empty."""
    (tmp_path / "tiny-0").mkdir()
    settings = game.settings(
        tmp_path,
        tmp_path / "tiny-0",
        evaluation={"conditions": ["closed_book", "permuted"], "attacks": ["flood"]},
    )
    values = json.loads(settings.model_dump_json())
    values["run"]["name"], raft = "", {"train.epochs": 0.5, "train.microbatch": 2}
    rows = {
        "base": {},
        "RAFT": {"job": "raft", "settings": raft, "source": "arXiv 2403.10131", "published": {"permuted": 0.74}},
        "again": {"job": "raft", "settings": raft, "differs": "nothing"},
    }
    path = tmp_path / "few.yaml"
    path.write_text(json.dumps({"title": "Right", "settings": values, "rows": rows}))
    return path


def test_rows_are_trained_once_judged_alike_and_shown_beside_what_was_published(table, tmp_path):
    tiny.model_folder(tmp_path)
    made = runs.reproduce(str(table))
    assert sorted(path.name[:8] for path in (tmp_path / "runs").glob("few*")) == ["few", "few-raft"]
    numbers = json.loads((made.folder / "table.json").read_text())
    assert [*numbers] == ["base", "RAFT", "again"]
    assert all({*row["ours"]} == {"closed_book", "permuted", "flood", "gap over attacks"} for row in numbers.values())
    assert numbers["RAFT"]["ours"] == numbers["again"]["ours"]
    text = (made.folder / "table.md").read_text()
    assert "published 0.74" in text and "RAFT: arXiv 2403.10131" in text and "again: but nothing" in text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("few-raft*/model/*.safetensors")}
    defended = runs.reproduce(str(table), ["evaluation.defences=[paraphrase]"]).sheet().numbers
    assert {label: defended[label] for label in numbers} == numbers and len(defended) == 6
    assert {*defended["RAFT + paraphrase"]["ours"]} == {"permuted", "flood", "gap over attacks"}
    assert before and before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"rows": {}}, "rows"),
        ({"rows": {"x": {"job": "raft", "settings": {"train.epoch": 1}}}}, "row 'x' of the table: .*train.epoch"),
        ({"rows": {"x": {"job": "dpo"}}}, "rows.x.job"),
        ({"rows": {"x": {"published": {"permuted": "much"}}}}, "published"),
        ({"title": None}, "title"),
        ({"settings": {"contexts": {"document": 3}}}, "contexts.document"),
        ({"rows": {"x": {"published": {"permuted": 74.0}}}}, "rows.x.published.permuted"),
        ({"rows": {"x": {"published": {"permuted": -0.1}}}}, "rows.x.published.permuted"),
        ({"rows": {"x": {"settings": {"seed": 1}}}}, r"rows\.x.*: settings and model are of what is trained"),
        ({"rows": {"x": {"model": "DSF/model"}}}, r"rows\.x.*: settings and model are of what is trained"),
        ({"rows": {"x": {"job": "duet"}}}, r"rows\.x.*: of job: duet model is one of reciter/model"),
        ({"rows": {"": {}}}, "empty name"),
        ({"rows": {" ": {}}}, "empty name"),
        ({"rows": {"x": {"job": "atm", "settings": {"atm.replay.attacks": ["flood"]}}}}, "held out"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_before_anything_runs(table, tmp_path, change, wanted):
    values = json.loads(table.read_text()) | change
    table.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=wanted):
        runs.reproduce(str(table))
    assert not (tmp_path / "runs").exists()


def test_table_that_is_not_there_names_those_that_come_along():
    with pytest.raises(ConfigError, match=r"no file 'nothing.yaml' .* robust-nq.yaml"):
        runs.reproduce("nothing")


def test_rows_of_the_tables_that_come_along_are_settings():
    path = runs.settings_file("robust-nq.yaml", "tables")
    found = loader.load_table(path)
    rows = {label: loader.load([found.settings, row.settings]) for label, row in found.rows.items()}
    assert len(rows) >= 5 and rows["RetRobust mix"].contexts.documents == 1
    assert rows["ATM, clean loss and drawn lists"].atm.mix.forgeries == "drawn"
    assert rows["ATM, clean loss and drawn lists"].atm.rounds == 1
    for label, row in found.rows.items():  # the suite is asked by the judge, as no game of ATM asks it
        config = reproducing._settings_of(label, row, found, [], "x").evaluation
        assert not (config.attacks or config.grid.attack or config.defences) and "permuted" in config.conditions


@pytest.fixture
def played(monkeypatch):
    """Jobs and judge that take no time; what was trained and what was judged."""
    done = SimpleNamespace(trained=[], judged={})

    def job(settings):
        done.trained.append(settings.run.name)
        folder = Path(settings.run.folder) / settings.run.name
        (folder / "model").mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(folder=folder)

    def judge(settings, models):
        done.judged = models
        folder = Path(settings.run.folder) / settings.run.name
        folder.mkdir(parents=True, exist_ok=True)
        report = replace(judged.report(), cells=tuple(judged.cell(label, "permuted", 0.5) for label in models))
        return SimpleNamespace(folder=folder, report=replace(report, robustness=None))

    for name in ("raft", "atm", "duet"):
        monkeypatch.setattr(runs, name, job)
    monkeypatch.setattr(runs, "evaluate", judge)
    return done


def test_labels_may_be_anything_that_is_seen(table, played):
    raft = {"job": "raft", "settings": {"train.epochs": 0.5}}
    labels = ["base=x", "RAFT P=100%", "RAFT P=60%", "https://host/v1#m", "日本", "a/b|c", "A/B|c", "x" * 300, "~"]
    values = json.loads(table.read_text()) | {"rows": dict.fromkeys(labels, raft) | {"base": {}}}
    table.write_text(json.dumps(values))
    made = runs.reproduce(str(table))
    assert [*played.judged] == [*labels, "base"] == [*made.sheet().numbers]
    assert {played.judged[label] for label in labels} == {f"{made.folder}-{played.trained[0][4:]}/model"}


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("evaluation.attacks=[flod]", "no attack 'flod'"),
        ("evaluation.attacks=[atm:nowhere]", "'atm:nowhere' is no attacker"),
        ("evaluation.defences=[sandbox]", "no defence 'sandbox'"),
        ("evaluation.conditions=[closed_book]", "permuted"),
        ("evaluation.grid={attack: flood, documents: [99]}", "evaluation.grid.documents=99"),
        ("corpus.questions=[nowhere.jsonl]", "nowhere.jsonl"),
        ("model.source=/nowhere/model", "no such run or model folder"),
    ],
)
def test_what_the_judge_would_refuse_is_refused_before_a_row_is_trained(table, played, override, wanted):
    with pytest.raises((ConfigError, DataError), match=wanted):
        runs.reproduce(str(table), [override])
    assert not played.trained


def test_row_may_not_have_the_name_of_another_under_a_defence(table, played):
    values = json.loads(table.read_text()) | {"rows": {"base": {}, "base + isolation": {}}}
    table.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"2 models are called 'base \+ isolation'"):
        runs.reproduce(str(table), ["evaluation.defences=[isolation]"])
    assert [*runs.reproduce(str(table)).sheet().numbers] == ["base", "base + isolation"]


def test_published_number_of_what_was_not_asked_has_a_column_of_its_own(table, played):
    values = json.loads(table.read_text())
    values["rows"]["RAFT"]["published"] = {"permuted": 0.74, "oracle": 0.5, "their test": 0.25}
    table.write_text(json.dumps(values))
    head, *rows = (
        line.split(" | ")
        for line in (runs.reproduce(str(table)).folder / "table.md").read_text().split("\n")
        if "|" in line
    )
    assert len(head) == 4 and rows[2][2:] == ["published 0.50", "published 0.25 |"]


@pytest.mark.parametrize("name", ["x" * 5000, "nothing.yml", ".", "~/nothing.yaml", "a\0b"])
def test_table_that_cannot_be_is_one_line(name):
    with pytest.raises(ConfigError, match=r"no file .* robust-nq.yaml"):
        runs.reproduce(name)


def test_each_number_stands_in_its_row_and_column_and_who_was_left_out_is_told(tmp_path):
    labels = ["base", "RAFT"]
    shares = {(label, name): (1 + 4 * a + b) / 10 for a, label in enumerate(labels) for b, name in enumerate("pfg")}
    suite = Robustness(
        attacks=tuple(
            replace(judged.faced("flood", 0.2), model=one, accuracy=judged.share(shares[one, "f"])) for one in labels
        ),
        gaps=tuple(
            Single(model=one, of="attacks", worst="flood", rows=9, value=judged.share(shares[one, "g"]))
            for one in labels
        ),
        **dict.fromkeys(("cells", "areas", "recalls", "changes"), ()),
        notes=("flood: 41 of 50 questions are left out.",),
    )
    cells = tuple(judged.cell(one, "permuted", shares[one, "p"]) for one in reversed(labels))
    report = replace(judged.report(), cells=cells, robustness=suite)
    rows = {"base": {"published": {"flood": 0.9}}, "RAFT": {"job": "raft", "published": {"permuted": 0.8}}}
    sheet = reproducing.Reproduced(tmp_path, TableFile.model_validate({"title": "T", "rows": rows}), report).sheet()
    ours = {label: {name: found["mean"] for name, found in row["ours"].items()} for label, row in sheet.numbers.items()}
    assert ours == {
        label: dict(
            zip(("permuted", "flood", "gap over attacks"), (shares[label, name] for name in "pfg"), strict=True)
        )
        for label in labels
    }
    text = markdown(sheet).splitlines()
    assert text[4].count("published") == 1 == text[5].count("published")
    assert "published 0.90" in text[4].split(" | ")[2] and "published 0.80" in text[5].split(" | ")[1]
    assert text[-1] == "- flood: 41 of 50 questions are left out."
