"""All defences by name: ragdist's own, and those that installed packages bring (entry points `ragdist.defences`)."""

from __future__ import annotations

from collections.abc import Sequence

from ragdist.data.defences import own
from ragdist.data.defences.plugin import Defence
from ragdist.data.plugins import Kind

OWN = {defence.name: defence for defence in own.DEFENCES}
ALL = "all"
"""Stands for all defences in `evaluation.defences`."""
KIND = Kind(
    "defence",
    Defence,
    "ragdist.data.defences",
    OWN,
    lambda defence: [(defence.name == ALL, "has a name that means something else in settings")],
    lambda defence, _: defence,  # prompts alone name what is kept, so its version names nothing
)
names, named, every = KIND.names, KIND.named, KIND.every


def chosen(wanted: Sequence[str]) -> list[Defence]:
    """Those of `evaluation.defences`, each once; raises as `named`."""
    found = [one for name in wanted for one in (every() if name == ALL else [named(name)])]
    return list({defence.name: defence for defence in found}.values())
