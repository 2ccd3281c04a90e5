"""Tables as lines: a row a line, a bar between two cells, each line complete in itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ragdist.data.matching import flat

WIDEST = 1000
"""Columns or rows that a cell can span, as in HTML."""


class Style(NamedTuple):
    """What stands between two cells, and between two rows."""

    cell: str
    row: str


ROWS = Style(" | ", "\n")
INSIDE = Style(", ", "; ")
"""Of a table inside a cell of another one."""


class TableCell(NamedTuple):
    """A cell's text on one line. Example: TableCell("Large", across=1, down=2)."""

    text: str
    across: int = 1
    down: int = 1
    """Rows that it spans; 0 is all that follow."""


def text(rows: Iterable[Sequence[TableCell]], style: Style = ROWS) -> str:
    """A line for each row that has any text.

    A cell that spans rows stands in each of them, one that spans columns in each of those, so that what stands under
    one another belongs together; one that is a whole row stands there once.
    """
    found, hanging = list[str](), dict[int, tuple[int, str]]()
    for row in rows:
        is_whole = len(row) == 1 and row[0].down == 1 and not hanging
        line = [row[0].text] if is_whole else _line(row, hanging)
        if any(line):
            found.append(flat(style.cell.join(line)))
    return style.row.join(found)


def _line(row: Sequence[TableCell], hanging: dict[int, tuple[int, str]]) -> list[str]:
    """The texts in each column; `hanging` has for each column in how many more rows a text stands, and which."""
    line, cells = list[str](), iter(row)
    cell = next(cells, None)
    while cell or len(line) in hanging:
        column = len(line)
        if column in hanging:
            left, text = hanging.pop(column)
            line.append(text)
            if left > 1:
                hanging[column] = left - 1, text
        elif cell:
            across, down = min(cell.across, WIDEST), min(cell.down or WIDEST, WIDEST)
            line += [cell.text] * across
            if down > 1:
                hanging |= dict.fromkeys(range(column, column + across), (down - 1, cell.text))
            cell = next(cells, None)
    return line
