"""A whole RAG service under attack: it gets the documents, honest and forged, and the questions alone.

For the honest corpus, then for each attack: the corpus is written to a folder and a command has the service read it, or
it is sent over HTTP; every question is asked. In the end the files go and the command is called once more, or the
service is told to forget.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from ragdist.config import Settings
from ragdist.config.address import is_address
from ragdist.data.pipeline import Pipeline
from ragdist.errors import ConfigError, PartError
from ragdist.evaluation import suite
from ragdist.evaluation.ask import ask_cases, kept_predictions
from ragdist.evaluation.cases import Case, by_question
from ragdist.evaluation.suite import Listed
from ragdist.records import ChatPrompt, Forgery, Prediction, Question, content_id
from ragdist.roles import Answerers
from ragdist.storage.atomic import atomic_folder, make_folder, translate_errors
from ragdist.tracking.progress import say

HONEST = "retrieved"
"""The condition of the corpus that nobody attacks."""
OURS, MARK = "ragdist-suite", ".ragdist"
FIX = "give --corpus-to another folder"
AT_ONCE = 1000
"""Documents of one POST."""
TIMEOUT_S = 600
"""For one call of a service that takes documents, which may have to index them."""
TOKEN = "RAGDIST_CORPUS_TOKEN"
"""Environment variable with the token of such a service."""


class Service(Protocol):
    """A RAG service that can be given a corpus."""

    @property
    def source(self) -> str:
        """Its address as of a model, perhaps `LABEL=ADDRESS`."""

    def held(self) -> AbstractContextManager[None]:
        """Leaves nothing there in the end."""

    def show(self, attack: str, documents: Iterable[Listed]) -> None:
        """Gives it these documents in place of those before, and returns when it has read them."""


@dataclass(frozen=True, slots=True)
class HookedService:
    """A service that takes its corpus over HTTP. Example: HookedService("http://host/v1", "http://host/corpus").

    POST adds documents, a line of JSON {id, title, text} for each, and is answered when they can be found; DELETE
    removes all that were added. A ConfigError where that is no address.
    """

    source: str
    """An address as of a model, perhaps `LABEL=ADDRESS`."""
    corpus: str

    def __post_init__(self) -> None:
        if not is_address(self.corpus):
            raise ConfigError(f"--corpus-to must be a folder or http(s)://host/path without a key; it goes in {TOKEN}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Has the service forget in the end."""
        try:
            yield
        finally:
            try:
                self._call("DELETE")
            except PartError as error:
                say(f"the service may still hold forged documents: {error}")

    def show(self, attack: str, documents: Iterable[Listed]) -> None:
        """See `Service`. A PartError if it does not answer, or refuses."""
        self._call("DELETE", attack)
        rows = ({"id": content_id(one.id), "title": one.title, "text": one.text} for one in documents)
        while part := [json.dumps(row) for row in islice(rows, AT_ONCE)]:
            self._call("POST", attack, "\n".join(part))

    def _call(self, method: str, attack: str = "", body: str = "") -> None:
        at, token = urlsplit(self.corpus), os.environ.get(TOKEN, "").strip()
        headers = {"Content-Type": "application/x-ndjson", "X-Ragdist-Attack": attack}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        kind = HTTPSConnection if at.scheme == "https" else HTTPConnection
        try:
            with closing(kind(at.netloc, timeout=TIMEOUT_S)) as connection:
                connection.request(method, at._replace(scheme="", netloc="").geturl() or "/", body, headers)
                status = connection.getresponse().status
        except (OSError, HTTPException, ValueError) as error:
            raise PartError(f"{method} {self.corpus} failed ({error or type(error).__name__})") from error
        if not (200 <= status < 300 or (method, status) == ("DELETE", 404)):
            raise PartError(f"{method} {self.corpus} was answered with {status}, wanted 200; its log says why")


