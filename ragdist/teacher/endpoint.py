"""A teacher behind an OpenAI-compatible endpoint: many calls under way, each paid for once.

busy (429), failing (5xx), silent, cut off, garbage     tried again, `Retry-After` honoured
too long, filtered (400, 413, 422)                      a reply without text, remembered
wrong key, address or model (3xx, 401, 403, 404)        TeacherError, at once
budget spent, SIGINT, SIGTERM                           Stopped; no call begins, those under way are awaited and kept
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from ragdist.config import TeacherConfig
from ragdist.config.block import digest
from ragdist.draws import draw
from ragdist.errors import RagdistError, Stopped, TeacherError
from ragdist.records import Reply, Request
from ragdist.teacher import completions
from ragdist.teacher.completions import Again
from ragdist.teacher.reply_cache import STOPPED, ReplyCache, key_of
from ragdist.tracking.progress import Bar, say

if TYPE_CHECKING:
    from tenacity import RetryCallState

SHOWN = 300
"""Characters of an endpoint's message that are shown."""
LONG_KEY = 16
"""Characters of a key that no reply holds by chance."""
AHEAD = 10_000
"""Replies that may wait for an earlier one; they wait on disk."""
LARGEST = 16 << 20
"""Bytes of a body, unpacked: a reply of a million tokens has a quarter of them."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0


class Pending(NamedTuple):
    """A request that a reply is owed to."""

    key: str
    call: Future[None]
    """Done when the reply is in the cache."""


@dataclass(slots=True)
class Asking:
    """One stream of requests, as its calls see it."""

    stop: threading.Event
    failure: BaseException | None = None
    """Of the first call that failed."""
    ended: bool = False
    """Whoever asked has gone."""

    def check(self) -> None:
        """Passes as long as another call may begin."""
        if self.failure:
            raise self.failure
        if self.stop.is_set() or self.ended:
            raise Stopped(STOPPED)

    async def sleep(self, seconds: float) -> None:
        """Waits, not longer than another call may begin."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            await asyncio.sleep(min(left, 0.1))


