"""A run in a terminal: a question a line, and its answer as it is written. `ragdist chat`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from ragdist.errors import DataError
from ragdist.serving.service import Answer, Query, Service, checked
from ragdist.tracking.progress import visible

PROMPT = "\n> "


def talk(service: Service, timeout_s: float, as_json: bool = False) -> None:
    """Answers the questions of standard input until it ends: answers on stdout, documents on stderr.

    Args:
        service: who answers.
        timeout_s: longest wait for an answer, in seconds.
        as_json: an answer is a line of JSON, with all that is known of it.
    """
    for line in _questions():
        try:
            question = checked(line, "the question")
            pending = service.ask(Query(question=question), None if as_json else _write)
            answer = pending.result(timeout_s)
        except (DataError, TimeoutError) as error:
            sys.stderr.write(f"{visible(str(error)) or f'no answer within {timeout_s:g} s'}\n")
            continue
        if as_json:
            sys.stdout.write(visible(json.dumps(asdict(answer), ensure_ascii=False)) + "\n")
        else:
            sys.stdout.write("\n")
            sys.stderr.write(visible(about(answer)) + "\n")
        sys.stdout.flush()


def about(answer: Answer) -> str:
    """Where an answer comes from, in lines."""
    lines = [f"  [{place}] {one.title or one.text[:60]}" for place, one in enumerate(answer.documents, start=1)]
    if not lines:
        lines = ["  no document has anything in common with the question: answered without"]
    lines += [f"  {name}: {side.answer}" + _sure(side.confidence) for name, side in answer.sides.items()]
    if answer.chosen:
        lines.append(f"  taken from: {answer.chosen}")
    if answer.abstains:
        lines.append("  the arbiter abstains: it is less sure of this answer than duet.abstain_below")
    if not answer.sides:
        lines.append(f"  confidence {answer.confidence:.2f}" if answer.confidence is not None else "")
    return "\n".join(filter(None, lines))


def _sure(confidence: float | None) -> str:
    return "" if confidence is None else f" ({confidence:.2f})"


def _questions() -> Iterator[str]:
    """The lines of standard input, but for empty ones; on a terminal each is asked for."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  # gives `input` a history

    sys.stderr.write("A question a line; each stands alone, what was said before is not shown. Ctrl-D ends.\n")
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            return
        if line:
            yield line


def _write(piece: str) -> None:
    sys.stdout.write(visible(piece))
    sys.stdout.flush()
