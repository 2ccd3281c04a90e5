import json
from pathlib import Path

import pytest

from ragdist.errors import StorageError
from ragdist.roles import MicrobatchRef
from ragdist.storage.phases import PhaseCheckpoint


def shard(name, notes=None):
    return MicrobatchRef(
        name=name, rows=2, digest=f"d{name}", notes=notes or {"forged": 6}, at=object(), path=f"/x/{name}"
    )


def test_phase_is_made_once_and_noted_in_the_order_of_names_whatever_order_it_came_in(tmp_path):
    one, other = PhaseCheckpoint(tmp_path / "one"), PhaseCheckpoint(tmp_path / "other")
    first = one.shards("round-0/forged", lambda _: [shard("00001"), shard("00000")])
    assert [found.name for found in first] == ["00000", "00001"]
    other.shards("round-0/forged", lambda _: [shard("00000"), shard("00001")])
    noted = (tmp_path / "one" / "round-0" / "forged.json").read_bytes()
    assert noted == (tmp_path / "other" / "round-0" / "forged.json").read_bytes()


def test_finished_phase_is_its_files(tmp_path):
    journal = PhaseCheckpoint(tmp_path)
    journal.shards("round-0/forged", lambda _: [shard("00000")])

    def make(_):
        raise AssertionError("made again")

    (again,) = journal.shards("round-0/forged", make)
    assert (again.name, again.rows, again.digest, again.notes) == ("00000", 2, "d00000", {"forged": 6})
    assert again.path == again.at == str(tmp_path / "round-0" / "forged" / "00000.parquet")


def test_phase_that_failed_is_not_noted(tmp_path):
    journal = PhaseCheckpoint(tmp_path)

    def fail(_):
        yield shard("00000")
        raise ValueError

    with pytest.raises(ValueError):
        journal.shards("round-0/forged", fail)
    assert not journal.done("round-0/forged")


def test_what_was_learned_is_noted_without_times(tmp_path):
    journal = PhaseCheckpoint(tmp_path)
    journal.learned("round-0/attacker", lambda _: [{"step": 1, "loss": 0.5, "seconds": 3.2}])
    assert json.loads((tmp_path / "round-0" / "attacker.json").read_text()) == {"steps": [{"step": 1, "loss": 0.5}]}
    assert journal.learned("round-0/attacker", lambda _: []) == [{"step": 1, "loss": 0.5}]
    assert journal.model("round-0/attacker") == str(tmp_path / "round-0" / "attacker" / "model")


def test_folder_that_is_a_file_names_the_knob(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"run\.folder"):
        PhaseCheckpoint(tmp_path / "file")


def test_adopted_phases_are_those_finished_elsewhere_and_not_here(tmp_path):
    there, here = PhaseCheckpoint(tmp_path / "there"), PhaseCheckpoint(tmp_path / "here")
    for name in ("a", "b"):
        folder = there.folder / "round-0" / name / "model"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"there {name}")
        there.note(f"round-0/{name}", {"steps": [{"loss": 1.0}]})
    (there.folder / "round-0" / "c").mkdir()  # begun, not finished
    (here.folder / "round-0" / "a").mkdir(parents=True)
    (here.folder / "round-0" / "a" / "half").write_text("of a run that was killed")
    here.note("round-0/b", {"steps": []})
    here.adopt(there.folder)
    assert (
        here.done("round-0/a") and not here.done("round-0/c") and not (here.folder / "round-0" / "a" / "half").exists()
    )
    assert here.read("round-0/a") == there.read("round-0/a") and here.read("round-0/b") == {"steps": []}
    assert (Path(here.model("round-0/a")) / "weights").read_text() == "there a"
    assert not (here.folder / "round-0" / "b").exists()
    here.adopt(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", '[{"name": "0', "{}", "7", '[{"name": "00000"}]', '[{"other": 1}]', "[[1]]"])
def test_R13_half_a_journal_is_one_clear_line(tmp_path, content):
    journal = PhaseCheckpoint(tmp_path)
    (tmp_path / "round-0").mkdir()
    (tmp_path / "round-0" / "forged.json").write_text(content)
    with pytest.raises(StorageError, match=r"forged\.json .*remove it") as raised:
        journal.shards("round-0/forged", lambda _: pytest.fail("made again"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"steps": 7}', '{"steps": [7]}'])
def test_R13_half_a_journal_of_steps_is_one_clear_line(tmp_path, content):
    (tmp_path / "round-0").mkdir()
    (tmp_path / "round-0" / "attacker.json").write_text(content)
    with pytest.raises(StorageError, match=r"attacker\.json .*remove it"):
        PhaseCheckpoint(tmp_path).learned("round-0/attacker", lambda _: pytest.fail("made again"))