class Endpoint:
    """Implements Teacher on an endpoint.

    Args:
        config: address, model, budgets.
        folder: keeps the ledger, `teacher-FINGERPRINT.jsonl`.
    """

    def __init__(self, config: TeacherConfig, folder: Path) -> None:
        self.config = config
        self.fingerprint = digest(["endpoint", config.url.rstrip("/"), config.model])
        self.cache = ReplyCache(folder / f"teacher-{self.fingerprint}.jsonl", config)
        self._room = threading.Semaphore(2 * config.in_flight)  # for calls under way, and as many that come next
        self._slots: asyncio.Semaphore
        self._calls: dict[str, Future[None]] = {}
        self._left_out: set[str] = set()
        self._tried_again = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None

    def ask(self, requests: Iterable[Request], *, what: str) -> Iterator[Reply]:
        """See `roles.Teacher`. At most `teacher.in_flight` calls are under way, over all that is asked at once."""
        with self.cache.held() as stop, Bar(what, unit="replies") as bar:
            asking, owed = Asking(stop), deque[Pending]()
            try:
                for request in requests:
                    owed.append(self._begin(request, asking))
                    while owed and (owed[0].call.done() or len(owed) > AHEAD):
                        yield self._reply(owed.popleft(), bar)
                while owed:
                    yield self._reply(owed.popleft(), bar)
                asking.check()
            except KeyboardInterrupt:
                for pending in owed:
                    pending.call.cancel()
                raise
            finally:
                asking.ended = True
                wait([pending.call for pending in owed])

    def close(self) -> None:
        """Closes the connections; asked again, it opens them again."""
        if self._loop:
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = self._client = None

    def _begin(self, request: Request, asking: Asking) -> Pending:
        key = key_of(request, self.fingerprint)
        call = self._calls.get(key)
        if call is None and key in self.cache:
            call = Future()
            call.set_result(None)
        if call is None:
            asking.check()
            loop = self._open()
            self._room.acquire()
            call = self._calls[key] = asyncio.run_coroutine_threadsafe(self._call(request, key, asking), loop)
            call.add_done_callback(partial(self._done, key, asking))
        return Pending(key, call)

    def _done(self, key: str, asking: Asking, call: Future[None]) -> None:
        if not call.cancelled():
            asking.failure = asking.failure or call.exception()
        del self._calls[key]
        self._room.release()

    def _reply(self, pending: Pending, bar: Bar) -> Reply:
        pending.call.result()
        again = f", {self._tried_again} calls tried again" if self._tried_again else ""
        bar.advance(1, note=self.cache.note + again)
        return self.cache.reply(pending.key)

    # In the thread of the loop.

    def _open(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient

            address = urlsplit(self.config.url)
            self._client = AsyncOpenAI(
                base_url=address._replace(query="").geturl(),
                default_query=dict(parse_qsl(address.query)),
                http_client=DefaultAsyncHttpxClient(
                    follow_redirects=False,  # prompts go where they are sent
                    event_hooks={"response": [_bound]},
                ),
                api_key=self._key or "none",
                timeout=self.config.deadline_s,
                max_retries=0,  # it would wait at most 60 s, whatever Retry-After says, and pays again after a restart
            )
            self._slots = asyncio.Semaphore(self.config.in_flight)
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_run, args=(self._loop,), name="teacher", daemon=True).start()
        return self._loop

    async def _call(self, request: Request, key: str, asking: Asking) -> None:
        async with self._slots:
            try:
                await self._pay(request, key, asking)
            except RagdistError as error:
                asking.failure = asking.failure or error  # before the next call has the slot
                raise
        await asyncio.to_thread(self.cache.sync)

    async def _pay(self, request: Request, key: str, asking: Asking) -> None:
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        attempts = AsyncRetrying(
            retry=retry_if_exception_type(Again),
            stop=stop_after_attempt(self.config.attempts),
            wait=partial(self._pause, key),
            sleep=asking.sleep,
            reraise=True,
        )
        try:
            reply: Reply = await attempts(self._try, request, key, asking)
        except Again as error:
            raise TeacherError(
                f"{self.config.url} failed {self.config.attempts} times on {request.id!r}, at last by {error}; "
                "replies so far are kept: try the same command later, or change teacher.attempts, teacher.in_flight"
            ) from None
        self.cache.add(key, reply)
        if self._budgeted and not (reply.read + reply.written or reply.failed):
            raise TeacherError(
                f"{self.config.url} does not say how many tokens a reply costs, so no budget can be held; "
                "set teacher.budget_tokens=0 and teacher.budget_usd=0 to go on without"
            )

    async def _try(self, request: Request, key: str, asking: Asking) -> Reply:
        while True:
            asking.check()
            self.cache.check()
            try:
                reply = completions.parse(request, await self._post(request, key), self._shown)
                return replace(reply, text=self._masked(reply.text)) if len(self._key) >= LONG_KEY else reply
            except completions.NotTaken as error:
                if str(error) not in self._left_out:
                    self._left_out.add(str(error))
                    say(f"{self.config.model} does not take {error}; it is asked without")
            except completions.Refused as error:
                if not error.certain and not self.cache.answered:  # as likely to be wrong for every request
                    raise TeacherError(f"{error}; check teacher.url, teacher.model and the prompts") from None
                return Reply(id=request.id, text="", ended=True, read=0, written=0, failed=str(error))

    async def _post(self, request: Request, key: str) -> object:
        from openai import APIConnectionError, APIStatusError

        asked = completions.options(request, self._left_out)
        system = [{"role": "system", "content": request.system}] if request.system else []
        body = {"messages": [*system, {"role": "user", "content": request.text}], **asked}
        body |= {"model": self.config.model} if self.config.model else {}
        options = {"headers": {"Idempotency-Key": key}}  # a gateway that heeds it does not charge twice either
        try:
            async with asyncio.timeout(self.config.deadline_s):
                return await self._client.post("/chat/completions", cast_to=object, body=body, options=options)
        except TimeoutError:
            raise Again(f"no reply within teacher.deadline_s={self.config.deadline_s:g}") from None
        except (ValueError, RecursionError) as error:  # JSON is promised, and does not come
            raise Again(self._shown(str(error))) from None
        except APIConnectionError as error:
            raise Again(self._shown(f"{error} ({error.__cause__})")) from None
        except APIStatusError as error:
            status, headers, said = error.status_code, error.response.headers, error.response.text
            raise completions.judge(status, headers, said, asked, self.config, self._shown) from None

    def _shown(self, said: str) -> str:
        """The beginning of what an endpoint says; it may repeat the key, as it is or as one of the ways to quote it."""
        return self._masked(said)[:SHOWN]

    def _masked(self, said: str) -> str:
        key = self._key
        for form in {key, repr(key)[1:-1], repr(key.encode())[2:-1], json.dumps(key)[1:-1], quote(key, safe="")} - {""}:
            said = said.replace(form, "***")
        return said

    def _pause(self, key: str, state: RetryCallState) -> float:
        """Seconds until the next try: what the endpoint asked for, else twice the last, less a share drawn by key."""
        self._tried_again += 1
        error = state.outcome.exception() if state.outcome else None
        lucky = draw(0, "pause", f"{key}\x1f{state.attempt_number}")
        if isinstance(error, Again) and error.after_s is not None:
            return error.after_s + lucky * FIRST_PAUSE_S
        return min(FIRST_PAUSE_S * 2.0 ** (state.attempt_number - 1), LONGEST_PAUSE_S) * (1 - lucky / 2)

    @property
    def _budgeted(self) -> bool:
        return bool(self.config.budget_tokens or self.config.budget_usd)

    @property
    def _key(self) -> str:
        return os.environ.get(self.config.key_variable, "").strip()


async def _bound(response: Any) -> None:
    """Has the reading of a body end, in an Again, where it unpacks to more than LARGEST. httpx unpacks by the piece."""
    pieces = response.aiter_bytes

    async def bounded() -> AsyncIterator[bytes]:
        size = 0
        async for piece in pieces():
            size += len(piece)
            if size > LARGEST:
                raise Again(f"a body that unpacks to more than {LARGEST >> 20} MiB")
            yield piece

    response.aiter_bytes = bounded


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
