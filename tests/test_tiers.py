"""The table that sorts tests by what they need."""

from types import SimpleNamespace

import pytest

from tests import conftest

PLACES = [place for places in conftest.NEEDS.values() for place in places]


def test_table_names_files_and_folders_that_are_there_once():
    for place in PLACES:
        file, _, test = place.partition("::")
        assert (conftest.TESTS / file).exists(), file
        assert not test or f"def {test}(" in (conftest.TESTS / file).read_text(), place
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
        ("test_first_hour.py", ""),
        ("test_first_hour.py::test_U11_a_folder_that_cannot_be_made_is_one_line", "long"),
        ("test_first_hour.py::test_U8_settings", ""),
        ("lm/test_zero.py::test_u11", "model"),
    ],
)
def test_folders_mark_all_that_is_in_them(place, name):
    file, _, test = place.partition("::")
    assert conftest.need(conftest.TESTS / file, test) == name


@pytest.mark.parametrize(
    ("expression", "skipped"),
    [("not model and not cluster", True), ("not cluster and not gpu", None), ("", None), ("not models", None)],
)
def test_files_whose_tests_are_left_out_are_not_imported(expression, skipped):
    config = SimpleNamespace(option=SimpleNamespace(markexpr=expression))
    assert conftest.pytest_ignore_collect(conftest.TESTS / "lm" / "test_zero.py", config) is skipped
