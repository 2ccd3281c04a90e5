"""A model and its tokenizer in the memory of this process."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ragdist.config import LoraConfig, ModelConfig
from ragdist.config.block import digest
from ragdist.config.hardware import native_bfloat16
from ragdist.draws import rng_for
from ragdist.errors import ConfigError, DataError, ModelError, RagdistError, first_line
from ragdist.lm import door
from ragdist.lm.chat import USER, Breaker, Chat, breaker, open_chat, own_words, render
from ragdist.lm.memory import enough, keep_freed_memory
from ragdist.lm.source import adapter_base, resolve
from ragdist.lm.zero import quiet
from ragdist.records import HALVES
from ragdist.roles import Tokens

ModelHead = Literal["CAUSAL_LM", "SEQ_CLS"]
ADAPTER_ALONE = (
    "model.source={!r} is an adapter alone and cannot be trained on; "
    "write it merged (train.lora.merge=true) and train the merged model"
)
THOUGHT = re.compile(r"think|thought|reason|<\|(?:channel|message)\|>", re.IGNORECASE)
"""Special tokens that a decoded text keeps: without them thoughts were part of what is said."""


@dataclass(frozen=True)
class ModelTokenizer:
    """Implements Tokenizer on a transformers tokenizer; pickles."""

    backend: PreTrainedTokenizerBase
    fingerprint: str
    end: int
    spoken: Chat | None
    """None for a tokenizer without a chat template."""
    harmless: Breaker
    thoughts: frozenset[int]
    """Special tokens around what a model thinks."""

    def encode(self, text: str) -> Tokens:
        """Tokens of plain text, no special tokens added. A DataError if it holds half a character."""
        if not text.isascii() and (half := HALVES.search(text)):
            raise DataError(f"a text holds the half character U+{ord(half[0]):04X}; leave it out, and write UTF-8")
        found = self.backend(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return Tokens(found["input_ids"], found["offset_mapping"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, special tokens left out but for those that tell thoughts from what is said."""
        ids = list(ids)
        if marked := not self.thoughts.isdisjoint(ids):
            ids = [number for number in ids if number in self.thoughts or number not in _special(self.backend)]
        return str(self.backend.decode(ids, skip_special_tokens=not marked, clean_up_tokenization_spaces=False))

    def chat(self, user: str, system: str = "") -> str:
        """The conversation in the model's chat template, up to where the answer begins; see `lm.chat`.

        What in the texts looks like the template's own words is broken: no document can end its turn.
        A model without a template gets the system text, a blank line, the user text and a newline.
        """
        system, user = self.harmless(system), self.harmless(user)
        if self.spoken is None:
            first = self.backend("")["input_ids"][:1]
            begin = self.backend.bos_token if first == [self.backend.bos_token_id] else ""
            return begin + "\n\n".join(text for text in (system, user) if text) + "\n"
        return render(self.backend, self.spoken, self.spoken.messages(user, system))


def load_tokenizer(config: ModelConfig) -> ModelTokenizer:
    """The model's own tokenizer as a Tokenizer.

    Raises:
        ModelError: there is no such model, or its tokenizer is absent or gives no character offsets.
    """
    what = f"model.source={config.source!r} has no tokenizer that loads"
    with door.refused(what, "put the base model's tokenizer files into its folder"):
        return _opened(config)


def load_model(config: ModelConfig, *, training: bool = False) -> PreTrainedModel:
    """The model in the settings' number format: for inference on the GPU if there is one, in eval mode.

    A folder with an adapter alone gives its base model with the adapter merged in. For training no device is
    chosen and no weight touched, so that DeepSpeed may shard while it loads.

    Raises:
        ModelError: there is no such model, it does not fit the settings, or it is an adapter and `training` is set.
    """
    folder = resolve(config)
    base = adapter_base(folder)
    if base and training:
        raise ModelError(ADAPTER_ALONE.format(config.source))
    with named(config, "a causal language model"):
        model, missing = read(AutoModelForCausalLM, config, _base(config, base) if base else folder, training=training)
        if missing and not training:  # they would be drawn at random
            raise ValueError(f"its files have no weights of {', '.join(sorted(missing)[:5])}")
        if base:
            model = with_adapter(model, folder)
    loaded: PreTrainedModel = model if training else model.eval()
    return loaded


