"""Several writers of this process at work at once, each in a thread of its own.

torch lets go of Python's lock inside its operations, so two models keep two cores busy. `torch.set_num_threads` counts
for the thread that calls it and for every thread that first uses torch later; threads that are there keep what they
have (torch 2.13, OpenMP). So each writer's thread takes its share of the caller's before each microbatch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any

import torch

from ragdist.lm.memory import give_back_freed_memory
from ragdist.records import Prompt, Written
from ragdist.roles import Writer

Stream = Iterator[list[Written]]


class ConcurrentWriters:
    """Implements Writer with several: each prompt goes to the one that its `model` names, and they write at once.

    Texts are those of the writers used one after the other.

    Args:
        writers: none shares a module with another, see `lm.shared`.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        self.writers = writers

    def write(self, prompts: Sequence[Prompt], **how: Any) -> Stream:
        """The microbatches of all writers, as they are finished.

        No writer is more than one microbatch ahead of what was taken. An error in a thread arrives as itself; then, and
        when the caller stops early, the others end with the microbatch that they are in.
        """
        parts: list[list[Prompt]] = [[] for _ in self.writers]
        for prompt in prompts:
            parts[prompt.model].append(prompt)
        return _at_once([writer.write(part, **how) for writer, part in zip(self.writers, parts, strict=True) if part])


def _at_once(streams: Sequence[Stream]) -> Stream:
    cores = torch.get_num_threads()
    under_way: dict[Future[list[Written] | None], tuple[ThreadPoolExecutor, Stream]] = {}
    with ExitStack() as ending:
        ending.callback(torch.set_num_threads, cores)  # of threads to come; after all of ours have ended
        threads = [ending.enter_context(ThreadPoolExecutor(1, "writer")) for _ in streams]
        for thread, stream in zip(threads, streams, strict=True):
            under_way[thread.submit(_next, stream, max(1, cores // len(streams)))] = thread, stream
        while under_way:
            finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in sorted(
                finished, key=lambda done: done.exception() is not None
            ):  # what is written comes first
                thread, stream = under_way.pop(future)
                batch = future.result()
                if batch is not None:
                    under_way[thread.submit(_next, stream, max(1, cores // (len(under_way) + 1)))] = thread, stream
                    yield batch
                else:
                    thread.submit(give_back_freed_memory)


def _next(stream: Stream, cores: int) -> list[Written] | None:
    """The next microbatch of a stream, None at its end."""
    torch.set_num_threads(cores)
    return next(stream, None)
