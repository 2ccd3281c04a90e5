"""Renders a chat template in a process of its own, which an endless or greedy one ends instead of ours.

    python -I template_trial.py < {"template": ..., "seconds": 10, "conversations": [...], "names": {...}}

Exits with MEMORY, SIZE, or by SIGALRM; 0 says that it came to an end, by an error or not. Nothing of ragdist or of
transformers is imported: both take seconds, and this is done for each tokenizer that is opened.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY, SIZE = 3, 4
MOST_BYTES = 1 << 30
"""Of memory, above what Python takes."""


class Generation(Extension):
    """`{% generation %}` around what a model says, as transformers has it."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        """What stands in the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def longest(characters: int) -> int:
    """Characters that a conversation of so many may become."""
    return (1 << 20) + 10 * characters


def _fails(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _try(template: str, conversations: list[Any], names: dict[str, Any]) -> int:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_fails, strftime_now=datetime(2024, 7, 26).strftime)
    try:
        made = environment.from_string(template)
        for messages in conversations:
            size = len(json.dumps(messages))
            for begin in (True, False):
                with suppress(
                    jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError
                ):
                    said = made.render(messages=messages, add_generation_prompt=begin, **names)
                    if len(said) > longest(size):
                        return SIZE
    except MemoryError:
        return MEMORY
    except Exception:  # what is wrong with it is said where it is rendered for good
        return 0
    return 0


def main() -> int:
    """How the template on stdin comes to an end."""
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    signal.setitimer(signal.ITIMER_REAL, asked["seconds"])
    return _try(asked["template"], asked["conversations"], asked["names"])


if __name__ == "__main__":
    sys.exit(main())
