"""Question files by a data set's name on the hub: `hf://owner/name`, fetched once and kept as `datasets` saves it.

    hf://owner/name            hf://owner/name/configuration            hf://owner/name@revision

No code of a repository is run: its data files are fetched, and `datasets` reads those as the repository's card says.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from ragdist.errors import ConfigError
from ragdist.storage.atomic import atomic_folder
from ragdist.tracking.progress import say

SCHEME = "hf"
FORM = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:/([\w.-]+))?(?:@([\w./-]+))?")
KINDS = ("parquet", "arrow", "json", "jsonl", "csv", "tsv", "txt", "gz", "zst", "zip")
PATTERNS = ["README.md", *(f"{'**/' * deep}*.{kind}" for kind in KINDS for deep in (0, 1))]


@cache
def folder_of(address: str) -> Path:
    """The folder that holds the data set, as `save_to_disk` writes it; fetched if it is not there.

    Example: folder_of("hf://rajpurkar/squad") == Path("~/.cache/huggingface/ragdist/rajpurkar--squad-7b6d24c4...")

    Raises:
        ConfigError: it is no such address, the hub does not have it or cannot be reached, or it holds nothing that
            `datasets` reads without a script.
    """
    if not (found := FORM.fullmatch(address)):
        raise ConfigError(
            f"{address!r} names no data set; wanted hf://owner/name, hf://owner/name/configuration or "
            "hf://owner/name@revision in corpus.questions"
        )
    repository, configuration, revision = found.groups()
    from datasets import load_dataset
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HOME

    try:
        say(f"{repository} from the hub ...")
        files = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=PATTERNS)
        name = "-".join(filter(None, (repository.replace("/", "--"), configuration, Path(files).name)))
        kept = Path(HF_HOME) / "ragdist" / name
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(kept) as half:
                load_dataset(files, configuration).save_to_disk(half)
    except Exception as error:  # the clients' errors have no base in common, and the way out is the same
        why = " ".join(str(error).split())
        raise ConfigError(
            f"corpus.questions={address}: the data set cannot be had ({type(error).__name__}: {why:.300}); see whether "
            "it exists and HF_TOKEN may read it, or download it and name its files"
        ) from None
    return kept
