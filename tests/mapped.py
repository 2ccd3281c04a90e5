"""Functions that tests map over records: importable, so that processes and Ray's workers find them by name."""

import os
import signal

from ragdist.errors import DataError


def scaled(item, factor):
    return item * factor, len(str(item))


def broken_at_seven(item):
    if item == 7:
        raise DataError("row 7 is broken; see corpus.broken")
    return item


def dies(item):
    os.kill(os.getpid(), signal.SIGKILL)
