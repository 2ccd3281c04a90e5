"""What an Arrow stream says of itself, before anything of it is unpacked."""

from contextlib import nullcontext

import pyarrow as pa
import pytest

from ragdist.data.sources.unpacking import check_arrow


def stream(path, packing, column):
    """An Arrow stream of two batches."""
    table = pa.table({"question": column, "answer": ["x"] * len(column)})
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as sink:
        sink.write_table(table)
        sink.write_table(table)


COLUMNS = {
    "texts": ["a" * 1000] * 9,
    "dictionary": pa.array(["a" * 1000, "b" * 1000] * 9).dictionary_encode(),
    "lists": [["a" * 1000], []],
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("packing", ["zstd", "lz4", None])
def test_R8_a_packed_arrow_table_is_refused_before_it_is_unpacked(tmp_path, packing, column):
    stream(tmp_path / "a.arrow", packing, COLUMNS[column])
    with pytest.raises(ValueError, match="packed table") if packing else nullcontext():
        check_arrow(tmp_path / "a.arrow")


@pytest.mark.parametrize("cut", range(0, 900, 100))
def test_R8_what_is_no_arrow_stream_is_left_to_its_reader(tmp_path, cut):
    stream(tmp_path / "a.arrow", None, COLUMNS["texts"])
    whole = (tmp_path / "a.arrow").read_bytes()
    for content in (whole[:cut], whole[cut + 1 :], b'{"a": 1}' * cut, b"\0" * cut, b"\xff" * cut):
        (tmp_path / "a.arrow").write_bytes(content)
        check_arrow(tmp_path / "a.arrow")
