"""A whole RAG service under attack: it gets the documents, honest and forged, and the questions alone.

For the honest corpus, then for each attack: the corpus is written to a folder, a command has the service read it, every
question is asked. In the end the files go, and the command is called once more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ragdist.config import Settings
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
    service: RagService,
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
