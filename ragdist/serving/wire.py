"""Bodies of requests and answers, as OpenAI words them."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ragdist.errors import DataError
from ragdist.serving.service import Answer, Query, Shown, checked
from ragdist.tracking.progress import visible

LONGEST_HISTORY = 256
"""Messages of a request at most."""
MOST_DOCUMENTS = 256
"""Documents of a request at most."""
MOST_STOPS = 16
"""Texts that end an answer, at most: each is looked for after every token."""
SHAPES = re.compile(r"str|GivenDocument|(constrained-)?list.*")
"""What pydantic adds to a place for a shape that it tried there."""


class Refused(Exception):
    """A request that gets no answer, and why."""

    def __init__(self, status: int, message: str, param: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, visible(" ".join(message.split())), visible(param)


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
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
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


def parsed(body: bytes) -> Asked:
    """The request; Refused where it is none."""
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = max(found, key=lambda one: len(one["loc"]))
        where = _place(first["loc"])
        if first["type"] == "extra_forbidden":
            raise Refused(400, f"no such field here: {where}", where) from None
        said = " or ".join(dict.fromkeys(one["msg"] for one in found if _place(one["loc"]) == where))
        raise Refused(400, f"{where or 'the body is no JSON object'}: {said}", where) from None


def _place(parts: tuple[int | str, ...]) -> str:
    """Where something is wrong, without the shapes that were tried there."""
    return ".".join(str(part) for part in parts if not SHAPES.fullmatch(str(part)))[:200]


def error(refused: Refused) -> dict[str, Any]:
    """A refusal's body."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    return {"error": {"message": refused.message, "type": kind, "param": refused.param or None, "code": refused.status}}


def whole(name: str, answer: Answer, not_shown: int) -> dict[str, Any]:
    """The answer in one piece; `not_shown` messages came before the question."""
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": _reason(answer), "logprobs": None}
    return head(name, "chat.completion") | {"choices": [choice]} | _told(answer, not_shown)


def head(name: str, kind: str) -> dict[str, Any]:
    """What all pieces of an answer begin with."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def piece(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    """A piece of a streamed answer."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]}


def end(answer: Answer, not_shown: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last piece of a streamed answer, and the one with its usage."""
    told = _told(answer, not_shown)
    usage = {"choices": [], "usage": told.pop("usage")}
    return piece({}, _reason(answer)) | told, usage


def _reason(answer: Answer) -> str:
    return "stop" if answer.ended else "length"


def _told(answer: Answer, not_shown: int) -> dict[str, Any]:
    """Usage, and the field that is ours."""
    asked, new = answer.prompt_tokens, answer.new_tokens
    told = asdict(answer) | {"messages_not_shown": not_shown}
    for known in ("question", "text", "prompt_tokens", "new_tokens", "ended"):
        del told[known]
    usage = {"prompt_tokens": asked, "completion_tokens": new, "total_tokens": asked + new}
    return {"usage": usage, "ragdist": told}


def event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
