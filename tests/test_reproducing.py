"""A table of methods: each row is a run, all are judged by the same lists."""

import json

import pytest

from ragdist import reproducing, runs
from ragdist.config import loader
from ragdist.errors import ConfigError
from tests import game, tiny


@pytest.fixture
def table(tmp_path):
    """A file with the base model, RAFT, and a third row that is RAFT again."""
    settings = game.settings(
        tmp_path,
        tiny.model_folder(tmp_path),
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
