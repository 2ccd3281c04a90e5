"""What an OpenAI-compatible endpoint answers, read and judged: a reply, another try, or the end.

200, a chat completion                                            a Reply
200, anything else; 408, 409, 425, 429, 5xx                       Again, when the endpoint says or a pause later
400, 413, 422 about an option that the model does not take        NotTaken
other 400, 413, 422: too long, filtered                           Refused
3xx, 401, 403, 404, quota, a wait beyond the deadline             TeacherError
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from ragdist.config import TeacherConfig
from ragdist.errors import RagdistError, TeacherError
from ragdist.records import Reply, Request

BUSY, REFUSED = {408, 409, 425, 429}, {400, 413, 422}
QUOTA = "insufficient_quota"
TOO_LONG_OR_FILTERED = re.compile(r"context.{0,9}(length|size|window)|too (long|large|many)|filter|policy|safety", re.I)
NOT_KNOWN = re.compile(
    r"unsupported|not? (support|permit|allow|accept)|(n't|not) (support|accept|allow|permit)|unknown|unrecogni[sz]ed"
    r"|extra|\bonly\b|\bmust be\b|invalid",
    re.I,
)
MOST_TOKENS = 1_000_000_000
"""Of one reply; what says more, or less than none, says nothing."""


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


def parse(request: Request, said: Any, shown: Callable[[str], str] = str) -> Reply:
    """The reply in a chat completion.

    Args:
        request: what was asked.
        said: the body.
        shown: what of the endpoint's words a person may see.

    Raises:
        Again: what was said is none.
    """
    try:
        choice, usage = said["choices"][0], said.get("usage") or {}
        message = choice["message"]
        text, refusal = _written(message.get("content")), message.get("refusal")
        thought = any(message.get(name) for name in THOUGHTS)
        read, written = _cost(usage.get("prompt_tokens"), usage.get("completion_tokens"))
        reason = choice.get("finish_reason")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        raise Again(f"a body that is no chat completion: {shown(str(said))[:80]!r}") from None
    failed = "content filter" if reason == "content_filter" else "refused by the model" if refusal else ""
    if thought and not text.strip() and not failed:
        failed = f"it thought and did not answer ({reason}); raise teacher.max_new_tokens"
    text = "" if failed else text
    return Reply(id=request.id, text=text, ended=reason != "length", read=read, written=written, failed=failed)


def judge(
    status: int,
    headers: Mapping[str, str],
    said: str,
    asked: Mapping[str, float],
    config: TeacherConfig,
    shown: Callable[[str], str] = str,
) -> RagdistError:
    """What an error means; to be raised.

    Args:
        status: of HTTP.
        headers: of the answer.
        said: the endpoint's message as it came, so that no key, as short as it may be, hides what it means.
        asked: the options that were sent.
        config: for people: address, model, knobs.
        shown: what of the endpoint's words a person may see.
    """
    where = f"{config.url} says {status}: {shown(said)}"
    if 300 <= status < 400:
        to = urlsplit(urljoin(config.url, headers.get("location", "")))
        place = shown(f"{to.scheme}://{to.hostname}{to.path}".removesuffix("/chat/completions"))
        return TeacherError(
            f"{config.url} says {status} and points to {place}, where no prompt is sent unasked; set teacher.url to "
            "the endpoint's own address"
        )
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
        return "".join(map(_part, content))
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError


def _part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
        return str(part.get("text") or "")
    return part if isinstance(part, str) else ""


def _cost(read: Any, written: Any) -> tuple[int, int]:
    """Tokens read and written; nothing of both where one cannot be: a budget goes by sums, and never back."""
    counts = [0 if count is None else int(count) for count in (read, written)]
    return (counts[0], counts[1]) if all(0 <= count <= MOST_TOKENS for count in counts) else (0, 0)


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
    if NOT_KNOWN.search(said) and not TOO_LONG_OR_FILTERED.search(said):
        for name in asked:
            if re.search(rf"\b{name}\b", said):
                return NotTaken(name)
    refused = Refused(where)
    refused.certain = bool(TOO_LONG_OR_FILTERED.search(said))
    return refused
