"""Excel workbooks by openpyxl, row by row: values as they were last computed, no formula or macro is run."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from itertools import islice
from typing import Any

from ragdist.data.sources import values
from ragdist.data.sources.places import FileAddress
from ragdist.data.sources.unpacking import check_zip

SUFFIXES = (".xlsx", ".xlsm", ".xls")
COLUMNS = 1000


def rows(place: FileAddress, *, every: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the first sheet that has any below its first, or of every sheet, each by the names in its own first
    row; raises as `tables`."""
    for name, lines in tables(place.read()):
        names, number = header(next(lines, (0, []))[1]), 0
        for number, cells in lines:
            named = zip(names, cells, strict=False)
            yield f"{place.address}, sheet {name!r}, row {number}", {key: cell for key, cell in named if key}
        if number and not every:
            return


def header(cells: Iterable[Any]) -> list[str]:
    """The names of a table's columns, none twice: a second `answer` is `answer 2`."""
    names: list[str] = []
    for cell in cells:
        name = plain = "" if cell is None else str(cell).strip()
        count = 1
        while name and name in names:
            name = f"{plain} {(count := count + 1)}"
        names.append(name)
    return names


def tables(data: bytes) -> Iterator[tuple[str, Iterator[tuple[int, list[Any]]]]]:
    """Each sheet's name and its rows that are not empty, with their numbers; cells beyond COLUMNS are not read. A
    DataError if it is no workbook, or one that unpacks to too much."""
    from openpyxl import load_workbook

    check_zip(data)
    book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    try:
        for sheet in book.worksheets:
            yield sheet.title, _lines(sheet)
    finally:
        book.close()


def _lines(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    for number, row in enumerate(sheet.iter_rows(values_only=True, max_col=COLUMNS), start=1):
        cells = [_value(cell) for cell in islice(row, COLUMNS)]
        if any(cell is not None for cell in cells):
            yield number, cells


def _value(cell: Any) -> Any:
    """Text as `values.cell` reads it; days and times as ISO 8601 writes them."""
    if isinstance(cell, datetime) and cell.time() == time():
        cell = cell.date()
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    return values.cell(cell) if isinstance(cell, str) else cell
