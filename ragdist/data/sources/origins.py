"""What the data of a settings file is made from, without reading it."""

from __future__ import annotations

from pathlib import Path

from ragdist.config import CorpusConfig
from ragdist.data.sources import apidocs, corpus, places
from ragdist.errors import RagdistError


def made_from(config: CorpusConfig, folder: str) -> dict[str, str] | None:
    """What the data is made from, as its first stage notes it; None where this machine cannot tell."""
    if not any((Path(folder) / "data").glob("*/stage.json")):
        return None  # nothing is there to be compared
    try:
        if config.source == "apidocs":
            return apidocs.versions(config.packages)
        if config.source == "folder":
            return {"files": places.digest(corpus.found(config))}
        if config.source == "records":
            return {"questions": places.digest(map(places.at, config.questions))}
    except RagdistError:
        return None  # the data lies elsewhere; a job that needs it here says so
    return None
