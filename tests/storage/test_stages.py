"""Stages on disk: all or nothing, found again, one maker at a time."""

import json
import multiprocessing
import os
import resource

import pytest

from ragdist.errors import StorageError
from ragdist.records import Hit, Question
from ragdist.storage.stages import Stage, Store

STAGE = Stage("hits", {"from": "abc"}, {"count": 2})


def test_make_writes_once_and_finds_again(tmp_path):
    store = Store(tmp_path)

    def produce():
        yield Hit(chunk_id="a", score=1.5)
        return {"odd": 1}

    made = store.make(STAGE, Hit, produce)
    again = store.make(STAGE, Hit, lambda: pytest.fail("made twice"))
    assert list(again) == list(made) == [Hit(chunk_id="a", score=1.5)]
    assert (len(again), again.card["counts"], again.fingerprint) == (1, {"odd": 1}, STAGE.fingerprint)


def test_rows_restore_tuples_and_unicode(tmp_path):
    question = Question(id="1", text="größe 漢字 \u2028 🙂", answers=("a", "b"), oracle_ids=(), split="test")
    rows = Store(tmp_path).make(STAGE, Question, lambda: [question])
    assert list(rows) == [question]


def test_rows_are_what_json_writes(tmp_path):
    """The encoder is made once by hand; a row has the bytes of json.dumps, floats, control and other letters too."""
    hits = [Hit(chunk_id=f'"\\\n\x00{letter}', score=score) for letter in "aü漢🙂" for score in (0.1, 1e300, -0.0, 3)]
    path = Store(tmp_path).make(STAGE, Hit, lambda: hits).path
    rows = [{"chunk_id": hit.chunk_id, "score": hit.score} for hit in hits]
    assert path.read_text() == "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_an_error_in_the_middle_leaves_nothing(tmp_path):
    def produce():
        yield Hit(chunk_id="a", score=1.0)
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        Store(tmp_path).make(STAGE, Hit, produce)
    assert Store(tmp_path).find(STAGE, Hit) is None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "other",
    [Stage("hits", {"from": "abd"}, {"count": 2}), Stage("hits", {"from": "abc"}, {"count": 3}), Stage("hits")],
)
def test_fingerprint_follows_inputs_and_settings(other):
    assert other.fingerprint != STAGE.fingerprint


def _make_slowly(folder, begun):
    def produce():
        begun.set()
        yield Hit(chunk_id=str(os.getpid()), score=0.0)
        yield Hit(chunk_id="end", score=0.0)

    Store(folder).make(STAGE, Hit, produce)


def test_two_processes_make_a_stage_once(tmp_path):
    begun = multiprocessing.Event()
    both = [multiprocessing.Process(target=_make_slowly, args=(tmp_path, begun)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    rows = list(Store(tmp_path).find(STAGE, Hit))
    assert len(rows) == 2 and rows[0].chunk_id in {str(process.pid) for process in both}


def _fill_the_disk(folder, outcome):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        Store(folder).make(STAGE, Hit, lambda: (Hit(chunk_id="x" * 100, score=0.0) for _ in range(1000)))
    except StorageError as error:
        outcome.put(str(error))


def test_a_file_that_cannot_grow_is_one_clear_error(tmp_path):
    outcome = multiprocessing.Queue()
    process = multiprocessing.Process(target=_fill_the_disk, args=(tmp_path, outcome))
    process.start()
    assert "run.folder" in outcome.get(timeout=30)
    process.join(30)
    assert Store(tmp_path).find(STAGE, Hit) is None


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"run\.folder"):
        Store(tmp_path / "file" / "below")


def test_card_is_json_with_what_made_it(tmp_path):
    rows = Store(tmp_path).make(STAGE, Hit, lambda: [])
    card = json.loads((rows.folder / "stage.json").read_text())
    assert (card["inputs"], card["settings"], card["rows"]) == ({"from": "abc"}, {"count": 2}, 0)
