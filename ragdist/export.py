"""Models and training data in the forms that others take: a folder, and from there the Hugging Face hub.

export_model("runs/demo", Path("out"))                          a plain transformers folder, adapters merged
export_model("runs/lora", Path("out"), form="adapter", base="HuggingFaceTB/SmolLM2-135M-Instruct")
export_model("runs/demo", Path("out"), form="gguf")             one file for llama.cpp and Ollama, and a Modelfile
push(Path("out"), "me/my-model", "model", private=True)
"""

from __future__ import annotations

import contextlib
import io
import os.path
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ragdist.config import ModelConfig, Settings, strict
from ragdist.config.loader import load_kept
from ragdist.data import prompts
from ragdist.errors import ConfigError, ModelError, StorageError
from ragdist.storage.atomic import (
    atomic_folder,
    copy_linked,
    make_folder,
    make_readable,
    read_json,
    read_texts,
    translate_errors,
    write_json,
)
from ragdist.tracking import card
from ragdist.tracking.card import CARD
from ragdist.tracking.progress import say

ModelForm = Literal["merged", "adapter", "gguf"]
KEPT = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "README.md", "LICENSE*", "NOTICE*")
"""What of a model's folder is exported; checkpoints, optimizers and Python code are not."""
NO_CARD = "---\ntags: [ragdist]\n---\n\nExported by ragdist.\n"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported."""

    folder: Path | None
    url: str
    """Of the repository on the hub; empty without one."""
    about: dict[str, Any]
    """Form of a model, counts of data."""


def export_model(source: str, to: Path, form: ModelForm = "merged", base: str = "") -> dict[str, Any]:
    """Writes a new folder `to` with the model, its tokenizer and its card; returns what it wrote.

    Args:
        source: a run's folder, whose tuned model it is; or any model that `model.source` takes.
        to: a folder that is not there yet, or empty.
        form: merged: a whole model, an adapter merged in at float32 and stored in its base's number format;
            adapter: the adapter alone; gguf: the whole model as one file, and a Modelfile.
        base: hub id under which others find the base model, for the card and the adapter; empty keeps what they name.

    Raises:
        ModelError: there is no such model, a file of it is a link to elsewhere, an adapter is asked for and the model
            is whole, or the model is of a kind that cannot be written as GGUF.
        StorageError: `to` holds something, or cannot be written.
    """
    from ragdist.lm.source import adapter_base, resolve

    with new_folder(to) as half:
        config = ModelConfig(source=str(_model_of(source)), max_tokens=64)  # nothing is read: any model is long enough
        folder = resolve(config)
        _refuse_links(folder)
        is_adapter = bool(adapter_base(folder))
        if form == "adapter" and not is_adapter:
            raise ModelError(
                f"{source} is a whole model, its adapter was merged in when it was saved; export it with --form "
                "merged, or train with train.lora.rank>0 and train.lora.merge=false"
            )
        if form == "gguf":
            _gguf(source, config, folder, half)
        elif is_adapter and form == "merged":
            _merge(config, folder, half)
        else:
            for path in _kept(folder):
                shutil.copy2(path, half / path.name)
        if form == "adapter" and base:
            adapter = half / "adapter_config.json"
            write_json(adapter, {**read_json(adapter), "base_model_name_or_path": base, "revision": None})
        readme = folder / CARD
        text = readme.read_text("utf-8", "replace") if readme.exists() else NO_CARD
        (half / CARD).write_text(_card(text, form, base))
    return {"form": form}


def hand_on(
    write: Callable[[Path], dict[str, Any]], to: Path | None, hub: str, kind: Literal["model", "dataset"], private: bool
) -> Exported:
    """What `write` puts into a folder: kept at `to`, uploaded as `hub`, or both.

    Raises:
        ConfigError: neither place is given.
    """
    if to is None and not hub:
        raise ConfigError("an export needs a place; give --to FOLDER, or --hub owner/name, or both")
    with tempfile.TemporaryDirectory(prefix="ragdist-export-") as spare:
        folder = to or Path(spare) / kind
        about = write(folder)
        if hub and kind == "model":
            check_public(folder)
        url = push(folder, hub, kind, private) if hub else ""
    return Exported(to, url, about)


def check_public(folder: Path) -> None:
    """Whether others can load what is in this folder.

    Raises:
        ModelError: it is an adapter whose base model is known on this machine only.
    """
    adapter = folder / "adapter_config.json"
    named = read_json(adapter)["base_model_name_or_path"] if adapter.exists() else ""
    if named and (not HUB_ID.fullmatch(named) or Path(named).exists()):
        raise ModelError(
            f"the adapter names its base model {named!r}, which nobody else has; give --base owner/name, the hub id of "
            "the same model, or export with --form merged"
        )


def push(folder: Path, name: str, kind: Literal["model", "dataset"], private: bool) -> str:
    """The address on the hub of a repository that now holds this folder's files; made if it is not there.

    Args:
        folder: uploaded as it is.
        name: owner/name.
        kind: of repository.
        private: nobody else may see it; a repository that is there already must be private then.

    Raises:
        StorageError: the hub cannot be reached or refuses, or the repository is public and `private` is set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # public, though mypy does not see it

    api = HfApi()
    try:
        repository = api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
        if private and not api.repo_info(name, repo_type=kind).private:
            raise StorageError(f"{name} is a public repository and --private is set; make it private or name another")
        say(f"uploading {folder} to {repository.url}")
        api.upload_folder(repo_id=name, folder_path=folder, repo_type=kind, commit_message="Exported by ragdist")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(
            f"the hub did not take {name!r} ({type(error).__name__}: {reason}); log in with `hf auth login` or set "
            "HF_TOKEN, check --hub owner/name and the network"
        ) from None
    return repository.url


