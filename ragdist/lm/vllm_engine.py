"""vLLM in a process of its own, started and asked by `lm.vllm_writer`.

What arrives and leaves are tuples: a word, then what it is about; the very first are the options of vLLM's EngineArgs.
The process ends with whoever started it, whose end of the connection closes then.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ragdist.errors import first_line


class Asked(NamedTuple):
    """A text to be written."""

    number: int
    """Names it."""
    tokens: tuple[int, ...]
    """Of the prompt."""
    seed: int
    """Of its draws."""


class Finished(NamedTuple):
    """A text that is written."""

    number: int
    tokens: list[int]
    """The new ones, the end token included."""
    logprobs: list[float]
    """In nats, where they were asked for."""


class Engine:
    """Does what arrives, a method for each word."""

    def __init__(self, options: dict[str, Any]) -> None:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.inner = LLMEngine.from_engine_args(EngineArgs(**options))
        self.adapter: Any = None
        self.adapters = 0
        """That were there so far."""
        self.under_way: set[str] = set()

    def write(self, asked: Sequence[Asked], sampling: dict[str, Any]) -> None:
        """Begins these texts; `step` goes on with them."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for text in asked:
            how = SamplingParams(seed=text.seed, output_kind=RequestOutputKind.FINAL_ONLY, detokenize=False, **sampling)
            prompt = {"prompt_token_ids": list(text.tokens)}
            self.inner.add_request(str(text.number), prompt, how, lora_request=self.adapter)
            self.under_way.add(str(text.number))

    def step(self) -> list[Finished]:
        """A token more for the texts that are under way; those that it finished."""
        outs: list[Any] = [out for out in self.inner.step() if out.finished]
        self.under_way -= {out.request_id for out in outs}
        return [Finished(int(out.request_id), *_tokens(out.outputs[0])) for out in outs]

    def stop(self) -> None:
        """Lets go of the texts that are under way."""
        self.inner.abort_request([*self.under_way])
        self.under_way.clear()

    def reload(self, folder: str) -> None:
        """The model in `folder` from here on."""
        self.adapter = None
        self.inner.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._forget()

    def adapt(self, folder: str) -> None:
        """The adapter in `folder` from here on, under a number that none had before."""
        from vllm.lora.request import LoRARequest

        if self.adapter:
            self.inner.remove_lora(self.adapter.lora_int_id)
        self.adapters += 1
        self.adapter = LoRARequest(f"adapter-{self.adapters}", self.adapters, folder)
        self.inner.add_lora(self.adapter)
        self._forget()

    def sleep(self) -> None:
        """Weights to the machine's memory; keys and values are let go."""
        self.inner.sleep()

    def wake(self) -> None:
        """Back again."""
        self.inner.wake_up()

    def _forget(self) -> None:
        """Lets go of what is kept of prompts that other weights read."""
        if not self.inner.reset_prefix_cache():
            raise RuntimeError("texts are under way while weights change")


def _tokens(out: Any) -> tuple[list[int], list[float]]:
    found = zip(out.token_ids, out.logprobs or (), strict=False)
    return list(out.token_ids), [float(row[token].logprob) for token, row in found]


def serve(pipe: Connection) -> None:
    """Does what arrives until the other end is closed."""
    engine = Engine(pipe.recv())
    pipe.send(("done",))
    try:
        while True:
            while pipe.poll(0 if engine.under_way else None):
                word, *about = pipe.recv()
                getattr(engine, word)(*about)
                if word != "write":
                    pipe.send(("done",))
            if finished := engine.step():
                pipe.send(("texts", finished))
    finally:
        engine.inner.engine_core.shutdown()


def main(number: int) -> None:
    """Serves the connection with this file descriptor; what goes wrong is said to the other end."""
    pipe = Connection(number)
    try:
        serve(pipe)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # whoever asked is gone
    except Exception as error:  # vLLM's are of any kind; it goes to whoever asked, as an EngineError
        pipe.send(("failed", f"{type(error).__name__}: {first_line(error)}"))
