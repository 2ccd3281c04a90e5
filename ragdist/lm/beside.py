"""Several writers of this process at work at once, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

import torch

from ragdist.records import Prompt, Written
from ragdist.roles import Writer


class SideBySide:
    """Plays Writer with several: each prompt goes to the one that `route` names, and they write at once.

    torch lets go of Python's lock inside its operations, so two models use two cores. Texts are those of the writers
    used one after the other.

    Args:
        writers: none shares a module with another, see `lm.shared`.
        route: the index of the writer of a prompt.
    """

    def __init__(self, writers: Sequence[Writer], route: Callable[[Prompt], int]) -> None:
        self.writers, self.route = writers, route

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[Written]]:
        """Microbatches of all writers, as they are finished.

        A writer is at most one microbatch ahead of what was taken. An error in a thread arrives as itself; then, and
        when the caller stops early, each of the others ends with the microbatch that it is in.
        """
        parts: list[list[Prompt]] = [[] for _ in self.writers]
        for prompt in prompts:
            parts[self.route(prompt)].append(prompt)
        streams = [
            writer.write(
                part, max_new_tokens=max_new_tokens, samples=samples, temperature=temperature, top_p=top_p, seed=seed
            )
            for writer, part in zip(self.writers, parts, strict=True)
            if part
        ]
        return at_once(streams)


def at_once(streams: Sequence[Iterator[list[Written]]]) -> Iterator[list[Written]]:
    cores = torch.get_num_threads()
    share = max(1, cores // max(1, len(streams)))
    with ExitStack() as threads:
        under_way: dict[Future[list[Written] | None], tuple[ThreadPoolExecutor, Iterator[list[Written]]]] = {}
        for stream in streams:
            thread = ThreadPoolExecutor(1, "writer", torch.set_num_threads, (share,))
            threads.enter_context(thread)
            under_way[thread.submit(next, stream, None)] = thread, stream
        while under_way:
            finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in finished:
                thread, stream = under_way.pop(future)
                batch = future.result()
                if batch is not None:
                    under_way[thread.submit(next, stream, None)] = thread, stream
                    yield batch
