"""Data sets that Hugging Face's `datasets` saved to disk, read by that library: Arrow tables, nothing is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ragdist.data.sources.places import FileAddress
from ragdist.data.sources.unpacking import check_arrow

WHOLE, SPLITS = "state.json", "dataset_dict.json"
"""Files that tell such a folder: of one table, and of one for each split."""
TESTS = frozenset({"test", "validation", "dev", "eval"})


def rows(place: FileAddress) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, with their split where both kinds are there. A
    ValueError if it is no such folder, or cannot be read."""
    folder = Path(place.address)
    if not any((folder / name).is_file() for name in (WHOLE, SPLITS)):
        raise ValueError(
            "is a folder, and none that `save_to_disk` wrote; name its files, or set corpus.folder for documents"
        )
    for path in filter(Path.is_file, folder.rglob("*")):
        check_arrow(path)
    from datasets import load_from_disk

    found = load_from_disk(str(folder))
    tables = dict(found) if isinstance(found, Mapping) else {"": found}
    told = "train" in tables and not TESTS.isdisjoint(tables)
    for split, table in tables.items():
        own = {"split": split} if told and split in TESTS | {"train"} else {}
        number = 0
        for batch in table.with_format("arrow").iter(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{place.address}{f', {split}' * bool(split)}, row {number}", {**own, **row}
