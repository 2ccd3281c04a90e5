"""Files by address: a local folder, file://, and S3 and Google's storage from real servers (emulators)."""

import os
import pickle
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from pyarrow import fs

from ragdist.config import CorpusConfig
from ragdist.data.sources import corpus, places
from ragdist.data.sources.files import Broken, json_lines
from ragdist.errors import ConfigError, DataError, StorageError
from ragdist.local import SerialMapper
from ragdist.storage.stages import CountedRows
from tests import documents

FILES = {
    "b/one.md": "# One\n\ntext",
    "b c/%20 \u00fc#?.txt": "strange name",
    "a.pdf": documents.pdf(["page one", "page two"]),
    "rows.jsonl": '{"text": "1"}\n{"text": "2"}\n',
    ".hidden/x.txt": "not read",
    "b/.x.txt": "not read",
}
IN_ORDER = ["a.pdf", "b/one.md", "b c/%20 \u00fc#?.txt", "rows.jsonl"]


def read(folder):
    config = CorpusConfig(source="folder", folder=str(folder))
    return list(corpus.read(places.files(config.folder), config, SerialMapper()))


@pytest.fixture(scope="module")
def bucket():
    """A bucket on a server of its own, and how to write into it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="papers")
        for name, content in FILES.items():
            body = content.encode() if isinstance(content, str) else content
            client.put_object(Bucket="papers", Key=f"docs/{name}", Body=body)
        client.put_object(Bucket="papers", Key="docs/empty/", Body=b"")
        places._filesystem.cache_clear()
        yield client
    places._filesystem.cache_clear()
    server.stop()


def test_local_files_come_in_the_order_of_their_parts_without_hidden_ones(tmp_path):
    documents.write(tmp_path, FILES)
    (tmp_path / "b" / "link.md").symlink_to(tmp_path / "b" / "one.md")
    (tmp_path / "zzz").symlink_to(tmp_path / "b")
    expected = ["a.pdf", "b/link.md", *IN_ORDER[1:]]
    assert [place.inside for place in places.files(str(tmp_path))] == expected
    assert [place.inside for place in places.files(f"file://{tmp_path}/")] == expected


def test_s3_folder_gives_the_documents_of_the_same_files_here(bucket, tmp_path):
    here = read(documents.write(tmp_path, FILES))
    assert [document.source for document in here] == [*IN_ORDER, "rows.jsonl"]
    assert read("s3://papers/docs") == here
    assert read("s3://papers/docs/") == here


@pytest.fixture
def google(monkeypatch):
    """Google's storage as the emulator plays it, in a process of its own: the address of its server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    server = subprocess.Popen([*command, "--in-memory", "--default-bucket=papers"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        places._filesystem.cache_clear()
        yield f"127.0.0.1:{port}"
    finally:
        places._filesystem.cache_clear()
        server.kill()
        server.wait()


def test_gs_folder_gives_the_documents_of_the_same_files_here(google, tmp_path):
    limit = timedelta(seconds=10)
    store = fs.GcsFileSystem(anonymous=True, scheme="http", endpoint_override=google, retry_time_limit=limit)
    files = {name: content for name, content in FILES.items() if "%" not in name}  # the emulator cannot keep it
    for name, content in files.items():
        with store.open_output_stream(f"papers/docs/{name}") as out:
            out.write(content.encode() if isinstance(content, str) else content)
    documents.write(tmp_path, files)
    here = [(document.text, document.pages) for document in read(tmp_path)]
    assert here and [(document.text, document.pages) for document in read("gs://papers/docs")] == here
    before = places.digest(places.files("gs://papers/docs"))
    with store.open_output_stream("papers/docs/b/one.md") as out:
        out.write(b"other text")
    assert places.digest(places.files("gs://papers/docs")) != before


def test_s3_place_pickles_and_opens_in_another_process(bucket):
    place = pickle.loads(pickle.dumps(places.files("s3://papers/docs")[1]))
    assert (place.address, place.inside) == ("s3://papers/docs/b/one.md", "b/one.md")
    with place.open() as file:
        assert (file.read(3), file.seek(2), file.read()) == (b"# O", 2, b"One\n\ntext")


@pytest.mark.parametrize("read", ["all", "lines"])
def test_s3_file_takes_few_requests(bucket, caplog, read):
    """Each request is waited for and paid: 4 MB are one request at once, and about one a megabyte in a stream."""
    bucket.put_object(Bucket="papers", Key="big.jsonl", Body=b'{"text": "%s"}\n' % (b"x" * 1011) * 4096)
    place = places.at("s3://papers/big.jsonl")
    caplog.clear()
    with caplog.at_level("INFO", logger="werkzeug"):
        length = len(place.read()) if read == "all" else sum(1024 for _ in json_lines(place, Broken("stop", [])))
    assert length == 4 << 20
    asked = [record for record in caplog.records if "GET /papers/big.jsonl" in record.getMessage()]
    assert 1 <= len(asked) <= (1 if read == "all" else 5)


