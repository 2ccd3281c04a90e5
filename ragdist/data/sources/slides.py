"""Text of a pptx by python-pptx, slide by slide: titles are headings, slides are pages.

Not: hidden slides, speaker's notes, dates, footers, slide numbers, charts and text in pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from ragdist.data.sources import tables
from ragdist.data.sources.sections import BETWEEN, Marks, Text, TextBlock, joined, one_line, visible
from ragdist.data.sources.tables import TableCell
from ragdist.data.sources.unpacking import check_zip
from ragdist.errors import DataError


def pptx(data: bytes) -> Text:
    """The slides' texts with a blank line between, each with its title first. A DataError if it is no pptx, has a
    password, or unpacks to too much."""
    from pptx import Presentation
    from pptx.exc import PackageNotFoundError

    check_zip(data)
    try:
        slides = Presentation(io.BytesIO(data)).slides
    except (PackageNotFoundError, KeyError, ValueError) as error:
        raise DataError(f"is no pptx, or a torn one ({type(error).__name__})") from None
    marks, whole = Marks(), ""
    for number, slide in enumerate(slides, start=1):
        if slide._element.get("show") in ("0", "false"):
            continue
        title = slide.shapes.title
        heading = one_line(_paragraphs(title.text_frame)) if title is not None else ""
        others = (shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id)
        if text := joined([TextBlock(heading), *_blocks(others)]).text:
            whole += BETWEEN if whole else ""
            marks.page(len(whole), number)
            if heading:
                marks.heading(len(whole), 1, heading)
            whole += text
    return marks.on(whole)


def _blocks(shapes: Iterable[Any]) -> Iterator[TextBlock]:
    from pptx.enum.shapes import MSO_SHAPE_TYPE, PP_PLACEHOLDER

    unread = (PP_PLACEHOLDER.SLIDE_NUMBER, PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.FOOTER)
    for shape in shapes:
        if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
            yield from _blocks(shape.shapes)
        elif getattr(shape, "has_table", False):
            rows = ([_cell(cell) for cell in row.cells if not cell.is_spanned] for row in shape.table.rows)
            yield TextBlock(tables.text(rows))
        elif shape.has_text_frame and not (shape.is_placeholder and shape.placeholder_format.type in unread):
            yield from _paragraphs(shape.text_frame)


def _cell(cell: Any) -> TableCell:
    text = one_line(_paragraphs(cell.text_frame))
    return TableCell(text, cell.span_width, cell.span_height) if cell.is_merge_origin else TableCell(text)


def _paragraphs(frame: Any) -> Iterator[TextBlock]:
    """Each paragraph; those of one frame follow one another, as the points of a list."""
    for paragraph in frame.paragraphs:
        yield TextBlock(visible(paragraph.text.replace("\v", "\n")).strip(), tight=True)