def dtype_of(config: ModelConfig) -> torch.dtype:
    """The number format of weights and activations on this machine."""
    if config.dtype != "auto":
        return torch.float32 if config.dtype == "float32" else torch.bfloat16
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if native_bfloat16() else torch.float32


def release(model: PreTrainedModel) -> None:
    """Gives the memory of the weights back, whoever still refers to the model: training workers may share its GPU."""
    torch.nn.Module.to(model, "meta")  # transformers' own is typed badly
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def add_lora(model: PreTrainedModel, config: LoraConfig, seed: int = 0, task: ModelHead = "CAUSAL_LM") -> Any:
    """The model with fresh low-rank adapters (a `PeftModel`), or itself at rank 0.

    Args:
        model: changed in place: its own weights are frozen, but for a classifier's score head.
        config: the adapters' shape.
        seed: decides the adapters' first weights.
        task: what the model is for, in peft's words.

    Raises:
        ConfigError: `train.lora.targets` names no module of this model.
    """
    if not config.rank:
        return model
    import peft

    shape = peft.LoraConfig(
        task_type=task,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear" if config.targets == ("all-linear",) else list(config.targets),
    )
    with torch.random.fork_rng():
        torch.manual_seed(rng_for(seed, "lora", "").getrandbits(63))
        try:
            return peft.get_peft_model(model, shape)
        except ValueError as error:
            raise ConfigError(
                f"train.lora.targets={list(config.targets)} does not fit this model: {first_line(error)}"
            ) from None


def read(auto: Any, config: ModelConfig, folder: Path, *, training: bool, **shape_of: Any) -> tuple[Any, set[str]]:
    """The model in `folder`, as the class `auto` of transformers reads it, and the names of its weights that the folder
    does not hold; `training` leaves device and shards to DeepSpeed, `shape_of` changes its configuration."""
    keep_freed_memory()
    options: dict[str, Any] = {"trust_remote_code": _trusted(config), "local_files_only": True}
    shape = AutoConfig.from_pretrained(folder, **shape_of, **options)
    _check_length(config, shape)
    with enough("set model.source to a smaller model, or model.dtype=bfloat16"):
        model, found = auto.from_pretrained(
            folder,
            config=shape,
            dtype=dtype_of(config),
            attn_implementation=config.attention,
            use_safetensors=True,
            device_map="cuda" if torch.cuda.is_available() and not training else None,
            output_loading_info=True,
            **options,
        )
    return model, set(found["missing_keys"])


def with_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter in `folder` merged in.

    Where the adapter changes one of two tied weights (input embedding, output head), they are two from here on, as they
    were when it was trained.
    """
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, str(folder))
    _untie(adapted.get_base_model())
    return adapted.merge_and_unload()


def stop_at(model: Any, end: int) -> None:
    """Lets whoever generates with the saved model stop where its answers end."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    ends = config.eos_token_id
    ends = [*ends] if isinstance(ends, list) else [] if ends is None else [ends]
    if end not in ends:
        config.eos_token_id = [end, *ends]


@contextmanager
def named(config: ModelConfig, wanted: str) -> Iterator[None]:
    """Quietly; whatever the readers of a folder make of its content becomes one sentence with the model's name."""
    try:
        with quiet():
            yield
    except (RagdistError, torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistError):
        raise
    except Exception as error:  # a folder from outside makes its readers raise anything
        raise ModelError(_why_not(config, error, wanted)) from None


