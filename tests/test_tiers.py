"""The table that sorts tests by what they need."""

import subprocess
import sys

import pytest

from tests import conftest

PLACES = [place for places in conftest.NEEDS.values() for place in places]


def test_table_names_files_and_folders_that_are_there_once():
    assert [place for place in PLACES if not (conftest.TESTS / place).exists()] == []
    assert len(set(PLACES)) == len(PLACES)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("lm/test_zero.py", "model"),
        ("lm", "model"),
        ("lm/test_resident.py", "cluster"),
        ("cluster/test_group.py", "cluster"),
        ("test_runs.py", "cluster"),
        ("test_records.py", ""),
    ],
)
def test_folders_mark_all_that_is_in_them(place, name):
    assert conftest.need(conftest.TESTS / place) == name


def test_files_that_are_left_out_are_not_imported(tmp_path):
    """With a file that cannot be imported in the place of one of the table."""
    (tmp_path / "lm").mkdir()
    (tmp_path / "conftest.py").write_text((conftest.TESTS / "conftest.py").read_text())
    (tmp_path / "lm" / "test_broken.py").write_text("import no_such_module\n")
    (tmp_path / "test_plain.py").write_text("def test_plain(): ...\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = model\n cluster\n")
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    codes = [subprocess.run([*run, "-m", m], cwd=tmp_path, capture_output=True).returncode for m in ("not model", "")]
    assert codes == [0, 2]
