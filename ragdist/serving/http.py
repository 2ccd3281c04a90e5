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
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ragdist.config import ServeConfig
from ragdist.errors import DataError, RagdistError
from ragdist.serving.service import Answer, Pending, Query, Service, Shown, checked

log = logging.getLogger("ragdist")
LONGEST_HISTORY = 256
"""Messages of a request at most."""
MOST_DOCUMENTS = 256
"""Documents of a request at most."""


class Refused(Exception):
    """A request that gets no answer, and why."""

    def __init__(self, status: int, message: str, param: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class Part(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = Field(min_length=1)

    @property
    def text(self) -> str:
        """The whole content."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class GivenDocument(BaseModel):
    """A document that comes with a question."""

    model_config = ConfigDict(extra="forbid")

    text: str
    title: str = ""


class StreamOptions(BaseModel):
    """Of a stream."""

    include_usage: bool = False


class Asked(BaseModel):
    """The body of a request; a field that would change nothing is refused, but for names of people and things."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Message] = Field(min_length=1, max_length=LONGEST_HISTORY)
    model: str = ""
    documents: list[GivenDocument | str] | None = Field(None, max_length=MOST_DOCUMENTS)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None

    def query(self, name: str, most: int) -> Query:
        """The question that is asked.

        Raises:
            Refused: another model is named, or there is no question.
        """
        if self.model not in ("", name):
            raise Refused(404, f"no model {self.model!r} is served here; this is {name!r}", "model")
        if self.messages[-1].role != "user":
            raise Refused(400, "the last message must be the user's: it is the question", "messages")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        try:
            return Query(
                question=checked(self.messages[-1].text, "the question"),
                documents=None if self.documents is None else tuple(map(_shown, self.documents)),
                max_new_tokens=min(self.max_completion_tokens or self.max_tokens or 0, most),
                temperature=self.temperature or 0.0,
                top_p=self.top_p or 1.0,
                seed=self.seed if self.seed is not None else uuid.uuid4().int % 2**31,
                stop=tuple(one for one in stop if one),
            )
        except DataError as error:
            raise Refused(400, str(error), "messages") from None


def _shown(document: GivenDocument | str) -> Shown:
    if isinstance(document, str):
        return Shown("", checked(document, "a document"))
    return Shown(
        checked(document.title, "a document's title") if document.title else "", checked(document.text, "a document")
    )


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
            if self.open >= self.config.concurrent + self.config.waiting:
                raise Refused(503, f"{self.open} requests are being answered or wait; try again later")
            asked = _parsed(await self._body(request))
            query = asked.query(self.name, self.most_tokens)
        except Refused as refused:
            return self._refusal(refused)
        self.open += 1
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return await self._stream(query, usage)
        try:
            answer = await self._answer(request, query)
        except Refused as refused:
            return self._refusal(refused)
        finally:
            self.open -= 1
        self.gauges.requests.labels(200).inc()
        return JSONResponse(
            _head(self.name, "chat.completion") | _choice(answer, answer.text, "message") | _extra(answer)
        )

    async def _answer(self, request: Request, query: Query) -> Answer:
        """The answer, unless its time is up or nobody waits for it any more."""
        began = time.monotonic()
        pending = await self._begun(query)
        waiting = asyncio.ensure_future(asyncio.wrap_future(pending.work))
        left = asyncio.ensure_future(_gone(request))
        await asyncio.wait({waiting, left}, timeout=self.config.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if not waiting.done():
            waiting.cancel()
            raise Refused(
                504, f"no answer within {self.config.timeout_s:g} s; ask for fewer tokens, or raise serve.timeout_s"
            )
        answer = self._finished(pending)
        self.gauges.answered(answer, time.monotonic() - began)
        return answer

    async def _begun(self, query: Query, heard: Any = None) -> Pending[Answer]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.threads, partial(self.service.ask, query, heard))
        except DataError as error:
            raise Refused(400, str(error), "messages") from None

    def _finished(self, pending: Pending[Answer]) -> Answer:
        try:
            return pending.result(0)
        except RagdistError as error:
            raise Refused(500, str(error)) from None
        except Exception as error:
            log.error("no answer", exc_info=error)
            raise Refused(500, f"{type(error).__name__} in the model; the service's log says more") from None

    async def _stream(self, query: Query, usage: bool) -> Response:
        """The answer as it is written, as server-sent events."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        began = time.monotonic()

        def put(piece: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        try:
            pending = await self._begun(query, put)
        except Refused as refused:
            self.open -= 1
            return self._refusal(refused)
        pending.work.add_done_callback(lambda _: put(None))

        async def events() -> AsyncIterator[str]:
            head = _head(self.name, "chat.completion.chunk")
            try:
                yield _event(head | _delta({"role": "assistant", "content": ""}))
                async with asyncio.timeout(self.config.timeout_s):
                    while (piece := await pieces.get()) is not None:
                        yield _event(head | _delta({"content": piece}))
                answer = self._finished(pending)
                self.gauges.answered(answer, time.monotonic() - began)
                self.gauges.requests.labels(200).inc()
                last = _delta({}, "stop" if answer.ended else "length") | _extra(answer)
                told = last.pop("usage")
                yield _event(head | last)
                if usage:
                    yield _event(head | {"choices": [], "usage": told})
                yield "data: [DONE]\n\n"
            except TimeoutError:
                yield _event(_error(Refused(504, f"no answer within {self.config.timeout_s:g} s")))
                self.gauges.requests.labels(504).inc()
            except Refused as refused:
                yield _event(_error(refused))
                self.gauges.requests.labels(refused.status).inc()
            finally:
                pending.cancel()
                self.open -= 1

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _body(self, request: Request) -> bytes:
        """The body, as far as it may go."""
        most, body = 1024 * self.config.max_request_kib, bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise Refused(413, f"the body is larger than {self.config.max_request_kib} KiB (serve.max_request_kib)")
        return bytes(body)

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
    began = int(time.time())

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
        about = {"id": name, "object": "model", "created": began, "owned_by": "ragdist"}
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{wanted:path}")
    async def model(wanted: str) -> Response:
        if wanted != name:
            return refusal(Refused(404, f"no model {wanted!r} is served here; this is {name!r}", "model"))
        return JSONResponse({"id": name, "object": "model", "created": began, "owned_by": "ragdist"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(desk.gauges.registry), media_type="text/plain; version=0.0.4")

    app.post("/v1/chat/completions", response_model=None)(desk.completions)
    app.exception_handler(404)(partial(_no_such, "no such address"))
    app.exception_handler(405)(partial(_no_such, "not by this method"))
    return app


async def _no_such(why: str, request: Request, _: Exception) -> Response:
    there = "there are POST /v1/chat/completions, GET /v1/models, /health and /metrics"
    text = f"{why}: {request.method} {request.url.path}; {there}"
    return refusal(Refused(404, text))


async def _gone(request: Request) -> None:
    """Returns when nobody waits for the answer any more."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)


def _parsed(body: bytes) -> Asked:
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Refused(400, f"no such field here: {where}", where) from None
        raise Refused(
            400, f"{where}: {first['msg']}" if where else f"the body is no JSON: {first['msg']}", where
        ) from None


def refusal(refused: Refused) -> JSONResponse:
    """A refusal as OpenAI words it."""
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    headers |= {"Retry-After": "1"} if refused.status == 503 else {}
    return JSONResponse(_error(refused), refused.status, headers)


def _error(refused: Refused) -> dict[str, Any]:
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    return {"error": {"message": refused.message, "type": kind, "param": refused.param or None, "code": refused.status}}


def _head(name: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def _choice(answer: Answer, text: str, where: str) -> dict[str, Any]:
    reason = "stop" if answer.ended else "length"
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, where: message, "finish_reason": reason, "logprobs": None}]}


def _delta(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]}


def _extra(answer: Answer) -> dict[str, Any]:
    """Usage, and the field that is ours."""
    asked, new = answer.prompt_tokens, answer.new_tokens
    told = asdict(answer)
    for known in ("question", "text", "prompt_tokens", "new_tokens", "ended"):
        del told[known]
    usage = {"prompt_tokens": asked, "completion_tokens": new, "total_tokens": asked + new}
    return {"usage": usage, "ragdist": told}


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
