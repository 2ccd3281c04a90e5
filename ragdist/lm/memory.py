"""How this process asks the kernel for memory, and what it says when there is none left."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ragdist.errors import ConfigError, first_line

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST, SMALL = 2**31 - 1, 2**17
FULL = ("out of memory", "can't allocate memory", "not enough memory")
"""In torch's words, which has a class of its own for one of its ways to say so."""


def keep_freed_memory() -> None:
    """Lets glibc reuse large freed blocks instead of handing each back to the kernel and faulting it in again.

    Tensors on the CPU are such blocks: a forward pass of SmolLM2 was 14% faster with this, a training step 19%
    (two cores). Elsewhere than on glibc nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt:
            mallopt(M_MMAP_THRESHOLD, LARGEST)
            mallopt(M_TRIM_THRESHOLD, LARGEST)


def give_back_freed_memory() -> None:
    """Hands what is free to the kernel after all: a model that rests keeps no gigabytes of spent activations.

    `malloc_trim` leaves alone the end of what a thread has for itself; a block freed there by that thread does not.
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc.restype = ctypes.c_void_p
        libc.mallopt(M_TRIM_THRESHOLD, SMALL)
        libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(2 * SMALL))))
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
        libc.malloc_trim(ctypes.c_size_t(0))


@contextmanager
def enough(remedy: str) -> Iterator[None]:
    """Memory that runs out, of a GPU or of the machine, becomes one sentence.

    Args:
        remedy: what to set to need less, as an imperative.

    Raises:
        ConfigError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        said = first_line(error).partition(" Including non-PyTorch")[0]
        if not any(words in said for words in FULL):
            raise
        raise ConfigError(f"memory ran out: {said.rstrip('.')}; {remedy}, or end what else is at work there") from None
