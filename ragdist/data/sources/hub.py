"""Public benchmarks by name: fetched from the hub once, or read from a copy, and kept in the form of question files.

What is fetched lies in the hub client's own cache (`HF_HOME`), so a second run needs no network. The client's variables
hold: `HF_TOKEN`, `HF_ENDPOINT` for a mirror, `HF_HUB_OFFLINE`. No code of a repository is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ragdist.config import CorpusConfig
from ragdist.data.sources import places
from ragdist.data.sources.files import READ_ERRORS, Broken, fit, json_lines
from ragdist.data.sources.public import BENCHMARKS
from ragdist.data.sources.public_rows import Benchmark, PublicRow
from ragdist.errors import ConfigError, DataError
from ragdist.storage.stages import Counted
from ragdist.tracking.progress import progress, say

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Copy(NamedTuple):
    """A benchmark's files on this machine. Example: Copy(folder=Path("..."), commit="1908d6af...", files=[...])."""

    folder: Path
    commit: str
    """Of the repository; empty for a copy that does not tell."""
    files: list[tuple[Path, str]]
    """(path, split), in the order of their names within a split, training first."""


def named(config: CorpusConfig) -> Benchmark:
    """The benchmark that is asked for. A ConfigError if none is, or it is not on the hub and no copy is named."""
    if not config.benchmark:
        raise ConfigError(f"corpus.source=benchmark needs a name; set corpus.benchmark to {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[config.benchmark]
    if not (benchmark.on_hub or config.folder):
        raise ConfigError(
            f"corpus.benchmark={config.benchmark} is not on the hub; make a copy, and set corpus.folder to it: "
            f"{_by_hand(benchmark)}"
        )
    return benchmark


def brings_forged(config: CorpusConfig) -> bool:
    """Whether the data may bring documents that mislead."""
    return config.source == "records" or (config.source == "benchmark" and named(config).forged)


def judges(config: CorpusConfig) -> bool:
    """Whether the data is a benchmark that has test questions alone."""
    return config.source == "benchmark" and set(named(config).files.values()) == {"test"}


def made_by(config: CorpusConfig) -> dict[str, str]:
    """What a benchmark's rows are named by: its name and revision, or the files of a copy."""
    benchmark = named(config)
    if not config.folder:
        return {"benchmark": config.benchmark, "repository": benchmark.repository, "revision": config.revision}
    files = [path for path, _ in find(benchmark, Path(config.folder)).files]
    every = [one for path in files for one in (path, *(benchmark.beside(path) if benchmark.beside else ()))]
    return {"benchmark": config.benchmark, "files": places.digest(places.at(str(path)) for path in every)}


def read(config: CorpusConfig) -> Counted[PublicRow]:
    """The benchmark's rows, each question once; counted are the repository with its resolved commit, the licence, whom
    to cite, and what was left out. A ConfigError if no benchmark is named, or the hub does not have it or cannot be
    reached; a DataError for files of another form (and `corpus.broken` is stop)."""
    benchmark = named(config)
    copy = find(benchmark, Path(config.folder)) if config.folder else _fetch(benchmark, config)
    counts = {"repository": benchmark.repository, "commit": copy.commit or "unknown"}
    counts |= {"licence": benchmark.licence, "citation": benchmark.citation}
    repeated, unused, seen, policy = 0, 0, set[str](), Broken(config.broken, [])
    for path, split in copy.files:
        rows = (benchmark.rows or _rows)(path, policy)
        for where, row in progress(fit(rows, policy), f"rows of {path.name}"):
            try:
                found = benchmark.read(row, path.name)
            except (KeyError, TypeError, AttributeError, ValueError, IndexError, DataError) as error:
                problem = f"has no column {error}" if isinstance(error, KeyError) else str(error)
                policy.add(where, f"{problem}; if {benchmark.repository} has changed, set corpus.revision to a commit")
                continue
            unused += found is None
            if found and found.id not in seen:
                seen.add(found.id)
                yield replace(found, split=split)
            elif found:
                repeated += 1
    return {**counts, "repeated": repeated, "unused": unused, "broken": policy.named}


def find(benchmark: Benchmark, folder: Path, commit: str = "") -> Copy:
    """The benchmark's files below a folder that is laid out as its repository is.

    Where none is for testing, all splits are left to a draw. A ConfigError if there is none.
    """
    files = [(path, split) for pattern, split in benchmark.files.items() for path in sorted(folder.glob(pattern))]
    if not files:
        whose = "the hub's " if benchmark.on_hub else ""
        raise ConfigError(
            f"{folder} holds none of {', '.join(benchmark.files)}; corpus.folder must be a copy of "
            f"{whose}{benchmark.repository}: {_by_hand(benchmark)}"
        )
    if not any(split == "test" for _, split in files):
        files = [(path, "") for path, _ in files]
    return Copy(folder, commit or _commit_of(folder, files[0][0]), files)


def _fetch(benchmark: Benchmark, config: CorpusConfig) -> Copy:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    say(f"{config.benchmark}: {benchmark.repository} from the hub ({benchmark.licence})")
    patterns = [*benchmark.files, "README.md"]
    try:
        folder = Path(
            snapshot_download(
                benchmark.repository, repo_type="dataset", revision=config.revision or None, allow_patterns=patterns
            )
        )
    except RevisionNotFoundError:
        raise ConfigError(
            f"{benchmark.repository} has no revision {config.revision!r}; set corpus.revision to a commit, tag or "
            "branch of it, or leave it empty for the newest"
        ) from None
    except Exception as error:  # the client's errors have no base in common, and the way out is the same
        why = " ".join(str(error).split()).partition(". ")[0]
        raise ConfigError(
            f"corpus.benchmark={config.benchmark}: {benchmark.repository} cannot be fetched from the hub ({why:.200}); "
            f"without network, make a copy where there is one and set corpus.folder to it: {_by_hand(benchmark)}"
        ) from None
    return find(benchmark, folder, folder.name)


def _by_hand(benchmark: Benchmark) -> str:
    if not benchmark.on_hub:
        return f"`git clone {benchmark.repository} FOLDER`"
    patterns = " ".join(f"--include '{pattern}'" for pattern in benchmark.files)
    return f"`hf download {benchmark.repository} --repo-type dataset {patterns} --local-dir FOLDER`"


def _commit_of(folder: Path, file: Path) -> str:
    """The commit that the hub's client noted beside a file that it fetched into a folder, or that of a clone; empty if
    neither tells."""
    if _COMMIT.fullmatch(folder.name):
        return folder.name
    if (head := folder / ".git" / "HEAD").is_file():
        at = head.read_text().strip()
        branch = folder / ".git" / at.removeprefix("ref: ")
        at = branch.read_text().strip() if branch.is_file() else at
        return at if _COMMIT.fullmatch(at) else ""
    note = folder / ".cache" / "huggingface" / "download" / f"{file.relative_to(folder)}.metadata"
    first = note.read_text().split("\n")[0].strip() if note.is_file() else ""
    return first if _COMMIT.fullmatch(first) else ""


def _rows(path: Path, broken: Broken) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a file. JSON lines are read by ourselves: the rows of APIBench differ in type, which `datasets`
    refuses, and Tevatron's repositories hold a script, which it refuses too."""
    if path.suffix != ".parquet":
        yield from json_lines(places.at(str(path)), broken)
        return
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        rows = Dataset.from_parquet(str(path), streaming=True)
        yield from ((f"{path}, row {number}", dict(row)) for number, row in enumerate(rows, start=1))
    except (*READ_ERRORS, ValueError, DatasetGenerationError) as error:
        broken.add(str(path), f"cannot be read as parquet ({error})")