def test_s3_question_file_is_streamed_line_by_line(bucket):
    import gzip

    bucket.put_object(Bucket="papers", Key="q.jsonl.gz", Body=gzip.compress(b'{"question": "a"}\n{"question": "b"}\n'))
    rows = list(json_lines(places.at("s3://papers/q.jsonl.gz"), Broken("stop", [])))
    assert rows[1] == ("s3://papers/q.jsonl.gz, line 2", {"question": "b"})


def test_s3_digest_changes_with_what_is_stored(bucket):
    def digest():
        return places.digest(places.files("s3://papers/changing"))

    bucket.put_object(Bucket="papers", Key="changing/a.txt", Body=b"one")
    first = digest()
    assert digest() == first
    bucket.put_object(Bucket="papers", Key="changing/a.txt", Body=b"one more")
    second = digest()
    bucket.put_object(Bucket="papers", Key="changing/b.txt", Body=b"")
    assert len({first, second, digest()}) == 3


def test_s3_errors_name_the_address(bucket):
    with pytest.raises(ConfigError, match=r"s3://papers/nowhere.*is not there"):
        places.files("s3://papers/nowhere")
    with pytest.raises(StorageError, match=r"s3://nobucket/docs.*bucket does not exist"):
        places.files("s3://nobucket/docs")
    with pytest.raises(ConfigError, match=r"s3://papers/none\.jsonl.*corpus\.questions"):
        places.digest([places.at("s3://papers/none.jsonl")])
    with pytest.raises(StorageError, match=r"s3://papers/gone\.txt cannot be read"):
        places.at("s3://papers/gone.txt").read()


def test_lost_file_in_object_storage_stops_also_where_broken_files_are_skipped(bucket):
    """The network's failures are no property of a file: documents must not go missing for them."""
    bucket.put_object(Bucket="papers", Key="lost/a.txt", Body=b"one")
    found = places.files("s3://papers/lost")
    bucket.delete_object(Bucket="papers", Key="lost/a.txt")
    config = CorpusConfig(source="folder", folder="s3://papers/lost", broken="skip")
    with pytest.raises(StorageError, match=r"lost/a\.txt"):
        list(corpus.read(found, config, SerialMapper()))


def test_digest_of_a_folder_depends_on_contents_and_paths_alone(tmp_path):
    one, two = documents.write(tmp_path / "1", FILES), documents.write(tmp_path / "2", FILES)
    (two / ".hidden" / "x.txt").write_text("other")
    first = places.digest(places.files(str(one)))
    assert places.digest(places.files(str(two))) == first
    (two / "b").rename(two / "bb")
    assert places.digest(places.files(str(two))) != first


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/docs", "s3://bucket"),
        ("s3://", "s3://bucket"),
        ("file://elsewhere/docs", "file:///path"),
        ("s3://key:secret@bucket/docs", "credentials"),
    ],
)
def test_address_that_cannot_be_read_is_one_clear_error_without_its_secret(address, said):
    with pytest.raises(ConfigError, match=said) as caught:
        places.files(address)
    assert "secret" not in str(caught.value)


def test_unreadable_folder_is_named(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if os.access(closed, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(ConfigError, match="closed cannot be read"):
        places.files(str(tmp_path))


def test_S7_a_link_out_of_the_folder_becomes_no_document_and_is_named(tmp_path):
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "key.md").write_text("secret")
    (tmp_path / "docs" / "a.md").write_text("first")
    (tmp_path / "docs" / "sub" / "again.md").symlink_to("../a.md")
    links = {
        "environ.txt": "/proc/self/environ",
        "key.md": "../key.md",
        "rows.jsonl": "../key.md",
        "twice.md": "key.md",
    }
    for name, target in links.items():
        (tmp_path / "docs" / name).symlink_to(target)
    found = places.files(str(tmp_path / "docs"))
    rows = CountedRows(corpus.read(found, CorpusConfig(source="folder", folder="x", broken="skip"), SerialMapper()))
    assert [document.text for document in rows] == ["first"]
    named = rows.counts["broken"]
    assert len(named) == 4 and all("outside its folder" in line for line in named)
    assert {line.partition(": ")[0].rpartition("/")[2] for line in named} == set(links)
    with pytest.raises(DataError, match=r"environ\.txt.*is a link to /proc/.*/environ, outside its folder"):
        list(corpus.read(found, CorpusConfig(source="folder", folder="x"), SerialMapper()))
    first = places.digest(found)
    (tmp_path / "key.md").write_text("another secret")
    assert places.digest(places.files(str(tmp_path / "docs"))) == first