@dataclass(frozen=True, slots=True)
class RagService:
    """A service with the folder that it reads. Example: RagService("http://host/v1", Path("docs"), "curl -X POST ...").

    Documents are text files in a folder of their own in there, the title on the first line.
    """

    source: str
    """An address as of a model, perhaps `LABEL=ADDRESS`."""
    folder: Path
    command: str = ""
    """A shell's, called after each change, with RAGDIST_CORPUS and RAGDIST_ATTACK; empty waits for Enter."""

    @property
    def ours(self) -> Path:
        """Where the documents are."""
        return self.folder / OURS

    @contextmanager
    def held(self) -> Iterator[None]:
        """Leaves nothing there in the end. A ConfigError where something else is there."""
        if self.ours.exists() and not (self.ours / MARK).exists():
            raise ConfigError(f"{self.ours} is there already and not of ragdist; move it, or {FIX}")
        try:
            yield
        finally:
            if self.ours.exists():
                shutil.rmtree(self.ours, ignore_errors=True)
                if self.ours.exists() or (self.command and self._call("")):
                    say(f"the service may still hold forged documents: look at {self.ours}, and have it read again")

    def show(self, attack: str, documents: Iterable[Listed]) -> None:
        """Puts these documents there, and returns when the service has read them.

        Raises:
            ConfigError: nobody can say when it has.
            PartError: the command failed.
            StorageError: the folder cannot be written.
        """
        if not (self.command or sys.stdin.isatty()):
            raise ConfigError("nobody can say when the service has read the corpus; give --then COMMAND")
        make_folder(self.folder, FIX)
        with translate_errors(self.folder, FIX):
            shutil.rmtree(self.ours, ignore_errors=True)
            with atomic_folder(self.ours) as half:
                (half / MARK).touch()
                for one in documents:  # names tell no forged one from others
                    said = f"{' '.join(one.title.splitlines())}\n{one.text}\n"
                    (half / f"{content_id(one.id)}.txt").write_text(said, "utf-8", "backslashreplace")
        if not self.command:
            say(f"{self.ours} holds the corpus ({attack}); press Enter when the service has read it")
            sys.stdin.readline()
        elif code := self._call(attack):
            raise PartError(f"--then {self.command!r} ended with {code} at the corpus of {attack}; see what it said")

    def _call(self, attack: str) -> int:
        told = os.environ | {"RAGDIST_CORPUS": str(self.ours), "RAGDIST_ATTACK": attack}
        return subprocess.run(self.command, shell=True, env=told, stdout=subprocess.DEVNULL, check=False).returncode


class Phase(NamedTuple):
    """One corpus with all that is asked of it."""

    name: str
    documents: Sequence[Listed]
    cases: list[Case]


def phases(pipeline: Pipeline, questions: Sequence[Question], settings: Settings) -> list[Phase]:
    """The honest corpus, and that of each attack: all its forgeries about these questions beside all honest documents.

    Raises:
        ConfigError: no attack is named, or the grid, for which a service has no lists.
    """
    plan = suite.plan_of(settings)
    if plan.cells or not plan.attacks:
        raise ConfigError("a service is asked under attacks by name; give --attack NAME, and no --grid")
    written = suite.forged(plan, pipeline, questions)
    named = {HONEST: [*pipeline.chunks]} | {name: [*pipeline.chunks, *rows] for name, rows in written.items()}
    found = {HONEST: {q.id: () for q in questions}} | {name: by_question(rows) for name, rows in written.items()}
    return [Phase(name, shown, _cases(name, questions, shown, found[name])) for name, shown in named.items()]


def _cases(
    name: str, questions: Sequence[Question], shown: Sequence[Listed], forged: Mapping[str, Sequence[Forgery]]
) -> list[Case]:
    corpus = content_id(*(one.id for one in shown))
    return [
        Case(
            id=(id := f"{name}/{question.id}"),
            condition=name,
            question_id=question.id,
            documents=(),
            oracle_ids=(),
            wrong=tuple(dict.fromkeys(one.states for one in forged[question.id] if one.states)),
            prompt=ChatPrompt(id=id, tokens=(), system="", user=question.text, corpus=corpus),
            answer=(),
        )
        for question in questions
        if question.id in forged
    ]


def ask(
    service: Service,
    named: tuple[str, str],
    found: Sequence[Phase],
    questions: Sequence[Question],
    answerers: Answerers,
    folder: Path,
    settings: Settings,
) -> list[Prediction]:
    """The service's answers in all phases; what an earlier call was answered is not asked again.

    Args:
        service: where its documents go.
        named: its label in reports, and its address.
        found: what is asked.
        questions: those of the phases.
        answerers: who calls it.
        folder: keeps the answers, a folder for each phase.
        settings: as of `ask_cases`.
    """
    label, source = named
    asked = [replace(question, oracle_ids=()) for question in questions]  # nobody knows what it finds
    predictions = list[Prediction]()
    with service.held(), ExitStack() as until:
        opened = cache(lambda: until.enter_context(answerers.open(source)))
        for name, documents, cases in found:
            about = (cases, asked, folder / name, settings)
            kept = kept_predictions(label, [source], *about)
            if kept is None:
                service.show(name, documents)
                kept = ask_cases(label, [source], opened(), *about)
            predictions += kept
    return predictions
