"""What an OpenAI-compatible endpoint answers, read and judged: a reply, another try, or the end.

200, a chat completion                                            a Reply
200, anything else; 408, 409, 425, 429, 5xx                       Again, when the endpoint says or a pause later
400, 413, 422 about an option that the model does not take        NotTaken
other 400, 413, 422: too long, filtered                           Refused
401, 403, 404, quota, a wait beyond the deadline                  TeacherError
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ragdist.config import TeacherConfig
from ragdist.errors import RagdistError, TeacherError
from ragdist.records import Reply, Request

BUSY, REFUSED = {408, 409, 425, 429}, {400, 413, 422}
QUOTA = "insufficient_quota"
TOO_LONG_OR_FILTERED = re.compile(r"context.{0,9}(length|size|window)|too (long|large|many)|filter|policy|safety", re.I)
NOT_KNOWN = re.compile(r"unsupported|not supported|unknown|unrecognized|not permitted|not allowed|extra", re.I)


THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Where endpoints put what a model thought, beside its answer."""


class Again(RagdistError):
    """This try failed in a way that another may not."""

    after_s: float | None = None
    """What the endpoint asked to wait, in seconds; None leaves it to us."""


class NotTaken(RagdistError):
    """The model does not take an option; the message is the option's name."""


class Refused(RagdistError):
    """This request is refused, whenever it is asked."""

    certain = False
    """Whether it is the request's own fault, by what the endpoint says."""


def options(request: Request, left_out: Iterable[str]) -> dict[str, float]:
    """How the reply is to be written, in the endpoint's words, less what its model does not take."""
    wanted = {"max_tokens": request.max_new_tokens, "temperature": request.temperature, "seed": request.seed}
    if "max_tokens" in left_out:
        wanted["max_completion_tokens"] = wanted["max_tokens"]
    return {name: value for name, value in wanted.items() if name not in left_out}


def parse(request: Request, said: Any) -> Reply:
    """The reply in a chat completion.

    Raises:
        Again: what was said is none.
    """
    try:
        choice, usage = said["choices"][0], said.get("usage") or {}
        message = choice["message"]
        text, refusal = _written(message.get("content")), message.get("refusal")
        thought = any(message.get(name) for name in THOUGHTS)
        read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        reason = choice.get("finish_reason")
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Again(f"a body that is no chat completion: {str(said)[:80]!r}") from None
    failed = "content filter" if reason == "content_filter" else "refused by the model" if refusal else ""
    if thought and not text.strip() and not failed:
        failed = f"it thought and did not answer ({reason}); raise teacher.max_new_tokens"
    text = "" if failed else text
    return Reply(id=request.id, text=text, ended=reason != "length", read=read, written=written, failed=failed)


def judge(
    status: int, headers: Mapping[str, str], said: str, asked: Mapping[str, float], config: TeacherConfig
) -> RagdistError:
    """What an error means; to be raised.

    Args:
        status: of HTTP.
        headers: of the answer.
        said: the endpoint's message, without the key.
        asked: the options that were sent.
        config: for people: address, model, knobs.
    """
    where = f"{config.url} says {status}: {said}"
    if status in (401, 403):
        return TeacherError(f"{where}; set the environment variable {config.key_variable} to a key that it takes")
    if status == 404:
        return TeacherError(f"{where}; check teacher.url and teacher.model={config.model!r}")
    if QUOTA in said:
        return TeacherError(f"{where}; the account is used up, replies so far are kept")
    if status in BUSY or status >= 500:
        return _later(where, headers, config)
    if status in REFUSED:
        return _refused(where, said, asked)
    return TeacherError(f"{where}; check teacher.url")


def _written(content: Any) -> str:
    """The text of a message, which may come in parts; parts that are no text, such as thoughts, are none of it."""
    if isinstance(content, list):
        parts = (part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text"))
        return "".join(str(part.get("text") or "") for part in parts)
    return content if isinstance(content, str) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait, given as milliseconds, seconds or a date; None if it does not ask."""
    try:
        if "retry-after-ms" in headers:
            return float(headers["retry-after-ms"]) / 1000
        value = headers.get("retry-after", "").strip()
        if re.fullmatch(r"\d+(\.\d*)?", value):
            return float(value)
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except ValueError:
        return None


def _later(where: str, headers: Mapping[str, str], config: TeacherConfig) -> RagdistError:
    again = Again(where)
    again.after_s = retry_after(headers)
    if again.after_s is not None and again.after_s > config.deadline_s:
        return TeacherError(
            f"{where} and asks to wait {again.after_s:.0f} s, longer than teacher.deadline_s={config.deadline_s:g}; "
            "replies so far are kept: try the same command then, or raise teacher.deadline_s"
        )
    return again


def _refused(where: str, said: str, asked: Mapping[str, float]) -> RagdistError:
    if NOT_KNOWN.search(said):
        for name in asked:
            if re.search(rf"\b{name}\b", said):
                return NotTaken(name)
    refused = Refused(where)
    refused.certain = bool(TOO_LONG_OR_FILTERED.search(said))
    return refused
