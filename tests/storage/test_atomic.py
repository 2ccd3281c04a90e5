"""Files and folders that are there whole or not at all, and are shared where the disk can."""

import errno
import os

import pytest

from ragdist.storage.atomic import atomic_file, atomic_folder, copy_linked, read_json, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_file_has_its_old_content_until_the_new_one_is_whole(tmp_path, sync):
    path = write_json(tmp_path / "a.json", 1)
    with atomic_file(path, sync=sync) as half:
        half.write_text("2")
        assert read_json(path) == 1
    assert read_json(path) == 2 and names(tmp_path) == ["a.json"]


def test_file_whose_writing_fails_leaves_the_old_one_alone(tmp_path):
    path = write_json(tmp_path / "a.json", 1)
    with pytest.raises(ZeroDivisionError), atomic_file(path) as half:
        half.write_text("2")
        raise ZeroDivisionError
    assert read_json(path) == 1 and names(tmp_path) == ["a.json"]


def test_two_who_write_one_file_at_once_do_not_write_into_each_other(tmp_path):
    path = tmp_path / "a.json"
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write_text("1" * 9)
        other.write_text("2")
    assert path.read_text() == "1" * 9 and names(tmp_path) == ["a.json"]


def test_folder_is_there_when_it_is_whole_without_what_a_killed_process_left(tmp_path):
    (tmp_path / "a.tmp").mkdir()
    (tmp_path / "a.tmp" / "half").touch()
    with atomic_folder(tmp_path / "a") as half:
        (half / "whole").touch()
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["whole"]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "b") as half:
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"]


def test_folder_takes_the_place_of_an_empty_one_only(tmp_path):
    (tmp_path / "a").mkdir()
    with atomic_folder(tmp_path / "a") as half:
        (half / "one").touch()
    with pytest.raises(OSError) as error, atomic_folder(tmp_path / "a"):
        pass
    assert error.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    with atomic_folder(tmp_path / "a", first_wins=True) as half:
        (half / "two").touch()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["one"]


def test_copied_files_are_shared_or_copied_where_the_disk_has_no_links(tmp_path, monkeypatch):
    (tmp_path / "from" / "below").mkdir(parents=True)
    (tmp_path / "from" / "below" / "file").write_text("x")
    copy_linked(tmp_path / "from", tmp_path / "shared")

    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    copy_linked(tmp_path / "from", tmp_path / "copied")
    files = [tmp_path / name / "below" / "file" for name in ("from", "shared", "copied")]
    assert [file.read_text() for file in files] == ["x"] * 3
    assert [file.stat().st_ino == files[0].stat().st_ino for file in files] == [True, True, False]