def publish(model: Path, target: Path, settings: Settings) -> None:
    """The generator under its own name, with its card: an adapter is merged as `generator.train.lora` says, else files
    are shared with the round's folder where the disk can."""
    if target.exists():
        return
    base = settings.generator.source or settings.model.source
    told = f"Tuned by ragdist from `{base}` in {settings.atm.rounds} rounds against an attacker."
    lora = settings.generator.train.lora
    with atomic_folder(target) as half:
        if lora.rank and lora.merge:
            from ragdist.lm.save import write_merged

            write_merged(model, half, settings)
        else:
            copy_linked(model, half)
        make_readable(half)
        (half / CARD).write_text(card.begun("ATM", base, told, settings, ("model", "atm", "generator", "seed")))


def describe(model: Path, run: Path, settings: Settings, scores: Sequence[Mapping[str, Any]]) -> None:
    """Writes into the card of a tuned model how it is asked and what it scored."""
    from ragdist.lm.load import load_tokenizer

    config, tokenizer = settings.prompts, load_tokenizer(settings.model.at(model))
    wrapper, chat = prompts.wrapper_of(config), tokenizer.spoken
    shown = [prompts.Shortened(f"{{title {number}}}", f"{{text {number}}}") for number in (1, 2)]
    special = {str(token) for token in tokenizer.backend.added_tokens_decoder.values() if token.special}
    asking = card.Asking(
        example=prompts.renderer("{question}", tokenizer, config)(shown),
        config=config,
        instructions=prompts.instructions(config),
        marks=wrapper.marks.pattern,
        between=wrapper.between.pattern if wrapper.between else "",
        joiner=wrapper.joiner,
        words=tuple(word for word in tokenizer.harmless.words if word not in special),
        breaker=tokenizer.harmless.joiner,
        chat=chat is not None,
        folded=bool(chat and chat.folded),
        parts=bool(chat and chat.parts),
        begin=tokenizer.chat("x").removesuffix("x\n"),
        max_tokens=settings.model.max_tokens,
        answer_tokens=settings.answer_tokens,
        end=tokenizer.end,
    )
    card.conclude(model, str(run), asking, scores)


