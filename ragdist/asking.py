"""A finished run, asked: a question, a terminal, HTTP, replicas of a cluster; and the very prompt that it is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragdist import players, results
from ragdist.config import Settings, loader
from ragdist.config.loader import SYSTEMS, Source, flatten, load_kept
from ragdist.errors import ConfigError
from ragdist.parts import Retriever
from ragdist.results import Run
from ragdist.storage.atomic import read_texts
from ragdist.tracking.run import STATE

if TYPE_CHECKING:
    from ragdist.data.prompts import Document
    from ragdist.serving.service import Answer, Service

SERVED = ("serve.", "retrieval.", "evaluation.", "duet.arbiter", "duet.abstain_below", "cluster.", "kube.", "teacher.")
"""Settings that may be others where a finished run is asked."""


def answer(question: str, folder: Path | str, retriever: Retriever | None = None) -> Answer:
    """What a finished run says to a question; arguments as of `open_service`, and raises likewise."""
    from ragdist.serving.service import Query, checked

    with open_service(folder, retriever=retriever) as service:
        return service.ask(Query(question=checked(question, "the question"))).result()


@contextmanager
def open_service(
    folder: Path | str, overrides: Sequence[Source] = (), retriever: Retriever | None = None
) -> Iterator[Service]:
    """A finished run of RAFT, ATM or DuetRAG, open to be asked in this process.

    Args:
        folder: the run's.
        overrides: `key=value` of serve, retrieval, evaluation.max_new_tokens or duet.arbiter.
        retriever: finds what is shown, where the run was made with one of the user's own; what it finds is not kept.

    Raises:
        ConfigError: the folder holds no finished run, or one of another retriever, or an override changes what it was
            trained for.
    """
    folder = Path(folder)
    with players.service(folder, serving_settings(folder, overrides), retriever) as service:
        yield service


def chat(folder: Path, overrides: Sequence[str] = (), as_json: bool = False) -> None:
    """Answers the questions of standard input by a finished run; arguments as of `open_service`."""
    from ragdist.serving import terminal

    settings = serving_settings(folder, overrides)
    with players.service(folder, settings) as service:
        terminal.talk(service, settings.serve.timeout_s, as_json)


def serve(folder: Path, overrides: Sequence[str] = ()) -> None:
    """A finished run over HTTP until the process is told to end; what is under way then is finished.

    Where a cluster is named (`cluster.address`, RAY_ADDRESS), replicas of it answer; else this process.

    Raises:
        ConfigError: as of `open_service`; the port is taken, or the token file cannot be read.
    """
    from ragdist.serving import local

    settings = serving_settings(folder, overrides)
    token = local.token(settings.serve)
    if settings.cluster.address or os.environ.get("RAY_ADDRESS"):
        from ragdist.cluster import serve as replicas

        opened = partial(replica, folder.resolve(), tuple(overrides), local.fingerprint_of(token))
        replicas.run(opened, folder.resolve().name, settings)
        return
    with local.listening(settings.serve) as listener, _application(folder, settings, token) as app:
        local.run(app, listener, folder.resolve().name, settings.serve)


def serve_application(args: dict[str, Any]) -> Any:
    """What Ray Serve starts by the name `ragdist.asking:serve_application`, as in a RayService.

    Args:
        args: `run`, the run's folder as all machines see it, and `settings`, nested values as of `ragdist serve`.

    Raises:
        ConfigError: as of `open_service`.
    """
    from ragdist.cluster import serve as replicas

    folder, overrides = Path(args["run"]), (args.get("settings") or {},)
    settings = serving_settings(folder, overrides)
    return replicas.application(partial(replica, folder, overrides, ""), settings.serve)


@contextmanager
def replica(folder: Path, overrides: Sequence[Source], fingerprint: str) -> Iterator[Any]:
    """As `served` on one of several machines, by the token that is there and has this fingerprint."""
    from ragdist.serving import local

    settings = serving_settings(folder, overrides)
    with _application(folder, settings, local.shared_token(settings.serve, fingerprint)) as app:
        yield app


@contextmanager
def served(folder: Path, overrides: Sequence[Source], token: str) -> Iterator[Any]:
    """The ASGI application of a finished run with its models; arguments as of `open_service`, and requests' token."""
    with _application(folder, serving_settings(folder, overrides), token) as app:
        yield app


@contextmanager
def _application(folder: Path, settings: Settings, token: str) -> Iterator[Any]:
    from ragdist.serving import http

    most = settings.serve.max_new_tokens or settings.answer_tokens
    with players.service(folder, settings) as service:
        yield http.application(service, folder.resolve().name, most, settings.serve, token)


def serving_settings(folder: Path, overrides: Sequence[Source] = ()) -> Settings:
    """A finished run's settings, and what may be changed of them where it is asked; arguments as of `open_service`."""
    state = {"job": "", "state": "not there"}
    if (folder / STATE).exists():
        state = read_texts(folder / STATE, "job", "state")
    if state["job"] not in SYSTEMS or state["state"] != "finished":
        results.refuse_unknown(str(folder))
        found = f"it is {state['job']} and {state['state']}" if state["job"] else "it is no run's folder"
        raise ConfigError(
            f"{folder} holds no finished run of {', '.join(SYSTEMS)}: {found}; `ragdist runs` lists those that are "
            "there, `ragdist demo` makes one"
        )
    kept = load_kept(folder / "settings.yaml")
    changed = loader.resolve(loader.nested(overrides, kept.model_dump(mode="json")))
    asked = flatten(changed)
    other = [key for key, value in flatten(kept).items() if asked[key] != value and not key.startswith(SERVED)]
    if other:
        raise ConfigError(f"{', '.join(other)} cannot change after training; here may change {', '.join(SERVED)}")
    return changed


def prompt(question: str, documents: Sequence[Document], run: Run | Settings | Path | str) -> str:
    """The very text that a run's model is trained on and asked, in its chat template; an answer comes next.

    Documents are cut to fit beside an answer into `model.max_tokens`, as in evaluation. Its tokens are those of the
    text with no special token added (`add_special_tokens=False`).

    Args:
        question: in words.
        documents: in the order they are shown: texts, pairs (title, text), or dicts with text and perhaps title; an
            empty list is the closed book.
        run: a run or its folder, or settings.

    Raises:
        ConfigError: the folder holds no run.
        DataError: a document is none of these, or the question is too long.
    """
    from ragdist.data import prompts

    settings = run if isinstance(run, Settings) else _settings_of(Path(run.folder if isinstance(run, Run) else run))
    shown = [prompts.shown_as(document) for document in documents]
    limit, room = settings.model.max_tokens, settings.answer_tokens
    return prompts.prompt_text(question, shown, players.tokenizer(settings), settings.prompts, limit, room)


def _settings_of(folder: Path) -> Settings:
    """Those that a run kept, its tuned model's tokenizer being that of `model.source`."""
    if not (folder / "settings.yaml").exists():
        raise ConfigError(f"{folder} holds no run; name one as `ragdist runs` lists it, or give settings")
    settings = load_kept(folder / "settings.yaml")
    tuned = folder / "model"
    return settings.unchecked("model", settings.model.at(tuned)) if tuned.is_dir() else settings
