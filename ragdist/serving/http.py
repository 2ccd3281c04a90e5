"""A run over HTTP, as OpenAI's clients speak to a model.

    POST /v1/chat/completions   messages, of which the last user's is the question; `documents` may come along
    GET  /v1/models             the run's name
    GET  /health                200 while it can answer; no token
    GET  /metrics               for Prometheus

An answer has a field `ragdist` beside OpenAI's: the final answer, the documents, how sure, and how many messages before
the question were not shown: a run is trained on single questions under its own system message.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect

from ragdist.config import ServeConfig
from ragdist.errors import DataError, RagdistError
from ragdist.roles import Heard
from ragdist.serving import wire
from ragdist.serving.service import Answer, Pending, Query, Service
from ragdist.serving.wire import Refused

log = logging.getLogger("ragdist")


class Gauges:
    """What Prometheus is told."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        how: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("ragdist_requests", "Requests for an answer, by HTTP status", ["status"], **how)
        self.seconds = Histogram("ragdist_answer_seconds", "Time to an answer", **how)
        self.tokens = Counter("ragdist_tokens", "Tokens of prompts, and of texts that were written", ["kind"], **how)
        for at, what in enumerate(("under way", "waiting")):
            gauge = Gauge(f"ragdist_texts_{what.replace(' ', '_')}", f"Texts that are {what}", **how)
            gauge.set_function(lambda at=at: service.load[at])  # type: ignore[misc]

    def answered(self, answer: Answer, seconds: float) -> None:
        """Counts an answer."""
        self.seconds.observe(seconds)
        self.tokens.labels("prompt").inc(answer.prompt_tokens)
        self.tokens.labels("written").inc(answer.new_tokens)