@contextlib.contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A folder beside `to` to write into; it gets its name when the block ends well, else nothing is left.

    Raises:
        StorageError: `to` holds something, or cannot be written.
    """
    to = Path(os.path.abspath(to))  # `.` and `..` have no name to write beside
    fix = "give --to another place"
    with translate_errors(to, fix):
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise StorageError(f"{to} is there already and not empty; give --to a folder that is not there yet")
        make_folder(to.parent, fix)
        with atomic_folder(to) as half:
            yield half
            make_readable(half)


def _model_of(source: str) -> str | Path:
    """The tuned model of a run's folder; anything else as it is."""
    if not (Path(source) / "state.json").exists():
        return source
    if not (Path(source) / "model").is_dir():
        state = read_texts(Path(source) / "state.json", "state")["state"]
        raise ModelError(
            f"the run in {source} is {state} and has no tuned model; let `ragdist train` finish it, or name a model"
        )
    return Path(source) / "model"


def _kept(folder: Path) -> set[Path]:
    return {path for pattern in KEPT for path in folder.glob(pattern)}


def _refuse_links(folder: Path) -> None:
    """Holds a folder from outside to its own files, or a snapshot of the hub's cache to those of its repository."""
    root = (folder.parent.parent if folder.parent.name == "snapshots" else folder).resolve()
    for path in sorted(_kept(folder)):
        if not path.resolve().is_relative_to(root):
            raise ModelError(
                f"{path} is a link to {path.resolve()}, outside the model's folder, which would be exported with it; "
                "put the file itself there, or remove the link"
            )


def _gguf(source: str, config: ModelConfig, folder: Path, to: Path) -> None:
    from ragdist.lm import door, gguf
    from ragdist.lm.load import load_tokenizer
    from ragdist.lm.source import adapter_base

    kept, tokenizer = Path(source) / "settings.yaml", load_tokenizer(config)
    with tempfile.TemporaryDirectory(prefix="ragdist-merged-", dir=to.parent) as spare:
        whole = folder
        if adapter_base(folder):
            whole = Path(spare)
            _merge(config, folder, whole)
        with door.refused(f"{source} cannot be written as GGUF", gguf.OTHERWISE), translate_errors(to.parent):
            gguf.write(whole, tokenizer, to)
            longest = read_json(whole / "config.json")["max_position_embeddings"]
    settings = load_kept(kept) if kept.exists() else None
    tokens, system = (settings.model.max_tokens, settings.prompts.system_closed) if settings else (longest, "")
    said = gguf.modelfile(tokenizer, tokens, system, settings.answer_tokens if settings else 0)
    (to / gguf.MODELFILE).write_text(said)


def _merge(config: ModelConfig, adapter: Path, to: Path) -> None:
    from transformers import AutoConfig

    from ragdist.lm.load import load_model, load_tokenizer, stop_at
    from ragdist.lm.source import adapter_base, resolve
    from ragdist.lm.zero import prepare, quiet

    prepare()  # saving imports deepspeed
    whole = resolve(config.replaced("source", adapter_base(adapter)))
    stored: Any = AutoConfig.from_pretrained(whole, local_files_only=True).dtype
    merged, tokenizer = load_model(config.replaced("dtype", "float32")), load_tokenizer(config)
    stop_at(merged, tokenizer.end)
    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # its bar heeds no switch
        merged.to(stored or merged.dtype).save_pretrained(to)  # type: ignore[arg-type]
        tokenizer.backend.save_pretrained(to)


def _parted(text: str) -> tuple[dict[str, Any], str]:
    """Head and body of a card; of a head that is none, as a stranger may leave it, nothing stays."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not match:
        return {}, text
    try:
        head = strict.parse(match[1], CARD)
    except ConfigError as error:
        say(f"the head of the model's card is left out: {error}")
        head = None
    return head if isinstance(head, dict) else {}, text[match.end() :]


def _card(text: str, form: ModelForm, base: str) -> str:
    """The model's card with a head that the hub takes: its base by hub id, or not named in the head."""
    head, body = _parted(text)
    old = head.pop("base_model", "")
    if base and isinstance(old, str) and old:
        body = body.replace(old, base)
    named = base or old
    if isinstance(named, str) and HUB_ID.fullmatch(named) and not Path(named).exists():
        head["base_model"] = named
        head["base_model_relation"] = "adapter" if form == "adapter" else "finetune"
    head["library_name"] = {"adapter": "peft", "gguf": "gguf"}.get(form, "transformers")
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{body}"
