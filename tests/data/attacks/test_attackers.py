"""Attackers of a finished game of ATM as attacks: what they wrote, version by version."""

import pytest

from ragdist.data.attacks import registry
from ragdist.data.attacks.forging import LeftOut, forge
from ragdist.errors import ConfigError, StorageError
from ragdist.records import Forgery
from ragdist.storage import tables
from ragdist.storage.atomic import write_json
from tests.data.attacks.about import SHRINE, SHRINE_TEXT, target, tower


def wrote(number, text, question="tower", truthful=False, attacker=1):
    return Forgery(
        id=f"{question}-{attacker}-{number}",
        question_id=question,
        number=number,
        title="Eiffel Tower",
        text=text,
        states="1925",
        method="attacker",
        attacker=attacker,
        truthful=truthful,
    )


def game(folder, **versions):
    """A run's folder with what each attacker wrote."""
    for name, rows in versions.items():
        shard = folder / "atm" / "test" / f"forged-{name}"
        shard.mkdir(parents=True)
        tables.write(shard / "00000.parquet", tables.to_table(rows), {})
        _, digest, _ = tables.peek(shard / "00000.parquet")
        write_json(shard.with_suffix(".json"), [{"name": "00000", "rows": len(rows), "digest": digest, "notes": {}}])
    return folder


@pytest.fixture
def played(tmp_path):
    rows = [
        wrote(0, "It was finished in 1925."),
        wrote(1, "It was finished in 1889.", truthful=True),
        wrote(2, "In 1925 it stood."),
    ]
    return game(tmp_path / "NQ game", a0=[wrote(0, "1925, perhaps.", attacker=0)], a1=rows)


def test_each_version_is_an_attack_and_shows_what_it_wrote_but_truths(played):
    first, second = registry.chosen([f"atm:{played}"])
    assert (first.name, second.name) == ("nq-game-a0", "nq-game-a1")
    assert [one.text for one in forge(first, tower())] == ["1925, perhaps."]
    assert [one.text for one in forge(second, tower())] == ["It was finished in 1925.", "In 1925 it stood."]
    assert [one.text for one in forge(second, tower(count=1))] == ["It was finished in 1925."]
    assert registry.named(f"atm:{played}@0").name == "nq-game-a0"


def test_version_changes_with_what_was_written(played, tmp_path):
    other = game(tmp_path / "b" / "NQ game", a0=[wrote(0, "It was 1925.", attacker=0)])
    one, two = registry.named(f"atm:{played}@0"), registry.named(f"atm:{other}")
    assert one.name == two.name and one.version != two.version
    with pytest.raises(ConfigError, match="two attacks nq-game-a0; rename"):
        registry.chosen([f"atm:{played}", f"atm:{other}"])


def test_question_that_the_game_did_not_ask_is_left_out(played):
    with pytest.raises(LeftOut, match="wrote_nothing"):
        forge(registry.named(f"atm:{played}@1"), target(SHRINE, SHRINE_TEXT))


@pytest.mark.parametrize(
    ("name", "why"), [("atm:", "no attacker"), ("atm:/nowhere", "no attacker"), ("atm:{}@7", "forged-a7")]
)
def test_game_or_version_that_is_not_there_is_refused(played, name, why):
    with pytest.raises(ConfigError, match=why):
        registry.chosen([name.format(played)])


@pytest.mark.parametrize("place", ["me@work", "a b", "v@2"])
def test_game_may_lie_in_a_folder_of_any_name(tmp_path, monkeypatch, place):
    game(tmp_path / place / "g", a0=[wrote(0, "1925.", attacker=0)], a1=[wrote(0, "In 1925.")])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in (f"{place}/g", f"~/{place}/g/", f"{tmp_path}/{place}/g"):
        assert [one.name for one in registry.chosen([f"atm:{folder}"])] == ["g-a0", "g-a1"]
        assert registry.named(f"atm:{folder}@1").name == "g-a1"


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/g", "a\0b", "{}@last", "{}@01"])
def test_name_of_no_folder_is_refused(played, name):
    with pytest.raises(ConfigError, match="no attacker"):
        registry.chosen([f"atm:{name}".format(played)])


@pytest.mark.parametrize("name", ["forged-a1 (copy).json", "forged-a².json", "forged-a.json"])
def test_files_beside_those_of_the_game_are_none(played, name):
    (played / "atm" / "test" / name).write_text("[]")
    (played / "atm" / "test" / "forged-a7.json").mkdir()
    assert len(registry.chosen([f"atm:{played}"])) == 2


@pytest.mark.parametrize("noted", ["null", "[1]", "[{}]", '[{"name": "00009"}]', '[{"name": "a\\u0000"}]'])
def test_noted_files_that_cannot_be_are_one_error(played, noted):
    (played / "atm" / "test" / "forged-a1.json").write_text(noted)
    with pytest.raises(StorageError, match=r"forged-a1\.json is broken"):
        registry.chosen([f"atm:{played}"])


def test_torn_shard_is_one_error(played):
    shard = played / "atm" / "test" / "forged-a1" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(StorageError, match=r"forged-a1\.json is broken"):
        registry.chosen([f"atm:{played}"])


def test_broken_game_is_one_error_and_no_model_learns_from_test_questions(played):
    with pytest.raises(ConfigError, match=r"2 attackers, wanted one; take .*@1"):
        registry.named(f"atm:{played}")
    with pytest.raises(ConfigError, match="test questions, which no model may learn from"):
        registry.for_training(f"atm:{played}@0")
    (played / "atm" / "test" / "forged-a1.json").write_text("[{")
    with pytest.raises(StorageError, match="forged-a1"):
        registry.chosen([f"atm:{played}"])
