"""Which column of a question file is which: as `corpus.columns` says, else by the names that others give them.

question, query, user_input (ragas), prompt, instruction, messages (chat)
answers, ground_truth (ragas), reference, answer, output, response, completion
documents, contexts, ctxs, positive_ctxs (DPR), reference_contexts, retrieved_contexts (ragas)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

from ragdist.config import ColumnsConfig
from ragdist.errors import DataError
from ragdist.tracking.progress import say_once

CHATS = ("messages", "conversations", "conversation")
USUAL = {
    "question": ("question", "query", "user_input", "prompt", "instruction", "question_text", "input", "q"),
    "answers": (
        *("answers", "ground_truth", "ground_truths", "gold_answer", "gold_answers", "reference_answer"),
        *("reference", "answer", "expected_answer", "expected_output", "references", "target", "output"),
        *("response", "completion", "a"),
    ),
    "reasoning": ("long_answer", "reasoning", "rationale"),
}
"""Names by what they hold, in the order in which they are tried: what is right before what a model said."""
GIVEN = ("documents", "document", "contexts", "context", "ctxs", "passages", "passage")
KINDS = {
    **dict.fromkeys((*GIVEN, "retrieved_contexts", "retrieved_documents"), ""),
    **dict.fromkeys(("positive_ctxs", "positive_passages", "reference_contexts", "gold_contexts"), "golden"),
    **dict.fromkeys(("negative_ctxs", "hard_negative_ctxs", "negative_passages", "distractors"), "distractor"),
}
"""Columns of documents, and of which kind those are that do not say so; empty: golden is what holds an answer."""
NAMES = ("documents", "document", "document_name", "file", "files", "file_name", "filename", "source_file")
"""Columns that name documents of a folder."""
USERS, ASSISTANTS = ("user", "human"), ("assistant", "gpt", "model")
FORMS = 8
"""Sets of columns in one file that are told of; a file of objects may have a new one in each row."""
ALIKE = 0.6
OTHERS = ("dataset", "wrong_answers", "meta")
"""Read under these names only."""


class NoColumn(DataError):
    """A question file has no column of a kind that it needs."""


class Taken(NamedTuple):
    """Where each part of a row stands. Example: Taken("query", "ground_truth", "id", "", "split", (("ctxs", ""),))."""

    question: str
    answers: str
    id: str
    reasoning: str
    split: str
    documents: tuple[tuple[str, str], ...]
    """Columns, and the kind of their documents."""


class Columns:
    """Finds the columns of one file. A column that was found for one row is that of all others which have it; names
    that the settings set hold, whatever else is there. `names_only`: documents are named, as with
    `corpus.source=folder`."""

    def __init__(self, file: str, config: ColumnsConfig, *, names_only: bool) -> None:
        self._file, self._config, self._names_only = file, config, names_only
        self._known: dict[tuple[str, ...], Taken] = {}
        self._first: dict[str, str] = {}

    def of(self, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], Taken]:
        """The row, a chat's first question and reply in columns of their own, and where everything stands. NoColumn if
        no row so far has one with a question or with answers."""
        row = _parted(row)
        keys = tuple(row)
        if (taken := self._known.get(keys)) is None:
            taken = self._take(keys)
            if len(self._known) < FORMS:
                self._known[keys] = taken
                self._tell(keys, taken)
        return row, taken

    def _take(self, there: tuple[str, ...]) -> Taken:
        config = self._config
        documents: list[tuple[str, str]] = [(config.documents, "")]
        if config.documents not in there and config.documents == ColumnsConfig().documents:
            kinds = dict.fromkeys(NAMES, "golden") if self._names_only else KINDS
            documents = [(name, kinds[_plain(name)]) for name in there if _plain(name) in kinds]
        return Taken(
            question=self._needed("question", there),
            answers=self._needed("answers", there),
            id=config.id,
            reasoning=self._found("reasoning", there) or config.reasoning,
            split=config.split,
            documents=tuple(documents),
        )

    def _found(self, part: str, there: tuple[str, ...]) -> str:
        """The column that holds this part, or held it in an earlier row; empty if there is none."""
        name = getattr(self._config, part)
        if name in there or name != getattr(ColumnsConfig(), part):
            found = name if name in there else ""
        elif self._first.get(part) in there:
            return self._first[part]
        else:
            by_name = {_plain(key): key for key in reversed(there)}
            found = next((by_name[usual] for usual in USUAL[part] if usual in by_name), "")
            role = {"question": "user", "answers": "assistant"}.get(part, "")
            found = found or next((key for key in there if key.endswith(f"[{role}]")), "")
        self._first |= {part: found} if found else {}
        return found

    def _needed(self, part: str, there: tuple[str, ...]) -> str:
        if found := self._found(part, there) or self._first.get(part):
            return found
        name = getattr(self._config, part)
        near = nearest([name, *USUAL[part]], there)
        setting = quote(f"corpus.columns.{part}={near or 'NAME'}")
        raise NoColumn(
            f"no column {name!r} for the {part.removesuffix('s')} (nor another usual name); the columns are "
            f"{listed(there)}; set {setting}" + (" (the nearest)" if near else "")
        )

    def _tell(self, there: tuple[str, ...], taken: Taken) -> None:
        """Says once in the life of a process what was taken, where a name is not the setting's own."""
        parts = [("question", taken.question), ("answer", taken.answers)]
        parts += [("documents", name) for name, _ in taken.documents]
        parts += [("reasoning", taken.reasoning)] * (taken.reasoning in there)
        parts = [(part, name) for part, name in parts if name in there]
        config = self._config
        if {name for _, name in parts} <= {config.question, config.answers, config.documents, config.reasoning}:
            return
        used = {name.partition("[")[0] for _, name in parts} | {taken.id, taken.split, *OTHERS}
        unread = [name for name in there if name.partition("[")[0] not in used]
        line = f"{self._file}: {', '.join(f'{part} from `{name}`' for part, name in parts)}"
        line += f"; not read: {listed(unread)}" if unread else ""
        say_once(line)


