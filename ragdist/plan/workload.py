"""How much there is to do: rows, tokens, optimizer steps, a teacher's tokens and money, time.

From the settings alone these are bounds, and marked as such. `Here` is told to look into the run folder of this
machine: there rows are counted where the data pipeline has finished the stage that these settings want, and speed is
what an earlier run of the same model measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ragdist.config import ModelConfig, PromptsConfig, Settings, strict
from ragdist.config.data import WORDING
from ragdist.errors import RagdistError
from ragdist.storage.atomic import read_json, write_json
from ragdist.storage.stages import CARD, ROWS, card_of
from ragdist.tracking.run import versions

TOKENIZERS = "codecs.json"
"""Beside the stages: the fingerprint of each model's tokenizer."""
TAUGHT = ("asked", "taught", "reasoned")
"""Stages that the teacher's settings name, where others are named by those of prompts."""
Sources = Mapping[str, str]
"""What the chunks or questions were made from, by name: as stages note it in `inputs`."""


@dataclass(frozen=True, slots=True)
class Here:
    """Leave to look at what `run.folder` on this machine holds; without it nothing depends on that."""

    sources: Sources | None = None
    """Of these settings, where they are known; a stage made from others is not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCount:
    """Training rows, counted or bounded."""

    rows: int | None
    """None where nothing bounds it."""
    tokens: int | None
    """Of all rows together."""
    longest: int
    """Tokens of the longest row."""
    answer: int
    """Tokens of the longest answer, the end token included."""
    stage: str = ""
    """Folder that they were counted in; empty: rows and lengths are bounds, none is larger."""

    @property
    def exact(self) -> bool:
        return bool(self.stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCalls:
    """What a teacher will read and write at most."""

    calls: int
    read: int
    written: int
    usd: float
    """By the two prices; 0 without prices."""
    why: str


def examples(settings: Settings, here: Here | None = None, train: int | None = None) -> RowCount:
    """RAFT's training rows; where they are not made, at most one for each of `train` questions."""
    found = _finished(settings, "examples", here)
    return _counted(found) if found else _bounded(settings, train)


def open_questions(settings: Settings, here: Here | None) -> int | None:
    """Questions that ATM trains on; None where their stage is not finished."""
    return _rows_of("open-train", settings, here) or None


def speed(settings: Settings) -> tuple[float, str] | None:
    """Useful tokens a second that an earlier run measured, and its folder; None where there is none.

    The run had this model in this number format, these workers with these GPUs, and a machine like this one.
    """
    machine = versions()["machine"]
    for state in sorted(Path(settings.run.folder).glob("*/state.json"), key=lambda path: -path.stat().st_mtime):
        folder = state.parent
        try:
            ran = strict.parse((folder / "settings.yaml").read_text(), "")
            same = (
                read_json(state)["job"] == "raft"
                and read_json(folder / "versions.json")["machine"] == machine
                and ran["model"]["source"] == settings.model.source
                and ran["model"]["dtype"] == settings.model.dtype
                and ran["cluster"].items() <= settings.cluster.model_dump(mode="json").items()
            )
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] if same else []
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RagdistError):
            continue  # half-written, or a run of another version: nothing to learn from
        found = [line["useful_tokens_per_s"] for line in lines if "useful_tokens_per_s" in line]
        if found:
            return statistics.median(found), str(folder)
    return None


def teacher(settings: Settings, here: Here | None = None) -> TeacherCalls | None:
    """What the teacher may be asked at most; None where nobody is, or where nothing bounds it.

    A reply is no longer than `teacher.max_new_tokens`, a chunk no longer than `chunks.tokens`; a verdict is asked of
    each document that is shown. What is in the response cache already is not taken off.
    """
    config, shown = settings.teacher, settings.contexts.documents
    if not (config.questions_per_chunk or config.reasoning or config.judge):
        return None
    chunks = (config.chunks or _rows_of("chunks", settings, here)) if config.questions_per_chunk else 0
    asked = chunks * config.questions_per_chunk
    own = settings.questions.train_rows + settings.questions.test_rows  # of the data, where they are capped
    questions = asked or (own if settings.questions.train_rows else _rows_of("questions", settings, here))
    if not questions:
        return None
    tokens = settings.chunks.tokens
    answers = asked + (questions if config.reasoning and not asked else 0)
    calls = {
        "questions": (chunks, tokens + _words(config.ask)),
        "answers": (answers, shown * tokens + _words(config.answer)),
        "repairs": (answers, shown * tokens + _words(config.repair) + config.max_new_tokens),
        "verdicts": (questions * shown if config.judge else 0, tokens + _words(config.verdict)),
    }
    number = sum(count for count, _ in calls.values())
    read = sum(count * each for count, each in calls.values())
    written = number * config.max_new_tokens
    usd = (read * config.usd_per_million_read + written * config.usd_per_million_written) / 1e6
    why = ", ".join(f"{count:,} {name}" for name, (count, _) in calls.items() if count)
    return TeacherCalls(calls=number, read=read, written=written, usd=usd, why=why)


