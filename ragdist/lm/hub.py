"""A model of the Hugging Face hub in the local cache: only the files that are wanted, fetched once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ragdist.errors import ModelError, first_line
from ragdist.lm.zero import quiet
from ragdist.tracking.progress import say


def snapshot(source: str, revision: str = "", *, wanted: Sequence[str], unwanted: Sequence[str], knob: str) -> Path:
    """The folder of the model's newest snapshot, of the cached one where the hub cannot be reached.

    Args:
        source: owner/name, perhaps with @revision.
        revision: commit, tag or branch, where the source names none; empty is the newest.
        wanted: patterns of files to fetch.
        unwanted: patterns of files not to.
        knob: the setting that named it, for errors.

    Raises:
        ModelError: neither the hub nor the cache has it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name, _, named = source.partition("@")

    def fetch(offline: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=named or revision or None,
                allow_patterns=list(wanted),
                ignore_patterns=list(unwanted),
                local_files_only=offline,
            )
        )

    try:
        with quiet():
            try:
                fetch(offline=True)
            except LocalEntryNotFoundError:
                say(f"downloading {source} from the hub")
            return fetch(offline=False)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = first_line(error)
        raise ModelError(
            f"{knob}={source!r} is no folder here, and the hub did not give it ({type(error).__name__}: {reason}); "
            f"correct {knob}, set it to a folder, or check the network"
        ) from None
