"""Lines that are appended: whatever a process died of, those before are there and the next ones can be read."""

import multiprocessing
import resource
import signal

import pytest

from ragdist.errors import StorageError
from ragdist.storage import steps
from ragdist.storage.append import AppendLog, append_row, kept_rows, whole_lines

ROWS = [{"a": 1}, {"text": "ü\u2028\n"}, [1, 2]]


@pytest.mark.parametrize("fingerprint", [None, "abc"])
def test_rows_are_there_for_the_next_process_without_a_torn_one(tmp_path, fingerprint):
    path = tmp_path / "below" / "log.jsonl"
    with AppendLog(path, fingerprint) as log:
        log.add(ROWS)
        log.add([{"b": 2}])
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with AppendLog(path, fingerprint) as log:
        assert log.rows == ROWS
        log.add([{"b": 2}])
    assert path.read_bytes() == whole
    assert "ü".encode() in whole


def test_log_of_another_fingerprint_is_begun_again(tmp_path):
    path = tmp_path / "log.jsonl"
    with AppendLog(path, "abc") as log:
        log.add(ROWS)
    assert kept_rows(path, "abc") == ROWS and kept_rows(path, "abd") == [] == kept_rows(tmp_path / "none", "abc")
    with AppendLog(path, "abd") as log:
        assert log.rows == []
    assert kept_rows(path, "abc") == [] and path.read_text() == '{"fingerprint": "abd"}\n'


def test_row_that_cannot_be_read_ends_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n\0\0\0\n{"b": 2}\n')
    with AppendLog(path) as log:
        assert log.rows == [{"a": 1}]
    assert path.read_bytes() == b'{"a": 1}\n'


def test_reader_that_follows_a_file_gets_each_line_once_and_no_half(tmp_path):
    path, read, found = tmp_path / "metrics.jsonl", 0, []
    assert list(whole_lines(path)) == []
    for piece in (b"one\ntw", b"", b"o\n", b"three"):
        with path.open("ab") as file:
            file.write(piece)
        for line in whole_lines(path, read):
            read += len(line)
            found.append(line)
    assert found == [b"one\n", b"two\n"]


def _fill_the_disk(folder, outcome):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    row = {"text": "x" * 30}
    with AppendLog(folder / "log.jsonl") as log:
        try:
            while True:
                log.add([row])
        except StorageError as error:
            outcome.put(str(error))
    try:
        while True:
            append_row(folder / "rows.jsonl", row)
    except OSError as error:
        outcome.put(error.strerror)


def test_full_disk_takes_whole_rows_only(tmp_path):
    """A row of 43 bytes into 100: two are kept, the third leaves no part."""
    outcome = multiprocessing.Queue()
    process = multiprocessing.Process(target=_fill_the_disk, args=(tmp_path, outcome))
    process.start()
    assert "run.folder" in outcome.get(timeout=30) and outcome.get(timeout=30)
    process.join(30)
    assert (tmp_path / "log.jsonl").stat().st_size == (tmp_path / "rows.jsonl").stat().st_size == 2 * 43


def test_steps_after_the_newest_checkpoint_are_cut_and_a_torn_one_is_dropped(tmp_path):
    for step in range(4):
        steps.note(tmp_path, {"step": step})
    with (tmp_path / steps.STEPS).open("a") as file:
        file.write('{"st')
    assert steps.noted(tmp_path) == [{"step": step} for step in range(4)]
    steps.cut(tmp_path, 2)
    assert steps.noted(tmp_path) == [{"step": 0}, {"step": 1}]
    steps.cut(tmp_path, 3, {"step": 2})
    assert (tmp_path / steps.STEPS).read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