def _rows_of(stage: str, settings: Settings, here: Here | None) -> int:
    """Rows of a finished stage; 0 where it is not finished."""
    found = _finished(settings, stage, here)
    return int((card_of(found) or {"rows": 0})["rows"]) if found else 0


def _words(prompt: str) -> int:
    """Tokens of a prompt, roughly: four characters each, and a question's worth more."""
    return len(prompt) // 4 + 64


def _counted(folder: Path) -> RowCount:
    tokens = longest = answer = rows = 0
    with (folder / ROWS).open() as lines:
        for line in lines:
            row = json.loads(line)
            length = len(row["tokens"])
            rows, tokens, longest = rows + 1, tokens + length, max(longest, length)
            answer = max(answer, length - row["prompt_tokens"])
    return RowCount(rows=rows, tokens=tokens, longest=longest, answer=answer, stage=str(folder))


def _bounded(settings: Settings, train: int | None) -> RowCount:
    rows, longest = train or settings.questions.train_rows or None, settings.model.max_tokens
    answer = min(longest // 2, settings.answer_tokens)
    return RowCount(rows=rows, tokens=rows and rows * longest, longest=longest, answer=answer)


def note_tokenizer(folder: Path, model: ModelConfig, fingerprint: str) -> None:
    """Remembers the fingerprint of a model's tokenizer, which is in the name of all that is in its tokens.

    Of two processes that note one at once, the later has the last word; the other model is noted with its next run.
    """
    known = _tokenizers(folder)
    if known.get(_named(model)) != fingerprint:
        write_json(folder / TOKENIZERS, known | {_named(model): fingerprint})


def _tokenizers(folder: Path) -> dict[str, str]:
    return dict(read_json(folder / TOKENIZERS)) if (folder / TOKENIZERS).exists() else {}


def _named(model: ModelConfig) -> str:
    return f"{model.source}@{model.revision}"


def _finished(settings: Settings, stage: str, here: Here | None) -> Path | None:
    """The folder of the newest finished stage of this name that these settings would find again."""
    if here is None:
        return None
    data = Path(settings.run.folder) / "data"
    finished = (card for card in data.glob(f"{stage}-*/{CARD}") if card.parent.suffix != ".tmp")
    cards = sorted(finished, key=lambda path: -path.stat().st_mtime)
    tokenizer = _tokenizers(data).get(_named(settings.model), "")
    return next((card.parent for card in cards if _is_of(card.parent, settings, tokenizer, here.sources)), None)


def _is_of(folder: Path, settings: Settings, tokenizer: str, sources: Sources | None) -> bool:
    """Whether this stage and all those before it were made with what these settings say."""
    if (card := card_of(folder)) is None:
        return False
    blocks = [settings.corpus, settings.chunks, settings.questions, settings.retrieval, settings.contexts]
    blocks.append(settings.teacher if card["name"] in TAUGHT else settings.prompts)
    blocks = [settings.corpus] if card["name"] == "documents" else blocks  # another block has a `near_duplicates` too
    now = {key: value for block in blocks for key, value in block.model_dump(mode="json").items()}
    now |= {"seed": settings.seed, "max_tokens": settings.model.max_tokens, "codec": tokenizer}
    now.pop("embedder", None)  # a stage has its fingerprint
    said = card["settings"]
    if "system" in said:  # rows, which say nothing of wording that is as it always was
        said = PromptsConfig().model_dump(mode="json", include=WORDING) | said
    if any(said[key] != now[key] for key in said.keys() & now.keys()):
        return False
    before = [next(folder.parent.glob(f"*-{made_by}/{CARD}"), None) for made_by in card["inputs"].values()]
    if not any(before) and card["name"] != "questions":  # it is made from the world outside
        return sources is None or dict(sources) == card["inputs"]
    return all(_is_of(found.parent, settings, tokenizer, sources) for found in before if found)
