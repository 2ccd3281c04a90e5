"""epub, odt and rtf by pandoc, which makes pages of them that are read as all pages are (`markup.html`).

Pandoc runs as a process of its own, in its sandbox (it opens no file and no address), with an end to its memory and
time: a hostile file costs itself.
"""

from __future__ import annotations

import subprocess
from functools import cache, partial

from ragdist.data.matching import flat
from ragdist.data.sources.markup import html
from ragdist.data.sources.sections import Text
from ragdist.data.sources.unpacking import check_zip
from ragdist.errors import DataError

FORMATS = ("epub", "odt", "rtf")
MEMORY, SECONDS = "2G", 120
"""Most that pandoc may take for one file."""
LARGEST = 256 << 20
"""Bytes of a page that is made of one."""


def read(data: bytes, *, form: str) -> Text:
    """What a reader sees of the document, with its headings.

    Raises:
        DataError: pandoc cannot read it, or takes more than it may.
    """
    if form != "rtf":
        check_zip(data)
    command = [
        pandoc(),
        "+RTS",
        f"-M{MEMORY}",
        "-RTS",
        f"--from={form}",
        "--to=html",
        "--sandbox",
        "--wrap=none",
        "--mathml",
    ]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise DataError(f"is not read in {SECONDS} s; split it, or save it as another format") from None
    if done.returncode:
        why = flat(done.stderr.decode(errors="replace"))[:200] or f"pandoc ended with {done.returncode}"
        raise DataError(f"cannot be read as {form} ({why})")
    if len(done.stdout) > LARGEST:
        raise DataError(f"becomes a page of {len(done.stdout) >> 20} MiB, more than {LARGEST >> 20}; split it")
    return html(b'<meta charset="utf-8">' + done.stdout)


@cache
def pandoc() -> str:
    """Path of the program that the package pypandoc_binary carries, or of the machine's own that it finds."""
    try:
        import pypandoc

        return str(pypandoc.get_pandoc_path())
    except (ImportError, OSError):
        raise DataError("is read by pandoc, which is not installed: pip install 'ragdist[formats]'") from None


PARSERS = {f".{form}": partial(read, form=form) for form in FORMATS}