def _opened(config: ModelConfig) -> ModelTokenizer:
    folder = _tokenizer_folder(config)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=_trusted(config), local_files_only=True)
    if not tokenizer.is_fast:
        raise ModelError(
            f"model.source={config.source!r} has a tokenizer without character offsets ({type(tokenizer).__name__}); "
            "set model.source to a model with a tokenizer.json"
        )
    spoken = open_chat(tokenizer, config.source)
    end = _end_of_answer(tokenizer, spoken)
    if end is None:
        raise ModelError(f"model.source={config.source!r}: its tokenizer names no token that ends a text (eos_token)")
    harmless = breaker(tokenizer, own_words(tokenizer, spoken))
    made_of = [tokenizer.backend_tokenizer.to_str(), end, harmless.words, harmless.joiner]
    if spoken:
        made_of += [spoken.template, spoken.whole, render(tokenizer, spoken, spoken.messages(USER))]
    thoughts = frozenset(number for number, token in _special(tokenizer).items() if THOUGHT.search(token))
    return ModelTokenizer(tokenizer, digest(made_of), end, spoken, harmless, thoughts)


def _untie(model: Any) -> None:
    """Gives the output head a weight of its own where it shares one and just one of the two has an adapter."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if None in ends:
        return
    first, last = (getattr(end, "base_layer", getattr(end, "original_module", end)) for end in ends)
    if first.weight is not last.weight or all(end is plain for end, plain in zip(ends, (first, last), strict=True)):
        return
    last.weight = torch.nn.Parameter(last.weight.detach().clone(), requires_grad=False)
    for shape in {id(part): part for part in (model.config, model.config.get_text_config())}.values():
        shape.tie_word_embeddings = False


def _trusted(config: ModelConfig) -> bool:
    return bool(config.source) and config.allow_remote_code == config.source


def _why_not(config: ModelConfig, error: Exception, wanted: str) -> str:
    shape = isinstance(error, RuntimeError) and "mismatched" in str(error)
    said = "its weights have another shape" if shape else door.reason(error)
    what = f"model.source={config.source!r} does not load: {said}"
    if "trust_remote_code" in str(error):
        return (
            f"model.source={config.source!r} comes with Python code of its own; "
            f"to run it, set model.allow_remote_code={config.source}"
        )
    if isinstance(error, ImportError) or "ttention" in str(error):
        return f"{what}; install what it asks for, or set model.attention=sdpa (now {config.attention})"
    return f"{what}; set model.source to {wanted}"


def _check_length(config: ModelConfig, shape: Any) -> None:
    longest = shape.get_text_config().to_dict().get("max_position_embeddings")
    if longest and config.max_tokens > longest:
        raise ModelError(
            f"model.max_tokens={config.max_tokens} is more than {config.source!r} can read ({longest}); "
            f"set model.max_tokens={longest} or less"
        )


def _tokenizer_folder(config: ModelConfig) -> Path:
    folder = resolve(config)
    base = adapter_base(folder)
    return _base(config, base) if base and not (folder / "tokenizer_config.json").exists() else folder


def _base(config: ModelConfig, base: str) -> Path:
    """The folder of an adapter's base model."""
    try:
        return resolve(config.at(base))
    except ModelError as error:
        raise ModelError(
            f"model.source={config.source!r} is an adapter for {base!r}, which is not here: {error}; "
            "or correct base_model_name_or_path in its adapter_config.json"
        ) from None


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _end_of_answer(tokenizer: PreTrainedTokenizerBase, spoken: Chat | None) -> int | None:
    """The added token, special or not, that the chat template puts after an answer, else the end of a text."""
    if spoken:
        added = tokenizer.added_tokens_decoder
        for number in tokenizer(spoken.after_answer, add_special_tokens=False)["input_ids"]:
            if number in added and str(added[number]).strip():
                return int(number)
    end: int | None = tokenizer.eos_token_id
    return end
