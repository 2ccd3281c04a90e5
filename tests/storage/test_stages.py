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


HITS = [Hit(chunk_id=f"{number:03d}", score=float(number)) for number in range(9)]
HARMS = {
    "the last line is gone": lambda data: data[: data.rstrip(b"\n").rindex(b"\n") + 1],
    "a line is cut": lambda data: data[:-5],
    "a line is there twice": lambda data: data + data[:36],
    "empty": lambda data: b"",
}
CHANGES = {
    "another number": lambda data: data.replace(b"3.0", b"4.0"),
    "two lines the other way round": lambda data: b"".join(sorted(data.splitlines(keepends=True), reverse=True)),
    "no JSON": lambda data: data.replace(b"{", b"<"),
    "no UTF-8": lambda data: data.replace(b"000", b"\xff00"),
    "a list": lambda data: b"[" + b" " * (len(data) - 3) + b"]\n",
    "another field": lambda data: data.replace(b"score", b"scope"),
}


def harmed(folder, change):
    """A finished stage whose rows are no longer what they were."""
    path = Store(folder).make(STAGE, Hit, lambda: HITS).path
    path.write_bytes(change(path.read_bytes()))
    return Store(folder)


@pytest.mark.parametrize("name", HARMS)
def test_R12_rows_of_another_size_are_noticed_where_the_stage_is_opened(tmp_path, name):
    store = harmed(tmp_path, HARMS[name])
    for use in (lambda: store.find(STAGE, Hit), lambda: store.make(STAGE, Hit, lambda: pytest.fail("made again"))):
        with pytest.raises(StorageError, match=r"rows\.jsonl has \d+ bytes, its card says \d+: .*remove .*made again"):
            use()


@pytest.mark.parametrize("name", CHANGES)
def test_R12_rows_of_the_same_size_are_held_to_their_digest_when_all_are_read(tmp_path, name):
    rows = harmed(tmp_path, CHANGES[name]).find(STAGE, Hit)
    with pytest.raises(StorageError, match=r"rows\.jsonl has .*remove .*made again") as raised:
        list(rows)
    assert "\n" not in str(raised.value)


def test_R12_rows_that_are_gone_are_one_line(tmp_path):
    store = Store(tmp_path)
    store.make(STAGE, Hit, lambda: HITS).path.unlink()
    with pytest.raises(StorageError, match="has no bytes"):
        store.find(STAGE, Hit)


def test_R12_card_of_an_earlier_version_is_good_and_its_count_is_held(tmp_path):
    rows = Store(tmp_path).make(STAGE, Hit, lambda: HITS)
    card = {key: value for key, value in rows.card.items() if key not in ("bytes", "digest")}
    (rows.folder / "stage.json").write_text(json.dumps(card))
    assert list(Store(tmp_path).find(STAGE, Hit)) == HITS
    rows.path.write_bytes(HARMS["the last line is gone"](rows.path.read_bytes()))
    with pytest.raises(StorageError, match=r"8 rows .* 9 rows"):
        list(Store(tmp_path).find(STAGE, Hit))


@pytest.mark.parametrize("card", [None, "", "{", "[]", '{"rows": "9"}', "\xff"])
def test_R13_stage_whose_card_is_missing_or_torn_is_made_again(tmp_path, card):
    folder = Store(tmp_path).make(STAGE, Hit, lambda: HITS).folder
    (folder / "stage.json").unlink() if card is None else (folder / "stage.json").write_text(card, "latin-1")
    assert Store(tmp_path).find(STAGE, Hit) is None
    assert list(Store(tmp_path).make(STAGE, Hit, lambda: HITS[:2])) == HITS[:2]
    assert len(Store(tmp_path).find(STAGE, Hit)) == 2