class Desk:
    """Takes requests, bounds them and has them answered.

    Args:
        service: who answers.
        name: the model's, to clients.
        most_tokens: that a request may ask for.
        config: the bounds.
    """

    def __init__(self, service: Service, name: str, most_tokens: int, config: ServeConfig) -> None:
        self.service, self.name, self.most_tokens, self.config = service, name, most_tokens, config
        self.gauges = Gauges(service)
        self.open = 0
        self.threads = ThreadPoolExecutor(2, "prompts")

    async def completions(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        try:
            asked = wire.parsed(await self._body(request))
            query = asked.query(self.name, self.most_tokens)
            before = len(asked.messages) - 1
            if self.open >= self.config.concurrent + self.config.waiting:
                raise Refused(503, f"as many requests as may are being answered or wait: {self.open}; try again")
        except Refused as refused:
            return self._refusal(refused)
        try:
            if asked.stream:
                usage = bool(asked.stream_options and asked.stream_options.include_usage)
                return await self._stream(query, before, usage)
            answer = await self._answer(request, query)
        except Refused as refused:
            return self._refusal(refused)
        self.gauges.requests.labels(200).inc()
        return JSONResponse(wire.whole(self.name, answer, before))

    async def _answer(self, request: Request, query: Query) -> Answer:
        """The answer, unless its time is up or nobody waits for it any more."""
        began = time.monotonic()
        pending = await self._begun(query)
        waiting = asyncio.ensure_future(asyncio.wrap_future(pending.work))
        left = asyncio.ensure_future(_gone(request))
        await asyncio.wait({waiting, left}, timeout=self._left(began), return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if not waiting.done():
            waiting.cancel()
            raise Refused(
                504, f"no answer within {self.config.timeout_s:g} s; ask for fewer tokens, or raise serve.timeout_s"
            )
        answer = self._finished(pending)
        self.gauges.answered(answer, time.monotonic() - began)
        return answer

    async def _begun(self, query: Query, heard: Heard | None = None) -> Pending[Answer]:
        """The answer, under way; one of the open ones until its text is done, whoever waits for it."""
        loop = asyncio.get_running_loop()
        self.open += 1
        try:
            pending = await loop.run_in_executor(self.threads, partial(self.service.ask, query, heard))
        except BaseException as error:
            self.open -= 1
            raise _as_refusal(error) from None
        pending.work.add_done_callback(lambda _: _call(loop, self._leave))
        return pending

    def _left(self, began: float) -> float:
        """Seconds that an answer may still take."""
        return max(0.0, self.config.timeout_s - (time.monotonic() - began))

    def _leave(self) -> None:
        self.open -= 1

    def _finished(self, pending: Pending[Answer]) -> Answer:
        try:
            return pending.result(0)
        except Exception as error:
            raise _as_refusal(error) from None

    async def _stream(self, query: Query, before: int, usage: bool) -> Response:
        """The answer as it is written, as server-sent events."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        began = time.monotonic()

        def put(piece: str | None) -> None:
            _call(loop, pieces.put_nowait, piece)

        pending = await self._begun(query, put)
        pending.work.add_done_callback(lambda _: put(None))

        async def events() -> AsyncIterator[str]:
            head = wire.head(self.name, "chat.completion.chunk")
            try:
                yield wire.event(head | wire.piece({"role": "assistant", "content": ""}))
                async with asyncio.timeout(self._left(began)):
                    while (new := await pieces.get()) is not None:
                        yield wire.event(head | wire.piece({"content": new}))
                answer = self._finished(pending)
                self.gauges.answered(answer, time.monotonic() - began)
                self.gauges.requests.labels(200).inc()
                last, told = wire.end(answer, before)
                yield wire.event(head | last)
                if usage:
                    yield wire.event(head | told)
                yield "data: [DONE]\n\n"
            except TimeoutError:
                yield wire.event(wire.error(Refused(504, f"no answer within {self.config.timeout_s:g} s")))
                self.gauges.requests.labels(504).inc()
            except Refused as refused:
                yield wire.event(wire.error(refused))
                self.gauges.requests.labels(refused.status).inc()
            finally:
                pending.cancel()

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _body(self, request: Request) -> bytes:
        """The body, as far as it may go."""
        most, body = 1024 * self.config.max_request_kib, bytearray()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_s), _unless_left():
                async for piece in request.stream():
                    body += piece
                    if len(body) > most:
                        kib = self.config.max_request_kib
                        raise Refused(413, f"the body is larger than {kib} KiB (serve.max_request_kib)")
                return bytes(body)
        raise Refused(408, f"the body did not come within {self.config.timeout_s:g} s (serve.timeout_s)")

    def _refusal(self, refused: Refused) -> Response:
        self.gauges.requests.labels(refused.status).inc()
        return refusal(refused)


def application(service: Service, name: str, most_tokens: int, config: ServeConfig, token: str) -> FastAPI:
    """The HTTP application.

    Args:
        service: who answers.
        name: the model's, to clients.
        most_tokens: that a request may ask for.
        config: the bounds.
        token: that requests carry, as `Authorization: Bearer TOKEN`.
    """
    desk = Desk(service, name, most_tokens, config)
    about = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "ragdist"}

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.threads.shutdown(wait=False)

    app = FastAPI(title="ragdist", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)

    @app.middleware("http")
    async def known(request: Request, go_on: Any) -> Response:
        """Lets nobody in without the token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if request.url.path != "/health" and not hmac.compare_digest(given, token.encode()):
            return refusal(Refused(401, "no or another token; send `Authorization: Bearer TOKEN`"))
        answer: Response = await go_on(request)
        return answer

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": name}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{wanted:path}")
    async def model(wanted: str) -> Response:
        if wanted != name:
            return refusal(Refused(404, f"no model {wanted!r} is served here; this is {name!r}", "model"))
        return JSONResponse(about)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(desk.gauges.registry), media_type="text/plain; version=0.0.4")

    app.post("/v1/chat/completions", response_model=None)(desk.completions)
    app.exception_handler(404)(partial(_no_such, 404, "no such address"))
    app.exception_handler(405)(partial(_no_such, 405, "not by this method"))
    return app


def _as_refusal(error: BaseException) -> BaseException:
    """What a client is told of an error; what ends the server stays as it is."""
    if isinstance(error, DataError):
        return Refused(400, str(error), "messages")
    if isinstance(error, RagdistError):
        return Refused(500, str(error))
    if not isinstance(error, Exception):
        return error
    log.error("no answer", exc_info=error)
    return Refused(500, f"{type(error).__name__} in the model; the service's log says more")


def _call(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *about: object) -> None:
    """Calls it in the loop, unless that has ended: then nobody waits for it."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what, *about)


async def _no_such(status: int, why: str, request: Request, _: Exception) -> Response:
    there = "there are POST /v1/chat/completions, GET /v1/models, /health and /metrics"
    text = f"{why}: {request.method} {request.url.path}; {there}"
    return refusal(Refused(status, text))


@asynccontextmanager
async def _unless_left() -> AsyncIterator[None]:
    try:
        yield
    except ClientDisconnect:
        raise Refused(499, "the client left before its request was whole") from None


async def _gone(request: Request) -> None:
    """Returns when nobody waits for the answer any more."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)


def refusal(refused: Refused) -> JSONResponse:
    """A refusal as OpenAI words it."""
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    headers |= {"Retry-After": "1"} if refused.status == 503 else {}
    return JSONResponse(wire.error(refused), refused.status, headers)