def nearest(wanted: Sequence[str], there: Iterable[str]) -> str:
    """The name that is most like one of those wanted; empty if none is like it."""
    likeness = {name: max(difflib.SequenceMatcher(None, _plain(name), one).ratio() for one in wanted) for name in there}
    best = max(likeness, key=likeness.__getitem__, default="")
    return best if best and likeness[best] >= ALIKE else ""


def listed(names: Iterable[str]) -> str:
    """The names as a person reads them, twenty at most."""
    found = [f"`{name:.60}`" for name in names]
    return (", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")) or "none"


def _plain(name: str) -> str:
    """`Ground Truth` as ground_truth."""
    return re.sub(r"[\s-]+", "_", str(name).strip().casefold())


def _parted(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose chats are a question and a reply: `messages[user]` and `messages[assistant]`; a prompt or completion
    that is a list of messages is what its first one says."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if not _is_chat(value):
            continue
        if _plain(name) in CHATS:
            found |= {f"{name}[user]": _first_of(value, USERS), f"{name}[assistant]": _first_of(value, ASSISTANTS)}
        else:
            found[name] = _first_of(value, USERS) or _first_of(value, ASSISTANTS)
    return {**row, **found} if found else row


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and _role(m) for m in value)


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role", message.get("from"))
    return role.casefold() if isinstance(role, str) and ("content" in message or "value" in message) else ""


def _first_of(messages: list[Mapping[str, Any]], roles: tuple[str, ...]) -> str | None:
    """What the first message of one of these roles says; the texts of one in parts together."""
    for message in messages:
        if _role(message) in roles:
            said = message.get("content", message.get("value"))
            if isinstance(said, list):
                said = "\n".join(part["text"] for part in said if isinstance(part, Mapping) and "text" in part)
            return said if isinstance(said, str) else None
    return None
